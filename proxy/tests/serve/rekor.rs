//! A Rekor v1 log: entries proven and kept, lies found out, requests handed on.

use std::{fs, path::Path, thread};

use tempfile::TempDir;
use tile_proxy::rekor_v1::api::{Entry, LogInfo};

use crate::{
    find, size_of,
    world::{
        Answer, ED25519, Proxy, RekorLog, RekorServer, Response, Upstream, cache_directory,
        eventually, request,
    },
};

pub(crate) const LOG: &str = "api/v1/log";
pub(crate) const V1: &str = "  kind: rekor-v1\n";

/// A log of one shard with this many entries, and a proxy that follows it.
pub(crate) fn honest(entries: usize, more: &str) -> (RekorLog, Upstream, TempDir, Proxy) {
    let log = RekorLog::with_entries(entries);
    let upstream = Upstream::rekor(RekorServer::of(&log));
    let cache = cache_directory();
    let proxy = follow(&upstream.url(), &log, cache.path(), &format!("{V1}{more}"));
    (log, upstream, cache, proxy)
}

pub(crate) fn follow(url: &str, log: &RekorLog, cache: &Path, more: &str) -> Proxy {
    let proxy = start(url, log, cache, more);
    eventually("the log is followed", || {
        proxy.get("/api/v1/log").status == 200
    });
    proxy
}

fn start(url: &str, log: &RekorLog, cache: &Path, more: &str) -> Proxy {
    let key = cache.join("log.pem");
    fs::write(&key, log.pem()).expect("written");
    Proxy::start(url, &format!("file:{}", key.display()), cache, more)
}

fn by_uuid(log: &RekorLog, index: usize) -> String {
    format!("{LOG}/entries/{}", log.uuid(index))
}

pub(crate) fn by_index(index: u64) -> String {
    format!("{LOG}/entries?logIndex={index}")
}

pub(crate) fn get(proxy: &Proxy, path: &str) -> Response {
    proxy.get(&format!("/{path}"))
}

/// The entry in an answer, which must be one.
pub(crate) fn entry(response: &Response) -> Entry {
    assert_eq!(response.status, 200, "{}", response.text());
    Entry::parse(&response.body).expect("an entry")
}

pub(crate) fn tree_size(proxy: &Proxy) -> u64 {
    let info = proxy.get("/api/v1/log");
    assert_eq!(info.status, 200, "{}", info.text());
    LogInfo::parse(&info.body)
        .expect("a tree head")
        .active
        .tree_size
}

fn lies_counted(proxy: &Proxy, kind: &str) -> f64 {
    proxy.metric(&format!(
        "tile_proxy_verify_failures_total{{kind=\"{kind}\",log=\"default\",upstream=\"127.0.0.1\"}}"
    ))
}

#[test]
fn an_entry_is_fetched_once_and_served_by_every_name_also_when_the_log_is_gone() {
    let (log, upstream, cache, proxy) = honest(20, "");
    let uuid = log.uuid(3).to_string();
    let names = [
        by_uuid(&log, 3),
        format!("{LOG}/entries/{}", &uuid[16..]),
        format!("{LOG}/entries/{}", uuid.to_uppercase()),
        by_index(3),
    ];
    let first = get(&proxy, &names[0]);
    let served = entry(&first);
    assert_eq!(served.body, log.entry(3, 20).body);
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(first.header("cache-control"), Some("no-cache"));
    let etag = first.header("etag").expect("a tag").to_owned();
    eventually("it is kept", || {
        !find(cache.path(), &format!("{}.json", &uuid[16..])).is_empty()
    });
    for name in &names {
        let again = get(&proxy, name);
        assert_eq!(again.body, first.body, "{name}");
    }
    let known = proxy.send(
        "GET",
        &format!("/{}", names[0]),
        &format!("If-None-Match: {etag}\r\n"),
    );
    assert_eq!(known.status, 304);
    assert_eq!(upstream.requests(&names[0]), 1);
    assert_eq!(upstream.requests(&names[3]), 0, "nobody was asked by index");
    assert_eq!(
        proxy.metric("tile_proxy_cache_misses_total{log=\"default\"}"),
        1.0
    );
    assert_eq!(
        proxy.metric("tile_proxy_cache_hits_total{log=\"default\"}"),
        5.0
    );
    assert_eq!(proxy.stop(), Some(0));

    upstream.disappears();
    let proxy = follow(&upstream.url(), &log, cache.path(), V1);
    for name in &names {
        assert_eq!(get(&proxy, name).body, first.body, "{name}");
    }
    assert_eq!(tree_size(&proxy), 20);
    let key = get(&proxy, &format!("{LOG}/publicKey"));
    assert_eq!(key.text().trim(), log.pem().replace("\r\n", "\n").trim());
    for name in [by_uuid(&log, 4), by_index(4), by_index(4_000)] {
        let absent = get(&proxy, &name);
        assert_eq!(
            absent.status,
            503,
            "an absent log is not an absent entry: {}",
            absent.text()
        );
        assert!(absent.header("retry-after").is_some());
    }
    assert_eq!(proxy.stop(), Some(0));

    let offline = follow(
        "http://rome.invalid/",
        &log,
        cache.path(),
        &format!("{V1}  mode: offline\n"),
    );
    assert_eq!(get(&offline, &names[3]).body, first.body);
}

#[test]
fn what_does_not_exist_is_said_so_by_the_log() {
    let (_log, upstream, _cache, proxy) = honest(20, "");
    for path in [by_index(20), format!("{LOG}/entries/{}", "ab".repeat(32))] {
        let absent = get(&proxy, &path);
        assert_eq!(absent.status, 404, "{}", absent.text());
        assert_eq!(absent.header("cache-control"), Some("no-store"));
        assert!(absent.text().contains("\"code\":404"), "{}", absent.text());
        assert_eq!(upstream.requests(&path), 1);
    }
    // That is no fault of the log's.
    let healthy = "tile_proxy_upstream_healthy{log=\"default\",upstream=\"127.0.0.1\"}";
    assert_eq!(proxy.metric(healthy), 1.0);
    assert_eq!(lies_counted(&proxy, "entry"), 0.0);
}

#[test]
fn many_who_ask_for_one_entry_cost_one_request() {
    let (log, upstream, _cache, proxy) = honest(20, "");
    upstream.takes(std::time::Duration::from_millis(300));
    let (address, path) = (proxy.address(), by_uuid(&log, 7));
    let clients: Vec<_> = (0..30)
        .map(|_| {
            let path = format!("/{path}");
            thread::spawn(move || request(address, "GET", &path, "").status)
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("answered"), 200);
    }
    assert_eq!(upstream.requests(&path), 1);
}

#[test]
fn an_entry_of_a_larger_tree_carries_the_log_forward_and_one_of_a_smaller_is_proven() {
    let log = RekorLog::with_entries(40);
    let server = RekorServer::of(&log);
    let upstream = Upstream::rekor(server.clone().when_it_had(20));
    let cache = cache_directory();
    // So that nothing but entries tells of a larger tree.
    upstream.lies_about(LOG, Answer::Body(log.info(20, &[]).to_json()));
    let proxy = follow(&upstream.url(), &log, cache.path(), V1);
    assert_eq!(tree_size(&proxy), 20);
    upstream.becomes_rekor(server.clone().when_it_had(33));
    assert_eq!(entry(&get(&proxy, &by_index(5))).proof.tree_size, 33);
    assert_eq!(tree_size(&proxy), 33);
    // A server that lags: its tree is shown to be the beginning of ours, by another one's proof.
    let lagging = log.entry(6, 30).to_json();
    upstream.lies_about(&by_index(6), Answer::Body(lagging));
    assert_eq!(entry(&get(&proxy, &by_index(6))).proof.tree_size, 30);
    assert_eq!(tree_size(&proxy), 33);
    let proof = format!("{LOG}/proof?firstSize=30&lastSize=33&treeID={}", log.tree());
    assert_eq!(upstream.requests(&proof), 1);
    // Its tree is known now.
    upstream.lies_about(&by_index(7), Answer::Body(log.entry(7, 30).to_json()));
    entry(&get(&proxy, &by_index(7)));
    assert_eq!(upstream.requests(&proof), 1);
}

/// What an upstream does about an entry, from the truth.
type Lying = fn(&RekorLog, Entry) -> Answer;

#[test]
fn a_lie_about_an_entry_is_neither_served_nor_kept() {
    fn changed(mut entry: Entry, change: fn(&mut Entry)) -> Answer {
        change(&mut entry);
        Answer::Body(entry.to_json())
    }
    let lies: [(&str, Lying, u16); 22] = [
        ("another body", |_, e| changed(e, |e| e.body[3] ^= 1), 502),
        (
            "another UUID",
            |_, e| changed(e, |e| e.uuid.leaf.0[0] ^= 1),
            502,
        ),
        (
            "another shard",
            |_, e| changed(e, |e| e.uuid.tree.as_mut().expect("long").0 += 1),
            502,
        ),
        (
            "another entry",
            |log, _| Answer::Body(log.entry(4, 20).to_json()),
            502,
        ),
        (
            "another time",
            |_, e| changed(e, |e| e.integrated_time += 1),
            502,
        ),
        (
            "another index",
            |_, e| changed(e, |e| e.log_index += 1),
            502,
        ),
        (
            "another log",
            |_, e| changed(e, |e| e.log_id.0[0] ^= 1),
            502,
        ),
        (
            "no timestamp",
            |_, e| changed(e, |e| e.signed_entry_timestamp.clear()),
            502,
        ),
        (
            "a foreign timestamp",
            |log, mut e| {
                e.signed_entry_timestamp = log.entry(4, 20).signed_entry_timestamp;
                Answer::Body(e.to_json())
            },
            502,
        ),
        (
            "another place",
            |_, e| changed(e, |e| e.proof.log_index += 1),
            502,
        ),
        (
            "another proof",
            |log, mut e| {
                e.proof = log.entry(4, 20).proof;
                Answer::Body(e.to_json())
            },
            502,
        ),
        (
            "no proof",
            |_, e| changed(e, |e| e.proof.hashes.clear()),
            502,
        ),
        (
            "another root",
            |_, e| changed(e, |e| e.proof.root_hash.0[0] ^= 1),
            502,
        ),
        (
            "an unsigned tree",
            |_, e| {
                changed(e, |e| {
                    e.proof.checkpoint = e.proof.checkpoint.replace("\n20\n", "\n21\n");
                })
            },
            502,
        ),
        (
            "a tree of another log",
            |log, _| Answer::Body(log.clone().called("oslo.example").entry(3, 20).to_json()),
            502,
        ),
        (
            "another key's entry",
            |log, _| Answer::Body(log.clone().signed_by(1).entry(3, 20).to_json()),
            502,
        ),
        (
            "half of it",
            |_, e| {
                let json = e.to_json();
                Answer::Body(json[..json.len() / 2].to_vec())
            },
            502,
        ),
        (
            "a page",
            |_, _| Answer::Body(b"<html>sorry</html>".to_vec()),
            502,
        ),
        ("a huge body", |_, _| Answer::Bomb(64 << 20), 503),
        ("zeros without end", |_, _| Answer::Endless, 503),
        (
            "a redirect",
            |_, _| Answer::Redirect("http://oslo.invalid/".to_owned()),
            503,
        ),
        ("an error", |_, _| Answer::Status(500), 503),
    ];
    let (log, upstream, cache, proxy) = honest(20, "  coalescing: {error_ttl_ms: 1}\n");
    let leaf = log.uuid(3).to_string()[16..].to_owned();
    for (what, lying, status) in lies {
        for path in [by_uuid(&log, 3), by_index(3)] {
            let counted = lies_counted(&proxy, "entry");
            upstream.lies_about(&path, lying(&log, log.entry(3, 20)));
            let refused = get(&proxy, &path);
            // What is not there in time is not there either.
            let as_it_should = refused.status == status || (status == 503 && refused.status == 504);
            assert!(
                as_it_should,
                "{what}: {} {}",
                refused.status,
                refused.text()
            );
            assert_eq!(refused.header("cache-control"), Some("no-store"), "{what}");
            let more = lies_counted(&proxy, "entry") - counted;
            assert_eq!(more, if status == 502 { 1.0 } else { 0.0 }, "{what}");
        }
        assert!(
            find(cache.path(), &format!("{leaf}.json")).is_empty(),
            "{what} is kept"
        );
        upstream.tells_the_truth();
    }
    assert!(!proxy.printed("upstream response rejected").is_empty());
    eventually("the truth is served", || {
        get(&proxy, &by_uuid(&log, 3)).status == 200
    });
    assert_eq!(
        entry(&get(&proxy, &by_index(3))).body,
        log.entry(3, 20).body
    );
    assert_eq!(tree_size(&proxy), 20);
    assert_eq!(
        proxy.metric("tile_proxy_split_views_total{log=\"default\"}"),
        0.0
    );
}

#[test]
fn an_attestation_is_not_handed_on() {
    let (log, upstream, _cache, proxy) = honest(20, "");
    let json = String::from_utf8(log.entry(3, 20).to_json()).expect("text");
    let attested = json.replace(
        "\"body\":",
        "\"attestation\":{\"data\":\"c2VjcmV0\"},\"body\":",
    );
    assert_ne!(json, attested);
    upstream.lies_about(&by_index(3), Answer::Body(attested.into_bytes()));
    let response = get(&proxy, &by_index(3));
    entry(&response);
    assert!(
        !response.text().contains("attestation"),
        "{}",
        response.text()
    );
}

/// A tree head, what is lied about beside it, and what is said of it.
type FalseHead = (&'static str, Answer, Option<(String, Answer)>, &'static str);

#[test]
fn a_false_tree_head_changes_nothing() {
    let log = RekorLog::with_entries(40);
    let fork = RekorLog::forked(10, 40);
    let when = |log: &RekorLog, size| Answer::Body(log.info(size, &[]).to_json());
    let changed = |change: fn(&mut LogInfo)| {
        let mut info = log.info(40, &[]);
        change(&mut info);
        Answer::Body(info.to_json())
    };
    let proof = |answer: Answer| {
        (
            format!("{LOG}/proof?firstSize=21&lastSize=40&treeID={}", log.tree()),
            answer,
        )
    };
    let rows: [FalseHead; 14] = [
        (
            "smaller",
            when(&log, 20),
            None,
            "stale: offered tree size 20",
        ),
        (
            "another of the same size",
            when(&fork, 21),
            None,
            "split view: tree sizes 21 and 21",
        ),
        (
            "a fork",
            when(&fork, 40),
            None,
            "split view: tree sizes 21 and 40",
        ),
        (
            "a smaller fork",
            when(&fork, 20),
            None,
            "cannot prove tree size 20",
        ),
        (
            "of another log",
            when(&log.clone().called("oslo.example"), 40),
            None,
            "is of `oslo.example - ",
        ),
        (
            "of another shard",
            changed(|info| info.active.tree_id.0 += 1),
            None,
            "the checkpoint is of",
        ),
        (
            "of another key",
            when(&log.clone().signed_by(1), 40),
            None,
            "not signed by a known key",
        ),
        (
            "with another size",
            changed(|info| info.active.tree_size += 1),
            None,
            "another size or root",
        ),
        (
            "with another root",
            changed(|info| info.active.root_hash.0[0] ^= 1),
            None,
            "another size or root",
        ),
        (
            "a page",
            Answer::Body(b"<html>".to_vec()),
            None,
            "not an answer of Rekor v1",
        ),
        ("huge", Answer::Bomb(64 << 20), None, "sent more than"),
        (
            "with no proof",
            when(&log, 40),
            Some(proof(Answer::Status(400))),
            "cannot prove tree size 21",
        ),
        (
            "with a false proof",
            when(&log, 40),
            Some(proof(Answer::Body(
                format!("{{\"hashes\":[\"{}\"]}}", "00".repeat(32)).into(),
            ))),
            "does not lead to the root",
        ),
        (
            "with a page for a proof",
            when(&log, 40),
            Some(proof(Answer::Body(b"<html>".to_vec()))),
            "not an answer",
        ),
    ];
    for (what, head, beside, said) in rows {
        let server = RekorServer::of(&log).when_it_had(21);
        let upstream = Upstream::rekor(server.clone());
        let cache = cache_directory();
        let proxy = follow(&upstream.url(), &log, cache.path(), V1);
        let is_split_view = said.starts_with("split view");
        if what.contains("fork") {
            // Its own log proves it, and so proves that it is one.
            upstream.becomes_rekor(RekorServer::of(&fork));
        } else {
            upstream.becomes_rekor(RekorServer::of(&log));
        }
        upstream.lies_about(LOG, head);
        if let Some((path, answer)) = beside {
            upstream.lies_about(&path, answer);
        }
        eventually(what, || {
            let lines = proxy.printed("checkpoint not refreshed");
            lines.iter().any(|line| line.contains(said))
        });
        assert_eq!(tree_size(&proxy), 21, "{what}");
        let split_views = proxy.metric("tile_proxy_split_views_total{log=\"default\"}");
        assert_eq!(split_views > 0.0, is_split_view, "{what}");
        let evidence = find(cache.path(), "offered.checkpoint");
        assert_eq!(
            evidence.len(),
            usize::from(is_split_view),
            "{what}: {evidence:?}"
        );
        if let [offered] = &evidence[..] {
            let trusted = offered.with_file_name("trusted.checkpoint");
            assert_eq!(
                size_of(&fs::read(trusted).expect("both are kept")),
                21,
                "{what}"
            );
        }
        let state = if is_split_view { "SplitView" } else { "Fresh" };
        eventually(state, || proxy.log_state() == state);
        // The truth is followed again.
        upstream.becomes_rekor(RekorServer::of(&log));
        upstream.tells_the_truth();
        eventually("the log is followed again", || tree_size(&proxy) == 40);
    }
}

/// Where the trusted size is a power of two, the proof from there takes our root for granted; the one from
/// the size before it does not, and so tells a fork from a false proof.
#[test]
fn a_fork_of_a_tree_of_a_power_of_two_is_shown_and_a_false_proof_is_none() {
    let log = RekorLog::with_entries(40);
    let proof = |from: u64, to: u64| {
        format!(
            "{LOG}/proof?firstSize={from}&lastSize={to}&treeID={}",
            log.tree()
        )
    };
    let garbage = || Answer::Body(format!("{{\"hashes\":[\"{}\"]}}", "00".repeat(32)).into());
    for (what, common, trusted, offered, lies, is_split_view) in [
        ("a larger fork", 10, 16, 40, vec![], true),
        ("a smaller fork", 10, 40, 16, vec![], true),
        ("the smallest that can be told", 2, 4, 5, vec![], true),
        ("too small", 1, 2, 40, vec![], false),
        ("one false proof", 40, 16, 40, vec![proof(16, 40)], false),
        (
            "two false proofs",
            40,
            16,
            40,
            vec![proof(16, 40), proof(15, 40)],
            false,
        ),
        (
            "a fork whose log hides it",
            10,
            16,
            40,
            vec![proof(15, 40)],
            false,
        ),
    ] {
        let upstream = Upstream::rekor(RekorServer::of(&log).when_it_had(trusted));
        let cache = cache_directory();
        let proxy = follow(&upstream.url(), &log, cache.path(), V1);
        let other = RekorLog::forked(common, 40);
        // What it says of a smaller tree is proven by those who have the larger one.
        if offered > trusted {
            upstream.becomes_rekor(RekorServer::of(&other).when_it_had(offered));
        } else {
            upstream.lies_about(LOG, Answer::Body(other.info(offered, &[]).to_json()));
        }
        for path in lies {
            upstream.lies_about(&path, garbage());
        }
        let said = match is_split_view {
            true => "split view: tree sizes",
            false => "does not lead to the root",
        };
        eventually(what, || {
            let lines = proxy.printed("checkpoint not refreshed");
            lines.iter().any(|line| line.contains(said))
        });
        assert_eq!(tree_size(&proxy), trusted as u64, "{what}");
        let evidence = find(cache.path(), "offered.checkpoint");
        assert_eq!(evidence.len(), usize::from(is_split_view), "{what}");
        if let [offer] = &evidence[..] {
            assert_eq!(size_of(&fs::read(offer).expect("kept")), offered as u64);
            let ours = offer.with_file_name("trusted.checkpoint");
            assert_eq!(size_of(&fs::read(ours).expect("kept")), trusted as u64);
        }
        let split_views = proxy.metric("tile_proxy_split_views_total{log=\"default\"}");
        assert_eq!(split_views > 0.0, is_split_view, "{what}");
    }
}

#[test]
fn an_entry_of_a_fork_is_evidence_and_not_served() {
    let (log, upstream, cache, proxy) = honest(33, "");
    let fork = RekorLog::forked(10, 40);
    for (size, path) in [(33, by_index(3)), (40, by_index(4)), (21, by_index(5))] {
        let server = RekorServer::of(&fork).when_it_had(size.max(33));
        upstream.becomes_rekor(server);
        upstream.lies_about(LOG, Answer::Status(500));
        let index = path
            .rsplit('=')
            .next()
            .and_then(|index| index.parse().ok())
            .expect("an index");
        upstream.lies_about(&path, Answer::Body(fork.entry(index, size).to_json()));
        let refused = get(&proxy, &path);
        assert!(
            matches!(refused.status, 502 | 503),
            "{size}: {}",
            refused.text()
        );
        assert_eq!(tree_size(&proxy), 33);
    }
    // Of those two, the log's own words prove it.
    eventually("evidence is kept", || {
        find(cache.path(), "offered.checkpoint").len() == 2
    });
    upstream.becomes_rekor(RekorServer::of(&log));
    upstream.tells_the_truth();
    eventually("the truth is served", || {
        get(&proxy, &by_index(3)).status == 200
    });
}

#[test]
fn no_restart_makes_a_tree_smaller() {
    let log = RekorLog::with_entries(40);
    let server = RekorServer::of(&log);
    let upstream = Upstream::rekor(server.clone());
    let cache = cache_directory();
    let proxy = follow(&upstream.url(), &log, cache.path(), V1);
    assert_eq!(tree_size(&proxy), 40);
    assert_eq!(proxy.stop(), Some(0));

    upstream.becomes_rekor(server.clone().when_it_had(20));
    let proxy = follow(&upstream.url(), &log, cache.path(), V1);
    eventually("it is said", || {
        !proxy.printed("cannot prove tree size 20").is_empty()
    });
    assert_eq!(tree_size(&proxy), 40);
    proxy.kill();

    // A stored tree head that rotted is not replaced by anything smaller.
    let note = find(cache.path(), "40.checkpoint").pop().expect("stored");
    let mut bytes = fs::read(&note).expect("readable");
    bytes[0] ^= 1;
    fs::write(&note, bytes).expect("written");
    let proxy = start(&upstream.url(), &log, cache.path(), V1);
    eventually("it is said", || {
        !proxy.printed("cannot prove tree size 20").is_empty()
    });
    assert_eq!(proxy.get("/api/v1/log").status, 503);
    upstream.becomes_rekor(server);
    eventually("the log is followed again", || {
        proxy.get("/api/v1/log").status == 200
    });
    assert_eq!(tree_size(&proxy), 40);
}

#[test]
fn shards_are_followed_each_by_itself_and_one_of_them_grows() {
    let old = RekorLog::with_entries(10).shard(7, 0);
    let active = RekorLog::with_entries(20).shard(8, 10);
    let upstream = Upstream::rekor(RekorServer::of_shards(vec![old.clone(), active.clone()]));
    let cache = cache_directory();
    let proxy = follow(&upstream.url(), &active, cache.path(), V1);
    let info = |proxy: &Proxy| LogInfo::parse(&proxy.get("/api/v1/log").body).expect("tree heads");
    let heads = info(&proxy);
    assert_eq!((heads.active.tree_id.0, heads.active.tree_size), (8, 20));
    assert_eq!(heads.inactive_shards.len(), 1);
    for (index, shard, uuid) in [(4, &old, old.uuid(4)), (14, &active, active.uuid(4))] {
        let served = entry(&get(&proxy, &by_index(index)));
        assert_eq!(served.uuid, uuid);
        assert_eq!(served.proof.tree_size as usize, shard.size());
    }
    // The same leaf is in both: by its short name it is any, by its long one it is that of the shard.
    for (shard, index) in [(&old, 4), (&active, 14)] {
        assert_eq!(entry(&get(&proxy, &by_uuid(shard, 4))).log_index, index);
    }
    assert_eq!(proxy.stop(), Some(0));
    upstream.disappears();
    let proxy = follow(&upstream.url(), &active, cache.path(), V1);
    assert_eq!(info(&proxy).active.tree_id.0, 8, "known by its age");
    assert_eq!(entry(&get(&proxy, &by_index(4))).uuid, old.uuid(4));
    let key = |tree: &str| get(&proxy, &format!("{LOG}/publicKey?treeID={tree}")).status;
    assert_eq!([key("7"), key("8"), key("9")], [200, 200, 404]);
}

#[test]
fn what_is_not_listed_is_not_handed_on_and_nothing_is_unless_that_is_configured() {
    let (log, upstream, _cache, proxy) = honest(20, "");
    let post = |proxy: &Proxy, path: &str| proxy.post(&format!("/{path}"), "", "{}");
    for path in [
        "api/v1/log/entries",
        "api/v1/log/entries/retrieve",
        "api/v1/index/retrieve",
    ] {
        let refused = post(&proxy, path);
        assert_eq!(refused.status, 403, "{path}");
        assert!(refused.text().contains("passthrough"), "{}", refused.text());
        assert_eq!(upstream.requests(path), 0, "{path}");
    }
    assert_eq!(
        get(&proxy, "api/v1/log/proof?firstSize=1&lastSize=2").status,
        403
    );
    for (path, status) in [
        ("api/v1/version", 404),
        ("api/v1/log/timestamp", 404),
        ("api/v1/log/entries/x", 400),
    ] {
        assert_eq!(get(&proxy, path).status, status, "{path}");
        assert_eq!(upstream.requests(path), 0, "{path}");
    }
    assert_eq!(
        proxy
            .send("DELETE", "/api/v1/log/entries", "Content-Length: 0\r\n")
            .status,
        405
    );
    // A search for entries by their names needs nobody.
    let search = format!(
        r#"{{"entryUUIDs": ["{}"], "logIndexes": [5, 99]}}"#,
        log.uuid(4)
    );
    let found = proxy.post("/api/v1/log/entries/retrieve", "", &search);
    assert_eq!(found.status, 200, "{}", found.text());
    let found: Vec<serde_json::Value> = serde_json::from_slice(&found.body).expect("a list");
    assert_eq!(found.len(), 2, "the one that does not exist is left out");
    assert!(found[0].get(log.uuid(4).to_string()).is_some());
}

#[test]
fn what_is_handed_on_keeps_no_secret_and_nothing_of_it_is_kept() {
    let log = RekorLog::with_entries(20);
    let upstream = Upstream::rekor(RekorServer::of(&log));
    let writes = Upstream::rekor(RekorServer::of(&log));
    let cache = cache_directory();
    let more = format!(
        "{V1}  passthrough: true\n  upstreams: [{{url: \"{}\", write_url: \"{}\", authorization: \"Bearer ours\"}}]\n",
        upstream.url(),
        writes.url()
    );
    let key = cache.path().join("log.pem");
    fs::write(&key, log.pem()).expect("written");
    let proxy = Proxy::start_with(&format!("file:{}", key.display()), cache.path(), &more);
    eventually("the log is followed", || {
        proxy.get("/api/v1/log").status == 200
    });

    let created = log.entry(6, 20).to_json();
    let headers = "Content-Type: application/json\r\nETag: \"6\"\r\nSet-Cookie: secret\r\n\
                   Location: /api/v1/log/entries/6\r\nCache-Control: public, max-age=600\r\n";
    writes.lies_about(
        "api/v1/log/entries",
        Answer::Full(201, headers, created.clone()),
    );
    let secrets = "Content-Type: application/json\r\nAccept: application/json\r\nAuthorization: Bearer theirs\r\n\
                   Cookie: secret\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: x-mine\r\nX-Mine: 1\r\n";
    let answer = proxy.post("/api/v1/log/entries", secrets, r#"{"kind":"hashedrekord"}"#);
    assert_eq!((answer.status, &answer.body), (201, &created));
    for (name, value) in [
        ("content-type", Some("application/json")),
        ("etag", Some("\"6\"")),
        ("location", Some("/api/v1/log/entries/6")),
        ("cache-control", Some("no-store")),
        ("tile-proxy-trust", Some("passed-through")),
        ("set-cookie", None),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    assert_eq!(
        writes.body("api/v1/log/entries"),
        br#"{"kind":"hashedrekord"}"#
    );
    assert_eq!(
        upstream.requests("api/v1/log/entries"),
        0,
        "writes go elsewhere"
    );
    let head = writes.head("api/v1/log/entries");
    for secret in ["theirs", "ours", "cookie", "x-forwarded-for", "x-mine"] {
        assert!(!head.contains(secret), "{secret} was handed on: {head}");
    }
    // Nobody has proven what was answered.
    assert!(
        find(
            cache.path(),
            &format!("{}.json", &log.uuid(6).to_string()[16..])
        )
        .is_empty()
    );

    // Reads go to where the log is read, with our credential for it.
    let proof = "api/v1/log/proof?firstSize=1&lastSize=20&treeID=0";
    upstream.lies_about(
        proof,
        Answer::Full(
            400,
            "Content-Type: application/json\r\n",
            b"{\"code\":400}".to_vec(),
        ),
    );
    let answer = proxy.send(
        "GET",
        &format!("/{proof}"),
        "Authorization: Bearer theirs\r\n",
    );
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (400, "{\"code\":400}")
    );
    let head = upstream.head(proof);
    assert!(
        head.contains("Bearer ours") && !head.contains("theirs"),
        "{head}"
    );
    let refused = |proxy: &Proxy| proxy.post("/api/v1/index/retrieve", "", "{}");
    upstream.lies_about(
        "api/v1/index/retrieve",
        Answer::Redirect("/api/v1/log".to_owned()),
    );
    assert_eq!(
        refused(&proxy).status,
        502,
        "a redirect is followed by nobody"
    );
    upstream.lies_about("api/v1/index/retrieve", Answer::Bomb(64 << 20));
    assert_eq!(refused(&proxy).status, 503);
    upstream.disappears();
    assert_eq!(refused(&proxy).status, 503);
    // A body that is too large is not read to its end.
    let large = proxy.send("POST", "/api/v1/log/entries", "Content-Length: 8388609\r\n");
    assert_eq!(large.status, 413);
    assert_eq!(
        writes.requests("api/v1/log/entries"),
        1,
        "once, whatever came of it"
    );
}

#[test]
fn tiles_are_not_there_and_the_checkpoint_is_the_tree_head() {
    let (log, _upstream, _cache, proxy) = honest(20, "");
    for path in ["/tile/0/000", "/tile/entries/000", "/default/tile/0/000"] {
        let none = proxy.get(path);
        assert_eq!(none.status, 404, "{path}");
        assert!(none.text().contains("Rekor v1"), "{}", none.text());
    }
    let checkpoint = proxy.get("/checkpoint");
    assert_eq!(checkpoint.status, 200);
    assert_eq!(size_of(&checkpoint.body), 20);
    let text = checkpoint.text();
    assert!(text.starts_with(&log.checkpoint(20).origin), "{text}");
    assert!(checkpoint.header("tile-proxy-checkpoint-age").is_some());
    assert_eq!(
        entry(&proxy.get(&format!("/default/{}", by_index(3)))).log_index,
        3
    );
}

#[test]
fn what_a_log_is_is_found_out_and_remembered() {
    let log = RekorLog::with_entries(20);
    let upstream = Upstream::rekor(RekorServer::of(&log));
    let cache = cache_directory();
    let proxy = follow(&upstream.url(), &log, cache.path(), "");
    entry(&get(&proxy, &by_index(3)));
    let stats = proxy.get("/_admin/cache/stats").text();
    assert!(stats.contains("\"kind\": \"rekor-v1\""), "{stats}");
    assert_eq!(proxy.stop(), Some(0));
    upstream.disappears();
    let proxy = follow(&upstream.url(), &log, cache.path(), "");
    assert_eq!(entry(&get(&proxy, &by_index(3))).log_index, 3);
}

#[test]
fn a_damaged_entry_is_fetched_again_and_one_that_is_pruned_is_gone() {
    let (log, upstream, cache, proxy) = honest(20, "");
    let (path, leaf) = (by_uuid(&log, 3), log.uuid(3).to_string()[16..].to_owned());
    let truth = get(&proxy, &path).body;
    let file = || find(cache.path(), &format!("{leaf}.json")).pop();
    eventually("it is kept", || file().is_some());
    fs::write(file().expect("kept"), b"{}").expect("written");
    assert_eq!(entry(&get(&proxy, &path)).body, log.entry(3, 20).body);
    assert_eq!(
        proxy.metric("tile_proxy_cache_corrupt_total{log=\"default\"}"),
        1.0
    );
    assert_eq!(upstream.requests(&path), 2);
    eventually("it is kept again", || {
        file().is_some_and(|file| fs::read(file).is_ok_and(|read| read.len() > 100))
    });
    // Somebody puts another entry in its place.
    fs::write(file().expect("kept"), log.entry(4, 20).to_json()).expect("written");
    assert_eq!(entry(&get(&proxy, &path)).log_index, 3);
    eventually("it is kept again", || file().is_some());
    let pruned = proxy.send("DELETE", "/_admin/cache/prune?log=default", "");
    let report: serde_json::Value = serde_json::from_slice(&pruned.body).expect("a report");
    assert_eq!(report["removed"]["entries"]["count"], 1, "{report}");
    assert_eq!(file(), None);
    assert!(
        find(cache.path(), "003").is_empty(),
        "nor is its other name there"
    );
    assert!(!truth.is_empty() && get(&proxy, &path).status == 200);
}

#[test]
fn a_key_that_is_withdrawn_vouches_for_nothing_any_more() {
    let (log, upstream, cache, proxy) = honest(20, "");
    entry(&get(&proxy, &by_index(3)));
    let other = log.clone().signed_by(1);
    fs::write(cache.path().join("log.pem"), other.pem()).expect("written");
    eventually("nothing is served", || {
        proxy.get("/api/v1/log").status != 200
    });
    assert_ne!(get(&proxy, &by_index(3)).status, 200);
    // The same log under the new key goes on where it was; a smaller one does not.
    upstream.becomes_rekor(RekorServer::of(&other).when_it_had(10));
    eventually("it is said", || {
        !proxy.printed("cannot prove tree size 10").is_empty()
    });
    assert_ne!(proxy.get("/api/v1/log").status, 200);
    upstream.becomes_rekor(RekorServer::of(&other));
    eventually("it is served again", || {
        get(&proxy, &by_index(3)).status == 200
    });
}

#[test]
fn a_log_may_sign_with_ed25519() {
    let log = RekorLog::with_entries(20).signed_by(ED25519);
    let upstream = Upstream::rekor(RekorServer::of(&log));
    let cache = cache_directory();
    let proxy = follow(&upstream.url(), &log, cache.path(), V1);
    assert_eq!(entry(&get(&proxy, &by_index(3))).uuid, log.uuid(3));
    let mut forged = log.entry(4, 20);
    forged.integrated_time += 1;
    upstream.lies_about(&by_index(4), Answer::Body(forged.to_json()));
    let refused = get(&proxy, &by_index(4));
    assert_eq!(refused.status, 502, "{}", refused.text());
    assert!(refused.text().contains("timestamp"), "{}", refused.text());
    let key = get(&proxy, &format!("{LOG}/publicKey"));
    assert_eq!(key.text().trim(), log.pem().replace("\r\n", "\n").trim());
    assert_eq!(proxy.stop(), Some(0));
    upstream.disappears();
    let proxy = follow(&upstream.url(), &log, cache.path(), V1);
    assert_eq!(entry(&get(&proxy, &by_index(3))).uuid, log.uuid(3));
}

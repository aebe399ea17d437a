//! A log, or somebody on the way to it, that lies, forks, lags or fails.

use std::{sync::Arc, thread, time::Duration};

use crate::{
    find, honest, size_of,
    world::{Answer, FixtureLog, Proxy, Upstream, cache_directory, eventually, request, run},
};

/// What the proxy says, besides 502 or 503 to its client.
enum Seen {
    /// Bytes that are not in the tree: counted and said as such.
    Lie,
    /// No tile: counted by this status, and said with these words.
    Nothing(&'static str, &'static str),
}
use Seen::{Lie, Nothing};

#[test]
fn a_lie_is_neither_served_nor_kept() {
    type Lying = fn(&[u8], &[u8]) -> Answer; // from the truth, and from the truth of the next one
    fn flipped(bytes: &[u8], at: usize) -> Answer {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        Answer::Body(bytes)
    }
    let log = Arc::new(FixtureLog::with_entries(70_000));
    // Of both kinds of resource.
    let any: [(Lying, Seen); 17] = [
        (|truth, _| flipped(truth, 5), Lie),
        (|truth, _| flipped(truth, truth.len() - 1), Lie),
        (
            |truth, _| Answer::Body(truth[..truth.len() - 1].to_vec()),
            Lie,
        ),
        (|_, next| Answer::Body(next.to_vec()), Lie), // of another place
        (
            |_, _| Answer::Body(b"<html>come back later</html>".to_vec()),
            Lie,
        ),
        (|_, _| Answer::Body(Vec::new()), Lie),
        // More than there can be is not read to its end.
        (
            |_, _| Answer::Body(vec![0; 17 << 20]),
            Nothing("error", "sent more than"),
        ),
        (
            |_, _| Answer::Bomb(64 << 20),
            Nothing("error", "sent more than"),
        ),
        (|_, _| Answer::Endless, Nothing("error", "sent more than")),
        (
            |truth, _| Answer::Reset(truth.to_vec()),
            Nothing("error", "end of file before message length reached"),
        ),
        (|_, _| Answer::Status(500), Nothing("500", "answered 500")),
        (|_, _| Answer::Status(403), Nothing("403", "answered 403")),
        (|_, _| Answer::Throttle(1), Nothing("429", "answered 429")),
        // It is in the tree, whatever the upstream says: never 404.
        (
            |_, _| Answer::Status(404),
            Nothing("404", "does not have it"),
        ),
        (|_, _| Answer::Status(302), Nothing("302", "answered 302")),
        (
            |_, _| Answer::Redirect("/tile/loop".to_owned()),
            Nothing("error", "it redirects too often"),
        ),
        (
            |_, _| Answer::Redirect("http://oslo.invalid/".to_owned()),
            Nothing("error", "it redirects to another host"),
        ),
    ];
    for kind in ["tile/0", "tile/entries"] {
        for (i, (lying, seen)) in any.iter().enumerate() {
            let [path, next] = [i, i + 1].map(|i| format!("{kind}/{i:03}"));
            let truth = log.get(&path, 70_000, false).expect("there");
            let next = log.get(&next, 70_000, false).expect("there");
            refuses(&log, &path, lying(&truth, &next), seen);
        }
    }
    // What a partial one has where a full one belongs, and the reverse; and of a level or a kind that
    // is next to it.
    let at = |path: &str| log.get(path, 70_000, false).expect("there");
    for (path, instead) in [
        ("tile/0/001", at("tile/0/001")[..112 * 32].to_vec()),
        ("tile/0/001", at("tile/1/000")),
        ("tile/1/000", at("tile/0/000")),
        (
            "tile/0/001",
            [&at("tile/0/001")[..], &[0; 32]].concat()[32..].to_vec(),
        ),
        ("tile/entries/001", at("tile/entries/273.p/112")),
        ("tile/entries/001", at("tile/0/001")),
        ("tile/entries/273.p/112", at("tile/entries/000")),
        (
            "tile/entries/273.p/112",
            at("tile/entries/000")[..2].to_vec(),
        ),
    ] {
        refuses(&log, path, Answer::Body(instead), &Lie);
    }
    // A byte more than a tile has is too long to be one, and is not read.
    let longer = [at("tile/0/001"), vec![0]].concat();
    refuses(
        &log,
        "tile/0/001",
        Answer::Body(longer),
        &Nothing("error", "sent more than 8192 bytes"),
    );
}

/// That an answer about `path` is neither served nor kept, is said and counted, and that nothing but
/// the truth follows.
fn refuses(log: &Arc<FixtureLog>, path: &str, answer: Answer, seen: &Seen) {
    let upstream = Upstream::serving(log);
    let cache = cache_directory();
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    upstream.lies_about("tile/loop", Answer::Redirect("/tile/loop".to_owned()));
    let case = format!("{path}: {}", short(&answer));
    upstream.lies_about(path, answer);
    let response = proxy.get(&format!("/{path}"));
    let kind = if path.starts_with("tile/entries") {
        "bundle"
    } else {
        "tile"
    };
    let of = "log=\"default\"";
    let (status, counted, said) = match seen {
        Lie => (
            502,
            format!(
                "tile_proxy_verify_failures_total{{kind=\"{kind}\",{of},upstream=\"127.0.0.1\"}}"
            ),
            ["upstream response rejected", path],
        ),
        Nothing(status, why) => (
            503,
            format!(
                "tile_proxy_upstream_requests_total{{{of},status=\"{status}\",upstream=\"127.0.0.1\"}}"
            ),
            ["tile not read from upstream", why],
        ),
    };
    assert_eq!(response.status, status, "{case}: {}", response.text());
    assert_eq!(response.header("cache-control"), Some("no-store"), "{case}");
    assert_eq!(
        response.header("retry-after").is_some(),
        status == 503,
        "{case}"
    );
    let count = proxy.metric(&counted);
    assert!(count >= 1.0, "{case}: {counted} is {count}");
    assert_eq!(
        proxy.metric(&format!(
            "tile_proxy_responses_total{{{of},status=\"{status}\"}}"
        )),
        1.0,
        "{case}"
    );
    eventually("it is said", || !proxy.printed(said[0]).is_empty());
    let lines = proxy.printed(said[0]);
    assert_eq!(lines.len(), 1, "{case}: {lines:?}");
    assert!(lines[0].contains(said[1]), "{case}: {lines:?}");
    // Nothing was kept: neither a slot nor a file has it.
    let name = path.rsplit('/').next().expect("a path");
    let stored = match path.strip_prefix("tile/").filter(|_| kind == "tile") {
        Some(tile) => proxy.get(&format!("/_admin/cache/tiles/{tile}")).status == 200,
        None => !find(cache.path(), name).is_empty(),
    };
    assert!(!stored, "{case}");
    // The error is remembered for half a second, then the truth is fetched.
    upstream.tells_the_truth();
    let truth = log.get(path, log.size(), false).expect("there");
    eventually("the truth is served", || {
        proxy.get(&format!("/{path}")).status == 200
    });
    assert_eq!(proxy.get(&format!("/{path}")).body, truth, "{case}");
    // And all that is on the disk is proven.
    assert_eq!(proxy.stop(), Some(0));
    let checked = run("fsck", cache.path(), &[]);
    assert_eq!(checked.code, Some(0), "{case}: {}", checked.stdout);
}

/// An answer, without the body that it may have.
fn short(answer: &Answer) -> String {
    match answer {
        Answer::Body(body) => format!("{} bytes", body.len()),
        Answer::Reset(body) => format!("half of {} bytes", body.len()),
        answer => format!("{answer:?}"),
    }
}

#[test]
fn a_name_that_nobody_knows_is_an_absent_log_and_not_an_absent_tile() {
    let (log, _upstream, cache, proxy) = honest(70_000);
    assert_eq!(proxy.get("/tile/0/001").status, 200);
    assert_eq!(proxy.stop(), Some(0));
    let proxy = Proxy::ready("http://rome.invalid/", &log.vkey(), cache.path());
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 70_000);
    assert_eq!(proxy.get("/tile/0/001").status, 200);
    let absent = proxy.get("/tile/0/002");
    assert_eq!(absent.status, 503, "{}", absent.text());
    assert!(absent.header("retry-after").is_some());
    assert_eq!(
        proxy.get("/tile/0/999").status,
        503,
        "nobody says it is not there"
    );
}

#[test]
fn a_slow_drip_ends_with_its_timeout_and_costs_others_nothing() {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let more = format!(
        "  upstreams: [{{name: rome, url: \"{}\", timeout: 3s}}]\n  \
         failover: {{retry_count: 0}}\n  limits: {{upstream_requests: 2}}\n",
        upstream.url()
    );
    let proxy = Proxy::start_with(&log.vkey(), cache.path(), &more);
    eventually("the log is followed", || {
        proxy.get("/checkpoint").status == 200
    });
    upstream.lies_about("tile/0/001", Answer::Drip(vec![0; 8_192]));
    let address = proxy.address();
    let dripped = thread::spawn(move || request(address, "GET", "/tile/0/001", "").status);
    eventually("the drip has begun", || {
        upstream.requests("tile/0/001") == 1
    });
    assert_eq!(proxy.get("/tile/0/002").status, 200);
    let status = dripped.join().expect("answered");
    assert!(status == 503 || status == 504, "{status}");
    assert_eq!(proxy.get("/_admin/cache/tiles/0/001").status, 404);
}

#[test]
fn one_request_at_a_time_is_enough_for_a_tile_and_all_that_proves_it() {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let more = "  limits: {upstream_requests: 1}\n  coalescing: {max_wait_ms: 25000}\n";
    let proxy = Proxy::start(&upstream.url(), &log.vkey(), cache.path(), more);
    eventually("the log is followed", || {
        proxy.get("/checkpoint").status == 200
    });
    let address = proxy.address();
    // Each waits for the level-1 tile, which waits for a slot like any other.
    let clients: Vec<_> = (0..20)
        .map(|i| {
            thread::spawn(move || request(address, "GET", &format!("/tile/entries/{i:03}"), ""))
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("answered").status, 200);
    }
    assert_eq!(upstream.most_at_once(), 1);
}

#[test]
fn without_coalescing_each_client_has_its_own_fetch_proven_as_ever() {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let more = "  coalescing: {enabled: false, max_wait_ms: 25000}\n";
    let proxy = Proxy::start(&upstream.url(), &log.vkey(), cache.path(), more);
    eventually("the log is followed", || {
        proxy.get("/checkpoint").status == 200
    });
    assert_eq!(proxy.get("/tile/1/000").status, 200);
    upstream.lies_about("tile/0/042", Answer::Body(vec![0; 8_192]));
    upstream.takes(Duration::from_millis(500));
    let address = proxy.address();
    let clients: Vec<_> = (0..5)
        .map(|_| thread::spawn(move || request(address, "GET", "/tile/0/042", "").status))
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("answered"), 502);
    }
    assert_eq!(upstream.requests("tile/0/042"), 5);
}

#[test]
fn a_log_that_asks_to_be_left_alone_is_left_alone() {
    let (_log, upstream, _cache, proxy) = honest(70_000);
    assert_eq!(proxy.get("/tile/0/001").status, 200);
    upstream.lies_about("tile/0/002", Answer::Throttle(3_600));
    // 503 and not 504: an answer does not wait for the hour.
    assert_eq!(proxy.get("/tile/0/002").status, 503);
    upstream.tells_the_truth();
    let before = (upstream.tile_requests(), upstream.requests("checkpoint"));
    for path in ["/tile/0/003", "/tile/0/004", "/tile/entries/000"] {
        assert_eq!(proxy.get(path).status, 503, "{path}");
    }
    assert_eq!(
        proxy.get("/tile/0/001").status,
        200,
        "what is cached needs nobody"
    );
    assert_eq!(
        (upstream.tile_requests(), upstream.requests("checkpoint")),
        before
    );
    // A person who knows better says so.
    let refreshed = proxy.send("POST", "/_admin/refresh", "");
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    assert_eq!(proxy.get("/tile/0/005").status, 200);
}

#[test]
fn a_failing_log_is_asked_once_for_two_hundred_clients() {
    let (_log, upstream, _cache, proxy) = honest(70_000);
    upstream.lies_about("tile/0/042", Answer::Status(500));
    upstream.takes(Duration::from_millis(200));
    let address = proxy.address();
    let clients: Vec<_> = (0..200)
        .map(|_| thread::spawn(move || request(address, "GET", "/tile/0/042", "").status))
        .collect();
    assert!(
        clients
            .into_iter()
            .all(|client| client.join().expect("answered") == 503)
    );
    assert_eq!(
        upstream.requests("tile/0/042"),
        2,
        "one fetch: the attempt and its one repeat"
    );
}

#[test]
fn the_size_served_never_goes_down() {
    let (log, upstream, cache, proxy) = honest(70_000);
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 70_000);
    // What the proof needs of our own tree; the lagging mirror below has not got it.
    assert_eq!(proxy.get("/tile/0/269").status, 200);
    upstream.becomes(&log, 69_000);
    eventually("it is called stale", || !proxy.printed("stale").is_empty());
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 70_000);
    assert_eq!(proxy.stop(), Some(0));
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    eventually("it is called stale", || !proxy.printed("stale").is_empty());
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 70_000);
    assert_eq!(
        proxy.metric("tile_proxy_split_views_total{log=\"default\"}"),
        0.0
    );
}

#[test]
fn another_key_is_held_against_what_the_first_one_signed() {
    let (log, upstream, cache, proxy) = honest(70_000);
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 70_000);
    assert_eq!(proxy.stop(), Some(0));
    // The origin was learned, not configured; the key is another one from now on.
    let fork = Arc::new(FixtureLog::forked(60_000, 71_000).signed_by(9));
    upstream.becomes(&fork, 300);
    let proxy = Proxy::start(&upstream.url(), &fork.vkey(), cache.path(), "");
    eventually("the floor is held against it", || {
        proxy.get("/checkpoint").text().contains("cannot prove")
    });
    assert_eq!(
        proxy.get("/_admin/ready").status,
        503,
        "a rollout must stop here"
    );
    assert_eq!(
        proxy.get("/checkpoint").status,
        503,
        "smaller, and nobody can prove it a prefix"
    );
    upstream.becomes(&fork, 71_000);
    eventually("the fork is found out", || {
        !proxy.printed("split view; the trusted").is_empty()
    });
    assert_eq!(proxy.get("/checkpoint").status, 502);
    assert_eq!(find(cache.path(), "offered.checkpoint").len(), 1);
    drop(log);
    let honest = Arc::new(FixtureLog::with_entries(71_000).signed_by(9));
    upstream.becomes(&honest, 71_000);
    eventually("the same history is followed", || {
        proxy.get("/checkpoint").status == 200
    });
}

#[test]
fn without_keys_a_log_is_who_answers_first_and_has_one_history_all_the_same() {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let not_its_key = FixtureLog::with_entries(1).signed_by(9).vkey();
    let more = "  danger_accept_unsigned: true\n  tuf: {validate_checkpoint_signature: false}\n";
    let proxy = Proxy::start(&upstream.url(), &not_its_key, cache.path(), more);
    eventually("it is followed", || proxy.get("/checkpoint").status == 200);
    assert_eq!(
        proxy.get("/checkpoint").header("tile-proxy-trust"),
        Some("unsigned")
    );
    assert_eq!(proxy.printed("danger_accept_unsigned").len(), 1);
    assert_eq!(proxy.get("/tile/0/001").status, 200);
    upstream.lies_about("tile/0/002", Answer::Body(vec![0; 8_192]));
    assert_eq!(proxy.get("/tile/0/002").status, 502);
    let fork = Arc::new(FixtureLog::forked(60_000, 70_500).signed_by(9));
    upstream.becomes(&fork, 70_500);
    eventually("the fork is found out", || {
        !proxy.printed("split view; the trusted").is_empty()
    });
    assert_eq!(proxy.stop(), Some(0));
    // Taken up again; and not any more once there is a key.
    upstream.becomes(&log, 70_000);
    let proxy = Proxy::ready("http://rome.invalid/", &not_its_key, cache.path());
    assert_eq!(proxy.get("/checkpoint").status, 503);
    assert_eq!(proxy.stop(), Some(0));
    let proxy = Proxy::start("http://rome.invalid/", &not_its_key, cache.path(), more);
    eventually("it is served", || proxy.get("/checkpoint").status == 200);
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 70_000);
}

#[test]
fn a_split_view_is_kept_as_evidence_and_not_followed() {
    for (forked_size, case) in [
        (70_000, "the same size"),
        (70_500, "larger"),
        (69_000, "smaller"),
    ] {
        let log = Arc::new(FixtureLog::with_entries(70_000));
        let upstream = Upstream::serving(&log);
        let cache = cache_directory();
        let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
        let trusted = proxy.get("/checkpoint").body;
        assert_eq!(size_of(&trusted), 70_000);
        assert_eq!(proxy.get("/tile/0/269").status, 200); // for the proof of the smaller one
        let fork = Arc::new(FixtureLog::forked(60_000, forked_size));
        upstream.becomes(&fork, fork.size());
        let series = "tile_proxy_split_views_total{log=\"default\"}";
        eventually(case, || proxy.metric(series) >= 1.0);
        let says = "split view; the trusted checkpoint stays served";
        eventually("it is said", || proxy.printed(says).len() == 1);
        assert_eq!(proxy.get("/checkpoint").body, trusted, "{case}");
        let kept = find(cache.path(), "offered.checkpoint");
        assert_eq!(kept.len(), 1, "{case}");
        let offered = std::fs::read(&kept[0]).expect("readable");
        assert_eq!(offered, fork.checkpoint(fork.size()), "{case}");
        assert_eq!(
            std::fs::read(kept[0].with_file_name("trusted.checkpoint")).ok(),
            Some(trusted)
        );
        eventually("its state says so", || proxy.log_state() == "SplitView");
    }
}

#[test]
fn a_split_view_is_its_logs_state_until_the_evidence_is_taken_away() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    eventually("it is followed", || proxy.log_state() == "Fresh");
    let fork = Arc::new(FixtureLog::forked(200, 300));
    upstream.becomes(&fork, fork.size());
    eventually("the fork is seen", || proxy.log_state() == "SplitView");
    assert_eq!(proxy.stop(), Some(0));
    // It is no less true when the log is as it was, nor after a restart.
    upstream.becomes(&log, 300);
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    assert_eq!(proxy.get("/checkpoint").status, 200);
    assert_eq!(proxy.log_state(), "SplitView");
    let kept = find(cache.path(), "offered.checkpoint");
    let kept = kept[0].parent().expect("a directory");
    std::fs::remove_dir_all(kept).expect("removed");
    eventually("it was dealt with", || proxy.log_state() == "Fresh");
}

#[test]
fn a_log_of_which_nothing_is_trusted_fails() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let other = FixtureLog::with_entries(1).signed_by(9).vkey();
    let proxy = Proxy::ready(&upstream.url(), &other, cache.path());
    assert_eq!(proxy.get("/checkpoint").status, 502);
    eventually("its state says so", || proxy.log_state() == "Failing");
}

#[test]
fn a_checkpoint_that_is_not_the_logs_is_refused() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let other_origin =
        log.sign("oslo.example/2026h1\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n");
    let mut flipped = log.checkpoint(300);
    flipped[25] ^= 1;
    for (lie, status, says) in [
        (Answer::Body(flipped), 502, "does not verify"),
        (Answer::Body(b"<html>".to_vec()), 502, "not a signed note"),
        (
            Answer::Body(vec![b'x'; 70_000]),
            503,
            "more than 65536 bytes",
        ),
        (
            Answer::Body(log.sign("rome.example/2026h1\n300\n")),
            502,
            "not a checkpoint",
        ),
        (
            Answer::Body(other_origin),
            502,
            "is of `oslo.example/2026h1`",
        ),
        (Answer::Status(404), 503, "does not have it"),
    ] {
        let upstream = Upstream::serving(&log);
        upstream.lies_about("checkpoint", lie);
        let cache = cache_directory();
        let proxy = Proxy::start(
            &upstream.url(),
            &log.vkey(),
            cache.path(),
            "  origin: rome.example/2026h1\n",
        );
        eventually("the proxy is ready", || {
            proxy.get("/_admin/ready").status == 200
        });
        let response = proxy.get("/checkpoint");
        assert_eq!(response.status, status, "{says}: {}", response.text());
        assert!(
            response.text().contains(says),
            "{says}: {}",
            response.text()
        );
        upstream.tells_the_truth();
        eventually("the truth is followed", || {
            proxy.get("/checkpoint").status == 200
        });
    }
}

#[test]
fn wrong_edge_tiles_accuse_the_upstream_and_not_the_log() {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    let at = |path: &str| log.get(path, 70_000, false).expect("there");
    let edge = "tile/1/001.p/17";
    let mut flipped = at(edge);
    flipped[40] ^= 1;
    for (lie, status, says) in [
        (Answer::Body(flipped), 502, "checkpoint"),
        (
            Answer::Body(at(edge)[..16 * 32].to_vec()),
            502,
            "checkpoint",
        ), // a narrower one
        (Answer::Body(at("tile/1/000")), 502, "checkpoint"), // a full one
        (
            Answer::Body(at("tile/1/000")[..17 * 32].to_vec()),
            502,
            "checkpoint",
        ), // of elsewhere
        (Answer::Body(b"<html>".to_vec()), 502, "checkpoint"),
        (Answer::Body(Vec::new()), 502, "checkpoint"),
        (Answer::Bomb(64 << 20), 503, "more than 8192 bytes"),
        (Answer::Endless, 503, "more than 8192 bytes"),
        (Answer::Reset(at(edge)), 503, "cannot read"),
        (Answer::Drip(at(edge)), 503, ""),
        (Answer::Status(404), 503, "does not have it"),
        (Answer::Status(500), 503, "answered 500"),
        (
            Answer::Redirect("http://oslo.invalid/".to_owned()),
            503,
            "to another host",
        ),
    ] {
        let upstream = Upstream::serving(&log);
        let case = short(&lie);
        upstream.lies_about(edge, lie);
        let cache = cache_directory();
        let url = upstream.url();
        let more = format!(
            "  upstreams: [{{name: rome, url: \"{url}\", timeout: 3s}}]\n  \
             failover: {{retry_count: 0}}\n"
        );
        let proxy = Proxy::start_with(&log.vkey(), cache.path(), &more);
        eventually("the proxy is ready", || {
            proxy.get("/_admin/ready").status == 200
        });
        let response = proxy.get("/checkpoint");
        assert_eq!(response.status, status, "{case}: {}", response.text());
        eventually("it is said", || {
            let said = proxy.printed("checkpoint not refreshed");
            said.iter().any(|line| line.contains(says))
        });
        let labels = "{kind=\"edge\",log=\"default\",upstream=\"rome\"}";
        let lies = proxy.metric(&format!("tile_proxy_verify_failures_total{labels}"));
        assert_eq!(lies > 0.0, status == 502, "{case}: {lies}");
        let healthy = "tile_proxy_upstream_healthy{log=\"default\",upstream=\"rome\"}";
        assert_eq!(proxy.metric(healthy), 0.0, "{case}");
        // Neither the checkpoint nor anything that it would vouch for was kept, nor called a fork.
        for name in ["70000.checkpoint", "70000.edge", "offered.checkpoint"] {
            assert!(find(cache.path(), name).is_empty(), "{case}: {name}");
        }
        upstream.tells_the_truth();
        eventually("the checkpoint is served", || {
            proxy.get("/checkpoint").status == 200
        });
    }
}

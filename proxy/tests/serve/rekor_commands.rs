//! Commands on a cache with a Rekor v1 log in it: all of its shards are meant.

use std::{fs, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    find,
    rekor::{LOG, V1, by_index, entry, follow, get, honest, tree_size},
    world::{
        FixtureLog, Outcome, Proxy, RekorLog, RekorServer, Upstream, cache_directory, eventually,
        run, tile_proxy,
    },
};

/// Two shards of a log in a cache, with these entries, by position in the whole log; nobody has it.
fn two_shards(more: &str) -> ([RekorLog; 2], Upstream, TempDir) {
    let old = RekorLog::with_entries(10).shard(7, 0);
    let active = RekorLog::with_entries(20).shard(8, 10);
    let shards = [old.clone(), active.clone()];
    let upstream = Upstream::rekor(RekorServer::of_shards(shards.to_vec()));
    let cache = cache_directory();
    let proxy = follow(
        &upstream.url(),
        &active,
        cache.path(),
        &format!("{V1}{more}"),
    );
    for index in [1, 2, 13] {
        entry(&get(&proxy, &by_index(index)));
    }
    assert_eq!(proxy.stop(), Some(0));
    (shards, upstream, cache)
}

/// Kinds of resources that a check found in each shard, by origin: proven, damaged, unprovable.
fn checked(outcome: &Outcome, kind: &str) -> Vec<(String, [u64; 3])> {
    let output = outcome.json();
    let logs = output["logs"].as_array().expect("a list");
    let count = |log: &Value, what: &str| log[kind][what].as_u64().expect("a number");
    logs.iter()
        .map(|log| {
            let counts = ["proven", "damaged", "unprovable"].map(|what| count(log, what));
            (log["origin"].as_str().expect("text").to_owned(), counts)
        })
        .collect()
}

#[test]
fn fsck_proves_every_entry_of_every_shard_and_finds_what_is_damaged() {
    for more in [
        "",
        "  origin: rekor.example\n",
        "  origin: rekor.example - 7\n",
    ] {
        let ([old, active], _upstream, cache) = two_shards(more);
        let named = |entries: [[u64; 3]; 2]| {
            let origins = ["rekor.example - 7", "rekor.example - 8"].map(str::to_owned);
            let mut named: Vec<_> = origins.into_iter().zip(entries).collect();
            named.sort();
            named
        };
        let sorted = |outcome: &Outcome, kind: &str| {
            let mut found = checked(outcome, kind);
            found.sort();
            found
        };
        let whole = run("fsck", cache.path(), &["--json"]);
        assert_eq!(whole.code, Some(0), "{whole:?}");
        assert_eq!(sorted(&whole, "entries"), named([[2, 0, 0], [1, 0, 0]]));
        assert_eq!(sorted(&whole, "checkpoints"), named([[1, 0, 0]; 2]));
        assert_eq!(sorted(&whole, "edges"), named([[0, 0, 0]; 2]));
        for log in whole.json()["logs"].as_array().expect("a list") {
            assert_eq!(
                (&log["log"], &log["strays"]),
                (&json!("default"), &json!([]))
            );
        }

        // A flipped bit, another entry in its place, and one that the log never signed.
        let file = |log: &RekorLog, index: usize| {
            let leaf = &log.uuid(index).to_string()[16..];
            // The same leaves are in both shards.
            let files = find(cache.path(), &format!("{leaf}.json"));
            assert_eq!(files.len(), 1, "{files:?}");
            files[0].clone()
        };
        let rotten = fs::read_to_string(file(&old, 1)).expect("stored");
        fs::write(
            file(&old, 1),
            rotten.replacen("\"body\":\"e", "\"body\":\"f", 1),
        )
        .expect("written");
        let moved = old.entry(5, 10).to_json();
        fs::write(file(&old, 2), moved).expect("written");
        let mut forged = active.entry(3, 20);
        forged.integrated_time += 1;
        fs::write(file(&active, 3), forged.to_json()).expect("written");
        let damaged = run("fsck", cache.path(), &["--json"]);
        assert_eq!(damaged.code, Some(1), "{damaged:?}");
        assert_eq!(sorted(&damaged, "entries"), named([[0, 2, 0], [0, 1, 0]]));
        let repaired = run("fsck", cache.path(), &["--json", "--repair"]);
        assert_eq!(repaired.code, Some(1), "{repaired:?}");
        let clean = run("fsck", cache.path(), &["--json"]);
        assert_eq!(clean.code, Some(0), "{clean:?}");
        assert_eq!(sorted(&clean, "entries"), named([[0, 0, 0]; 2]));
        assert_eq!(sorted(&clean, "checkpoints"), named([[1, 0, 0]; 2]));
    }
}

#[test]
fn without_the_key_nothing_is_damaged_and_nothing_is_proven() {
    let ([old, _], _upstream, cache) = two_shards("");
    fs::write(cache.path().join("log.pem"), old.signed_by(1).pem()).expect("written");
    let outcome = run("fsck", cache.path(), &["--json"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let mut entries = checked(&outcome, "entries");
    entries.sort();
    assert_eq!(entries.iter().map(|(_, counts)| counts[2]).sum::<u64>(), 3);
    assert!(entries.iter().all(|(_, counts)| counts[0] + counts[1] == 0));
}

#[test]
fn what_is_stored_of_all_shards_is_pruned_by_the_name_of_the_log() {
    let (_shards, upstream, cache) = two_shards("");
    let pruned = run("prune", cache.path(), &["--log", "default"]);
    assert_eq!(pruned.code, Some(0), "{pruned:?}");
    let line = pruned.stdout.lines().find(|line| line.contains("entries"));
    assert!(line.is_some_and(|line| line.contains(" 3 ")), "{pruned:?}");
    let outcome = run("fsck", cache.path(), &["--json"]);
    assert!(
        checked(&outcome, "entries")
            .iter()
            .all(|(_, counts)| *counts == [0; 3])
    );
    // The tree heads stay: nothing smaller is ever served.
    assert_eq!(checked(&outcome, "checkpoints").len(), 2);
    drop(upstream);
}

#[test]
fn a_sync_has_nothing_to_do_and_a_refresh_asks_the_log() {
    let (log, upstream, _cache, proxy) = honest(20, "");
    let synced = tile_proxy(
        ["sync", "--replica", &format!("http://{}", proxy.address())].map(str::to_owned),
    );
    assert_eq!(synced.code, Some(0), "{synced:?}");
    let before = upstream.requests(LOG);
    let refreshed = proxy.send("POST", "/_admin/refresh", "");
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    assert!(upstream.requests(LOG) > before);
    assert_eq!(upstream.requests("checkpoint"), 0);
    upstream.disappears();
    let refreshed = proxy.send("POST", "/_admin/refresh", "");
    assert_eq!(refreshed.status, 503, "{}", refreshed.text());
    assert_eq!(tree_size(&proxy), log.size() as u64);
}

#[test]
fn a_copy_of_the_cache_is_proven_elsewhere_and_served_offline_as_an_export_cannot_be() {
    let ([old, active], upstream, cache) = two_shards("");
    drop(upstream);
    for more in [&["--log", "default"][..], &[]] {
        let out = cache.path().join("export");
        let out = out.display().to_string();
        let arguments = [&["--format", "bundle", "--out", &out], more].concat();
        let exported = run("export", cache.path(), &arguments);
        assert_eq!(exported.code, Some(1), "{exported:?}");
        assert!(
            exported.stderr.contains("is a Rekor v1 log"),
            "{exported:?}"
        );
        assert!(!cache.path().join("export").exists());
    }

    let elsewhere = cache_directory();
    // With both names of each entry.
    let copied = Command::new("cp")
        .arg("-a")
        .args([cache.path().join("cache"), elsewhere.path().join("cache")])
        .status();
    assert!(copied.is_ok_and(|status| status.success()));
    let more = format!("{V1}  mode: offline\n");
    let proxy = follow("http://rome.invalid/", &active, elsewhere.path(), &more);
    let checked = run("fsck", elsewhere.path(), &["--json"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for (index, uuid) in [(1, old.uuid(1)), (13, active.uuid(3))] {
        assert_eq!(entry(&get(&proxy, &by_index(index))).uuid, uuid);
        // By both forms of its name.
        for name in [uuid.to_string(), uuid.to_string()[16..].to_owned()] {
            assert_eq!(get(&proxy, &format!("{LOG}/entries/{name}")).status, 200);
        }
    }
    let absent = get(&proxy, &by_index(5));
    assert_eq!(absent.status, 503, "{}", absent.text());
}

#[test]
fn all_shards_together_have_the_share_of_their_log() {
    // 28 MiB as JSON, in halves that are each less than the 16 MiB that the log may have.
    let bodies = |shard: u8| {
        let body = |i| [&[shard, i][..], &vec![b'x'; 1 << 20]].concat();
        (0..10).map(body).collect()
    };
    let old = RekorLog::of(bodies(7)).shard(7, 0);
    let active = RekorLog::of(bodies(8)).shard(8, 10);
    let upstream = Upstream::rekor(RekorServer::of_shards(vec![old, active.clone()]));
    let cache = cache_directory();
    let key = cache.path().join("log.pem");
    fs::write(&key, active.pem()).expect("written");
    let more = format!(
        "  logs: [{{name: rome, kind: rekor-v1, public_keys: ['file:{}'], upstreams: [{{url: '{}'}}]}}, \
         {{name: oslo, cache_share: 2, public_keys: ['{}'], upstreams: [{{url: 'http://oslo.invalid/'}}]}}]\n",
        key.display(),
        upstream.url(),
        FixtureLog::with_entries(1).vkey(),
    );
    let environment = [("TILE_PROXY__CACHE__MAX_SIZE", "48Mi")];
    let proxy = Proxy::start_bare(&environment, cache.path(), &more);
    eventually("the log is followed", || {
        proxy.get("/rome/api/v1/log").status == 200
    });
    for index in 0..20 {
        let served = proxy.get(&format!("/rome/{}", by_index(index)));
        assert_eq!(served.status, 200, "{index}: {}", served.status);
    }
    let taken = || proxy.metric("tile_proxy_cache_size_bytes{log=\"rome\"}");
    eventually("there is room made", || {
        // As it goes on being used.
        proxy.get(&format!("/rome/{}", by_index(19)));
        taken() <= f64::from(16 << 20)
    });
    assert!(taken() >= f64::from(4 << 20), "and not for nothing");
}

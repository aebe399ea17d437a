//! What kinds of upstream there are, and what is said about those that cannot be followed.

use std::{fs, path::Path, sync::Arc};

use crate::world::{Answer, FixtureLog, Proxy, Upstream, cache_directory, eventually};

const V1_LOG: &[u8] = br#"{"rootHash": "00", "treeSize": 3, "signedTreeHead": "x", "treeID": "1"}"#;

/// A proxy for an upstream, with further keys.
fn start(upstream: &str, vkey: &str, cache: &Path, more: &str) -> Proxy {
    let proxy = Proxy::start(upstream, vkey, cache, more);
    eventually("the proxy is ready", || {
        proxy.get("/_admin/ready").status == 200
    });
    proxy
}

#[test]
fn what_only_says_that_it_is_rekor_v1_is_not_followed_as_that() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let upstream = Upstream::serving(&log);
    upstream.always(Answer::Status(404));
    upstream.lies_about("api/v1/log", Answer::Body(V1_LOG.to_vec()));
    let cache = cache_directory();
    let proxy = start(&upstream.url(), &log.vkey(), cache.path(), "");
    eventually("it is found out", || {
        !proxy.printed("this is a Rekor v1 log").is_empty()
    });
    let response = proxy.get("/checkpoint");
    assert_eq!(response.status, 502, "{}", response.text());
    assert!(
        response.text().contains("not an answer of Rekor v1"),
        "{}",
        response.text()
    );
    let seen = upstream.requests("checkpoint");
    eventually("it is asked again", || {
        upstream.requests("checkpoint") > seen + 2
    });
    assert_eq!(proxy.printed("this is a Rekor v1 log").len(), 1);
    assert_eq!(proxy.printed("checkpoint not refreshed").len(), 1);
    let stats = proxy.get("/_admin/cache/stats").text();
    assert!(stats.contains("not an answer of Rekor v1"), "{stats}");
    // It becomes a log with tiles, and is followed.
    upstream.tells_the_truth();
    eventually("it is followed", || proxy.get("/checkpoint").status == 200);
    assert_eq!(proxy.get("/tile/0/000").status, 200);
}

#[test]
fn rekor_v2_is_found_below_its_prefix_and_told_where_else_it_may_be() {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    for (kind, finds_out) in [("auto", true), ("rekor-v2", false)] {
        let upstream = Upstream::serving(&log);
        upstream.moves_below("api/v2/");
        let cache = cache_directory();
        let more = format!("  kind: {kind}\n");
        let proxy = start(&upstream.url(), &log.vkey(), cache.path(), &more);
        eventually("it is followed", || proxy.get("/checkpoint").status == 200);
        for path in ["tile/0/001", "api/v2/tile/0/002", "tile/entries/000"] {
            assert_eq!(proxy.get(&format!("/{path}")).status, 200, "{kind} {path}");
        }
        assert_eq!(upstream.requests("checkpoint") == 1, finds_out, "{kind}");
        assert_eq!(upstream.requests("api/v1/log"), 0, "{kind}");
    }
    // The server itself only takes writes.
    let server = Upstream::serving(&log);
    server.always(Answer::Status(501));
    let cache = cache_directory();
    let proxy = start(&server.url(), &log.vkey(), cache.path(), "");
    let response = proxy.get("/checkpoint");
    assert_eq!(response.status, 502, "{}", response.text());
    assert!(
        response.text().contains("`tile_base_url`"),
        "{}",
        response.text()
    );
    let bucket = Upstream::serving(&log);
    for kind in ["auto", "rekor-v2"] {
        let cache = cache_directory();
        let more = format!("  kind: {kind}\n  tile_base_url: \"{}\"\n", bucket.url());
        let proxy = start(&server.url(), &log.vkey(), cache.path(), &more);
        eventually("it is followed", || proxy.get("/checkpoint").status == 200);
        assert_eq!(proxy.get("/tile/0/001").status, 200, "{kind}");
    }
}

#[test]
fn a_key_need_not_be_called_like_its_log() {
    for (origin, signer) in [
        ("rekor.test - 123", "rekor.test"), // as Rekor v1 writes it
        ("rome.example/2026h1", "key-of-rome"),
    ] {
        let log = Arc::new(FixtureLog::with_entries(300).called(origin, signer));
        let upstream = Upstream::serving(&log);
        let cache = cache_directory();
        let more = format!("  origin: \"{origin}\"\n");
        for more in ["", &more] {
            let proxy = start(&upstream.url(), &log.vkey(), cache.path(), more);
            eventually("it is followed", || proxy.get("/checkpoint").status == 200);
            assert_eq!(proxy.get("/checkpoint").body, log.checkpoint(300));
            assert_eq!(proxy.stop(), Some(0)); // and taken up again
        }
    }
}

#[test]
fn a_directory_is_an_upstream() {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    let world = cache_directory();
    let directory = world.path().join("log");
    let write = |path: &str, bytes: &[u8]| {
        let file = directory.join(path);
        fs::create_dir_all(file.parent().expect("below")).expect("made");
        fs::write(file, bytes).expect("written");
    };
    let truth = |path: &str| log.get(path, 70_000, false).expect("there");
    for path in [
        "checkpoint",
        "tile/0/273.p/112",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
        "tile/1/000",
        "tile/0/001",
        "tile/entries/001",
    ] {
        write(path, &truth(path));
    }
    let url = format!("file://{}/", directory.display());
    let proxy = start(&url, &log.vkey(), world.path(), "");
    eventually("it is followed", || proxy.get("/checkpoint").status == 200);
    for path in ["tile/0/001", "tile/entries/001", "tile/0/273.p/100"] {
        assert_eq!(proxy.get(&format!("/{path}")).body, truth(path), "{path}");
    }
    // In the tree, and not there: never 404.
    assert_eq!(proxy.get("/tile/0/002").status, 503);
    // A directory is not a file, and a disk is believed no more than a network.
    fs::create_dir_all(directory.join("tile/0/003")).expect("made");
    assert_eq!(proxy.get("/tile/0/003").status, 503);
    write("tile/0/004", &truth("tile/0/005"));
    assert_eq!(proxy.get("/tile/0/004").status, 502);
    write("tile/0/006", &[&truth("tile/0/006")[..], &[0]].concat());
    assert_eq!(proxy.get("/tile/0/006").status, 503);
}

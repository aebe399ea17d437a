//! Syncs: what they bring, what they ask the log for, and what a restart costs them.

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    honest,
    world::{Answer, FixtureLog, Proxy, Upstream, cache_directory, eventually, run},
};

/// Resources of the whole of a log of 70,000 entries: 273 full tiles at level 0 and one above, and
/// 274 bundles.
const WHOLE: u64 = 274 + 274;

/// The keys of a proxy whose syncs are of everything, and start when they are told to.
const WHOLE_LOG: &str = "  sync: {enabled: false, depth: 70000}\n";

/// A world with a log of 70,000 entries.
fn world() -> (Arc<FixtureLog>, Upstream, tempfile::TempDir, Proxy) {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let proxy = whole_log(&upstream, &log, cache.path());
    (log, upstream, cache, proxy)
}

fn whole_log(upstream: &Upstream, log: &FixtureLog, cache: &Path) -> Proxy {
    let proxy = Proxy::start(&upstream.url(), &log.vkey(), cache, WHOLE_LOG);
    eventually("the proxy is ready", || {
        proxy.get("/_admin/ready").status == 200
    });
    proxy
}

/// Starts a sync, or joins the one that runs.
fn start(proxy: &Proxy) -> Value {
    let started = proxy.send("POST", "/_admin/cache/sync", "");
    assert_eq!(started.status, 202, "{}", started.text());
    serde_json::from_slice(&started.body).expect("JSON")
}

fn progress(proxy: &Proxy) -> Value {
    serde_json::from_slice(&proxy.get("/_admin/cache/sync").body).expect("JSON")
}

#[test]
fn a_sync_brings_what_the_newest_entries_and_their_proofs_need() {
    let (log, upstream, _cache, proxy) = honest(70_000);
    assert_eq!(proxy.send("POST", "/_admin/cache/sync", "").status, 202);
    eventually("the sync ends", || {
        proxy
            .get("/_admin/cache/sync")
            .text()
            .contains("\"state\": \"succeeded\"")
    });
    upstream.disappears();
    for path in [
        "tile/1/000",
        "tile/0/235",
        "tile/entries/235",
        "tile/entries/273.p/112",
    ] {
        assert_eq!(
            Some(proxy.get(&format!("/{path}")).body),
            log.get(path, 70_000, false),
            "{path}"
        );
    }
    assert_eq!(
        proxy.get("/tile/0/200").status,
        503,
        "older than the newest 10,000"
    );
    let command = std::process::Command::new(env!("CARGO_BIN_EXE_tile-proxy"))
        .args(["sync", "--replica", &format!("http://{}", proxy.address())])
        .output()
        .expect("the binary starts");
    assert!(
        command.status.success(),
        "everything is cached: {command:?}"
    );
}

#[test]
fn a_sync_that_was_cut_off_goes_on_where_it_was() {
    let (log, upstream, cache, proxy) = world();
    upstream.takes(Duration::from_millis(10));
    start(&proxy);
    eventually("a third is there", || {
        progress(&proxy)["done"].as_u64() > Some(WHOLE / 3)
    });
    let done = progress(&proxy)["done"].as_u64().expect("a number");
    // What a slow disk had no room for was served, and is asked for again.
    let refused = proxy.metric("tile_proxy_cache_store_refused_total{log=\"default\"}") as u64;
    assert_eq!(proxy.stop(), Some(0));
    let before = upstream.tile_requests() as u64;
    assert!(before < WHOLE, "it was not cut off");
    let stored = stored(cache.path());
    assert!(
        stored + refused + CONCURRENCY >= done,
        "{done} resources were done; {stored} are stored, {refused} were not taken"
    );

    upstream.takes(Duration::ZERO);
    let proxy = whole_log(&upstream, &log, cache.path());
    start(&proxy);
    eventually("the rest is there", || {
        progress(&proxy)["state"] == "succeeded"
    });
    assert_eq!(progress(&proxy)["done"].as_u64(), Some(WHOLE));
    let edge = 3; // partial tiles, with the checkpoint
    assert_eq!(
        upstream.paths().len() as u64,
        WHOLE + edge + 1,
        "every path, and the checkpoint"
    );
    assert_eq!(
        upstream.tile_requests() as u64 - before,
        WHOLE - stored,
        "each resource that is not stored is asked for once, of {WHOLE}, with {stored} stored"
    );
}

/// Tiles and bundles on the disk of a proxy that has stopped.
fn stored(cache: &Path) -> u64 {
    let report = run("fsck", cache, &["--json"]).json();
    ["tiles", "bundles"]
        .iter()
        .flat_map(|kind| ["proven", "unprovable"].map(|count| (kind, count)))
        .map(|(kind, count)| report["logs"][0][kind][count].as_u64().expect("a number"))
        .sum()
}

/// Resources that a sync fetches at once.
const CONCURRENCY: u64 = 8;

#[test]
fn one_sync_at_a_time_and_a_bounded_number_of_requests() {
    let (_log, upstream, _cache, proxy) = world();
    upstream.takes(Duration::from_millis(20));
    let first = start(&proxy);
    eventually("it is under way", || {
        progress(&proxy)["done"].as_u64() > Some(40)
    });
    let second = start(&proxy);
    assert_eq!(
        (&second["id"], &second["state"]),
        (&first["id"], &"running".into())
    );
    eventually("it ends", || progress(&proxy)["state"] == "succeeded");
    // A bundle and the tile above it are asked for together; the checkpoint is asked for besides.
    assert!(
        upstream.most_at_once() as u64 <= 2 * CONCURRENCY + 1,
        "{}",
        upstream.most_at_once()
    );
    assert!(upstream.most_at_once() > 1, "one after the other");
    // What nobody asked for is neither a hit nor a miss.
    assert_eq!(
        proxy.metric("tile_proxy_cache_misses_total{log=\"default\"}"),
        0.0
    );
    assert_eq!(proxy.get("/tile/0/003").status, 200);
    assert_eq!(
        proxy.metric("tile_proxy_cache_hits_total{log=\"default\"}"),
        1.0
    );
}

#[test]
fn a_sync_that_cannot_have_everything_says_what_is_missing_and_brings_the_rest() {
    let (log, upstream, _cache, proxy) = world();
    upstream.lies_about("tile/entries/100", Answer::Status(500));
    start(&proxy);
    eventually("it ends", || progress(&proxy)["state"] == "failed");
    let ended = progress(&proxy);
    assert_eq!(ended["done"].as_u64(), Some(WHOLE - 1));
    let error = ended["error"].as_str().unwrap_or_default();
    assert!(error.starts_with("tile/entries/100: "), "{error}");
    upstream.disappears();
    assert_eq!(
        Some(proxy.get("/tile/entries/101").body),
        log.get("tile/entries/101", 70_000, false)
    );
    let never = proxy.metric("tile_proxy_sync_last_success_timestamp{log=\"default\"}");
    assert_eq!(never, 0.0);
}

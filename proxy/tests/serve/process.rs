//! The process and its disk: absence of the log, restarts, crashes, damage, bad configuration.

use std::sync::Arc;

use crate::{
    find, honest, size_of,
    world::{FixtureLog, Proxy, Upstream, cache_directory, eventually},
};

#[test]
fn without_the_log_what_is_cached_is_served_also_after_a_restart() {
    let (log, upstream, cache, proxy) = honest(70_000);
    for path in [
        "/tile/0/003",
        "/tile/entries/003",
        "/tile/entries/273.p/112",
    ] {
        assert_eq!(proxy.get(path).status, 200);
    }
    upstream.disappears();
    let served_on = |proxy: &Proxy| {
        for path in [
            "checkpoint",
            "tile/0/003",
            "tile/0/003.p/9",
            "tile/1/000",
            "tile/0/273.p/112",
            "tile/entries/003",
            "tile/entries/003.p/9",
            "tile/entries/273.p/7",
        ] {
            let response = proxy.get(&format!("/{path}"));
            assert_eq!(response.status, 200, "{path}: {}", response.text());
            assert_eq!(Some(response.body), log.get(path, 70_000, false), "{path}");
        }
        for path in [
            "/tile/0/004",
            "/tile/entries/004",
            "/tile/0/999",
            "/tile/0/273.p/113",
        ] {
            // 404 would tell a client that it does not exist; once the log is known to be gone,
            // nobody can say that.
            eventually(path, || proxy.get(path).status == 503);
            assert!(proxy.get(path).header("retry-after").is_some(), "{path}");
        }
        assert_eq!(
            proxy.get("/_admin/ready").status,
            200,
            "an absent log is no reason to be unready"
        );
    };
    served_on(&proxy);
    assert_eq!(proxy.stop(), Some(0));
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    served_on(&proxy);
    upstream.returns();
    eventually("the log is asked again", || {
        proxy.get("/tile/0/004").status == 200
    });
}

#[test]
fn a_crash_loses_nothing_that_a_checkpoint_needs() {
    let (log, upstream, cache, proxy) = honest(70_000);
    assert_eq!(proxy.get("/tile/0/003").status, 200);
    eventually("the tile is durable", || {
        proxy.get("/_admin/cache/tiles/0/3").status == 200
    });
    proxy.kill();
    upstream.disappears();
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 70_000);
    assert_eq!(
        Some(proxy.get("/tile/0/003").body),
        log.get("tile/0/003", 70_000, false)
    );
}

#[test]
fn a_damaged_slot_is_a_miss_and_never_an_answer() {
    let (log, upstream, cache, proxy) = honest(70_000);
    assert_eq!(proxy.get("/tile/0/003").status, 200);
    assert_eq!(proxy.stop(), Some(0));
    let group = find(cache.path(), "0.tiles").into_iter().find(|path| {
        path.parent()
            .and_then(|level| level.file_name())
            .is_some_and(|level| level == "0")
    });
    let file = std::fs::File::options()
        .write(true)
        .open(group.expect("stored"))
        .expect("there");
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", 3 * 8_192 + 77).expect("written");
    upstream.disappears();
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    assert_eq!(proxy.get("/tile/0/003").status, 503);
    upstream.returns();
    eventually("it is fetched again", || {
        proxy.get("/tile/0/003").status == 200
    });
    assert_eq!(
        Some(proxy.get("/tile/0/003").body),
        log.get("tile/0/003", 70_000, false)
    );
    assert!(proxy.metric("tile_proxy_cache_corrupt_total{log=\"default\"}") >= 1.0);
}

#[test]
fn a_damaged_checkpoint_is_not_replaced_by_an_older_one() {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    let upstream = Upstream::serving(&log);
    upstream.becomes(&log, 300);
    let cache = cache_directory();
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 300);
    upstream.becomes(&log, 70_000);
    eventually("it has grown", || {
        size_of(&proxy.get("/checkpoint").body) == 70_000
    });
    assert_eq!(proxy.stop(), Some(0));
    let edge = find(cache.path(), "70000.edge").remove(0);
    std::fs::write(edge, b"rot").expect("written");
    upstream.disappears();
    let proxy = Proxy::start(&upstream.url(), &log.vkey(), cache.path(), "");
    eventually("the damage is seen", || {
        !proxy.printed("does not fold to the root").is_empty()
    });
    assert_eq!(
        proxy.get("/checkpoint").status,
        503,
        "the older one would be a step back"
    );
    upstream.returns();
    eventually("the log repairs it", || {
        proxy.get("/checkpoint").status == 200
    });
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 70_000);
}

#[test]
fn a_second_process_waits_for_the_cache_alive_and_not_ready() {
    let (log, upstream, cache, first) = honest(300);
    let second = Proxy::start(&upstream.url(), &log.vkey(), cache.path(), "");
    eventually("it says that it waits", || {
        !second.printed("waiting for another process").is_empty()
    });
    assert_eq!(second.get("/_admin/health").status, 200);
    assert_eq!(second.get("/_admin/ready").status, 503);
    assert_eq!(second.get("/tile/0/000").status, 503);
    assert_eq!(first.stop(), Some(0));
    eventually("it takes over", || {
        second.get("/_admin/ready").status == 200
    });
}

#[test]
fn a_bad_configuration_stops_before_a_port_opens() {
    let directory = cache_directory();
    let file = directory.path().join("config.yaml");
    for (text, says) in [
        (
            "tile_proxy: {tuf: {enabled: true}}",
            "tile_proxy.tuf.url: is missing",
        ),
        (
            "tile_proxy: {upstream_url: 'https://log.example/'}",
            "tile_proxy.public_keys: the log has no key",
        ),
        (
            "tile_proxy: {cache: {size: 3}}",
            "tile_proxy.cache.size = 3: unknown field",
        ),
    ] {
        std::fs::write(&file, text).expect("written");
        let serve = std::process::Command::new(env!("CARGO_BIN_EXE_tile-proxy"))
            .args(["serve", "--config"])
            .arg(&file)
            .output()
            .expect("the binary starts");
        assert_eq!(serve.status.code(), Some(78), "{text}");
        let stderr = String::from_utf8_lossy(&serve.stderr);
        assert!(stderr.contains(says), "{text}: {stderr}");
    }
}

#[test]
fn a_rotated_key_is_taken_up_without_a_restart() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let keys = cache.path().join("keys");
    std::fs::write(&keys, log.vkey()).expect("written");
    let source = format!("file:{}", keys.display());
    let proxy = Proxy::ready(&upstream.url(), &source, cache.path());
    assert_eq!(proxy.get("/checkpoint").status, 200);

    let rotated = Arc::new(FixtureLog::with_entries(300).signed_by(9));
    std::fs::write(&keys, rotated.pem()).expect("written");
    eventually("the withdrawn key's note is not served", || {
        proxy.get("/checkpoint").status == 502
    });
    upstream.becomes(&rotated, 300);
    eventually("the new key's is", || {
        proxy.get("/checkpoint").status == 200
    });
    assert_eq!(proxy.get("/checkpoint").body, rotated.checkpoint(300));
    assert_eq!(
        proxy.get("/_admin/ready").status,
        200,
        "ready all the while"
    );
}

#[test]
fn an_idle_proxy_prints_nothing() {
    let (_log, upstream, _cache, proxy) = honest(300);
    assert_eq!(proxy.get("/checkpoint").status, 200);
    assert_eq!(proxy.get("/tile/0/000").status, 200);
    let printed = proxy.printed("");
    assert!(!printed.is_empty(), "it said that it listens");
    // Three refreshes that find nothing new, and three requests.
    let refreshes = upstream.requests("checkpoint");
    eventually("three refreshes", || {
        upstream.requests("checkpoint") >= refreshes + 3
    });
    for _ in 0..3 {
        assert_eq!(proxy.get("/tile/0/000").status, 200);
    }
    assert_eq!(proxy.printed(""), printed);
}

//! A log that tells the truth: what clients get, and what it costs the log.

use std::{sync::Arc, thread, time::Duration};

use crate::{
    honest, size_of,
    world::{Answer, FixtureLog, Proxy, Upstream, cache_directory, eventually, request},
};

#[test]
fn every_kind_of_resource_is_served_byte_for_byte() {
    let (log, _upstream, _cache, proxy) = honest(70_000);
    for path in [
        "checkpoint",
        "tile/0/000",
        "tile/0/272",
        "tile/1/000",
        "tile/2/000.p/1",   // an edge tile
        "tile/0/273.p/112", // an edge tile
        "tile/0/273.p/5",   // the beginning of one
        "tile/0/100.p/3",   // the beginning of a full tile
        "tile/entries/000",
        "tile/entries/273.p/112",
        "tile/entries/273.p/1",
        "tile/entries/100.p/200",
    ] {
        let response = proxy.get(&format!("/{path}"));
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        assert_eq!(Some(response.body), log.get(path, 70_000, false), "{path}");
    }
}

#[test]
fn answers_carry_the_headers_that_let_others_cache_them() {
    let (_log, _upstream, _cache, proxy) = honest(300);
    let checkpoint = proxy.get("/checkpoint");
    assert_eq!(
        checkpoint.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(checkpoint.header("cache-control"), Some("no-cache"));
    assert!(checkpoint.header("tile-proxy-checkpoint-age").is_some());
    assert_eq!(checkpoint.header("warning"), None);

    let tile = proxy.get("/tile/0/000");
    assert_eq!(
        tile.header("content-type"),
        Some("application/octet-stream")
    );
    assert_eq!(
        tile.header("cache-control"),
        Some("public, max-age=604800, immutable")
    );
    assert_eq!(tile.header("access-control-allow-origin"), Some("*"));
    let etag = tile.header("etag").expect("an entity tag").to_owned();
    let again = proxy.send("GET", "/tile/0/000", &format!("If-None-Match: {etag}\r\n"));
    assert_eq!((again.status, again.body.len()), (304, 0));
    let head = proxy.send("HEAD", "/tile/0/000", "");
    assert_eq!(
        (head.status, head.body.len(), head.header("content-length")),
        (200, 0, Some("8192"))
    );
}

#[test]
fn what_is_not_a_resource_gets_a_clear_answer_that_nobody_caches() {
    let (_log, upstream, _cache, proxy) = honest(300);
    assert_eq!(proxy.get("/checkpoint").status, 200); // its edge tiles are fetched by now
    let before = upstream.tile_requests();
    for (method, path, status) in [
        ("GET", "/tile/0/000.p/0", 400),
        ("GET", "/tile/0/x000/001", 400),
        ("GET", "/tile/64/000", 400),
        ("GET", "/tile/0/%30%30%30", 400),
        ("GET", "/tile/0/..%2f000", 400),
        ("GET", "/tile/8/000", 404),
        ("GET", "/tile/0/001", 404), // partial in this tree
        ("GET", "/tile/0/002", 404),
        ("GET", "/tile/0/x999/999/999", 400),
        ("GET", "/tile/0/x999/x999/999", 404),
        ("GET", "/tile/entries/001.p/45", 404), // the tree has 44 there
        ("GET", "/", 404),
        ("GET", "/checkpoint/", 404),
        ("POST", "/checkpoint", 405),
        ("DELETE", "/tile/0/000", 405),
    ] {
        let response = proxy.send(method, path, "");
        assert_eq!(
            response.status,
            status,
            "{method} {path}: {}",
            response.text()
        );
        assert_eq!(
            response.header("cache-control"),
            Some("no-store"),
            "{method} {path}"
        );
        assert_eq!(response.text().lines().count(), 1, "{method} {path}");
    }
    assert_eq!(
        upstream.tile_requests(),
        before,
        "none of these costs the log a tile"
    );
}

#[test]
fn two_hundred_clients_cost_the_log_one_request() {
    let (log, upstream, _cache, proxy) = honest(70_000);
    assert_eq!(proxy.get("/tile/1/000").status, 200); // the parent, so that only the tile is cold
    upstream.takes(Duration::from_millis(300));
    let address = proxy.address();
    let clients: Vec<_> = (0..200)
        .map(|_| thread::spawn(move || request(address, "GET", "/tile/0/042", "")))
        .collect();
    for client in clients {
        let response = client.join().expect("answered");
        assert_eq!(Some(response.body), log.get("tile/0/042", 70_000, false));
    }
    assert_eq!(upstream.requests("tile/0/042"), 1);
}

#[test]
fn every_width_of_a_cold_bundle_is_one_request() {
    let (log, upstream, _cache, proxy) = honest(70_000);
    assert_eq!(proxy.get("/checkpoint").status, 200);
    upstream.takes(Duration::from_millis(300));
    let address = proxy.address();
    let clients: Vec<_> = (1..=112)
        .map(|width| {
            let path = format!("/tile/entries/273.p/{width}");
            thread::spawn(move || request(address, "GET", &path, ""))
        })
        .collect();
    for (width, client) in (1..).zip(clients) {
        let response = client.join().expect("answered");
        let want = log.get(&format!("tile/entries/273.p/{width}"), 70_000, false);
        assert_eq!(Some(response.body), want, "width {width}");
    }
    assert_eq!(upstream.requests("tile/entries/273.p/112"), 1);
}

#[test]
fn a_slow_checkpoint_is_asked_for_once_however_many_wait() {
    let (_log, upstream, _cache, proxy) = honest(300);
    assert_eq!(proxy.get("/checkpoint").status, 200);
    upstream.takes(Duration::from_millis(1_500));
    let before = upstream.requests("checkpoint");
    let address = proxy.address();
    let clients: Vec<_> = (0..50)
        .map(|_| thread::spawn(move || request(address, "GET", "/tile/0/999", "").status))
        .collect();
    assert!(
        clients
            .into_iter()
            .all(|client| client.join().expect("answered") == 404)
    );
    // One under way when they came, one for those who came after it began, and the next tick's.
    assert!(upstream.requests("checkpoint") - before <= 3);
}

#[test]
fn partial_resources_that_the_log_has_deleted_are_served() {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    let upstream = Upstream::serving(&log);
    upstream.becomes(&log, 69_000);
    let cache = cache_directory();
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 69_000);
    // The log fills the tile and deletes its partials; it hides its new checkpoint for a while, as
    // a cache in front of it would.
    upstream.becomes(&log, 70_000);
    upstream.deletes_partials();
    upstream.lies_about("checkpoint", Answer::Body(log.checkpoint(69_000)));
    for path in [
        "tile/0/269.p/136",
        "tile/entries/269.p/136",
        "tile/entries/269.p/5",
    ] {
        let response = proxy.get(&format!("/{path}"));
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        assert_eq!(Some(response.body), log.get(path, 69_000, false), "{path}");
    }
}

#[test]
fn a_growing_log_is_followed_when_a_client_asks_for_more() {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    let upstream = Upstream::serving(&log);
    upstream.becomes(&log, 100);
    let cache = cache_directory();
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 100);
    for size in [256, 257, 300, 65_536, 70_000] {
        upstream.becomes(&log, size);
        eventually("the new size is served", || {
            size_of(&proxy.get("/checkpoint").body) == size
        });
    }
    assert_eq!(
        Some(proxy.get("/tile/0/272").body),
        log.get("tile/0/272", 70_000, false)
    );
}

#[test]
fn what_changes_something_needs_the_token_or_a_caller_from_here() {
    let (_log, _upstream, _cache, proxy) = honest(300);
    for (headers, status) in [
        ("", 200),
        ("Origin: http://evil.example\r\n", 403),
        ("X-Forwarded-For: 192.0.2.7\r\n", 403),
        ("Host: tiles.example\r\n", 403),
    ] {
        assert_eq!(
            proxy.send("POST", "/_admin/refresh", headers).status,
            status,
            "{headers}"
        );
    }
    let log = Arc::new(FixtureLog::with_entries(300));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let token = cache.path().join("token");
    std::fs::write(&token, "correct horse\n").expect("written");
    let more = format!("  admin: {{token: \"file:{}\"}}\n", token.display());
    let proxy = Proxy::start(&upstream.url(), &log.vkey(), cache.path(), &more);
    eventually("the proxy is ready", || {
        proxy.get("/_admin/ready").status == 200
    });
    for (headers, status) in [
        ("", 401),
        ("Authorization: Bearer wrong\r\n", 403),
        ("Authorization: Basic correct horse\r\n", 401),
        ("Authorization: Bearer correct horse\r\n", 202),
    ] {
        assert_eq!(
            proxy.send("POST", "/_admin/cache/sync", headers).status,
            status,
            "{headers}"
        );
    }
}

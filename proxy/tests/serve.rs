//! The real binary between scripted logs and plain HTTP clients.

mod world;

use std::{sync::Arc, thread, time::Duration};

use world::{Answer, FixtureLog, Proxy, Upstream, cache_directory, eventually};

/// A world with one honest log of `entries`, and a proxy that is ready.
fn honest(entries: usize) -> (Arc<FixtureLog>, Upstream, tempfile::TempDir, Proxy) {
    let log = Arc::new(FixtureLog::with_entries(entries));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    (log, upstream, cache, proxy)
}

fn size_of(checkpoint: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(checkpoint);
    text.lines()
        .nth(1)
        .and_then(|line| line.parse().ok())
        .expect("a tree size")
}

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
fn a_lie_is_neither_served_nor_kept() {
    type Lie = fn(&[u8], &[u8]) -> Answer; // from the truth, and from the truth of the next one
    fn flipped(bytes: &[u8], at: usize) -> Answer {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        Answer::Body(bytes)
    }
    let rows: [(&str, Lie, u16); 19] = [
        ("tile/0", |truth, _| flipped(truth, 0), 502),
        ("tile/0", |truth, _| flipped(truth, 8_191), 502),
        ("tile/0", |_, next| Answer::Body(next.to_vec()), 502),
        (
            "tile/0",
            |truth, _| Answer::Body(truth[..8_160].to_vec()),
            502,
        ),
        ("tile/0", |truth, _| Answer::Body(truth[..96].to_vec()), 502), // a partial tile's bytes
        (
            "tile/0",
            |_, _| Answer::Body(b"<html>come back later</html>".to_vec()),
            502,
        ),
        ("tile/0", |_, _| Answer::Body(Vec::new()), 502),
        // More than a tile can have is not read to its end.
        (
            "tile/0",
            |truth, _| Answer::Body([truth, &[0; 32]].concat()),
            503,
        ),
        ("tile/0", |truth, _| Answer::Reset(truth.to_vec()), 503),
        ("tile/0", |_, _| Answer::Status(500), 503),
        ("tile/0", |_, _| Answer::Status(403), 503),
        ("tile/0", |_, _| Answer::Status(429), 503),
        // It is in the tree, whatever the upstream says: never 404.
        ("tile/0", |_, _| Answer::Status(404), 503),
        ("tile/0", |_, _| Answer::Status(302), 503),
        ("tile/entries", |truth, _| flipped(truth, 5), 502),
        ("tile/entries", |truth, _| flipped(truth, 0), 502), // the length of the first entry
        ("tile/entries", |_, next| Answer::Body(next.to_vec()), 502),
        (
            "tile/entries",
            |truth, _| Answer::Body(truth[..truth.len() - 1].to_vec()),
            502,
        ),
        ("tile/entries", |_, _| Answer::Body(b"<html>".to_vec()), 502),
    ];
    let (log, upstream, _cache, proxy) = honest(70_000);
    for (i, (kind, lie, status)) in rows.into_iter().enumerate() {
        let truth = |i: usize| {
            log.get(&format!("{kind}/{i:03}"), 70_000, false)
                .expect("there")
        };
        let path = format!("{kind}/{i:03}");
        let answer = lie(&truth(i), &truth(i + 1));
        upstream.lies_about(&path, answer);
        let response = proxy.get(&format!("/{path}"));
        assert_eq!(
            response.status,
            status,
            "row {i}, {path}: {}",
            response.text()
        );
        assert_eq!(
            response.header("cache-control"),
            Some("no-store"),
            "row {i}"
        );
        assert_eq!(
            response.header("retry-after").is_some(),
            status == 503,
            "row {i}"
        );
        upstream.tells_the_truth();
        // The error is remembered for half a second, then the truth is fetched: nothing was kept.
        eventually("the truth is served", || {
            proxy.get(&format!("/{path}")).status == 200
        });
        assert_eq!(proxy.get(&format!("/{path}")).body, truth(i), "row {i}");
    }
    let failures = |kind: &str| {
        let labels = format!("{{kind=\"{kind}\",log=\"default\",upstream=\"127.0.0.1\"}}");
        proxy.metric(&format!("tile_proxy_verify_failures_total{labels}"))
    };
    assert_eq!((failures("tile"), failures("bundle")), (7.0, 5.0));
    assert_eq!(proxy.printed("upstream response rejected").len(), 12);
}

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
fn two_hundred_clients_cost_the_log_one_request() {
    let (log, upstream, _cache, proxy) = honest(70_000);
    assert_eq!(proxy.get("/tile/1/000").status, 200); // the parent, so that only the tile is cold
    upstream.takes(Duration::from_millis(300));
    let address = proxy.address();
    let clients: Vec<_> = (0..200)
        .map(|_| thread::spawn(move || world::request(address, "GET", "/tile/0/042", "")))
        .collect();
    for client in clients {
        let response = client.join().expect("answered");
        assert_eq!(Some(response.body), log.get("tile/0/042", 70_000, false));
    }
    assert_eq!(upstream.requests("tile/0/042"), 1);
}

#[test]
fn a_failing_log_is_asked_once_for_two_hundred_clients() {
    let (_log, upstream, _cache, proxy) = honest(70_000);
    upstream.lies_about("tile/0/042", Answer::Status(500));
    upstream.takes(Duration::from_millis(200));
    let address = proxy.address();
    let clients: Vec<_> = (0..200)
        .map(|_| thread::spawn(move || world::request(address, "GET", "/tile/0/042", "").status))
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
fn every_width_of_a_cold_bundle_is_one_request() {
    let (log, upstream, _cache, proxy) = honest(70_000);
    assert_eq!(proxy.get("/checkpoint").status, 200);
    upstream.takes(Duration::from_millis(300));
    let address = proxy.address();
    let clients: Vec<_> = (1..=112)
        .map(|width| {
            let path = format!("/tile/entries/273.p/{width}");
            thread::spawn(move || world::request(address, "GET", &path, ""))
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
fn a_log_that_asks_to_be_left_alone_is_left_alone() {
    let (_log, upstream, _cache, proxy) = honest(70_000);
    assert_eq!(proxy.get("/tile/0/001").status, 200);
    upstream.lies_about("tile/0/002", Answer::Throttle(3_600));
    let begin = std::time::Instant::now();
    assert_eq!(proxy.get("/tile/0/002").status, 503);
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "an answer does not wait for the hour"
    );
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
fn a_slow_checkpoint_is_asked_for_once_however_many_wait() {
    let (_log, upstream, _cache, proxy) = honest(300);
    assert_eq!(proxy.get("/checkpoint").status, 200);
    upstream.takes(Duration::from_millis(1_500));
    let before = upstream.requests("checkpoint");
    let address = proxy.address();
    let clients: Vec<_> = (0..50)
        .map(|_| thread::spawn(move || world::request(address, "GET", "/tile/0/999", "").status))
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
    let proxy = Proxy::ready(&upstream.url(), &fork.vkey(), cache.path());
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
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
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
        assert_eq!(proxy.get("/checkpoint").body, trusted, "{case}");
        let kept = find(cache.path(), "offered.checkpoint");
        assert_eq!(kept.len(), 1, "{case}");
        let offered = std::fs::read(&kept[0]).expect("readable");
        assert_eq!(offered, fork.checkpoint(fork.size()), "{case}");
        assert_eq!(
            std::fs::read(kept[0].with_file_name("trusted.checkpoint")).ok(),
            Some(trusted)
        );
        let says = "split view; the trusted checkpoint stays served";
        eventually("it is said", || proxy.printed(says).len() == 1);
    }
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
    let upstream = Upstream::serving(&log);
    let mut wrong = log.get("tile/1/001.p/17", 70_000, false).expect("there");
    wrong[40] ^= 1;
    upstream.lies_about("tile/1/001.p/17", Answer::Body(wrong));
    let cache = cache_directory();
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    assert_eq!(proxy.get("/checkpoint").status, 502);
    assert!(find(cache.path(), "offered.checkpoint").is_empty());
    upstream.tells_the_truth();
    eventually("the checkpoint is served", || {
        proxy.get("/checkpoint").status == 200
    });
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
            "tile_proxy: {public_keys: [k], tuf: {enabled: true}}",
            "tile_proxy.tuf.enabled: trust from TUF",
        ),
        (
            "tile_proxy: {}",
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

/// Files with this name below a directory.
fn find(directory: &std::path::Path, name: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => find(&path, name),
            path if path.file_name().is_some_and(|file| file == name) => vec![path],
            _ => Vec::new(),
        })
        .collect()
}

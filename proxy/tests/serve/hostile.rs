//! A log, or somebody on the way to it, that lies, forks, lags or fails.

use std::{sync::Arc, thread, time::Duration};

use crate::{
    find, honest, size_of,
    world::{Answer, FixtureLog, Proxy, Upstream, cache_directory, eventually, request, run},
};

#[test]
fn a_lie_is_neither_served_nor_kept() {
    type Lie = fn(&[u8], &[u8]) -> Answer; // from the truth, and from the truth of the next one
    fn flipped(bytes: &[u8], at: usize) -> Answer {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        Answer::Body(bytes)
    }
    let rows: [(&str, Lie, u16); 26] = [
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
        (
            "tile/0",
            |_, _| Answer::Redirect("/tile/0/loop".to_owned()),
            503,
        ),
        (
            "tile/0",
            |_, _| Answer::Redirect("http://oslo.invalid/".to_owned()),
            503,
        ),
        ("tile/0", |_, _| Answer::Bomb(64 << 20), 503),
        ("tile/0", |_, _| Answer::Endless, 503),
        ("tile/entries", |_, _| Answer::Bomb(64 << 20), 503),
        ("tile/entries", |_, _| Answer::Endless, 503),
        ("tile/entries", |_, _| Answer::Reset(vec![0; 900]), 503),
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
    let (log, upstream, cache, proxy) = honest(70_000);
    for (i, (kind, lie, status)) in rows.into_iter().enumerate() {
        let truth = |i: usize| {
            log.get(&format!("{kind}/{i:03}"), 70_000, false)
                .expect("there")
        };
        let path = format!("{kind}/{i:03}");
        let answer = lie(&truth(i), &truth(i + 1));
        upstream.lies_about(&path, answer);
        let to_itself = Answer::Redirect("/tile/0/loop".to_owned());
        upstream.lies_about("tile/0/loop", to_itself);
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
        // Nothing was kept: neither a slot nor a file has it.
        let stored = match kind {
            "tile/0" => proxy.get(&format!("/_admin/cache/tiles/0/{i:03}")).status == 200,
            _ => !find(cache.path(), &format!("{i:03}")).is_empty(),
        };
        assert!(!stored, "row {i}");
        upstream.tells_the_truth();
        // The error is remembered for half a second, then the truth is fetched.
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
    // And all that is on the disk is proven.
    assert_eq!(proxy.stop(), Some(0));
    let checked = run("fsck", cache.path(), &[]);
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
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

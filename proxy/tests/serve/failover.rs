//! Several upstreams of one log: who is asked when, and what is passed over.

use std::{path::Path, sync::Arc, thread, time::Duration};

use crate::{
    find, size_of,
    world::{Answer, FixtureLog, Proxy, Upstream, cache_directory, eventually, request},
};

/// Two upstreams of one log with `entries`, and room for it to grow, and a proxy that follows it.
struct Two {
    log: Arc<FixtureLog>,
    first: Upstream,
    second: Upstream,
    cache: tempfile::TempDir,
    proxy: Proxy,
}

/// A proxy for upstreams called `first` and `second`, written down the other way round.
fn start(first: &Upstream, second: &Upstream, vkey: &str, cache: &Path, more: &str) -> Proxy {
    let more = format!(
        "  upstreams:\n  - {{name: second, url: \"{}\", priority: 2}}\n  \
         - {{name: first, url: \"{}\", priority: 1}}\n{more}",
        second.url(),
        first.url()
    );
    Proxy::start_with(vkey, cache, &more)
}

impl Two {
    /// Clients wait for a minute, so that nobody is thought slow on a slow machine.
    fn new() -> Self {
        Self::with("  coalescing: {max_wait_ms: 60000}\n")
    }

    fn with(more: &str) -> Self {
        let log = Arc::new(FixtureLog::with_entries(71_000));
        let [first, second] = [Upstream::serving(&log), Upstream::serving(&log)];
        first.becomes(&log, 70_000);
        second.becomes(&log, 70_000);
        let cache = cache_directory();
        let proxy = start(&first, &second, &log.vkey(), cache.path(), more);
        eventually("the log is followed", || {
            proxy.get("/checkpoint").status == 200
        });
        Self {
            log,
            first,
            second,
            cache,
            proxy,
        }
    }

    /// What is in the log at a path.
    fn truth(&self, path: &str) -> Vec<u8> {
        self.log.get(path, 70_000, false).expect("there")
    }

    fn failures(&self, kind: &str, upstream: &str) -> f64 {
        let labels = format!("{{kind=\"{kind}\",log=\"default\",upstream=\"{upstream}\"}}");
        self.proxy
            .metric(&format!("tile_proxy_verify_failures_total{labels}"))
    }

    /// Health and last error of an upstream, as the statistics tell it.
    fn stats(&self, upstream: &str) -> (Option<bool>, Option<String>) {
        let stats = self.proxy.get("/_admin/cache/stats").text();
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
        let all = stats["logs"][0]["upstreams"].as_array().expect("a list");
        assert_eq!(all.len(), 2);
        let one = all.iter().find(|one| one["name"] == upstream);
        let one = one.expect("listed");
        (
            one["healthy"].as_bool(),
            one["lastError"].as_str().map(str::to_owned),
        )
    }
}

#[test]
fn one_upstream_serves_while_it_works() {
    let two = Two::new();
    assert_eq!(two.proxy.get("/tile/0/001").status, 200);
    assert_eq!(two.second.paths().len(), 0, "nobody asked the second");
    assert_eq!(two.stats("first"), (Some(true), None));
    assert_eq!(two.stats("second"), (None, None));
    two.first.always(Answer::Status(500));
    assert_eq!(two.proxy.get("/tile/0/002").body, two.truth("tile/0/002"));
    assert_eq!(two.stats("second").0, Some(true));
    let (healthy, error) = two.stats("first");
    assert_eq!(healthy, Some(false));
    assert!(error.is_some_and(|error| error.contains("answered 500")));
    let health = |name: &str| {
        let labels = format!("{{log=\"default\",upstream=\"{name}\"}}");
        two.proxy
            .metric(&format!("tile_proxy_upstream_healthy{labels}"))
    };
    assert_eq!((health("first"), health("second")), (0.0, 1.0));
}

#[test]
fn who_worked_last_is_asked_first_until_the_first_is_well_again() {
    let two = Two::new();
    two.first.always(Answer::Status(500));
    assert_eq!(two.proxy.get("/tile/0/001").status, 200);
    assert!(two.first.requests("tile/0/001") > 0);
    assert_eq!(two.proxy.get("/tile/0/002").status, 200);
    assert_eq!(two.first.requests("tile/0/002"), 0, "the second is first");
    let says = "tiles are asked of another upstream";
    assert_eq!(two.proxy.printed(says).len(), 1);

    // A person who knows better says so, and the first is asked at once.
    let refreshed = two.proxy.send("POST", "/_admin/refresh", "");
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    assert_eq!(two.proxy.get("/tile/0/003").status, 200);
    assert!(two.first.requests("tile/0/003") > 0);

    // Nobody says anything: three checkpoints in a row from the first do.
    let before = two.proxy.printed("of the first upstream again").len();
    two.first.tells_the_truth();
    eventually("tiles are asked of the first again", || {
        two.proxy.printed("of the first upstream again").len() > before
    });
    assert_eq!(two.proxy.get("/tile/0/004").status, 200);
    assert_eq!(two.first.requests("tile/0/004"), 1);
    assert_eq!(two.second.requests("tile/0/004"), 0);
}

#[test]
fn without_failover_only_the_first_is_asked() {
    let two = Two::with("  failover: {enabled: false, retry_count: 0}\n");
    two.first.always(Answer::Status(500));
    assert_eq!(two.proxy.get("/tile/0/001").status, 503);
    assert_eq!(two.first.requests("tile/0/001"), 1);
    assert_eq!(two.second.paths().len(), 0);
}

#[test]
fn two_hundred_clients_cost_each_upstream_one_fetch() {
    let two = Two::new();
    two.first.lies_about("tile/0/042", Answer::Status(404));
    two.second.takes(Duration::from_millis(200));
    let address = two.proxy.address();
    let clients: Vec<_> = (0..200)
        .map(|_| thread::spawn(move || request(address, "GET", "/tile/0/042", "").status))
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("answered"), 200);
    }
    assert_eq!(two.first.requests("tile/0/042"), 1);
    assert_eq!(two.second.requests("tile/0/042"), 1);
}

#[test]
fn an_upstream_that_asks_to_be_left_alone_is_while_another_serves() {
    let two = Two::new();
    // The tile above all of these, whose fetch says nothing about theirs.
    assert_eq!(two.proxy.get("/tile/1/000").status, 200);
    let date = "Fri, 31 Dec 2100 23:59:59 GMT".to_owned();
    for (path, answer) in [
        ("tile/0/001", Answer::Throttle(3_600)),
        ("tile/0/002", Answer::ThrottleUntil(date)),
        ("tile/0/003", Answer::Status(429)),
        ("tile/0/004", Answer::Status(403)), // a page: what networks say instead of 429
    ] {
        // Forgets what was said before.
        assert_eq!(two.proxy.send("POST", "/_admin/refresh", "").status, 200);
        two.first.lies_about(path, answer);
        let fetched = two.proxy.get(&format!("/{path}"));
        assert_eq!(fetched.body, two.truth(path), "{path}");
        assert_eq!(two.first.requests(path), 1, "{path}");
        let (_, error) = two.stats("first");
        assert!(error.is_some(), "{path}");
    }
    two.first.lies_about("tile/0/005", Answer::Throttle(3_600));
    assert_eq!(two.proxy.send("POST", "/_admin/refresh", "").status, 200);
    assert_eq!(two.proxy.get("/tile/0/005").status, 200);
    let before = two.first.requests("checkpoint");
    let seen = two.second.requests("checkpoint");
    eventually("checkpoints are asked of the second", || {
        two.second.requests("checkpoint") > seen + 1
    });
    assert_eq!(two.first.requests("checkpoint"), before);
}

#[test]
fn a_lagging_upstream_is_passed_over_and_said_once() {
    let two = Two::new();
    two.second.becomes(&two.log, 71_000);
    two.first.becomes(&two.log, 69_000);
    eventually("the larger tree is served", || {
        size_of(&two.proxy.get("/checkpoint").body) == 71_000
    });
    let seen = two.first.requests("checkpoint");
    eventually("the first is asked again", || {
        two.first.requests("checkpoint") > seen + 2
    });
    assert_eq!(size_of(&two.proxy.get("/checkpoint").body), 71_000);
    let says = "upstream's checkpoint passed over\"";
    assert_eq!(
        two.proxy.printed(says).len(),
        1,
        "{:?}",
        two.proxy.printed(says)
    );
    assert!(two.proxy.printed("checkpoint not refreshed").is_empty());
    let (healthy, error) = two.stats("first");
    assert_eq!(healthy, Some(false));
    assert!(error.is_some_and(|error| error.contains("stale")), "told");
    two.first.becomes(&two.log, 71_000);
    eventually("it is followed again", || {
        two.proxy.printed("passed over no longer").len() == 1
    });
}

#[test]
fn a_forked_upstream_is_evidence_and_the_other_is_followed() {
    let two = Two::new();
    let fork = Arc::new(FixtureLog::forked(60_000, 70_500));
    two.first.becomes(&fork, 70_500);
    two.second.becomes(&two.log, 71_000);
    eventually("the same history is followed", || {
        size_of(&two.proxy.get("/checkpoint").body) == 71_000
    });
    eventually("the other one is found out", || {
        two.proxy
            .metric("tile_proxy_split_views_total{log=\"default\"}")
            >= 1.0
    });
    let says = "split view; the trusted checkpoint stays served";
    eventually("it is said", || two.proxy.printed(says).len() == 1);
    let kept = find(two.cache.path(), "offered.checkpoint");
    assert_eq!(kept.len(), 1);
    assert_eq!(std::fs::read(&kept[0]).ok(), Some(fork.checkpoint(70_500)));
    // Its tiles are wrong, too, and passed over one by one.
    let path = "tile/0/250";
    two.proxy.send("POST", "/_admin/refresh", "");
    assert_eq!(two.proxy.get(&format!("/{path}")).body, two.truth(path));
}

#[test]
fn a_checkpoint_that_is_not_the_logs_is_passed_over() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let other_origin =
        log.sign("oslo.example/2026h1\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n");
    let good = log.checkpoint(300);
    let end = good.len();
    let flipped = |at: usize| {
        let mut note = good.clone();
        note[at] ^= 1;
        Answer::Body(note)
    };
    let stranger = FixtureLog::with_entries(300).signed_by(9).checkpoint(300);
    for (lie, says, counted) in [
        (flipped(25), "", 1.0),       // the text
        (flipped(end - 20), "", 1.0), // the signature
        (Answer::Body(stranger), "", 1.0),
        (Answer::Body(good[..end - 9].to_vec()), "", 1.0),
        (Answer::Body(b"<html>".to_vec()), "not a signed note", 1.0),
        (Answer::Body(other_origin), "is of `oslo", 1.0),
        (
            Answer::Body(vec![b'x'; 70_000]),
            "more than 65536 bytes",
            0.0,
        ),
        (Answer::Bomb(64 << 20), "more than 65536 bytes", 0.0),
        (Answer::Endless, "more than 65536 bytes", 0.0),
        (Answer::Status(500), "answered 500", 0.0),
        (Answer::Status(404), "does not have it", 0.0),
        (Answer::Redirect("/checkpoint".to_owned()), "too often", 0.0),
    ] {
        let [first, second] = [Upstream::serving(&log), Upstream::serving(&log)];
        first.lies_about("checkpoint", lie.clone());
        let cache = cache_directory();
        let more = "  origin: rome.example/2026h1\n  coalescing: {max_wait_ms: 25000}\n";
        let proxy = start(&first, &second, &log.vkey(), cache.path(), more);
        eventually("the other one's is served", || {
            proxy.get("/checkpoint").status == 200
        });
        assert_eq!(proxy.get("/checkpoint").body, good);
        let line = "upstream's checkpoint passed over\"";
        eventually("it is told", || !proxy.printed(line).is_empty());
        assert!(
            proxy.printed(line)[0].contains(says),
            "{:?}",
            proxy.printed(line)
        );
        let labels = "{kind=\"checkpoint\",log=\"default\",upstream=\"first\"}";
        let failures = proxy.metric(&format!("tile_proxy_verify_failures_total{labels}"));
        assert_eq!(failures >= 1.0, counted >= 1.0, "{says} {failures}");
        let kept = find(cache.path(), "300.checkpoint");
        assert_eq!(kept.len(), 1);
        assert_eq!(std::fs::read(&kept[0]).ok().as_ref(), Some(&good));
    }
}

#[test]
fn a_record_names_the_upstream_that_had_the_tile() {
    let two = Two::new();
    two.first.lies_about("tile/0/002", Answer::Status(404));
    for (path, upstream) in [("tile/0/001", &two.first), ("tile/0/002", &two.second)] {
        assert_eq!(two.proxy.send("POST", "/_admin/refresh", "").status, 200);
        assert_eq!(two.proxy.get(&format!("/{path}")).status, 200);
        let record = format!("/_admin/cache/{}", path.replacen("tile/", "tiles/", 1));
        eventually("it is stored", || two.proxy.get(&record).status == 200);
        let record = two.proxy.get(&record).text();
        assert!(record.contains(&upstream.url()), "{path}: {record}");
    }
}

#[test]
fn the_edge_of_an_offered_tree_may_come_from_another() {
    for lie in [Answer::Status(404), Answer::Body(vec![0; 17 * 32])] {
        let log = Arc::new(FixtureLog::with_entries(70_000));
        let [first, second] = [Upstream::serving(&log), Upstream::serving(&log)];
        first.lies_about("tile/1/001.p/17", lie);
        // A skewed frontend: only the first has the checkpoint.
        second.lies_about("checkpoint", Answer::Status(404));
        let cache = cache_directory();
        let proxy = start(&first, &second, &log.vkey(), cache.path(), "");
        eventually("the checkpoint is served", || {
            proxy.get("/checkpoint").status == 200
        });
        assert!(find(cache.path(), "offered.checkpoint").is_empty());
    }
}

#[test]
fn whatever_the_first_does_the_second_serves_and_nothing_false_is_kept() {
    type Lie = fn(&[u8], &[u8]) -> Answer; // from the truth, and from the truth of the next one
    fn flipped(truth: &[u8], _: &[u8]) -> Answer {
        let mut bytes = truth.to_vec();
        bytes[5] ^= 1;
        Answer::Body(bytes)
    }
    // What is sent, and whether it counts as a lie or as no answer.
    let rows: [(Lie, bool); 16] = [
        (flipped, true),
        (
            |truth, _| Answer::Body(truth[..truth.len() - 1].to_vec()),
            true,
        ),
        (|truth, _| Answer::Body(truth[..96].to_vec()), true), // a partial one's bytes
        (|_, next| Answer::Body(next.to_vec()), true),         // of another place
        (|_, _| Answer::Body(b"<html>".to_vec()), true),
        (|_, _| Answer::Body(Vec::new()), true),
        (|_, _| Answer::Body(vec![0; 17_000_000]), false),
        (|_, _| Answer::Bomb(64 << 20), false),
        (|_, _| Answer::Endless, false),
        (|truth, _| Answer::Reset(truth.to_vec()), false),
        (|_, _| Answer::Status(500), false),
        (|_, _| Answer::Status(404), false), // a frontend that is a moment behind
        (|_, _| Answer::Status(501), false),
        (|_, _| Answer::Redirect("/tile/loop".to_owned()), false),
        (
            |_, _| Answer::Redirect("http://oslo.invalid/".to_owned()),
            false,
        ),
        (|_, _| Answer::Drip(b"<html>".to_vec()), true),
    ];
    for kind in ["tile/0", "tile/entries"] {
        let two = Two::new();
        two.first
            .lies_about("tile/loop", Answer::Redirect("/tile/loop".to_owned()));
        let mut lies = 0.0;
        for (i, (lie, is_lie)) in rows.into_iter().enumerate() {
            // The first is asked first again.
            assert_eq!(two.proxy.send("POST", "/_admin/refresh", "").status, 200);
            let path = format!("{kind}/{i:03}");
            let next = two.truth(&format!("{kind}/{:03}", i + 1));
            two.first.lies_about(&path, lie(&two.truth(&path), &next));
            let response = two.proxy.get(&format!("/{path}"));
            assert_eq!(response.status, 200, "row {i}: {}", response.text());
            assert_eq!(response.body, two.truth(&path), "row {i}");
            assert!(two.first.requests(&path) > 0, "row {i}");
            assert_eq!(two.second.requests(&path), 1, "row {i}");
            lies += f64::from(u8::from(is_lie));
            let kind = if kind == "tile/0" { "tile" } else { "bundle" };
            assert_eq!(two.failures(kind, "first"), lies, "row {i}");
            assert_eq!(two.failures(kind, "second"), 0.0, "row {i}");
        }
        let rejected = two.proxy.printed("upstream response rejected");
        assert_eq!(rejected.len(), lies as usize);
        // What was kept is what was served: after a restart, with nobody to ask, the same.
        assert_eq!(two.proxy.stop(), Some(0));
        two.first.disappears();
        two.second.disappears();
        let vkey = two.log.vkey();
        let proxy = start(&two.first, &two.second, &vkey, two.cache.path(), "");
        for i in 0..rows.len() {
            let path = format!("{kind}/{i:03}");
            eventually("it is served from the disk", || {
                proxy.get(&format!("/{path}")).status == 200
            });
            let truth = two.log.get(&path, 70_000, false).expect("there");
            assert_eq!(proxy.get(&format!("/{path}")).body, truth, "row {i}");
        }
    }
}

#[test]
fn a_name_that_nobody_knows_is_passed_over() {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    let upstream = Upstream::serving(&log);
    let cache = cache_directory();
    let more = format!(
        "  coalescing: {{max_wait_ms: 60000}}\n  upstreams:\n  \
         - {{name: first, url: \"http://rome.invalid/\", priority: 1}}\n  \
         - {{name: second, url: \"{}\", priority: 2}}\n",
        upstream.url()
    );
    let proxy = Proxy::start_with(&log.vkey(), cache.path(), &more);
    eventually("it is followed", || proxy.get("/checkpoint").status == 200);
    assert_eq!(proxy.send("POST", "/_admin/refresh", "").status, 200);
    let tile = proxy.get("/tile/0/001");
    assert_eq!(tile.status, 200, "{}", tile.text());
    assert_eq!(Some(tile.body), log.get("tile/0/001", 70_000, false));
    let count = |status: &str, upstream: &str| {
        let labels = format!("{{log=\"default\",status=\"{status}\",upstream=\"{upstream}\"}}");
        proxy.metric(&format!("tile_proxy_upstream_requests_total{labels}"))
    };
    assert!(count("error", "first") > 0.0);
    assert!(count("200", "second") > 0.0);
    assert_eq!(count("error", "second"), 0.0);
    let said = proxy.printed("upstream's checkpoint passed over");
    assert!(said[0].contains("first"), "{said:?}");
}

#[test]
fn two_liars_are_502_and_one_liar_without_another_answer_is_too() {
    let two = Two::new();
    two.first
        .lies_about("tile/0/001", Answer::Body(vec![0; 8_192]));
    two.second
        .lies_about("tile/0/001", Answer::Body(vec![1; 8_192]));
    assert_eq!(two.proxy.get("/tile/0/001").status, 502);
    assert_eq!(two.failures("tile", "first"), 1.0);
    assert_eq!(two.failures("tile", "second"), 1.0);
    two.first
        .lies_about("tile/0/002", Answer::Body(vec![0; 8_192]));
    two.second.lies_about("tile/0/002", Answer::Status(404));
    assert_eq!(two.proxy.get("/tile/0/002").status, 502);
    two.first.lies_about("tile/0/003", Answer::Status(404));
    two.second.lies_about("tile/0/003", Answer::Status(404));
    assert_eq!(two.proxy.get("/tile/0/003").status, 503);
}

#[test]
fn gzip_is_offered_and_read_unasked_and_a_trace_is_handed_on() {
    let two = Two::new();
    let path = "tile/entries/000";
    two.first.lies_about(path, Answer::Gzip(two.truth(path)));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = format!("traceparent: {parent}\r\ntracestate: rojo=1\r\nauthorization: x\r\n");
    let response = two.proxy.send("GET", &format!("/{path}"), &headers);
    assert_eq!(response.body, two.truth(path));
    let head = two.first.head(path);
    assert!(head.contains("accept-encoding: gzip, identity\n"), "{head}");
    assert!(head.contains("user-agent: tile-proxy/"), "{head}");
    assert!(head.contains(&format!("traceparent: {parent}\n")), "{head}");
    assert!(head.contains("tracestate: rojo=1\n"), "{head}");
    assert!(
        !head.contains("authorization"),
        "a client's is the client's: {head}"
    );
    let malformed = "traceparent: 00-x\r\n";
    assert_eq!(two.proxy.send("GET", "/tile/0/009", malformed).status, 200);
    assert!(!two.first.head("tile/0/009").contains("traceparent"));
}

#[test]
fn a_slow_drip_costs_its_client_two_thirds_of_the_wait_and_others_nothing() {
    let two = Two::with("  coalescing: {max_wait_ms: 12000}\n");
    two.first
        .lies_about("tile/0/001", Answer::Drip(two.truth("tile/0/001")));
    let address = two.proxy.address();
    let dripped = thread::spawn(move || request(address, "GET", "/tile/0/001", ""));
    eventually("the drip has begun", || {
        two.first.requests("tile/0/001") == 1
    });
    assert_eq!(two.proxy.get("/tile/0/002").body, two.truth("tile/0/002"));
    assert_eq!(two.second.tile_requests(), 0);
    let dripped = dripped.join().expect("answered");
    assert_eq!(dripped.body, two.truth("tile/0/001"));
    assert_eq!(two.second.requests("tile/0/001"), 1);
}

#[test]
fn a_silent_upstream_is_not_waited_for() {
    let two = Two::with("  coalescing: {max_wait_ms: 9000}\n");
    two.first.always(Answer::Silence);
    assert_eq!(two.proxy.get("/tile/0/001").body, two.truth("tile/0/001"));
    assert_eq!(two.first.requests("tile/0/001"), 1);
    eventually("checkpoints come from the second", || {
        two.second.requests("checkpoint") > 1
    });
    let (healthy, error) = two.stats("first");
    assert_eq!(healthy, Some(false));
    assert!(error.is_some_and(|error| error.contains("slower")));
}

#[test]
fn a_restart_with_other_upstreams_goes_on_where_it_was() {
    let two = Two::new();
    two.second.becomes(&two.log, 71_000);
    two.first.disappears();
    eventually("the larger tree is served", || {
        size_of(&two.proxy.get("/checkpoint").body) == 71_000
    });
    assert_eq!(two.proxy.stop(), Some(0));
    // What is left is behind.
    two.first.returns();
    two.second.disappears();
    let vkey = two.log.vkey();
    let proxy = start(&two.first, &two.second, &vkey, two.cache.path(), "");
    eventually("it is called stale or unproven", || {
        !proxy.printed("checkpoint not refreshed").is_empty()
    });
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 71_000);
    // The edge that the log deletes is derived from what is there.
    let edge = proxy.get("/tile/0/277.p/88");
    assert_eq!(
        edge.body,
        two.log
            .get("tile/0/277.p/88", 71_000, false)
            .expect("there")
    );
}

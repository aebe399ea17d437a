//! Several logs in one proxy: each is found, followed, counted and changed by itself.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::{
    reload::rewrite,
    world::{
        Answer, FixtureLog, Outcome, Proxy, Upstream, cache_directory, eventually, request, run,
    },
};

/// A log with a name, and who serves it.
struct Town {
    name: &'static str,
    log: Arc<FixtureLog>,
    upstream: Upstream,
}

impl Town {
    fn new(name: &'static str, key: u8, entries: usize) -> Self {
        let origin = format!("{name}.example/log");
        let log = FixtureLog::with_entries(entries).signed_by(key);
        let log = Arc::new(log.called(&origin, &origin));
        let upstream = Upstream::serving(&log);
        Self {
            name,
            log,
            upstream,
        }
    }

    fn origin(&self) -> String {
        format!("{}.example/log", self.name)
    }

    /// Its item in the list of logs.
    fn item(&self, more: &str) -> String {
        format!(
            "    - {{name: {}, public_keys: [\"{}\"], upstreams: [{{url: \"{}\"}}]{more}}}\n",
            self.name,
            self.log.vkey(),
            self.upstream.url()
        )
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.log.checkpoint(self.log.size())
    }
}

/// A proxy for these logs, once it is ready and has a checkpoint of each.
fn start(cache: &TempDir, items: &[String], more: &str) -> Proxy {
    let logs = items.concat();
    let proxy = Proxy::start_bare(&[], cache.path(), &format!("  logs:\n{logs}{more}"));
    eventually("the proxy is ready", || {
        proxy.get("/_admin/ready").status == 200
    });
    proxy
}

fn follows(proxy: &Proxy, town: &Town) {
    let path = format!("/{}/checkpoint", town.name);
    eventually("it is followed", || {
        proxy.get(&path).body == town.checkpoint()
    });
}

fn stats(proxy: &Proxy) -> Value {
    serde_json::from_slice(&proxy.get("/_admin/cache/stats").body).expect("JSON")
}

#[test]
fn a_log_is_found_by_its_name_by_its_origins_hash_and_by_default() {
    let (rome, oslo) = (Town::new("rome", 1, 70_000), Town::new("oslo", 2, 300));
    let cache = cache_directory();
    let items = [rome.item(", default: true"), oslo.item("")];
    let proxy = start(&cache, &items, "");
    for town in [&rome, &oslo] {
        follows(&proxy, town);
        let hash = hex::encode(Sha256::digest(town.origin()));
        for prefix in [town.name, &hash, &format!("{}/api/v2", town.name)] {
            for path in [
                "checkpoint",
                "tile/0/000",
                "tile/entries/000",
                "tile/1/000.p/1",
            ] {
                let (response, size) = (proxy.get(&format!("/{prefix}/{path}")), town.log.size());
                assert_eq!(response.status, 200, "/{prefix}/{path}");
                let want = town.log.get(path, size, false).expect("there");
                assert_eq!(response.body, want, "/{prefix}/{path}");
            }
        }
    }
    for path in ["checkpoint", "api/v2/checkpoint"] {
        assert_eq!(proxy.get(&format!("/{path}")).body, rome.checkpoint());
    }
    assert_eq!(proxy.get("/tile/0/272").status, 200, "only rome has it");
    assert_eq!(proxy.get("/oslo/tile/0/272").status, 404);
    // Neither a log nor a resource.
    assert_eq!(proxy.get("/rom/checkpoint").status, 404);

    drop(proxy);
    let items = [rome.item(""), oslo.item("")];
    let proxy = start(&cache, &items, "");
    follows(&proxy, &oslo);
    let response = proxy.get("/checkpoint");
    assert_eq!(response.status, 404, "none is the default");
    assert!(
        response.text().contains("one of rome, oslo"),
        "{}",
        response.text()
    );
}

#[test]
fn what_is_counted_and_asked_is_of_one_log_or_of_all() {
    let (rome, oslo) = (Town::new("rome", 1, 70_000), Town::new("oslo", 2, 600));
    let cache = cache_directory();
    let items = [rome.item(", default: true"), oslo.item("")];
    let proxy = start(&cache, &items, "");
    follows(&proxy, &rome);
    follows(&proxy, &oslo);
    for path in ["/oslo/tile/0/000", "/oslo/tile/0/000", "/oslo/tile/0/001"] {
        assert_eq!(proxy.get(path).status, 200);
    }
    let count =
        |metric: &str, log: &str| proxy.metric(&format!("tile_proxy_{metric}{{log=\"{log}\"}}"));
    assert_eq!(
        (
            count("cache_hits_total", "oslo"),
            count("cache_misses_total", "oslo")
        ),
        (1.0, 2.0)
    );
    assert_eq!(
        (
            count("cache_hits_total", "rome"),
            count("cache_misses_total", "rome")
        ),
        (0.0, 0.0)
    );
    assert_eq!(
        (
            count("checkpoint_size", "rome"),
            count("checkpoint_size", "oslo")
        ),
        (70_000.0, 600.0)
    );
    eventually("both are on the disk", || {
        count("cache_size_bytes", "rome") > 0.0 && count("cache_size_bytes", "oslo") > 0.0
    });
    let logs = stats(&proxy)["logs"].clone();
    let names: Vec<&Value> = logs
        .as_array()
        .expect("a list")
        .iter()
        .map(|log| &log["name"])
        .collect();
    assert_eq!(names, ["rome", "oslo"]);
    assert_eq!(
        (&logs[1]["size"], &logs[1]["hits"]),
        (&json!(600), &json!(1))
    );
    assert_eq!(logs[1]["origin"], oslo.origin());

    let record = |query: &str| proxy.get(&format!("/_admin/cache/tiles/0/0{query}"));
    assert_eq!(record("").status, 404, "rome's is not stored");
    eventually("its record is there", || record("?log=oslo").status == 200);
    let record = record("?log=oslo").text();
    assert!(
        record.contains("\"treeSize\": 600") || record.contains("\"treeSize\":600"),
        "{record}"
    );

    // Of one, and of all.
    let sync = |body: &str| {
        let headers = format!("Content-Length: {}\r\n", body.len());
        let started = proxy.send_body("POST", "/_admin/cache/sync", &headers, body);
        assert_eq!(started.status, 202, "{}", started.text());
        let mut ended = Value::Null;
        eventually("it ends", || {
            let progress = proxy.get("/_admin/cache/sync").body;
            ended = serde_json::from_slice(&progress).expect("JSON");
            ended["state"] != "running"
        });
        (
            ended["log"].clone(),
            ended["state"].clone(),
            ended["total"].clone(),
        )
    };
    let of_oslo = 3 + 2; // bundles, and full tiles
    assert_eq!(
        sync("{\"log\": \"oslo\"}"),
        (json!("oslo"), json!("succeeded"), json!(of_oslo))
    );
    assert_eq!(rome.upstream.requests("tile/entries/272"), 0);
    let (log, state, total) = sync("{\"depth\": 600}");
    assert_eq!((log, state), (Value::Null, json!("succeeded")));
    assert_eq!(
        total,
        of_oslo + 1 + 2 + 3,
        "rome: a tile above, two full tiles, three bundles"
    );
    assert_eq!(rome.upstream.requests("tile/entries/272"), 1);

    let refresh = |query: &str| proxy.send("POST", &format!("/_admin/refresh{query}"), "");
    let refreshed =
        |query: &str| -> Value { serde_json::from_slice(&refresh(query).body).expect("JSON") };
    assert_eq!(refreshed("?log=oslo"), json!({"size": 600}));
    let all = refreshed("");
    assert_eq!(
        all["logs"][0],
        json!({"name": "rome", "size": 70_000, "error": null})
    );
    for (method, path) in [
        ("POST", "/_admin/refresh?log=paris"),
        ("DELETE", "/_admin/cache/prune?log=paris"),
        ("GET", "/_admin/cache/tiles/0/0?log=paris"),
    ] {
        let response = proxy.send(method, path, "");
        assert_eq!(response.status, 404, "{path}");
        assert!(
            response.text().contains("there is rome, oslo"),
            "{}",
            response.text()
        );
    }
    assert_eq!(refresh("?lag=oslo").status, 400);
    let pruned = proxy.send("DELETE", "/_admin/cache/prune?log=oslo", "");
    assert_eq!(pruned.status, 200, "{}", pruned.text());
    assert_eq!(proxy.get("/_admin/cache/tiles/0/0?log=oslo").status, 404);
    assert_eq!(
        proxy.get("/_admin/cache/tiles/0/272?log=rome").status,
        200,
        "rome keeps its own"
    );
}

#[test]
fn a_log_in_trouble_is_no_other_logs() {
    let (rome, oslo) = (Town::new("rome", 1, 70_000), Town::new("oslo", 2, 70_000));
    let cache = cache_directory();
    let items = [rome.item(", default: true"), oslo.item("")];
    let more = "  coalescing: {max_wait_ms: 20000}\n";
    let proxy = start(&cache, &items, more);
    follows(&proxy, &rome);
    follows(&proxy, &oslo);
    assert_eq!(
        proxy.get("/tile/0/200").status,
        200,
        "and what is above all of them"
    );
    let before = rome.upstream.tile_requests();
    rome.upstream.always(Answer::Silence);
    let waiting: Vec<_> = (0..100)
        .map(|index| {
            let address = proxy.address();
            std::thread::spawn(move || {
                request(address, "GET", &format!("/tile/0/{index:03}"), "").status
            })
        })
        .collect();
    eventually("rome is asked for as much as may be at once", || {
        rome.upstream.tile_requests() >= before + 60
    });
    let begin = Instant::now();
    for index in 0..50 {
        assert_eq!(proxy.get(&format!("/oslo/tile/0/{index:03}")).status, 200);
    }
    assert!(
        begin.elapsed() < Duration::from_secs(15),
        "rome waits longer than that"
    );
    assert_eq!(proxy.get("/_admin/ready").status, 200);
    // One that lies is refused for its own lies alone.
    oslo.upstream
        .becomes(&Arc::new(FixtureLog::with_entries(400)), 400);
    eventually("oslo's checkpoint is refused", || {
        proxy
            .printed("checkpoint not refreshed")
            .iter()
            .any(|line| line.contains("\"oslo\""))
    });
    assert_eq!(proxy.get("/oslo/checkpoint").body, oslo.checkpoint());
    rome.upstream.tells_the_truth();
    for client in waiting {
        let status = client.join().expect("no panic");
        assert!([200, 502, 503, 504].contains(&status), "{status}");
    }
    eventually("rome is read again", || {
        proxy.get("/tile/0/200").status == 200
    });
}

#[test]
fn logs_come_change_and_go_without_a_restart_and_without_a_word_to_the_others() {
    let (rome, oslo) = (Town::new("rome", 1, 70_000), Town::new("oslo", 2, 300));
    let elsewhere = Upstream::serving(&oslo.log);
    let cache = cache_directory();
    let proxy = start(&cache, &[rome.item(", default: true")], "");
    follows(&proxy, &rome);
    assert_eq!(proxy.get("/tile/0/000").status, 200);
    let edge = rome.upstream.requests("tile/0/273.p/112");
    assert_eq!(proxy.get("/oslo/checkpoint").status, 404);

    let one = rome.item(", default: true");
    let two = format!("{one}{}", oslo.item(""));
    rewrite(cache.path(), &one, &two);
    follows(&proxy, &oslo);
    assert_eq!(proxy.get("/oslo/tile/0/000").status, 200);

    // Elsewhere: what is stored stays, and is not asked for again.
    let moved = two.replace(&oslo.upstream.url(), &elsewhere.url());
    rewrite(cache.path(), &two, &moved);
    eventually("it is followed from elsewhere", || {
        elsewhere.requests("checkpoint") > 0
    });
    let asked = oslo.upstream.requests("checkpoint");
    assert_eq!(proxy.get("/oslo/tile/0/000").status, 200);
    assert_eq!(elsewhere.requests("tile/0/000"), 0);
    eventually("it is followed on", || elsewhere.requests("checkpoint") > 3);
    assert_eq!(
        oslo.upstream.requests("checkpoint"),
        asked,
        "not from where it was"
    );

    // Under another name: the same history.
    let renamed = moved.replace("name: oslo", "name: bergen");
    rewrite(cache.path(), &moved, &renamed);
    eventually("it has another name", || {
        proxy.get("/bergen/checkpoint").body == oslo.checkpoint()
    });
    assert_eq!(proxy.get("/oslo/checkpoint").status, 404);
    assert_eq!(
        proxy.metric("tile_proxy_checkpoint_size{log=\"oslo\"}"),
        0.0,
        "no longer shown"
    );
    assert_eq!(proxy.get("/bergen/tile/0/000").status, 200);
    assert_eq!(elsewhere.requests("tile/0/000"), 0);

    // One that cannot be followed as it says stays as it was.
    let wrong = renamed.replace(
        &format!("url: \"{}\"", elsewhere.url()),
        "url: \"https://localhost:1/\", ca: \"file:/nowhere\"",
    );
    rewrite(cache.path(), &renamed, &wrong);
    eventually("that is said", || {
        stats(&proxy)["configuration"]["error"]
            .as_str()
            .is_some_and(|error| error.contains("/nowhere"))
    });
    let seen = elsewhere.requests("checkpoint");
    eventually("it is followed on", || {
        elsewhere.requests("checkpoint") > seen + 1
    });
    rewrite(cache.path(), &wrong, &one);
    eventually("it is gone", || {
        proxy.get("/bergen/checkpoint").status == 404
    });
    assert_eq!(stats(&proxy)["configuration"]["error"], Value::Null);
    let seen = elsewhere.requests("checkpoint");
    follows(&proxy, &rome);
    assert!(
        elsewhere.requests("checkpoint") <= seen + 1,
        "one may have been under way"
    );
    assert_eq!(
        rome.upstream.requests("tile/0/273.p/112"),
        edge,
        "rome heard nothing of all this"
    );
    assert_eq!(rome.upstream.requests("tile/0/000"), 1);
    assert_eq!(proxy.stop(), Some(0));
}

#[test]
fn one_history_is_followed_once() {
    let rome = Town::new("rome", 1, 300);
    let again = rome.item("").replace("name: rome", "name: roma");
    let cache = cache_directory();
    let shared = format!("  logs:\n{}{again}", rome.item(""));
    let config = cache.path().join("config.yaml");
    std::fs::write(&config, format!("tile_proxy:\n{shared}")).expect("written");
    let Outcome {
        code,
        stderr: printed,
        ..
    } = run("check", cache.path(), &[]);
    assert_eq!(code, Some(78));
    assert!(
        printed.contains("logs[0].origin: is missing: `roma` is signed by"),
        "{printed}"
    );

    // Signed by two, so that its origin alone tells them to be one.
    let twice = Arc::new(
        FixtureLog::with_entries(300)
            .signed_by(2)
            .called(&rome.origin(), "other"),
    );
    let copy = Upstream::serving(&twice);
    let roma = format!(
        "    - {{name: roma, public_keys: [\"{}\"], upstreams: [{{url: \"{}\"}}]}}\n",
        twice.vkey(),
        copy.url()
    );
    let cache = cache_directory();
    let proxy = start(&cache, &[rome.item(""), roma], "");
    eventually("one of them is followed and the other refused", || {
        let mut statuses =
            ["rome", "roma"].map(|name| proxy.get(&format!("/{name}/checkpoint")).status);
        statuses.sort_unstable();
        statuses == [200, 502]
    });
    let refused = ["rome", "roma"].map(|name| proxy.get(&format!("/{name}/checkpoint")).text());
    assert!(
        refused.iter().any(|text| text.contains("list it once")),
        "{refused:?}"
    );
}

//! Prune, over HTTP and from the command line, on a running proxy and on a cache that nobody has.

use std::process::{Command, Output};

use crate::{
    honest, size_of,
    world::{Proxy, eventually},
};

fn prune(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tile-proxy"))
        .arg("prune")
        .args(arguments)
        .output()
        .expect("the binary starts")
}

/// Reads some tiles and a bundle, and waits until they are on the disk.
fn fill(proxy: &Proxy) {
    for path in ["/tile/0/001", "/tile/0/002", "/tile/entries/001"] {
        assert_eq!(proxy.get(path).status, 200, "{path}");
    }
    for path in ["0/1", "0/2"] {
        let path = format!("/_admin/cache/tiles/{path}");
        eventually("it is stored", || proxy.get(&path).status == 200);
    }
    let removable = || {
        let dry = proxy.send(
            "DELETE",
            "/_admin/cache/prune?older_than=0s&dry_run=true",
            "",
        );
        dry.text().contains("\"bundles\": {\n      \"count\": 1")
    };
    eventually("the bundle is stored", removable);
}

#[test]
fn what_was_pruned_is_fetched_again_and_what_is_served_stays() {
    let (log, upstream, _cache, proxy) = honest(70_000);
    fill(&proxy);
    let before = upstream.requests("tile/0/001");
    let dry = proxy.send("DELETE", "/_admin/cache/prune?log=default&dry_run=true", "");
    assert_eq!(dry.status, 200, "{}", dry.text());
    assert_eq!(proxy.get("/tile/0/001").status, 200);
    assert_eq!(upstream.requests("tile/0/001"), before, "only looked at");

    let done = proxy.send("DELETE", "/_admin/cache/prune?log=default", "");
    let report: serde_json::Value = serde_json::from_slice(&done.body).expect("JSON");
    assert_eq!(report["dryRun"], false);
    // The two, and their parent.
    assert_eq!(report["removed"]["tiles"]["count"], 3, "{report}");
    assert_eq!(report["removed"]["bundles"]["count"], 1, "{report}");
    assert_eq!(proxy.get("/_admin/cache/tiles/0/1").status, 404);
    assert_eq!(size_of(&proxy.get("/checkpoint").body), 70_000);
    let again = proxy.get("/tile/0/001");
    assert_eq!(Some(again.body), log.get("tile/0/001", 70_000, false));
    assert_eq!(upstream.requests("tile/0/001"), before + 1);
}

#[test]
fn a_prune_that_is_not_understood_or_not_allowed_removes_nothing() {
    let (_log, _upstream, _cache, proxy) = honest(70_000);
    fill(&proxy);
    for (method, query, headers, status) in [
        ("DELETE", "", "", 400),
        ("DELETE", "?older_than=720", "", 400),
        ("DELETE", "?log=default&dryrun=true", "", 400),
        ("DELETE", "?log=paris", "", 404),
        (
            "DELETE",
            "?log=default",
            "Origin: http://evil.example\r\n",
            403,
        ),
        ("GET", "?log=default", "", 405),
        ("POST", "?log=default", "", 405),
    ] {
        let path = format!("/_admin/cache/prune{query}");
        let response = proxy.send(method, &path, headers);
        assert_eq!(
            response.status,
            status,
            "{method} {query}: {}",
            response.text()
        );
    }
    assert_eq!(proxy.get("/_admin/cache/tiles/0/1").status, 200);
}

#[test]
fn the_command_prunes_a_replica_and_a_cache_that_nobody_has() {
    let (log, upstream, cache, proxy) = honest(70_000);
    fill(&proxy);
    let replica = format!("http://{}", proxy.address());
    let output = prune(&["--replica", &replica, "--older-than", "720h"]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("removed"));
    assert_eq!(
        proxy.get("/_admin/cache/tiles/0/1").status,
        200,
        "too young"
    );
    let output = prune(&["--replica", &replica, "--log", "paris"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");

    let config = cache.path().join("config.yaml");
    let config = config.to_str().expect("UTF-8");
    let here = ["--config", config, "--max-size", "0"];
    assert_eq!(prune(&here).status.code(), Some(75), "the proxy has it");
    assert_eq!(proxy.stop(), Some(0));
    let output = prune(&here);
    assert!(output.status.success(), "{output:?}");

    upstream.disappears();
    let proxy = Proxy::ready(&upstream.url(), &log.vkey(), cache.path());
    assert_eq!(proxy.get("/checkpoint").body, log.checkpoint(70_000));
    assert_eq!(proxy.get("/tile/0/001").status, 503, "gone");
    assert_eq!(proxy.get("/tile/0/273.p/112").status, 200, "the edge stays");
}

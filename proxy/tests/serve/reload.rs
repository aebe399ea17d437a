//! A configuration that changes under a running process, and the audit log that records it.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    honest, honest_with,
    world::{Proxy, eventually},
};

/// Replaces `from` in the configuration by `to`, as an editor does: another file, renamed.
pub(crate) fn rewrite(cache: &Path, from: &str, to: &str) {
    let file = cache.join("config.yaml");
    let text = std::fs::read_to_string(&file).expect("readable");
    assert!(text.contains(from), "{from} is not in {text}");
    let next = cache.join("next.yaml");
    std::fs::write(&next, text.replace(from, to)).expect("written");
    std::fs::rename(next, file).expect("renamed");
}

fn reloads(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric(&format!(
        "tile_proxy_config_reloads_total{{result=\"{result}\"}}"
    ))
}

fn configuration(proxy: &Proxy) -> Value {
    let stats: Value =
        serde_json::from_slice(&proxy.get("/_admin/cache/stats").body).expect("JSON");
    stats["configuration"].clone()
}

#[test]
fn a_changed_configuration_takes_effect_without_a_restart() {
    let (log, upstream, cache, proxy) = honest_with(300, "  admin: {token: first}\n");
    let post = |token: &str| {
        let header = format!("Authorization: Bearer {token}\r\n");
        proxy.send("POST", "/_admin/refresh", &header).status
    };
    assert_eq!((post("first"), post("second")), (200, 403));
    rewrite(
        cache.path(),
        "admin: {token: first}",
        "admin: {token: second}\n  rate_limit: {per_ip_per_second: 1}",
    );
    eventually("the token is another", || post("second") == 200);
    eventually("there is a rate limit", || {
        proxy.get("/checkpoint").status == 429
    });
    assert!(reloads(&proxy, "applied") >= 1.0);

    rewrite(
        cache.path(),
        "{per_ip_per_second: 1}",
        "{per_ip_per_second: 0}",
    );
    eventually("there is none again", || {
        (0..10).all(|_| proxy.get("/checkpoint").status == 200)
    });
    // Keys, in the file itself: the log's own no longer counts, and then does again.
    let other = crate::world::FixtureLog::with_entries(1)
        .signed_by(9)
        .vkey();
    rewrite(cache.path(), &log.vkey(), &other);
    eventually("nothing is signed by a known key", || {
        proxy.get("/checkpoint").status == 502
    });
    rewrite(cache.path(), &other, &log.vkey());
    eventually("the log is believed again", || {
        proxy.get("/checkpoint").status == 200
    });
    // How often the log is asked.
    rewrite(cache.path(), "refresh_interval: 1s", "refresh_interval: 1h");
    eventually("it is taken up", || {
        proxy
            .printed("configuration read again")
            .iter()
            .any(|line| line.contains("refresh_interval"))
    });
    let asked = upstream.requests("checkpoint");
    rewrite(cache.path(), "refresh_interval: 1h", "refresh_interval: 1s");
    eventually(
        "the interval in effect ends, at the latest with a call",
        || post("second") == 200 && upstream.requests("checkpoint") > asked,
    );
}

#[test]
fn a_wrong_configuration_changes_nothing_and_is_reported_once() {
    let (_log, _upstream, cache, proxy) = honest(300);
    for (wrong, says) in [
        (
            "{refresh_interval: 0s}",
            "tile_proxy.checkpoint.refresh_interval",
        ),
        ("{refresh: 1s}", "tile_proxy.checkpoint.refresh"),
        ("[unfinished", "not valid YAML"),
    ] {
        let refused = reloads(&proxy, "refused");
        rewrite(cache.path(), "{refresh_interval: 1s}", wrong);
        eventually("it is refused", || reloads(&proxy, "refused") > refused);
        assert!(
            configuration(&proxy)["error"]
                .as_str()
                .is_some_and(|error| error.contains(says))
        );
        assert_eq!(proxy.get("/checkpoint").status, 200);
        assert_eq!(proxy.get("/_admin/ready").status, 200);
        eventually("it is said", || {
            let lines = proxy.printed("new configuration refused");
            lines.last().is_some_and(|line| line.contains(says))
        });
        rewrite(cache.path(), wrong, "{refresh_interval: 1s}");
        eventually("the right one is back", || {
            configuration(&proxy)["error"].is_null()
        });
        assert_eq!(reloads(&proxy, "refused"), refused + 1.0, "said once");
    }
    assert_eq!(proxy.printed("new configuration refused").len(), 3);
    // A file that is gone, as between two steps of an editor.
    let file = cache.path().join("config.yaml");
    let text = std::fs::read(&file).expect("readable");
    std::fs::remove_file(&file).expect("there");
    eventually("it is missed", || !proxy.printed("cannot read").is_empty());
    assert_eq!(proxy.get("/checkpoint").status, 200);
    std::fs::write(&file, text).expect("written");
    eventually("it is found again", || {
        configuration(&proxy)["error"].is_null()
    });
}

#[test]
fn what_needs_a_restart_is_named() {
    let (_log, _upstream, cache, proxy) = honest(300);
    rewrite(
        cache.path(),
        "log: {format: json}",
        "log: {format: text, level: debug}\n  sync: {depth: 7}\n  coalescing: {max_wait_ms: 4000}",
    );
    eventually("it is applied as far as it can be", || {
        reloads(&proxy, "applied") >= 1.0
    });
    eventually("it is said", || !proxy.printed("need a restart").is_empty());
    let warning = proxy.printed("need a restart");
    assert_eq!(warning.len(), 1, "{warning:?}");
    assert!(
        warning[0].contains("coalescing.max_wait_ms, log.format"),
        "{warning:?}"
    );
    let waiting = configuration(&proxy)["needsRestart"].clone();
    assert_eq!(
        waiting,
        serde_json::json!(["coalescing.max_wait_ms", "log.format"])
    );
    assert_eq!(proxy.send("POST", "/_admin/cache/sync", "").status, 202);
    let sync: Value = serde_json::from_slice(&proxy.get("/_admin/cache/sync").body).expect("JSON");
    assert_eq!(sync["depth"], 7);
    eventually("more is printed", || {
        !proxy.printed("\"level\":\"DEBUG\"").is_empty()
    });
}

#[test]
fn links_that_are_swapped_are_seen_as_kubernetes_swaps_them() {
    let (_log, _upstream, cache, proxy) = honest_with(300, "  admin: {token: first}\n");
    let (file, old, new) = (
        cache.path().join("config.yaml"),
        cache.path().join("..2026_1"),
        cache.path().join("..2026_2"),
    );
    let text = std::fs::read_to_string(&file).expect("readable");
    for (directory, text) in [
        (&old, text.clone()),
        (&new, text.replace("first", "second")),
    ] {
        std::fs::create_dir(directory).expect("made");
        std::fs::write(directory.join("config.yaml"), text).expect("written");
    }
    let data = cache.path().join("..data");
    std::os::unix::fs::symlink(&old, &data).expect("linked");
    std::fs::remove_file(&file).expect("there");
    std::os::unix::fs::symlink(data.join("config.yaml"), &file).expect("linked");
    let next = cache.path().join("..data_tmp");
    std::os::unix::fs::symlink(&new, &next).expect("linked");
    std::fs::rename(&next, &data).expect("swapped");
    eventually("the new token is taken", || {
        let header = "Authorization: Bearer second\r\n";
        proxy.send("POST", "/_admin/refresh", header).status == 200
    });
}

#[test]
fn the_audit_log_has_what_changed_and_who_did_it_but_no_token() {
    let directory = crate::world::cache_directory();
    let (path, old) = (
        directory.path().join("audit.log"),
        directory.path().join("audit.log.1"),
    );
    let more = format!(
        "  admin: {{token: hunter2}}\n  audit: {{path: \"{}\"}}\n",
        path.display()
    );
    let (log, upstream, cache, proxy) = honest_with(70_000, &more);
    assert_eq!(proxy.get("/checkpoint").status, 200);
    let recorded = |event: &str| -> Vec<Value> {
        let text = [&old, &path].map(|path| std::fs::read_to_string(path).unwrap_or_default());
        let lines = text.iter().flat_map(|text| text.lines());
        let events = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        events.filter(|line| line["event"] == event).collect()
    };
    for (header, status) in [
        ("", 401),
        ("Authorization: Bearer hunter3\r\n", 403),
        ("Authorization: Bearer hunter2\r\n", 200),
    ] {
        assert_eq!(proxy.send("POST", "/_admin/refresh", header).status, status);
    }
    eventually("the calls are recorded", || recorded("admin").len() == 1);
    let (call, failures) = (&recorded("admin")[0], recorded("auth_failure"));
    assert_eq!(
        (&call["path"], &call["status"]),
        (&"/_admin/refresh".into(), &200.into())
    );
    assert!(
        call["peer"]
            .as_str()
            .is_some_and(|peer| peer.starts_with("127.0.0.1:"))
    );
    assert_eq!(failures.len(), 2);

    let mut wrong = log.get("tile/0/005", 70_000, false).expect("there");
    wrong[7] ^= 1;
    upstream.lies_about("tile/0/005", crate::world::Answer::Body(wrong));
    assert_eq!(proxy.get("/tile/0/005").status, 502);
    upstream.tells_the_truth();
    eventually("the lie is recorded", || {
        !recorded("verify_failure").is_empty()
    });
    assert_eq!(recorded("verify_failure")[0]["kind"], "tile");

    // A rotation renames the file and says so.
    std::fs::rename(&path, &old).expect("there");
    proxy.signal(Signal::HUP);
    eventually("it is begun again", || {
        path.exists() && !recorded("reload").is_empty()
    });
    rewrite(cache.path(), "retry_count: 1", "retry_count: 2");
    eventually("a reload is recorded", || recorded("reload").len() == 2);

    upstream.lies_about("checkpoint", crate::world::Answer::Body(b"<html>".to_vec()));
    eventually("a checkpoint that is none is recorded", || {
        recorded("verify_failure")
            .iter()
            .any(|line| line["kind"] == "checkpoint")
    });
    upstream.tells_the_truth();
    let fork = std::sync::Arc::new(crate::world::FixtureLog::forked(60_000, 70_000));
    upstream.becomes(&fork, 70_000);
    eventually("the split view is recorded", || {
        !recorded("split_view").is_empty()
    });
    assert_eq!(proxy.stop(), Some(0));
    for event in ["start", "checkpoint_trusted", "stop"] {
        assert_eq!(recorded(event).len(), 1, "{event}");
    }
    assert_eq!(recorded("checkpoint_trusted")[0]["size"], 70_000);
    for path in [&old, &path] {
        let text = std::fs::read_to_string(path).expect("readable");
        assert!(!text.contains("hunter"), "{text}");
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
    }
}

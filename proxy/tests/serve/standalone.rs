//! What stands in `examples/standalone`: the program takes it as it is written, and serves with it.

use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc};

use serde_json::Value;

use crate::world::{FixtureLog, Proxy, Upstream, cache_directory, eventually};

/// The documents of a file.
fn example(name: &str) -> Vec<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/standalone");
    let text = std::fs::read_to_string(root.join(name)).expect("readable");
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A mapping of text to text.
fn variables(mapping: &Value) -> BTreeMap<String, String> {
    let mapping = mapping.as_object().expect("a mapping");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    mapping
        .iter()
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

/// What each example tells the proxy.
fn environments() -> Vec<(&'static str, BTreeMap<String, String>)> {
    let compose = |name| variables(&example(name)[0]["services"]["tile-proxy"]["environment"]);
    vec![
        ("compose.yaml", compose("compose.yaml")),
        ("compose-sidecar.yaml", compose("compose-sidecar.yaml")),
        (
            "sidecar.yaml",
            variables(&example("sidecar.yaml")[0]["data"]),
        ),
    ]
}

#[test]
fn every_environment_is_a_configuration() {
    for (name, environment) in environments() {
        let checked = Command::new(env!("CARGO_BIN_EXE_tile-proxy"))
            .arg("check")
            .envs(&environment)
            .output()
            .expect("the binary starts");
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{name}: {said}");
        assert_eq!(said, "", "{name}");
    }
}

/// The same keys as in the file, with a log that is here.
#[test]
fn a_proxy_that_is_told_everything_by_its_environment_serves() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let upstream = Upstream::serving(&log);
    for (name, mut environment) in environments() {
        let cache = cache_directory();
        for (key, value) in [
            ("TILE_PROXY__UPSTREAM_URL", upstream.url()),
            ("TILE_PROXY__PUBLIC_KEYS", format!("[\"{}\"]", log.vkey())),
        ] {
            let before = environment.insert(key.to_owned(), value);
            assert!(before.is_some(), "{name} has no {key}");
        }
        // Places of a container.
        environment.remove("TILE_PROXY__ADMIN_LISTEN");
        environment.extend([
            ("TILE_PROXY__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            (
                "TILE_PROXY__CACHE__BASE_PATH".to_owned(),
                cache.path().display().to_string(),
            ),
            ("TILE_PROXY__LOG__FORMAT".to_owned(), "json".to_owned()),
        ]);
        let proxy = Proxy::start_from(&environment);
        eventually("the proxy is ready", || {
            proxy.get("/_admin/ready").status == 200
        });
        assert_eq!(proxy.get("/tile/0/000").status, 200, "{name}");
    }
}

/// The proxy's own places: a volume where its cache is, the port that is published or asked.
#[test]
fn compose_files_mount_the_cache_and_lead_to_the_port() {
    let compose = &example("compose.yaml")[0]["services"]["tile-proxy"];
    assert_eq!(compose["volumes"][0], "tiles:/var/cache/stellaops/tiles");
    assert_eq!(compose["ports"][0], "8080:8080");
    let sidecar = &example("compose-sidecar.yaml")[0]["services"];
    let attestor = &sidecar["attestor"];
    assert_eq!(attestor["network_mode"], "service:tile-proxy");
    assert_eq!(
        attestor["environment"]["ATTESTOR__REKOR_URL"],
        "http://localhost:8080"
    );
    let proxy = &sidecar["tile-proxy"]["environment"];
    assert_eq!(proxy["TILE_PROXY__LISTEN"], "127.0.0.1:8080");
}

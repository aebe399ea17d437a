//! What stands in `examples/standalone`: the program takes it as it is written, and serves with it.

use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc};

use serde_json::Value;
use tile_proxy::rekor_v1::api::{Entry, LogInfo, TreeHead};

use crate::world::{
    FixtureLog, Https, Proxy, Upstream, cache_directory, connect_proxy, eventually,
};

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

/// What the first design wrote down, word for word.
fn as_first_written() -> BTreeMap<String, String> {
    [
        ("TILE_PROXY__UPSTREAM_URL", "https://rekor.sigstore.dev"),
        (
            "TILE_PROXY__TUF_URL",
            "https://trust.stella-ops.invalid/tuf/",
        ),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Those that follow the public log; each with what is told at its start.
fn of_the_public_log() -> Vec<(&'static str, BTreeMap<String, String>, Option<&'static str>)> {
    let mut all: Vec<_> = environments()
        .into_iter()
        .filter(|(name, _)| name.starts_with("compose"))
        .map(|(name, environment)| {
            let has_tuf = environment.contains_key("TILE_PROXY__TUF_URL");
            (
                name,
                environment,
                has_tuf.then_some("trust from TUF needs `tuf.enabled: true`"),
            )
        })
        .collect();
    let missing = "trust from TUF needs `tuf.enabled: true` and `tuf.root`";
    all.push(("as first written", as_first_written(), Some(missing)));
    assert_eq!(all.len(), 3);
    all
}

#[test]
fn every_environment_is_a_configuration() {
    let others = environments()
        .into_iter()
        .filter(|(name, _)| !name.starts_with("compose"))
        .map(|(name, environment)| (name, environment, None));
    for (name, environment, told) in others.chain(of_the_public_log()) {
        let checked = Command::new(env!("CARGO_BIN_EXE_tile-proxy"))
            .arg("check")
            .envs(&environment)
            .output()
            .expect("the binary starts");
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{name}: {said}");
        assert_eq!(said.is_empty(), told.is_none(), "{name}: {said}");
        assert!(
            said.trim_end().ends_with(told.unwrap_or_default()),
            "{name}: {said}"
        );
    }
}

/// The public log at the time of an entry that it published: the tree head in that entry's own proof,
/// and the entry.
struct PublicLog {
    uuid: String,
    entry: Vec<u8>,
    info: Vec<u8>,
}

impl PublicLog {
    const NAME: &str = "rekor.sigstore.dev";

    fn new() -> Self {
        let json = include_bytes!("../../../fuzz/corpus/rekor_entry/real-sigstore-js-2.0.0");
        let entry = Entry::parse(json).expect("an entry");
        let active = TreeHead {
            root_hash: entry.proof.root_hash,
            signed_tree_head: entry.proof.checkpoint.clone(),
            tree_id: entry.uuid.tree.expect("the long form"),
            tree_size: entry.proof.tree_size,
        };
        Self {
            uuid: entry.uuid.to_string(),
            entry: json.to_vec(),
            info: LogInfo {
                active,
                inactive_shards: Vec::new(),
            }
            .to_json(),
        }
    }

    /// Its server, whose certificate is for its name.
    fn server(self: &Arc<Self>) -> Https {
        let log = Arc::clone(self);
        let get = move |path: &str| {
            let rest = path.strip_prefix("api/v1/log")?;
            match rest.strip_prefix("/entries/") {
                None if rest.is_empty() => Some(log.info.clone()),
                Some(uuid) if uuid == log.uuid => Some(log.entry.clone()),
                _ => None,
            }
        };
        Https::of(Self::NAME, Arc::new(get), &[b"h2", b"http/1.1"])
    }
}

/// Nothing is changed but the places of a container, and the way to the log, which nobody here can
/// reach: its bytes are those that it published, and its key is the one in the binary.
#[test]
fn the_compose_files_start_as_they_are_written_and_prove_what_the_public_log_signed() {
    let log = Arc::new(PublicLog::new());
    for (name, mut environment, told) in of_the_public_log() {
        let server = log.server();
        let (way, asked) = connect_proxy(server.address);
        let cache = cache_directory();
        let authority = cache.path().join("ca.pem");
        std::fs::write(&authority, &server.authority).expect("written");
        in_here(&mut environment, cache.path());
        environment.extend([
            ("HTTPS_PROXY".to_owned(), format!("http://{way}")),
            ("SSL_CERT_FILE".to_owned(), authority.display().to_string()),
        ]);
        let proxy = Proxy::start_from(&environment);
        eventually("the log is followed", || {
            proxy.get("/api/v1/log").status == 200
        });
        let served = proxy.get(&format!("/api/v1/log/entries/{}", log.uuid));
        assert_eq!(served.status, 200, "{name}: {}", served.text());
        let (served, truth) = (Entry::parse(&served.body), Entry::parse(&log.entry));
        assert_eq!(
            served.map(|entry| entry.body).ok(),
            truth.map(|entry| entry.body).ok()
        );
        let checkpoint = proxy.get("/checkpoint").text();
        assert!(
            checkpoint.starts_with("rekor.sigstore.dev - "),
            "{checkpoint}"
        );
        let tile = proxy.get("/tile/0/000");
        assert_eq!(tile.status, 404, "{name}");
        assert!(tile.text().contains("Rekor v1"), "{}", tile.text());
        let stats = proxy.get("/_admin/cache/stats").text();
        assert!(stats.contains("\"kind\": \"rekor-v1\""), "{name}: {stats}");
        // Its protocol is known: nobody asked it for tiles.
        let seen = server.seen();
        let others: Vec<_> = seen
            .iter()
            .filter(|seen| !seen.path.starts_with("api/v1/log"))
            .collect();
        assert!(others.is_empty(), "{name}: {others:?}");
        let asked = asked.lock().expect("no panic").clone();
        assert!(
            asked
                .iter()
                .all(|to| to == "CONNECT rekor.sigstore.dev:443"),
            "{name}: {asked:?}"
        );
        let warnings = proxy.printed("\"level\":\"WARN\"");
        assert_eq!(warnings.len(), usize::from(told.is_some()), "{warnings:?}");
        assert!(
            warnings
                .iter()
                .all(|said| said.contains(told.unwrap_or_default()))
        );
        assert_eq!(proxy.stop(), Some(0));
    }
}

/// Places of a container become places of this test.
fn in_here(environment: &mut BTreeMap<String, String>, cache: &Path) {
    environment.remove("TILE_PROXY__ADMIN_LISTEN");
    environment.extend([
        ("TILE_PROXY__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
        (
            "TILE_PROXY__CACHE__BASE_PATH".to_owned(),
            cache.display().to_string(),
        ),
        ("TILE_PROXY__LOG__FORMAT".to_owned(), "json".to_owned()),
    ]);
}

/// The same keys as in the file, with a log that is here.
#[test]
fn a_proxy_that_is_told_everything_by_its_environment_serves() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let upstream = Upstream::serving(&log);
    let (name, mut environment) = environments().pop().expect("sidecar.yaml");
    let cache = cache_directory();
    for (key, value) in [
        ("TILE_PROXY__UPSTREAM_URL", upstream.url()),
        ("TILE_PROXY__PUBLIC_KEYS", format!("[\"{}\"]", log.vkey())),
    ] {
        let before = environment.insert(key.to_owned(), value);
        assert!(before.is_some(), "{name} has no {key}");
    }
    in_here(&mut environment, cache.path());
    let proxy = Proxy::start_from(&environment);
    eventually("the proxy is ready", || {
        proxy.get("/_admin/ready").status == 200
    });
    assert_eq!(proxy.get("/tile/0/000").status, 200, "{name}");
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

//! The real binary with a TUF repository of real keys: what it vouches for is followed, what it does
//! not is not, and neither its absence nor its lies take away what was trusted.

mod discovery;
mod hostile;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    size_of,
    world::{
        Answer, FixtureLog, Https, Load, Proxy, TufRepository, TufServer, Upstream,
        cache_directory, eventually, run,
    },
};

/// A log, the repository that vouches for it, and a place for a cache.
struct World {
    log: Arc<FixtureLog>,
    upstream: Upstream,
    repository: TufRepository,
    server: TufServer,
    cache: tempfile::TempDir,
}

const ORIGIN: &str = "rome.example/2026h1";

impl World {
    /// The log's key is a target of its own.
    fn new() -> Self {
        let log = Arc::new(FixtureLog::with_entries(70_000));
        let mut repository = TufRepository::new();
        repository.list("rekor-key-v1", log.pem()).publish();
        Self {
            upstream: Upstream::serving(&log),
            server: TufServer::serving(&repository.files),
            cache: cache_directory(),
            log,
            repository,
        }
    }

    /// The repository as it is now is what is served.
    fn publish(&mut self) {
        self.repository.publish();
        self.server.becomes(&self.repository.files);
    }

    /// A proxy for the log with keys from TUF.
    fn proxy(&self, tuf: &str) -> Proxy {
        let upstream = format!("  upstream_url: {}\n", self.upstream.url());
        self.proxy_with(tuf, &upstream)
    }

    /// A proxy that is told of no log unless `more` does.
    fn proxy_with(&self, tuf: &str, more: &str) -> Proxy {
        let interval = match tuf.contains("refresh_interval") {
            true => "",
            false => ", refresh_interval: 1s",
        };
        let root = self.cache.path().join("root.json");
        std::fs::write(&root, self.repository.root()).expect("written");
        let more = format!(
            "{more}  tuf: {{enabled: true, url: '{}', root: 'file:{}'{interval}{tuf}}}\n",
            self.server.url(),
            root.display(),
        );
        Proxy::start_bare(&[], self.cache.path(), &more)
    }
}

fn status(proxy: &Proxy) -> Value {
    let stats: Value =
        serde_json::from_slice(&proxy.get("/_admin/cache/stats").body).unwrap_or_default();
    stats["tuf"].clone()
}

fn serves(proxy: &Proxy, size: u64) -> bool {
    let answer = proxy.get("/checkpoint");
    answer.status == 200 && size_of(&answer.body) == size
}

fn failures(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!(
        "tile_proxy_tuf_failures_total{{reason=\"{reason}\"}}"
    ))
}

fn is(proxy: &Proxy, state: &str) -> bool {
    proxy.metric(&format!("tile_proxy_tuf_state{{state=\"{state}\"}}")) == 1.0
}

/// In an hour, or `hours` ago.
fn hours(hours: i64) -> String {
    let time = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[test]
fn a_log_is_followed_with_keys_from_tuf_and_after_a_restart_without_the_repository() {
    let world = World::new();
    let proxy = world.proxy("");
    eventually("it is ready", || proxy.get("/_admin/ready").status == 200);
    eventually("the log is served", || serves(&proxy, 70_000));
    assert_eq!(proxy.get("/tile/0/000").status, 200);
    eventually("trust is fresh", || is(&proxy, "fresh"));
    let tuf = status(&proxy);
    assert_eq!(tuf["state"], "fresh");
    assert_eq!(tuf["expired"], false);
    let roles = tuf["roles"].as_array().expect("a list");
    let names: Vec<_> = roles
        .iter()
        .filter_map(|role| role["role"].as_str())
        .collect();
    assert_eq!(names, ["root", "timestamp", "snapshot", "targets"]);
    assert_eq!(roles[1]["version"], 1);
    assert_eq!(
        proxy.metric("tile_proxy_tuf_version{role=\"targets\"}"),
        1.0
    );
    assert!(proxy.metric("tile_proxy_tuf_last_success_timestamp") > 1.7e9);
    assert_eq!(
        proxy.metric("tile_proxy_tuf_expiry_timestamp{role=\"root\"}"),
        4_070_908_800.0
    );
    let page = proxy.get("/_admin/").text();
    assert!(
        page.contains("<h2>Trust</h2>") && page.contains("version 1, expires 2099"),
        "{page}"
    );
    assert_eq!(proxy.stop(), Some(0));

    // Neither the repository nor the log answers any more.
    world.server.disappears();
    world.upstream.disappears();
    let proxy = world.proxy("");
    eventually("it is ready", || proxy.get("/_admin/ready").status == 200);
    assert!(serves(&proxy, 70_000));
    eventually("it is noticed", || failures(&proxy, "unreachable") >= 1.0);
    assert_eq!(status(&proxy)["state"], "offline");
    assert!(is(&proxy, "offline"));
    assert!(
        proxy
            .get("/checkpoint")
            .header("tile-proxy-trust")
            .is_none()
    );
    assert_eq!(proxy.stop(), Some(0));

    // The other commands have the keys from the cache as well.
    let checked = run("fsck", world.cache.path(), &[]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[test]
fn without_any_trust_nothing_is_served_and_the_answer_says_why() {
    let world = World::new();
    world.server.disappears();
    let proxy = world.proxy("");
    eventually("it says why", || {
        let answer = proxy.get("/checkpoint");
        answer.status == 502 && answer.text().contains("the repository cannot be reached")
    });
    assert_eq!(proxy.get("/tile/0/000").status, 502);
    let ready = proxy.get("/_admin/ready");
    assert_eq!(ready.status, 503);
    assert!(
        ready.text().contains("trust cannot be established"),
        "{}",
        ready.text()
    );
    assert!(is(&proxy, "failed"));
    assert_eq!(proxy.get("/_admin/health").status, 200);
    world.server.returns();
    eventually("the log is served", || serves(&proxy, 70_000));
    eventually("it is ready", || proxy.get("/_admin/ready").status == 200);
}

#[test]
fn further_authorities_may_vouch_for_the_repository_unless_it_has_its_own() {
    let world = World::new();
    let files = world.repository.files.clone();
    let get = move |path: &str| files.get(path).cloned();
    let server = Https::of("tuf.rome.invalid", Arc::new(get), &[b"http/1.1"]);
    let at = world.cache.path();
    std::fs::write(at.join("root.json"), world.repository.root()).expect("written");
    std::fs::write(at.join("ca.pem"), &server.authority).expect("written");
    let other = Https::serving("tuf.rome.invalid", &world.log, &[b"http/1.1"]);
    std::fs::write(at.join("other.pem"), &other.authority).expect("written");
    let proxy = |trusted_ca: &str, own: &str| {
        let more = format!(
            "  upstream_url: {}\n  trusted_ca: 'file:{at}/{trusted_ca}'\n  tuf: {{enabled: true, url: \
             'https://{}/', root: 'file:{at}/root.json', refresh_interval: 1s{own}}}\n",
            world.upstream.url(),
            server.address,
            at = at.display(),
        );
        Proxy::start_bare(&[], at, &more)
    };
    let own = format!(", ca: 'file:{}/other.pem'", at.display());
    for (trusted_ca, own) in [("other.pem", ""), ("ca.pem", own.as_str())] {
        let proxy = proxy(trusted_ca, own);
        eventually("nobody vouches for it", || {
            failures(&proxy, "unreachable") >= 1.0
        });
        assert!(server.seen().is_empty(), "nothing was asked of it");
        assert_eq!(proxy.stop(), Some(0));
    }
    let proxy = proxy("ca.pem", "");
    eventually("the log is served", || serves(&proxy, 70_000));
}

#[test]
fn keys_rotate_under_load_and_no_request_is_rejected() {
    let mut world = World::new();
    let proxy = world.proxy("");
    eventually("the log is served", || serves(&proxy, 70_000));
    let paths = ["/checkpoint", "/tile/0/000", "/tile/1/000", "/tile/0/271"];
    let load = Load::during(&proxy, &paths, |_| {
        for round in 1..=3_u8 {
            // The log signs with the next key at the moment that it is published, and the one before
            // is withdrawn.
            let next =
                Arc::new(FixtureLog::with_entries(70_000 + usize::from(round)).signed_by(round));
            world.upstream.becomes(&next, next.size());
            world.repository.list("rekor-key-v1", next.pem());
            if round == 2 {
                world.repository.rotate();
            }
            world.publish();
            eventually("the next tree is served", || serves(&proxy, next.size()));
        }
    });
    assert_eq!(load.rejected(), 0);
    assert!(load.served() > 20, "there was load");
    assert_eq!(proxy.metric("tile_proxy_tuf_version{role=\"root\"}"), 2.0);
}

#[test]
fn an_unknown_key_makes_the_repository_be_asked_at_once_and_not_again_and_again() {
    let mut world = World::new();
    let proxy = world.proxy(", refresh_interval: 24h");
    eventually("the log is served", || serves(&proxy, 70_000));
    let next = Arc::new(FixtureLog::with_entries(70_001).signed_by(9));
    world.repository.list("rekor-key-v2", next.pem());
    world.publish();
    world.upstream.becomes(&next, 70_001);
    eventually("the new key is found", || serves(&proxy, 70_001));

    // Somebody else's key, a second later: the repository is left alone.
    let asked = world.server.requests("timestamp.json");
    let foreign = Arc::new(FixtureLog::with_entries(70_002).signed_by(11));
    world.upstream.becomes(&foreign, 70_002);
    eventually("it is refused several times", || {
        proxy.metric(
            "tile_proxy_verify_failures_total{kind=\"checkpoint\",log=\"default\",upstream=\"127.0.0.1\"}",
        ) >= 3.0
    });
    assert_eq!(world.server.requests("timestamp.json"), asked);
    assert!(serves(&proxy, 70_001));
    // On demand it is asked.
    proxy.send("POST", "/_admin/refresh", "");
    assert!(world.server.requests("timestamp.json") > asked);
}

#[test]
fn the_log_of_the_service_map_is_discovered_and_its_turnover_followed() {
    let mut world = World::new();
    let oslo = Arc::new(FixtureLog::with_entries(300).called("oslo.example", "oslo.example"));
    let elsewhere = Upstream::serving(&oslo);
    let map = |url: &str, origin: &str| {
        json!({"version": 1, "rekor": {"url": url, "tile_base_url": url, "origin": origin}})
            .to_string()
    };
    world.repository.targets.clear();
    world
        .repository
        .list("trusted_root.json", trusted_root(&[&world.log, &oslo]));
    world
        .repository
        .list("sigstore-services-v1", map(&world.upstream.url(), ORIGIN));
    world.publish();
    let proxy = world.proxy_with(", allow_http: true", "");
    eventually("the log is found and served", || serves(&proxy, 70_000));
    assert_eq!(proxy.get("/rome-example-2026h1/tile/0/000").status, 200);

    // The next shard: it is what paths without a name mean, and the old one stays readable.
    world.repository.list(
        "sigstore-services-v1",
        map(&elsewhere.url(), "oslo.example"),
    );
    world.publish();
    eventually("the next log is served", || serves(&proxy, 300));
    assert_eq!(proxy.get("/oslo-example/tile/0/000").status, 200);
    assert_eq!(proxy.get("/rome-example-2026h1/checkpoint").status, 200);
    assert_eq!(proxy.get("/rome-example-2026h1/tile/0/000").status, 200);

    // A map that may not be followed changes nothing.
    for (map, reason, says) in [
        (r#"{"version": 2}"#, "map_version", "its version is 2"),
        (
            r#"{"version": 1, "rekor": {"url": "ftp://a"}}"#,
            "target",
            "and a host",
        ),
    ] {
        let before = failures(&proxy, reason);
        world.repository.list("sigstore-services-v1", map);
        world.publish();
        eventually("it is refused", || failures(&proxy, reason) > before);
        let error = status(&proxy)["lastError"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(error.contains(says), "{error}");
        assert!(serves(&proxy, 300));
    }
}

/// A trusted root with the keys of these logs.
fn trusted_root(logs: &[&Arc<FixtureLog>]) -> String {
    let tlogs = logs.iter().map(|log| {
        let (name, _) = log
            .vkey()
            .split_once('+')
            .map(|(name, rest)| (name.to_owned(), rest.len()))
            .expect("a key");
        let key: String = log
            .pem()
            .lines()
            .filter(|line| !line.starts_with('-'))
            .collect();
        json!({"baseUrl": format!("https://{name}"), "hashAlgorithm": "SHA2_256",
            "publicKey": {"rawBytes": key, "keyDetails": "PKIX_ED25519"}})
    });
    let tlogs: Vec<Value> = tlogs.collect();
    let kind = "application/vnd.dev.sigstore.trustedroot+json;version=0.1";
    json!({"mediaType": kind, "tlogs": tlogs}).to_string()
}

#[test]
fn an_explicit_key_always_wins() {
    let world = World::new();
    let other = FixtureLog::with_entries(1).signed_by(9).vkey();
    let more = format!(
        "  upstream_url: {}\n  public_keys: ['{other}']\n",
        world.upstream.url()
    );
    let proxy = world.proxy_with("", &more);
    eventually("trust is fresh", || is(&proxy, "fresh"));
    eventually("the log is refused", || {
        let answer = proxy.get("/checkpoint");
        answer.status == 502 && answer.text().contains("not signed by a known key")
    });
}

#[test]
fn sigstores_public_logs_need_no_key() {
    let directory = cache_directory();
    let config = directory.path().join("config.yaml");
    for (url, tuf_url, valid) in [
        ("https://rekor.sigstore.dev", "", true),
        ("https://log2025-1.rekor.sigstore.dev", "", true),
        (
            "https://rekor.sigstore.dev",
            "tuf_url: 'https://tuf.example', ",
            true,
        ),
        ("https://rekor.example", "", false),
    ] {
        std::fs::write(
            &config,
            format!("tile_proxy: {{{tuf_url}upstream_url: '{url}'}}"),
        )
        .expect("written");
        let checked = run("check", directory.path(), &[]);
        assert_eq!(checked.code == Some(0), valid, "{url}: {checked:?}");
        let told = checked
            .stderr
            .contains("trust from TUF needs `tuf.enabled: true` and `tuf.root`");
        assert_eq!(told, !tuf_url.is_empty(), "{checked:?}");
    }
}

//! A Rekor v1 log with keys from a TUF repository: followed as what the repository says that it is, or
//! as what it turns out to be; through rotations of its key and turnovers of its shards.

use std::collections::HashSet;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tile_proxy::rekor_v1::api::{Entry, LogInfo};

use crate::world::{
    Load, Proxy, RekorLog, RekorServer, TufRepository, TufServer, Upstream, cache_directory,
    eventually,
};

/// A repository, and a place for a cache.
struct World {
    repository: TufRepository,
    server: TufServer,
    cache: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let mut repository = TufRepository::new();
        repository.publish();
        Self {
            server: TufServer::serving(&repository.files),
            repository,
            cache: cache_directory(),
        }
    }

    /// The repository with these targets beside those it had is what is served.
    fn publish<const N: usize>(&mut self, targets: [(&str, String); N]) {
        for (name, bytes) in targets {
            self.repository.list(name, bytes);
        }
        self.repository.publish();
        self.server.becomes(&self.repository.files);
    }

    /// A proxy that is told of no log unless `more` does.
    fn proxy(&self, interval: &str, more: &str) -> Proxy {
        let root = self.cache.path().join("root.json");
        std::fs::write(&root, self.repository.root()).expect("written");
        let more = format!(
            "{more}  tuf: {{enabled: true, allow_http: true, url: '{}', root: 'file:{}', \
             refresh_interval: {interval}}}\n",
            self.server.url(),
            root.display(),
        );
        Proxy::start_bare(&[], self.cache.path(), &more)
    }
}

/// A trusted root with these keys, each of the log at this address, and with the time that it is for.
fn trusted_root(keys: &[(&str, &RekorLog, Value)]) -> String {
    let tlogs = keys.iter().map(|(url, log, valid_for)| {
        json!({"baseUrl": url.trim_end_matches('/'), "hashAlgorithm": "SHA2_256",
            "publicKey": {"rawBytes": BASE64_STANDARD.encode(log.spki()),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": valid_for}})
    });
    let tlogs: Vec<Value> = tlogs.collect();
    let kind = "application/vnd.dev.sigstore.trustedroot+json;version=0.1";
    json!({"mediaType": kind, "tlogs": tlogs}).to_string()
}

/// Says of these addresses that they are written to by the first version of Rekor's API.
fn signing_config(urls: &[&str]) -> String {
    let urls = urls
        .iter()
        .map(|url| json!({"url": url, "majorApiVersion": 1}));
    let urls: Vec<Value> = urls.collect();
    let kind = "application/vnd.dev.sigstore.signingconfig.v0.2+json";
    json!({"mediaType": kind, "rekorTlogUrls": urls, "rekorTlogConfig": {"selector": "ANY"}})
        .to_string()
}

fn service_map(url: &str) -> String {
    let log = json!({"url": url, "origin": "rekor.example", "major_api_version": 1});
    json!({"version": 1, "rekor": log}).to_string()
}

/// The tree heads that are served below `log`; `None` if none are.
fn heads(proxy: &Proxy, log: &str) -> Option<LogInfo> {
    let answer = proxy.get(&format!("/{log}api/v1/log"));
    (answer.status == 200).then(|| LogInfo::parse(&answer.body).expect("tree heads"))
}

fn serves(proxy: &Proxy, log: &str, size: u64) -> bool {
    heads(proxy, log).is_some_and(|heads| heads.active.tree_size == size)
}

fn entry(proxy: &Proxy, log: &str, index: u64) -> Entry {
    let answer = proxy.get(&format!("/{log}api/v1/log/entries?logIndex={index}"));
    assert_eq!(answer.status, 200, "{log} {index}: {}", answer.text());
    Entry::parse(&answer.body).expect("an entry")
}

/// Everything that was asked for that is not of Rekor v1.
fn foreign(upstream: &Upstream) -> HashSet<String> {
    let mut paths = upstream.paths();
    paths.retain(|path| !path.starts_with("api/v1/log"));
    paths
}

#[test]
fn two_logs_are_discovered_and_outlive_everybody() {
    let rome = RekorLog::with_entries(20).called("rome.example");
    let oslo = RekorLog::with_entries(30)
        .called("oslo.example")
        .shard(7, 0)
        .signed_by(1);
    let at_rome = Upstream::rekor(RekorServer::of(&rome));
    let at_oslo = Upstream::rekor(RekorServer::of(&oslo));
    let (url_of_rome, url_of_oslo) = (at_rome.url(), at_oslo.url());
    let mut world = World::new();
    // Of one, it is said which version of the API it has; the other has to be asked.
    world.publish([
        (
            "trusted_root.json",
            trusted_root(&[
                (&url_of_rome, &rome, Value::Null),
                (&url_of_oslo, &oslo, Value::Null),
            ]),
        ),
        ("signing_config.v0.2.json", signing_config(&[&url_of_rome])),
    ]);
    let proxy = world.proxy("1s", "");
    let name = |url: &str| {
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        format!("{}/", address.replace(['.', ':'], "-"))
    };
    let logs = [(name(&url_of_rome), &rome), (name(&url_of_oslo), &oslo)];
    for (name, log) in &logs {
        eventually("it is found and followed", || {
            serves(&proxy, name, log.size() as u64)
        });
        assert_eq!(entry(&proxy, name, 3).body, log.entry(3, log.size()).body);
        let checkpoint = log.checkpoint(log.size());
        let hash = {
            use sha2::{Digest as _, Sha256};
            hex::encode(Sha256::digest(&checkpoint.origin))
        };
        assert_eq!(entry(&proxy, &format!("{hash}/"), 3).uuid, log.uuid(3));
    }
    assert_eq!(foreign(&at_rome), HashSet::new());
    assert!(foreign(&at_oslo).contains("checkpoint"), "it was asked");
    let stats: Value =
        serde_json::from_slice(&proxy.get("/_admin/cache/stats").body).expect("JSON");
    for log in stats["logs"].as_array().expect("a list") {
        assert_eq!(log["kind"], "rekor-v1", "{log}");
    }
    assert_eq!(proxy.stop(), Some(0));

    world.server.disappears();
    at_rome.disappears();
    at_oslo.disappears();
    let proxy = world.proxy("1s", "");
    for (name, log) in &logs {
        eventually("it is taken up", || serves(&proxy, name, log.size() as u64));
        assert_eq!(entry(&proxy, name, 3).uuid, log.uuid(3));
    }
}

#[test]
fn a_log_is_followed_once_there_is_trust_and_taken_up_from_the_cache_then() {
    let log = RekorLog::with_entries(20);
    let upstream = Upstream::rekor(RekorServer::of(&log));
    let mut world = World::new();
    world.publish([("rekor.pub", log.pem())]);
    world.server.disappears();
    let follow = format!("  upstream_url: {}\n", upstream.url());
    let proxy = world.proxy("1s", &follow);
    eventually("it says why not", || {
        let ready = proxy.get("/_admin/ready");
        ready.text().contains("trust cannot be established")
    });
    world.server.returns();
    eventually("it is followed", || serves(&proxy, "", 20));
    entry(&proxy, "", 3);
    assert_eq!(proxy.stop(), Some(0));

    // The log is gone, and of the trust nothing was kept: it comes from the repository again.
    std::fs::remove_dir_all(world.cache.path().join("cache/tuf")).expect("there");
    upstream.disappears();
    world.server.disappears();
    let proxy = world.proxy("1s", &format!("{follow}  kind: rekor-v1\n"));
    eventually("it says why not", || {
        let ready = proxy.get("/_admin/ready");
        ready.text().contains("trust cannot be established")
    });
    world.server.returns();
    eventually("it is taken up", || serves(&proxy, "", 20));
    assert_eq!(entry(&proxy, "", 3).uuid, log.uuid(3));
}

#[test]
fn a_key_rotates_and_a_shard_turns_over_and_no_request_is_rejected() {
    let old = RekorLog::with_entries(20).shard(7, 0);
    let next = RekorLog::with_entries(15).shard(8, 20).signed_by(1);
    let upstream = Upstream::rekor(RekorServer::of(&old));
    let url = upstream.url();
    let mut world = World::new();
    world.publish([
        ("sigstore-services-v1", service_map(&url)),
        (
            "trusted_root.json",
            trusted_root(&[("https://rekor.example", &old, Value::Null)]),
        ),
    ]);
    // It is not asked by itself within this test: only the unknown key makes it.
    let proxy = world.proxy("24h", "");
    eventually("it is found and followed", || serves(&proxy, "", 20));
    assert_eq!(foreign(&upstream), HashSet::new());
    let paths = [
        "/api/v1/log",
        "/api/v1/log/entries?logIndex=3",
        "/checkpoint",
    ];
    let load = Load::during(&proxy, &paths, |load| {
        eventually("there is load", || load.served() > 20);
        // The old key's time has ended; what it signed stays signed.
        let ended = json!({"start": "2021-01-12T00:00:00Z", "end": "2025-01-12T00:00:00Z"});
        world.publish([(
            "trusted_root.json",
            trusted_root(&[
                ("https://rekor.example", &old, ended),
                ("https://rekor.example", &next, Value::Null),
            ]),
        )]);
        let shards = vec![old.clone(), next.clone()];
        upstream.becomes_rekor(RekorServer::of_shards(shards));
        eventually("the next shard grows", || serves(&proxy, "", 15));
        let before = load.served();
        eventually("there was load", || load.served() > before + 20);
    });
    assert_eq!(load.rejected(), 0);
    let heads = heads(&proxy, "").expect("served");
    assert_eq!((heads.active.tree_id.0, heads.active.tree_size), (8, 15));
    assert_eq!(heads.inactive_shards.len(), 1);
    // An entry of the old shard that is not here yet, and one of the next.
    assert_eq!(entry(&proxy, "", 9).uuid, old.uuid(9));
    assert_eq!(entry(&proxy, "", 25).uuid, next.uuid(5));
    for (tree, log) in [(7, &old), (8, &next)] {
        let key = proxy.get(&format!("/api/v1/log/publicKey?treeID={tree}"));
        let pem = log.pem().replace("\r\n", "\n");
        assert_eq!(key.text().trim(), pem.trim());
    }
}

#[test]
fn the_first_entry_under_an_unknown_key_makes_the_repository_be_asked() {
    let log = RekorLog::with_entries(20);
    let upstream = Upstream::rekor(RekorServer::of(&log));
    let mut world = World::new();
    world.publish([("rekor-key-v1", log.pem())]);
    let more = format!(
        "  upstream_url: {}\n  kind: rekor-v1\n  origin: rekor.example\n",
        upstream.url()
    );
    let proxy = world.proxy("24h", &more);
    eventually("it is followed", || serves(&proxy, "", 20));
    let rotated = log.clone().signed_by(1);
    world.publish([("rekor-key-v2", rotated.pem())]);
    let asked = world.server.requests("timestamp.json");
    // Nothing but the entry tells of the new key.
    upstream.lies_about(
        "api/v1/log",
        crate::world::Answer::Body(log.info(20, &[]).to_json()),
    );
    upstream.becomes_rekor(RekorServer::of(&rotated));
    assert_eq!(entry(&proxy, "", 4).uuid, log.uuid(4));
    assert_eq!(world.server.requests("timestamp.json"), asked + 1);
    // Somebody else's key is none, and the repository is left alone.
    world.repository.targets.remove("rekor-key-v2");
    world.publish([]);
    // Its tree head is as it was; so it can be refreshed, and the withdrawn key is none any more.
    let refreshed = proxy.send("POST", "/_admin/refresh", "");
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    assert!(
        refreshed.text().contains("\"size\": 20"),
        "{}",
        refreshed.text()
    );
    let asked = world.server.requests("timestamp.json");
    let refused = proxy.get("/api/v1/log/entries?logIndex=5");
    assert_eq!(refused.status, 502, "{}", refused.text());
    assert_eq!(world.server.requests("timestamp.json"), asked);
}

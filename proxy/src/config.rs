//! The configuration of the proxy: every key with its unit, default and reason.
//!
//! The types mirror the file key by key, so that a key never changes meaning: one whose capability
//! is not built yet exists, and [`Config::check`] refuses it by name. [`load`](Config::load) reads
//! the file and the environment; nothing here opens a port or a cache.

mod check;
mod load;
mod logs;
mod tuf;
mod units;
mod upstreams;

use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf};
use url::Url;

pub(crate) use self::upstreams::{REKOR_V2_PREFIX, with_rekor_v2_prefix};
pub use self::{
    check::{MIN_DISK_BUDGET, Problem, Settings},
    load::{ConfigError, ENVIRONMENT_PREFIX},
    logs::{
        KeysOf, LogSettings, MAX_CACHE_SHARE, MAX_LOGS, RESERVED_LOG_NAMES, Signers, discovered,
    },
    tuf::shipped,
    units::{Interval, Listen, Size, Source},
    upstreams::UpstreamSettings,
};

/// Everything under `tile_proxy:` in the configuration file.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients connect: one address or a list. `[::]` falls back to `0.0.0.0` on a machine
    /// without IPv6. Defaults to `[::]:8080`.
    #[serde(deserialize_with = "units::one_or_many")]
    pub listen: Vec<Listen>,
    /// Where administration, metrics, probes and peers connect. Empty: under `/_admin` of `listen`.
    #[serde(with = "units::empty_is_none")]
    pub admin_listen: Option<Listen>,
    /// The log, in short form for a single upstream. Defaults to the public Rekor.
    pub upstream_url: Option<Url>,
    /// Where the tiles are, if they are not under `upstream_url`. A final `tile/` is cut off.
    #[serde(with = "units::empty_is_none")]
    pub tile_base_url: Option<Url>,
    /// First line of the log's checkpoints. Empty: learned from the first verified checkpoint.
    pub origin: String,
    /// What protocol the upstream speaks.
    pub kind: Kind,
    /// Verifier keys (`name+id+base64`, or PEM), inline or `file:PATH`. Several during a rotation;
    /// files are read again before every refresh.
    pub public_keys: Vec<Source>,
    /// Upstreams of the one log, in place of `upstream_url`.
    pub upstreams: Vec<Upstream>,
    /// Certificate authorities beside the system's, PEM, for every upstream that names none of its own.
    /// A file is read again when it changes.
    pub trusted_ca: Option<Source>,
    /// Several logs, in place of `upstream_url` and `upstreams`.
    pub logs: Vec<LogConfig>,
    /// Pass other `/api/v1/log/` requests through to a Rekor v1 upstream.
    pub passthrough: bool,
    /// `offline` never asks an upstream: everything comes from the cache, as behind an air gap.
    pub mode: Mode,
    /// Accept a log without any key. Every answer is then as trustworthy as the network.
    pub danger_accept_unsigned: bool,
    /// Trust taken from a TUF repository.
    pub tuf: Tuf,
    /// Where verified tiles are kept and how much of them.
    pub cache: Cache,
    /// How checkpoints are followed.
    pub checkpoint: CheckpointConfig,
    /// Scheduled prefetch of the newest entries.
    pub sync: Sync,
    /// How many clients share one fetch.
    pub coalescing: Coalescing,
    /// What happens when an upstream fails.
    pub failover: Failover,
    /// Other replicas that may hold a tile.
    pub peers: Peers,
    /// TLS of `listen`.
    pub tls: Tls,
    /// Requests a single client may make.
    pub rate_limit: RateLimit,
    /// A record of who asked for what.
    pub audit: Audit,
    /// Who may change things under `/_admin`.
    pub admin: Admin,
    /// Bounds on clients and upstreams.
    pub limits: Limits,
    /// What is printed, and how.
    pub log: Tracing,
    /// How the process ends.
    pub shutdown: Shutdown,
}

/// The default of `upstream_url`.
pub const DEFAULT_UPSTREAM: &str = "https://rekor.sigstore.dev";

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Listen(SocketAddr::from(([0_u16; 8], 8080)))],
            admin_listen: None,
            upstream_url: None,
            tile_base_url: None,
            origin: String::new(),
            kind: Kind::Auto,
            public_keys: Vec::new(),
            upstreams: Vec::new(),
            trusted_ca: None,
            logs: Vec::new(),
            passthrough: false,
            mode: Mode::Online,
            danger_accept_unsigned: false,
            tuf: Tuf::default(),
            cache: Cache::default(),
            checkpoint: CheckpointConfig::default(),
            sync: Sync::default(),
            coalescing: Coalescing::default(),
            failover: Failover::default(),
            peers: Peers::default(),
            tls: Tls::default(),
            rate_limit: RateLimit::default(),
            audit: Audit::default(),
            admin: Admin::default(),
            limits: Limits::default(),
            log: Tracing::default(),
            shutdown: Shutdown::default(),
        }
    }
}

/// What protocol an upstream speaks.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Find out from its answers.
    #[default]
    Auto,
    /// Rekor v1's JSON API, which has no tiles.
    RekorV1,
    /// Rekor v2: tlog-tiles under an API prefix.
    RekorV2,
    /// C2SP tlog-tiles.
    TlogTiles,
}

/// Whether upstreams are asked at all.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Never ask an upstream.
    Offline,
    /// Ask upstreams for what is missing.
    #[default]
    Online,
}

/// One place that serves a log.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Name in metrics and records; never a URL, and no two have the same. Defaults to the host of
    /// `url`.
    pub name: String,
    /// Base URL: `checkpoint` and `tile/` are below it. `file:///PATH` is a directory.
    pub url: Option<Url>,
    /// Where the tiles are, if they are not under `url`. A final `tile/` is cut off.
    #[serde(with = "units::empty_is_none")]
    pub tile_base_url: Option<Url>,
    /// Lower is asked first. Defaults to 0, which is before 1.
    pub priority: u32,
    /// How long one request may take. Defaults to `30s`.
    pub timeout: Option<Interval>,
    /// Certificate authorities for this upstream in place of the system's, PEM. A file is read again
    /// when it changes.
    pub ca: Option<Source>,
    /// Value of the `Authorization` header, such as `Bearer …`; sent to the host of `url` and to no
    /// other. A file is read again when it changes.
    pub authorization: Option<Source>,
    /// Where writes go, if not to `url`.
    #[serde(with = "units::empty_is_none")]
    pub write_url: Option<Url>,
}

/// One of several logs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A DNS label, the first path segment for this log.
    pub name: String,
    /// Whether paths without a prefix mean this log.
    pub default: bool,
    /// See [`Config::origin`].
    pub origin: String,
    /// See [`Config::kind`].
    pub kind: Kind,
    /// See [`Config::public_keys`].
    pub public_keys: Vec<Source>,
    /// See [`Config::upstreams`].
    pub upstreams: Vec<Upstream>,
    /// Its part of the disk budget, as a weight beside those of the other logs; 1 to 1,000. Defaults
    /// to 1: all have the same.
    pub cache_share: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            default: false,
            origin: String::new(),
            kind: Kind::Auto,
            public_keys: Vec::new(),
            upstreams: Vec::new(),
            cache_share: 1,
        }
    }
}

/// Trust from a TUF repository. `tuf_url` is not a key of its own but an alias of `tuf.url`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuf {
    /// Whether keys are taken from TUF.
    pub enabled: bool,
    /// Base URL of the repository.
    #[serde(with = "units::empty_is_none")]
    pub url: Option<Url>,
    /// The initial root of trust, `root.json`; a file is read again when it changes. That of
    /// Sigstore's public instance is built in.
    pub root: Option<Source>,
    /// Certificate authorities for the repository in place of the system's, PEM. A file is read again
    /// when it changes.
    pub ca: Option<Source>,
    /// Where metadata is kept. Empty: `tuf/` under the cache.
    pub cache_path: String,
    /// Name of the environment in the service map.
    pub environment: String,
    /// Target that holds the service map, with or without `.json`.
    pub service_map: String,
    /// Whether the service map may name a log at `http://`. What it serves is proven all the same;
    /// what is asked for is for everybody on the way to see.
    pub allow_http: bool,
    /// How often metadata is refreshed. Defaults to `1h`.
    pub refresh_interval: Interval,
    /// How long expired metadata is still followed. Defaults to `0s`.
    pub expiry_grace: Interval,
    /// Whether checkpoints must be signed by a key from TUF. Defaults to `true`.
    pub validate_checkpoint_signature: bool,
}

impl Default for Tuf {
    fn default() -> Self {
        Self {
            enabled: false,
            url: None,
            root: None,
            ca: None,
            cache_path: String::new(),
            environment: String::new(),
            service_map: "sigstore-services-v1".to_owned(),
            allow_http: false,
            refresh_interval: Interval::seconds(3600),
            expiry_grace: Interval::seconds(0),
            validate_checkpoint_signature: true,
        }
    }
}

/// The cache: what verified bytes are kept, where, and how many.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Directory of the cache; one process at a time uses it.
    pub base_path: PathBuf,
    /// Disk budget in gibibytes. Defaults to 10.
    pub max_size_gb: u64,
    /// Disk budget with a unit, such as `9Gi`; beats `max_size_gb`.
    #[serde(with = "units::empty_is_none")]
    pub max_size: Option<Size>,
    /// Verified bytes kept in memory, in mebibytes. Defaults to 128, some 16,000 full tiles.
    pub memory_mb: u64,
    /// What goes first when the disk budget is full. Full tiles never go.
    pub eviction_policy: EvictionPolicy,
    /// Age from which a served checkpoint carries a `Warning` header, in minutes. Defaults to 5.
    pub checkpoint_ttl_minutes: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            base_path: "/var/cache/stellaops/tiles".into(),
            max_size_gb: 10,
            max_size: None,
            memory_mb: 128,
            eviction_policy: EvictionPolicy::Lru,
            checkpoint_ttl_minutes: 5,
        }
    }
}

/// What is evicted first.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EvictionPolicy {
    /// The least recently used.
    #[default]
    Lru,
}

/// How checkpoints are followed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// How often the log is asked for a newer checkpoint; at least `1s`. A new entry is visible to
    /// clients after at most this long. Defaults to `10s`, about the rate at which logs publish.
    pub refresh_interval: Interval,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            refresh_interval: Interval::seconds(10),
        }
    }
}

/// Scheduled prefetch of the newest entries.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sync {
    /// Whether the proxy syncs by itself. Defaults to `true`.
    pub enabled: bool,
    /// When, as five cron fields in UTC. Defaults to every six hours.
    pub schedule: String,
    /// How many of the newest entries. Defaults to 10,000.
    pub depth: u64,
}

impl Default for Sync {
    fn default() -> Self {
        Self {
            enabled: true,
            schedule: "0 */6 * * *".to_owned(),
            depth: 10_000,
        }
    }
}

/// How clients that want the same thing share one fetch.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coalescing {
    /// Whether they share. Defaults to `true`.
    pub enabled: bool,
    /// Longest wait of a client for a fetch, retries included, in milliseconds. Defaults to 5,000.
    pub max_wait_ms: u64,
    /// How long a failed fetch answers those who come after it, in milliseconds. Defaults to 500.
    pub error_ttl_ms: u64,
}

impl Default for Coalescing {
    fn default() -> Self {
        Self {
            enabled: true,
            max_wait_ms: 5_000,
            error_ttl_ms: 500,
        }
    }
}

/// What happens when an upstream fails.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Failover {
    /// Whether the next upstream is asked. Defaults to `true`.
    pub enabled: bool,
    /// How often one upstream is asked again after a failure. Defaults to 2.
    pub retry_count: u32,
    /// Pause before the first repeat, in milliseconds; doubles each time. Defaults to 1,000.
    pub retry_delay_ms: u64,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            enabled: true,
            retry_count: 2,
            retry_delay_ms: 1_000,
        }
    }
}

/// Other replicas that may hold a tile.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Peers {
    /// This replica's name in the list.
    #[serde(rename = "self")]
    pub this: String,
    /// The list of peers, reloaded when it changes.
    pub file: String,
    /// What peers show each other.
    pub token: Option<Source>,
}

/// TLS of `listen`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub cert: Option<Source>,
    /// Private key, PEM.
    pub key: Option<Source>,
    /// Authorities of client certificates, PEM.
    pub client_ca: Option<Source>,
    /// Whether a client must show a certificate.
    pub require_client_cert: bool,
    /// Whether `admin_listen` uses TLS too.
    pub admin: bool,
}

/// Requests a single client may make.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimit {
    /// Requests a second for one address (IPv6: one /64). 0 is no limit.
    pub per_ip_per_second: u32,
    /// Requests above the rate that are let through at once.
    pub burst: u32,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
}

/// A record of who asked for what, as JSON lines.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// File to append to; `-` is standard output. Empty: no record.
    pub path: String,
}

/// Who may change things under `/_admin`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The bearer token of mutating calls.
    pub token: Option<Source>,
    /// Whether, without a token, callers on this machine may change things. Defaults to `true`.
    pub loopback: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            token: None,
            loopback: true,
        }
    }
}

/// Bounds on clients and upstreams.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections open at once, over all addresses. Defaults to 10,000.
    pub connections: usize,
    /// Largest head of a request, in bytes; at least 8,192. Defaults to 16,384.
    pub header_bytes: usize,
    /// How long a client may take to send the head of a request, a TLS handshake included. Defaults
    /// to `10s`.
    pub header_timeout: Interval,
    /// How long a connection stays open in which nothing goes on: no new request, and less than
    /// 1,024 bytes a second of an answer taken. Defaults to `60s`.
    pub idle_timeout: Interval,
    /// Largest checkpoint an upstream may send, in bytes. Defaults to 65,536.
    pub checkpoint_bytes: usize,
    /// Requests to upstreams under way at once. Defaults to 64.
    pub upstream_requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_bytes: 16_384,
            header_timeout: Interval::seconds(10),
            idle_timeout: Interval::seconds(60),
            checkpoint_bytes: 65_536,
            upstream_requests: 64,
        }
    }
}

/// What is printed, and how.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tracing {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or a filter such as
    /// `info,tile_proxy=debug`. Defaults to `info`.
    pub level: String,
    /// Text, JSON, or text only on a terminal. Defaults to `auto`.
    pub format: TracingFormat,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: TracingFormat::Auto,
        }
    }
}

/// How lines are printed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TracingFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

/// How the process ends.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long requests under way may go on after a signal. Defaults to `20s`.
    pub drain: Interval,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            drain: Interval::seconds(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Paths of all keys, with what they are by default.
    fn keys(prefix: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let path = if prefix.is_empty() {
                        key.clone()
                    } else {
                        format!("{prefix}.{key}")
                    };
                    keys(&path, value, found);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for item in items {
                    keys(&format!("{prefix}[]"), item, found);
                }
            }
            _ => found.push(prefix.to_owned()),
        }
    }

    #[test]
    fn every_key_is_in_the_documentation() {
        let page = include_str!("../../docs/configuration.md");
        let config = Config {
            upstreams: vec![Upstream::default()],
            logs: vec![LogConfig {
                upstreams: Vec::new(),
                ..LogConfig::default()
            }],
            ..Config::default()
        };
        let mut found = Vec::new();
        keys(
            "",
            &serde_json::to_value(config).expect("a tree"),
            &mut found,
        );
        assert!(found.len() > 60, "{found:?}");
        let missing: Vec<&String> = found
            .iter()
            .filter(|key| !page.contains(&format!("| `{key}` |")))
            .collect();
        assert!(
            missing.is_empty(),
            "docs/configuration.md does not explain {missing:?}"
        );
    }
}

//! What a TUF repository says of logs: which there are, where they are read, and with which keys
//! their checkpoints are verified. No I/O.
//!
//! Where a log is read, the first of these says: the configuration; the service map; the monitor
//! configuration; `trusted_root.json`, whose `baseUrl` names the log and is not meant for reading,
//! which is told. Which keys are its own: the configuration; the targets that the service map names;
//! `trusted_root.json`; `rekor-key-v1` and `rekor-key-v2` where there is no map; a target that is
//! marked as Rekor's (`rekor.pub`). What is in the configuration is not seen here, and always wins.

use std::fmt;

use jiff::Timestamp;
use url::Url;

use super::{
    error::TufError,
    monitor::MonitoredLog,
    service_map::MappedLog,
    signing_config::SigningLog,
    trusted_root::{RootLog, RootLogs},
};
use crate::{
    config::{Kind, with_rekor_v2_prefix},
    note::vkey::{Algorithm, VerifierKey},
};

/// Targets that hold a log's keys by custom, each also with `.pub` after it.
pub(super) const KEY_TARGETS: [&str; 2] = ["rekor-key-v1", "rekor-key-v2"];

/// Most keys in one target.
const MAX_KEYS: usize = 16;

/// Everything in a repository that is about logs, read.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    pub(super) service_map: Option<MappedLog>,
    pub(super) trusted_root: RootLogs,
    pub(super) signing: Vec<SigningLog>,
    pub(super) monitored: Vec<MonitoredLog>,
    /// Keys by target: those of the service map, or those by custom.
    pub(super) key_targets: Vec<(String, Vec<VerifierKey>)>,
    /// Keys of targets that are marked as Rekor's.
    pub(super) legacy: Vec<(String, Vec<VerifierKey>)>,
    /// What to tell.
    pub(super) notes: Vec<String>,
}

/// What of it counts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Material {
    /// The logs that are known by address or origin; that of the service map is the first.
    pub logs: Vec<FoundLog>,
    /// Whether the first of them is from a service map, which then is the one to follow.
    pub mapped: bool,
    /// Keys that are of no log in particular.
    pub loose: Vec<FoundKey>,
    /// What to tell.
    pub notes: Vec<String>,
}

/// A log, as a TUF repository describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FoundLog {
    /// First line of its checkpoints; for Rekor v1, its beginning.
    pub origin: Option<String>,
    /// Whose signatures make a checkpoint its own.
    pub keys: Vec<FoundKey>,
    /// Where it is.
    pub url: Option<Url>,
    /// Where its checkpoint and tiles are, if not there.
    pub tile_base_url: Option<Url>,
    /// Who says so.
    pub url_from: FoundIn,
    /// What protocol it speaks.
    pub kind: Kind,
    /// Every address by which it may be meant.
    known_at: Vec<Url>,
}

/// A key, and who vouches for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FoundKey {
    /// The key.
    pub key: VerifierKey,
    /// The target it is from.
    pub from: FoundIn,
}

/// Which target something is from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FoundIn {
    /// A target with nothing but a key.
    KeyTarget(String),
    /// The monitor configuration.
    MonitorConfig,
    /// The service map.
    ServiceMap,
    /// `trusted_root.json`.
    TrustedRoot,
}

impl fmt::Display for FoundIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyTarget(name) => name,
            Self::MonitorConfig => "monitor configuration",
            Self::ServiceMap => "service map",
            Self::TrustedRoot => super::trusted_root::TARGET,
        })
    }
}

/// The keys in a target that holds nothing else: vkey lines, PEM, or one key in DER.
///
/// # Errors
/// When there is no key in it, or something else.
pub(super) fn keys_in(target: &str, bytes: &[u8]) -> Result<Vec<VerifierKey>, TufError> {
    let wrong = |message: String| TufError::target(target, message);
    let keys = match std::str::from_utf8(bytes) {
        Ok(text) => VerifierKey::parse_all(text),
        Err(_) => VerifierKey::from_spki(bytes).map(|key| vec![key]),
    };
    let keys = keys.map_err(|error| wrong(error.to_string()))?;
    let vouch = keys.iter().any(|key| key.algorithm().vouches_for_logs());
    match keys.len() {
        _ if !vouch => Err(wrong("it holds no key of a log".to_owned())),
        ..=MAX_KEYS => Ok(keys),
        _ => Err(wrong(format!("it holds more than {MAX_KEYS} keys"))),
    }
}

impl Published {
    /// What counts of it at `now`, which a key's own time begins before.
    pub(super) fn resolve(mut self, now: Timestamp) -> Material {
        let mut notes = std::mem::take(&mut self.notes);
        notes.append(&mut self.trusted_root.notes);
        self.trusted_root.logs.retain(|log| {
            let begun = log.start.is_none_or(|start| start <= now);
            if !begun {
                notes.push(format!("the key of {} is not in use yet", log.origin));
            }
            begun
        });
        let mapped = self.mapped_log();
        let is_mapped = mapped.is_some();
        let mut logs: Vec<FoundLog> = mapped.into_iter().collect();
        for root in &self.trusted_root.logs {
            match logs.iter_mut().find(|log| log.is_called(&root.origin)) {
                // The map says more of it; or the same log has a second key.
                Some(log) if log.url_from == FoundIn::ServiceMap => {}
                Some(log) => log.keys.push(FoundKey::of_root(root)),
                None => logs.push(self.root_log(root)),
            }
        }
        let mut loose = Vec::new();
        if !is_mapped {
            loose.extend(found(&self.key_targets));
        }
        if loose.is_empty() {
            loose.extend(found(&self.legacy));
        }
        Material {
            logs,
            mapped: is_mapped,
            loose,
            notes,
        }
    }

    /// The log of the service map.
    fn mapped_log(&self) -> Option<FoundLog> {
        let map = self.service_map.as_ref()?;
        let roots = self.trusted_root.logs.iter();
        let root = roots.clone().find(|root| {
            let named = map.origin.as_ref() == Some(&root.origin);
            named || map.log_id.as_deref() == Some(&root.log_id[..])
        });
        let keys = match (found(&self.key_targets), root) {
            (keys, _) if !keys.is_empty() => keys,
            // All that it ever had: each of its old shards is signed by one.
            (_, Some(root)) => roots
                .filter(|other| other.origin == root.origin)
                .map(FoundKey::of_root)
                .collect(),
            (_, None) => found(&self.legacy),
        };
        let origin = map
            .origin
            .clone()
            .or_else(|| root.map(|root| root.origin.clone()));
        let monitored = origin.as_ref().and_then(|origin| self.monitored(origin));
        let version = map
            .major_api_version
            .or_else(|| monitored?.major_api_version)
            .or_else(|| self.written_to(map.url.as_ref()?));
        let mut known_at: Vec<Url> = [&map.url, &map.tile_base_url]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        known_at.extend(root.map(|root| root.base_url.clone()));
        let (mut url, mut url_from) = (map.url.clone(), FoundIn::ServiceMap);
        let mut tile_base_url = map.tile_base_url.clone();
        if url.is_none() && tile_base_url.is_none() {
            // Its `readUrl` is where everything that is read is.
            tile_base_url = monitored.map(|log| log.read_url.clone());
            (url, url_from) = match (monitored, root) {
                (Some(monitored), _) => (Some(monitored.read_url.clone()), FoundIn::MonitorConfig),
                (None, Some(root)) => (Some(root.base_url.clone()), FoundIn::TrustedRoot),
                (None, None) => (None, FoundIn::ServiceMap),
            };
        }
        Some(FoundLog {
            origin,
            keys,
            url,
            tile_base_url,
            url_from,
            kind: kind(version),
            known_at,
        })
    }

    /// A log of `trusted_root.json`.
    fn root_log(&self, root: &RootLog) -> FoundLog {
        let mut log = FoundLog::of_root(root);
        let monitored = self.monitored(&root.origin);
        let version = monitored
            .and_then(|log| log.major_api_version)
            .or_else(|| self.written_to(&root.base_url));
        if version.is_some() {
            log.kind = kind(version);
        }
        if let Some(monitored) = monitored {
            log.known_at.push(monitored.read_url.clone());
            log.url = Some(monitored.read_url.clone());
            log.tile_base_url = Some(monitored.read_url.clone());
            log.url_from = FoundIn::MonitorConfig;
        }
        log
    }

    fn monitored(&self, origin: &str) -> Option<&MonitoredLog> {
        self.monitored.iter().find(|log| log.origin == origin)
    }

    /// The version of the API by which a log at this address is written to.
    fn written_to(&self, url: &Url) -> Option<u32> {
        let log = self.signing.iter().find(|log| is_below(url, &log.url))?;
        Some(log.major_api_version)
    }
}

impl Material {
    /// The keys of a log that is configured: by its origin if that is known, else by its addresses.
    ///
    /// A log that is asked for by an address that nobody knows, such as a mirror, may be any of
    /// them: the first checkpoint that one of their keys signed says which.
    ///
    /// # Errors
    /// Why there are none, and what to do.
    pub fn keys_for(&self, origin: Option<&str>, urls: &[Url]) -> Result<Vec<FoundKey>, String> {
        let keys: Vec<FoundKey> = match (self.meant(origin, urls), origin) {
            (Some(log), _) => log.keys.clone(),
            (None, _) if !self.loose.is_empty() => self.loose.clone(),
            (None, None) => self.logs.iter().flat_map(|log| log.keys.clone()).collect(),
            (None, Some(_)) => Vec::new(),
        };
        if !keys.is_empty() {
            return Ok(keys);
        }
        let known: Vec<&str> = self
            .logs
            .iter()
            .filter_map(|log| log.origin.as_deref())
            .collect();
        let known = match known.is_empty() {
            true => "no log".to_owned(),
            false => known.join(", "),
        };
        Err(format!(
            "the TUF repository has no key for {}; it has keys for {known}: set `origin` to one of \
             them, or give `public_keys`",
            origin.unwrap_or("this log")
        ))
    }

    /// The log that is configured: by its origin if that is known, else by its addresses. One without
    /// keys is of no use.
    pub(super) fn meant(&self, origin: Option<&str>, urls: &[Url]) -> Option<&FoundLog> {
        let is_meant = |log: &&FoundLog| match origin {
            Some(origin) => log.is_called(origin),
            None => urls.iter().any(|url| log.is_at(url)),
        };
        let mut with_keys = self.logs.iter().filter(|log| !log.keys.is_empty());
        with_keys.find(is_meant)
    }

    /// The logs to follow when the configuration names none: that of the service map, or else all of
    /// `trusted_root.json`.
    pub fn to_follow(&self) -> &[FoundLog] {
        match self.mapped {
            true => &self.logs[..1],
            false => &self.logs,
        }
    }
}

impl FoundLog {
    /// A log as `trusted_root.json` alone describes it.
    pub(super) fn of_root(root: &RootLog) -> Self {
        // Sigstore's Ed25519 logs are Rekor v2; one with ECDSA may be either, and is asked.
        let version = match root.key.algorithm() {
            Algorithm::Ed25519 => Some(2),
            _ if root.origin == "rekor.sigstore.dev" => Some(1),
            _ => None,
        };
        Self {
            origin: Some(root.origin.clone()),
            keys: vec![FoundKey::of_root(root)],
            url: Some(root.base_url.clone()),
            tile_base_url: None,
            url_from: FoundIn::TrustedRoot,
            kind: kind(version),
            known_at: vec![root.base_url.clone()],
        }
    }

    /// Whether this is the first line of its checkpoints, which for Rekor v1 has its shard after the
    /// name: `rekor.example - 1234`.
    pub fn is_called(&self, origin: &str) -> bool {
        self.origin.as_deref().is_some_and(|own| {
            let rest = origin.strip_prefix(own);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" - "))
        })
    }

    /// Whether this address is one of its own, or below it.
    pub fn is_at(&self, url: &Url) -> bool {
        self.known_at.iter().any(|known| is_below(url, known))
    }

    /// Where its checkpoint and tiles are; `None` if nobody says.
    pub fn read_url(&self) -> Option<Url> {
        match (&self.tile_base_url, self.kind) {
            (Some(tiles), _) => Some(tiles.clone()),
            (None, Kind::RekorV2) => self.url.clone().map(with_rekor_v2_prefix),
            (None, _) => self.url.clone(),
        }
    }
}

impl FoundKey {
    fn of_root(root: &RootLog) -> Self {
        Self {
            key: root.key.clone(),
            from: FoundIn::TrustedRoot,
        }
    }
}

fn found(targets: &[(String, Vec<VerifierKey>)]) -> Vec<FoundKey> {
    let keys = targets.iter().flat_map(|(name, keys)| {
        keys.iter().map(|key| FoundKey {
            key: key.clone(),
            from: FoundIn::KeyTarget(name.clone()),
        })
    });
    keys.collect()
}

fn kind(major_api_version: Option<u32>) -> Kind {
    match major_api_version {
        Some(1) => Kind::RekorV1,
        Some(2) => Kind::RekorV2,
        _ => Kind::Auto,
    }
}

/// Whether `url` is on the same server as `base`, and its path not above. Whether it is reached over
/// TLS makes no difference to what its bytes are worth.
fn is_below(url: &Url, base: &Url) -> bool {
    let port = |url: &Url| url.port().filter(|_| url.scheme() != "file");
    let prefix = format!("{}/", base.path().trim_end_matches('/'));
    let path = format!("{}/", url.path().trim_end_matches('/'));
    url.host_str().is_some()
        && url.host_str() == base.host_str()
        && port(url) == port(base)
        && path.starts_with(&prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture_log::FixtureLog, tuf::service_map};

    fn key(secret: u8) -> VerifierKey {
        let log = FixtureLog::with_entries(1).signed_by(secret);
        log.pem().parse().expect("a key")
    }

    fn root(origin: &str, secret: u8) -> RootLog {
        let key = key(secret);
        RootLog {
            base_url: format!("https://{origin}").parse().expect("a URL"),
            origin: origin.to_owned(),
            log_id: key.long_id_under(origin),
            key,
            start: None,
        }
    }

    fn map(keys: &str) -> MappedLog {
        let text = format!(r#"{{"version": 1, "rekor": {{{keys}}}}}"#);
        let rules = service_map::Rules {
            name: "map",
            environment: "",
            allow_http: false,
        };
        let (log, _) = service_map::parse(text.as_bytes(), &rules).expect("valid");
        log.expect("a log")
    }

    fn url(text: &str) -> Url {
        text.parse().expect("a URL")
    }

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().expect("a time")
    }

    fn with_roots<const N: usize>(logs: [RootLog; N]) -> Published {
        let mut published = Published::default();
        published.trusted_root.logs = logs.into();
        published
    }

    fn keys(material: &Material, origin: Option<&str>, at: &str) -> Vec<VerifierKey> {
        let found = material.keys_for(origin, &[url(at)]).unwrap_or_default();
        found.into_iter().map(|found| found.key).collect()
    }

    #[test]
    fn the_keys_of_a_log_are_those_of_the_first_who_names_any() {
        let origin = r#""url": "https://rome.example", "origin": "rome.example""#;
        let mut published = with_roots([root("rome.example", 2)]);
        published.legacy = vec![("rekor.pub".to_owned(), vec![key(3)])];
        published.key_targets = vec![("rekor-key-v1".to_owned(), vec![key(1)])];
        published.service_map = Some(map(origin));
        let at = "https://rome.example/api/v2/";
        let resolved = |published: &Published| keys(&published.clone().resolve(now()), None, at);
        assert_eq!(resolved(&published), [key(1)], "what the service map names");
        published.key_targets.clear();
        assert_eq!(
            resolved(&published),
            [key(2)],
            "the trusted root, by origin"
        );
        let id = base64::Engine::encode(
            &base64::prelude::BASE64_STANDARD,
            root("rome.example", 2).log_id,
        );
        published.service_map = Some(map(&format!(r#""url": "{at}", "log_id": "{id}""#)));
        assert_eq!(resolved(&published), [key(2)], "the trusted root, by ID");
        published.trusted_root.logs.clear();
        assert_eq!(resolved(&published), [key(3)], "the legacy target");
        published.service_map = None;
        assert_eq!(resolved(&published), [key(3)]);
        published.key_targets = vec![("rekor-key-v1".to_owned(), vec![key(1)])];
        assert_eq!(
            resolved(&published),
            [key(1)],
            "without a map, what is called so by custom"
        );
    }

    #[test]
    fn a_log_is_found_by_its_origin_or_else_by_its_address() {
        let material = with_roots([root("rome.example", 1), root("oslo.example/2026h1", 2)]);
        let material = material.resolve(now());
        for (origin, at, want) in [
            (None, "https://rome.example/", vec![key(1)]),
            (None, "http://rome.example/api/v2", vec![key(1)]),
            (None, "https://oslo.example/2026h1/tile", vec![key(2)]),
            // Neither is the other, and a mirror may be either.
            (None, "https://oslo.example/2026h10", vec![key(1), key(2)]),
            (None, "https://rome.example:8443/", vec![key(1), key(2)]),
            (None, "https://mirror.example/", vec![key(1), key(2)]),
            (
                Some("oslo.example/2026h1"),
                "https://mirror.example/",
                vec![key(2)],
            ),
            // Rekor v1 adds its shard.
            (
                Some("rome.example - 1234"),
                "https://mirror.example/",
                vec![key(1)],
            ),
            (Some("rome.example.org"), "https://rome.example/", vec![]),
        ] {
            assert_eq!(keys(&material, origin, at), want, "{origin:?} {at}");
        }
        let error = material.keys_for(Some("nobody"), &[]).expect_err("unknown");
        assert!(
            error.contains("rome.example, oslo.example/2026h1"),
            "{error}"
        );
    }

    #[test]
    fn a_log_may_have_two_keys_and_one_that_is_not_in_use_yet_waits() {
        let mut next = root("rome.example", 2);
        next.start = Some("2027-01-01T00:00:00Z".parse().expect("a time"));
        let published = with_roots([root("rome.example", 1), next]);
        let material = published.clone().resolve(now());
        assert_eq!(
            keys(&material, Some("rome.example"), "https://a.example"),
            [key(1)]
        );
        assert!(
            material.notes[0].contains("not in use yet"),
            "{:?}",
            material.notes
        );
        let later = "2027-01-01T00:00:00Z".parse().expect("a time");
        let material = published.resolve(later);
        assert_eq!(
            keys(&material, Some("rome.example"), "https://a.example"),
            [key(1), key(2)]
        );
    }

    #[test]
    fn a_log_is_read_where_the_first_says_who_knows() {
        let mut published = with_roots([root("rome.example", 1)]);
        published.signing = vec![SigningLog {
            url: url("https://rome.example"),
            major_api_version: 2,
        }];
        let read = |published: &Published| {
            let material = published.clone().resolve(now());
            let log = material.to_follow()[0].clone();
            (
                log.read_url().map(String::from).unwrap_or_default(),
                log.url_from,
                log.kind,
            )
        };
        let v2 = "https://rome.example/api/v2/".to_owned();
        assert_eq!(read(&published), (v2, FoundIn::TrustedRoot, Kind::RekorV2));
        published.monitored = vec![MonitoredLog {
            read_url: url("https://cdn.example/rome/"),
            origin: "rome.example".to_owned(),
            major_api_version: Some(2),
        }];
        let cdn = "https://cdn.example/rome/".to_owned();
        assert_eq!(
            read(&published),
            (cdn.clone(), FoundIn::MonitorConfig, Kind::RekorV2)
        );
        published.service_map = Some(map(r#""origin": "rome.example""#));
        assert_eq!(read(&published).0, cdn);
        published.service_map = Some(map(
            r#""origin": "rome.example", "url": "https://rome.internal", "major_api_version": 1"#,
        ));
        let internal = "https://rome.internal/".to_owned();
        assert_eq!(
            read(&published),
            (internal, FoundIn::ServiceMap, Kind::RekorV1)
        );
        published.service_map = Some(map(
            r#""url": "https://rome.internal", "tile_base_url": "https://tiles.internal/rome/""#,
        ));
        assert_eq!(read(&published).0, "https://tiles.internal/rome/");
    }

    #[test]
    fn a_target_holds_keys_in_any_of_their_spellings_and_nothing_else() {
        let log = FixtureLog::with_entries(1);
        let der = base64::Engine::decode(
            &base64::prelude::BASE64_STANDARD,
            log.pem().lines().nth(1).expect("base64"),
        );
        for bytes in [
            log.pem().into_bytes(),
            log.vkey().into_bytes(),
            der.expect("DER"),
        ] {
            assert_eq!(keys_in("key", &bytes).map(|keys| keys.len()).ok(), Some(1));
        }
        let many = |count: usize| log.pem().repeat(count);
        assert!(keys_in("key", many(MAX_KEYS).as_bytes()).is_ok());
        assert!(keys_in("key", many(MAX_KEYS + 1).as_bytes()).is_err());
        for wrong in [&b""[..], b"\n", b"\xff\xff", b"<html>"] {
            assert!(keys_in("key", wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_logs_of_sigstores_public_instance_are_known_by_their_urls() {
        use super::super::sigstore::log_at;
        let v1 = log_at(&url("https://rekor.sigstore.dev")).expect("known");
        assert_eq!((v1.kind, v1.keys.len()), (Kind::RekorV1, 1));
        let v2 = log_at(&url("https://log2025-1.rekor.sigstore.dev/api/v2/")).expect("known");
        let read = v2.read_url().map(String::from);
        assert_eq!(
            read.as_deref(),
            Some("https://log2025-1.rekor.sigstore.dev/api/v2/")
        );
        assert!(log_at(&url("https://rekor.sigstore.dev.example")).is_none());
        assert!(log_at(&url("https://rekor.example")).is_none());
    }
}

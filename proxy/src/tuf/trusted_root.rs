//! `trusted_root.json`: the logs that Sigstore's clients believe, each with its key.
//!
//! Strict about what is used, blind to the rest: certificate authorities are nobody's business here,
//! and a kind of key that no checkpoint of ours can be signed with is skipped.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::Deserialize;
use url::Url;

use super::error::TufError;
use crate::note::vkey::{Algorithm, VerifierKey};

/// Name of the target.
pub(super) const TARGET: &str = "trusted_root.json";

/// What the file says it is, in each spelling that was ever published.
const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "application/vnd.dev.sigstore.trustedroot+json;version=0.2",
    "application/vnd.dev.sigstore.trustedroot.v0.1+json",
    "application/vnd.dev.sigstore.trustedroot.v0.2+json",
];

/// Most logs in one file. Sigstore adds a shard a year.
const MAX_LOGS: usize = 256;

/// One log of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct RootLog {
    /// Names the log, and is where it can be read as long as nobody says better.
    pub(super) base_url: Url,
    /// `base_url` without its scheme: name of its key, and first line of its checkpoints or the
    /// beginning of it (Rekor v1 adds its shard).
    pub(super) origin: String,
    /// Its key.
    pub(super) key: VerifierKey,
    /// Sigstore's name of the log, computed from the key.
    pub(super) log_id: [u8; 32],
    /// From when on the key is in use. Nothing ends it: an old shard is verified for ever.
    pub(super) start: Option<Timestamp>,
}

/// The logs of a file, and what to tell about the others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct RootLogs {
    pub(super) logs: Vec<RootLog>,
    pub(super) notes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    media_type: String,
    #[serde(default)]
    tlogs: Vec<Tlog>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tlog {
    base_url: String,
    hash_algorithm: String,
    public_key: PublicKey,
    log_id: Option<LogId>,
    /// In place of `logId`, from v0.2 on.
    checkpoint_key_id: Option<LogId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PublicKey {
    raw_bytes: String,
    key_details: String,
    #[serde(default)]
    valid_for: Option<ValidFor>,
}

#[derive(Deserialize)]
struct ValidFor {
    start: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogId {
    key_id: String,
}

/// Reads the file.
///
/// # Errors
/// When it is not such a file, or a key in it is not what it says.
pub(super) fn parse(bytes: &[u8]) -> Result<RootLogs, TufError> {
    let wrong = |message: String| TufError::target(TARGET, message);
    let file: File = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    if !MEDIA_TYPES.contains(&file.media_type.as_str()) {
        let what = file.media_type.escape_debug();
        return Err(wrong(format!(
            "its media type is `{what}`, not that of a trusted root"
        )));
    }
    if file.tlogs.len() > MAX_LOGS {
        return Err(wrong(format!("it has more than {MAX_LOGS} logs")));
    }
    let mut read = RootLogs::default();
    for log in &file.tlogs {
        match log.read() {
            Ok(Some((log, note))) => {
                read.logs.push(log);
                read.notes.extend(note);
            }
            Ok(None) => read.notes.push(format!(
                "{TARGET}: the log {} is left out: its key is {}, which signs no checkpoint that can \
                 be verified here",
                log.base_url, log.public_key.key_details
            )),
            Err(message) => return Err(wrong(format!("the log {}: {message}", log.base_url))),
        }
    }
    Ok(read)
}

impl Tlog {
    /// The log, with something to tell; `None` if its kind of key is not ours.
    fn read(&self) -> Result<Option<(RootLog, Option<String>)>, String> {
        let key = &self.public_key;
        let want = match key.key_details.as_str() {
            "PKIX_ED25519" => Algorithm::Ed25519,
            "PKIX_ECDSA_P256_SHA_256" => Algorithm::EcdsaP256,
            _ => return Ok(None),
        };
        if self.hash_algorithm != "SHA2_256" {
            return Ok(None);
        }
        let base_url: Url = self
            .base_url
            .parse()
            .map_err(|_| "`baseUrl` is not a URL".to_owned())?;
        let origin = without_scheme(&base_url).ok_or("`baseUrl` is not that of a server")?;
        let spki = BASE64_STANDARD.decode(&key.raw_bytes);
        let spki = spki.map_err(|_| "`rawBytes` is not base64".to_owned())?;
        let read = VerifierKey::from_spki(&spki).map_err(|error| error.to_string())?;
        if read.algorithm() != want {
            return Err(format!(
                "`rawBytes` is {}, not {}",
                read.algorithm(),
                key.key_details
            ));
        }
        let log_id = read.long_id_under(&origin);
        // The ID of an ECDSA key does not depend on its name, so nothing says which name the log
        // signs under; that of an Ed25519 key does.
        let key = match want {
            Algorithm::Ed25519 => read.named(&origin).map_err(|error| error.to_string())?,
            _ => read,
        };
        let given = self.log_id.as_ref().or(self.checkpoint_key_id.as_ref());
        let given = given.and_then(|id| BASE64_STANDARD.decode(&id.key_id).ok());
        // A checkpoint's key ID has four bytes, a log's 32.
        let agrees = given.is_none_or(|id| !id.is_empty() && log_id.starts_with(&id));
        let note = (!agrees).then(|| {
            format!(
                "{TARGET}: the ID of the log {origin} is not that of its key under this name; the key \
                 counts"
            )
        });
        let log = RootLog {
            base_url,
            origin,
            key,
            log_id,
            start: self
                .public_key
                .valid_for
                .as_ref()
                .and_then(|valid| valid.start),
        };
        Ok(Some((log, note)))
    }
}

/// `rekor.example.com`, or with a path after it: how a log's key is called.
fn without_scheme(url: &Url) -> Option<String> {
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let host = url.host_str()?;
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    let path = url.path().trim_end_matches('/');
    Some(format!("{host}{port}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(more: &str) -> String {
        format!(
            r#"{{"mediaType": "application/vnd.dev.sigstore.trustedroot.v0.2+json", "tlogs": [{{
            "baseUrl": "https://rome.example/2026h1/", "hashAlgorithm": "SHA2_256",
            "publicKey": {{"rawBytes": "MCowBQYDK2VwAyEAt8rlp1knGwjfbcXAYPYAkn0XiLz1x8O4t0YkEhie244=",
            "keyDetails": "PKIX_ED25519", "validFor": {{"start": "2025-09-23T00:00:00Z"}}}}{more}}}],
            "certificateAuthorities": "whatever"}}"#
        )
    }

    #[test]
    fn sigstores_own_logs_have_the_ids_that_sigstore_gives_them() {
        let read = parse(super::super::sigstore::TRUSTED_ROOT).expect("the shipped one");
        assert_eq!(
            read.notes,
            Vec::<String>::new(),
            "every ID agrees with its key"
        );
        let origins: Vec<_> = read.logs.iter().map(|log| log.origin.as_str()).collect();
        assert_eq!(
            origins,
            ["rekor.sigstore.dev", "log2025-1.rekor.sigstore.dev"]
        );
        let ids: Vec<_> = read
            .logs
            .iter()
            .map(|log| log.key.id_under(&log.origin))
            .collect();
        assert_eq!(ids, [0xc0d2_3d6a, 0xcf11_9915]);
        assert_eq!(
            read.logs[1].key.name(),
            Some("log2025-1.rekor.sigstore.dev")
        );
    }

    #[test]
    fn a_log_is_named_by_its_url_without_the_scheme() {
        let read = parse(one("").as_bytes()).expect("valid");
        assert_eq!(read.logs[0].origin, "rome.example/2026h1");
        let start = read.logs[0].start.map(|start| start.to_string());
        assert_eq!(start.as_deref(), Some("2025-09-23T00:00:00Z"));
    }

    #[test]
    fn a_wrong_log_id_is_told_and_the_key_counts() {
        let read = parse(one(r#", "logId": {"keyId": "AAAA"}"#).as_bytes()).expect("valid");
        assert_eq!(read.logs.len(), 1);
        assert!(
            read.notes[0].contains("is not that of its key"),
            "{:?}",
            read.notes
        );
    }

    #[test]
    fn a_key_of_another_kind_is_left_out_and_a_broken_one_refuses_the_file() {
        let skipped = parse(
            one("")
                .replace("PKIX_ED25519", "PKIX_RSA_PKCS1V15_2048_SHA256")
                .as_bytes(),
        );
        let skipped = skipped.expect("well-formed");
        assert!(skipped.logs.is_empty());
        assert!(
            skipped.notes[0].contains("is left out"),
            "{:?}",
            skipped.notes
        );
        for (from, to, want) in [
            (
                "PKIX_ED25519",
                "PKIX_ECDSA_P256_SHA_256",
                "is Ed25519, not PKIX_ECDSA",
            ),
            ("MCowBQ", "MCowB-", "not base64"),
            ("MCowBQ", "AAowBQ", "not a key that can be used"),
            ("https://rome.example/2026h1/", "rome", "not a URL"),
            (
                "https://rome.example/2026h1/",
                "data:rome",
                "not that of a server",
            ),
            ("trustedroot", "bundle", "media type"),
            ("tlogs", "mediaType", "duplicate field"),
            ("\"hashAlgorithm\": \"SHA2_256\",", "", "missing field"),
        ] {
            let error = parse(one("").replace(from, to).as_bytes()).expect_err(to);
            assert!(error.to_string().contains(want), "{want}: {error}");
            assert_eq!(error.reason(), "target");
        }
    }
}

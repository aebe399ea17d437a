//! What must hold for every input of every parser: one function a target.
//!
//! None may panic. Beyond that, each parser reads one spelling: what it accepts, formats to the same
//! input, or to the one spelling of which the input is a documented alias. A function returns whether
//! the input was accepted, so that a corpus can be held to have both kinds.
//!
//! `cargo fuzz` runs them on inputs of its own; `proxy/tests/fuzz_corpus.rs` runs them on the stored
//! ones, on every change.

use jiff::{SignedDuration, Timestamp};
use tile_proxy::{
    cache::slots::Record,
    config::Config,
    note::{self, MAX_SIGNATURES, Note, checkpoint::Checkpoint, vkey::VerifierKey},
    rekor_v1::{
        api::{Entry, Uuid},
        verify::SignedEntry,
    },
    tlog::{bundle as entries, edge::edge_tiles, path as tile_path},
    trust::Trust,
    tuf::{Material, REASONS, TufError, target::Target},
    upstream::retry,
};

/// Entry bundles: the entries with their lengths are the bundle, and each prefix is a bundle.
pub fn bundle(data: &[u8]) -> bool {
    let Some(split) = entries::entries(data) else {
        assert_eq!(entries::leaf_hashes(data), None);
        return false;
    };
    let mut joined = Vec::new();
    for (i, entry) in split.iter().enumerate() {
        if let Ok(width) = u16::try_from(i) {
            assert_eq!(entries::prefix_bytes(data, width), Some(joined.len()));
        }
        let length = u16::try_from(entry.len()).expect("its length was two bytes");
        joined.extend(length.to_be_bytes());
        joined.extend_from_slice(entry);
    }
    assert_eq!(joined, data);
    assert_eq!(
        entries::leaf_hashes(data).map(|h| h.len()),
        Some(split.len())
    );
    if let Ok(more) = u16::try_from(split.len() + 1) {
        assert_eq!(entries::prefix_bytes(data, more), None);
    }
    true
}

/// Checkpoints: three lines in one spelling, then lines that are not empty.
pub fn checkpoint(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else {
        return false;
    };
    let Ok(checkpoint) = Checkpoint::parse(text) else {
        return false;
    };
    let Checkpoint { origin, size, root } = checkpoint;
    let head = format!("{origin}\n{size}\n{root}\n");
    let extensions = text.strip_prefix(&head).expect("its first three lines");
    let mut lines = extensions.split_terminator('\n'); // and not `lines`, which takes a carriage return away
    assert!(lines.all(|line| !line.is_empty()));
    assert!(extensions.is_empty() || extensions.ends_with('\n'));
    assert!(edge_tiles(size).len() <= 8);
    true
}

/// Configuration files: what is read, is written as a file that means the same.
pub fn configuration(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else {
        return false;
    };
    let Ok(config) = Config::parse("fuzz.yaml", text, []) else {
        return false;
    };
    let yaml = config.to_yaml();
    let again = Config::parse("again.yaml", &yaml, []).expect("what was written");
    assert_eq!(again, config, "{yaml}");
    assert_eq!(again.to_yaml(), yaml);
    let problems = |config: &Config| config.check().err();
    assert_eq!(problems(&again), problems(&config));
    true
}

/// Signed notes: one spelling, and nobody vouches for one without a key.
pub fn note(data: &[u8]) -> bool {
    let Ok(note) = Note::parse(data) else {
        return false;
    };
    assert_eq!(note.to_string().as_bytes(), data);
    assert!(note.text().ends_with('\n'));
    assert!((1..=MAX_SIGNATURES).contains(&note.signatures().len()));
    assert_eq!(note::text_unverified(data), Ok(note.text()));
    assert!(note.open(&[]).is_err());
    let keys = VerifierKey::parse_all(KEYS).expect("keys");
    assert_eq!(note.open(&keys), note::open(data, &keys));
    true
}

/// Keys of notes in the corpus: all algorithms, and both spellings.
const KEYS: &str = "
example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k
log2025-1.rekor.sigstore.dev+cf119915+AbfK5adZJxsI323FwGD2AJJ9F4i89cfDuLdGJBIYntuO
witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwr
kBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw==
-----END PUBLIC KEY-----
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEATYJhw+1v93jbce6maoKBejktoaZJ/xaGm7YBr58Pu8c=
-----END PUBLIC KEY-----
";

/// Paths: one spelling for servers, and plain decimals as an alias for clients.
pub fn path(data: &[u8]) -> bool {
    let Ok(path) = str::from_utf8(data) else {
        return false;
    };
    let strict = tile_path::parse(path);
    let lenient = tile_path::parse_lenient(path);
    if let Ok(resource) = strict {
        assert_eq!(resource.to_string(), path);
        assert_eq!(lenient, strict);
    }
    if let Ok(resource) = lenient {
        assert_eq!(tile_path::parse(&resource.to_string()), Ok(resource));
    }
    lenient.is_ok()
}

/// Records of group files: 64 bytes of which each counts.
pub fn record(data: &[u8]) -> bool {
    let Ok(bytes) = data.try_into() else {
        return false;
    };
    let Some(record) = Record::decode(bytes) else {
        return false;
    };
    assert_eq!(record.encode(), *bytes);
    true
}

/// Entries of Rekor v1: what is written of one is read as the same, and holds nothing else.
pub fn rekor_entry(data: &[u8]) -> bool {
    let Ok(entry) = Entry::parse(data) else {
        return false;
    };
    let json = entry.to_json();
    assert_eq!(Entry::parse(&json).as_ref(), Ok(&entry));
    assert_eq!(Uuid::parse(&entry.uuid.to_string()), Some(entry.uuid));
    assert!(serde_json::from_str::<serde_json::Value>(&entry.signed_json()).is_ok());
    assert!(SignedEntry::open(entry, &Trust::Keys(Vec::new()), None).is_err());
    true
}

/// `Retry-After`: seconds or a date, which comes nearer as time passes.
pub fn retry_after(data: &[u8]) -> bool {
    let Ok(value) = str::from_utf8(data) else {
        return false;
    };
    let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365 * 56);
    let Some(wait) = retry::retry_after(value, now) else {
        return false;
    };
    let later = now + SignedDuration::from_secs(1);
    let then = retry::retry_after(value, later).expect("as well-formed as before");
    let is_seconds = value.trim().bytes().all(|b| b.is_ascii_digit());
    if is_seconds {
        assert_eq!(then, wait);
    } else {
        assert_eq!(then, wait.saturating_sub(std::time::Duration::from_secs(1)));
    }
    true
}

/// Targets with keys and nothing else: as many as are allowed, and as text they are the same keys.
pub fn tuf_keys(data: &[u8]) -> bool {
    let Some(material) = tuf_target(Target::Keys, data, "", false) else {
        return false;
    };
    assert!((1..=16).contains(&material.loose.len()));
    let keys = material.loose.iter().map(|found| found.key.to_string());
    let lines = keys.collect::<Vec<_>>().join("\n");
    let again = tuf_target(Target::Keys, lines.as_bytes(), "", false);
    assert_eq!(again.as_ref(), Some(&material));
    true
}

/// Monitor configurations: none leads to plain HTTP unless that is allowed.
pub fn tuf_monitor_config(data: &[u8]) -> bool {
    let strict = tuf_target(Target::MonitorConfig, data, "", false);
    let lenient = tuf_target(Target::MonitorConfig, data, "", true);
    assert!(strict.is_none() || lenient.is_some());
    strict.is_some()
}

/// Service maps: one log at most, at an address that may be followed, in any environment.
pub fn tuf_service_map(data: &[u8]) -> bool {
    for environment in ["", "staging"] {
        let strict = tuf_target(Target::ServiceMap, data, environment, false);
        let lenient = tuf_target(Target::ServiceMap, data, environment, true);
        let Some(material) = strict else { continue };
        assert_eq!(lenient.as_ref(), Some(&material));
        assert_eq!(material.logs.len(), usize::from(material.mapped));
        for log in &material.logs {
            for url in [&log.url, &log.tile_base_url].into_iter().flatten() {
                assert_eq!(url.scheme(), "https");
                assert!(url.host_str().is_some_and(|host| !host.is_empty()));
                assert_eq!((url.username(), url.password()), ("", None));
                assert!(log.is_at(url));
            }
            assert!(log.origin.as_ref().is_none_or(|origin| !origin.is_empty()));
        }
    }
    tuf_target(Target::ServiceMap, data, "", false).is_some()
}

/// Signing configurations: they name no key, and no log to follow.
pub fn tuf_signing_config(data: &[u8]) -> bool {
    let Some(material) = tuf_target(Target::SigningConfig, data, "", false) else {
        return false;
    };
    assert_eq!(material, Material::default());
    true
}

/// Trusted roots: each log has its name and keys, and is found by both name and address.
pub fn tuf_trusted_root(data: &[u8]) -> bool {
    let Some(material) = tuf_target(Target::TrustedRoot, data, "", false) else {
        return false;
    };
    assert!(!material.mapped && material.loose.is_empty());
    for log in &material.logs {
        let origin = log.origin.as_deref().expect("its address without scheme");
        assert!(!log.keys.is_empty() && log.is_called(origin));
        assert!(log.is_called(&format!("{origin} - 1234")));
        let url = log.url.as_ref().expect("its address");
        assert!(log.is_at(url));
        assert!(material.keys_for(Some(origin), &[]).is_ok());
        assert!(material.keys_for(None, std::slice::from_ref(url)).is_ok());
    }
    true
}

/// What is read of a target, which is the same each time; what is not read is refused by a known word.
fn tuf_target(
    target: Target,
    data: &[u8],
    environment: &str,
    allow_http: bool,
) -> Option<Material> {
    let read = || target.read(data, environment, allow_http);
    let refused = |error: TufError| assert!(REASONS.contains(&error.reason()), "{error}");
    let material = read().map_err(refused).ok()?;
    assert_eq!(read().ok().as_ref(), Some(&material));
    Some(material)
}

/// Verifier keys: a vkey line has one spelling; PEM may be wrapped at will, and a file may hold both.
pub fn vkey(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else {
        return false;
    };
    if let Ok(key) = text.parse::<VerifierKey>() {
        if key.name().is_some() {
            assert_eq!(key.to_string(), text);
        }
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    let Ok(keys) = VerifierKey::parse_all(text) else {
        return false;
    };
    let formatted: Vec<String> = keys.iter().map(VerifierKey::to_string).collect();
    assert_eq!(VerifierKey::parse_all(&formatted.join("\n")), Ok(keys));
    !formatted.is_empty()
}

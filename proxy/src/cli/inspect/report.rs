//! What is said about a log. No I/O: the caller brings what it serves.

use std::fmt;

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;
use url::Url;

use super::probe::{Edge, Headers, LogKind};
use crate::{
    config::Config,
    note::{
        Note, Signature, Signed,
        checkpoint::Checkpoint,
        cosignature::Cosignature,
        vkey::{Algorithm, VerifierKey},
    },
};

/// Everything that is said about a log, as `--json` prints it.
#[derive(Serialize)]
pub(super) struct Report {
    version: u8,
    url: Url,
    kind: LogKind,
    origin: String,
    size: u64,
    /// Base64, as in the checkpoint.
    root: String,
    extensions: Vec<String>,
    signatures: Vec<SignatureReport>,
    /// Whether the given keys vouch for the checkpoint; absent without keys.
    verified: Option<bool>,
    edge: Option<EdgeReport>,
    pub(super) caching: Caching,
    /// What to write into a configuration file.
    configuration: Option<String>,
    /// Why this log cannot be followed with these keys.
    pub(super) problems: Vec<String>,
    #[serde(skip)]
    pub(super) checkpoint: Checkpoint,
}

#[derive(Serialize)]
struct SignatureReport {
    name: String,
    key_id: String,
    /// That of the key, or what the form of the signature suggests; absent if it is like none.
    algorithm: Option<String>,
    /// When a cosigner saw the checkpoint.
    time: Option<String>,
    /// Whether a given key verifies it; absent if none is meant.
    verified: Option<bool>,
}

#[derive(Serialize)]
struct EdgeReport {
    tiles: Vec<String>,
    folds: bool,
}

/// What the log tells caches.
#[derive(Default, Serialize)]
pub(super) struct Caching {
    pub(super) checkpoint: Headers,
    tile: Headers,
}

impl Report {
    /// # Errors
    /// When the text of the note is not a checkpoint.
    pub(super) fn of_note(
        base: &Url,
        kind: LogKind,
        note: &[u8],
        keys: &[VerifierKey],
    ) -> anyhow::Result<Self> {
        let note = Note::parse(note)?;
        let checkpoint = Checkpoint::parse(note.text()).context("the log's checkpoint")?;
        let opened = note.open(keys);
        let verified = (!keys.is_empty()).then_some(opened.is_ok());
        let problems = match opened {
            Err(error) if !keys.is_empty() => vec![format!("the checkpoint is {error}")],
            _ => Vec::new(),
        };
        let signature = |signature| SignatureReport::new(signature, note.text(), keys);
        Ok(Self {
            version: 1,
            url: base.clone(),
            kind,
            origin: checkpoint.origin.clone(),
            size: checkpoint.size,
            root: checkpoint.root.to_string(),
            extensions: note.text().lines().skip(3).map(str::to_owned).collect(),
            signatures: note.signatures().iter().map(signature).collect(),
            verified,
            edge: None,
            caching: Caching::default(),
            configuration: None,
            problems,
            checkpoint,
        })
    }

    pub(super) fn add_edge(&mut self, edge: Edge) {
        self.caching.tile = edge.caching;
        self.edge = Some(EdgeReport {
            tiles: edge.tiles,
            folds: edge.proof.is_ok(),
        });
        self.problems.extend(edge.proof.err());
    }

    /// Completes the configuration that follows the log, if nothing speaks against it.
    pub(super) fn add_configuration(&mut self, config: Config) {
        if !self.problems.is_empty() {
            return;
        }
        let config = Config {
            origin: self.origin.clone(),
            ..config
        };
        let mut yaml = config.to_yaml();
        if !yaml.ends_with('\n') {
            yaml.push('\n');
        }
        if config.public_keys.is_empty() {
            yaml.push_str(
                "  public_keys: [] # its verifier key, from whoever runs the log: not from this page\n",
            );
        }
        self.configuration = Some(yaml);
    }
}

impl SignatureReport {
    fn new(signature: &Signature<'_>, text: &str, keys: &[VerifierKey]) -> Self {
        let checked = signature.check(text, keys);
        let algorithm = match checked {
            Signed::By(key) => Some(key.algorithm().to_string()),
            Signed::Bad | Signed::Unknown => likely_algorithm(signature.bytes()).map(str::to_owned),
        };
        let cosigned = Algorithm::CosignatureV1.to_string();
        let time = Cosignature::parse(signature.bytes())
            .filter(|_| algorithm.as_ref() == Some(&cosigned))
            .and_then(|cosignature| i64::try_from(cosignature.time).ok())
            .and_then(|seconds| Timestamp::from_second(seconds).ok());
        Self {
            name: signature.name().to_owned(),
            key_id: format!("{:08x}", signature.id()),
            algorithm,
            time: time.map(|time| time.to_string()),
            verified: match checked {
                Signed::Bad => Some(false),
                Signed::By(_) => Some(true),
                Signed::Unknown => None,
            },
        }
    }
}

/// What a signature looks like. Without its key, only the form tells; nothing depends on it.
fn likely_algorithm(signature: &[u8]) -> Option<&'static str> {
    /// A cosigner's time in seconds has leading zeros for another million years.
    const TIME: &[u8] = &[0, 0];
    match signature {
        // ASN.1: a sequence of two integers of at most 33, 49 or 67 bytes.
        [0x30, length, rest @ ..] if usize::from(*length) == rest.len() => match rest.len() {
            ..=70 => Some("ECDSA P-256"),
            71..=102 => Some("ECDSA P-384"),
            _ => None,
        },
        // A time in milliseconds, then RFC 5246's DigitallySigned: SHA-256, with RSA or ECDSA.
        [_, _, _, _, _, _, _, _, 4, 1 | 3, high, low, rest @ ..]
            if usize::from(u16::from_be_bytes([*high, *low])) == rest.len() =>
        {
            Some("RFC 6962 tree head")
        }
        _ => match signature.len() {
            64 => Some("Ed25519"),
            72 if signature.starts_with(TIME) => Some("cosignature/v1"),
            256 | 384 | 512 => Some("RSA"),
            2_428 if signature.starts_with(TIME) => Some("ML-DSA-44 cosignature"),
            _ => None,
        },
    }
}

/// For people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            LogKind::RekorV1 => "Rekor v1: a JSON API without tiles",
            LogKind::RekorV2 => "Rekor v2: tlog-tiles below api/v2/",
            LogKind::TlogTiles => "tlog-tiles",
        };
        writeln!(f, "url         {}", self.url)?;
        writeln!(f, "kind        {kind}")?;
        writeln!(f, "origin      {}", self.origin)?;
        writeln!(f, "size        {} entries", self.size)?;
        writeln!(f, "root        {}", self.root)?;
        for (i, extension) in self.extensions.iter().enumerate() {
            writeln!(
                f,
                "{:12}{extension}",
                if i == 0 { "extensions" } else { "" }
            )?;
        }
        let key = |s: &SignatureReport| format!("{}+{}", s.name, s.key_id);
        let width = self.signatures.iter().map(|s| key(s).chars().count()).max();
        for (i, signature) in self.signatures.iter().enumerate() {
            let algorithm = signature.algorithm.as_deref().unwrap_or("unknown kind");
            let verdict = match signature.verified {
                Some(true) => "verified",
                Some(false) => "DOES NOT VERIFY",
                None => "not checked: no such key given",
            };
            write!(f, "{:12}", if i == 0 { "signatures" } else { "" })?;
            write!(f, "{:1$}  ", key(signature), width.unwrap_or_default())?;
            write!(f, "{algorithm}, {verdict}")?;
            match &signature.time {
                Some(time) => writeln!(f, ", at {time}")?,
                None => writeln!(f)?,
            }
        }
        if let Some(edge) = &self.edge {
            let verdict = if edge.folds { "fold" } else { "DO NOT FOLD" };
            let tiles = if edge.tiles.is_empty() {
                "none".to_owned()
            } else {
                edge.tiles.join(", ")
            };
            writeln!(f, "edge tiles  {verdict} to the root: {tiles}")?;
        }
        for (what, headers) in [
            ("checkpoint", &self.caching.checkpoint),
            ("tile", &self.caching.tile),
        ] {
            let headers: Vec<String> = headers.iter().map(|(k, v)| format!("{k}: {v}")).collect();
            if !headers.is_empty() {
                writeln!(f, "caching     {what}: {}", headers.join("; "))?;
            }
        }
        match &self.configuration {
            Some(yaml) => write!(f, "\n# To follow it:\n{yaml}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Source, note::testing::TestSigner};

    const TEXT: &str =
        "rome.example - 2026h1\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\nextension\n";

    fn report(keys: &[VerifierKey]) -> Report {
        let (rome, bern) = (
            TestSigner::new("rome.example", 1),
            TestSigner::new("bern.example", 2),
        );
        let lines = [rome.line(TEXT), bern.cosign(TEXT, 1_764_000_000)].concat();
        let note = format!("{TEXT}\n{lines}");
        let base: Url = "https://rome.example/2026h1/".parse().expect("a URL");
        Report::of_note(&base, LogKind::TlogTiles, note.as_bytes(), keys).expect("a checkpoint")
    }

    #[test]
    fn signatures_are_told_by_their_form_and_proven_by_their_keys() {
        let (rome, bern) = (
            TestSigner::new("rome.example", 1),
            TestSigner::new("bern.example", 2),
        );
        for (keys, verified, each) in [
            (vec![], None, [None, None]),
            (vec![rome.vkey()], Some(true), [Some(true), None]),
            (vec![bern.cosigner_vkey()], Some(false), [None, Some(true)]),
            (
                vec![TestSigner::new("rome.example", 3).vkey()],
                Some(false),
                [None, None],
            ),
        ] {
            let report = report(&keys);
            assert_eq!(report.verified, verified, "{keys:?}");
            assert_eq!(
                report.problems.is_empty(),
                verified != Some(false),
                "{keys:?}"
            );
            let signatures = &report.signatures;
            assert_eq!(
                [signatures[0].verified, signatures[1].verified],
                each,
                "{keys:?}"
            );
            assert_eq!(signatures[0].algorithm.as_deref(), Some("Ed25519"));
            assert_eq!(signatures[1].algorithm.as_deref(), Some("cosignature/v1"));
            assert_eq!(signatures[1].time.as_deref(), Some("2025-11-24T16:00:00Z"));
            assert_eq!(report.extensions, ["extension"]);
        }
    }

    #[test]
    fn a_form_is_not_taken_for_another() {
        let der = |length: u8| [&[0x30, length][..], &vec![1; usize::from(length)]].concat();
        let tree_head = [&[0, 0, 1, 2, 3, 4, 5, 6, 4, 3, 0, 70][..], &[7; 70]].concat();
        for (signature, want) in [
            (vec![7; 64], Some("Ed25519")),
            (der(68), Some("ECDSA P-256")),
            (der(70), Some("ECDSA P-256")), // as long as a cosignature
            (der(101), Some("ECDSA P-384")),
            (tree_head, Some("RFC 6962 tree head")),
            ([&[0; 8][..], &[7; 64]].concat(), Some("cosignature/v1")),
            (
                [&[0; 8][..], &[7; 2_420]].concat(),
                Some("ML-DSA-44 cosignature"),
            ),
            (vec![7; 256], Some("RSA")),
            (vec![7; 72], None),
            (vec![7; 65], None),
            (vec![7], None),
        ] {
            assert_eq!(
                likely_algorithm(&signature),
                want,
                "{} bytes",
                signature.len()
            );
        }
    }

    #[test]
    fn the_configuration_it_ends_with_is_one() {
        let rome = TestSigner::new("rome.example", 1);
        let base: Url = "https://rome.example/2026h1/".parse().expect("a URL");
        for (key, needs_a_key) in [
            (Some(rome.vkey().to_string()), false),
            (Some(rome.pem().to_string()), false),
            (None, true),
        ] {
            let sources: Vec<Source> = key.into_iter().map(Source::Inline).collect();
            let mut report = report(&[]);
            report.add_configuration(Config {
                upstream_url: Some(base.clone()),
                public_keys: sources.clone(),
                ..Config::default()
            });
            let yaml = report.configuration.expect("nothing speaks against it");
            let config = Config::parse("snippet", &yaml, []).expect(&yaml);
            assert_eq!(config.origin, "rome.example - 2026h1");
            assert_eq!(config.public_keys, sources);
            assert_eq!(config.check().is_err(), needs_a_key, "{yaml}");
        }
    }
}

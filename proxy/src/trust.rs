//! Which keys may sign a log's checkpoints, and where they come from.
//!
//! Keys given in the configuration, or in files it names. Files are read again while the process
//! runs, so that a key can be rotated under it: what is unreadable or wrong at that moment changes
//! nothing, and is said once.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow};
use arc_swap::ArcSwap;

use crate::{
    config::{Signers, Source},
    note::{self, Note, NoteError, vkey::VerifierKey},
};

/// Whose signature makes a checkpoint a log's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trust {
    /// That of one of these keys.
    Keys(Vec<VerifierKey>),
    /// Anybody's: `danger_accept_unsigned`. Whoever answers first decides what the log is; after
    /// that, its history is still held against what was served before.
    Anyone,
}

impl Trust {
    /// The text of a note, if it is to be believed.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn open<'a>(&self, note: &'a [u8]) -> Result<&'a str, NoteError> {
        match self {
            Self::Keys(keys) => note::open(note, keys),
            Self::Anyone => Note::parse(note).map(|note| note.text()),
        }
    }

    /// What any of these trusts.
    pub fn any_of<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut keys = Vec::new();
        for trust in all {
            match trust {
                Self::Keys(more) => keys.extend_from_slice(more),
                Self::Anyone => return Self::Anyone,
            }
        }
        Self::Keys(keys)
    }

    /// The keys there are.
    pub fn keys(&self) -> &[VerifierKey] {
        match self {
            Self::Keys(keys) => keys,
            Self::Anyone => &[],
        }
    }
}

/// The keys of one log.
#[derive(Debug)]
pub struct TrustedKeys {
    /// Path of the key in the configuration that they are from.
    key: String,
    sources: ArcSwap<Signers>,
    current: ArcSwap<Trust>,
    /// The last complaint, so that it is made once.
    complaint: Mutex<Option<String>>,
}

/// What reading the keys again came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reload {
    /// They are others from now on.
    Changed,
    /// They cannot be read; the ones before stay. Told once for each complaint.
    Failed(String),
    /// Nothing is new.
    Unchanged,
}

impl TrustedKeys {
    /// Reads the keys of a log for the first time. `key` is where in the configuration they are.
    ///
    /// # Errors
    /// When a source cannot be read, holds something that is not a key, or when there is no key;
    /// says which.
    pub fn read(key: &str, sources: &Signers) -> anyhow::Result<Self> {
        Ok(Self {
            key: key.to_owned(),
            sources: ArcSwap::from_pointee(sources.clone()),
            current: ArcSwap::from_pointee(read(key, sources)?),
            complaint: Mutex::new(None),
        })
    }

    /// The keys as they are now.
    pub fn current(&self) -> Arc<Trust> {
        self.current.load_full()
    }

    /// Takes the keys from elsewhere, the next time they are read.
    pub fn replace_sources(&self, sources: &Signers) {
        self.sources.store(Arc::new(sources.clone()));
    }

    /// Reads the keys again. Costs a read of each file.
    pub fn reload(&self) -> Reload {
        let mut complaint = self
            .complaint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match read(&self.key, &self.sources.load()) {
            Ok(keys) => {
                *complaint = None;
                if keys == **self.current.load() {
                    return Reload::Unchanged;
                }
                self.current.store(Arc::new(keys));
                Reload::Changed
            }
            Err(error) => {
                let error = format!("{error:#}");
                if complaint.as_ref() == Some(&error) {
                    return Reload::Unchanged;
                }
                *complaint = Some(error.clone());
                Reload::Failed(error)
            }
        }
    }
}

fn read(key: &str, sources: &Signers) -> anyhow::Result<Trust> {
    match sources {
        Signers::Keys(sources) => read_keys(key, sources).map(Trust::Keys),
        Signers::Anyone => Ok(Trust::Anyone),
    }
}

fn read_keys(key: &str, sources: &[Source]) -> anyhow::Result<Vec<VerifierKey>> {
    let mut keys = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let place = || format!("{key}[{i}] ({source:?})");
        let text = source
            .read()
            .map_err(|error| anyhow!(error))
            .with_context(place)?;
        keys.extend(VerifierKey::parse_all(&text).with_context(place)?);
    }
    anyhow::ensure!(!keys.is_empty(), "{key}: there is no key in them");
    anyhow::ensure!(
        keys.iter().any(|key| key.algorithm().vouches_for_logs()),
        "{key}: there are only cosigners' keys in them; a witness vouches beside the \
         log, so give the log's own key, too"
    );
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROME: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const OSLO: &str = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";

    fn read_all(sources: &Signers) -> anyhow::Result<TrustedKeys> {
        TrustedKeys::read("tile_proxy.public_keys", sources)
    }

    fn signers<const N: usize>(sources: [Source; N]) -> Signers {
        Signers::Keys(sources.to_vec())
    }

    #[test]
    fn a_key_file_is_read_again_and_a_bad_one_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys");
        let write = |text: &str| std::fs::write(&file, text).expect("written");
        write(ROME);
        let keys = read_all(&signers([Source::File(file.clone())])).expect("a key");
        assert_eq!(keys.reload(), Reload::Unchanged);

        write(&format!("{ROME}\n\n{OSLO}\n"));
        assert_eq!(keys.reload(), Reload::Changed);
        assert_eq!(keys.current().keys().len(), 2);

        write("not a key");
        assert!(
            matches!(keys.reload(), Reload::Failed(error) if error.contains("not a verifier key"))
        );
        assert_eq!(keys.reload(), Reload::Unchanged, "said once");
        std::fs::remove_file(&file).expect("there");
        assert!(matches!(keys.reload(), Reload::Failed(error) if error.contains("cannot read")));
        assert_eq!(keys.current().keys().len(), 2, "the ones before stay");

        write(OSLO);
        assert_eq!(keys.reload(), Reload::Changed);
        assert_eq!(keys.current().keys().len(), 1);
    }

    #[test]
    fn a_key_file_may_hold_pem_and_lines() {
        let pem = "-----BEGIN PUBLIC KEY-----\n\
            MCowBQYDK2VwAyEATYJhw+1v93jbce6maoKBejktoaZJ/xaGm7YBr58Pu8c=\n\
            -----END PUBLIC KEY-----";
        let source = Source::Inline(format!("{ROME}\n{pem}\n{OSLO}\n"));
        let keys = read_all(&signers([source])).expect("three keys");
        assert_eq!(keys.current().keys().len(), 3);
        assert_eq!(keys.current().keys()[1].to_string(), pem);
    }

    #[test]
    fn witnesses_without_the_log_are_refused() {
        let witness =
            "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv".to_owned();
        let error = read_all(&signers([Source::Inline(witness.clone())]))
            .expect_err("nobody vouches")
            .to_string();
        assert!(error.contains("only cosigners' keys"), "{error}");
        let both = signers([Source::Inline(witness), Source::Inline(ROME.to_owned())]);
        assert!(read_all(&both).is_ok());
    }

    #[test]
    fn no_key_at_all_is_refused() {
        let empty = signers([Source::Inline(String::new())]);
        let error = read_all(&empty).expect_err("nothing in it").to_string();
        assert!(error.contains("there is no key"), "{error}");
    }

    #[test]
    fn anyones_note_is_still_a_note() {
        let note = "rome.example\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n\
                    \u{2014} oslo.example AAAAAAAAAAAA\n";
        let trust = read_all(&Signers::Anyone).expect("no key to read");
        let text = trust.current().open(note.as_bytes()).map(str::len);
        assert_eq!(text, Ok(note.find("\n\n").expect("there") + 1));
        let no_key = trust.current().open(b"<html>");
        assert!(matches!(no_key, Err(NoteError::Malformed(_))), "{no_key:?}");
        let keys = read_all(&signers([Source::Inline(ROME.to_owned())])).expect("a key");
        assert!(keys.current().open(note.as_bytes()).is_err());
    }
}

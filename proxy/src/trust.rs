//! Which keys may sign a log's checkpoints, and where they come from.
//!
//! Two kinds of [`TrustSource`]: keys given in the configuration, or in files it names, and keys that a
//! TUF repository vouches for. Both are read again while the process runs, so that a key can be
//! rotated under it: what is unreadable or wrong at that moment changes nothing, and is said once.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, anyhow};
use arc_swap::ArcSwap;
use futures::future::{BoxFuture, FutureExt as _, ready};
use tracing::{info, warn};

use crate::{
    audit::{Audit, Event},
    config::{KeysOf, LogSettings, Signers, Source},
    note::{self, Note, NoteError, vkey::VerifierKey},
    tuf::Tuf,
};

/// Whose signature makes a checkpoint a log's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trust {
    /// That of one of these keys.
    Keys(Vec<VerifierKey>),
    /// Anybody's: `danger_accept_unsigned`. Whoever answers first decides what the log is; after
    /// that, its history is still held against what was served before.
    Anyone,
    /// Nobody's, as long as trust cannot be established; says why.
    Nobody(String),
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
            Self::Nobody(why) => Err(NoteError::NoTrust(why.clone())),
        }
    }

    /// What any of these trusts.
    pub fn any_of<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut keys = Vec::new();
        for trust in all {
            match trust {
                Self::Keys(more) => keys.extend_from_slice(more),
                Self::Anyone => return Self::Anyone,
                Self::Nobody(_) => {}
            }
        }
        Self::Keys(keys)
    }

    /// The keys there are.
    pub fn keys(&self) -> &[VerifierKey] {
        match self {
            Self::Keys(keys) => keys,
            Self::Anyone | Self::Nobody(_) => &[],
        }
    }
}

/// Where a log's keys come from.
pub trait TrustSource: fmt::Debug + Send + Sync {
    /// Whose signature counts now. Costs a read of a few files.
    ///
    /// # Errors
    /// What is wrong, and where; what was read before stays.
    fn read(&self) -> anyhow::Result<Trust>;

    /// Whether nothing new may be believed any more with what it said, although what was proven with
    /// it stays so.
    fn is_expired(&self) -> bool {
        false
    }

    /// Looks for keys that it did not know: a checkpoint is signed by one. Says whether it did look.
    fn learn(&self) -> BoxFuture<'_, bool> {
        ready(false).boxed()
    }
}

/// Keys in the configuration, or in files it names.
#[derive(Clone, Debug)]
struct Configured {
    /// Path of the key in the configuration that they are from.
    key: String,
    signers: Signers,
}

/// Keys that a TUF repository vouches for.
#[derive(Clone, Debug)]
struct FromTuf {
    tuf: Arc<Tuf>,
    of: KeysOf,
}

/// Where the keys of a configured log come from: from TUF if it has none of its own.
///
/// # Errors
/// When they come from TUF, and no repository is followed.
pub fn source(log: &LogSettings, tuf: Option<&Arc<Tuf>>) -> anyhow::Result<Arc<dyn TrustSource>> {
    Ok(match (&log.signers, tuf) {
        (Signers::Tuf(of), Some(tuf)) => Arc::new(FromTuf {
            tuf: Arc::clone(tuf),
            of: of.clone(),
        }),
        (Signers::Tuf(_), None) => anyhow::bail!("{}: `tuf` is not enabled", log.signers_key),
        (signers, _) => Arc::new(Configured {
            key: log.signers_key.clone(),
            signers: signers.clone(),
        }),
    })
}

impl TrustSource for Configured {
    fn read(&self) -> anyhow::Result<Trust> {
        match &self.signers {
            Signers::Keys(sources) => read_keys(&self.key, sources).map(Trust::Keys),
            Signers::Anyone => Ok(Trust::Anyone),
            Signers::Tuf(_) => anyhow::bail!("{}: `tuf` is not enabled", self.key),
        }
    }
}

impl TrustSource for FromTuf {
    fn read(&self) -> anyhow::Result<Trust> {
        let keys = self.tuf.keys_for(self.of.origin.as_deref(), &self.of.urls);
        Ok(match keys {
            Ok(keys) => Trust::Keys(keys.into_iter().map(|found| found.key).collect()),
            Err(why) => Trust::Nobody(why),
        })
    }

    fn is_expired(&self) -> bool {
        self.tuf.is_expired()
    }

    fn learn(&self) -> BoxFuture<'_, bool> {
        self.tuf.refresh_for_unknown_key().boxed()
    }
}

/// The keys of one log.
#[derive(Debug)]
pub struct TrustedKeys {
    source: ArcSwap<Arc<dyn TrustSource>>,
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
        Self::from(Arc::new(Configured {
            key: key.to_owned(),
            signers: sources.clone(),
        }))
    }

    /// As [`TrustedKeys::read`], from anywhere.
    ///
    /// # Errors
    /// That of the source. That trust cannot be established yet is none.
    pub fn from(source: Arc<dyn TrustSource>) -> anyhow::Result<Self> {
        Ok(Self {
            current: ArcSwap::from_pointee(source.read()?),
            source: ArcSwap::from_pointee(source),
            complaint: Mutex::new(None),
        })
    }

    /// The keys as they are now.
    pub fn current(&self) -> Arc<Trust> {
        self.current.load_full()
    }

    /// Takes the keys from elsewhere, the next time they are read.
    pub fn replace_source(&self, source: Arc<dyn TrustSource>) {
        self.source.store(Arc::new(source));
    }

    /// Whether nothing new may be believed with them.
    pub fn is_expired(&self) -> bool {
        self.source.load().is_expired()
    }

    /// Looks for keys that are not known; says whether it did look. They are known once they are
    /// read again.
    pub async fn learn(&self) -> bool {
        let source = Arc::clone(&self.source.load());
        source.learn().await
    }

    /// As [`TrustedKeys::reload`], with what came of it told as the news of this log. Returns whether they
    /// are others from now on.
    pub fn reload_and_tell(&self, log: &str, audit: &Audit) -> bool {
        match self.reload() {
            Reload::Unchanged => false,
            Reload::Failed(error) => {
                warn!(log, error, "keys not read again; the ones before stay");
                false
            }
            Reload::Changed => {
                let trust = self.current();
                info!(log, keys = trust.keys().len(), "keys changed");
                audit.record(&Event::KeysChanged {
                    log,
                    keys: trust.keys().iter().map(ToString::to_string).collect(),
                });
                true
            }
        }
    }

    /// Reads the keys again. Costs a read of each file.
    pub fn reload(&self) -> Reload {
        let mut complaint = self
            .complaint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match self.source.load().read() {
            Ok(keys) => {
                *complaint = None;
                let before = self.current.swap(Arc::new(keys.clone()));
                match (&*before, keys) {
                    // For another reason, perhaps, which is for those who ask.
                    (Trust::Nobody(_), Trust::Nobody(_)) => Reload::Unchanged,
                    (before, keys) if *before == keys => Reload::Unchanged,
                    _ => Reload::Changed,
                }
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

//! Which keys may sign a log's checkpoints, and where they come from.
//!
//! Keys given in the configuration, or in files it names. Files are read again while the process
//! runs, so that a key can be rotated under it: what is unreadable or wrong at that moment changes
//! nothing, and is said once.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow};
use arc_swap::ArcSwap;

use crate::{config::Source, note::vkey::VerifierKey};

/// The keys of one log.
#[derive(Debug)]
pub struct TrustedKeys {
    sources: Vec<Source>,
    current: ArcSwap<Vec<VerifierKey>>,
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
    /// Reads the keys for the first time.
    ///
    /// # Errors
    /// When a source cannot be read, holds something that is not a key, or when there is no key;
    /// says which.
    pub fn read(sources: &[Source]) -> anyhow::Result<Self> {
        Ok(Self {
            sources: sources.to_vec(),
            current: ArcSwap::from_pointee(read(sources)?),
            complaint: Mutex::new(None),
        })
    }

    /// The keys as they are now; never empty.
    pub fn current(&self) -> Arc<Vec<VerifierKey>> {
        self.current.load_full()
    }

    /// Reads the keys again. Costs a read of each file.
    pub fn reload(&self) -> Reload {
        let mut complaint = self
            .complaint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match read(&self.sources) {
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

fn read(sources: &[Source]) -> anyhow::Result<Vec<VerifierKey>> {
    let mut keys = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let place = || format!("tile_proxy.public_keys[{i}] ({source:?})");
        let text = source
            .read()
            .map_err(|error| anyhow!(error))
            .with_context(place)?;
        // A file may hold several keys, one a line, while they rotate.
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            keys.push(line.parse::<VerifierKey>().with_context(place)?);
        }
    }
    anyhow::ensure!(
        !keys.is_empty(),
        "tile_proxy.public_keys: there is no key in them"
    );
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROME: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const OSLO: &str = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";

    #[test]
    fn a_key_file_is_read_again_and_a_bad_one_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys");
        let write = |text: &str| std::fs::write(&file, text).expect("written");
        write(ROME);
        let keys = TrustedKeys::read(&[Source::File(file.clone())]).expect("a key");
        assert_eq!(keys.reload(), Reload::Unchanged);

        write(&format!("{ROME}\n\n{OSLO}\n"));
        assert_eq!(keys.reload(), Reload::Changed);
        assert_eq!(keys.current().len(), 2);

        write("not a key");
        assert!(
            matches!(keys.reload(), Reload::Failed(error) if error.contains("not a verifier key"))
        );
        assert_eq!(keys.reload(), Reload::Unchanged, "said once");
        std::fs::remove_file(&file).expect("there");
        assert!(matches!(keys.reload(), Reload::Failed(error) if error.contains("cannot read")));
        assert_eq!(keys.current().len(), 2, "the ones before stay");

        write(OSLO);
        assert_eq!(keys.reload(), Reload::Changed);
        assert_eq!(keys.current().len(), 1);
    }

    #[test]
    fn no_key_at_all_is_refused() {
        let empty = [Source::Inline(String::new())];
        let error = TrustedKeys::read(&empty)
            .expect_err("nothing in it")
            .to_string();
        assert!(error.contains("there is no key"), "{error}");
    }
}

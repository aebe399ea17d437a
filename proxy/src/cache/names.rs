//! Names of upstreams: records have four bytes for one, `upstreams.json` has the rest.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    path::Path,
    sync::atomic::Ordering,
};

use serde::{Deserialize, Serialize};

use super::{
    Cache, LogStore,
    disk::{sync_directories, write_and_rename},
    files::read_at_most,
};

impl Cache {
    /// Numbers an upstream of a log, so that records can name it in four bytes. The last one numbered
    /// is the one of whatever is stored without saying whose it is.
    ///
    /// # Errors
    /// When `upstreams.json` cannot be read or written.
    pub fn name_upstream(&self, store: &LogStore, name: &str, url: &str) -> io::Result<u32> {
        let number = self.number_of(name, url)?;
        store.upstream.store(number, Ordering::Relaxed);
        Ok(number)
    }

    /// The number of whoever is called so and is there, in records.
    ///
    /// # Errors
    /// As [`Cache::name_upstream`].
    pub fn number_of(&self, name: &str, url: &str) -> io::Result<u32> {
        let path = self.base.join("upstreams.json");
        let mut known = known_upstreams(&path)?;
        let named = NamedUpstream {
            name: name.to_owned(),
            url: url.to_owned(),
        };
        let number = match known.iter().find(|(_, upstream)| **upstream == named) {
            Some((number, _)) => *number,
            None => {
                let number = known.keys().next_back().map_or(0, |last| last + 1);
                known.insert(number, named);
                // The name before any record that has its number: a number must not get another
                // name after a power loss.
                self.usage.adjust(write_and_rename(
                    &path,
                    &serde_json::to_vec_pretty(&known)?,
                )?);
                sync_directories(&self.base, &self.base)?;
                number
            }
        };
        Ok(number)
    }

    /// URL of the upstream with this number.
    ///
    /// # Errors
    /// When `upstreams.json` cannot be read.
    pub fn upstream_url(&self, number: u32) -> io::Result<Option<String>> {
        let mut known = known_upstreams(&self.base.join("upstreams.json"))?;
        Ok(known.remove(&number).map(|upstream| upstream.url))
    }
}

/// Longest list of names that is read back: thousands of upstreams.
const MAX_NAMES_BYTES: usize = 1 << 20;

/// An upstream in `upstreams.json`.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct NamedUpstream {
    name: String,
    pub(super) url: String,
}

pub(super) fn known_upstreams(path: &Path) -> io::Result<BTreeMap<u32, NamedUpstream>> {
    match read_at_most(path, MAX_NAMES_BYTES) {
        // Only names in records hang on it: a damaged one is begun afresh.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {
            Ok(BTreeMap::new())
        }
        Err(error) => Err(error),
    }
}

//! `metadata/cache_stats.json`: what was counted, so that it is there at once after a start.
//!
//! A hint and nothing more: sizes are corrected by the first scan, a damaged file is left out, and
//! nothing that is served hangs on it. For people and their scripts it is also a place to look.

use std::{collections::BTreeMap, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{Cache, LogStore, disk::write_and_rename, files::read_at_most, store::origin_hash};

/// Longest file that is read back: thousands of logs.
const MAX_STATS_BYTES: usize = 1 << 20;

/// The file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Saved {
    version: u32,
    /// Bytes of all files.
    pub(super) bytes: u64,
    /// By the name of their directory.
    pub(super) logs: BTreeMap<String, SavedLog>,
}

/// What was counted for one log.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedLog {
    /// Its origin.
    pub origin: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Full tiles stored.
    pub tiles: u64,
    /// Tiles and bundles served without asking anyone, since the cache was begun.
    pub hits: u64,
    /// Tiles and bundles that had to be fetched.
    pub misses: u64,
}

/// Version of the file.
const VERSION: u32 = 1;

impl Saved {
    /// Reads the file; nothing if it is not there, or damaged, or of another version.
    pub(super) fn read(base: &Path) -> Self {
        read_at_most(&path(base), MAX_STATS_BYTES)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok())
            .filter(|saved| saved.version == VERSION)
            .unwrap_or_default()
    }
}

impl Cache {
    /// Writes down what is counted: sizes, and the hits and misses of these logs since this start.
    ///
    /// # Errors
    /// When the disk does not take it; nothing but the next start's first numbers hangs on it.
    pub fn save_stats(&self, counts: &[(&LogStore, u64, u64)]) -> io::Result<()> {
        let mut logs = self.stores.saved().logs.clone();
        for (name, store) in self.stores.all() {
            let log = logs.entry(name).or_default();
            log.origin.clone_from(&store.origin);
            log.bytes = store.usage.bytes.get();
            log.tiles = store.usage.tiles.get();
        }
        for (store, hits, misses) in counts {
            if let Some(log) = logs.get_mut(&origin_hash(&store.origin)) {
                log.hits = store.saved().hits.saturating_add(*hits);
                log.misses = store.saved().misses.saturating_add(*misses);
            }
        }
        let saved = Saved {
            version: VERSION,
            bytes: self.usage.bytes(),
            logs,
        };
        // Its name is not synced: an older one is as good after a power loss.
        let change = write_and_rename(&path(&self.base), &serde_json::to_vec_pretty(&saved)?)?;
        self.usage.adjust(change);
        Ok(())
    }
}

fn path(base: &Path) -> std::path::PathBuf {
    base.join("metadata").join("cache_stats.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_ours_counts_as_none() {
        let base = tempfile::tempdir().expect("a directory");
        for (text, bytes) in [
            ("{\"version\": 1, \"bytes\": 7, \"logs\": {}}", 7),
            ("{\"version\": 2, \"bytes\": 7, \"logs\": {}}", 0),
            ("{\"version\": 1, \"bytes\": -7, \"logs\": {}}", 0),
            ("{\"version\": 1, \"bytes\": 7", 0),
            ("", 0),
        ] {
            write_and_rename(&path(base.path()), text.as_bytes()).expect("written");
            assert_eq!(Saved::read(base.path()).bytes, bytes, "{text}");
        }
    }
}

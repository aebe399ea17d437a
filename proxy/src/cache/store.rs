//! One log's part of the cache, and all that are open.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tracing::debug;

use super::{
    files::Files,
    groups::Groups,
    stats::{Saved, SavedLog},
    usage::LogUsage,
};
use crate::tlog::Hash;

/// One log's part of the cache.
pub struct LogStore {
    pub(super) number: u32,
    pub(super) origin: String,
    pub(super) directory: PathBuf,
    /// Full tiles.
    pub groups: Groups,
    /// Everything else.
    pub files: Files,
    /// What it has on the disk.
    pub usage: LogUsage,
    /// Number of the upstream that new records name.
    pub(super) upstream: AtomicU32,
    saved: SavedLog,
    /// Name of the log that is followed with it.
    follower: Mutex<Option<String>>,
}

impl LogStore {
    pub(super) fn new(
        number: u32,
        origin: &str,
        directory: PathBuf,
        groups: Groups,
        saved: SavedLog,
    ) -> Self {
        Self {
            number,
            origin: origin.to_owned(),
            groups,
            files: Files::new(directory.clone()),
            directory,
            usage: LogUsage::starting_at(saved.bytes, saved.tiles),
            upstream: AtomicU32::new(0),
            saved,
            follower: Mutex::default(),
        }
    }

    /// Makes this the part of the log called `name`, and of no other: two that follow one history
    /// would not know of each other's checkpoints.
    ///
    /// # Errors
    /// The name of the log whose part it is.
    pub fn claim(&self, name: &str) -> Result<(), String> {
        let mut follower = self.follower();
        match follower.as_deref() {
            Some(other) if other != name => Err(other.to_owned()),
            _ => {
                *follower = Some(name.to_owned());
                Ok(())
            }
        }
    }

    /// Lets another log claim this part.
    pub fn release(&self) {
        *self.follower() = None;
    }

    fn follower(&self) -> MutexGuard<'_, Option<String>> {
        // Each write replaces the whole, so a poisoned one is still sound.
        self.follower.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log's origin.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether this is the hex SHA-256 of the origin, which is the name of the log's directory.
    pub fn has_hash(&self, hash: &str) -> bool {
        self.directory.file_name().is_some_and(|name| name == hash)
    }

    /// Whether evidence of two histories is kept. Read each time, because a person who has dealt with it
    /// takes it away.
    pub fn has_evidence(&self) -> bool {
        self.files.has_evidence().unwrap_or_else(|error| {
            debug!(origin = self.origin, %error, "cannot look for evidence");
            false // what cannot be read proves nothing
        })
    }

    /// What was counted before this start.
    pub fn saved(&self) -> &SavedLog {
        &self.saved
    }
}

/// The logs of a cache that somebody has asked for.
pub(super) struct Stores {
    directory: PathBuf,
    saved: Saved,
    /// By the name of their directory: one object a log, however often it is asked for.
    open: Mutex<HashMap<String, Arc<LogStore>>>,
    next: AtomicU32,
}

impl Stores {
    /// The logs below `tiles/`, with what was counted before.
    pub(super) fn new(directory: PathBuf, saved: Saved) -> Self {
        Self {
            directory,
            saved,
            open: Mutex::default(),
            next: AtomicU32::new(0),
        }
    }

    /// The part of the log with this origin.
    pub(super) fn of_origin(&self, origin: &str) -> Arc<LogStore> {
        let name = origin_hash(origin);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let store = open
            .entry(name.clone())
            .or_insert_with(|| Arc::new(self.store(&name, origin)));
        Arc::clone(store)
    }

    /// The part of the log with this directory; for a log that nobody has asked for, one that is
    /// good for removing things and for nothing else.
    pub(super) fn of_directory(&self, name: &str) -> Arc<LogStore> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = open.get(name).map(Arc::clone);
        known.unwrap_or_else(|| Arc::new(self.store(name, "")))
    }

    /// All that somebody has asked for, with the names of their directories.
    pub(super) fn all(&self) -> Vec<(String, Arc<LogStore>)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = open
            .iter()
            .map(|(name, store)| (name.clone(), Arc::clone(store)));
        pairs.collect()
    }

    /// What was counted before this start, for all logs.
    pub(super) fn saved(&self) -> &Saved {
        &self.saved
    }

    fn store(&self, name: &str, origin: &str) -> LogStore {
        let directory = self.directory.join(name);
        let saved = self.saved.logs.get(name).cloned().unwrap_or_default();
        let groups = Groups::new(directory.clone());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        LogStore::new(number, origin, directory, groups, saved)
    }
}

/// The name of a log's directory: the hex SHA-256 of its origin.
pub fn origin_hash(origin: &str) -> String {
    hex::encode(Hash::of(origin.as_bytes()).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_one_follower() {
        let directory = tempfile::tempdir().expect("a directory");
        let stores = Stores::new(directory.path().to_owned(), Saved::default());
        let store = stores.of_origin("rome.example");
        assert_eq!(store.claim("rome"), Ok(()));
        assert_eq!(store.claim("rome"), Ok(()), "again, as after a change");
        assert_eq!(store.claim("oslo"), Err("rome".to_owned()));
        assert_eq!(stores.of_origin("oslo.example").claim("oslo"), Ok(()));
        store.release();
        assert_eq!(store.claim("oslo"), Ok(()));
    }
}

//! A cache as somebody sees it who only reads, beside the process that has it.
//!
//! No lock is needed. What the writer does is safe to watch: a file appears whole, by a rename; a
//! slot is written before its record, and whoever sees half of either finds that they disagree.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    CacheError, LogStore, SavedLog, format::is_current, groups::Groups, names::known_upstreams,
    origin_hash, stored_origins,
};

/// A cache that is only read.
#[derive(Debug)]
pub struct View {
    base: PathBuf,
    logs: AtomicU32,
}

impl View {
    /// Looks at the cache at `base`.
    ///
    /// # Errors
    /// When there is none, or it has another layout.
    pub fn of(base: &Path) -> Result<Self, CacheError> {
        if !is_current(base)? {
            return Err(CacheError::Io {
                path: base.to_owned(),
                source: io::Error::new(io::ErrorKind::NotFound, "there is no cache"),
            });
        }
        Ok(Self {
            base: base.to_owned(),
            logs: AtomicU32::new(0),
        })
    }

    /// The part for the log with this origin; nothing can be written to it.
    pub fn log(&self, origin: &str) -> Arc<LogStore> {
        let directory = self.base.join("tiles").join(origin_hash(origin));
        let groups = Groups::read_only(directory.clone());
        let number = self.logs.fetch_add(1, Ordering::Relaxed);
        let store = LogStore::new(number, origin, directory, groups, SavedLog::default());
        Arc::new(store)
    }

    /// Origins of the logs that something is stored for.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn origins(&self) -> io::Result<Vec<String>> {
        stored_origins(&self.base)
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

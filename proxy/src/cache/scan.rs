//! Looks at every file of the cache: what there is, how large, and when it was last used.
//!
//! Only ever in the background or for a prune: nobody waits for it to be served.

use std::{
    fs::{self, DirEntry},
    os::unix::{ffi::OsStrExt, fs::MetadataExt as _},
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    disk::{TEMPORARY, allocated},
    files::Files,
    slots::read_records,
};
use crate::tlog::{Hash, path::Bundle};

/// Age from which a file that is still being written was left behind by a crash.
const LEFT_BEHIND: Duration = Duration::from_secs(60 * 60);

/// What one log has on the disk.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Bytes that all of its files take.
    pub(super) bytes: u64,
    /// Full tiles, as far as records say.
    pub(super) tiles: u64,
    pub(super) evictable: Vec<FoundFile>,
    /// Files that a crash left half-written, and second names that lead nowhere.
    pub(super) strays: Vec<std::path::PathBuf>,
}

/// What may be evicted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Evictable {
    Bundle(Bundle),
    /// A Rekor v1 entry, by its leaf hash.
    Entry(Hash),
}

/// Something on the disk that may be evicted.
#[derive(Debug)]
pub(super) struct FoundFile {
    pub(super) what: Evictable,
    pub(super) bytes: u64,
    pub(super) used: SystemTime,
}

/// Looks at one log's directory. What cannot be read counts as nothing.
pub(super) fn scan_log(directory: &Path) -> Found {
    let files = Files::new(directory.to_owned());
    let mut found = Found::default();
    walk(directory, &mut |entry| {
        let Ok(metadata) = entry.metadata() else {
            return;
        };
        let (path, bytes) = (entry.path(), allocated(&metadata));
        if files.is_index_name(&path) {
            // Its blocks are those of the entry that it is the other name of.
            if metadata.nlink() < 2 {
                found.bytes += bytes;
                found.strays.push(path);
            }
            return;
        }
        found.bytes += bytes;
        let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        match path.extension().map(OsStrExt::as_bytes) {
            Some(b"meta") => found.tiles += read_records(&path).unwrap_or_default().len() as u64,
            Some(suffix) if suffix == TEMPORARY.as_bytes() => {
                if used.elapsed().is_ok_and(|age| age > LEFT_BEHIND) {
                    found.strays.push(path);
                }
            }
            _ => {
                let bundle = files.bundle_of(&path).map(Evictable::Bundle);
                let what = bundle.or_else(|| files.entry_of(&path).map(Evictable::Entry));
                let file = what.map(|what| FoundFile { what, bytes, used });
                found.evictable.extend(file);
            }
        }
    });
    found
}

/// Bytes that the files take which belong to no log.
pub(super) fn scan_rest(base: &Path) -> u64 {
    let mut bytes = 0;
    for entry in entries(base).filter(|entry| entry.file_name() != "tiles") {
        let mut add = |entry: &DirEntry| {
            bytes += entry.metadata().map_or(0, |metadata| allocated(&metadata));
        };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), &mut add);
        } else {
            add(&entry);
        }
    }
    bytes
}

/// Calls `visit` for everything below a directory that is not one itself.
fn walk(directory: &Path, visit: &mut impl FnMut(&DirEntry)) {
    for entry in entries(directory) {
        // A symbolic link is none of ours, and not followed.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        } else {
            visit(&entry);
        }
    }
}

/// What is in a directory; nothing if it cannot be read.
pub(super) fn entries(directory: &Path) -> impl Iterator<Item = DirEntry> {
    fs::read_dir(directory).into_iter().flatten().flatten()
}

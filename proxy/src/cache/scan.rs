//! Looks at every file of the cache: what there is, how large, and when it was last used.
//!
//! Only ever in the background or for a prune: nobody waits for it to be served.

use std::{
    fs::{self, DirEntry},
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    disk::{TEMPORARY, allocated},
    files::Files,
    slots::read_records,
};
use crate::tlog::path::Bundle;

/// Age from which a file that is still being written was left behind by a crash.
const LEFT_BEHIND: Duration = Duration::from_secs(60 * 60);

/// What one log has on the disk.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Bytes that all of its files take.
    pub(super) bytes: u64,
    /// Full tiles, as far as records say.
    pub(super) tiles: u64,
    pub(super) bundles: Vec<FoundBundle>,
    /// Files that a crash left half-written.
    pub(super) strays: Vec<std::path::PathBuf>,
}

/// A bundle on the disk.
#[derive(Debug)]
pub(super) struct FoundBundle {
    pub(super) bundle: Bundle,
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
        found.bytes += bytes;
        let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        match path.extension().map(OsStrExt::as_bytes) {
            Some(b"meta") => found.tiles += read_records(&path).unwrap_or_default().len() as u64,
            Some(suffix) if suffix == TEMPORARY.as_bytes() => {
                if used.elapsed().is_ok_and(|age| age > LEFT_BEHIND) {
                    found.strays.push(path);
                }
            }
            _ => found
                .bundles
                .extend(files.bundle_of(&path).map(|bundle| FoundBundle {
                    bundle,
                    bytes,
                    used,
                })),
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

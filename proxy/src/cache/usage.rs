//! Bytes on the disk, against the budget.

use std::{
    fs, io,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use prometheus::IntCounter;

use super::slots::count_records;

/// Bytes on the disk, against the budget.
#[derive(Debug)]
pub struct Usage {
    /// Bytes stored, as far as they are counted: the scan after a start takes a while.
    pub bytes: AtomicU64,
    /// Bytes that may be stored.
    pub budget: u64,
    /// Whether the last attempt to store was refused, by the budget or by the disk.
    pub refusing: AtomicBool,
    /// Resources that were served and not stored.
    pub refused: IntCounter,
}

impl Usage {
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.bytes.load(Ordering::Relaxed).saturating_add(bytes) <= self.budget
    }
}

/// Nine tenths of the file system that `base` is on, in bytes.
pub(super) fn most_of_disk(base: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(base)?;
    let total = disk.f_blocks.saturating_mul(disk.f_frsize);
    Ok(total - total / 10)
}

/// Full tiles and allocated bytes below a directory. What cannot be read counts as nothing.
pub(super) fn count_directory(directory: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;

    let (mut tiles, mut bytes) = (0, 0);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            let (more_tiles, more_bytes) = count_directory(&path);
            tiles += more_tiles;
            bytes += more_bytes;
        } else {
            bytes += metadata.blocks() * 512; // what st_blocks counts in, on every file system
            if path
                .extension()
                .is_some_and(|extension| extension == "meta")
            {
                tiles += count_records(&path).unwrap_or_default();
            }
        }
    }
    (tiles, bytes)
}

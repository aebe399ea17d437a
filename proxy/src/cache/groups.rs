//! The group files of one log: which are open, and finding the one that holds a tile.

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use quick_cache::sync::Cache as Recent;

use super::{
    disk::{self, Access},
    slots::{GROUP_SLOTS, Group, Slot},
};

/// Groups held open, two files each; 256 groups are 2 GiB of tiles.
const OPEN_GROUPS: usize = 256;

/// The groups of one log, the recently used ones open.
#[derive(Debug)]
pub struct Groups {
    directory: PathBuf,
    /// What groups that exist are opened for.
    access: Access,
    open: Recent<(u8, u64), Arc<Group>>,
    /// Whether the file system can read without waiting; `false` is found out by trying.
    reads_now: AtomicBool,
}

impl Groups {
    /// The groups below a log's directory.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            access: Access::Write,
            open: Recent::new(OPEN_GROUPS),
            reads_now: AtomicBool::new(true),
        }
    }

    /// The groups below a log's directory, which may belong to another process, or be read-only.
    pub(super) fn read_only(directory: PathBuf) -> Self {
        Self {
            access: Access::Read,
            ..Self::new(directory)
        }
    }

    /// The group of a full tile, and its slot there; `None` if nothing was ever stored near it.
    pub fn find(&self, level: u8, index: u64) -> io::Result<Option<(Arc<Group>, u64)>> {
        let (group, slot) = (index / GROUP_SLOTS, index % GROUP_SLOTS);
        Ok(self
            .get(level, group, self.access)?
            .map(|group| (group, slot)))
    }

    /// A full tile that was proven before and takes no waiting: its group is open and its bytes are
    /// in the page cache. `None` says nothing about whether it is stored.
    pub fn read_now(&self, level: u8, index: u64) -> Option<Slot> {
        if !self.reads_now.load(Ordering::Relaxed) {
            return None;
        }
        let group = self.open.get(&(level, index / GROUP_SLOTS))?;
        group.read_now(index % GROUP_SLOTS, &self.reads_now)
    }

    /// As [`Groups::find`], and creates the group. For the writer alone, which also removes groups.
    pub(super) fn find_or_create(&self, level: u8, index: u64) -> io::Result<(Arc<Group>, u64)> {
        let (group, slot) = (index / GROUP_SLOTS, index % GROUP_SLOTS);
        let found = self
            .get(level, group, Access::Create)?
            .ok_or(ErrorKind::NotFound)?;
        if found.is_linked()? {
            return Ok((found, slot));
        }
        // A reader put it back after it was removed; what is written to it would be lost.
        self.open.remove(&(level, group));
        let created = self
            .get(level, group, Access::Create)?
            .ok_or(ErrorKind::NotFound)?;
        Ok((created, slot))
    }

    /// A group by its number.
    pub(super) fn by_number(&self, level: u8, group: u64) -> io::Result<Option<Arc<Group>>> {
        self.get(level, group, self.access)
    }

    /// Removes a group's files. Returns the bytes they took. For the writer alone.
    pub(super) fn remove(&self, level: u8, group: u64) -> io::Result<u64> {
        self.open.remove(&(level, group));
        let mut bytes = 0;
        // The records first: tiles without records are nothing.
        for extension in ["meta", "tiles"] {
            let path = self
                .level_directory(level)
                .join(format!("{group}.{extension}"));
            bytes += disk::remove(&path)?;
        }
        Ok(bytes)
    }

    /// Directory of one level's groups.
    pub(super) fn level_directory(&self, level: u8) -> PathBuf {
        self.directory.join(level.to_string())
    }

    fn get(&self, level: u8, group: u64, access: Access) -> io::Result<Option<Arc<Group>>> {
        if let Some(open) = self.open.get(&(level, group)) {
            return Ok(Some(open));
        }
        let open = |access| Group::open(&self.level_directory(level), group, access);
        let opened = match open(access) {
            // A disk that became read-only, often because of its own errors, is still read.
            Err(error) if access == Access::Write && is_read_only(&error) => open(Access::Read)?,
            opened => opened?,
        };
        let Some(opened) = opened else {
            return Ok(None);
        };
        // Two at once may both open it; the files are the same, so either may stay.
        let opened = Arc::new(opened);
        self.open.insert((level, group), Arc::clone(&opened));
        Ok(Some(opened))
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt as _};

    use super::*;
    use crate::{
        cache::{record::testing::record, slots::read_records},
        tlog::tile::FULL_TILE_BYTES,
    };

    #[test]
    fn a_slot_is_read_back_and_its_neighbours_are_vacant() {
        let directory = tempfile::tempdir().expect("a directory");
        let groups = Groups::new(directory.path().to_owned());
        assert!(groups.find(0, 1_023).expect("readable").is_none());
        let (group, slot) = groups.find_or_create(0, 1_023).expect("created");
        group
            .write(slot, &[7; FULL_TILE_BYTES], &record())
            .expect("written");
        group.sync().expect("synced");

        let again = Groups::new(directory.path().to_owned());
        let (group, slot) = again.find(0, 1_023).expect("readable").expect("exists");
        let Slot::Stored {
            bytes,
            record: got,
            proven,
        } = group.read(slot).expect("readable")
        else {
            panic!("the tile is not there");
        };
        assert_eq!(
            (bytes.len(), got, proven),
            (FULL_TILE_BYTES, record(), false)
        );
        assert!(matches!(group.read(slot - 1), Ok(Slot::Vacant)));
        assert!(
            again.find(0, 1_024).expect("readable").is_none(),
            "the next group"
        );
        assert_eq!(
            read_records(&directory.path().join("0/0.meta")).expect("readable"),
            [(1_023, record())]
        );
    }

    #[test]
    fn rot_in_bytes_or_record_is_noticed() {
        for file in ["0.tiles", "0.meta"] {
            let directory = tempfile::tempdir().expect("a directory");
            let groups = Groups::new(directory.path().to_owned());
            let (group, slot) = groups.find_or_create(1, 0).expect("created");
            group
                .write(slot, &[7; FULL_TILE_BYTES], &record())
                .expect("written");
            let rotten = fs::OpenOptions::new()
                .write(true)
                .open(directory.path().join("1").join(file))
                .expect("exists");
            rotten.write_all_at(&[8], 30).expect("written");
            assert!(matches!(group.read(slot), Ok(Slot::Corrupt)), "{file}");
            group.forget(slot).expect("written");
            assert!(matches!(group.read(slot), Ok(Slot::Vacant)), "{file}");
        }
    }

    #[test]
    fn only_what_was_proven_and_is_in_memory_is_read_without_waiting() {
        let directory = tempfile::tempdir().expect("a directory");
        let groups = Groups::new(directory.path().to_owned());
        assert!(groups.read_now(0, 5).is_none(), "not even open");
        let (group, slot) = groups.find_or_create(0, 5).expect("created");
        group
            .write(slot, &[7; FULL_TILE_BYTES], &record())
            .expect("written");
        let supported = groups.reads_now.load(Ordering::Relaxed);
        match groups.read_now(0, 5) {
            Some(Slot::Stored { bytes, proven, .. }) => {
                assert!(proven);
                assert_eq!(bytes, [7; FULL_TILE_BYTES][..]);
            }
            other => assert!(
                other.is_none() && supported && !groups.reads_now.load(Ordering::Relaxed),
                "a file system that cannot is asked once"
            ),
        }
        assert!(groups.read_now(0, 6).is_none(), "vacant");
        group.proven().remove(&slot);
        assert!(groups.read_now(0, 5).is_none(), "needs its proof first");
    }

    #[test]
    fn a_forgotten_tile_gives_its_blocks_back_and_an_empty_group_its_files() {
        let directory = tempfile::tempdir().expect("a directory");
        let groups = Groups::new(directory.path().to_owned());
        for index in [3, 4] {
            let (group, slot) = groups.find_or_create(0, index).expect("created");
            let vacant = group
                .write(slot, &[7; FULL_TILE_BYTES], &record())
                .expect("written");
            assert!(vacant, "tile {index}");
            group.sync().expect("synced");
        }
        let (group, slot) = groups.find(0, 3).expect("readable").expect("there");
        let before = group.allocated().expect("there");
        group.forget(slot).expect("written");
        group.punch(&[slot]).expect("punched");
        let freed = before - group.allocated().expect("there");
        assert_eq!(freed, FULL_TILE_BYTES as u64);
        let left: Vec<u64> = group
            .records()
            .expect("readable")
            .iter()
            .map(|(slot, _)| *slot)
            .collect();
        assert_eq!(left, [4]);

        groups.remove(0, 0).expect("there");
        let stale = Arc::clone(&group);
        groups.open.insert((0, 0), stale); // as a reader would that opened it just before
        let (fresh, slot) = groups.find_or_create(0, 3).expect("created");
        fresh
            .write(slot, &[7; FULL_TILE_BYTES], &record())
            .expect("written");
        let again = Groups::new(directory.path().to_owned());
        assert!(
            again.find(0, 3).expect("readable").is_some(),
            "not written to the removed files"
        );
    }
}

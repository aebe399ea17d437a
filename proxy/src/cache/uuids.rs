//! Entries of Rekor v1, one file each: `uuid/{first two}/{leaf hash}.json`, as it is served.
//!
//! The tree ID, which begins the long form of a UUID, is the same for all entries of a directory: a
//! directory is of one shard. A second name for the same file, `index/x001/x234/067`, finds an entry by
//! its position in the whole log. It takes no blocks of its own, and nothing is believed because of it.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;

use super::{
    bundles::note_use,
    disk::{self, write_and_rename},
    files::{Files, read_at_most},
};
use crate::{
    rekor_v1::api::MAX_ENTRY_BYTES,
    tlog::{HASH_BYTES, Hash, path::Bundle, tile::FULL_WIDTH},
};

/// Suffix of an entry's file.
const SUFFIX: &str = ".json";

/// What storing an entry did.
pub(super) struct WrittenEntry {
    /// Names in these directories are durable once they are synced.
    pub(super) directories: Vec<PathBuf>,
    /// By how many bytes more the disk is used.
    pub(super) change: i64,
}

impl Files {
    /// The stored entry with this leaf hash. Not proven.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read_entry(&self, leaf: Hash) -> io::Result<Option<Bytes>> {
        read(&self.entry_path(leaf))
    }

    /// The entry that was stored under this index. Not proven, nor that it has this index.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read_entry_at(&self, index: u64) -> io::Result<Option<Bytes>> {
        read(&self.index_path(index))
    }

    /// Leaf hashes of all stored entries, in no order. Takes as long as there are entries.
    pub fn entry_leaves(&self) -> Vec<Hash> {
        let mut leaves = Vec::new();
        for directory in super::scan::entries(&self.uuid_directory()) {
            let directory = directory.path();
            for entry in super::scan::entries(&directory) {
                leaves.extend(self.entry_of(&entry.path()));
            }
        }
        leaves
    }

    /// Stores an entry under its leaf hash and its index.
    pub(super) fn write_entry(
        &self,
        leaf: Hash,
        index: u64,
        json: &[u8],
    ) -> io::Result<WrittenEntry> {
        let (path, by_index) = (self.entry_path(leaf), self.index_path(index));
        // First, so that a file that is replaced is counted by the name that stays.
        let freed = removed(&by_index)?;
        let change = write_and_rename(&path, json)? - freed.cast_signed();
        let mut directories = vec![parent(&path)];
        disk::create_directories(&parent(&by_index))?;
        match disk::link(&path, &by_index) {
            Ok(()) => directories.push(parent(&by_index)),
            // Some file systems have no second names: there, the log is asked for what is wanted by
            // index.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Unsupported | ErrorKind::PermissionDenied
                ) => {}
            Err(error) => return Err(error),
        }
        Ok(WrittenEntry {
            directories,
            change,
        })
    }

    /// Removes an entry, both its names, and directories that are empty then. Returns the bytes it took.
    pub(super) fn remove_entry(&self, leaf: Hash, index: Option<u64>) -> io::Result<u64> {
        let path = self.entry_path(leaf);
        if let Some(by_index) = index.map(|index| self.index_path(index))
            && same_file(&path, &by_index)
        {
            // Its blocks are the other name's.
            removed(&by_index)?;
            remove_empty(&by_index, &self.index_directory());
        }
        let bytes = removed(&path)?;
        remove_empty(&path, &self.uuid_directory());
        Ok(bytes)
    }

    /// Removes an entry that is damaged, so that nobody knows its position: its second name stays, leads to
    /// nothing that is believed, and is written over when the entry comes again.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn forget_entry(&self, leaf: Hash) -> io::Result<()> {
        self.remove_entry(leaf, None).map(drop)
    }

    /// When a stored entry was last used, as far as that is noted; `None` if it is not stored.
    pub(super) fn entry_used(&self, leaf: Hash) -> Option<SystemTime> {
        fs::metadata(self.entry_path(leaf)).ok()?.modified().ok()
    }

    /// The leaf hash of the entry that a file is, by its path; `None` for anything else.
    pub(super) fn entry_of(&self, path: &Path) -> Option<Hash> {
        let name = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
        let mut leaf = [0; HASH_BYTES];
        hex::decode_to_slice(name, &mut leaf).ok()?;
        let leaf = Hash(leaf);
        (self.entry_path(leaf) == path).then_some(leaf)
    }

    /// Whether a path is the second name of an entry, or was.
    pub(super) fn is_index_name(&self, path: &Path) -> bool {
        path.starts_with(self.index_directory())
    }

    fn entry_path(&self, leaf: Hash) -> PathBuf {
        let name = hex::encode(leaf.0);
        let directory = self.uuid_directory().join(&name[..2]);
        directory.join(format!("{name}{SUFFIX}"))
    }

    fn index_path(&self, index: u64) -> PathBuf {
        // In the groups of three digits that paths of bundles have.
        let name = Bundle::new(index, FULL_WIDTH).map(|bundle| bundle.to_string());
        let name = name.unwrap_or_default();
        let name = name.strip_prefix("tile/entries/").unwrap_or(&name);
        self.index_directory().join(name)
    }

    fn uuid_directory(&self) -> PathBuf {
        self.directory.join("uuid")
    }

    fn index_directory(&self) -> PathBuf {
        self.directory.join("index")
    }
}

fn read(path: &Path) -> io::Result<Option<Bytes>> {
    match read_at_most(path, MAX_ENTRY_BYTES) {
        Ok(bytes) => {
            note_use(path);
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether both names are of one file.
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |path| fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
}

/// Removes a name that may not be there. Returns the bytes that go with it: none while there is
/// another name.
fn removed(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let is_last = fs::symlink_metadata(path).is_ok_and(|file| file.nlink() < 2);
    match disk::remove(path) {
        Ok(bytes) if is_last => Ok(bytes),
        Ok(_) => Ok(0),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Removes the directories of a path, up to `top`, as far as they are empty.
fn remove_empty(path: &Path, top: &Path) {
    let above = path.ancestors().skip(1);
    for directory in above.take_while(|above| *above != top) {
        if disk::remove_empty_directory(directory).is_err() {
            break; // something else is in it
        }
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::files::testing::files;

    fn leaf(first: u8) -> Hash {
        let mut leaf = [7; HASH_BYTES];
        leaf[0] = first;
        Hash(leaf)
    }

    #[test]
    fn an_entry_is_found_by_its_hash_and_by_its_index() {
        let (directory, files) = files();
        let path = directory
            .path()
            .join(format!("log/uuid/ab/ab{}.json", "07".repeat(31)));
        let by_index = directory.path().join("log/index/x001/x234/067");
        assert_eq!(files.read_entry(leaf(0xab)).expect("readable"), None);
        let written = files
            .write_entry(leaf(0xab), 1_234_067, b"{}")
            .expect("written");
        assert_eq!(written.change, 4_096, "two names take the blocks of one");
        assert_eq!(written.directories, [parent(&path), parent(&by_index)]);
        assert!(same_file(&path, &by_index));
        let stored = Some(Bytes::from_static(b"{}"));
        assert_eq!(files.read_entry(leaf(0xab)).expect("readable"), stored);
        assert_eq!(files.read_entry_at(1_234_067).expect("readable"), stored);
        assert_eq!(files.read_entry_at(1_234_068).expect("readable"), None);
        assert_eq!(files.entry_of(&path), Some(leaf(0xab)));
        assert!(files.is_index_name(&by_index) && !files.is_index_name(&path));
        assert_eq!(files.entry_leaves(), [leaf(0xab)]);

        // The same again is a new file, which both names are of.
        let again = files
            .write_entry(leaf(0xab), 1_234_067, &[b' '; 5_000])
            .expect("written");
        assert_eq!(again.change, 4_096, "it takes two blocks now");
        assert!(same_file(&path, &by_index));
        assert_eq!(
            files
                .remove_entry(leaf(0xab), Some(1_234_067))
                .expect("removed"),
            8_192
        );
        assert_eq!(files.read_entry_at(1_234_067).expect("readable"), None);
        for name in ["log/uuid/ab", "log/index/x001"] {
            assert!(
                !directory.path().join(name).exists(),
                "{name} is empty and gone"
            );
        }
    }

    #[test]
    fn the_name_of_another_entry_stays() {
        let (_directory, files) = files();
        files.write_entry(leaf(1), 5, b"one").expect("written");
        // Nobody can prove two entries at one index; whatever happened, the last one counts.
        files.write_entry(leaf(2), 5, b"two").expect("written");
        files.remove_entry(leaf(1), Some(5)).expect("removed");
        assert_eq!(
            files.read_entry_at(5).expect("readable"),
            Some(Bytes::from_static(b"two"))
        );
        assert_eq!(
            files.remove_entry(leaf(1), Some(5)).expect("gone already"),
            0
        );
    }

    #[test]
    fn a_file_with_another_name_is_no_entry() {
        let (directory, files) = files();
        let name = hex::encode(leaf(0xab).0);
        for path in [
            format!("log/uuid/ac/{name}.json"),
            format!("log/uuid/ab/{name}"),
            format!("log/uuid/ab/{}.json", name.to_uppercase()),
            format!("log/uuid/ab/{}.json", &name[2..]),
            format!("log/index/ab/{name}.json"),
        ] {
            assert_eq!(
                files.entry_of(&directory.path().join(&path)),
                None,
                "{path}"
            );
        }
    }
}

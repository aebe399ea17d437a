//! Full tiles in group files: 1,024 slots of 8,192 bytes, and a record of 64 bytes for each.
//!
//! A default ext4 volume has an inode for every 16 KiB, so two files a tile would run out of inodes
//! long before bytes. A slot is written before its record, and neither is trusted when read: the
//! record has a checksum, the slot must have the record's digest, and what a file says is only
//! served once the tree proves it. A torn or lost write is therefore a miss, never a wrong answer.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use quick_cache::sync::Cache as Recent;

use crate::tlog::{Hash, tile::FULL_TILE_BYTES};

/// Slots of a group. Full tile `n` of a level lives in group `n / 1,024` at slot `n % 1,024`.
pub const GROUP_SLOTS: u64 = 1_024;

/// Bytes of one record.
pub const RECORD_BYTES: usize = 64;

/// Groups held open, two files each; 256 groups are 2 GiB of tiles.
const OPEN_GROUPS: usize = 256;

/// What is known about a stored tile besides its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record {
    /// Number of the upstream it came from, in `upstreams.json`.
    pub upstream: u32,
    /// When it was stored, in milliseconds since 1970.
    pub cached_at: u64,
    /// Size of the tree it was proven against.
    pub tree_size: u64,
    /// SHA-256 of its bytes.
    pub digest: Hash,
}

/// First byte of a record whose slot holds a tile.
const STATE_STORED: u8 = 1;

/// Bytes of a record that its checksum covers.
const CHECKED_BYTES: usize = 56;

impl Record {
    /// state u8, reserved\[3\], upstream u32, cachedAt u64, treeSize u64, sha256\[32\], crc32 u32,
    /// reserved\[4\]; little-endian.
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = STATE_STORED;
        bytes[4..8].copy_from_slice(&self.upstream.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.cached_at.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.tree_size.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.digest.0);
        let checksum = crc32fast::hash(&bytes[..CHECKED_BYTES]);
        bytes[56..60].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` for a slot without a tile, and for a record that was torn or rotted.
    fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let record = Self {
            upstream: u32::from_le_bytes(*bytes[4..].first_chunk()?),
            cached_at: u64::from_le_bytes(*bytes[8..].first_chunk()?),
            tree_size: u64::from_le_bytes(*bytes[16..].first_chunk()?),
            digest: Hash(*bytes[24..].first_chunk()?),
        };
        // One spelling: what decodes, encodes to the same bytes; this checks the checksum as well.
        (record.encode() == *bytes).then_some(record)
    }
}

/// What a slot holds.
#[derive(Debug)]
pub enum Slot {
    /// A tile whose bytes have the record's digest.
    Stored {
        /// Its 8,192 bytes.
        bytes: Bytes,
        /// What is known about it.
        record: Record,
        /// Whether the tree has proven it since this group was opened.
        proven: bool,
    },
    /// A record or bytes that do not agree: rotted, or torn by a power loss.
    Corrupt,
    /// Nothing.
    Vacant,
}

/// What a group is opened for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Access {
    /// Writing; created if it is not there.
    Create,
    /// Reading beside a process that may write.
    Read,
    /// Writing, if it is there.
    Write,
}

/// 1,024 neighbouring full tiles of one level.
#[derive(Debug)]
pub struct Group {
    tiles: File,
    meta: File,
    /// Digests of the slots that the tree has proven since the group was opened. Kept here and not
    /// read again, since whoever writes to the disk can write records too. Lost when the group is
    /// closed, which costs one more proof.
    proven: Mutex<HashMap<u64, Hash>>,
}

impl Group {
    /// Opens a group. `None` if it does not exist and is not to be created.
    fn open(directory: &Path, group: u64, access: Access) -> io::Result<Option<Self>> {
        let create = access == Access::Create;
        let open = |extension: &str, length: u64| -> io::Result<File> {
            let path = directory.join(format!("{group}.{extension}"));
            let file = OpenOptions::new()
                .read(true)
                .write(access != Access::Read)
                .create(create)
                .truncate(false)
                .open(path)?;
            if access != Access::Read && file.metadata()?.len() < length {
                file.set_len(length)?; // sparse: takes no blocks yet
            }
            Ok(file)
        };
        if create {
            fs::create_dir_all(directory)?;
        }
        let files = open("tiles", GROUP_SLOTS * FULL_TILE_BYTES as u64)
            .and_then(|tiles| Ok((tiles, open("meta", GROUP_SLOTS * RECORD_BYTES as u64)?)));
        match files {
            Ok((tiles, meta)) => Ok(Some(Self {
                tiles,
                meta,
                proven: Mutex::default(),
            })),
            Err(error) if error.kind() == ErrorKind::NotFound && !create => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads one slot. Blocks on the disk; one read of 64 bytes and one of 8,192.
    pub fn read(&self, slot: u64) -> io::Result<Slot> {
        let mut record = [0; RECORD_BYTES];
        match self
            .meta
            .read_exact_at(&mut record, slot * RECORD_BYTES as u64)
        {
            // Shorter than a group's while another process creates it.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Slot::Vacant),
            read => read?,
        }
        if record == [0; RECORD_BYTES] {
            return Ok(Slot::Vacant);
        }
        let Some(record) = Record::decode(&record) else {
            return Ok(Slot::Corrupt);
        };
        let mut bytes = vec![0; FULL_TILE_BYTES];
        match self
            .tiles
            .read_exact_at(&mut bytes, slot * FULL_TILE_BYTES as u64)
        {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Slot::Corrupt),
            read => read?,
        }
        if Hash::of(&bytes) != record.digest {
            return Ok(Slot::Corrupt);
        }
        let proven = self.proven().get(&slot) == Some(&record.digest);
        Ok(Slot::Stored {
            bytes: bytes.into(),
            record,
            proven,
        })
    }

    /// Remembers that the tree has proven the tile of this slot, by its digest.
    pub fn mark_proven(&self, slot: u64, digest: Hash) {
        self.proven().insert(slot, digest);
    }

    /// Writes a proven tile. Not durable before [`Group::sync`].
    pub(super) fn write(&self, slot: u64, bytes: &[u8], record: &Record) -> io::Result<()> {
        // The bytes first. If only the record survives a crash, the digest tells; if only the bytes
        // do, the slot reads as vacant.
        self.tiles
            .write_all_at(bytes, slot * FULL_TILE_BYTES as u64)?;
        self.meta
            .write_all_at(&record.encode(), slot * RECORD_BYTES as u64)?;
        self.mark_proven(slot, record.digest);
        Ok(())
    }

    /// Makes a slot read as vacant.
    pub(super) fn forget(&self, slot: u64) -> io::Result<()> {
        self.proven().remove(&slot);
        self.meta
            .write_all_at(&[0; RECORD_BYTES], slot * RECORD_BYTES as u64)
    }

    /// Brings bytes, then records, to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.tiles.sync_data()?;
        self.meta.sync_data()
    }

    fn proven(&self) -> MutexGuard<'_, HashMap<u64, Hash>> {
        // Each change is one whole entry, so a poisoned map is still a sound one.
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The groups of one log, the recently used ones open.
#[derive(Debug)]
pub struct Groups {
    directory: PathBuf,
    /// What groups that exist are opened for.
    access: Access,
    open: Recent<(u8, u64), Arc<Group>>,
}

impl Groups {
    /// The groups below a log's directory.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            access: Access::Write,
            open: Recent::new(OPEN_GROUPS),
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
        self.get(level, index, self.access)
    }

    /// As [`Groups::find`], and creates the group.
    pub(super) fn find_or_create(&self, level: u8, index: u64) -> io::Result<(Arc<Group>, u64)> {
        self.get(level, index, Access::Create)?
            .ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Directory of one level's groups.
    pub(super) fn level_directory(&self, level: u8) -> PathBuf {
        self.directory.join(level.to_string())
    }

    fn get(&self, level: u8, index: u64, access: Access) -> io::Result<Option<(Arc<Group>, u64)>> {
        let (group, slot) = (index / GROUP_SLOTS, index % GROUP_SLOTS);
        if let Some(open) = self.open.get(&(level, group)) {
            return Ok(Some((open, slot)));
        }
        let Some(opened) = Group::open(&self.level_directory(level), group, access)? else {
            return Ok(None);
        };
        // Two at once may both open it; the files are the same, so either may stay.
        let opened = Arc::new(opened);
        self.open.insert((level, group), Arc::clone(&opened));
        Ok(Some((opened, slot)))
    }
}

/// How many tiles a group's records say are stored. Reads 64 KiB.
pub(super) fn count_records(meta: &Path) -> io::Result<u64> {
    let records = fs::read(meta)?;
    let records = records.as_chunks::<RECORD_BYTES>().0;
    Ok(records
        .iter()
        .filter(|record| Record::decode(record).is_some())
        .count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            upstream: 3,
            cached_at: 1_795_437_213_000,
            tree_size: 70_000,
            digest: Hash::of(&[7; FULL_TILE_BYTES]),
        }
    }

    #[test]
    fn a_record_with_any_bit_flipped_is_none() {
        let good = record().encode();
        assert_eq!(Record::decode(&good), Some(record()));
        assert_eq!(Record::decode(&[0; RECORD_BYTES]), None);
        for bit in 0..RECORD_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&bad), None, "bit {bit}");
        }
    }

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
            count_records(&directory.path().join("0/0.meta")).expect("readable"),
            1
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
            let rotten = OpenOptions::new()
                .write(true)
                .open(directory.path().join("1").join(file))
                .expect("exists");
            rotten.write_all_at(&[8], 30).expect("written");
            assert!(matches!(group.read(slot), Ok(Slot::Corrupt)), "{file}");
            group.forget(slot).expect("written");
            assert!(matches!(group.read(slot), Ok(Slot::Vacant)), "{file}");
        }
    }
}

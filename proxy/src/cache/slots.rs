//! Full tiles in group files: 1,024 slots of 8,192 bytes, and a record of 64 bytes for each.
//!
//! A default ext4 volume has an inode for every 16 KiB, so two files a tile would run out of inodes
//! long before bytes. A slot is written before its record, and neither is trusted when read: the
//! record has a checksum, the slot must have the record's digest, and what a file says is only
//! served once the tree proves it. A torn or lost write is therefore a miss, never a wrong answer.

use std::{
    collections::HashMap,
    fs,
    io::{self, ErrorKind, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

pub use super::record::Record;
use super::{
    disk::{self, Access, DiskFile, ReadNow},
    record::RECORD_BYTES,
};
use crate::tlog::{Hash, tile::FULL_TILE_BYTES};

/// Slots of a group. Full tile `n` of a level lives in group `n / 1,024` at slot `n % 1,024`.
pub const GROUP_SLOTS: u64 = 1_024;

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

/// 1,024 neighbouring full tiles of one level.
#[derive(Debug)]
pub struct Group {
    tiles: DiskFile,
    meta: DiskFile,
    /// Digests of the slots that the tree has proven since the group was opened. Kept here and not
    /// read again, since whoever writes to the disk can write records too. Lost when the group is
    /// closed, which costs one more proof.
    proven: Mutex<HashMap<u64, Hash>>,
}

impl Group {
    /// Opens a group. `None` if it does not exist and is not to be created.
    pub(super) fn open(directory: &Path, group: u64, access: Access) -> io::Result<Option<Self>> {
        let create = access == Access::Create;
        let open = |extension: &str, length: u64| -> io::Result<DiskFile> {
            let path = directory.join(format!("{group}.{extension}"));
            let file = DiskFile::open(&path, access)?;
            if access != Access::Read && file.metadata()?.len() < length {
                file.set_len(length)?; // sparse: takes no blocks yet
            }
            Ok(file)
        };
        if create {
            disk::create_directories(directory)?;
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
        let mut record = self.read_record(slot)?;
        loop {
            let mut bytes = vec![0; FULL_TILE_BYTES];
            if Record::decode(&record).is_some() {
                read_or_zeros(&self.tiles, &mut bytes, slot * FULL_TILE_BYTES as u64)?;
            }
            let read = self.judge(slot, &record, bytes);
            if !matches!(read, Slot::Corrupt) {
                return Ok(read);
            }
            // Not damage if it was written or given up between the two reads.
            let again = self.read_record(slot)?;
            if again == record {
                return Ok(read);
            }
            record = again;
        }
    }

    /// As [`Group::read`] for a tile that is in the page cache and was proven before; `None` for
    /// anything else. Never waits for the disk.
    pub(super) fn read_now(&self, slot: u64, supported: &AtomicBool) -> Option<Slot> {
        let now = |file: &DiskFile, buffer: &mut [u8], offset| match file.read_now(buffer, offset) {
            ReadNow::Done => Some(()),
            ReadNow::WouldWait => None,
            ReadNow::Unsupported => {
                supported.store(false, Ordering::Relaxed);
                None
            }
        };
        // Asked first: what still needs its proof takes the other way in any case.
        let proven = *self.proven().get(&slot)?;
        let mut record = [0; RECORD_BYTES];
        now(&self.meta, &mut record, slot * RECORD_BYTES as u64)?;
        if Record::decode(&record)?.digest != proven {
            return None;
        }
        let mut bytes = vec![0; FULL_TILE_BYTES];
        now(&self.tiles, &mut bytes, slot * FULL_TILE_BYTES as u64)?;
        match self.judge(slot, &record, bytes) {
            // Read again in the ordinary way before anything is called damaged.
            Slot::Corrupt | Slot::Vacant => None,
            stored @ Slot::Stored { .. } => Some(stored),
        }
    }

    /// What a record and the bytes beside it are.
    fn judge(&self, slot: u64, record: &[u8; RECORD_BYTES], bytes: Vec<u8>) -> Slot {
        if *record == [0; RECORD_BYTES] {
            return Slot::Vacant;
        }
        match Record::decode(record) {
            Some(record) if Hash::of(&bytes) == record.digest => Slot::Stored {
                proven: self.proven().get(&slot) == Some(&record.digest),
                bytes: bytes.into(),
                record,
            },
            _ => Slot::Corrupt,
        }
    }

    fn read_record(&self, slot: u64) -> io::Result<[u8; RECORD_BYTES]> {
        let mut record = [0; RECORD_BYTES];
        read_or_zeros(&self.meta, &mut record, slot * RECORD_BYTES as u64)?;
        Ok(record)
    }

    /// Remembers that the tree has proven the tile of this slot, by its digest.
    pub fn mark_proven(&self, slot: u64, digest: Hash) {
        self.proven().insert(slot, digest);
    }

    /// Writes a proven tile. Not durable before [`Group::sync`]. Returns whether the slot held none
    /// before.
    pub(super) fn write(&self, slot: u64, bytes: &[u8], record: &Record) -> io::Result<bool> {
        let vacant = Record::decode(&self.read_record(slot)?).is_none();
        // The bytes first. If only the record survives a crash, the digest tells; if only the bytes
        // do, the slot reads as vacant.
        self.tiles
            .write_all_at(bytes, slot * FULL_TILE_BYTES as u64)?;
        self.meta
            .write_all_at(&record.encode(), slot * RECORD_BYTES as u64)?;
        self.mark_proven(slot, record.digest);
        Ok(vacant)
    }

    /// Makes a slot read as vacant.
    pub(super) fn forget(&self, slot: u64) -> io::Result<()> {
        self.proven().remove(&slot);
        self.meta
            .write_all_at(&[0; RECORD_BYTES], slot * RECORD_BYTES as u64)
    }

    /// Gives back the blocks of slots that were forgotten.
    ///
    /// Their records must be durably gone: were a power loss to keep a record and lose the bytes,
    /// the slot would be counted as damage.
    pub(super) fn punch(&self, slots: &[u64]) -> io::Result<()> {
        self.meta.sync_data()?;
        for slot in slots {
            self.tiles
                .punch(slot * FULL_TILE_BYTES as u64, FULL_TILE_BYTES as u64)?;
        }
        Ok(())
    }

    /// Brings bytes, then records, to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.tiles.sync_data()?;
        self.meta.sync_data()
    }

    /// Bytes that the two files take on the disk.
    pub(super) fn allocated(&self) -> io::Result<u64> {
        Ok(disk::allocated(&self.tiles.metadata()?) + disk::allocated(&self.meta.metadata()?))
    }

    /// The stored tiles of this group, as far as its records say. Reads 64 KiB.
    pub(super) fn records(&self) -> io::Result<Vec<(u64, Record)>> {
        let mut meta = vec![0; GROUP_SLOTS as usize * RECORD_BYTES];
        read_or_zeros(&self.meta, &mut meta, 0)?;
        Ok(decode_all(&meta).collect())
    }

    /// Whether the group's files still have their names.
    pub(super) fn is_linked(&self) -> io::Result<bool> {
        Ok(self.tiles.metadata()?.nlink() > 0 && self.meta.metadata()?.nlink() > 0)
    }

    pub(super) fn proven(&self) -> MutexGuard<'_, HashMap<u64, Hash>> {
        // Each change is one whole entry, so a poisoned map is still a sound one.
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stored tiles that a file of records speaks of. Reads 64 KiB; what is beyond is not ours.
pub(super) fn read_records(meta: &Path) -> io::Result<Vec<(u64, Record)>> {
    let mut records = Vec::new();
    let length = GROUP_SLOTS * RECORD_BYTES as u64;
    fs::File::open(meta)?
        .take(length)
        .read_to_end(&mut records)?;
    Ok(decode_all(&records).collect())
}

/// Reads a range; zeros if the file ends before it does, as it may while another process creates it.
fn read_or_zeros(file: &DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match file.read_exact_at(buffer, offset) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            buffer.fill(0);
            Ok(())
        }
        read => read,
    }
}

/// The records that are whole, with their slots.
fn decode_all(meta: &[u8]) -> impl Iterator<Item = (u64, Record)> {
    let records = meta
        .as_chunks::<RECORD_BYTES>()
        .0
        .iter()
        .map(Record::decode);
    (0..)
        .zip(records)
        .filter_map(|(slot, record)| Some((slot, record?)))
}

//! A disk after a power loss.
//!
//! Harsher than any real file system, so that what survives here survives everywhere. Of what was
//! written to a file and not synced, each sector of 512 or 4,096 bytes is there or not, whatever was
//! written before or after it; the length is any it had; a sector that was never written may hold
//! anything. Of the names in a directory that was not synced, each that came, went or changed may
//! have done so or not; only a rename happens whole or not at all.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use crate::cache::disk::record::Op;

/// Smallest piece that a disk writes whole.
const SECTOR: usize = 512;

/// Random numbers that are the same for the same seed, on every machine (SplitMix64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A change of a file's content that is not synced.
#[derive(Clone)]
enum Change {
    SetLen(u64),
    /// Zeros that take no blocks.
    Punch(u64, u64),
    Write(u64, Vec<u8>),
}

#[derive(Clone, Default)]
struct Content {
    length: u64,
    sectors: BTreeMap<u64, [u8; SECTOR]>,
}

impl Content {
    fn apply(&mut self, change: &Change) {
        for sector in change.sectors(self.length) {
            self.apply_to(sector, change);
        }
        self.length = change.length_after(self.length);
    }

    fn apply_to(&mut self, sector: u64, change: &Change) {
        let start = sector * SECTOR as u64;
        match change {
            Change::SetLen(length) => {
                if let Some(bytes) = self.sectors.get_mut(&sector) {
                    let keep = usize::try_from(length.saturating_sub(start)).unwrap_or(SECTOR);
                    bytes[keep.min(SECTOR)..].fill(0);
                }
            }
            Change::Punch(..) => drop(self.sectors.remove(&sector)),
            Change::Write(offset, written) => {
                let bytes = self.sectors.entry(sector).or_insert([0; SECTOR]);
                for (at, byte) in bytes.iter_mut().enumerate() {
                    let from = (start + at as u64).checked_sub(*offset);
                    let new = from.and_then(|from| written.get(usize::try_from(from).ok()?));
                    *byte = new.copied().unwrap_or(*byte);
                }
            }
        }
    }
}

impl Change {
    /// Sectors that it touches in a file of this length.
    fn sectors(&self, length: u64) -> std::ops::Range<u64> {
        let (start, end) = match self {
            Self::SetLen(new) => (*new, length.max(*new).min(*new + (1 << 20))),
            Self::Punch(offset, length) => (*offset, offset + length),
            Self::Write(offset, bytes) => (*offset, offset + bytes.len() as u64),
        };
        start / SECTOR as u64..end.div_ceil(SECTOR as u64)
    }

    fn length_after(&self, length: u64) -> u64 {
        match self {
            Self::SetLen(length) => *length,
            Self::Punch(..) => length,
            Self::Write(offset, bytes) => length.max(offset + bytes.len() as u64),
        }
    }
}

/// A file; a directory is one without content.
#[derive(Default)]
struct Inode {
    directory: bool,
    synced: Content,
    pending: Vec<Change>,
}

/// A change of names that is not synced.
#[derive(Clone)]
enum Naming {
    Add(PathBuf, usize),
    Remove(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
}

#[derive(Default)]
struct Disk {
    inodes: Vec<Inode>,
    /// As a running process sees them.
    names: HashMap<PathBuf, usize>,
    /// As the disk has them.
    durable: BTreeMap<PathBuf, usize>,
    /// By directory.
    pending: BTreeMap<PathBuf, Vec<Naming>>,
    handles: HashMap<u64, usize>,
}

/// Makes the files under `target` that a power loss may leave after these operations below `base`.
pub(super) fn survive(ops: &[Op], base: &Path, target: &Path, random: &mut Random) {
    let mut disk = Disk::default();
    for op in ops {
        disk.run(op, base);
    }
    disk.lose_power(random);
    disk.write_to(base, target);
}

impl Disk {
    fn run(&mut self, op: &Op, base: &Path) {
        match op {
            Op::CreateDirectories(path) => {
                let mut missing: Vec<&Path> = path
                    .ancestors()
                    .take_while(|above| *above != base)
                    .filter(|above| !self.names.contains_key(*above))
                    .collect();
                missing.reverse();
                for path in missing {
                    self.create(path, true);
                }
            }
            Op::Open {
                handle,
                path,
                truncate,
            } => {
                let known = self.names.get(path).copied();
                let inode = known.unwrap_or_else(|| self.create(path, false));
                if *truncate {
                    self.inodes[inode].pending.push(Change::SetLen(0));
                }
                self.handles.insert(*handle, inode);
            }
            Op::Mark(_) => {}
            Op::Punch {
                handle,
                offset,
                length,
            } => self.change(*handle, Change::Punch(*offset, *length)),
            Op::Remove(path) => {
                let inode = self.names.remove(path).expect("it was there");
                self.naming(path, Naming::Remove(path.clone(), inode));
            }
            Op::Rename(from, to) => {
                let inode = self.names.remove(from).expect("it was there");
                self.names.insert(to.clone(), inode);
                self.naming(to, Naming::Rename(from.clone(), to.clone(), inode));
            }
            Op::SetLen { handle, length } => self.change(*handle, Change::SetLen(*length)),
            Op::SyncData { handle } => {
                let inode = &mut self.inodes[self.handles[handle]];
                for change in std::mem::take(&mut inode.pending) {
                    inode.synced.apply(&change);
                }
            }
            Op::SyncDirectory(path) => {
                for naming in self.pending.remove(path).unwrap_or_default() {
                    apply(&mut self.durable, naming);
                }
            }
            Op::Write {
                handle,
                offset,
                bytes,
            } => self.change(*handle, Change::Write(*offset, bytes.clone())),
        }
    }

    fn create(&mut self, path: &Path, directory: bool) -> usize {
        let inode = self.inodes.len();
        self.inodes.push(Inode {
            directory,
            ..Inode::default()
        });
        self.names.insert(path.to_owned(), inode);
        self.naming(path, Naming::Add(path.to_owned(), inode));
        inode
    }

    fn change(&mut self, handle: u64, change: Change) {
        self.inodes[self.handles[&handle]].pending.push(change);
    }

    fn naming(&mut self, path: &Path, naming: Naming) {
        let directory = path.parent().expect("below the base").to_owned();
        self.pending.entry(directory).or_default().push(naming);
    }

    fn lose_power(&mut self, random: &mut Random) {
        // How much of what was under way is kept: nothing and everything are the likeliest.
        let kept = [0, 10, 50, 90, 100][random.below(5) as usize];
        for namings in std::mem::take(&mut self.pending).into_values() {
            for naming in namings {
                if random.chance(kept) {
                    apply(&mut self.durable, naming);
                }
            }
        }
        let sectors_at_once = [1, 8][random.below(2) as usize];
        let garbage = random.chance(25);
        let kept = [0, 10, 50, 90, 100][random.below(5) as usize];
        for inode in &mut self.inodes {
            inode.lose_power(random, sectors_at_once, garbage, kept);
        }
    }

    fn write_to(&self, base: &Path, target: &Path) {
        for (path, inode) in &self.durable {
            // What lies in a directory that is not there is not there either.
            let reachable = path
                .ancestors()
                .skip(1)
                .take_while(|above| *above != base)
                .all(|above| {
                    self.durable
                        .get(above)
                        .is_some_and(|i| self.inodes[*i].directory)
                });
            if !reachable {
                continue;
            }
            let inode = &self.inodes[*inode];
            let path = target.join(path.strip_prefix(base).expect("below the base"));
            if inode.directory {
                fs::create_dir_all(path).expect("made");
                continue;
            }
            let file = File::create(path).expect("created");
            for (sector, bytes) in &inode.synced.sectors {
                let written = file.write_all_at(bytes, sector * SECTOR as u64);
                written.expect("written");
            }
            file.set_len(inode.synced.length).expect("set");
        }
    }
}

impl Inode {
    /// Leaves as synced content what a loss may leave of it.
    fn lose_power(&mut self, random: &mut Random, at_once: u64, garbage: bool, kept: u64) {
        let changes = std::mem::take(&mut self.pending);
        let mut length = self.synced.length;
        let mut lengths = vec![length];
        let mut touched: BTreeMap<u64, Vec<&Change>> = BTreeMap::new();
        for change in &changes {
            for sector in change.sectors(length) {
                touched.entry(sector).or_default().push(change);
            }
            length = change.length_after(length);
            lengths.push(length);
        }
        // One decision for as many sectors as reach the disk together.
        let mut decided: Option<(u64, bool, u64)> = None;
        for (sector, changes) in touched {
            let group = sector / at_once;
            let (_, all, some) = match decided {
                Some(before) if before.0 == group => before,
                _ => (group, random.chance(kept), random.next()),
            };
            decided = Some((group, all, some));
            // Any state that it had since the last sync may be the one that reached the disk.
            let count = match all {
                true => changes.len(),
                false => (some % changes.len() as u64) as usize,
            };
            if count == 0 && garbage && !self.synced.sectors.contains_key(&sector) {
                let mut noise = [0; SECTOR];
                noise.fill_with(|| random.next() as u8);
                self.synced.sectors.insert(sector, noise); // blocks that were somebody else's
            }
            for change in &changes[..count] {
                self.synced.apply_to(sector, change);
            }
        }
        self.synced.length = match random.chance(kept) {
            true => length,
            false => lengths[random.below(lengths.len() as u64) as usize],
        };
    }
}

/// Each by itself: an operation before it may be lost.
fn apply(names: &mut BTreeMap<PathBuf, usize>, naming: Naming) {
    let remove = |names: &mut BTreeMap<PathBuf, usize>, path: &Path, inode: usize| {
        if names.get(path) == Some(&inode) {
            names.remove(path);
        }
    };
    match naming {
        Naming::Add(path, inode) => drop(names.insert(path, inode)),
        Naming::Remove(path, inode) => remove(names, &path, inode),
        Naming::Rename(from, to, inode) => {
            remove(names, &from, inode);
            names.insert(to, inode);
        }
    }
}

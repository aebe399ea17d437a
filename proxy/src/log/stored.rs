//! What a cache holds of a log, proven again from the trusted checkpoint down: for those who carry
//! it elsewhere or check it. Blocks on the disk; nothing here waits for a network or writes.
//!
//! The disk is untrusted and may be written meanwhile. The tree is chosen first and does not change;
//! tiles and bundles only come to it, so what is found in it later is the same or more. A tile is
//! given out when its proven parent has its root, whoever wrote it and whenever.

use std::{io, sync::Arc, time::SystemTime};

use bytes::{Bytes, BytesMut};
use quick_cache::sync::Cache as Recent;

use super::{
    Trusted,
    restore::Restored,
    verify::{VerifiedBundle, VerifiedTile},
};
use crate::{
    cache::{
        LogStore,
        slots::{Record, Slot},
    },
    note::checkpoint::Checkpoint,
    tlog::{
        Hash, bundle,
        consistency::{prefix_root, spine},
        path::Bundle,
        tile::{FULL_WIDTH, Tile, width_in},
    },
    trust::Trust,
};

/// Proven tiles kept, 8 KiB each: 4 MiB. A group of 1,024 tiles has four parents, and their
/// ancestors; a bundle is looked at after its tile.
const RECENT: usize = 512;

/// How often a slot or a name that another process is writing is looked at again.
const LOOKS: usize = 3;

/// Whether a known key signed something that is stored for this log: how an origin that nobody
/// configured is told from those of other logs in the same cache.
///
/// # Errors
/// When a stored checkpoint cannot be read.
pub fn is_known(store: &LogStore, trust: &Trust) -> io::Result<bool> {
    let stored = store.files.read_checkpoints()?;
    let ours = |stored| Restored::new(stored, store.origin(), trust);
    Ok(stored
        .iter()
        .filter_map(ours)
        .any(|restored| restored.verified))
}

/// A stored checkpoint, looked at again.
#[derive(Clone, Debug)]
pub struct StoredNote {
    /// The tree size that it is stored under.
    pub named: u64,
    /// What it says; `None` if it is not a checkpoint of this log, or of another size.
    pub checkpoint: Option<Checkpoint>,
    /// Its bytes.
    pub note: Bytes,
    /// Whether a known key signed it.
    pub verified: bool,
    /// Whether its edge tiles fold to its root; `None` if they are not there.
    pub edge_folds: Option<bool>,
}

/// Every stored checkpoint, largest first, each by itself: whether they agree, [`Stored::agrees`]
/// says.
///
/// # Errors
/// When one cannot be read.
pub fn stored_notes(store: &LogStore, trust: &Trust) -> io::Result<Vec<StoredNote>> {
    let sizes = store.files.checkpoint_sizes()?.into_iter().rev();
    sizes
        .map(|named| {
            let stored = store.files.read_checkpoint(named);
            let restored = Restored::new(&stored, store.origin(), trust)
                .filter(|restored| restored.checkpoint.size == named);
            let has_edge = !stored.edge.is_empty() || named == 0;
            Ok(StoredNote {
                named,
                edge_folds: has_edge.then(|| restored.as_ref().is_some_and(|r| r.edge.is_some())),
                verified: restored.as_ref().is_some_and(|r| r.verified),
                checkpoint: restored.map(|restored| restored.checkpoint),
                note: stored.note,
            })
        })
        .collect()
}

/// How a stored resource was found.
#[derive(Clone, Debug)]
pub enum Found<T> {
    /// Not stored.
    Absent,
    /// It is not what the tree has, or cannot be read. Says why.
    Damaged(String),
    /// In the tree.
    Proven(T),
    /// What would prove it is not stored, or the tree does not reach it.
    Unprovable,
}

/// A log's part of a cache, and the tree that everything in it is held against.
pub struct Stored {
    store: Arc<LogStore>,
    floor: Option<(Checkpoint, Bytes)>,
    stored_at: Option<SystemTime>,
    tree: Option<Trusted>,
    /// Proven tiles, for what is proven by them.
    recent: Recent<(u8, u64), Bytes>,
}

impl Stored {
    /// What is stored, held against the largest stored checkpoint, as a proxy does when it starts.
    ///
    /// # Errors
    /// When a stored checkpoint cannot be read.
    pub fn open(store: Arc<LogStore>, trust: &Trust) -> io::Result<Self> {
        for size in store.files.checkpoint_sizes()?.into_iter().rev() {
            let stored = store.files.read_checkpoint(size);
            let Some(restored) = Restored::new(&stored, store.origin(), trust) else {
                continue; // not a checkpoint of this log
            };
            let Restored {
                checkpoint,
                note,
                edge,
                verified,
            } = restored;
            let floor = Some((checkpoint.clone(), note.clone()));
            let tree = edge.filter(|_| verified).map(|edge| Trusted {
                checkpoint,
                note,
                edge,
            });
            return Ok(Self {
                stored_at: stored.stored_at,
                ..Self::new(store, floor, tree)
            });
        }
        Ok(Self::new(store, None, None))
    }

    /// What is stored, held against another tree than the stored one.
    pub fn against(store: Arc<LogStore>, tree: Trusted) -> Self {
        let floor = Some((tree.checkpoint.clone(), tree.note.clone()));
        Self::new(store, floor, Some(tree))
    }

    fn new(
        store: Arc<LogStore>,
        floor: Option<(Checkpoint, Bytes)>,
        tree: Option<Trusted>,
    ) -> Self {
        Self {
            store,
            floor,
            stored_at: None,
            tree,
            recent: Recent::new(RECENT),
        }
    }

    /// The largest stored checkpoint and its note, which every other one is held against; `None`
    /// where nothing is stored.
    pub fn floor(&self) -> Option<&(Checkpoint, Bytes)> {
        self.floor.as_ref()
    }

    /// The floor's tree; `None` if no known key signed it, or its edge tiles do not fold to its
    /// root. Then nothing can be proven, and nothing smaller takes its place.
    pub fn tree(&self) -> Option<&Trusted> {
        self.tree.as_ref()
    }

    /// When the floor was stored; `None` if nobody knows.
    pub fn stored_at(&self) -> Option<SystemTime> {
        self.stored_at
    }

    /// Number of entries in the tree; 0 without one.
    pub fn size(&self) -> u64 {
        self.tree.as_ref().map_or(0, |tree| tree.checkpoint.size)
    }

    /// The log's part of the cache.
    pub fn store(&self) -> &Arc<LogStore> {
        &self.store
    }

    /// What the tree has for a full tile's own root; `None` if the tree does not reach it, or what
    /// would prove it is not stored.
    ///
    /// Costs at most one read and one proof a level above.
    pub fn root_of(&self, level: u8, index: u64) -> Option<Hash> {
        if width_in(level, index, self.size()) < FULL_WIDTH {
            return None;
        }
        let (parent_level, parent_index, slot) =
            Tile::new(level, index, FULL_WIDTH)?.parent_slot()?;
        let parent = self.proven_bytes(parent_level, parent_index)?;
        Hash::chunks(&parent).nth(usize::from(slot))
    }

    /// The root of the first `old` entries, as far as what is stored proves it.
    pub fn prefix_root(&self, old: u64) -> Option<Hash> {
        let spine: Option<Vec<(Tile, Bytes)>> = spine(old, self.size())
            .into_iter()
            .map(|tile| Some((tile, self.proven_bytes(tile.level(), tile.index())?)))
            .collect();
        prefix_root(old, &spine?)
    }

    /// Whether another checkpoint of this log is a prefix of this tree; `None` if what is stored
    /// cannot tell, or it is larger.
    pub fn agrees(&self, other: &Checkpoint) -> Option<bool> {
        Some(self.prefix_root(other.size)? == other.root)
    }

    /// The stored full tile at these coordinates.
    pub fn tile(&self, level: u8, index: u64) -> Found<VerifiedTile> {
        match self.recorded_tile(level, index) {
            Found::Absent => Found::Absent,
            Found::Damaged(why) => Found::Damaged(why),
            Found::Proven((tile, _)) => Found::Proven(tile),
            Found::Unprovable => Found::Unprovable,
        }
    }

    /// As [`Stored::tile`], with what is known about it. Nothing in a record is proven.
    pub fn recorded_tile(&self, level: u8, index: u64) -> Found<(VerifiedTile, Record)> {
        let (bytes, record) = match self.read_slot(level, index) {
            Ok(Slot::Stored { bytes, record, .. }) => (bytes, record),
            Ok(Slot::Corrupt) => {
                return Found::Damaged("its bytes and record disagree".to_owned());
            }
            Ok(Slot::Vacant) => return Found::Absent,
            Err(error) => return Found::Damaged(error.to_string()),
        };
        let Some(root) = self.root_of(level, index) else {
            return Found::Unprovable;
        };
        match VerifiedTile::prove(level, index, bytes, root) {
            Ok(tile) => {
                self.recent.insert((level, index), tile.bytes().clone());
                Found::Proven((tile, record))
            }
            Err(error) => Found::Damaged(error.to_string()),
        }
    }

    /// What is stored as a full tile at these coordinates; only its digest was checked.
    pub fn unproven_tile(&self, level: u8, index: u64) -> Option<Bytes> {
        match self.read_slot(level, index) {
            Ok(Slot::Stored { bytes, .. }) => Some(bytes),
            Ok(Slot::Corrupt | Slot::Vacant) | Err(_) => None,
        }
    }

    /// Keeps a tile that was proven in this tree, for those that are proven by it.
    pub fn remember(&self, tile: &VerifiedTile) {
        let key = (tile.tile().level(), tile.tile().index());
        self.recent.insert(key, tile.bytes().clone());
    }

    /// The stored bundle of exactly this width, or as much of it as the tree reaches.
    pub fn bundle(&self, wanted: Bundle) -> Found<VerifiedBundle> {
        let (found, bytes) = match self.store.files.read_bundle(wanted) {
            Ok(Some(found)) => found,
            Ok(None) => return Found::Absent,
            Err(error) => return Found::Damaged(error.to_string()),
        };
        self.prove_bundle(found, &bytes)
    }

    /// Proves bytes that are said to be a bundle; what is above the tree is cut off.
    pub fn prove_bundle(&self, bundle: Bundle, bytes: &Bytes) -> Found<VerifiedBundle> {
        let index = bundle.index();
        let reach = width_in(0, index, self.size()).min(bundle.width());
        let Some(within) = bundle.with_width(reach) else {
            return Found::Unprovable; // outside the tree
        };
        let leaves = match self.proven_bytes(0, index) {
            Some(leaves) => leaves,
            // The tile is not stored; but a full bundle has all that is in it.
            None if within.is_full() => {
                let Some(root) = self.root_of(0, index) else {
                    return Found::Unprovable;
                };
                let leaves = bundle::leaf_hashes(bytes).unwrap_or_default();
                let leaves: BytesMut = leaves.iter().flat_map(|hash| hash.0).collect();
                match VerifiedTile::prove(0, index, leaves.freeze(), root) {
                    Ok(tile) => tile.bytes().clone(),
                    Err(error) => return Found::Damaged(error.to_string()),
                }
            }
            None => return Found::Unprovable,
        };
        match VerifiedBundle::prove(within, bytes, &leaves) {
            Ok(bundle) => Found::Proven(bundle),
            Err(error) => Found::Damaged(error.to_string()),
        }
    }

    /// A tile as wide as the tree has it, proven; `None` if that cannot be had from what is stored.
    fn proven_bytes(&self, level: u8, index: u64) -> Option<Bytes> {
        if let Some(edge) = self.tree.as_ref()?.edge.at(level, index) {
            return Some(edge.clone());
        }
        if let Some(bytes) = self.recent.get(&(level, index)) {
            return Some(bytes);
        }
        match self.tile(level, index) {
            Found::Proven(tile) => Some(tile.bytes().clone()),
            Found::Absent | Found::Damaged(_) | Found::Unprovable => None,
        }
    }

    fn read_slot(&self, level: u8, index: u64) -> io::Result<Slot> {
        let mut slot = Ok(Slot::Vacant);
        for _ in 0..LOOKS {
            slot =
                self.store.groups.find(level, index).and_then(|found| {
                    found.map_or(Ok(Slot::Vacant), |(group, slot)| group.read(slot))
                });
            // Bytes and record are two writes; between them, they disagree for a moment.
            if !matches!(slot, Ok(Slot::Corrupt)) {
                break;
            }
            std::thread::yield_now();
        }
        slot
    }
}

//! One shard of a log: what is trusted of its tree, and what it must never fall behind.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tracing::warn;

use super::api::TreeId;
use crate::{
    cache::{LogStore, files::StoredCheckpoint},
    note::{self, checkpoint::Checkpoint},
    tlog::Hash,
    trust::Trust,
};

/// Trees of the shard's history that are remembered, so that the log need not prove them again for each
/// entry. A log that grows by one tree a second is remembered for two minutes.
const POINTS: usize = 128;

/// A tree that a known key signed.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Origin, size and root.
    pub checkpoint: Checkpoint,
    /// The signed note, byte for byte.
    pub note: Bytes,
}

/// One shard.
pub struct Shard {
    tree: TreeId,
    store: Arc<LogStore>,
    trusted: ArcSwapOption<Signed>,
    /// The largest that was ever trusted: it outlives the key that signed it.
    floor: ArcSwapOption<Signed>,
    /// Size of the largest checkpoint that was ever stored, also if it cannot be read any more.
    least: AtomicU64,
    points: Mutex<VecDeque<(u64, Hash)>>,
}

impl Shard {
    /// The shard as the cache knows it.
    ///
    /// # Errors
    /// When what is stored cannot be listed.
    pub(super) fn restore(tree: TreeId, store: Arc<LogStore>, trust: &Trust) -> io::Result<Self> {
        let shard = Self {
            tree,
            store,
            trusted: ArcSwapOption::empty(),
            floor: ArcSwapOption::empty(),
            least: AtomicU64::new(0),
            points: Mutex::default(),
        };
        shard.take_up(trust)?;
        Ok(shard)
    }

    /// Takes up the largest stored checkpoint: as the floor in any case, and to be served if a known key
    /// signed it. One that is damaged is not replaced by an older one: that would be a step back.
    pub(super) fn take_up(&self, trust: &Trust) -> io::Result<()> {
        let sizes = self.store.files.checkpoint_sizes()?;
        let largest = sizes.last().copied().unwrap_or_default();
        self.least.store(largest, Ordering::Relaxed);
        let mut trusted = None;
        for size in sizes.iter().rev() {
            let stored = self.store.files.read_checkpoint(*size);
            let Some((signed, verified)) = reopen(&stored, self.store.origin(), *size, trust)
            else {
                warn!(
                    origin = self.store.origin(),
                    size, "a stored checkpoint is damaged; none smaller is accepted"
                );
                continue;
            };
            let signed = Arc::new(signed);
            self.floor.store(Some(Arc::clone(&signed)));
            if verified && *size == largest {
                self.add_point(&signed.checkpoint);
                trusted = Some(signed);
            }
            break;
        }
        self.trusted.store(trusted);
        Ok(())
    }

    /// Its number.
    pub fn tree(&self) -> TreeId {
        self.tree
    }

    /// Its part of the cache.
    pub fn store(&self) -> &Arc<LogStore> {
        &self.store
    }

    /// The tree that is served now.
    pub fn trusted(&self) -> Option<Arc<Signed>> {
        self.trusted.load_full()
    }

    pub(super) fn floor(&self) -> Option<Arc<Signed>> {
        self.floor.load_full()
    }

    /// Whether a tree as small as this would be a step back, although no larger one can be read.
    pub(super) fn is_below_least(&self, size: u64) -> bool {
        let floor = self.floor.load();
        let floor = floor.as_ref().map_or(0, |floor| floor.checkpoint.size);
        let least = self.least.load(Ordering::Relaxed);
        size < least && floor < least
    }

    /// When what is served was stored.
    pub(super) fn stored_at(&self) -> Option<SystemTime> {
        let size = self.trusted()?.checkpoint.size;
        self.store.files.read_checkpoint(size).stored_at
    }

    /// Serves a tree from now on; it is durable.
    pub(super) fn serve(&self, signed: Signed) {
        self.add_point(&signed.checkpoint);
        let signed = Arc::new(signed);
        self.floor.store(Some(Arc::clone(&signed)));
        self.trusted.store(Some(signed));
    }

    /// Whether this tree is known to be of the history that is followed.
    pub(super) fn has_point(&self, checkpoint: &Checkpoint) -> bool {
        let point = (checkpoint.size, checkpoint.root);
        self.points().contains(&point)
    }

    /// Remembers a tree that was proven to be of that history.
    pub(super) fn add_point(&self, checkpoint: &Checkpoint) {
        let point = (checkpoint.size, checkpoint.root);
        let mut points = self.points();
        if !points.contains(&point) {
            points.truncate(POINTS - 1);
            points.push_front(point);
        }
    }

    fn points(&self) -> std::sync::MutexGuard<'_, VecDeque<(u64, Hash)>> {
        // Whatever is in it was proven.
        self.points.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a signed tree is stored. There are no edge tiles; in their place stands the digest of the note,
/// which tells a note whose key was withdrawn from one that has rotted.
pub(super) fn to_store(note: &Bytes) -> StoredCheckpoint {
    StoredCheckpoint {
        note: note.clone(),
        edge: Bytes::copy_from_slice(&Hash::of(note).0),
        stored_at: None,
    }
}

/// Whether a stored checkpoint is of a shard, and has no tiles.
pub fn is_of_shard(stored: &StoredCheckpoint) -> bool {
    stored.edge[..] == Hash::of(&stored.note).0
}

/// A stored checkpoint of this origin and size, and whether a known key signed it. `None` if it is
/// another one, or if neither a key nor its digest vouches for its being as it was written.
pub fn reopen(
    stored: &StoredCheckpoint,
    origin: &str,
    size: u64,
    trust: &Trust,
) -> Option<(Signed, bool)> {
    let (text, verified) = match trust.open(&stored.note) {
        Ok(text) => (text, true),
        Err(_) => (note::text_unverified(&stored.note).ok()?, false),
    };
    let checkpoint = Checkpoint::parse(text).ok()?;
    let intact = is_of_shard(stored);
    let is_it = checkpoint.origin == origin && checkpoint.size == size;
    (is_it && (verified || intact)).then(|| {
        let note = stored.note.clone();
        (Signed { checkpoint, note }, verified)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rekor_log::RekorLog;

    #[test]
    fn a_stored_tree_is_vouched_for_by_a_key_or_by_its_digest() {
        let (log, other) = (
            RekorLog::with_entries(7),
            RekorLog::with_entries(7).signed_by(1),
        );
        let origin = log.checkpoint(7).origin;
        let stored = to_store(&log.note(7).into());
        let rotten = |change: fn(&mut StoredCheckpoint)| {
            let mut stored = stored.clone();
            change(&mut stored);
            stored
        };
        let other_size = rotten(|stored| {
            let text = String::from_utf8(stored.note.to_vec()).expect("text");
            stored.note = text.replace("\n7\n", "\n8\n").into();
        });
        let no_digest = rotten(|stored| stored.edge = Bytes::new());
        for (stored, size, log, want) in [
            (&stored, 7, &log, Some(true)),
            (&no_digest, 7, &log, Some(true)),
            (&stored, 7, &other, Some(false)), // its key was withdrawn; it stays the floor
            (&no_digest, 7, &other, None),
            (&stored, 8, &log, None), // under another name
            (&other_size, 8, &log, None),
            (&other_size, 8, &other, None),
        ] {
            let got = reopen(stored, &origin, size, &log.trust());
            assert_eq!(got.map(|(_, verified)| verified), want, "as {size}");
        }
        let moved = reopen(&stored, "rekor.example - 8", 7, &log.trust());
        assert!(moved.is_none());
    }
}

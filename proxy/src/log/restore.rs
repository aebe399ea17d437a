//! Takes up after a restart what was trusted before it.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use tracing::{info, warn};

use super::{Floor, Log, Trusted, verify::VerifiedEdge};
use crate::{
    cache::{LogStore, files::StoredCheckpoint, usage::Counters},
    note::{self, checkpoint::Checkpoint},
    rekor_v1,
    trust::Trust,
};

impl Log {
    /// Takes up what the cache trusted before this start. Proves it again: a disk is not believed.
    ///
    /// An origin that nobody named counts only if a known key signed for it; one that is not taken
    /// up here is when the log itself names it ([`Log::restore_origin`]).
    pub(super) fn restore(&self) -> io::Result<()> {
        if let Some(origin) = &self.options.origin {
            return self.restore_origin(origin);
        }
        let origins = self.cache.origins()?;
        if *self.options.keys.current() == Trust::Anyone && origins.len() > 1 {
            return Ok(()); // whichever it is, somebody signed it
        }
        for origin in origins {
            let stored = self.cache.log(&origin).files.read_checkpoints()?;
            if stored.iter().any(rekor_v1::shard::is_of_shard) {
                continue; // it has no tiles
            }
            let ours = |stored| Restored::new(stored, &origin, &self.options.keys.current());
            if stored
                .iter()
                .filter_map(ours)
                .any(|restored| restored.verified)
            {
                return self.restore_origin(&origin);
            }
        }
        Ok(())
    }

    /// Takes up what is stored for an origin, if there is anything, and no other log is followed with
    /// it.
    pub(super) fn restore_origin(&self, origin: &str) -> io::Result<()> {
        let store = self.cache.log(origin);
        if let Err(other) = store.claim(self.name()) {
            warn!(
                log = self.name(),
                origin, other, "another log is followed with this origin"
            );
            return Ok(());
        }
        if self.take_up(&store)? {
            self.adopt_store(store);
        }
        Ok(())
    }

    /// Reads the keys again. If they are others, what is served is what they signed: a key that was
    /// withdrawn ends the serving of its checkpoint, not its being the floor.
    pub(super) fn reload_keys(&self) {
        let Self { options, .. } = self;
        if !options.keys.reload_and_tell(self.name(), &options.audit) {
            return;
        }
        let taken_up = match self.store.get() {
            Some(store) => self.take_up(store).map(drop),
            // Perhaps the first keys, which say which of what is stored is this log's.
            None => self.restore(),
        };
        if let Err(error) = taken_up {
            warn!(log = self.name(), %error, "cannot read what was trusted before");
        }
    }

    /// Takes up the largest stored checkpoint: as the floor in any case, and to be served if a known
    /// key signed it and its edge tiles still fold to its root. Returns whether there is one.
    ///
    /// One that is damaged is not replaced by an older one: that would be a step back. The older one
    /// is the floor then, and nothing is served before the log offers as much as there was.
    fn take_up(&self, store: &LogStore) -> io::Result<bool> {
        let sizes = store.files.checkpoint_sizes()?;
        let largest = sizes.last().copied().unwrap_or_default();
        self.least.store(largest, Ordering::Relaxed);
        for size in sizes.iter().rev() {
            let stored = store.files.read_checkpoint(*size);
            let keys = self.options.keys.current();
            let restored = Restored::new(&stored, store.origin(), &keys);
            let Some(restored) = restored.filter(|r| r.checkpoint.size == *size) else {
                self.report_corrupt(
                    &"a stored checkpoint",
                    "it is not one of this log and of the size in its name",
                );
                continue;
            };
            self.following.restored(stored.stored_at);
            self.take_up_as(restored, largest);
            return Ok(true);
        }
        if largest > 0 {
            warn!(
                log = self.name(),
                least = largest,
                "no stored checkpoint is readable; none smaller is accepted from the log"
            );
        }
        Ok(largest > 0)
    }

    /// Takes up a stored checkpoint as the floor, and serves it if that may be.
    fn take_up_as(&self, restored: Restored, largest: u64) {
        let Restored {
            checkpoint,
            note,
            edge,
            verified,
        } = restored;
        let size = checkpoint.size;
        self.floor.store(Some(Arc::new(Floor {
            checkpoint: checkpoint.clone(),
            note: note.clone(),
        })));
        let served = edge.filter(|_| verified && size == largest);
        info!(
            log = self.name(),
            origin = checkpoint.origin,
            size,
            served = served.is_some(),
            "checkpoint taken up from the cache"
        );
        match served {
            Some(edge) => self.serve(Trusted {
                checkpoint,
                note,
                edge,
            }),
            None => {
                self.trusted.store(None);
                if size < largest {
                    warn!(
                        log = self.name(),
                        size,
                        least = largest,
                        "the largest stored checkpoint is damaged; none is served until the log \
                         offers one as large"
                    );
                } else if verified {
                    self.report_corrupt(&"a checkpoint's edge", "it does not fold to the root");
                } else {
                    warn!(
                        log = self.name(),
                        size, "no known key signed it; it stays the floor"
                    );
                }
            }
        }
    }

    /// Sets the log's part of the cache.
    pub(super) fn adopt_store(&self, store: Arc<LogStore>) {
        let numbers = self.upstreams.iter().map(|upstream| {
            let (name, url) = (upstream.name(), upstream.url().as_str());
            self.cache.name_upstream(&store, name, url)
        });
        match numbers.collect() {
            Ok(numbers) => {
                let _ = self.upstream_numbers.set(numbers); // as with the store, below
            }
            Err(error) => {
                warn!(log = self.name(), %error, "records will not name their upstream");
            }
        }
        if let Some(peers) = &self.options.peers {
            peers.is_of(store.origin());
        }
        store
            .usage
            .set_share(self.disk_share.load(Ordering::Relaxed));
        store.usage.count(Counters {
            evictions: self.metrics.evictions.with_label_values(&[self.name()]),
            refused: self.metrics.store_refused.with_label_values(&[self.name()]),
        });
        let _ = self.store.set(store); // set already if two refreshes learned the origin at once
    }
}

/// A stored checkpoint, looked at again.
pub(super) struct Restored {
    pub(super) checkpoint: Checkpoint,
    pub(super) note: Bytes,
    /// `None` if the stored tiles do not fold to the root any more.
    pub(super) edge: Option<VerifiedEdge>,
    /// Whether a key that is known now signed it. Keys are withdrawn; the floor is not.
    pub(super) verified: bool,
}

impl Restored {
    /// `None` if it is not a checkpoint of this log. Where no known key signed it, its edge must
    /// vouch for its size and root: a flipped bit must not become the floor.
    pub(super) fn new(stored: &StoredCheckpoint, origin: &str, trust: &Trust) -> Option<Self> {
        let (text, verified) = match trust.open(&stored.note) {
            Ok(text) => (text, true),
            Err(_) => (note::text_unverified(&stored.note).ok()?, false),
        };
        let checkpoint = Checkpoint::parse(text)
            .ok()
            .filter(|c| c.origin == origin)?;
        let edge = stored.edge_of(&checkpoint);
        let edge = edge.and_then(|tiles| VerifiedEdge::prove(&checkpoint, tiles).ok());
        (verified || edge.is_some()).then(|| Self {
            checkpoint,
            note: stored.note.clone(),
            edge,
            verified,
        })
    }
}

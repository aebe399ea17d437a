//! Takes up after a restart what was trusted before it.

use std::{io, sync::Arc};

use bytes::Bytes;
use tracing::{info, warn};

use super::{Floor, Log, Trusted, verify::VerifiedEdge};
use crate::{
    cache::{LogStore, files::StoredCheckpoint},
    note::{self, checkpoint::Checkpoint, vkey::VerifierKey},
    trust::Reload,
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
        for origin in self.cache.origins()? {
            let stored = self.cache.log(&origin).files.read_checkpoints()?;
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

    /// Takes up what is stored for an origin, if there is anything.
    pub(super) fn restore_origin(&self, origin: &str) -> io::Result<()> {
        let store = self.cache.log(origin);
        if self.take_up(&store)? {
            self.adopt_store(store);
        }
        Ok(())
    }

    /// Reads the keys again. If they are others, what is served is what they signed: a key that was
    /// withdrawn ends the serving of its checkpoint, not its being the floor.
    pub(super) fn reload_keys(&self) {
        match self.options.keys.reload() {
            Reload::Unchanged => return,
            Reload::Failed(error) => {
                warn!(
                    log = self.name(),
                    error, "keys not read again; the ones before stay"
                );
                return;
            }
            Reload::Changed => {
                let keys = self.options.keys.current().len();
                info!(log = self.name(), keys, "keys changed");
            }
        }
        if let Some(store) = self.store.get()
            && let Err(error) = self.take_up(store)
        {
            warn!(log = self.name(), %error, "cannot read what was trusted before");
        }
    }

    /// Takes up the largest stored checkpoint: as the floor in any case, and to be served if a known
    /// key signed it and its edge tiles still fold to its root. Returns whether there is one.
    fn take_up(&self, store: &LogStore) -> io::Result<bool> {
        let origin = store.origin();
        for stored in store.files.read_checkpoints()? {
            let keys = self.options.keys.current();
            let Some(restored) = Restored::new(&stored, origin, &keys) else {
                self.report_corrupt(&"a stored checkpoint", "it is not one of this log");
                continue;
            };
            let Restored {
                checkpoint,
                note,
                edge,
                verified,
            } = restored;
            let (size, served) = (checkpoint.size, verified && edge.is_some());
            info!(
                log = self.name(),
                origin, size, served, "checkpoint taken up from the cache"
            );
            self.following.restored(stored.stored_at);
            self.floor.store(Some(Arc::new(Floor {
                checkpoint: checkpoint.clone(),
                note: note.clone(),
            })));
            match edge {
                Some(edge) if verified => self.serve(Trusted {
                    checkpoint,
                    note,
                    edge,
                }),
                Some(_) => {
                    self.trusted.store(None);
                    warn!(
                        log = self.name(),
                        size, "no known key signed it; it stays the floor"
                    );
                }
                None => {
                    self.trusted.store(None);
                    self.report_corrupt(&"a checkpoint's edge", "it does not fold to the root");
                }
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Sets the log's part of the cache, and counts what is in it, in the background.
    pub(super) fn adopt_store(&self, store: LogStore) {
        if let Some(upstream) = &self.upstream
            && let Err(error) =
                self.cache
                    .name_upstream(&store, upstream.name(), upstream.url().as_str())
        {
            warn!(log = self.name(), %error, "records will not name their upstream");
        }
        let store = self.store.get_or_init(|| Arc::new(store));
        let (cache, store) = (Arc::clone(&self.cache), Arc::clone(store));
        tokio::task::spawn_blocking(move || cache.count(&store));
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
    /// `None` if it is not a checkpoint of this log.
    pub(super) fn new(
        stored: &StoredCheckpoint,
        origin: &str,
        keys: &[VerifierKey],
    ) -> Option<Self> {
        let (text, verified) = match note::open(&stored.note, keys) {
            Ok(text) => (text, true),
            Err(_) => (note::text_unverified(&stored.note).ok()?, false),
        };
        let checkpoint = Checkpoint::parse(text)
            .ok()
            .filter(|c| c.origin == origin)?;
        let edge = stored.edge_of(&checkpoint);
        let edge = edge.and_then(|tiles| VerifiedEdge::prove(&checkpoint, tiles).ok());
        Some(Self {
            checkpoint,
            note: stored.note.clone(),
            edge,
            verified,
        })
    }
}

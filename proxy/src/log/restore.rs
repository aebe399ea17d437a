//! Takes up after a restart what was trusted before it.

use std::sync::Arc;

use tracing::{info, warn};

use super::{Log, Trusted, verify::VerifiedEdge};
use crate::{
    cache::{LogStore, files::StoredCheckpoint},
    note::{self, checkpoint::Checkpoint, vkey::VerifierKey},
};

impl Log {
    /// Takes up what the cache trusted before this start. Proves it again: a disk is not believed.
    pub(super) fn restore(&self) {
        let origins = match &self.options.origin {
            Some(origin) => vec![origin.clone()],
            None => self.cache.origins().unwrap_or_default(),
        };
        for origin in origins {
            let store = self.cache.log(&origin);
            let stored = store.files.read_checkpoints().unwrap_or_default();
            let found = stored.iter().find_map(|stored| {
                let restored = restored(stored, &origin, &self.options.keys)?;
                // An origin nobody named counts only if a known key signed for it.
                let ours = restored.servable || self.options.origin.is_some();
                ours.then_some((restored, stored.stored_at))
            });
            let Some((trusted, stored_at)) = found else {
                continue;
            };
            info!(
                log = self.name(),
                origin,
                size = trusted.checkpoint.size,
                servable = trusted.servable,
                "checkpoint restored from the cache"
            );
            self.following.restored(stored_at);
            self.adopt_store(store);
            self.serve(trusted);
            return;
        }
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

/// A stored checkpoint, if its edge tiles still fold to its root.
fn restored(stored: &StoredCheckpoint, origin: &str, keys: &[VerifierKey]) -> Option<Trusted> {
    let (text, servable) = match note::open(&stored.note, keys) {
        Ok(text) => (text, true),
        // Signed by a key that was withdrawn since: a floor, and nothing to serve.
        Err(_) => (note::text_unverified(&stored.note).ok()?, false),
    };
    let checkpoint = Checkpoint::parse(text)
        .ok()
        .filter(|c| c.origin == origin)?;
    let edge = VerifiedEdge::prove(&checkpoint, stored.edge_of(&checkpoint)?).ok()?;
    Some(Trusted {
        checkpoint,
        note: stored.note.clone(),
        edge,
        servable,
    })
}

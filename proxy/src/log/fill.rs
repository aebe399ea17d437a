//! Where a resource is found that is not in memory: the disk, then the upstream; and its proof.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{
    Fetched, Log, ReadError, Trusted,
    verify::{VerifiedBundle, VerifiedTile},
};
use crate::{
    cache::{Body, LogStore, slots::Slot},
    tlog::{
        HASH_BYTES, Hash,
        bundle::{MAX_BUNDLE_BYTES, prefix_bytes},
        path::{Bundle, Resource},
        tile::{FULL_TILE_BYTES, FULL_WIDTH, Tile, width_in},
    },
    upstream::FetchError,
};

impl Log {
    /// A full tile of `tree`: from memory, or by one flight from the disk or the upstream.
    pub(super) fn full_tile<'a>(
        self: &'a Arc<Self>,
        tree: &'a Arc<Trusted>,
        level: u8,
        index: u64,
    ) -> BoxFuture<'a, Result<Fetched, ReadError>> {
        Box::pin(async move {
            let tile = Tile::new(level, index, FULL_WIDTH)
                .ok_or_else(|| ReadError::Unavailable("no such level".to_owned()))?;
            let resource = Resource::Tile(tile);
            let store = self.known_store()?;
            if let Some(body) = self.cache.remembered(store, resource) {
                return Ok(Fetched {
                    body,
                    from_upstream: false,
                });
            }
            // Proven before and in the page cache: no more than a copy, so nobody has to wait.
            if let Some(Slot::Stored { bytes, .. }) = store.groups.read_now(level, index)
                && let Some(tile) = VerifiedTile::proven_before(level, index, bytes)
            {
                let body = self.cache.remember_tile(store, &tile);
                return Ok(Fetched {
                    body,
                    from_upstream: false,
                });
            }
            let flight = || {
                let (log, store, tree) = (Arc::clone(self), Arc::clone(store), Arc::clone(tree));
                async move { log.fill_tile(&store, &tree, tile).await }
            };
            self.join(resource, flight).await
        })
    }

    /// Finds a full tile on the disk or upstream, proves it, and remembers it.
    async fn fill_tile(
        self: &Arc<Self>,
        store: &Arc<LogStore>,
        tree: &Arc<Trusted>,
        tile: Tile,
    ) -> Result<Fetched, ReadError> {
        let (level, index) = (tile.level(), tile.index());
        // Another flight may have landed between this caller's look and this flight.
        if let Some(body) = self.cache.remembered(store, Resource::Tile(tile)) {
            return Ok(Fetched {
                body,
                from_upstream: false,
            });
        }
        match stored_tile(store, level, index).await {
            Some(StoredTile::Proven(tile)) => {
                let body = self.cache.remember_tile(store, &tile);
                return Ok(Fetched {
                    body,
                    from_upstream: false,
                });
            }
            Some(StoredTile::Unproven(bytes)) => {
                let parent = self.parent_hash(tree, tile).await?;
                match VerifiedTile::prove(level, index, bytes, parent) {
                    Ok(tile) => {
                        mark_proven(store, &tile);
                        let body = self.cache.remember_tile(store, &tile);
                        return Ok(Fetched {
                            body,
                            from_upstream: false,
                        });
                    }
                    Err(error) => self.report_corrupt(&tile, &error.to_string()),
                }
            }
            Some(StoredTile::Corrupt) => {
                self.report_corrupt(&tile, "its bytes and record disagree");
            }
            None => {}
        }
        // Asked for before the parent is known, so that both are under way at once.
        let resource = Resource::Tile(tile);
        let (parent, bytes) = tokio::join!(
            self.parent_hash(tree, tile),
            self.fetch(&resource, FULL_TILE_BYTES)
        );
        let (parent, (bytes, upstream)) = (parent?, bytes?);
        let tile = VerifiedTile::prove(level, index, bytes, parent)
            .map_err(|source| self.not_proven(resource, "tile", upstream, source))?;
        let body = self.cache.remember_tile(store, &tile);
        self.cache
            .store_tile(store, tile, tree.checkpoint.size)
            .await;
        Ok(Fetched {
            body,
            from_upstream: true,
        })
    }

    /// What the tree has for a full tile's own root, in its parent.
    async fn parent_hash(
        self: &Arc<Self>,
        tree: &Arc<Trusted>,
        tile: Tile,
    ) -> Result<Hash, ReadError> {
        let missing = || ReadError::Unavailable(format!("{tile} has no parent in this tree"));
        let (level, index, slot) = tile.parent_slot().ok_or_else(missing)?;
        let parent = match tree.edge.at(level, index) {
            Some(edge) => edge.clone(),
            None => self.full_tile(tree, level, index).await?.body.bytes,
        };
        Hash::chunks(&parent)
            .nth(usize::from(slot))
            .ok_or_else(missing)
    }

    pub(super) async fn read_bundle(
        self: &Arc<Self>,
        tree: &Arc<Trusted>,
        wanted: Bundle,
    ) -> Result<Fetched, ReadError> {
        let store = self.known_store()?;
        // As wide as the tree has it: that one the log is sure to serve, and any narrower one is
        // its beginning.
        let width = width_in(0, wanted.index(), tree.checkpoint.size);
        let widest = wanted.with_width(width).unwrap_or(wanted);
        for candidate in [wanted, widest] {
            if let Some(body) = self.cache.remembered(store, Resource::Bundle(candidate)) {
                return Ok(Fetched {
                    body: narrowed(body, candidate, wanted),
                    from_upstream: false,
                });
            }
        }
        if let Some(body) = self.stored_bundle(store, tree, wanted, widest).await? {
            return Ok(Fetched {
                body,
                from_upstream: false,
            });
        }
        let flight = || {
            let (log, store, tree) = (Arc::clone(self), Arc::clone(store), Arc::clone(tree));
            async move { log.fetch_bundle(&store, &tree, widest).await }
        };
        let fetched = self.join(Resource::Bundle(widest), flight).await?;
        let body = narrowed(fetched.body, widest, wanted);
        Ok(Fetched {
            body,
            from_upstream: fetched.from_upstream,
        })
    }

    /// A bundle from the disk, proven; `None` if it is not there, or damaged.
    async fn stored_bundle(
        self: &Arc<Self>,
        store: &Arc<LogStore>,
        tree: &Arc<Trusted>,
        wanted: Bundle,
        widest: Bundle,
    ) -> Result<Option<Body>, ReadError> {
        let files = store.files.clone();
        let read = tokio::task::spawn_blocking(move || files.read_bundle(wanted)).await;
        let (found, bytes) = match read {
            Ok(Ok(Some(found))) => found,
            Ok(Ok(None)) | Err(_) => return Ok(None),
            Ok(Err(error)) => {
                self.report_corrupt(&wanted, &error.to_string());
                return Ok(None);
            }
        };
        let leaves = self.read_tile(tree, widest.leaf_tile()).await?.body.bytes;
        // Stored meanwhile for a larger tree than this request has: its beginning will do.
        let bundle = if found.width() > widest.width() {
            widest
        } else {
            found
        };
        match VerifiedBundle::prove(bundle, &bytes, &leaves) {
            Ok(bundle) => {
                let body = self.cache.remember_bundle(store, &bundle);
                Ok(Some(narrowed(body, bundle.bundle(), wanted)))
            }
            Err(error) => {
                self.report_corrupt(&found, &error.to_string());
                self.cache.discard_bundle(store, found).await;
                Ok(None)
            }
        }
    }

    /// Fetches the widest bundle of the tree, proves it, and remembers it.
    async fn fetch_bundle(
        self: &Arc<Self>,
        store: &Arc<LogStore>,
        tree: &Arc<Trusted>,
        widest: Bundle,
    ) -> Result<Fetched, ReadError> {
        let resource = Resource::Bundle(widest);
        if let Some(body) = self.cache.remembered(store, resource) {
            return Ok(Fetched {
                body,
                from_upstream: false,
            });
        }
        let (leaves, bytes) = tokio::join!(
            self.read_tile(tree, widest.leaf_tile()),
            self.fetch(&resource, MAX_BUNDLE_BYTES)
        );
        let (leaves, (bytes, upstream)) = (leaves?.body.bytes, bytes?);
        let bundle = VerifiedBundle::prove(widest, &bytes, &leaves)
            .map_err(|source| self.not_proven(resource, "bundle", upstream, source))?;
        let body = self.cache.remember_bundle(store, &bundle);
        self.cache.store_bundle(store, bundle).await;
        Ok(Fetched {
            body,
            from_upstream: true,
        })
    }

    /// Fetches a resource, unverified; a partial one that the log has deleted, from the full one.
    pub(super) async fn fetch<'a>(
        &'a self,
        resource: &Resource,
        limit: usize,
    ) -> Result<(Bytes, &'a str), ReadError> {
        let offline = || ReadError::Unavailable("the proxy is offline".to_owned());
        let upstream = self.upstream.as_ref().ok_or_else(offline)?;
        let (full, hashes) = match resource {
            Resource::Bundle(bundle) => (bundle.with_width(FULL_WIDTH).map(Resource::Bundle), None),
            Resource::Tile(tile) => (
                tile.with_width(FULL_WIDTH).map(Resource::Tile),
                Some(tile.width()),
            ),
        };
        let fetched = match upstream
            .fetch(&resource.to_string(), limit, self.options.max_wait)
            .await
        {
            // Logs may delete a partial resource once the full one exists.
            Err(FetchError::NotFound { .. }) if full.is_some_and(|full| full != *resource) => {
                let full = full.unwrap_or(*resource);
                let limit = limit.max(FULL_TILE_BYTES);
                upstream
                    .fetch(&full.to_string(), limit, self.options.max_wait)
                    .await
                    .map(|bytes| match hashes {
                        Some(width) => {
                            bytes.slice(..bytes.len().min(usize::from(width) * HASH_BYTES))
                        }
                        None => bytes, // its proof cuts off what is above our tree
                    })
            }
            outcome => outcome,
        };
        match fetched {
            Ok(bytes) => Ok((bytes, upstream.name())),
            Err(error) => Err(ReadError::Unavailable(error.to_string())),
        }
    }
}

/// The first entries of a proven bundle.
fn narrowed(body: Body, has: Bundle, wanted: Bundle) -> Body {
    if has == wanted {
        return body;
    }
    match prefix_bytes(&body.bytes, wanted.width()) {
        Some(end) => Body::new(body.bytes.slice(..end)),
        None => body, // cannot be: it is proven to have at least as many
    }
}

enum StoredTile {
    Corrupt,
    Proven(VerifiedTile),
    Unproven(Bytes),
}

/// Reads a full tile from the disk; what cannot be read is as good as not there.
async fn stored_tile(store: &Arc<LogStore>, level: u8, index: u64) -> Option<StoredTile> {
    let store = Arc::clone(store);
    let read = tokio::task::spawn_blocking(move || {
        let (group, slot) = store.groups.find(level, index).ok()??;
        group.read(slot).ok()
    });
    match read.await.ok()?? {
        Slot::Stored {
            bytes,
            proven: true,
            ..
        } => VerifiedTile::proven_before(level, index, bytes).map(StoredTile::Proven),
        Slot::Stored {
            bytes,
            proven: false,
            ..
        } => Some(StoredTile::Unproven(bytes)),
        Slot::Corrupt => Some(StoredTile::Corrupt),
        Slot::Vacant => None,
    }
}

fn mark_proven(store: &LogStore, tile: &VerifiedTile) {
    if let Ok(Some((group, slot))) = store.groups.find(tile.tile().level(), tile.tile().index()) {
        group.mark_proven(slot, Hash::of(tile.bytes()));
    }
}

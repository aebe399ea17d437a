//! Where a resource is found that is not in memory: the disk, then the upstreams; and its proof.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};

use super::{
    Fetched, Giver, Log, ReadError, Trusted,
    ask::{Asker, Way},
    verify::{NotProven, VerifiedBundle, VerifiedTile},
};
use crate::{
    cache::{Body, LogStore, slots::Slot},
    tlog::{
        Hash,
        bundle::{MAX_BUNDLE_BYTES, prefix_bytes},
        path::{Bundle, Resource},
        tile::{FULL_TILE_BYTES, FULL_WIDTH, Tile, width_in},
    },
    upstream::{Asked, FetchError, race::Passed},
};

impl Log {
    /// A full tile of `tree`: from memory, or by one flight from the disk or an upstream.
    pub(super) fn full_tile<'a>(
        self: &'a Arc<Self>,
        tree: &'a Arc<Trusted>,
        (level, index): (u8, u64),
        asker: Asker,
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
            if let Some(Slot::Stored { bytes, record, .. }) = store.groups.read_now(level, index)
                && let Some(tile) = VerifiedTile::proven_before(level, index, bytes, record.digest)
            {
                let body = self.cache.remember_tile(store, &tile);
                return Ok(Fetched {
                    body,
                    from_upstream: false,
                });
            }
            let way = self.way(resource, asker);
            let by_peers = way.is_by_peers();
            let flight = || {
                let (log, store, tree) = (Arc::clone(self), Arc::clone(store), Arc::clone(tree));
                async move { log.fill_tile(&store, &tree, tile, way).await }
            };
            self.join((resource, by_peers), flight).await
        })
    }

    /// Finds a full tile on the disk or upstream, proves it, and remembers it.
    async fn fill_tile(
        self: &Arc<Self>,
        store: &Arc<LogStore>,
        tree: &Arc<Trusted>,
        tile: Tile,
        way: Way,
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
        let parent = self.parent_hash(tree, tile).boxed().shared();
        let prove = |bytes| {
            let parent = parent.clone();
            async move {
                let parent = parent.await?;
                VerifiedTile::prove(level, index, bytes, parent).map_err(Unproven::Wrong)
            }
            .boxed()
        };
        let fetched = self.fetch((resource, &way), "tile", FULL_TILE_BYTES, &prove);
        let ((giver, tile), _) = tokio::try_join!(fetched, parent.clone())?;
        let body = self.cache.remember_tile(store, &tile);
        self.store_tile(&giver, tile, tree.checkpoint.size).await;
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
            None => {
                let parent = self.full_tile(tree, (level, index), Asker::Client).await?;
                parent.body.bytes
            }
        };
        Hash::chunks(&parent)
            .nth(usize::from(slot))
            .ok_or_else(missing)
    }

    pub(super) async fn read_bundle(
        self: &Arc<Self>,
        tree: &Arc<Trusted>,
        wanted: Bundle,
        asker: Asker,
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
        let way = self.way(Resource::Bundle(widest), asker);
        let by_peers = way.is_by_peers();
        let flight = || {
            let (log, store, tree) = (Arc::clone(self), Arc::clone(store), Arc::clone(tree));
            async move { log.fetch_bundle(&store, &tree, widest, way).await }
        };
        let flight = self.join((Resource::Bundle(widest), by_peers), flight);
        let fetched = flight.await?;
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
        let leaves = self.read_tile(tree, widest.leaf_tile(), Asker::Client);
        let leaves = leaves.await?.body.bytes;
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
        way: Way,
    ) -> Result<Fetched, ReadError> {
        let resource = Resource::Bundle(widest);
        if let Some(body) = self.cache.remembered(store, resource) {
            return Ok(Fetched {
                body,
                from_upstream: false,
            });
        }
        let leaves = self.read_tile(tree, widest.leaf_tile(), Asker::Client);
        let leaves = leaves.map(|leaves| leaves.map(|leaves| leaves.body.bytes));
        let leaves = leaves.boxed().shared();
        let prove = |bytes| {
            let leaves = leaves.clone();
            async move {
                let leaves = leaves.await?;
                VerifiedBundle::prove(widest, &bytes, &leaves).map_err(Unproven::Wrong)
            }
            .boxed()
        };
        let fetched = self.fetch((resource, &way), "bundle", MAX_BUNDLE_BYTES, &prove);
        let ((_, bundle), _) = tokio::try_join!(fetched, leaves.clone())?;
        let body = self.cache.remember_bundle(store, &bundle);
        self.cache.store_bundle(store, bundle).await;
        Ok(Fetched {
            body,
            from_upstream: true,
        })
    }

    /// Fetches a resource from the first peer or upstream whose bytes `prove` accepts, and says who
    /// that is. `kind` is what wrong ones are counted as.
    async fn fetch<'a, T: Send + 'a>(
        &'a self,
        (resource, way): (Resource, &'a Way),
        kind: &'static str,
        limit: usize,
        prove: &'a Prove<'a, T>,
    ) -> Result<(Giver, T), ReadError> {
        if let Way::Peers(peers) = way
            && let Some((peer, proven)) = self.ask_peers(peers, resource, kind, limit, prove).await
        {
            return Ok((Giver::Peer(peer), proven));
        }
        let finish = self.upstreams.tile(|asked: Asked| {
            async move {
                let bytes = fetch_from(&asked, resource, limit).await;
                let proven = prove(bytes.map_err(Passed::Fetch)?).await;
                proven.map_err(|unproven| {
                    Passed::Wrong(match unproven {
                        Unproven::Wrong(source) => {
                            self.not_proven(resource, kind, asked.name(), source)
                        }
                        Unproven::Unknown(error) => error,
                    })
                })
            }
            .boxed()
        });
        let finish = finish.await;
        if let Some((place, proven)) = finish.won {
            return Ok((Giver::Upstream(place), proven));
        }
        let mut absent = Vec::new();
        for (_, passed) in finish.passed {
            match passed {
                // Somebody offered something, and nothing that was offered is right.
                Passed::Wrong(error) => return Err(error),
                Passed::Fetch(error) => absent.push(error.to_string()),
            }
        }
        Err(ReadError::Unavailable(if self.upstreams.is_empty() {
            "the proxy is offline".to_owned()
        } else {
            absent.join("; ")
        }))
    }
}

/// Proves bytes, once what they are proven with is known.
pub(super) type Prove<'a, T> = dyn Fn(Bytes) -> BoxFuture<'a, Result<T, Unproven>> + Sync + 'a;

/// Why bytes could not be proven.
pub(super) enum Unproven {
    /// They are not what the tree has there.
    Wrong(NotProven),
    /// What they would be proven with is not to be had.
    Unknown(ReadError),
}

impl From<ReadError> for Unproven {
    fn from(error: ReadError) -> Self {
        Self::Unknown(error)
    }
}

/// Fetches a resource from one upstream, unverified; a partial one that the log has deleted, from
/// the full one.
pub(super) async fn fetch_from(
    asked: &Asked,
    resource: Resource,
    limit: usize,
) -> Result<Bytes, FetchError> {
    let (full, bytes) = match resource {
        Resource::Bundle(bundle) => (bundle.with_width(FULL_WIDTH).map(Resource::Bundle), None),
        Resource::Tile(tile) => (
            tile.with_width(FULL_WIDTH).map(Resource::Tile),
            Some(tile.bytes()),
        ),
    };
    match (asked.tile(&resource.to_string(), limit).await, full) {
        // Logs may delete a partial resource once the full one exists.
        (Err(FetchError::NotFound { .. }), Some(full)) if full != resource => {
            let wider = asked
                .tile(&full.to_string(), limit.max(FULL_TILE_BYTES))
                .await?;
            // What a bundle has above our tree, its proof cuts off.
            Ok(bytes.map_or_else(
                || wider.clone(),
                |bytes| wider.slice(..bytes.min(wider.len())),
            ))
        }
        (fetched, _) => fetched,
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
            record,
            proven: true,
        } => {
            VerifiedTile::proven_before(level, index, bytes, record.digest).map(StoredTile::Proven)
        }
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
        group.mark_proven(slot, tile.digest());
    }
}

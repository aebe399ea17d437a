//! Decides about a checkpoint that an upstream offered, and makes it what is served.
//!
//! The order is the promise: the offered note is opened with known keys, its edge tiles fold to its
//! root, the tree we serve is a prefix of it, tiles and edge and note are durable, and only then is
//! it served. A crash after any of these steps leaves a checkpoint that is whole.

use std::sync::{Arc, atomic::Ordering};

use bytes::{Bytes, BytesMut};
use futures::future::{FutureExt as _, try_join_all};
use tracing::{debug, warn};

use super::{
    Floor, FollowError, Giver, Log, ReadError, Trusted,
    ask::Asker,
    fill::fetch_from,
    timeline::{Conclusion, Verdict, conclude, judge},
    verify::{VerifiedEdge, VerifiedTile},
};
use crate::{
    audit::Event,
    cache::files::StoredCheckpoint,
    note::checkpoint::Checkpoint,
    tlog::{
        Hash,
        consistency::{prefix_root, spine},
        edge::edge_tiles,
        path::Resource,
        tile::{FULL_TILE_BYTES, Tile},
    },
    upstream::{
        Asked,
        race::{Answer, Passed},
    },
};

impl Log {
    /// Decides about the checkpoint that an upstream offered, and follows it if it is a larger tree
    /// of the same history.
    pub(super) async fn consider(
        self: &Arc<Self>,
        asked: &Asked,
        note: Bytes,
    ) -> Result<(), FollowError> {
        let offered = self
            .open(&note)
            .inspect_err(|error| self.report_failure("checkpoint", asked, error))?;
        if self.store.get().is_none() {
            let claimed = self.cache.log(&offered.origin).claim(self.name());
            claimed.map_err(|other| FollowError::Taken {
                origin: offered.origin.clone(),
                other,
            })?;
            // First contact under this key; but the log may have been followed under another.
            self.restore_origin(&offered.origin)
                .map_err(|error| FollowError::Store(error.to_string()))?;
        }
        // What is served may be confirmed; anything else is news.
        let confirms = |trusted: Arc<Trusted>| trusted.checkpoint == offered;
        if self.options.keys.is_expired() && !self.trusted().is_some_and(confirms) {
            return Err(FollowError::TrustExpired {
                offered: offered.size,
            });
        }
        // A larger one than the floor was published once, and its copy here is damaged.
        let least = self.least.load(Ordering::Relaxed);
        let floor = self.floor.load().as_ref().map_or(0, |f| f.checkpoint.size);
        if offered.size < least && floor < least {
            return Err(FollowError::Unproven {
                old: offered.size,
                new: least,
                reason: "the larger checkpoint is damaged here".to_owned(),
            });
        }
        let Some(floor) = self.floor.load_full() else {
            let edge = self.fetch_edge(&offered, asked).await?;
            return self.publish(offered, note, edge).await;
        };
        let (old, new) = match judge(&floor.checkpoint, &offered) {
            Verdict::Refresh if self.trusted().is_some() => return Ok(()),
            Verdict::Refresh => {
                let edge = self.fetch_edge(&offered, asked).await?;
                return self.publish(offered, note, edge).await;
            }
            Verdict::SplitView => return Err(self.split_view(&floor, &offered, &note)),
            Verdict::ProveConsistency { old, new } => (old, new),
        };
        if offered.size < floor.checkpoint.size {
            let Some(trusted) = self.trusted() else {
                let reason = "the larger tree has no tiles here".to_owned();
                return Err(FollowError::Unproven { old, new, reason });
            };
            let spine = self.spine_of(&trusted, old, new).await?;
            let proven = prefix_root(old, &spine).ok_or_else(|| wrong_spine(old, new))?;
            return Err(match conclude(&floor.checkpoint, &offered, proven) {
                Conclusion::SplitView => self.split_view(&floor, &offered, &note),
                Conclusion::Advance | Conclusion::Stale => FollowError::Stale {
                    trusted: new,
                    offered: old,
                },
            });
        }
        let edge = self.fetch_edge(&offered, asked).await?;
        let (giver, (spine, proven)) = self.fetch_spine(&edge, asked, old, new).await?;
        if conclude(&floor.checkpoint, &offered, proven) == Conclusion::SplitView {
            return Err(self.split_view(&floor, &offered, &note));
        }
        self.publish(offered, note, edge).await?;
        self.keep_spine(&giver, spine, new).await;
        Ok(())
    }

    /// The checkpoint that a known key signed for this log.
    fn open(&self, note: &[u8]) -> Result<Checkpoint, FollowError> {
        let offered = Checkpoint::parse(self.options.keys.current().open(note)?)?;
        let known = self.store.get().map(|store| store.origin());
        match self.options.origin.as_deref().or(known) {
            Some(want) if want != offered.origin => Err(FollowError::Origin {
                want: want.to_owned(),
                got: offered.origin,
            }),
            _ => Ok(offered),
        }
    }

    /// Fetches the edge tiles of an offered checkpoint, and folds them to its root. All are from one
    /// upstream: which one of them is wrong cannot be said.
    async fn fetch_edge(
        &self,
        offered: &Checkpoint,
        offerer: &Asked,
    ) -> Result<VerifiedEdge, FollowError> {
        let size = offered.size;
        let tiles = edge_tiles(size);
        let tiles = &tiles;
        self.fetch_tree(offerer, size, |asked: Asked| {
            async move {
                let contents = tiles.iter().map(|tile| fetch_tile(&asked, *tile));
                let contents = try_join_all(contents).await?;
                VerifiedEdge::prove(offered, contents).map_err(|source| {
                    let error = FollowError::Edge { size, source };
                    self.report_failure("edge", &asked, &error);
                    Passed::Wrong(error)
                })
            }
            .boxed()
        })
        .await
        .map(|(_, edge)| edge)
    }

    /// The spine of `old` in an offered tree, and the root that the tree had at that size: from its
    /// proven edge, and for the rest from an upstream. What proves to be no spine is passed over.
    async fn fetch_spine(
        &self,
        edge: &VerifiedEdge,
        offerer: &Asked,
        old: u64,
        new: u64,
    ) -> Result<(Giver, (Vec<(Tile, Bytes)>, Hash)), FollowError> {
        let tiles = spine(old, new);
        let tiles = &tiles;
        self.fetch_tree(offerer, new, |asked: Asked| {
            async move {
                let spine =
                    tiles
                        .iter()
                        .map(async |tile| match edge.at(tile.level(), tile.index()) {
                            Some(bytes) => Ok((*tile, bytes.clone())),
                            None => Ok((*tile, fetch_tile(&asked, *tile).await?)),
                        });
                let spine = try_join_all(spine).await?;
                match prefix_root(old, &spine) {
                    Some(proven) => Ok((spine, proven)),
                    None => {
                        let error = wrong_spine(old, new);
                        self.report_failure("tile", &asked, &error);
                        Err(Passed::Wrong(error))
                    }
                }
            }
            .boxed()
        })
        .await
    }

    /// Fetches tiles of an offered tree, from whoever offered it, or else from another upstream; says
    /// who had them. Another replica has what it offers, or is behind by now: nobody else is asked.
    async fn fetch_tree<'a, T: Send + 'a>(
        &'a self,
        offerer: &Asked,
        size: u64,
        ask: impl Fn(Asked) -> Answer<'a, T, FollowError>,
    ) -> Result<(Giver, T), FollowError> {
        let why = |passed| match passed {
            Passed::Fetch(source) => FollowError::Tiles { size, source },
            Passed::Wrong(error) => error,
        };
        let Some(place) = offerer.place() else {
            let had = ask(offerer.clone()).await.map_err(why)?;
            return Ok((Giver::Peer(offerer.clone()), had));
        };
        let finish = self.upstreams.tree(place, ask).await;
        if let Some((place, had)) = finish.won {
            return Ok((Giver::Upstream(place), had));
        }
        let errors = finish.passed.into_iter().map(|(_, passed)| why(passed));
        Err(FollowError::that_says_most(errors).unwrap_or(FollowError::Offline))
    }

    /// The spine of `old` in the trusted tree.
    async fn spine_of(
        self: &Arc<Self>,
        trusted: &Arc<Trusted>,
        old: u64,
        new: u64,
    ) -> Result<Vec<(Tile, Bytes)>, FollowError> {
        try_join_all(spine(old, new).into_iter().map(async |tile| {
            let read = self.read_tile(trusted, tile, Asker::Client).await;
            let unproven = |error: ReadError| FollowError::Unproven {
                old,
                new,
                reason: error.to_string(),
            };
            Ok((tile, read.map_err(unproven)?.body.bytes))
        }))
        .await
    }

    /// Makes a proven checkpoint durable, then serves it.
    async fn publish(
        self: &Arc<Self>,
        checkpoint: Checkpoint,
        note: Bytes,
        edge: VerifiedEdge,
    ) -> Result<(), FollowError> {
        let store = match self.store.get() {
            Some(store) => store,
            None => {
                self.adopt_store(self.cache.log(&checkpoint.origin));
                self.store.get().ok_or(FollowError::Offline)?
            }
        };
        let tiles: BytesMut = edge
            .tiles()
            .iter()
            .flat_map(|(_, bytes)| bytes.clone())
            .collect();
        let stored = StoredCheckpoint {
            note: note.clone(),
            edge: tiles.freeze(),
            stored_at: None,
        };
        self.cache
            .store_checkpoint(store, checkpoint.size, stored)
            .await
            .map_err(|error| FollowError::Store(error.to_string()))?;
        let floor = Floor {
            checkpoint: checkpoint.clone(),
            note: note.clone(),
        };
        self.floor.store(Some(Arc::new(floor)));
        self.options.audit.record(&Event::CheckpointTrusted {
            log: self.name(),
            origin: &checkpoint.origin,
            size: checkpoint.size,
            root: checkpoint.root.to_string(),
        });
        self.serve(Trusted {
            checkpoint,
            note,
            edge,
        });
        Ok(())
    }

    /// Serves a tree from now on.
    pub(super) fn serve(&self, trusted: Trusted) {
        let size = trusted.checkpoint.size;
        debug!(
            log = self.name(),
            origin = trusted.checkpoint.origin,
            size,
            "checkpoint trusted"
        );
        let gauge = self
            .metrics
            .checkpoint_size
            .with_label_values(&[self.name()]);
        gauge.set(i64::try_from(size).unwrap_or(i64::MAX));
        self.trusted.store(Some(Arc::new(trusted)));
    }

    /// Keeps the full tiles that a consistency proof had to fetch: somebody will want them.
    async fn keep_spine(&self, giver: &Giver, spine: Vec<(Tile, Bytes)>, tree_size: u64) {
        let Some(store) = self.store.get() else {
            return;
        };
        for pair in spine.windows(2) {
            let [(_, parent), (tile, bytes)] = pair else {
                continue;
            };
            let Some((_, _, slot)) = tile.parent_slot().filter(|_| tile.is_full()) else {
                continue;
            };
            let Some(hash) = Hash::chunks(parent).nth(usize::from(slot)) else {
                continue;
            };
            if let Ok(tile) = VerifiedTile::prove(tile.level(), tile.index(), bytes.clone(), hash) {
                self.cache.remember_tile(store, &tile);
                self.store_tile(giver, tile, tree_size).await;
            }
        }
    }

    /// Counts a split view, keeps both notes, and says where once.
    fn split_view(&self, floor: &Floor, offered: &Checkpoint, note: &[u8]) -> FollowError {
        self.metrics
            .split_views
            .with_label_values(&[self.name()])
            .inc();
        let error = FollowError::SplitView {
            trusted: floor.checkpoint.size,
            offered: offered.size,
        };
        let kept = self
            .store
            .get()
            .map(|store| store.files.write_evidence(&floor.note, note));
        let evidence = match kept {
            Some(Ok(Some(path))) => path.display().to_string(),
            Some(Ok(None)) => return error, // known already
            Some(Err(error)) => format!("not kept: {error}"),
            None => "not kept".to_owned(),
        };
        self.options.audit.record(&Event::SplitView {
            log: self.name(),
            trusted: floor.checkpoint.size,
            offered: offered.size,
            evidence: &evidence,
        });
        warn!(
            log = self.name(),
            trusted_root = %floor.checkpoint.root,
            offered_root = %offered.root,
            evidence,
            "split view; the trusted checkpoint stays served"
        );
        error
    }

    fn report_failure(&self, kind: &str, asked: &Asked, error: &FollowError) {
        let labels = [self.name(), kind, asked.name()];
        self.metrics
            .verify_failures
            .with_label_values(&labels)
            .inc();
        self.options.audit.record(&Event::VerifyFailure {
            log: self.name(),
            kind,
            upstream: asked.name(),
            error: &error.to_string(),
        });
    }
}

async fn fetch_tile(asked: &Asked, tile: Tile) -> Result<Bytes, Passed<FollowError>> {
    fetch_from(asked, Resource::Tile(tile), FULL_TILE_BYTES)
        .await
        .map_err(Passed::Fetch)
}

fn wrong_spine(old: u64, new: u64) -> FollowError {
    FollowError::Unproven {
        old,
        new,
        reason: "a full tile is not what its parent says".to_owned(),
    }
}

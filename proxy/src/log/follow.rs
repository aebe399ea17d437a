//! Follows a log's checkpoints: fetches, proves, stores, and only then serves them.
//!
//! The order is the promise: the offered note is opened with known keys, its edge tiles fold to its
//! root, the tree we serve is a prefix of it, tiles and edge and note are durable, and only then is
//! it served. A crash after any of these steps leaves a checkpoint that is whole.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use futures::future::{FutureExt as _, try_join_all};
use tracing::{debug, info, warn};

use super::{
    Floor, FollowError, Log, ReadError, Trusted,
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
        trace::{Trace, scope},
    },
};

/// Shortest time between two refreshes that clients cause.
const ON_DEMAND_INTERVAL: Duration = Duration::from_secs(1);

/// What following a log remembers between refreshes.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// Held during a refresh: one at a time.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the log last confirmed what is served.
    confirmed: Option<Instant>,
    /// When that was, as far as the disk knows, for a checkpoint from before this start.
    stored_at: Option<SystemTime>,
    /// When the last refresh ended, and how.
    attempted: Option<(Instant, Result<(), FollowError>)>,
    /// Upstreams whose checkpoint was passed over while another one's was followed, and why.
    passed_over: BTreeMap<usize, FollowError>,
}

impl Following {
    pub(super) fn confirmed(&self) -> Option<Instant> {
        self.state().confirmed
    }

    /// Says when a restored checkpoint was stored; `None` if nobody knows.
    pub(super) fn restored(&self, stored_at: Option<SystemTime>) {
        self.state().stored_at = stored_at;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Each write replaces whole fields, so a poisoned state is still a sound one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Refreshes for ever, once a `refresh_interval`; in offline mode, only the keys.
    pub async fn follow(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.refresh_interval());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let interval = self.refresh_interval();
            if ticks.period() != interval {
                ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            }
            self.reload_keys();
            if !self.upstreams.is_empty() {
                // Reported where it happens; the next tick tries again.
                let _ = self.refresh().await;
            }
        }
    }

    /// Asks the log for its checkpoint now.
    ///
    /// # Errors
    /// Why what is served did not change or was not confirmed.
    pub async fn refresh(self: &Arc<Self>) -> Result<(), FollowError> {
        self.refresh_unless(|_| false).await
    }

    /// As [`Log::refresh`], unless the last one ended less than a second ago, whose outcome it then
    /// shares. Waits no longer than a client does.
    pub(super) async fn refresh_on_demand(self: &Arc<Self>) -> Result<(), FollowError> {
        let log = Arc::clone(self);
        // A task of its own, because a client that leaves must not end a refresh half-way.
        let refresh = tokio::spawn(scope(Trace::current(), async move {
            log.refresh_unless(|ended| ended.elapsed() < ON_DEMAND_INTERVAL)
                .await
        }));
        match tokio::time::timeout(self.options.max_wait, refresh).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(FollowError::TooSlow(self.options.max_wait)),
        }
    }

    /// How old what is served is: time since the log confirmed it, before this start if need be.
    /// `None` if nothing is served, or nobody knows.
    pub fn served_age(&self) -> Option<Duration> {
        let state = self.following.state();
        match (state.confirmed, state.stored_at) {
            (Some(confirmed), _) => Some(confirmed.elapsed()),
            (None, Some(stored_at)) => stored_at.elapsed().ok(),
            (None, None) => None,
        }
    }

    /// How the last refresh ended; `None` before the first.
    pub fn last_refresh(&self) -> Option<Result<(), FollowError>> {
        self.following
            .state()
            .attempted
            .as_ref()
            .map(|(_, outcome)| outcome.clone())
    }

    /// Refreshes, unless one that is `recent` has ended, or one ended while this one waited for its
    /// turn: then its outcome is shared, however many wait.
    async fn refresh_unless(
        self: &Arc<Self>,
        recent: impl Fn(Instant) -> bool,
    ) -> Result<(), FollowError> {
        let asked = Instant::now();
        let _turn = self.following.turn.lock().await;
        if let Some((ended, outcome)) = &self.following.state().attempted
            && (*ended >= asked || recent(*ended))
        {
            return outcome.clone();
        }
        let begin = Instant::now();
        let limit = self.options.fetch_limit;
        let refresh = tokio::time::timeout(limit, self.refresh_now());
        let outcome = refresh.await.unwrap_or(Err(FollowError::TooSlow(limit)));
        self.report(begin, &outcome);
        outcome
    }

    /// Remembers how a refresh ended, and says so when that is news.
    fn report(&self, begin: Instant, outcome: &Result<(), FollowError>) {
        let mut state = self.following.state();
        if outcome.is_ok() {
            state.confirmed = Some(begin);
        }
        let last = state.attempted.replace((Instant::now(), outcome.clone()));
        drop(state);
        let before = last.and_then(|(_, outcome)| outcome.err());
        match outcome {
            Ok(()) if before.is_some() => info!(log = self.name(), "log followed again"),
            Err(error) if before.is_none_or(|before| !before.is_like(error)) => {
                warn!(log = self.name(), %error, "checkpoint not refreshed");
            }
            _ => {}
        }
    }

    /// Says which upstreams were passed over although the log is followed, when that is news.
    fn report_passed_over(&self, passed_over: BTreeMap<usize, FollowError>) {
        let mut state = self.following.state();
        let before = std::mem::replace(&mut state.passed_over, passed_over.clone());
        drop(state);
        for (place, error) in &passed_over {
            if before
                .get(place)
                .is_none_or(|before| !before.is_like(error))
            {
                let upstream = self.upstreams.name(*place);
                warn!(log = self.name(), upstream, %error, "upstream's checkpoint passed over");
            }
        }
        for place in before
            .keys()
            .filter(|place| !passed_over.contains_key(place))
        {
            let upstream = self.upstreams.name(*place);
            info!(
                log = self.name(),
                upstream, "upstream's checkpoint passed over no longer"
            );
        }
    }

    async fn refresh_now(self: &Arc<Self>) -> Result<(), FollowError> {
        if self.upstreams.is_empty() {
            return Err(FollowError::Offline);
        }
        let limit = self.options.checkpoint_bytes;
        // When two upstreams are asked beside each other, one offer is judged after the other.
        let turn = tokio::sync::Mutex::new(());
        let turn = &turn;
        let finish = self.upstreams.checkpoint(|asked: Asked| {
            async move {
                let note = asked.checkpoint(limit).await;
                let note = note.map_err(Passed::Fetch)?;
                let _turn = turn.lock().await;
                self.consider(&asked, note).await.map_err(Passed::Wrong)
            }
            .boxed()
        });
        let finish = finish.await;
        let passed = finish
            .passed
            .into_iter()
            .map(|(place, passed)| match passed {
                Passed::Fetch(error) => (place, FollowError::Fetch(error)),
                Passed::Wrong(error) => (place, error),
            });
        match finish.won {
            Some(_) => {
                self.report_passed_over(passed.collect());
                Ok(())
            }
            None => {
                // The first of those that say most: `max_by_key` would give the last.
                let told = passed.map(|(_, error)| error).reduce(|told, error| {
                    if error.weight() > told.weight() {
                        error
                    } else {
                        told
                    }
                });
                Err(told.unwrap_or(FollowError::Offline))
            }
        }
    }

    /// Decides about the checkpoint that an upstream offered, and follows it if it is a larger tree
    /// of the same history.
    async fn consider(self: &Arc<Self>, asked: &Asked, note: Bytes) -> Result<(), FollowError> {
        let offered = self
            .open(&note)
            .inspect_err(|error| self.report_failure("checkpoint", asked, error))?;
        if self.store.get().is_none() {
            // First contact under this key; but the log may have been followed under another.
            self.restore_origin(&offered.origin)
                .map_err(|error| FollowError::Store(error.to_string()))?;
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
        let (place, (spine, proven)) = self.fetch_spine(&edge, asked, old, new).await?;
        if conclude(&floor.checkpoint, &offered, proven) == Conclusion::SplitView {
            return Err(self.split_view(&floor, &offered, &note));
        }
        self.publish(offered, note, edge).await?;
        self.keep_spine(place, spine, new).await;
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
    ) -> Result<(usize, (Vec<(Tile, Bytes)>, Hash)), FollowError> {
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

    /// Fetches tiles of an offered tree, from the upstream that offered it, or else from another; says
    /// at which place that one is.
    async fn fetch_tree<'a, T: Send + 'a>(
        &'a self,
        offerer: &Asked,
        size: u64,
        ask: impl Fn(Asked) -> Answer<'a, T, FollowError>,
    ) -> Result<(usize, T), FollowError> {
        let finish = self.upstreams.tree(offerer.place(), ask).await;
        if let Some(proven) = finish.won {
            return Ok(proven);
        }
        let errors = finish.passed.into_iter().map(|(_, passed)| match passed {
            Passed::Fetch(source) => FollowError::Tiles { size, source },
            Passed::Wrong(error) => error,
        });
        Err(errors
            .max_by_key(FollowError::weight)
            .unwrap_or(FollowError::Offline))
    }

    /// The spine of `old` in the trusted tree.
    async fn spine_of(
        self: &Arc<Self>,
        trusted: &Arc<Trusted>,
        old: u64,
        new: u64,
    ) -> Result<Vec<(Tile, Bytes)>, FollowError> {
        try_join_all(spine(old, new).into_iter().map(async |tile| {
            let read = self.read_tile(trusted, tile).await;
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
    async fn keep_spine(&self, place: usize, spine: Vec<(Tile, Bytes)>, tree_size: u64) {
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
                self.store_tile(place, tile, tree_size).await;
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

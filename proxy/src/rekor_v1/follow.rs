//! Follows the trees of a log: what it says of itself is asked for, opened, and held against what was
//! trusted before.
//!
//! The order is the promise, as for tiles: the note is opened with known keys, the log's proof shows that
//! the tree we serve is the beginning of the offered one, the note is durable, and only then is it served.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::{FutureExt as _, TryFutureExt as _};
use tracing::{debug, info, warn};

use super::{
    RekorV1,
    api::{LogInfo, MAX_LOG_BYTES, MAX_SHARDS, TreeHead, TreeId},
    origin_of,
    shard::{Shard, Signed, to_store},
    verify::ShardOrigin,
};
use crate::{
    audit::Event,
    cache::usage::Counters,
    log::{
        FollowError,
        follow::ON_DEMAND_INTERVAL,
        following::Refresh,
        timeline::{Conclusion, Verdict, judge},
    },
    note::{NoteError, checkpoint::Checkpoint},
    tlog::Hash,
    trust::Trust,
    upstream::{
        Asked,
        race::Passed,
        trace::{Trace, scope},
    },
};

/// Where a log says what it is.
pub(super) const LOG: &str = "api/v1/log";

impl RekorV1 {
    /// Refreshes for ever, once a `refresh_interval`; in offline mode, only the keys.
    pub async fn follow(self: Arc<Self>) {
        loop {
            if self.upstreams.is_empty() {
                let _turn = self.following.turn().await;
                self.reload_keys();
            } else {
                // Reported where it happens; the next turn tries again.
                let _ = self.refresh().await;
            }
            tokio::time::sleep(self.refresh_interval()).await;
        }
    }

    /// Asks the log for its state now.
    ///
    /// # Errors
    /// Why what is served did not change or was not confirmed.
    pub async fn refresh(&self) -> Result<(), FollowError> {
        self.refresh_unless(|_| false).await
    }

    /// As [`RekorV1::refresh`], unless the last one ended less than a second ago, whose outcome it then
    /// shares. Waits no longer than a client does.
    ///
    /// # Errors
    /// As [`RekorV1::refresh`].
    pub async fn refresh_on_demand(self: &Arc<Self>) -> Result<(), FollowError> {
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

    /// How old what is served is; `None` if nothing is served, or nobody knows.
    pub fn served_age(&self) -> Option<Duration> {
        self.following.served_age()
    }

    /// Time since the log last confirmed what is served; `None` if not since this start.
    pub fn age(&self) -> Option<Duration> {
        self.following.confirmed().map(|at| at.elapsed())
    }

    /// How the last refresh ended; `None` before the first.
    pub fn last_refresh(&self) -> Option<Result<(), FollowError>> {
        self.following.last()
    }

    async fn refresh_unless(&self, recent: impl Fn(Instant) -> bool) -> Result<(), FollowError> {
        let refresh = Refresh {
            log: self.name(),
            keys: &self.options.keys,
            limit: self.options.fetch_limit,
            reload_keys: || {
                self.reload_keys();
            },
            ask: || self.refresh_now().map_ok(|()| Duration::ZERO).boxed(),
        };
        let outcome = self.following.refresh(recent, refresh).await;
        self.divide_disk_share();
        outcome
    }

    /// Asks once.
    async fn refresh_now(&self) -> Result<(), FollowError> {
        if self.upstreams.is_empty() {
            return Err(FollowError::Offline);
        }
        // When two upstreams are asked beside each other, one offer is judged after the other.
        let turn = tokio::sync::Mutex::new(());
        let turn = &turn;
        let finish = self.upstreams.checkpoint(|asked: Asked| {
            async move {
                let json = asked.api(LOG, MAX_LOG_BYTES).await.map_err(Passed::Fetch)?;
                let _turn = turn.lock().await;
                self.consider_log(&asked, &json)
                    .await
                    .map_err(Passed::Wrong)
            }
            .boxed()
        });
        let finish = finish.await;
        self.following
            .outcome_of(self.name(), &self.upstreams, finish)
    }

    /// Decides about everything that a log said of itself. Which shard grows is its word alone; what is
    /// trusted of a shard does not depend on it.
    async fn consider_log(&self, asked: &Asked, json: &[u8]) -> Result<(), FollowError> {
        let info = LogInfo::parse(json).map_err(FollowError::Api);
        let info = info.inspect_err(|error| self.report_failure("checkpoint", asked, error))?;
        // The one that grows comes last, so that after a restart it is known by its age.
        for head in &info.inactive_shards {
            match self.consider_head(asked, head).await {
                Ok(_) => {}
                // A server that was restarted without the key of an old shard has no note for it; and an
                // old shard's key need not be known here. Its entries are refused, and no others.
                Err(FollowError::Note(NoteError::Malformed(_) | NoteError::UnknownKeys { .. })) => {
                    debug!(log = self.name(), tree = %head.tree_id, "a shard is not followed");
                }
                Err(error) => return Err(error),
            }
        }
        let active = self.consider_head(asked, &info.active).await?;
        let before = self.active.swap(active.tree().0, Ordering::Relaxed);
        if before != active.tree().0 {
            info!(log = self.name(), tree = %active.tree(), "this shard grows now");
        }
        self.show_size();
        Ok(())
    }

    async fn consider_head(
        &self,
        asked: &Asked,
        head: &TreeHead,
    ) -> Result<Arc<Shard>, FollowError> {
        let stated = Some((head.tree_size, head.root_hash));
        self.consider(asked, head.tree_id, &head.signed_tree_head, stated)
            .await
    }

    /// Decides about a note that an upstream offered for a shard, with the size and root that it `stated`
    /// beside it, and follows it if it is a larger tree of the same history. The caller has the turn.
    pub(super) async fn consider(
        &self,
        asked: &Asked,
        tree: TreeId,
        note: &str,
        stated: Option<(u64, Hash)>,
    ) -> Result<Arc<Shard>, FollowError> {
        let report = |error: &FollowError| match error {
            FollowError::Note(NoteError::UnknownKeys { .. }) | FollowError::Unproven { .. } => {}
            error => self.report_failure("checkpoint", asked, error),
        };
        let offered = self.open(tree, note, stated).inspect_err(report)?;
        let shard = self.shard_of(tree, &offered)?;
        if shard.is_below_least(offered.size) {
            return Err(FollowError::Unproven {
                old: offered.size,
                new: shard.floor().map_or(0, |floor| floor.checkpoint.size),
                reason: "a larger checkpoint is damaged here".to_owned(),
            });
        }
        let signed = Signed {
            checkpoint: offered,
            note: Bytes::copy_from_slice(note.as_bytes()),
        };
        let not_expired = || match self.options.keys.is_expired() {
            true => Err(FollowError::TrustExpired {
                offered: signed.checkpoint.size,
            }),
            false => Ok(()),
        };
        let Some(floor) = shard.floor() else {
            not_expired()?;
            self.publish(&shard, signed).await?;
            return Ok(shard);
        };
        let offered = &signed.checkpoint;
        let conclusion = match judge(&floor.checkpoint, offered) {
            Verdict::Refresh if shard.trusted().is_some() => return Ok(shard),
            Verdict::Refresh => Conclusion::Advance,
            Verdict::SplitView => Conclusion::SplitView,
            Verdict::ProveConsistency { .. } => {
                let history = self.history(asked, tree, &floor.checkpoint, offered).await;
                history.inspect_err(report)?.0
            }
        };
        match conclusion {
            Conclusion::Advance => {
                not_expired()?;
                self.publish(&shard, signed).await?;
                Ok(shard)
            }
            Conclusion::SplitView => Err(self.split_view(&shard, &floor, offered, note)),
            Conclusion::Stale => Err(FollowError::Stale {
                trusted: floor.checkpoint.size,
                offered: offered.size,
            }),
        }
    }

    /// The checkpoint that a known key signed for this shard.
    fn open(
        &self,
        tree: TreeId,
        note: &str,
        stated: Option<(u64, Hash)>,
    ) -> Result<Checkpoint, FollowError> {
        let trust = self.options.keys.current();
        let offered = Checkpoint::parse(trust.open(note.as_bytes())?)?;
        let shard = ShardOrigin::of(&offered.origin).filter(|shard| {
            let known = self.hostname();
            shard.tree == tree && known.is_none_or(|known| known == shard.hostname)
        });
        if shard.is_none() {
            return Err(FollowError::Origin {
                want: origin_of(self.hostname().unwrap_or("…"), tree),
                got: offered.origin,
            });
        }
        match stated {
            Some(stated) if stated != (offered.size, offered.root) => Err(FollowError::OtherTree),
            _ => Ok(offered),
        }
    }

    /// The shard of a checkpoint that a known key signed.
    fn shard_of(&self, tree: TreeId, signed: &Checkpoint) -> Result<Arc<Shard>, FollowError> {
        if let Some(shard) = self.shard(tree) {
            return Ok(shard);
        }
        let store = self.cache.log(&signed.origin);
        let shard = Shard::restore(tree, store, &self.options.keys.current());
        let shard = shard.map_err(|error| FollowError::Store(error.to_string()))?;
        self.adopt(shard)
    }

    /// Takes a shard among those that are known; `Err` if there are too many.
    fn adopt(&self, shard: Shard) -> Result<Arc<Shard>, FollowError> {
        let store = shard.store();
        if let Some(origin) = ShardOrigin::of(store.origin()) {
            let _ = self.hostname.set(origin.hostname.to_owned()); // the first one teaches it
        }
        store
            .claim(self.name())
            .map_err(|other| FollowError::Taken {
                origin: store.origin().to_owned(),
                other,
            })?;
        store.usage.count(Counters {
            evictions: self.metrics.evictions.with_label_values(&[self.name()]),
            refused: self.metrics.store_refused.with_label_values(&[self.name()]),
        });
        let mut shards = self.lock_shards();
        if shards.len() >= MAX_SHARDS && !shards.contains_key(&shard.tree()) {
            let reason = format!("more than {MAX_SHARDS} shards are not followed");
            return Err(FollowError::Store(reason));
        }
        // Two may come at once for a shard that is new: what the first one trusts counts.
        let shard = shards
            .entry(shard.tree())
            .or_insert_with(|| Arc::new(shard));
        let shard = Arc::clone(shard);
        drop(shards);
        self.divide_disk_share();
        Ok(shard)
    }

    /// Makes a proven tree durable, then serves it.
    async fn publish(&self, shard: &Arc<Shard>, signed: Signed) -> Result<(), FollowError> {
        let Signed { checkpoint, note } = &signed;
        self.cache
            .store_checkpoint(shard.store(), checkpoint.size, to_store(note))
            .await
            .map_err(|error| FollowError::Store(error.to_string()))?;
        self.options.audit.record(&Event::CheckpointTrusted {
            log: self.name(),
            origin: &checkpoint.origin,
            size: checkpoint.size,
            root: checkpoint.root.to_string(),
        });
        let (origin, size) = (&checkpoint.origin, checkpoint.size);
        debug!(log = self.name(), origin, size, "checkpoint trusted");
        shard.serve(signed);
        self.show_size();
        Ok(())
    }

    fn show_size(&self) {
        if let Some(trusted) = self.active().and_then(|active| active.trusted()) {
            let size = i64::try_from(trusted.checkpoint.size).unwrap_or(i64::MAX);
            let gauge = &self.metrics.checkpoint_size;
            gauge.with_label_values(&[self.name()]).set(size);
        }
    }

    /// Counts a split view, keeps both notes, and says where once.
    pub(super) fn split_view(
        &self,
        shard: &Shard,
        floor: &Signed,
        offered: &Checkpoint,
        note: &str,
    ) -> FollowError {
        let counter = &self.metrics.split_views;
        counter.with_label_values(&[self.name()]).inc();
        let error = FollowError::SplitView {
            trusted: floor.checkpoint.size,
            offered: offered.size,
        };
        let kept = shard
            .store()
            .files
            .write_evidence(&floor.note, note.as_bytes());
        let evidence = match kept {
            Ok(Some(path)) => path.display().to_string(),
            Ok(None) => return error, // known already
            Err(error) => format!("not kept: {error}"),
        };
        self.options.audit.record(&Event::SplitView {
            log: self.name(),
            trusted: floor.checkpoint.size,
            offered: offered.size,
            evidence: &evidence,
        });
        warn!(
            log = self.name(),
            origin = floor.checkpoint.origin,
            trusted_root = %floor.checkpoint.root,
            offered_root = %offered.root,
            evidence,
            "split view; the trusted checkpoint stays served"
        );
        error
    }

    /// Takes up what the cache trusted before this start, proven again.
    ///
    /// A log that nobody named is the first of which a known key signed something; where anybody's
    /// signature will do, the log itself must say which one it is.
    pub(super) fn restore(&self) -> io::Result<()> {
        let trust = self.options.keys.current();
        let mut newest = None;
        for origin in self.cache.origins()? {
            let Some(shard) = ShardOrigin::of(&origin) else {
                continue; // a log with tiles
            };
            let known = self.hostname();
            if known.is_some_and(|known| known != shard.hostname) {
                continue;
            }
            let restored = Shard::restore(shard.tree, self.cache.log(&origin), &trust)?;
            if known.is_none() && (restored.trusted().is_none() || *trust == Trust::Anyone) {
                continue;
            }
            let stored_at = restored.stored_at();
            if let Some(trusted) = restored.trusted() {
                let size = trusted.checkpoint.size;
                info!(
                    log = self.name(),
                    origin, size, "checkpoint taken up from the cache"
                );
                if newest.is_none_or(|(at, _)| stored_at > at) {
                    newest = Some((stored_at, shard.tree));
                }
            }
            if let Err(error) = self.adopt(restored) {
                warn!(log = self.name(), origin, %error, "a shard in the cache is not taken up");
            }
        }
        if let Some((stored_at, tree)) = newest {
            self.active.store(tree.0, Ordering::Relaxed);
            self.following.restored(stored_at);
            self.show_size();
        }
        Ok(())
    }

    /// Looks whether there are other keys by now, as something is signed by one that is not known. Says
    /// whether there are.
    pub(super) async fn has_other_keys(&self) -> bool {
        let reloaded = async || {
            let _turn = self.following.turn().await;
            self.reload_keys()
        };
        reloaded().await || (self.options.keys.learn().await && reloaded().await)
    }

    /// Reads the keys again. If they are others, what is served is what they signed. Says whether they
    /// are. The caller has the turn.
    fn reload_keys(&self) -> bool {
        let Self { options, .. } = self;
        if !options.keys.reload_and_tell(self.name(), &options.audit) {
            return false;
        }
        let trust = self.options.keys.current();
        for shard in self.shards() {
            if let Err(error) = shard.take_up(&trust) {
                warn!(log = self.name(), %error, "cannot read what was trusted before");
            }
        }
        // The first keys there are: now it can be told what of the cache is this log's.
        if self.shards().is_empty()
            && let Err(error) = self.restore()
        {
            warn!(log = self.name(), %error, "cannot read what was trusted before");
        }
        true
    }
}

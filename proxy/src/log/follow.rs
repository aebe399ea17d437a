//! Follows a log's checkpoints: when they are asked for, and what is said of it. What becomes of an
//! offered one is decided in [`offer`](super::offer).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::FutureExt as _;

use super::{FollowError, Log, following::Refresh};
use crate::{
    peers,
    upstream::{
        Asked, FetchError,
        race::Passed,
        trace::{Trace, scope},
    },
};

/// Shortest time between two refreshes that clients cause.
pub(crate) const ON_DEMAND_INTERVAL: Duration = Duration::from_secs(1);

impl Log {
    /// Refreshes for ever, once a `refresh_interval`; in offline mode, only the keys. Ends when it turns
    /// out that this is a Rekor v1 log, which has no tiles.
    pub async fn follow(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.follow_interval());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let interval = self.follow_interval();
            if ticks.period() != interval {
                ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            }
            if !self.upstreams.is_empty() || self.leader().is_some() {
                // Reported where it happens; the next tick tries again.
                let _ = self.refresh().await;
                if self.is_rekor_v1() {
                    return;
                }
            } else {
                self.reload_keys();
            }
        }
    }

    /// How often a checkpoint is asked for: of the log as configured, of another replica more often,
    /// so that replicas differ by little.
    fn follow_interval(&self) -> Duration {
        match self.leader() {
            Some(_) => self.refresh_interval().min(peers::INTERVAL),
            None => self.refresh_interval(),
        }
    }

    /// Asks the log for its checkpoint now, or the replica whose turn that is.
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

    /// Follows the log no further: on return no refresh is under way, and none begins. What is served
    /// stays served, to whoever has it in hand.
    pub(crate) async fn retire(&self) {
        self.following.retire().await;
    }

    /// Follows the log again.
    pub(crate) fn resume(&self) {
        self.following.resume();
    }

    /// How old what is served is: time since the log confirmed it, before this start if need be.
    /// `None` if nothing is served, or nobody knows.
    pub fn served_age(&self) -> Option<Duration> {
        self.following.served_age()
    }

    /// Whether the last refresh found a Rekor v1 log, where nothing was trusted before.
    pub fn is_rekor_v1(&self) -> bool {
        let last = self.following.last();
        let found = matches!(
            last,
            Some(Err(FollowError::Fetch(FetchError::RekorV1 { .. })))
        );
        found && self.trusted().is_none() && !self.is_barred()
    }

    /// How the last refresh ended; `None` before the first.
    pub fn last_refresh(&self) -> Option<Result<(), FollowError>> {
        self.following.last()
    }

    /// See [`Following::refresh`](super::following::Following::refresh).
    async fn refresh_unless(
        self: &Arc<Self>,
        recent: impl Fn(Instant) -> bool,
    ) -> Result<(), FollowError> {
        let refresh = Refresh {
            log: self.name(),
            keys: &self.options.keys,
            limit: self.options.fetch_limit,
            reload_keys: || self.reload_keys(),
            ask: || self.refresh_now().boxed(),
        };
        self.following.refresh(recent, refresh).await
    }

    /// Asks once. Says how long ago the log has confirmed what is served.
    async fn refresh_now(self: &Arc<Self>) -> Result<Duration, FollowError> {
        if let Some(followed) = self.follow_owner().await {
            return followed;
        }
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
        self.following
            .outcome_of(self.name(), &self.upstreams, finish)
            .map(|()| Duration::ZERO)
    }
}

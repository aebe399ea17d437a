//! Follows a log's checkpoints: when they are asked for, and what is said of it. What becomes of an
//! offered one is decided in [`offer`](super::offer).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures::future::FutureExt as _;
use tracing::{info, warn};

use super::{FollowError, Log};
use crate::{
    peers,
    upstream::{
        Asked,
        race::Passed,
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
    /// Whether no refresh may begin any more.
    retired: AtomicBool,
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
        let mut ticks = tokio::time::interval(self.follow_interval());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let interval = self.follow_interval();
            if ticks.period() != interval {
                ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            }
            self.reload_keys();
            if !self.upstreams.is_empty() || self.leader().is_some() {
                // Reported where it happens; the next tick tries again.
                let _ = self.refresh().await;
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
        let _turn = self.following.turn.lock().await;
        self.following.retired.store(true, Ordering::Relaxed);
    }

    /// Follows the log again.
    pub(crate) fn resume(&self) {
        self.following.retired.store(false, Ordering::Relaxed);
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
        if self.following.retired.load(Ordering::Relaxed) {
            return Err(FollowError::Offline);
        }
        let begin = Instant::now();
        let limit = self.options.fetch_limit;
        let refresh = tokio::time::timeout(limit, self.refresh_now());
        let outcome = refresh.await.unwrap_or(Err(FollowError::TooSlow(limit)));
        self.report(begin, &outcome);
        outcome.map(|_| ())
    }

    /// Remembers how a refresh ended, and says so when that is news.
    fn report(&self, begin: Instant, outcome: &Result<Duration, FollowError>) {
        let mut state = self.following.state();
        if let Ok(ago) = outcome
            && let Some(confirmed) = begin.checked_sub(*ago)
        {
            state.confirmed = state.confirmed.max(Some(confirmed));
        }
        let outcome = outcome.clone().map(|_| ());
        let last = state.attempted.replace((Instant::now(), outcome.clone()));
        drop(state);
        let before = last.and_then(|(_, outcome)| outcome.err());
        match outcome {
            Ok(()) if before.is_some() => info!(log = self.name(), "log followed again"),
            Err(error) if before.is_none_or(|before| !before.is_like(&error)) => {
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
                Ok(Duration::ZERO)
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
}

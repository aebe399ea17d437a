//! What following a log remembers between refreshes, and what is said of it: once, when it is news.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures::future::BoxFuture;
use tracing::{info, warn};

use super::FollowError;
use crate::{
    trust::TrustedKeys,
    upstream::{
        FetchError, Upstreams,
        race::{Finish, Passed},
    },
};

/// How the refreshes of one log went.
#[derive(Debug, Default)]
pub(crate) struct Following {
    /// Held during a refresh: one at a time.
    turn: tokio::sync::Mutex<()>,
    /// Whether no refresh may begin any more.
    retired: AtomicBool,
    state: Mutex<State>,
}

/// What a refresh of a log is made of.
pub(crate) struct Refresh<'a, Reload, Ask> {
    /// Its name.
    pub(crate) log: &'a str,
    /// Who may sign for it.
    pub(crate) keys: &'a TrustedKeys,
    /// Longest time for all of it.
    pub(crate) limit: Duration,
    /// Reads the keys again, and takes up what others have signed.
    pub(crate) reload_keys: Reload,
    /// Asks once.
    pub(crate) ask: Ask,
}

/// Says how long ago the log has confirmed what is served.
pub(crate) type Asking<'a> = BoxFuture<'a, Result<Duration, FollowError>>;

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
    /// Waits until nobody else decides about a checkpoint.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// On return no refresh is under way, and none is to begin.
    pub(crate) async fn retire(&self) {
        let _turn = self.turn().await;
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Refreshes may begin again.
    pub(crate) fn resume(&self) {
        self.retired.store(false, Ordering::Relaxed);
    }

    /// Refreshes, unless one that is `recent` has ended, or one ended while this one waited for its
    /// turn: then its outcome is shared, however many wait.
    pub(crate) async fn refresh<'a>(
        &self,
        recent: impl Fn(Instant) -> bool,
        refresh: Refresh<'a, impl Fn(), impl Fn() -> Asking<'a>>,
    ) -> Result<(), FollowError> {
        let Refresh {
            log,
            keys,
            limit,
            reload_keys,
            ask,
        } = refresh;
        let asked = Instant::now();
        let _turn = self.turn().await;
        if let Some(outcome) = self.ended_since(asked, recent) {
            return outcome;
        }
        if self.retired.load(Ordering::Relaxed) {
            return Err(FollowError::Offline);
        }
        let begin = Instant::now();
        // In this turn: whoever finds nothing trusted because its key went waits until the log has
        // offered what the next one signed.
        reload_keys();
        let refresh = async {
            match ask().await {
                Err(error) if error.is_of_unknown_key() && keys.learn().await => {
                    reload_keys();
                    ask().await
                }
                outcome => outcome,
            }
        };
        let refresh = tokio::time::timeout(limit, refresh);
        let outcome = refresh.await.unwrap_or(Err(FollowError::TooSlow(limit)));
        self.report(log, begin, &outcome);
        outcome.map(|_| ())
    }

    /// What asking each upstream came to: the log is followed if one was believed; else what says most is
    /// told.
    pub(crate) fn outcome_of<T>(
        &self,
        log: &str,
        upstreams: &Upstreams,
        finish: Finish<T, FollowError>,
    ) -> Result<(), FollowError> {
        let passed = finish.passed.into_iter();
        let passed = passed.map(|(place, passed)| match passed {
            Passed::Fetch(error) => (place, FollowError::Fetch(error)),
            Passed::Wrong(error) => (place, error),
        });
        if finish.won.is_some() {
            self.report_passed_over(log, upstreams, passed.collect());
            return Ok(());
        }
        let told = FollowError::that_says_most(passed.map(|(_, error)| error));
        Err(told.unwrap_or(FollowError::Offline))
    }

    /// The outcome of the last refresh, if it ended after this one was `asked` for, or is `recent`.
    fn ended_since(
        &self,
        asked: Instant,
        recent: impl Fn(Instant) -> bool,
    ) -> Option<Result<(), FollowError>> {
        let state = self.state();
        let (ended, outcome) = state.attempted.as_ref()?;
        (*ended >= asked || recent(*ended)).then(|| outcome.clone())
    }

    /// When the log last confirmed what is served; `None` if not since this start.
    pub(crate) fn confirmed(&self) -> Option<Instant> {
        self.state().confirmed
    }

    /// Says when a restored checkpoint was stored; `None` if nobody knows.
    pub(crate) fn restored(&self, stored_at: Option<SystemTime>) {
        self.state().stored_at = stored_at;
    }

    /// How old what is served is: time since the log confirmed it, before this start if need be.
    pub(crate) fn served_age(&self) -> Option<Duration> {
        let state = self.state();
        match (state.confirmed, state.stored_at) {
            (Some(confirmed), _) => Some(confirmed.elapsed()),
            (None, Some(stored_at)) => stored_at.elapsed().ok(),
            (None, None) => None,
        }
    }

    /// How the last refresh ended; `None` before the first.
    pub(crate) fn last(&self) -> Option<Result<(), FollowError>> {
        let state = self.state();
        state.attempted.as_ref().map(|(_, outcome)| outcome.clone())
    }

    /// Remembers how a refresh that began at `begin` ended, with how long before that the log confirmed
    /// what is served; says so when that is news.
    fn report(&self, log: &str, begin: Instant, outcome: &Result<Duration, FollowError>) {
        let mut state = self.state();
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
            Ok(()) if before.is_some() => info!(log, "log followed again"),
            // No fault: it is followed as what it is.
            Err(ref error @ FollowError::Fetch(FetchError::RekorV1 { ref upstream }))
                if before.as_ref().is_none_or(|before| !before.is_like(error)) =>
            {
                info!(log, upstream, "this is a Rekor v1 log");
            }
            Err(error) if before.is_none_or(|before| !before.is_like(&error)) => {
                warn!(log, %error, "checkpoint not refreshed");
            }
            _ => {}
        }
    }

    /// Says which upstreams were passed over although the log is followed, when that is news.
    fn report_passed_over(
        &self,
        log: &str,
        upstreams: &Upstreams,
        passed_over: BTreeMap<usize, FollowError>,
    ) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.passed_over, passed_over.clone());
        drop(state);
        for (place, error) in &passed_over {
            let told = before.get(place);
            if told.is_none_or(|before| !before.is_like(error)) {
                let upstream = upstreams.name(*place);
                warn!(log, upstream, %error, "upstream's checkpoint passed over");
            }
        }
        let no_longer = before
            .keys()
            .filter(|place| !passed_over.contains_key(place));
        for place in no_longer {
            let upstream = upstreams.name(*place);
            info!(log, upstream, "upstream's checkpoint passed over no longer");
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Each write replaces whole fields, so a poisoned state is still a sound one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

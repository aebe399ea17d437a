//! What following a log remembers between refreshes, and what is said of it: once, when it is news.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tracing::{info, warn};

use super::FollowError;
use crate::upstream::{FetchError, Upstreams};

/// How the refreshes of one log went.
#[derive(Debug, Default)]
pub(crate) struct Following {
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

    /// Whether no refresh may begin. To be asked by whoever has the turn.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// The outcome of the last refresh, if it ended after this one was `asked` for, or is `recent`.
    pub(crate) fn ended_since(
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
    pub(crate) fn report(
        &self,
        log: &str,
        begin: Instant,
        outcome: &Result<Duration, FollowError>,
    ) {
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
    pub(crate) fn report_passed_over(
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

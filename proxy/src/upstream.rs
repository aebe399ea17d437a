//! Asks the upstreams of a log for bytes, within limits. What comes back is unverified.
//!
//! [`Upstreams`] are all of a log: whom to ask, and when to ask somebody else, is decided in
//! [`order`] and [`race`], which do no I/O. One [`Upstream`] is asked over HTTP ([`web`]) or is a
//! directory on this machine ([`directory`]).

mod all;
pub(crate) mod directory;
mod error;
pub mod order;
pub mod race;
mod rekor;
pub(crate) mod reread;
pub mod retry;
pub mod trace;
mod web;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::StatusCode;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};
use tracing::{info, warn};
use url::Url;

pub(crate) use self::web::{CHECKPOINT_AGE, HOP, How, ONLY_IF_CACHED, USER_AGENT, Web};
pub use self::{
    all::{Asked, Upstreams},
    error::FetchError,
    web::{Answered, Passed},
};
use self::{rekor::Bases, web::Got};
use crate::{config::UpstreamSettings, metrics::UpstreamMetrics, note};

/// Shortest time between two lines that say the same of an upstream which now works, now does not.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Most kinds of failure that are remembered as said; of what comes on top nothing is said.
const MOST_SAID: usize = 32;

/// One place that serves a log.
#[derive(Debug)]
pub struct Upstream {
    settings: UpstreamSettings,
    web: Web,
    /// Requests under way at once. Each upstream has its own, so that one that hangs does not keep
    /// the others from being asked. Held for one request, never while waiting for a proof.
    slots: Semaphore,
    /// Where checkpoint and tiles are, if that is not what was configured.
    found: ArcSwapOption<Bases>,
    health: Mutex<Health>,
    metrics: UpstreamMetrics,
}

/// What is known of an upstream from asking it.
#[derive(Debug, Default)]
struct Health {
    /// Until when it asked not to be asked.
    quiet_until: Option<Instant>,
    /// How the last question of each kind ended; `None` before the first.
    checkpoint: Option<Result<(), String>>,
    tile: Option<Result<(), String>>,
    /// What it turned out to be when it was last looked at closely, and when that was.
    looked_at: Option<(Instant, FetchError)>,
    /// Kinds of failure with tiles that were said, and when.
    said: HashMap<String, Instant>,
}

/// What an upstream is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Question {
    Checkpoint,
    /// An entry by itself, which may well not exist.
    Entry,
    Tile,
}

impl Upstream {
    /// Prepares a client; connects to nothing.
    ///
    /// # Errors
    /// When authorities or the credential cannot be read or used, or the machine has no usable TLS.
    pub fn new(
        settings: UpstreamSettings,
        requests: usize,
        metrics: UpstreamMetrics,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            web: Web::new(&settings)?,
            settings,
            slots: Semaphore::new(requests),
            found: ArcSwapOption::empty(),
            health: Mutex::default(),
            metrics,
        })
    }

    /// Its name in metrics, records and messages.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Its base URL.
    pub fn url(&self) -> &Url {
        &self.settings.url
    }

    /// Longest time for one request.
    pub fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Whether what it was last asked for was there and right; `None` before it was asked.
    pub fn is_healthy(&self) -> Option<bool> {
        let health = self.health();
        let asked = [&health.checkpoint, &health.tile];
        let asked: Vec<_> = asked.into_iter().flatten().collect();
        (!asked.is_empty()).then(|| asked.iter().all(|outcome| outcome.is_ok()))
    }

    /// Why it is not healthy.
    pub fn last_error(&self) -> Option<String> {
        let health = self.health();
        let error = |outcome: &Option<Result<(), String>>| outcome.clone()?.err();
        error(&health.checkpoint).or_else(|| error(&health.tile))
    }

    /// Fetches the checkpoint. Looks for it elsewhere if it is not where it should be and nobody has
    /// said what kind of log this is.
    async fn checkpoint(&self, limit: usize, how: &How) -> Result<Got, FetchError> {
        let base = self.bases().checkpoint;
        let asked = self.request(&base, "checkpoint", limit, how).await;
        match asked {
            Err(error @ (FetchError::NotFound { .. } | FetchError::ReadElsewhere { .. }))
                if self.settings.learns =>
            {
                self.look_closely(error, limit, how).await
            }
            asked => asked,
        }
    }

    /// Fetches what is at `path`, such as `tile/0/000`.
    async fn tile(&self, path: &str, limit: usize, how: &How) -> Result<Bytes, FetchError> {
        let got = self.request(&self.bases().tiles, path, limit, how).await;
        got.map(|got| got.bytes)
    }

    /// Fetches what its API has at `path`, which may have a query.
    async fn api(&self, path: &str, limit: usize, how: &How) -> Result<Bytes, FetchError> {
        let got = self.request(&self.settings.url, path, limit, how).await;
        match got {
            Ok(got) => Ok(got.bytes),
            // Of an API, this says that part of it is switched off.
            Err(FetchError::ReadElsewhere { upstream }) => Err(FetchError::Status {
                upstream,
                status: StatusCode::NOT_IMPLEMENTED,
                quiet: None,
            }),
            Err(error) => Err(error),
        }
    }

    /// Hands on a client's request, once.
    async fn pass(&self, request: &Passed, limit: usize) -> Result<Answered, FetchError> {
        let base = match &self.settings.write_url {
            Some(write_url) if request.writes => write_url,
            _ => &self.settings.url,
        };
        let url = base
            .join(&request.path)
            .map_err(|error| self.network(error.to_string()))?;
        let _slot = self.slot().await?;
        let begin = Instant::now();
        let answered = self.web.pass(url, request, limit).await;
        let status = match &answered {
            Ok(answered) => answered.status.as_str(),
            Err(error) => error.status(),
        };
        self.metrics.observe(status, begin.elapsed());
        answered
    }

    /// Asks for everything below this path from now on.
    pub(crate) fn is_below(&self, path: &str) {
        if let Ok(base) = self.settings.url.join(path) {
            let bases = Bases {
                checkpoint: base.clone(),
                tiles: base,
            };
            self.found.store(Some(bases.into()));
        }
    }

    /// Looks at the other places where the checkpoint may be, and at what else this may be.
    async fn look_closely(
        &self,
        error: FetchError,
        limit: usize,
        how: &How,
    ) -> Result<Got, FetchError> {
        // Where it was found once it is not any more.
        self.found.store(None);
        if let Some((at, conclusion)) = &self.health().looked_at
            && at.elapsed() < rekor::LOOK_EVERY
        {
            return Err(conclusion.clone());
        }
        for bases in rekor::elsewhere(&self.settings) {
            let asked = self.request(&bases.checkpoint, "checkpoint", limit, how);
            // Some servers have a page for every path: only a note is one.
            if let Ok(note) = asked.await
                && note::text_unverified(&note.bytes).is_ok()
            {
                info!(
                    upstream = self.name(),
                    url = %bases.checkpoint,
                    "upstream's checkpoint and tiles found"
                );
                self.found.store(Some(bases.into()));
                return Ok(note);
            }
        }
        let url = &self.settings.url;
        let described = self.request(url, rekor::V1_LOG, limit, how).await;
        let conclusion = match described {
            Ok(body) if rekor::is_v1_log(&body.bytes) => FetchError::RekorV1 {
                upstream: self.name().to_owned(),
            },
            _ => error,
        };
        self.health().looked_at = Some((Instant::now(), conclusion.clone()));
        Err(conclusion)
    }

    fn bases(&self) -> Bases {
        let found = self.found.load_full();
        found.map_or_else(
            || rekor::configured(&self.settings),
            |found| (*found).clone(),
        )
    }

    /// One request, once there is a slot for it.
    async fn request(
        &self,
        base: &Url,
        path: &str,
        limit: usize,
        how: &How,
    ) -> Result<Got, FetchError> {
        let url = base
            .join(path)
            .map_err(|error| self.network(error.to_string()))?;
        let _slot = self.slot().await?;
        let left = self.quiet_for();
        if !left.is_zero() {
            return Err(FetchError::Throttled {
                upstream: self.name().to_owned(),
                left,
            });
        }
        let begin = Instant::now();
        let outcome = match url.scheme() {
            "file" => {
                let read = directory::read(self.name(), base, path, limit, self.timeout()).await;
                read.map(|bytes| Got { bytes, age: None })
            }
            _ => self.web.get(url, limit, how).await,
        };
        if let Some(quiet) = outcome.as_ref().err().and_then(FetchError::quiet) {
            self.health().quiet_until = Some(Instant::now() + quiet);
        }
        let status = outcome.as_ref().map_or_else(FetchError::status, |_| "200");
        self.metrics.observe(status, begin.elapsed());
        outcome
    }

    /// A place among the requests under way.
    async fn slot(&self) -> Result<SemaphorePermit<'_>, FetchError> {
        // Never closed, so it is always had.
        let slot = self.slots.acquire().await;
        slot.map_err(|error| self.network(error.to_string()))
    }

    fn network(&self, message: String) -> FetchError {
        FetchError::Network {
            upstream: self.name().to_owned(),
            message,
        }
    }

    /// Asks it again from now on, whatever it said and turned out to be: a person knows better.
    fn forget(&self) {
        let mut health = self.health();
        health.quiet_until = None;
        health.looked_at = None;
    }

    /// How long it still wants to be left alone.
    fn quiet_for(&self) -> Duration {
        let until = self.health().quiet_until;
        until
            .map(|until| until.saturating_duration_since(Instant::now()))
            .unwrap_or_default()
    }

    /// Says that it has no tile or entry to give, once for each kind of reason until it works again.
    fn complain(&self, log: &str, question: Question, error: &FetchError) {
        if matches!(error, FetchError::Throttled { .. }) {
            return; // what it said then was told
        }
        let kind = error.kind();
        let mut health = self.health();
        if health.said.len() < MOST_SAID && !health.said.contains_key(kind) {
            health.said.insert(kind.to_owned(), Instant::now());
            drop(health);
            match question {
                Question::Entry => {
                    warn!(log, upstream = self.name(), %error, "entry not read from upstream");
                }
                Question::Checkpoint | Question::Tile => {
                    warn!(log, upstream = self.name(), %error, "tile not read from upstream");
                }
            }
        }
    }

    /// Remembers how a question ended: what came was right, or why not.
    fn note(&self, question: Question, outcome: Result<(), String>) {
        let mut health = self.health();
        if question != Question::Checkpoint && outcome.is_ok() {
            health.said.retain(|_, at| at.elapsed() < SAID_EVERY);
        }
        match question {
            Question::Checkpoint => health.checkpoint = Some(outcome),
            Question::Entry | Question::Tile => health.tile = Some(outcome),
        }
        drop(health);
        self.metrics.healthy(self.is_healthy().unwrap_or_default());
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        // Each write replaces whole fields, so a poisoned state is still a sound one.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Trust from a TUF repository: which logs there are, and whose signatures make a checkpoint theirs.
//!
//! A [`Tuf`] follows one repository from a pinned root. Online it is refreshed on a schedule, on demand
//! and when a checkpoint is signed by a key that is not known; each step is verified by the client
//! (`sigstore-tuf`), and only a refresh that came to its end, all targets read, replaces what is
//! trusted. Offline it starts from what it kept ([`store`]). What is refused changes nothing: the last
//! good trust stays, and each kind of lie has its own word ([`TufError::reason`]).
//!
//! Expiry is a policy ([`policy`]): once metadata has expired for longer than `tuf.expiry_grace`,
//! nothing new is believed with its keys, and what was proven with them stays served.
//!
//! Invariants: nothing is taken from the disk that does not verify from the pinned root; no role's
//! version goes down while `meta/` is there; a target counts only if it could be read.

pub mod client;
pub mod discover;
mod error;
mod floor;
mod load;
mod monitor;
pub mod policy;
mod repository;
mod service_map;
mod signing_config;
pub mod sigstore;
mod status;
mod store;
pub mod target;
mod trusted_root;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio::sync::Notify;
use tracing::{info, warn};
use url::Url;

pub use self::{
    discover::{FoundIn, FoundKey, FoundLog, Material},
    error::{REASONS, TufError},
    policy::RoleState,
    status::{State, TufStatus},
};
use self::{
    load::{Loaded, Pinned, Wanted},
    policy::{Standing, plausible, standing},
    repository::Remote,
    store::Store,
};
use crate::{
    cache::{Lock, LockError},
    config::{KeysOf, Kind, Source},
    metrics::Metrics,
};

/// Longest time for one refresh: some ten small files.
const REFRESH_LIMIT: Duration = Duration::from_secs(300);

/// Shortest time between two refreshes that unknown keys cause: whoever signs with one must not decide
/// how often the repository is asked.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(60);

/// Pause after the first refresh that failed; it doubles up to the ordinary interval.
const FIRST_RETRY: Duration = Duration::from_secs(5);

/// Of a metric that has one value, and none while nothing is followed.
const NO_LABELS: &[&str] = &[];

/// What a repository is followed by.
#[derive(Clone, Debug)]
pub struct TufSettings {
    /// Its URL; `None` to use what was kept and ask nobody.
    pub url: Option<Url>,
    /// The root that everything is verified from; `None` is the shipped one of Sigstore.
    pub root: Option<Source>,
    /// The only authorities that may vouch for its certificate.
    pub ca: Option<Source>,
    /// Authorities that may beside the system's, where `ca` does not say.
    pub trusted_ca: Option<Source>,
    /// Where it is kept what was verified.
    pub directory: PathBuf,
    /// Target that holds the service map, with or without `.json`.
    pub service_map: String,
    /// Environment in the service map; empty is none.
    pub environment: String,
    /// Whether the service map may send us to plain HTTP.
    pub allow_http: bool,
    /// How often it is refreshed.
    pub refresh_interval: Duration,
    /// How long expired metadata is followed.
    pub expiry_grace: Duration,
}

impl TufSettings {
    /// Whether what they name can be read and used.
    ///
    /// # Errors
    /// What cannot, with its key.
    pub fn check(&self) -> anyhow::Result<()> {
        Pinned::read(self.root.as_ref())?;
        if let Some(url) = &self.url {
            self.remote(url).context("tile_proxy.tuf")?;
        }
        Ok(())
    }

    /// The repository at `url`, which is that of these settings.
    fn remote(&self, url: &Url) -> anyhow::Result<Remote> {
        Remote::new(url, None, self.ca.clone(), self.trusted_ca.clone())
    }
}

/// Whether this may be the name of a target.
pub fn repository_name(name: &str) -> bool {
    repository::is_plain(name)
}

/// A repository that is followed, and what it vouches for.
#[derive(Debug)]
pub struct Tuf {
    settings: TufSettings,
    pinned: Pinned,
    /// `None` offline.
    remote: Option<Arc<Remote>>,
    store: Store,
    /// That of the directory, for who writes to it.
    _lock: Option<Lock>,
    loaded: ArcSwapOption<Loaded>,
    /// Held during a refresh: one at a time.
    turn: tokio::sync::Mutex<()>,
    history: Mutex<History>,
    /// Told when something else is known of logs.
    pub changed: Notify,
    metrics: Arc<Metrics>,
}

/// How refreshing went so far.
#[derive(Debug, Default)]
struct History {
    /// When a refresh last came to its end.
    succeeded: Option<Timestamp>,
    /// When the last one ended, and why it failed if it did: the fixed word, and the whole message.
    attempted: Option<(Instant, Option<(&'static str, String)>)>,
    /// When an unknown key last caused one.
    unknown_key: Option<Instant>,
    /// What was last said of the state, so that a change is said once.
    told: Option<(State, Option<&'static str>)>,
    notes: Vec<String>,
}

impl Tuf {
    /// As [`Tuf::open`], with the directory to itself: two that write to one would each move the
    /// other's versions. Waits for another process to leave it, no longer than `wait`.
    ///
    /// # Errors
    /// As [`Tuf::open`], and [`LockError::Busy`].
    pub async fn open_alone(
        settings: TufSettings,
        metrics: Arc<Metrics>,
        wait: Duration,
    ) -> anyhow::Result<Self> {
        let lock = match settings.url {
            Some(_) => lock(&settings.directory, wait).await?,
            None => None, // nothing is written
        };
        let mut tuf = Self::open(settings, metrics)?;
        tuf._lock = lock;
        Ok(tuf)
    }

    /// Prepares to follow a repository, and takes up what was kept of it; asks nobody. If it is
    /// followed, nobody else may write to the directory.
    ///
    /// # Errors
    /// When the root cannot be read or is none, or the URL is of no use.
    pub fn open(settings: TufSettings, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let pinned = Pinned::read(settings.root.as_ref())?;
        let remote = match &settings.url {
            Some(url) => Some(Arc::new(settings.remote(url)?)),
            None => None,
        };
        let tuf = Self {
            store: Store::new(settings.directory.clone()),
            _lock: None,
            settings,
            pinned,
            remote,
            loaded: ArcSwapOption::empty(),
            turn: tokio::sync::Mutex::default(),
            history: Mutex::default(),
            changed: Notify::new(),
            metrics,
        };
        for reason in REASONS {
            tuf.metrics.tuf_failures.with_label_values(&[reason]);
        }
        tuf.take_up(Timestamp::now());
        Ok(tuf)
    }

    /// Takes up what was kept: what is worth most at `now`, and of two that are worth the same the
    /// newer one.
    fn take_up(&self, now: Timestamp) {
        // A clock that is wrong must not make metadata look good: the earliest time it can be counts.
        let now = now.max(policy::built());
        let (pinned, wanted) = (self.pinned.current(), self.wanted());
        let kept = [
            ("meta", self.store.read_meta().map(Some)),
            ("lastgood", self.store.last_good()),
        ];
        let mut best: Option<(Standing, Loaded)> = None;
        for (place, files) in kept {
            let loaded = match files {
                Ok(Some(files)) if files.0.is_empty() => continue,
                Ok(Some(files)) => load::offline(&pinned, files, &wanted, now),
                Ok(None) => continue,
                Err(error) => Err(TufError::Store(error.to_string())),
            };
            match loaded {
                Ok(loaded) => {
                    let worth = standing(&loaded.roles, now, self.settings.expiry_grace);
                    if best.as_ref().is_none_or(|(best, _)| worth < *best) {
                        best = Some((worth, loaded));
                    }
                }
                // Half of a new version, after a crash or a target that could not be had: the other
                // set is there for that.
                Err(error) => {
                    let error = TufError::NotWhole(Box::new(error));
                    let reason = error.reason();
                    self.metrics.tuf_failures.with_label_values(&[reason]).inc();
                    info!(place, reason, %error, "stored trust is passed over");
                }
            }
        }
        if let Some((_, loaded)) = best {
            self.adopt(loaded);
        }
        self.tell(now);
    }

    /// Refreshes, unless another refresh ends while this one waits for its turn: then its outcome is
    /// shared.
    ///
    /// # Errors
    /// Why what is trusted was not confirmed, as a message.
    pub async fn refresh(self: &Arc<Self>) -> Result<(), String> {
        let asked = Instant::now();
        let turn = self.turn.lock().await;
        if let Some((ended, outcome)) = &self.history().attempted
            && *ended >= asked
        {
            return outcome.clone().map_or(Ok(()), |(_, message)| Err(message));
        }
        let Some(remote) = self.remote.clone() else {
            return Err("the proxy is offline".to_owned());
        };
        let (this, runtime) = (Arc::clone(self), tokio::runtime::Handle::current());
        // It writes and syncs files as it goes: not on a thread that serves.
        let refresh = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                let refresh = this.refresh_from(remote, Timestamp::now());
                tokio::time::timeout(REFRESH_LIMIT, refresh)
                    .await
                    .unwrap_or_else(|_| {
                        let limit = format!("no end within {REFRESH_LIMIT:?}");
                        Err(TufError::Unreachable(limit))
                    })
            })
        });
        let outcome = refresh
            .await
            .unwrap_or_else(|error| Err(TufError::Store(error.to_string())));
        let outcome = self.report(outcome); // those who wait for their turn share it
        drop(turn);
        outcome
    }

    /// Refreshes because a checkpoint is signed by an unknown key, unless that was so a moment ago.
    /// Says whether it did.
    pub async fn refresh_for_unknown_key(self: &Arc<Self>) -> bool {
        {
            let mut history = self.history();
            let recent = history
                .unknown_key
                .is_some_and(|at| at.elapsed() < UNKNOWN_KEY_INTERVAL);
            if recent || self.remote.is_none() {
                return false;
            }
            history.unknown_key = Some(Instant::now());
        }
        self.refresh().await.is_ok()
    }

    /// Refreshes for ever: at once, then once an interval, which varies so that replicas do not ask
    /// together; after a failure sooner.
    pub async fn follow(self: Arc<Self>) {
        let mut failures = 0;
        while self.remote.is_some() {
            let interval = self.settings.refresh_interval;
            let pause = match self.refresh().await {
                Ok(()) => {
                    failures = 0;
                    jittered(interval)
                }
                Err(_) => {
                    let pause = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(failures));
                    failures = failures.saturating_add(1);
                    jittered(pause.min(interval))
                }
            };
            tokio::time::sleep(pause).await;
            self.tell(Timestamp::now()); // it may have expired meanwhile
        }
    }

    /// One refresh at `now`: metadata, then every target, then the set that a restart begins with.
    async fn refresh_from(&self, remote: Arc<Remote>, now: Timestamp) -> Result<(), TufError> {
        let now = plausible(now)?;
        let pinned = self.pinned.current();
        let meta = self.store.meta();
        let grace = self.settings.expiry_grace;
        let wanted = self.wanted();
        let loaded = load::online(&pinned, remote, &meta, &wanted, (now, grace)).await?;
        let targets = loaded.targets.clone();
        self.adopt(loaded);
        // What is trusted from here on is in memory. A disk that does not take it costs the next
        // start, which is worth a word, and no more.
        match meta.failure() {
            Some(failure) => Err(TufError::Store(failure)),
            None => self.promote(&pinned, &targets, now),
        }
    }

    /// Makes what `meta/` holds the set that a restart begins with, once it is sure that it does by
    /// itself.
    fn promote(&self, pinned: &[u8], targets: &[String], now: Timestamp) -> Result<(), TufError> {
        let store = |error: std::io::Error| TufError::Store(error.to_string());
        let files = self.store.read_meta().map_err(store)?.needed(targets);
        load::offline(pinned, files.clone(), &self.wanted(), now)?;
        self.store.promote(&files).map_err(store)
    }

    fn adopt(&self, loaded: Loaded) {
        for role in &loaded.roles {
            let version = i64::try_from(role.version).unwrap_or(i64::MAX);
            let labels = [role.role.as_str()];
            self.metrics
                .tuf_version
                .with_label_values(&labels)
                .set(version);
            let expires = self.metrics.tuf_expiry.with_label_values(&labels);
            expires.set(role.expires.as_second());
        }
        let mut history = self.history();
        if history.notes != loaded.material.notes {
            for note in &loaded.material.notes {
                warn!(note, "TUF repository");
            }
            history.notes.clone_from(&loaded.material.notes);
        }
        drop(history);
        let before = self.loaded.swap(Some(Arc::new(loaded)));
        let is_news = |before: Arc<Loaded>, now: Arc<Loaded>| before.material != now.material;
        if before
            .zip(self.loaded.load_full())
            .is_none_or(|(before, now)| is_news(before, now))
        {
            self.changed.notify_one();
        }
    }

    /// Remembers how a refresh ended.
    fn report(&self, outcome: Result<(), TufError>) -> Result<(), String> {
        let now = Timestamp::now();
        let failure = outcome
            .err()
            .map(|error| (error.reason(), error.to_string()));
        let mut history = self.history();
        match &failure {
            None => {
                history.succeeded = Some(now);
                let gauge = self.metrics.tuf_last_success.with_label_values(NO_LABELS);
                gauge.set(now.as_second());
            }
            Some((reason, _)) => self.metrics.tuf_failures.with_label_values(&[reason]).inc(),
        }
        history.attempted = Some((Instant::now(), failure.clone()));
        drop(history);
        self.tell(now);
        failure.map_or(Ok(()), |(_, message)| Err(message))
    }

    /// What is known of logs; `None` before anything is trusted.
    pub fn material(&self) -> Option<Arc<Loaded>> {
        self.loaded.load_full()
    }

    /// The keys of a log; see [`Material::keys_for`].
    ///
    /// # Errors
    /// Why there are none.
    pub fn keys_for(&self, origin: Option<&str>, urls: &[Url]) -> Result<Vec<FoundKey>, String> {
        match self.material() {
            Some(loaded) => loaded.material.keys_for(origin, urls),
            None => Err(self.why_not()),
        }
    }

    /// What protocol a log speaks; [`Kind::Auto`] if nobody says.
    pub fn kind_of(&self, of: &KeysOf) -> Kind {
        let loaded = self.material();
        let found = loaded.as_ref().and_then(|loaded| {
            let material = &loaded.material;
            material.meant(of.origin.as_deref(), &of.urls)
        });
        found.map_or(Kind::Auto, |log| log.kind)
    }

    /// Whether nothing new may be believed with the keys of this repository.
    pub fn is_expired(&self) -> bool {
        self.standing(Timestamp::now()) == Standing::Expired
    }

    fn standing(&self, now: Timestamp) -> Standing {
        let now = now.max(policy::built());
        let loaded = self.loaded.load();
        let roles = loaded.as_ref().map_or(&[][..], |loaded| &loaded.roles);
        standing(roles, now, self.settings.expiry_grace)
    }

    /// Why there is no trust, if there is none.
    pub fn why_not(&self) -> String {
        let history = self.history();
        let why = match &history.attempted {
            Some((_, Some((_, message)))) => message.as_str(),
            _ if self.remote.is_none() => {
                "the proxy is offline, and no metadata was kept that verifies from `tuf.root`"
            }
            _ => "the TUF repository has not answered yet",
        };
        format!("trust cannot be established: {why}")
    }

    fn wanted(&self) -> Wanted {
        let settings = &self.settings;
        Wanted {
            service_map: settings.service_map.clone(),
            environment: settings.environment.clone(),
            allow_http: settings.allow_http,
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // Each write replaces whole fields, so a poisoned history is still a sound one.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lock of a directory of trust; `None` where nothing can be written, so that nobody does.
async fn lock(directory: &Path, wait: Duration) -> Result<Option<Lock>, LockError> {
    let made = std::fs::create_dir_all(directory).map_err(|source| LockError::Io {
        path: directory.to_owned(),
        source,
    });
    let locked = match made {
        Ok(()) => Lock::wait(&directory.join("LOCK"), wait).await,
        Err(error) => Err(error),
    };
    match locked {
        Ok(lock) => Ok(Some(lock)),
        Err(busy @ LockError::Busy { .. }) => Err(busy),
        Err(error) => {
            warn!(%error, "trust from TUF is not kept for the next start");
            Ok(None)
        }
    }
}

/// An interval and a tenth more or less of it.
fn jittered(interval: Duration) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    // Seeded anew for each: no more than that is asked of it.
    let random = RandomState::new().hash_one(()) % 2_001;
    interval.mul_f64(0.9 + random as f64 / 10_000.0)
}

#[cfg(test)]
mod tests;

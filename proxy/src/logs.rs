//! The logs that are followed: found by the beginning of a path, and replaced one by one when the
//! configuration changes.
//!
//! Each log has its own upstreams, keys, flights, peers and task, so that one in trouble is no
//! other's. What they share is the cache, in which each has its share of the disk.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::{ArcSwap, Guard};
use futures::future::join_all;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::{
    audit::Audit,
    cache::{Cache, LogStore},
    config::{Kind, LogSettings, REKOR_V2_PREFIX, Settings, Signers},
    log::{FollowError, Log, LogOptions, state::LogState},
    metrics::Metrics,
    peers::Peers,
    rekor_v1::RekorV1,
    trust::{self, TrustSource, TrustedKeys},
    tuf::Tuf,
    upstream::{Upstream, Upstreams, race::Rules as RaceRules, retry::Backoff},
};

/// The logs of a process.
pub struct Logs {
    /// What the process was started with. Of this, only the logs change.
    settings: Settings,
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    audit: Audit,
    /// Where those without keys of their own have them from.
    tuf: Option<Arc<Tuf>>,
    all: ArcSwap<Vec<Followed>>,
    /// What goes on for each log, by its name.
    tasks: Mutex<HashMap<String, JoinSet<()>>>,
    /// Held while the logs are replaced.
    changing: tokio::sync::Mutex<()>,
}

/// One of the logs.
#[derive(Clone)]
pub struct Followed {
    /// As the configuration has it.
    pub settings: LogSettings,
    /// The log, as one with tiles.
    pub log: Arc<Log>,
    /// The same as a Rekor v1 log, if it is or may be one.
    rekor_v1: Option<Arc<RekorV1>>,
    /// Where its keys come from, if not from the configuration.
    tuf: Option<Arc<Tuf>>,
}

impl Followed {
    /// The log as a Rekor v1 log, if it is one: because somebody says so who may, or because that was
    /// found out, now or before this start.
    pub fn as_rekor_v1(&self) -> Option<&Arc<RekorV1>> {
        let rekor = self.rekor_v1.as_ref()?;
        let found_out =
            || self.log.trusted().is_none() && (rekor.is_known() || self.log.is_rekor_v1());
        (self.is_told_rekor_v1() || found_out()).then_some(rekor)
    }

    /// Whether the configuration says that it is a Rekor v1 log, or leaves it open and the TUF
    /// repository does.
    fn is_told_rekor_v1(&self) -> bool {
        match (self.settings.kind, &self.settings.signers, &self.tuf) {
            // Tiles that were proven are not given up for anybody's word.
            (Kind::Auto, Signers::Tuf(of), Some(tuf)) => {
                self.log.trusted().is_none() && tuf.kind_of(of) == Kind::RekorV1
            }
            (kind, ..) => kind == Kind::RekorV1,
        }
    }

    /// What protocol it speaks, in the words of the configuration.
    pub fn kind(&self) -> &'static str {
        match self.settings.kind {
            _ if self.as_rekor_v1().is_some() => "rekor-v1",
            Kind::RekorV2 => "rekor-v2",
            Kind::Auto if self.log.trusted().is_none() => "auto",
            _ => "tlog-tiles",
        }
    }

    /// How it goes with following it. Looks at the disk: for a thread that may wait.
    fn state(&self, checkpoint_ttl: Duration) -> LogState {
        let standing = match self.as_rekor_v1() {
            Some(rekor) => rekor.standing(),
            None => self.log.standing(),
        };
        standing.state(checkpoint_ttl)
    }

    /// The log, if it has tiles to fetch ahead.
    pub fn with_tiles(&self) -> Option<&Arc<Log>> {
        self.as_rekor_v1().is_none().then_some(&self.log)
    }

    /// Asks the log for its state now, and asks those again that wanted to be left alone.
    ///
    /// # Errors
    /// Why what is served did not change or was not confirmed.
    pub async fn refresh(&self) -> Result<(), FollowError> {
        if let Some(rekor) = self.as_rekor_v1() {
            rekor.upstreams().forget();
            return rekor.refresh().await;
        }
        self.log.upstreams().forget();
        self.log.refresh().await
    }

    /// The size that is served: of the tree, or of the shard that grows.
    pub fn size(&self) -> Option<u64> {
        match self.as_rekor_v1() {
            Some(rekor) => Some(rekor.active()?.trusted()?.checkpoint.size),
            None => Some(self.log.trusted()?.checkpoint.size),
        }
    }

    /// Follows it for ever, as what it is or turns out to be.
    async fn follow(self) {
        loop {
            if self.as_rekor_v1().is_none_or(|rekor| !rekor.is_known()) && !self.is_told_rekor_v1()
            {
                // Ends when an upstream says that there are no tiles to follow.
                Arc::clone(&self.log).follow().await;
            }
            let Some(rekor) = &self.rekor_v1 else {
                return;
            };
            // Saying so is not enough: until something is trusted, tiles are looked for as well.
            let followed = rekor.refresh().await;
            if followed.is_ok() || rekor.is_known() || self.is_told_rekor_v1() {
                Arc::clone(rekor).follow().await;
            }
            tokio::time::sleep(rekor.refresh_interval()).await;
        }
    }

    /// Uses other keys, another interval, and another part of the disk.
    fn follow_with(&self, source: &Arc<dyn TrustSource>, interval: Duration, disk_share: u64) {
        self.log.follow_with(Arc::clone(source), interval);
        self.log.set_disk_share(disk_share);
        if let Some(rekor) = &self.rekor_v1 {
            rekor.follow_with(Arc::clone(source), interval);
            rekor.set_disk_share(disk_share);
        }
    }

    /// Follows it no further: on return no refresh is under way, and none begins.
    async fn retire(&self) {
        self.log.retire().await;
        if let Some(rekor) = &self.rekor_v1 {
            rekor.retire().await;
        }
    }

    fn resume(&self) {
        self.log.resume();
        if let Some(rekor) = &self.rekor_v1 {
            rekor.resume();
        }
    }

    /// Lets another log have its part of the cache.
    fn release(&self) {
        if let Some(store) = self.log.store() {
            store.release();
        }
        for shard in self.rekor_v1.iter().flat_map(|rekor| rekor.shards()) {
            shard.store().release();
        }
    }

    /// Whether it has the hash of an origin for a name.
    fn has_hash(&self, hash: &str) -> bool {
        let shards = self.rekor_v1.iter().flat_map(|rekor| rekor.shards());
        let of_log = self.log.store().is_some_and(|store| store.has_hash(hash));
        of_log || shards.into_iter().any(|shard| shard.store().has_hash(hash))
    }
}

/// Why a path is not one of a log.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no log is named by this path; {}", known(.names))]
pub struct NoSuchLog {
    /// Names of the logs there are.
    pub names: Vec<String>,
}

fn known(names: &[String]) -> String {
    match names {
        [] => "there is none".to_owned(),
        names => format!(
            "before `checkpoint` and `tile/…` stands one of {}",
            names.join(", ")
        ),
    }
}

impl Logs {
    /// Takes up every log where the cache has left it. Follows none yet.
    ///
    /// # Errors
    /// What keeps one from being followed: keys, certificates, a cache that cannot be read.
    pub fn open(
        settings: &Settings,
        cache: &Arc<Cache>,
        metrics: &Arc<Metrics>,
        audit: &Audit,
        tuf: Option<Arc<Tuf>>,
    ) -> anyhow::Result<Self> {
        let logs = Self {
            settings: settings.clone(),
            cache: Arc::clone(cache),
            metrics: Arc::clone(metrics),
            audit: audit.clone(),
            tuf,
            all: ArcSwap::default(),
            tasks: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        };
        let shares = logs.shares(&settings.logs);
        let all = settings.logs.iter().zip(shares).map(|(log, share)| {
            let followed = logs.prepare(log)?.open(share);
            followed.with_context(|| format!("log `{}`", log.name))
        });
        let all = all.collect::<anyhow::Result<_>>()?;
        logs.all.store(Arc::new(all));
        Ok(logs)
    }

    /// Begins to follow all of them.
    pub fn follow(&self) {
        for followed in self.all.load().iter() {
            self.begin(followed);
        }
    }

    /// Ends what goes on for them, and waits until it has. They can still be read.
    pub async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.tasks());
        for mut tasks in tasks.into_values() {
            tasks.shutdown().await;
        }
    }

    /// All of them, in the order of the configuration.
    pub fn all(&self) -> Guard<Arc<Vec<Followed>>> {
        self.all.load()
    }

    /// All of them, each with how it goes with following it.
    pub async fn states(&self, checkpoint_ttl: Duration) -> Vec<(Followed, LogState)> {
        let all = self.all.load_full();
        let looked = tokio::task::spawn_blocking(move || {
            let all = all.iter();
            all.map(|followed| (followed.clone(), followed.state(checkpoint_ttl)))
                .collect()
        });
        looked.await.unwrap_or_default() // the process ends
    }

    /// The log that paths without a prefix mean.
    pub fn default_log(&self) -> Option<Arc<Log>> {
        self.default().map(|followed| followed.log)
    }

    fn default(&self) -> Option<Followed> {
        let all = self.all.load();
        let default = all.iter().find(|followed| followed.settings.default);
        default.cloned()
    }

    /// The log with this name, or with this hex SHA-256 of its origin.
    pub fn find(&self, name: &str) -> Option<Arc<Log>> {
        self.find_followed(name).map(|followed| followed.log)
    }

    /// The parts of the cache that a log has: one, or one for each shard.
    pub fn stores_of(&self, name: &str) -> Option<Vec<Arc<LogStore>>> {
        let followed = self.find_followed(name)?;
        let shards = followed.rekor_v1.iter().flat_map(|rekor| rekor.shards());
        let shards = shards.map(|shard| Arc::clone(shard.store()));
        Some(
            followed
                .log
                .store()
                .cloned()
                .into_iter()
                .chain(shards)
                .collect(),
        )
    }

    /// As [`Logs::find`], with everything that it is followed by.
    pub fn find_followed(&self, name: &str) -> Option<Followed> {
        let all = self.all.load();
        let named = all.iter().find(|followed| followed.settings.name == name);
        named
            .or_else(|| all.iter().find(|followed| followed.has_hash(name)))
            .cloned()
    }

    /// The log that a path is of, and what of the path names the resource: before it may stand the
    /// log's name or the hash of its origin, and the prefix of Rekor v2's API.
    ///
    /// # Errors
    /// [`NoSuchLog`].
    pub fn of_path<'a>(&self, path: &'a str) -> Result<(Followed, &'a str), NoSuchLog> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let is_resource = path.starts_with("tile/") || path == "checkpoint";
        let prefixed = match path.split_once('/') {
            Some((name, rest)) if !is_resource => self.find_followed(name).map(|log| (log, rest)),
            _ => None,
        };
        let (log, path) = match prefixed {
            Some(found) => found,
            None => (self.default().ok_or_else(|| self.no_such_log())?, path),
        };
        Ok((log, path.strip_prefix(REKOR_V2_PREFIX).unwrap_or(path)))
    }

    /// What to say to whoever names a log that is not there.
    pub fn no_such_log(&self) -> NoSuchLog {
        let all = self.all.load();
        let names = all.iter().map(|followed| followed.settings.name.clone());
        NoSuchLog {
            names: names.collect(),
        }
    }

    /// Replicas as the logs know them; they share one token, so any log's will do to ask for it.
    pub fn peers(&self) -> Option<Arc<Peers>> {
        let all = self.all.load();
        all.iter()
            .find_map(|followed| followed.log.peers().cloned())
    }

    /// Follows the logs of a new configuration. Those that it has as before go on undisturbed; one
    /// that cannot be followed as it says stays as it was, and why is in the outcome.
    pub async fn change(&self, settings: &Settings) -> Vec<String> {
        let _turn = self.changing.lock().await;
        let before = self.all.load_full();
        let named = |name: &str| {
            before
                .iter()
                .find(|followed| followed.settings.name == name)
        };
        let gone = before.iter().filter(|followed| {
            let name = &followed.settings.name;
            !settings.logs.iter().any(|log| log.name == *name)
        });
        // First, so that what they were followed with is free for a log of another name.
        join_all(gone.map(|followed| self.end(followed))).await;
        let interval = settings.config.checkpoint.refresh_interval.0;
        let shares = self.shares(&settings.logs);
        let changes =
            settings
                .logs
                .iter()
                .zip(shares)
                .map(async |(log, share)| match named(&log.name) {
                    Some(before) if before.settings.follows_as(log) => {
                        let source = self.source(log).map_err(|error| {
                            (
                                Some(before.clone()),
                                format!("log `{}`: {error:#}", log.name),
                            )
                        })?;
                        before.follow_with(&source, interval, share);
                        Ok(Followed {
                            settings: log.clone(),
                            ..before.clone()
                        })
                    }
                    before => self.replace(before, log, share, interval).await,
                });
        let (mut all, mut errors) = (Vec::new(), Vec::new());
        for outcome in join_all(changes).await {
            match outcome {
                Ok(followed) => all.push(followed),
                Err((before, error)) => {
                    all.extend(before);
                    errors.push(error);
                }
            }
        }
        self.all.store(Arc::new(all));
        errors
    }

    /// Follows a log as it is configured now, in place of what was followed under its name. If that
    /// fails, what was followed is still followed.
    async fn replace(
        &self,
        before: Option<&Followed>,
        log: &LogSettings,
        share: u64,
        interval: Duration,
    ) -> Result<Followed, (Option<Followed>, String)> {
        let opened = match self.prepare(log) {
            Ok(prepared) => {
                if let Some(before) = before {
                    before.retire().await;
                }
                prepared.open(share)
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok(followed) => {
                if let Ok(source) = self.source(log) {
                    followed.follow_with(&source, interval, share);
                }
                self.begin(&followed);
                info!(log = log.name, "log followed as configured now");
                Ok(followed)
            }
            Err(error) => {
                let error = format!("{error:#}");
                warn!(log = log.name, error, "log not followed as configured now");
                if let Some(before) = before {
                    before.resume();
                }
                Err((before.cloned(), format!("log `{}`: {error}", log.name)))
            }
        }
    }

    /// Begins what goes on for a log, in place of what went on under its name.
    fn begin(&self, followed: &Followed) {
        let mut tasks = JoinSet::new();
        tasks.spawn(followed.clone().follow());
        if let Some(peers) = followed.log.peers() {
            tasks.spawn(Arc::clone(peers).follow());
        }
        self.tasks().insert(followed.settings.name.clone(), tasks);
    }

    /// Follows a log no longer. What is stored of it stays.
    async fn end(&self, followed: &Followed) {
        let name = &followed.settings.name;
        followed.retire().await;
        let tasks = self.tasks().remove(name);
        drop(tasks);
        followed.release();
        let upstreams = followed.settings.upstreams.iter();
        let upstreams: Vec<&str> = upstreams.map(|upstream| upstream.name.as_str()).collect();
        self.metrics.forget_log(name, &upstreams);
        info!(log = name, "log followed no longer");
    }

    /// The bytes of the disk that each of these logs may take. One alone may take all.
    fn shares(&self, logs: &[LogSettings]) -> Vec<u64> {
        if logs.len() == 1 {
            return vec![u64::MAX];
        }
        let budget = u128::from(self.cache.usage().budget);
        let all: u128 = logs.iter().map(|log| u128::from(log.cache_share)).sum();
        let share = |log: &LogSettings| budget * u128::from(log.cache_share) / all.max(1);
        logs.iter()
            .map(|log| u64::try_from(share(log)).unwrap_or(u64::MAX))
            .collect()
    }

    /// Everything for following a log that can fail without anything having changed.
    fn prepare<'a>(&'a self, log: &'a LogSettings) -> anyhow::Result<Prepared<'a>> {
        let config = &self.settings.config;
        let max_wait = Duration::from_millis(config.coalescing.max_wait_ms);
        let requests = config.limits.upstream_requests;
        let peers = Peers::new(
            &config.peers,
            &log.name,
            (max_wait, requests),
            &self.metrics,
        )?;
        Ok(Prepared {
            logs: self,
            log,
            log_parts: self.parts(log)?,
            rekor_parts: match log.kind {
                Kind::Auto | Kind::RekorV1 => Some(self.parts(log)?),
                Kind::RekorV2 | Kind::TlogTiles => None,
            },
            peers: peers.map(Arc::new),
        })
    }

    /// Where the keys of a log come from.
    fn source(&self, log: &LogSettings) -> anyhow::Result<Arc<dyn TrustSource>> {
        trust::source(log, self.tuf.as_ref())
    }

    /// The repository that keys come from, if there is one.
    pub fn tuf(&self) -> Option<&Arc<Tuf>> {
        self.tuf.as_ref()
    }

    fn parts(&self, log: &LogSettings) -> anyhow::Result<(TrustedKeys, Upstreams)> {
        let keys = TrustedKeys::from(self.source(log)?)?;
        Ok((keys, self.upstreams(log)?))
    }

    /// The upstreams of a log; connects to nothing.
    fn upstreams(&self, log: &LogSettings) -> anyhow::Result<Upstreams> {
        let config = &self.settings.config;
        let all = log.upstreams.iter().map(|upstream| {
            let metrics = self.metrics.upstream(&log.name, &upstream.name);
            let requests = config.limits.upstream_requests;
            let made = Upstream::new(upstream.clone(), requests, metrics)
                .with_context(|| format!("cannot use the upstream `{}`", upstream.name))?;
            Ok((upstream.priority, made))
        });
        let rules = RaceRules {
            patience: Duration::from_millis(config.coalescing.max_wait_ms),
            backoff: Backoff {
                retries: config.failover.retry_count,
                delay: Duration::from_millis(config.failover.retry_delay_ms),
            },
        };
        let all = all.collect::<anyhow::Result<Vec<_>>>()?;
        let failover = config.failover.enabled;
        Ok(Upstreams::new(&log.name, all, failover, rules))
    }

    /// How a log is followed.
    fn options(
        &self,
        log: &LogSettings,
        (keys, upstreams): (TrustedKeys, &Upstreams),
        disk_share: u64,
        peers: Option<Arc<Peers>>,
    ) -> LogOptions {
        let config = &self.settings.config;
        let max_wait = Duration::from_millis(config.coalescing.max_wait_ms);
        LogOptions {
            name: log.name.clone(),
            origin: log.origin.clone(),
            keys,
            refresh_interval: config.checkpoint.refresh_interval.0,
            max_wait,
            // Repeats begin within `max_wait`; the last of them may take its time.
            fetch_limit: max_wait + upstreams.timeout(),
            error_ttl: Duration::from_millis(config.coalescing.error_ttl_ms),
            coalescing: config.coalescing.enabled,
            checkpoint_bytes: config.limits.checkpoint_bytes,
            disk_share,
            peers,
            audit: self.audit.clone(),
        }
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<String, JoinSet<()>>> {
        // Each write adds or removes a whole entry, so a poisoned map is still a sound one.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A log that can be followed.
struct Prepared<'a> {
    logs: &'a Logs,
    log: &'a LogSettings,
    /// Keys and upstreams, for the log as one with tiles.
    log_parts: (TrustedKeys, Upstreams),
    /// The same once more, if it is or may be a Rekor v1 log.
    rekor_parts: Option<(TrustedKeys, Upstreams)>,
    peers: Option<Arc<Peers>>,
}

impl Prepared<'_> {
    /// Takes the log up where the cache has left it.
    fn open(self, disk_share: u64) -> anyhow::Result<Followed> {
        let Self {
            logs,
            log,
            log_parts: (keys, upstreams),
            rekor_parts,
            peers,
        } = self;
        let cache = || (Arc::clone(&logs.cache), Arc::clone(&logs.metrics));
        let options = logs.options(log, (keys, &upstreams), disk_share, peers);
        let (in_cache, metrics) = cache();
        let opened = Log::new(options, upstreams, in_cache, metrics)
            .context("cannot read what was trusted before")?;
        let rekor_v1 = match rekor_parts {
            Some((keys, upstreams)) => {
                let options = logs.options(log, (keys, &upstreams), disk_share, None);
                let (in_cache, metrics) = cache();
                let passthrough = log.passthrough;
                let opened = RekorV1::new(options, passthrough, upstreams, in_cache, metrics);
                Some(opened.context("cannot read what was trusted before")?)
            }
            None => None,
        };
        Ok(Followed {
            settings: log.clone(),
            log: Arc::new(opened),
            rekor_v1: rekor_v1.map(Arc::new),
            tuf: logs.tuf.clone(),
        })
    }
}

impl LogSettings {
    /// Whether a log that is followed as this says can be followed as the other says by being told
    /// so, without anything that it holds being given up.
    fn follows_as(&self, other: &Self) -> bool {
        // Destructured without `..`: a new setting does not compile until it is decided here.
        let Self {
            name,
            kind,
            origin,
            passthrough,
            upstreams,
            signers_key,
            // Told, or looked up in the settings.
            default: _,
            signers: _,
            cache_share: _,
        } = self;
        *name == other.name
            && *kind == other.kind
            && *passthrough == other.passthrough
            && *origin == other.origin
            && *upstreams == other.upstreams
            && *signers_key == other.signers_key
    }
}

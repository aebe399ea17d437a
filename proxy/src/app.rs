//! Wiring: settings to cache, log and servers; and the order in which they stop.
//!
//! Ports open first, so that a probe finds the process alive while it waits for a predecessor to
//! leave the cache. On a signal: no new connections, requests under way end, the cache is flushed,
//! the lock is left.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use anyhow::anyhow;
use arc_swap::ArcSwap;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::{
    audit::{Audit, Event},
    cache::{Cache, CacheError, LOCK_WAIT, LockError},
    config::{Settings, discovered},
    http::{
        AdminPolicy, CodedBundles, Gate, Listener, RateLimit, Role, Rules, Server, Service, Site,
        TlsServer,
    },
    logs::{Followed, Logs},
    metrics::Metrics,
    reload::{self, Loaded, Reload},
    sync::Syncs,
    tuf::{FoundIn, FoundLog, Tuf},
};

/// Compressed bundles may take this part of `cache.memory_mb` once more.
const CODED_SHARE: u64 = 8;

/// Exit code when another process keeps the cache (`EX_TEMPFAIL`: try again later).
pub const EXIT_CACHE_BUSY: u8 = 75;

/// Runs the proxy until `stop`.
///
/// # Errors
/// What keeps it from starting: an address, a key, the cache.
pub async fn run(loaded: Loaded, reload: Reload, stop: CancellationToken) -> anyhow::Result<()> {
    let settings = loaded.settings.clone();
    let config = &settings.config;
    for warning in &settings.warnings {
        warn!(key = warning.key, "{}", warning.message);
    }
    let metrics = Arc::new(Metrics::new()?);
    let audit = Audit::new(metrics.audit_lost.clone());
    audit
        .record_at(&config.audit.path)
        .map_err(|error| anyhow!(error))?;
    let site = Arc::new(Site {
        service: OnceLock::new(),
        was_ready: AtomicBool::new(false),
        metrics: Arc::clone(&metrics),
        rules: ArcSwap::from_pointee(rules(&settings, None)),
        rules_replaced: Notify::new(),
        reloads: Mutex::default(),
        audit: audit.clone(),
    });

    let mut listeners = Vec::new();
    let clients = if config.admin_listen.is_some() {
        Role::Clients
    } else {
        Role::Everything
    };
    for listen in &config.listen {
        listeners.push(
            Listener::bind(*listen, clients)
                .await
                .map_err(|error| anyhow!(error))?,
        );
    }
    if let Some(listen) = config.admin_listen {
        listeners.push(
            Listener::bind(listen, Role::Admin)
                .await
                .map_err(|error| anyhow!(error))?,
        );
    }
    let mut addresses = Vec::new();
    for listener in &listeners {
        let address = listener.address()?;
        info!(%address, "listening");
        addresses.push(address.to_string());
    }
    audit.record(&Event::Start {
        version: env!("CARGO_PKG_VERSION"),
        listen: addresses,
    });
    let server = Arc::new(Server::new(Arc::clone(&site), gate(&loaded)));
    watch_expiry(&metrics, loaded.tls.as_ref());
    // Its own token: the servers drain while the rest still works.
    let draining = stop.child_token();
    let serving = tokio::spawn(Arc::clone(&server).run(listeners, draining.clone()));

    let opened = tokio::select! {
        opened = open(&settings, &metrics, &audit) => Some(opened),
        () = stop.cancelled() => None,
    };
    let configured = Arc::new(ArcSwap::from_pointee(settings));
    let mut tasks = JoinSet::new();
    let outcome = match opened {
        Some(Ok(service)) => {
            service.logs.follow();
            if let Some(tuf) = service.logs.tuf() {
                tasks.spawn(Arc::clone(tuf).follow());
            }
            tasks.spawn(save_stats_for_ever(Arc::clone(&site)));
            let _ = site.service.set(service); // the only place that does
            tasks.spawn(discover_for_ever(
                Arc::clone(&site),
                Arc::clone(&configured),
            ));
            tasks.spawn(sync_on_schedule(Arc::clone(&site)));
            let running = Running {
                site: Arc::clone(&site),
                server,
                configured,
            };
            tasks.spawn(reload::follow(reload, running, loaded));
            info!("ready");
            stop.cancelled().await;
            Ok(())
        }
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    draining.cancel();
    if let Err(error) = serving.await {
        warn!(%error, "server ended badly");
    }
    tasks.shutdown().await;
    if let Some(service) = site.service.get() {
        service.logs.stop().await;
        // Numbers are right after a flush; and what comes in while they are written is flushed, too.
        let _ = service.cache.flush().await;
        save_stats(&site).await;
        if let Err(error) = service.cache.flush().await {
            warn!(%error, "last flush failed");
        }
    }
    audit.record(&Event::Stop);
    let written = tokio::task::spawn_blocking(move || audit.flush());
    let _ = written.await; // it says itself what is lost
    info!("stopped");
    outcome
}

/// What a new configuration changes in a running process.
pub(crate) struct Running {
    site: Arc<Site>,
    server: Arc<Server>,
    /// What is in effect.
    configured: Arc<ArcSwap<Settings>>,
}

impl Running {
    /// Lets a configuration take effect, as far as it can. Says which logs stay as they were, and
    /// why.
    pub(crate) async fn apply(&self, loaded: &Loaded) -> Vec<String> {
        let (site, settings) = (&self.site, &loaded.settings);
        let rules = rules(settings, Some(&site.rules.load()));
        site.rules.store(Arc::new(rules));
        site.rules_replaced.notify_one();
        self.server.replace_gate(gate(loaded));
        watch_expiry(&site.metrics, loaded.tls.as_ref());
        if let Err(error) = site.audit.record_at(&settings.config.audit.path) {
            warn!(error, "audit log not opened; it stays where it was");
        }
        self.configured.store(Arc::new(settings.clone()));
        match site.service.get() {
            Some(service) => {
                service
                    .logs
                    .change(&with_discovered(settings, service))
                    .await
            }
            None => Vec::new(),
        }
    }

    /// Says how reading a configuration again went: keys that need a restart and logs that stay as
    /// they were, or why it was refused.
    pub(crate) fn reloaded(&self, outcome: Result<(Vec<String>, Vec<String>), String>) {
        let was_taken = outcome.is_ok();
        let (result, error, needs_restart) = match outcome {
            Ok((keys, errors)) if errors.is_empty() => ("applied", None, keys),
            Ok((keys, errors)) => ("refused", Some(errors.join("; ")), keys),
            Err(error) => ("refused", Some(error), Vec::new()),
        };
        let site = &self.site;
        site.metrics
            .config_reloads
            .with_label_values(&[result])
            .inc();
        site.audit.record(&Event::Reload {
            error: error.as_deref(),
            needs_restart: &needs_restart,
        });
        let mut reloads = site.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        if was_taken {
            reloads.needs_restart = needs_restart;
        }
        reloads.error = error;
    }

    /// Opens the audit log again, as after a rotation.
    pub(crate) fn reopen(&self) {
        self.site.audit.reopen();
    }
}

/// What connections go through.
fn gate(loaded: &Loaded) -> Gate {
    let config = &loaded.settings.config;
    Gate::new(&config.limits, config.shutdown.drain.0, loaded.tls.clone())
}

/// Shows when the certificate expires, and says so if it has.
fn watch_expiry(metrics: &Metrics, tls: Option<&TlsServer>) {
    let expires = tls.map_or(0, |tls| tls.expires);
    metrics.tls_expiry.set(expires);
    if tls.is_some() && expires < jiff::Timestamp::now().as_second() {
        warn!(
            expires,
            "the certificate of `tls.cert` has expired; clients will refuse it"
        );
    }
}

/// What `log.level` lets through.
///
/// # Errors
/// What is wrong with it.
pub fn tracing_filter(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(level).map_err(|error| format!("tile_proxy.log.level = {level}: {error}"))
}

/// What the settings say about answers. What clients have used of a rate limit that stays the same
/// stays used.
fn rules(settings: &Settings, before: Option<&Rules>) -> Rules {
    let config = &settings.config;
    let used = before.and_then(|before| before.rate_limit.clone());
    let rate_limit = settings.rate_limit.clone().map(|rate| match used {
        Some(used) if *used.settings() == rate => used,
        _ => Arc::new(RateLimit::new(rate)),
    });
    Rules {
        admin: AdminPolicy {
            token: config.admin.token.clone(),
            loopback: config.admin.loopback,
        },
        checkpoint_ttl: settings.checkpoint_ttl,
        sync_depth: config.sync.depth,
        sync_schedule: settings.sync_schedule.clone(),
        rate_limit,
    }
}

/// Whether starting failed because another process keeps the cache, or the directory of trust.
pub fn is_cache_busy(error: &anyhow::Error) -> bool {
    let of_cache = matches!(
        error.downcast_ref(),
        Some(CacheError::Lock(LockError::Busy { .. }))
    );
    of_cache || matches!(error.downcast_ref(), Some(LockError::Busy { .. }))
}

async fn open(
    settings: &Settings,
    metrics: &Arc<Metrics>,
    audit: &Audit,
) -> anyhow::Result<Service> {
    let cache = Cache::open(
        &settings.config.cache.base_path,
        LOCK_WAIT,
        settings.memory_budget,
        settings.disk_budget,
    )
    .await?;
    let cache = Arc::new(cache);
    let tuf = match settings.tuf.clone() {
        Some(tuf) => Some(Arc::new(
            Tuf::open_alone(tuf, Arc::clone(metrics), LOCK_WAIT).await?,
        )),
        None => None,
    };
    let origins = cache.origins()?;
    let cached = |found: &FoundLog| origins.iter().any(|origin| found.is_called(origin));
    let settings = &discover(settings, tuf.as_ref(), cached);
    Ok(Service {
        coded: CodedBundles::new(settings.memory_budget / CODED_SHARE),
        syncs: Syncs::new(Arc::clone(metrics)),
        logs: Logs::open(settings, &cache, metrics, audit, tuf)?,
        cache,
    })
}

/// The settings, with the logs that the TUF repository names if the configuration names none.
fn with_discovered(settings: &Settings, service: &Service) -> Settings {
    let cached = |found: &FoundLog| {
        let origins = service.cache.origins().unwrap_or_default();
        origins.iter().any(|origin| found.is_called(origin))
    };
    discover(settings, service.logs.tuf(), cached)
}

/// The settings, with the logs that were discovered in place of none; see [`discovered`].
pub(crate) fn discover(
    settings: &Settings,
    tuf: Option<&Arc<Tuf>>,
    cached: impl Fn(&FoundLog) -> bool,
) -> Settings {
    let mut settings = settings.clone();
    if let Some(trusted) = tuf
        .filter(|_| settings.discovers)
        .and_then(|tuf| tuf.material())
    {
        let (logs, problems) = discovered(&settings.config, &trusted.material, cached);
        for problem in problems {
            warn!(%problem, "a log of the TUF repository is not followed");
        }
        let named = trusted.material.to_follow().iter();
        let named = named.filter(|found| found.url_from == FoundIn::TrustedRoot);
        for url in named.filter_map(|found| found.url.as_ref()) {
            warn!(
                %url,
                "nobody says where this log is read: its `baseUrl` in `trusted_root.json`, which is \
                 its name, is tried"
            );
        }
        settings.logs = logs;
    }
    settings
}

/// Follows the logs that the TUF repository names, as it names others.
async fn discover_for_ever(site: Arc<Site>, configured: Arc<ArcSwap<Settings>>) {
    while let Some((service, tuf)) = site.service.get().and_then(|it| Some((it, it.logs.tuf()?))) {
        tuf.changed.notified().await;
        let settings = configured.load_full();
        if settings.discovers {
            // What cannot be followed is said where it is tried.
            let _ = service
                .logs
                .change(&with_discovered(&settings, service))
                .await;
        }
    }
}

/// How often it is written down what is counted: what a crash loses of it.
const STATS_INTERVAL: Duration = Duration::from_secs(60);

async fn save_stats_for_ever(site: Arc<Site>) {
    let mut ticks = tokio::time::interval(STATS_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await; // the first comes at once, when nothing was counted yet
    loop {
        ticks.tick().await;
        save_stats(&site).await;
    }
}

/// Writes down what is counted, for the next start.
async fn save_stats(site: &Arc<Site>) {
    let site = Arc::clone(site);
    let saved = tokio::task::spawn_blocking(move || {
        let Some(service) = site.service.get() else {
            return Ok(());
        };
        let logs = service.logs.all();
        let counts = logs.iter().filter_map(|Followed { log, .. }| {
            let counts = log.counts();
            Some((&**log.store()?, counts.hits.get(), counts.misses.get()))
        });
        service.cache.save_stats(&counts.collect::<Vec<_>>())
    });
    // A full disk is known by then, and the numbers are a convenience.
    if let Ok(Err(error)) = saved.await {
        tracing::debug!(%error, "statistics not saved");
    }
}

/// Starts a sync whenever the schedule says so, in UTC.
async fn sync_on_schedule(site: Arc<Site>) {
    loop {
        let replaced = site.rules_replaced.notified();
        let now = chrono::Utc::now();
        let schedule = site.rules.load().sync_schedule.clone();
        let next = schedule.map(|schedule| schedule.find_next_occurrence(&now, false));
        let Some(next) = next else {
            replaced.await; // not scheduled now
            continue;
        };
        let Ok(next) = next else {
            warn!("sync schedule never comes up again");
            replaced.await;
            continue;
        };
        tokio::select! {
            () = replaced => continue,
            () = tokio::time::sleep((next - now).to_std().unwrap_or_default()) => {}
        }
        if let Some(service) = site.service.get() {
            let logs = service.logs.all();
            let logs = logs.iter().filter_map(Followed::with_tiles).cloned();
            let depth = site.rules.load().sync_depth;
            service.syncs.start(logs.collect(), depth);
        }
    }
}

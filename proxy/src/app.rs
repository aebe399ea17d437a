//! Wiring: settings to cache, log and servers; and the order in which they stop.
//!
//! Ports open first, so that a probe finds the process alive while it waits for a predecessor to
//! leave the cache. On a signal: no new connections, requests under way end, the cache is flushed,
//! the lock is left.

use std::{
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use arc_swap::ArcSwap;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    cache::{Cache, CacheError, LOCK_WAIT, LockError},
    config::{LogSettings, Settings},
    http::{
        AdminPolicy, CodedBundles, Gate, Listener, RateLimit, Role, Rules, Server, Service, Site,
    },
    log::{Log, LogOptions},
    metrics::Metrics,
    sync::Syncs,
    trust::TrustedKeys,
    upstream::{Upstream, Upstreams, race::Rules as RaceRules, retry::Backoff},
};

/// Compressed bundles may take this part of `cache.memory_mb` once more.
const CODED_SHARE: u64 = 8;

/// Exit code when another process keeps the cache (`EX_TEMPFAIL`: try again later).
pub const EXIT_CACHE_BUSY: u8 = 75;

/// Runs the proxy until `stop`.
///
/// # Errors
/// What keeps it from starting: an address, a key, the cache.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let config = &settings.config;
    for warning in &settings.warnings {
        warn!(key = warning.key, "{}", warning.message);
    }
    // `check` gives at least one.
    let log_settings = settings.logs.first().context("no log is configured")?;
    let keys = TrustedKeys::read(&log_settings.keys)?;
    let metrics = Arc::new(Metrics::new()?);
    let upstreams = upstreams(&settings, log_settings, &metrics)?;
    let site = Arc::new(Site {
        service: OnceLock::new(),
        was_ready: AtomicBool::new(false),
        metrics: Arc::clone(&metrics),
        rules: ArcSwap::from_pointee(rules(&settings, None)),
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
    for listener in &listeners {
        info!(address = %listener.address()?, "listening");
    }
    let server = Arc::new(Server::new(Arc::clone(&site), Gate::new(&config.limits)));
    // Its own token: the servers drain while the rest still works.
    let draining = stop.child_token();
    let serving = tokio::spawn(server.run(listeners, draining.clone(), config.shutdown.drain.0));

    let opened = tokio::select! {
        opened = open(&settings, log_settings, keys, upstreams, &metrics) => Some(opened),
        () = stop.cancelled() => None,
    };
    let mut tasks = JoinSet::new();
    let outcome = match opened {
        Some(Ok(service)) => {
            tasks.spawn(Arc::clone(&service.log).follow());
            tasks.spawn(save_stats_for_ever(Arc::clone(&site)));
            let _ = site.service.set(service); // the only place that does
            if let Some(schedule) = settings.sync_schedule.clone() {
                tasks.spawn(sync_on_schedule(Arc::clone(&site), schedule));
            }
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
        // Numbers are right after a flush; and what comes in while they are written is flushed, too.
        let _ = service.cache.flush().await;
        save_stats(&site).await;
        if let Err(error) = service.cache.flush().await {
            warn!(%error, "last flush failed");
        }
    }
    info!("stopped");
    outcome
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
        rate_limit,
    }
}

/// Whether starting failed because another process keeps the cache.
pub fn is_cache_busy(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(CacheError::Lock(LockError::Busy { .. }))
    )
}

async fn open(
    settings: &Settings,
    log: &LogSettings,
    keys: TrustedKeys,
    upstreams: Upstreams,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Service> {
    let config = &settings.config;
    let cache = Cache::open(
        &config.cache.base_path,
        LOCK_WAIT,
        settings.memory_budget,
        settings.disk_budget,
        metrics.store_refused.clone(),
    )
    .await?;
    let cache = Arc::new(cache);
    let max_wait = Duration::from_millis(config.coalescing.max_wait_ms);
    let options = LogOptions {
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
    };
    let log = Log::new(options, upstreams, Arc::clone(&cache), Arc::clone(metrics))
        .context("cannot read what was trusted before")?;
    let log = Arc::new(log);
    Ok(Service {
        coded: CodedBundles::new(settings.memory_budget / CODED_SHARE),
        syncs: Syncs::new(Arc::clone(&log), Arc::clone(metrics)),
        log,
        cache,
    })
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
        let (counts, store) = (service.log.counts(), service.log.store());
        let counts = store.map(|store| (&**store, counts.hits.get(), counts.misses.get()));
        service.cache.save_stats(counts.as_slice())
    });
    // A full disk is known by then, and the numbers are a convenience.
    if let Ok(Err(error)) = saved.await {
        tracing::debug!(%error, "statistics not saved");
    }
}

/// The upstreams of a log; connects to nothing.
fn upstreams(
    settings: &Settings,
    log: &LogSettings,
    metrics: &Metrics,
) -> anyhow::Result<Upstreams> {
    let config = &settings.config;
    let all = log.upstreams.iter().map(|upstream| {
        let metrics = metrics.upstream(&log.name, &upstream.name);
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
    Ok(Upstreams::new(
        &log.name,
        all,
        config.failover.enabled,
        rules,
    ))
}

/// Starts a sync whenever the schedule says so, in UTC.
async fn sync_on_schedule(site: Arc<Site>, schedule: croner::Cron) {
    loop {
        let Ok(next) = schedule.find_next_occurrence(&chrono::Utc::now(), false) else {
            warn!("sync schedule never comes up again");
            return;
        };
        let wait = (next - chrono::Utc::now()).to_std().unwrap_or_default();
        tokio::time::sleep(wait).await;
        if let Some(service) = site.service.get() {
            service.syncs.start(site.rules.load().sync_depth);
        }
    }
}

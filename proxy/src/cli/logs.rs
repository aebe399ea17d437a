//! What the commands that work on a cache have in common: which logs, which cache, what is shown.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::{EXIT_CONFIG, check::settings, fail};
use crate::{
    app::{EXIT_CACHE_BUSY, discover, is_cache_busy},
    cache::{Cache, CacheError, LogStore, View},
    config::Settings,
    log::stored::is_known,
    metrics::Metrics,
    rekor_v1::{shard::is_of_shard, verify::ShardOrigin},
    trust::{self, Trust, TrustedKeys},
    tuf::{Tuf, TufSettings},
};

/// A configured log, and who may sign its checkpoints.
pub(super) struct KnownLog {
    pub(super) name: String,
    /// `None` if the configuration does not say.
    pub(super) origin: Option<String>,
    pub(super) trust: Arc<Trust>,
    /// Its first upstream; `None` when offline.
    pub(super) upstream_url: Option<String>,
}

/// The settings of a configuration file, and the logs in it or the one of this name. Prints what is
/// wrong.
pub(super) fn configured(
    file: &Path,
    only: Option<&str>,
) -> Result<(Settings, Vec<KnownLog>), ExitCode> {
    let settings = settings(file)?;
    let known = known_logs(&settings, only).map_err(|error| fail(EXIT_CONFIG, &error))?;
    Ok((settings, known))
}

fn known_logs(settings: &Settings, only: Option<&str>) -> anyhow::Result<Vec<KnownLog>> {
    let tuf = match settings.tuf.clone() {
        // What was kept of it will do: there is nobody to wait for.
        Some(tuf) => {
            let tuf = TufSettings { url: None, ..tuf };
            Some(Arc::new(Tuf::open(tuf, Arc::new(Metrics::new()?))?))
        }
        None => None,
    };
    let settings = &discover(settings, tuf.as_ref(), |_| true);
    let wanted = settings
        .logs
        .iter()
        .filter(|log| only.is_none_or(|only| log.name == only));
    let known: Vec<KnownLog> = wanted
        .map(|log| {
            Ok(KnownLog {
                name: log.name.clone(),
                origin: log.origin.clone(),
                trust: TrustedKeys::from(trust::source(log, tuf.as_ref())?)?.current(),
                upstream_url: log
                    .upstreams
                    .first()
                    .map(|upstream| upstream.url.to_string()),
            })
        })
        .collect::<anyhow::Result<_>>()?;
    if known.is_empty() {
        let names: Vec<&str> = settings.logs.iter().map(|log| log.name.as_str()).collect();
        bail!(
            "no log is called `{}`; there is {}",
            only.unwrap_or_default(),
            names.join(", ")
        );
    }
    Ok(known)
}

/// A cache, with its lock or beside the process that has it.
pub(super) enum Opened {
    Beside(View),
    Locked(Cache),
}

impl Opened {
    /// Looks at the configured cache without its lock. Prints why it cannot, and ends with `failure`
    /// then.
    pub(super) fn beside(settings: &Settings, failure: u8) -> Result<Self, ExitCode> {
        let base = &settings.config.cache.base_path;
        let view = View::of(base).map_err(|error| not_opened(error, base, failure))?;
        Ok(Self::Beside(view))
    }

    /// Opens the configured cache, and does not wait for another process to leave it. Prints why it
    /// cannot, and ends with `failure` then, or with 75 if another process has it.
    pub(super) async fn locked(settings: &Settings, failure: u8) -> Result<Self, ExitCode> {
        let base = &settings.config.cache.base_path;
        let cache = Cache::open(
            base,
            Duration::ZERO,
            settings.memory_budget,
            settings.disk_budget,
        );
        let cache = cache
            .await
            .map_err(|error| not_opened(error, base, failure))?;
        Ok(Self::Locked(cache))
    }

    pub(super) fn log(&self, origin: &str) -> Arc<LogStore> {
        match self {
            Self::Beside(view) => view.log(origin),
            Self::Locked(cache) => cache.log(origin),
        }
    }

    pub(super) fn origins(&self) -> std::io::Result<Vec<String>> {
        match self {
            Self::Beside(view) => view.origins(),
            Self::Locked(cache) => cache.origins(),
        }
    }

    /// The URL of the upstream with this number in a tile's record.
    pub(super) fn upstream_url(&self, number: u32) -> std::io::Result<Option<String>> {
        match self {
            Self::Beside(view) => view.upstream_url(number),
            Self::Locked(cache) => cache.upstream_url(number),
        }
    }

    /// The origins that a configured log has here: one, or one for each shard of Rekor v1.
    pub(super) fn origins_of(&self, log: &KnownLog) -> std::io::Result<Vec<String>> {
        let first = self.origin_of(log)?;
        // A shard's origin names the log as well, and so does what all of them begin with.
        let of_log = |origin: &str| ShardOrigin::of(origin).map(|shard| shard.hostname.to_owned());
        let hostname = match (&first, &log.origin) {
            (Some(first), _) if of_log(first).is_some() => of_log(first),
            (_, configured) => configured.clone(),
        };
        let mut all = Vec::new();
        for origin in self.origins()? {
            let is_of_log = hostname.is_some() && of_log(&origin) == hostname;
            if Some(&origin) == first.as_ref() || (is_of_log && self.is_shard(&origin)?) {
                all.push(origin);
            }
        }
        Ok(all)
    }

    /// Whether what is stored of a log are shards of Rekor v1.
    pub(super) fn is_rekor_v1(&self, log: &KnownLog) -> std::io::Result<bool> {
        for origin in self.origins_of(log)? {
            if self.is_shard(&origin)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a shard of Rekor v1 is stored under this origin: it looks like one, and so does a tree head.
    fn is_shard(&self, origin: &str) -> std::io::Result<bool> {
        let looks_like_one = ShardOrigin::of(origin).is_some();
        let stored = || self.log(origin).files.read_checkpoints();
        Ok(looks_like_one && stored()?.iter().any(is_of_shard))
    }

    /// The origin of a configured log: as configured, or as this cache has learned it; any of its shards
    /// if it is of Rekor v1.
    pub(super) fn origin_of(&self, log: &KnownLog) -> std::io::Result<Option<String>> {
        if log.origin.is_some() {
            return Ok(log.origin.clone());
        }
        let origins = self.origins()?;
        if *log.trust == Trust::Anyone && origins.len() > 1 {
            return Ok(None);
        }
        for origin in origins {
            if is_known(&self.log(&origin), &log.trust)? {
                return Ok(Some(origin));
            }
        }
        Ok(None)
    }
}

/// Prints why a cache could not be opened, and what to do; the exit code says which it was.
fn not_opened(error: CacheError, base: &Path, failure: u8) -> ExitCode {
    let error = anyhow::Error::from(error);
    if !is_cache_busy(&error) {
        return fail(failure, &error);
    }
    let hint = "stop it, or scale it to no replicas, and try again";
    let base = base.display();
    let error = error.context(format!("a proxy serves from {base}: {hint}"));
    fail(EXIT_CACHE_BUSY, &error)
}

/// Does what reads, hashes and writes for as long as it takes, not on the threads that wait for
/// others. Prints why it failed, and ends with `failure` then.
pub(super) async fn run<T: Send + 'static>(
    what: &'static str,
    failure: u8,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, ExitCode> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome
        .with_context(|| format!("the {what} ended badly"))
        .and_then(|outcome| outcome)
        .map_err(|error| fail(failure, &error))
}

/// Prints an object on standard output, for programs.
pub(super) fn print_json(output: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(output)?);
    Ok(())
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn progress_bar(what: &'static str, unit: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let template = format!("{{msg}} {{bar:30}} {{pos}}/{{len}} {unit} {{eta}}");
    let style = ProgressStyle::with_template(&template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what);
    bar
}

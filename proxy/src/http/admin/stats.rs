//! `GET /_admin/cache/stats`: what is cached, and how the log is followed.

use std::sync::PoisonError;

use serde::Serialize;

use crate::{
    http::{Reloads, Service, Site},
    log::state::LogState,
    logs::Followed,
    tuf::TufStatus,
};

/// `GET /_admin/cache/stats`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stats {
    pub(super) version: u32,
    pub(super) bytes: u64,
    pub(super) budget_bytes: u64,
    pub(super) configuration: Reloads,
    /// `null` if nothing is taken from TUF.
    pub(super) tuf: Option<TufStatus>,
    pub(super) logs: Vec<LogStats>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogStats {
    pub(super) name: String,
    /// What it speaks, in the words of the configuration.
    pub(super) kind: &'static str,
    pub(super) origin: Option<String>,
    /// How it goes with following it.
    pub(super) state: LogState,
    pub(super) size: Option<u64>,
    pub(super) root: Option<String>,
    pub(super) checkpoint_age_seconds: Option<u64>,
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) hit_ratio: f64,
    pub(super) tiles: u64,
    pub(super) upstreams: Vec<UpstreamStats>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UpstreamStats {
    pub(super) name: String,
    pub(super) url: String,
    /// `null` before it was asked for anything.
    pub(super) healthy: Option<bool>,
    pub(super) last_error: Option<String>,
}

/// The statistics of this moment.
pub(super) async fn stats(site: &Site, service: &Service) -> Stats {
    let checkpoint_ttl = site.rules.load().checkpoint_ttl;
    let states = service.logs.states(checkpoint_ttl).await;
    let usage = service.cache.usage();
    let reloads = site.reloads.lock();
    Stats {
        version: 1,
        bytes: usage.bytes(),
        budget_bytes: usage.budget,
        tuf: service.logs.tuf().map(|tuf| tuf.status()),
        configuration: reloads.unwrap_or_else(PoisonError::into_inner).clone(),
        logs: states
            .iter()
            .map(|(followed, state)| LogStats::of(followed, *state))
            .collect(),
    }
}

impl LogStats {
    fn of(followed: &Followed, state: LogState) -> Self {
        let log = &followed.log;
        let rekor = followed.as_rekor_v1();
        let shard = rekor.and_then(|rekor| rekor.active());
        let (counts, upstreams, age) = match rekor {
            Some(rekor) => (rekor.counts(), rekor.upstreams(), rekor.served_age()),
            None => (log.counts(), log.upstreams(), log.served_age()),
        };
        let store = shard
            .as_ref()
            .map(|shard| shard.store())
            .or_else(|| log.store());
        // Since the cache was begun, as far as the last stop or crash let it be written down.
        let saved = store.map(|store| store.saved().clone());
        let saved = saved.unwrap_or_default();
        let hits = saved.hits.saturating_add(counts.hits.get());
        let misses = saved.misses.saturating_add(counts.misses.get());
        let checkpoint = match &shard {
            Some(shard) => shard.trusted().map(|trusted| trusted.checkpoint.clone()),
            None => log.trusted().map(|trusted| trusted.checkpoint.clone()),
        };
        let upstreams = upstreams.iter().map(|upstream| UpstreamStats {
            name: upstream.name().to_owned(),
            url: upstream.url().to_string(),
            healthy: upstream.is_healthy(),
            last_error: upstream.last_error(),
        });
        Self {
            name: log.name().to_owned(),
            kind: followed.kind(),
            origin: store.map(|store| store.origin().to_owned()),
            state,
            size: checkpoint.as_ref().map(|checkpoint| checkpoint.size),
            root: checkpoint.map(|checkpoint| checkpoint.root.to_string()),
            checkpoint_age_seconds: age.map(|age| age.as_secs()),
            hits,
            misses,
            hit_ratio: if hits == 0 && misses == 0 {
                0.0
            } else {
                hits as f64 / (hits as f64 + misses as f64)
            },
            tiles: store.map_or(0, |store| store.usage.tiles.get()),
            upstreams: upstreams.collect(),
        }
    }
}

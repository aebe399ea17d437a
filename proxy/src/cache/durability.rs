//! What a power loss may do to the cache, tried out.
//!
//! Real stores, flushes, checkpoints, evidence, evictions and prunes are recorded as they reach the
//! disk. For each seed the recording is cut somewhere, and [`model`] makes up a disk that could be
//! left: whatever was not synced is there, or not, or half, in any order. The real cache and the real
//! log open that disk, offline, and must serve nothing false and no checkpoint smaller than one whose
//! publication had returned; and what a flush had promised must be there.

mod model;
mod workload;

use std::{path::Path, sync::Arc, time::Duration};

use prometheus::IntCounter;

use self::{
    model::{Random, survive},
    workload::{Recorded, record},
};
use super::{Cache, LOCK_WAIT};
use crate::{
    audit::Audit,
    config::{Signers, Source},
    fixture_log::FixtureLog,
    log::{Asker, Log, LogOptions},
    metrics::Metrics,
    tlog::{
        path::{Resource, parse},
        tile::width_in,
    },
    trust::TrustedKeys,
    upstream::{Upstreams, race::Rules, retry::Backoff},
};

/// Power losses tried. The issue that asks for the model asks for this many; they take seconds, so
/// that every run has them all.
const SEEDS: u64 = 600;

/// With `TILE_PROXY_TEST_FULL`.
const SEEDS_FULL: u64 = 20_000;

/// Different workloads; each takes many losses.
const WORKLOADS: u64 = 8;

/// The origin of the fixture log.
const ORIGIN: &str = "rome.example/2026h1";

#[tokio::test]
async fn a_power_loss_makes_nothing_false_servable_and_loses_no_published_checkpoint() {
    let full = std::env::var_os("TILE_PROXY_TEST_FULL").is_some();
    let seeds = if full { SEEDS_FULL } else { SEEDS };
    let log = Arc::new(FixtureLog::with_entries(workload::LARGEST as usize));
    let mut workloads = Vec::new();
    for seed in 0..WORKLOADS {
        workloads.push(record(&log, seed).await);
    }
    let mut tried = Tried::default();
    for seed in 0..seeds {
        let recorded = &workloads[(seed % WORKLOADS) as usize];
        let mut random = Random::new(seed);
        let mut cut = random.below(recorded.ops.len() as u64 + 1) as usize;
        if seed % 4 != 0 {
            // Just before something becomes durable, most is at stake.
            cut += recorded.ops[cut..]
                .iter()
                .take_while(|op| !op.is_sync())
                .count();
        }
        let survived = tempfile::tempdir().expect("a directory");
        survive(
            &recorded.ops[..cut],
            &recorded.base,
            survived.path(),
            &mut random,
        );
        // The seed tells everything; a failure is tried again by it alone.
        let check = check(&log, recorded, cut, survived.path(), seed);
        tried.add(&check.await.unwrap_or_else(|broken| {
            panic!(
                "seed {seed}, cut at {cut} of {}: {broken}",
                recorded.ops.len()
            )
        }));
    }
    // A model that loses everything, or nothing, would find nothing.
    assert!(tried.published > seeds / 4, "{tried:?}");
    assert!(tried.promised > seeds, "{tried:?}");
    assert!(tried.lost > seeds, "{tried:?}");
}

/// What was looked at.
#[derive(Debug, Default)]
struct Tried {
    /// Checkpoints that had to be served.
    published: u64,
    /// Tiles and bundles that had to be there, and were.
    promised: u64,
    /// Tiles and bundles that were stored once, and are not there.
    lost: u64,
}

impl Tried {
    fn add(&mut self, more: &Self) {
        self.published += more.published;
        self.promised += more.promised;
        self.lost += more.lost;
    }
}

/// Opens what survived, and holds it against what was promised before the cut.
async fn check(
    truth: &FixtureLog,
    recorded: &Recorded,
    cut: usize,
    survived: &Path,
    seed: u64,
) -> Result<Tried, String> {
    let promised = recorded.promised(cut);
    let base = survived.join("cache");
    let cache = Cache::open(&base, LOCK_WAIT, 1 << 20, 1 << 30)
        .await
        .map_err(|error| format!("the cache does not open: {error}"))?;
    let cache = Arc::new(cache);
    let keys = TrustedKeys::read("keys", &Signers::Keys(vec![Source::Inline(truth.vkey())]))
        .map_err(|e| e.to_string())?;
    let lost = IntCounter::new("lost", "lost").map_err(|e| e.to_string())?;
    let options = LogOptions {
        name: "default".to_owned(),
        // Half of the time it is learned from what is stored.
        origin: seed.is_multiple_of(2).then(|| ORIGIN.to_owned()),
        keys,
        refresh_interval: Duration::from_secs(1),
        max_wait: Duration::from_secs(30),
        fetch_limit: Duration::from_secs(30),
        error_ttl: Duration::ZERO,
        coalescing: true,
        disk_share: u64::MAX,
        peers: None,
        audit: Audit::new(lost),
        checkpoint_bytes: 65_536,
    };
    let metrics = Arc::new(Metrics::new().map_err(|e| e.to_string())?);
    let rules = Rules {
        patience: Duration::from_secs(30),
        backoff: Backoff {
            retries: 0,
            delay: Duration::ZERO,
        },
    };
    let nobody = Upstreams::new("default", Vec::new(), true, rules);
    let log = Log::new(options, nobody, Arc::clone(&cache), metrics)
        .map_err(|error| format!("the log does not start: {error}"))?;
    let log = Arc::new(log);
    let mut tried = Tried::default();
    let Some(trusted) = log.trusted() else {
        return match promised.published {
            None => Ok(tried),
            Some(size) => Err(format!("size {size} was published, and nothing is served")),
        };
    };
    let size = trusted.checkpoint.size;
    if promised.published.is_some_and(|published| size < published) {
        return Err(format!("{promised:?} was published, and {size} is served"));
    }
    if trusted.note != truth.checkpoint(size) {
        return Err(format!("a false checkpoint of size {size} is served"));
    }
    tried.published += u64::from(promised.published.is_some());
    for path in &recorded.resources {
        let resource = parse(path).map_err(|e| e.to_string())?;
        let (level, index, width) = match resource {
            Resource::Tile(tile) => (tile.level(), tile.index(), tile.width()),
            Resource::Bundle(bundle) => (0, bundle.index(), bundle.width()),
        };
        if width_in(level, index, size) < width {
            continue;
        }
        let is_promised = promised.has(resource, size);
        match log.read(resource, Asker::Client).await {
            Ok(body) if Some(&body.bytes[..]) != truth.get(path, size, false).as_deref() => {
                return Err(format!("{path} is served, and false"));
            }
            Ok(_) => tried.promised += u64::from(is_promised),
            Err(error) if is_promised => return Err(format!("{path} was flushed: {error}")),
            Err(_) => tried.lost += 1,
        }
    }
    let store = cache.log(ORIGIN);
    let evidence = store.files.evidence().map_err(|e| e.to_string())?;
    let whole = |e: &&super::list::Evidence| e.trusted.is_some() && e.offered.is_some();
    if evidence.iter().filter(whole).count() < promised.evidence {
        return Err(format!("evidence is lost: {evidence:?}"));
    }
    if let Some(half) = evidence
        .iter()
        .find(|e| e.offered.is_some() && e.trusted.is_none())
    {
        return Err(format!("half of the evidence counts as kept: {half:?}"));
    }
    Ok(tried)
}

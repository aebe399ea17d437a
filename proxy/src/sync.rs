//! Prefetches the newest entries of logs, so that they and their proofs are there offline.
//!
//! [`plan`] is pure and says what to fetch; [`Syncs`] runs one plan at a time, over the same read
//! path that clients use, so what a sync brings is proven and stored like anything else. A sync
//! that is cut off is resumed by the next one, which finds what is already cached.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{StreamExt as _, future::join_all};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::{
    log::Log,
    metrics::Metrics,
    tlog::{
        path::{Bundle, Resource},
        tile::{FULL_WIDTH, MAX_LEVEL, Tile, width_in},
    },
};

/// Resources fetched at once; an upstream sees no more requests than that from a sync.
const CONCURRENCY: usize = 8;

/// What to fetch of a tree of `size` entries for its newest `depth`, in the order of fetching.
///
/// Every full tile above level 0 (1/256 of a log's hashes), then the newest full level-0 tiles with
/// the entry bundles below them. The tree's partial tiles are its edge, which is there already.
pub fn plan(size: u64, depth: u64) -> impl Iterator<Item = Resource> {
    let full_width = u64::from(FULL_WIDTH);
    let full_tiles = move |level: u8| (size >> (8 * u32::from(level))) / full_width;
    let above = (1..=MAX_LEVEL).rev().flat_map(move |level| {
        (0..full_tiles(level)).filter_map(move |index| Tile::new(level, index, FULL_WIDTH))
    });
    let oldest = size.saturating_sub(depth) / full_width;
    let newest = (oldest..size.div_ceil(full_width)).flat_map(move |index| {
        let tile = Tile::new(0, index, FULL_WIDTH).filter(|_| index < full_tiles(0));
        let bundle = Bundle::new(index, width_in(0, index, size));
        [tile.map(Resource::Tile), bundle.map(Resource::Bundle)]
            .into_iter()
            .flatten()
    });
    above.map(Resource::Tile).chain(newest)
}

/// What to sync, as the body of `POST /_admin/cache/sync`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncRequest {
    /// Name of the log; all of them if it is not given.
    pub log: Option<String>,
    /// How many of the newest entries; as configured if it is not given.
    pub depth: Option<u64>,
}

/// How far a sync is, as `GET /_admin/cache/sync` tells it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SyncProgress {
    /// Tells this sync from all others, also from those before a restart.
    pub id: u64,
    /// Name of the log; `None` for a sync of several.
    pub log: Option<String>,
    /// Newest entries asked for, of each log.
    pub depth: u64,
    /// Where it is.
    pub state: SyncState,
    /// Resources cached so far.
    pub done: u64,
    /// Resources in the plan.
    pub total: u64,
    /// Why it failed.
    pub error: Option<String>,
}

impl SyncProgress {
    /// Whether what was asked for is part of this sync. Who names no log is answered with whatever
    /// runs: a proxy of one log names it, too.
    pub fn covers(&self, request: &SyncRequest) -> bool {
        self.log.is_none() || request.log.is_none() || request.log == self.log
    }
}

/// Where a sync is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncState {
    /// Not everything could be fetched.
    Failed,
    /// Under way.
    Running,
    /// Everything in the plan is cached.
    Succeeded,
}

/// The syncs of a process: at most one at a time.
pub struct Syncs {
    metrics: Arc<Metrics>,
    last: Mutex<Option<Arc<Running>>>,
}

/// One sync, under way or ended.
struct Running {
    id: u64,
    log: Option<String>,
    depth: u64,
    done: AtomicU64,
    total: AtomicU64,
    /// `None` while it runs.
    outcome: Mutex<Option<Result<(), String>>>,
}

impl Syncs {
    /// No sync yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            last: Mutex::new(None),
        }
    }

    /// Starts a sync of the newest `depth` entries of each of these logs; gives the running one if
    /// there is one.
    pub fn start(&self, logs: Vec<Arc<Log>>, depth: u64) -> SyncProgress {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = last.as_ref().filter(|last| last.outcome().is_none()) {
            return running.describe();
        }
        let log = match logs.as_slice() {
            [only] => Some(only.name().to_owned()),
            _ => None,
        };
        let sync = Arc::new(Running {
            // Counts up from the time, so that a restart does not begin again.
            id: last
                .as_ref()
                .map_or_else(now_ms, |last| now_ms().max(last.id + 1)),
            log,
            depth,
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            outcome: Mutex::new(None),
        });
        *last = Some(Arc::clone(&sync));
        drop(last);
        tokio::spawn(run(logs, Arc::clone(&self.metrics), Arc::clone(&sync)));
        sync.describe()
    }

    /// The last sync, running or ended; `None` before the first.
    pub fn progress(&self) -> Option<SyncProgress> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|sync| sync.describe())
    }
}

impl Running {
    fn describe(&self) -> SyncProgress {
        let outcome = self.outcome();
        SyncProgress {
            id: self.id,
            log: self.log.clone(),
            depth: self.depth,
            state: match &outcome {
                None => SyncState::Running,
                Some(Ok(())) => SyncState::Succeeded,
                Some(Err(_)) => SyncState::Failed,
            },
            done: self.done.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            error: outcome.and_then(Result::err),
        }
    }

    fn end(&self, outcome: Result<(), String>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    fn outcome(&self) -> Option<Result<(), String>> {
        self.outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn run(logs: Vec<Arc<Log>>, metrics: Arc<Metrics>, sync: Arc<Running>) {
    // Replaced at the end; it is what a panic leaves, so that the next sync can start.
    let _ended = Ended(Arc::clone(&sync));
    let several = logs.len() > 1;
    // Beside each other: a log that does not answer keeps no other waiting.
    let outcomes = logs.iter().map(async |log| {
        let outcome = run_one(log, &metrics, &sync).await;
        outcome.map_err(|error| match several {
            true => format!("{}: {error}", log.name()),
            false => error,
        })
    });
    let outcomes = join_all(outcomes).await;
    let errors: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    sync.end(match errors.is_empty() {
        true => Ok(()),
        false => Err(errors.join("; ")),
    });
}

async fn run_one(log: &Arc<Log>, metrics: &Metrics, sync: &Running) -> Result<(), String> {
    let (name, depth) = (log.name(), sync.depth);
    let mut resources = 0_u64;
    let outcome = fetch_all(log, sync, &mut resources).await;
    match &outcome {
        Ok(()) => {
            info!(log = name, depth, resources, "synced");
            let now = Duration::from_millis(now_ms()).as_secs_f64();
            let gauge = metrics.sync_last_success.with_label_values(&[name]);
            gauge.set(now);
        }
        Err(error) => warn!(log = name, depth, resources, error, "sync failed"),
    }
    outcome
}

/// Ends a sync that did not end itself.
struct Ended(Arc<Running>);

impl Drop for Ended {
    fn drop(&mut self) {
        if self.0.outcome().is_none() {
            self.0.end(Err("it was cut off".to_owned()));
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Reads everything in the plan through the log. Goes on after a failure, so that one bad resource
/// costs only itself; the first error is the outcome. Counts what it has read in `resources`.
async fn fetch_all(log: &Arc<Log>, sync: &Running, resources: &mut u64) -> Result<(), String> {
    // A log that does not answer is no reason not to fetch what is missing of the tree we have.
    let refreshed = log.refresh().await;
    let Some(tree) = log.trusted() else {
        return Err(refreshed
            .err()
            .map_or_else(|| "no checkpoint".to_owned(), |e| e.to_string()));
    };
    let size = tree.checkpoint.size;
    let planned = plan(size, sync.depth).count() as u64;
    sync.total.fetch_add(planned, Ordering::Relaxed);
    let mut reads = futures::stream::iter(plan(size, sync.depth))
        .map(|resource| async move { (resource, log.prefetch(resource).await) })
        .buffer_unordered(CONCURRENCY);
    let mut outcome = Ok(());
    while let Some((resource, read)) = reads.next().await {
        match read {
            Ok(()) => {
                *resources += 1;
                sync.done.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if outcome.is_ok() => outcome = Err(format!("{resource}: {error}")),
            Err(_) => {}
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(size: u64, depth: u64) -> Vec<String> {
        plan(size, depth)
            .map(|resource| resource.to_string())
            .collect()
    }

    #[test]
    fn the_newest_entries_and_everything_above_them_are_planned() {
        assert_eq!(planned(0, 10), Vec::<String>::new());
        assert_eq!(planned(1, 10), ["tile/entries/000.p/1"]); // its tile is the edge
        assert_eq!(planned(256, 10), ["tile/0/000", "tile/entries/000"]);
        assert_eq!(
            planned(70_000, 200),
            [
                "tile/1/000",
                "tile/0/272",
                "tile/entries/272",
                "tile/entries/273.p/112"
            ]
        );
    }

    #[test]
    fn a_depth_beyond_the_log_is_the_whole_log() {
        let whole = planned(1_000, u64::MAX);
        assert_eq!(whole.len(), 3 + 4); // three full tiles, four bundles
        assert_eq!(planned(1_000, 1_000), whole);
    }

    #[test]
    fn ten_thousand_entries_are_about_forty_bundles() {
        let bundles = |size| {
            plan(size, 10_000)
                .filter(|r| matches!(r, Resource::Bundle(_)))
                .count()
        };
        assert_eq!(bundles(1_000_000), 40);
        assert_eq!(bundles(256 * 4_000 + 1), 41);
    }
}

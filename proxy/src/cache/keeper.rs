//! Keeps the cache within its budget, in the background: looks at what is there, corrects the
//! numbers, and evicts what [`evict`](super::evict) chooses.
//!
//! Neither a start nor a request waits for it.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use super::{
    LogStore, Memory, Usage,
    durable::Command,
    evict::{Candidate, Rank, choose, high_water, low_water},
    remove::{REMOVE_AT_ONCE, Target},
    scan::{Evictable, Found, FoundFile, entries, scan_log, scan_rest},
    store::Stores,
};
use crate::tlog::path::Resource;

/// Longest time between two looks, which correct the numbers.
const SCAN_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Shortest time after one that could not free enough: it would find the same again.
const PAUSE_IF_FULL: Duration = Duration::from_secs(60);

/// Looks in a row, while things change under them, until an inexact one will do for an hour.
const MAX_DISTURBED: u32 = 4;

/// How a look ended.
struct Settled {
    /// Whether nothing changed under it.
    exact: bool,
    /// Whether the cache is small enough now.
    enough: bool,
}

/// What keeping takes.
pub(super) struct Keeper {
    pub(super) base: PathBuf,
    pub(super) usage: Arc<Usage>,
    pub(super) stores: Arc<Stores>,
    pub(super) memory: Arc<Memory>,
    /// Weak: keeping is no reason for the writer to go on.
    pub(super) writer: mpsc::WeakSender<Command>,
}

impl Keeper {
    /// Keeps until the cache is closed.
    pub(super) async fn run(self) {
        let mut disturbed = 0;
        loop {
            let looked = tokio::task::spawn_blocking({
                let (base, stores) = (self.base.clone(), Arc::clone(&self.stores));
                self.usage.scan_begins();
                for (_, store) in self.stores.all() {
                    store.usage.scan_begins();
                }
                move || (scan_all(&base, &stores), scan_rest(&base))
            });
            let Ok((found, rest)) = looked.await else {
                return; // the process ends
            };
            let Settled { exact, enough } = self.settle(found, rest).await;
            if enough {
                tokio::time::sleep(PAUSE).await;
            } else {
                tokio::select! {
                    () = self.usage.pruned.notified() => {}
                    () = tokio::time::sleep(PAUSE_IF_FULL) => {}
                }
            }
            disturbed = if exact { 0 } else { disturbed + 1 };
            if (1..MAX_DISTURBED).contains(&disturbed) {
                continue;
            }
            disturbed = 0;
            tokio::select! {
                () = self.usage.wanted.notified() => {}
                () = self.usage.pruned.notified() => {}
                () = tokio::time::sleep(SCAN_INTERVAL) => {}
            }
        }
    }

    /// Takes up what a scan found, and evicts if it is too much: first of each log that has more than
    /// its share, then of all.
    async fn settle(&self, found: Vec<(Arc<LogStore>, Found)>, rest: u64) -> Settled {
        let mut total = rest;
        let mut kept = rest;
        let mut candidates = Vec::new();
        let mut going = Vec::new();
        for (which, (store, log)) in found.iter().enumerate() {
            let usage = &store.usage;
            usage.scan_found(log.bytes, log.tiles);
            let mut ours = self.candidates(which, store, log);
            let evictable = ours.iter().map(|candidate| candidate.bytes).sum();
            let ours_kept = log.bytes.saturating_sub(evictable);
            (total, kept) = (total + log.bytes, kept + ours_kept);
            let room = Room {
                stored: usage.bytes.get(),
                kept: ours_kept,
                budget: usage.share(),
            };
            room.tell(&usage.full, &store.origin);
            // If it is not enough, it is the log's own trouble: it stores nothing more, and wakes nobody.
            let (gone, _) = room.make(&mut ours);
            going.extend(gone);
            candidates.extend(ours);
        }
        let exact = self.usage.scan_found(total);
        let freed: u64 = going.iter().map(|candidate| candidate.bytes).sum();
        let room = Room {
            stored: self.usage.bytes().saturating_sub(freed),
            kept,
            budget: self.usage.take_budget(),
        };
        room.tell(&self.usage.full, "all");
        debug!(
            bytes = total,
            budget = room.budget,
            "counted what is stored"
        );
        let (gone, enough) = room.make(&mut candidates);
        going.extend(gone);
        for (which, (store, log)) in found.iter().enumerate() {
            let strays = log.strays.iter().cloned().map(Target::Stray);
            let ours = going.iter().filter(|candidate| candidate.what.0 == which);
            self.remove(store, strays.collect()).await;
            self.remove(store, ours.map(target).collect()).await;
        }
        if !going.is_empty() {
            let bytes: u64 = going.iter().map(|candidate| candidate.bytes).sum();
            debug!(resources = going.len(), bytes, "evicted");
        }
        Settled { exact, enough }
    }

    /// What may go of one log.
    fn candidates(
        &self,
        which: usize,
        store: &LogStore,
        log: &Found,
    ) -> Vec<Candidate<(usize, Evictable)>> {
        let in_memory = |what: Evictable| match what {
            Evictable::Bundle(bundle) => {
                let remembered = (store.number, Resource::Bundle(bundle));
                self.memory.peek(&remembered).is_some()
            }
            Evictable::Entry(_) => false,
        };
        let candidate = |found: &FoundFile| Candidate {
            what: (which, found.what),
            rank: Rank::Bundle,
            bytes: found.bytes,
            // What is read from memory is not noted on the disk.
            used: match in_memory(found.what) {
                true => SystemTime::now(),
                false => found.used,
            },
        };
        log.evictable.iter().map(candidate).collect()
    }

    /// Has the writer remove things, some at a time, so that it goes on storing in between.
    async fn remove(&self, store: &Arc<LogStore>, targets: Vec<Target>) {
        for some in targets.chunks(REMOVE_AT_ONCE) {
            let (reply, outcome) = oneshot::channel();
            let Some(writer) = self.writer.upgrade() else {
                return;
            };
            let command = Command::Remove(Arc::clone(store), some.to_vec(), reply);
            if writer.send(command).await.is_err() {
                return;
            }
            drop(writer);
            let Ok((removed, outcome)) = outcome.await else {
                return;
            };
            store.usage.evicted(removed.total().count);
            if let Err(error) = outcome {
                warn!(%error, "something could not be evicted");
            }
        }
    }
}

/// What is stored, against what may be.
struct Room {
    stored: u64,
    /// What of it may not be evicted.
    kept: u64,
    budget: u64,
}

impl Room {
    /// Notes whether what may not be evicted fills the budget by itself, and says so when that is
    /// news.
    fn tell(&self, full: &AtomicBool, log: &str) {
        let Self { kept, budget, .. } = *self;
        let is_full = kept > low_water(budget);
        if full.swap(is_full, Ordering::Relaxed) == is_full {
            return;
        }
        if is_full {
            warn!(
                log,
                bytes = kept,
                budget,
                "full tiles fill the cache; bundles are served and not kept until a prune"
            );
        } else {
            info!(
                log,
                bytes = kept,
                budget,
                "full tiles leave room for bundles again"
            );
        }
    }

    /// Takes out of the candidates what has to go, and says whether that is enough.
    fn make<T>(&self, candidates: &mut Vec<Candidate<T>>) -> (Vec<Candidate<T>>, bool) {
        if self.stored <= high_water(self.budget) {
            return (Vec::new(), true);
        }
        let going = choose(candidates, self.stored, low_water(self.budget));
        let freed: u64 = going.iter().map(|candidate| candidate.bytes).sum();
        let left = self.stored.saturating_sub(freed);
        (going, left <= low_water(self.budget))
    }
}

fn target(going: &Candidate<(usize, Evictable)>) -> Target {
    let unused_since = Some(going.used);
    match going.what.1 {
        Evictable::Bundle(bundle) => Target::Bundle {
            bundle,
            unused_since,
        },
        Evictable::Entry(leaf) => Target::Entry { leaf, unused_since },
    }
}

/// Looks at every log, followed or not.
pub(super) fn scan_all(base: &std::path::Path, stores: &Stores) -> Vec<(Arc<LogStore>, Found)> {
    entries(&base.join("tiles"))
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .map(|name| {
            let store = stores.of_directory(&name);
            let found = scan_log(&store.directory);
            (store, found)
        })
        .collect()
}

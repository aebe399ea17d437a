//! Keeps the cache within its budget, in the background: looks at what is there, corrects the
//! numbers, and evicts what [`evict`](super::evict) chooses.
//!
//! Neither a start nor a request waits for it.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use super::{
    LogStore, Memory, Usage,
    durable::Command,
    evict::{Candidate, Rank, choose, high_water, low_water},
    remove::{REMOVE_AT_ONCE, Target},
    scan::{Evictable, Found, entries, scan_log, scan_rest},
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
                () = tokio::time::sleep(SCAN_INTERVAL) => {}
            }
        }
    }

    /// Takes up what a scan found, and evicts if it is too much.
    async fn settle(&self, found: Vec<(Arc<LogStore>, Found)>, rest: u64) -> Settled {
        let mut total = rest;
        let mut evictable = 0;
        let mut candidates = Vec::new();
        for (which, (store, log)) in found.iter().enumerate() {
            store.usage.scan_found(log.bytes, log.tiles);
            total += log.bytes;
            evictable += log.evictable.iter().map(|found| found.bytes).sum::<u64>();
            candidates.extend(log.evictable.iter().map(|found| {
                let remembered = match found.what {
                    Evictable::Bundle(bundle) => {
                        let remembered = (store.number, Resource::Bundle(bundle));
                        self.memory.peek(&remembered).is_some()
                    }
                    Evictable::Entry(_) => false,
                };
                Candidate {
                    what: (which, found.what),
                    rank: Rank::Bundle,
                    bytes: found.bytes,
                    // What is read from memory is not noted on the disk.
                    used: if remembered {
                        SystemTime::now()
                    } else {
                        found.used
                    },
                }
            }));
        }
        let exact = self.usage.scan_found(total);
        let (stored, budget) = (self.usage.bytes(), self.usage.take_budget());
        let kept = total.saturating_sub(evictable);
        let full = kept > low_water(budget);
        if full && !self.usage.full.swap(true, Ordering::Relaxed) {
            warn!(
                bytes = kept,
                budget, "full tiles fill the cache; bundles are served and not kept until a prune"
            );
        }
        if !full && self.usage.full.swap(false, Ordering::Relaxed) {
            info!(
                bytes = kept,
                budget, "full tiles leave room for bundles again"
            );
        }
        debug!(bytes = total, budget, "counted what is stored");
        for (store, log) in &found {
            let strays: Vec<Target> = log.strays.iter().cloned().map(Target::Stray).collect();
            self.remove(store, strays).await;
        }
        if stored <= high_water(budget) {
            let enough = true;
            return Settled { exact, enough };
        }
        let going = choose(candidates, stored, low_water(budget));
        let freed: u64 = going.iter().map(|candidate| candidate.bytes).sum();
        for (which, (store, _)) in found.iter().enumerate() {
            let ours = going.iter().filter(|candidate| candidate.what.0 == which);
            let targets: Vec<Target> = ours.map(target).collect();
            self.remove(store, targets).await;
        }
        debug!(resources = going.len(), bytes = freed, "evicted");
        let enough = stored.saturating_sub(freed) <= low_water(budget);
        Settled { exact, enough }
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

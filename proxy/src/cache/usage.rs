//! Bytes on the disk, against the budget.

use std::{
    io,
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use prometheus::IntCounter;
use tokio::sync::Notify;

use super::evict::high_water;

/// A number that the writer keeps and a scan corrects.
///
/// While a scan runs it cannot be known whether it has seen a change: what was added meanwhile is
/// counted on top, so that the outcome is never too small. Another scan takes that back.
#[derive(Debug, Default)]
pub struct Tally {
    value: AtomicU64,
    /// Added since the running scan began.
    added: AtomicI64,
}

impl Tally {
    fn starting_at(value: u64) -> Self {
        Self {
            value: AtomicU64::new(value),
            added: AtomicI64::new(0),
        }
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }

    fn adjust(&self, change: i64) {
        let adjusted = |value: u64| Some(value.saturating_add_signed(change));
        // Never refuses.
        let _ = self
            .value
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, adjusted);
        self.added.fetch_add(change, Ordering::Relaxed);
    }

    fn scan_begins(&self) {
        self.added.store(0, Ordering::Relaxed);
    }

    fn scan_found(&self, counted: u64) {
        let added = self.added.load(Ordering::Relaxed).max(0);
        self.value
            .store(counted.saturating_add_signed(added), Ordering::Relaxed);
    }
}

/// Bytes on the disk, against the budget.
#[derive(Debug)]
pub struct Usage {
    bytes: Tally,
    /// Bytes that may be stored.
    pub budget: u64,
    refused: AtomicU64,
    /// Whether what may not be evicted fills the budget by itself. Bundles are not stored then:
    /// they would be evicted at once.
    pub(super) full: AtomicBool,
    /// Whether something changed since the running scan began.
    disturbed: AtomicBool,
    scans: AtomicU64,
    /// Whether the disk refused something for lack of room.
    disk_full: AtomicBool,
    /// Ends the pause of whoever evicts: there may be room again.
    pub(super) pruned: Notify,
    /// Wakes whoever evicts.
    pub(super) wanted: Notify,
}

impl Usage {
    pub(super) fn new(bytes: u64, budget: u64) -> Self {
        Self {
            bytes: Tally::starting_at(bytes),
            budget,
            refused: AtomicU64::new(0),
            full: AtomicBool::new(false),
            disturbed: AtomicBool::new(false),
            scans: AtomicU64::new(0),
            disk_full: AtomicBool::new(false),
            pruned: Notify::new(),
            wanted: Notify::new(),
        }
    }

    /// Bytes that files of the cache take on the disk: allocated blocks, directories left out.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Resources that were served and not stored, in this process.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Counts one of this log.
    pub(super) fn refuse(&self, of: &LogUsage) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(counters) = of.counters.get() {
            counters.refused.inc();
        }
    }

    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.bytes().saturating_add(bytes) <= self.budget
    }

    /// Asks for eviction if there is so much, of all or of this log, that it should begin; of a log
    /// whose share is filled by what may not be evicted, it would bring nothing.
    pub(super) fn wake_if_high(&self, log: &LogUsage) {
        let log_is_high = log.is_high() && !log.full.load(Ordering::Relaxed);
        if self.bytes() > high_water(self.budget) || log_is_high {
            self.wanted.notify_one();
        }
    }

    /// Says that the disk is full below the budget, and asks for room.
    pub(super) fn disk_is_full(&self) {
        self.disk_full.store(true, Ordering::Relaxed);
        self.wanted.notify_one();
    }

    /// What the budget is just now: on a disk that is full, what is stored. Asked for once; the
    /// next refusal says it again.
    pub(super) fn take_budget(&self) -> u64 {
        if self.disk_full.swap(false, Ordering::Relaxed) {
            self.budget.min(self.bytes())
        } else {
            self.budget
        }
    }

    pub(super) fn adjust(&self, change: i64) {
        self.disturbed.store(true, Ordering::Relaxed);
        self.bytes.adjust(change);
    }

    pub(super) fn scan_begins(&self) {
        self.disturbed.store(false, Ordering::Relaxed);
        self.bytes.scan_begins();
    }

    /// Takes up what a scan found. Returns whether that is exact: nothing changed meanwhile.
    pub(super) fn scan_found(&self, bytes: u64) -> bool {
        self.bytes.scan_found(bytes);
        self.scans.fetch_add(1, Ordering::Relaxed);
        !self.disturbed.load(Ordering::Relaxed)
    }

    /// Scans that have ended.
    #[cfg(test)]
    pub(super) fn scans(&self) -> u64 {
        self.scans.load(Ordering::Relaxed)
    }
}

/// What one log has on the disk, against its part of the budget.
#[derive(Debug)]
pub struct LogUsage {
    /// Bytes that its files take.
    pub bytes: Tally,
    /// Full tiles stored.
    pub tiles: Tally,
    /// Bytes that may be stored of it.
    share: AtomicU64,
    /// As of the whole cache, against the share.
    pub(super) full: AtomicBool,
    /// Whether the last attempt to store was refused, by the budget or by the disk.
    pub(super) refusing: AtomicBool,
    /// Set once somebody follows the log.
    counters: OnceLock<Counters>,
}

/// What is counted of one log.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Bundles evicted.
    pub evictions: IntCounter,
    /// Resources that were served and not stored.
    pub refused: IntCounter,
}

impl LogUsage {
    pub(super) fn starting_at(bytes: u64, tiles: u64) -> Self {
        Self {
            bytes: Tally::starting_at(bytes),
            tiles: Tally::starting_at(tiles),
            share: AtomicU64::new(u64::MAX),
            full: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            counters: OnceLock::new(),
        }
    }

    /// Bytes that may be stored of this log, beside what the budget of all logs says.
    pub fn share(&self) -> u64 {
        self.share.load(Ordering::Relaxed)
    }

    /// Gives the log another share, from now on: what is too much goes when the cache is looked at.
    pub fn set_share(&self, bytes: u64) {
        self.share.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.bytes.get().saturating_add(bytes) <= self.share()
    }

    fn is_high(&self) -> bool {
        self.bytes.get() > high_water(self.share())
    }

    /// Counts here from now on.
    pub fn count(&self, counters: Counters) {
        let _ = self.counters.set(counters); // the first one stays: there is one name a log
    }

    pub(super) fn evicted(&self, resources: u64) {
        if let Some(counters) = self.counters.get() {
            counters.evictions.inc_by(resources);
        }
    }

    pub(super) fn adjust(&self, bytes: i64, tiles: i64) {
        self.bytes.adjust(bytes);
        self.tiles.adjust(tiles);
    }

    pub(super) fn scan_begins(&self) {
        self.bytes.scan_begins();
        self.tiles.scan_begins();
    }

    pub(super) fn scan_found(&self, bytes: u64, tiles: u64) {
        self.bytes.scan_found(bytes);
        self.tiles.scan_found(tiles);
    }
}

/// Nine tenths of the file system that `base` is on, in bytes.
pub(super) fn most_of_disk(base: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(base)?;
    let total = disk.f_blocks.saturating_mul(disk.f_frsize);
    Ok(total - total / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_corrects_a_tally_and_loses_nothing_added_meanwhile() {
        let tally = Tally::starting_at(u64::MAX); // a damaged statistics file
        tally.scan_begins();
        tally.scan_found(1_000);
        assert_eq!(tally.get(), 1_000);
        tally.adjust(-1_500);
        assert_eq!(tally.get(), 0, "never below nothing");
        tally.scan_begins();
        tally.adjust(300);
        tally.scan_found(1_000);
        assert_eq!(tally.get(), 1_300);
        tally.scan_begins();
        tally.adjust(-300);
        tally.scan_found(1_000);
        assert_eq!(tally.get(), 1_000, "rather too much than too little");
    }
}

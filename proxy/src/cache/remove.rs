//! Removing what is stored: for eviction, for a prune, and for what turned out to be damaged.
//!
//! All of it goes through the writer, so that nothing is removed while it is written.

use std::{io, path::PathBuf, sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{LogStore, disk, durable::Writer};
use crate::{
    rekor_v1::api::Entry,
    tlog::{Hash, path::Bundle},
};

/// Things removed in one go; stores wait no longer than for that many.
pub(super) const REMOVE_AT_ONCE: usize = 256;

/// Something to remove.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// A bundle; unless it was used after `unused_since`.
    Bundle {
        bundle: Bundle,
        unused_since: Option<SystemTime>,
    },
    /// A Rekor v1 entry, by its leaf hash; unless it was used after `unused_since`.
    Entry {
        leaf: Hash,
        unused_since: Option<SystemTime>,
    },
    /// A file that a crash left half-written.
    Stray(PathBuf),
    /// Full tiles of one group: their slots, and when each was stored, so that one that was stored
    /// again meanwhile stays.
    Tiles {
        level: u8,
        group: u64,
        slots: Vec<(u64, u64)>,
    },
}

/// How many things, and how many bytes on the disk.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Count {
    /// How many.
    pub count: u64,
    /// Bytes on the disk.
    pub bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What was removed, by kind.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Removed {
    /// Full tiles.
    pub tiles: Count,
    /// Full entry bundles.
    pub bundles: Count,
    /// Partial entry bundles.
    pub partials: Count,
    /// Entries of Rekor v1.
    #[serde(default)] // an older replica does not say
    pub entries: Count,
}

impl Removed {
    /// Counts a bundle of this width.
    pub(super) fn add_bundle(&mut self, bundle: Bundle, bytes: u64) {
        if bundle.is_full() {
            self.bundles.add(bytes);
        } else {
            self.partials.add(bytes);
        }
    }

    /// Adds what was removed elsewhere.
    pub(super) fn merge(&mut self, more: &Self) {
        for (sum, count) in [
            (&mut self.tiles, more.tiles),
            (&mut self.bundles, more.bundles),
            (&mut self.partials, more.partials),
            (&mut self.entries, more.entries),
        ] {
            sum.count += count.count;
            sum.bytes += count.bytes;
        }
    }

    /// Everything together.
    pub fn total(&self) -> Count {
        let all = [self.tiles, self.bundles, self.partials, self.entries];
        Count {
            count: all.iter().map(|kind| kind.count).sum(),
            bytes: all.iter().map(|kind| kind.bytes).sum(),
        }
    }
}

impl Writer {
    /// Removes what is given. Goes on after a failure; the first error is returned.
    ///
    /// What is removed is gone after a power loss only once its directory is synced. It may come
    /// back until then, as true as it was.
    pub(super) fn remove(
        &mut self,
        store: &Arc<LogStore>,
        targets: Vec<Target>,
    ) -> (Removed, io::Result<()>) {
        // A group that is about to be synced must not lose slots under the flush.
        let mut outcome = self.flush();
        let mut removed = Removed::default();
        for target in targets {
            let done = match target {
                Target::Bundle {
                    bundle,
                    unused_since,
                } => self.remove_bundle(store, bundle, unused_since, &mut removed),
                Target::Entry { leaf, unused_since } => {
                    self.remove_entry(store, leaf, unused_since, &mut removed)
                }
                Target::Stray(path) => {
                    disk::remove(&path).map(|bytes| self.gives_back(store, bytes))
                }
                Target::Tiles {
                    level,
                    group,
                    slots,
                } => self.remove_tiles(store, level, group, &slots, &mut removed),
            };
            if outcome.is_ok() {
                outcome = done;
            }
        }
        (removed, outcome)
    }

    fn gives_back(&self, store: &LogStore, bytes: u64) {
        self.adjust(store, -bytes.cast_signed(), 0);
    }

    fn remove_bundle(
        &self,
        store: &LogStore,
        bundle: Bundle,
        unused_since: Option<SystemTime>,
        removed: &mut Removed,
    ) -> io::Result<()> {
        if !may_go(store.files.bundle_used(bundle), unused_since) {
            return Ok(());
        }
        let bytes = store.files.remove_bundle(bundle)?;
        self.gives_back(store, bytes);
        removed.add_bundle(bundle, bytes);
        Ok(())
    }

    fn remove_entry(
        &self,
        store: &LogStore,
        leaf: Hash,
        unused_since: Option<SystemTime>,
        removed: &mut Removed,
    ) -> io::Result<()> {
        if !may_go(store.files.entry_used(leaf), unused_since) {
            return Ok(());
        }
        // Where it cannot be read, its second name stays, and is found to lead nowhere.
        let stored = store.files.read_entry(leaf).ok().flatten();
        let index = stored.and_then(|json| Entry::parse(&json).ok()?.log_index.into());
        let bytes = store.files.remove_entry(leaf, index)?;
        self.gives_back(store, bytes);
        removed.entries.add(bytes);
        Ok(())
    }

    fn remove_tiles(
        &mut self,
        store: &LogStore,
        level: u8,
        number: u64,
        slots: &[(u64, u64)],
        removed: &mut Removed,
    ) -> io::Result<()> {
        let Some(group) = store.groups.by_number(level, number)? else {
            return Ok(());
        };
        let before = group.allocated()?;
        let stored = group.records()?;
        let going: Vec<u64> = slots
            .iter()
            .filter(|(slot, cached_at)| {
                let same = |(at, record): &(u64, super::record::Record)| {
                    (*at, record.cached_at) == (*slot, *cached_at)
                };
                stored.iter().any(same)
            })
            .map(|(slot, _)| *slot)
            .collect();
        if going.is_empty() {
            return Ok(());
        }
        for slot in &going {
            group.forget(*slot)?;
        }
        group.punch(&going)?;
        let after = if stored.len() == going.len() {
            store.groups.remove(level, number)?;
            self.names_changed(store, level);
            0
        } else {
            group.allocated()?
        };
        let freed = before.saturating_sub(after);
        self.adjust(
            store,
            after.cast_signed() - before.cast_signed(),
            -(going.len() as u64).cast_signed(),
        );
        removed.tiles.count += going.len() as u64;
        removed.tiles.bytes += freed;
        Ok(())
    }
}

/// Whether something goes that was last `used` then, if what was used after `unused_since` stays.
fn may_go(used: Option<SystemTime>, unused_since: Option<SystemTime>) -> bool {
    match (used, unused_since) {
        (None, _) => false, // gone already
        (Some(used), Some(since)) => used <= since,
        (Some(_), None) => true,
    }
}

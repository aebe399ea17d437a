//! Prune: the one way in which stored full tiles go. By age, by size, or all of a log.
//!
//! Checkpoints with their edge tiles, evidence, origins and names are never among what may go: what
//! is served is served as before, and what was pruned is fetched again when somebody asks.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{
    Cache, LogStore,
    durable::Command,
    evict::{Candidate, Rank, choose},
    keeper::scan_all,
    remove::{REMOVE_AT_ONCE, Removed, Target},
    scan::{Evictable, Found, entries},
    slots::{GROUP_SLOTS, read_records},
};
use crate::tlog::{
    path::Resource,
    tile::{FULL_TILE_BYTES, FULL_WIDTH, MAX_LEVEL, Tile},
};

/// What is to go. With neither an age nor a size, everything of the log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Prune {
    /// Tiles that were stored, and bundles that were last used, longer ago than this.
    pub older_than: Option<Duration>,
    /// After that, as much more as makes the whole cache, or the one log, no larger than this:
    /// bundles first, least recently used, then tiles, the oldest first.
    pub max_size: Option<u64>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What a prune did.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneReport {
    /// Whether it was only said.
    pub dry_run: bool,
    /// What went, or would.
    pub removed: Removed,
    /// Bytes that are left in the cache, or would be.
    pub bytes: u64,
}

/// Something that a prune may remove, and the log it is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Item {
    log: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Evictable(Evictable),
    Tile {
        level: u8,
        index: u64,
        cached_at: u64,
    },
}

impl Cache {
    /// Removes what `prune` says, of one log or of all. Durable on return.
    ///
    /// # Errors
    /// When something could not be removed; the rest is.
    pub async fn prune(&self, only: Option<&LogStore>, prune: &Prune) -> io::Result<PruneReport> {
        let directories = only.map(|store| vec![store.directory.clone()]);
        self.prune_in(directories, prune).await
    }

    /// As [`Cache::prune`], of several parts of the cache as if they were one.
    ///
    /// # Errors
    /// As there.
    pub async fn prune_all_of(
        &self,
        stores: &[Arc<LogStore>],
        prune: &Prune,
    ) -> io::Result<PruneReport> {
        let directories = stores.iter().map(|store| store.directory.clone());
        self.prune_in(Some(directories.collect()), prune).await
    }

    async fn prune_in(
        &self,
        directories: Option<Vec<PathBuf>>,
        prune: &Prune,
    ) -> io::Result<PruneReport> {
        let (base, stores) = (self.base.clone(), Arc::clone(&self.stores));
        let found = tokio::task::spawn_blocking(move || {
            let logs = scan_all(&base, &stores).into_iter();
            let wanted = |store: &LogStore| match &directories {
                Some(directories) => directories.contains(&store.directory),
                None => true,
            };
            let logs: Vec<_> = logs.filter(|(store, _)| wanted(store)).collect();
            let candidates = candidates(&logs);
            (logs, candidates)
        });
        let (logs, candidates) = found.await.map_err(io::Error::other)?;
        let stored = logs.iter().map(|(_, found)| found.bytes).sum();
        let going = select(candidates, SystemTime::now(), stored, prune);
        let mut removed = Removed::default();
        if prune.dry_run {
            for Candidate { what, bytes, .. } in &going {
                match what.kind {
                    Kind::Evictable(Evictable::Bundle(bundle)) => {
                        removed.add_bundle(bundle, *bytes);
                    }
                    Kind::Evictable(Evictable::Entry(_)) => removed.entries.add(*bytes),
                    Kind::Tile { .. } => removed.tiles.add(*bytes),
                }
            }
            return Ok(PruneReport {
                dry_run: true,
                bytes: self.usage().bytes().saturating_sub(removed.total().bytes),
                removed,
            });
        }
        let mut outcome = Ok(());
        for (which, (store, _)) in logs.iter().enumerate() {
            let ours = going.iter().map(|candidate| candidate.what);
            let kinds: Vec<Kind> = ours
                .filter(|item| item.log == which)
                .map(|item| item.kind)
                .collect();
            for kind in &kinds {
                // From memory too: what was pruned is not served again without being fetched.
                self.forget(store, *kind);
            }
            for some in targets(&kinds).chunks(REMOVE_AT_ONCE) {
                let (more, done) = self.remove(store, some.to_vec()).await?;
                removed.merge(&more);
                if outcome.is_ok() {
                    outcome = done;
                }
            }
        }
        self.flush().await?;
        // There may be room for bundles again.
        self.usage().pruned.notify_one();
        self.usage().wanted.notify_one();
        outcome.map(|()| PruneReport {
            dry_run: false,
            removed,
            bytes: self.usage().bytes(),
        })
    }

    pub(super) async fn remove(
        &self,
        store: &Arc<LogStore>,
        targets: Vec<Target>,
    ) -> io::Result<(Removed, io::Result<()>)> {
        self.ask(|reply| Command::Remove(Arc::clone(store), targets, reply))
            .await
    }

    fn forget(&self, store: &LogStore, kind: Kind) {
        let resource = match kind {
            Kind::Evictable(Evictable::Bundle(bundle)) => Some(Resource::Bundle(bundle)),
            Kind::Evictable(Evictable::Entry(_)) => None, // never in memory
            Kind::Tile { level, index, .. } => {
                Tile::new(level, index, FULL_WIDTH).map(Resource::Tile)
            }
        };
        if let Some(resource) = resource {
            self.memory.remove(&(store.number, resource));
        }
    }
}

/// Everything that may go.
fn candidates(logs: &[(Arc<LogStore>, Found)]) -> Vec<Candidate<Item>> {
    let mut candidates = Vec::new();
    for (log, (store, found)) in logs.iter().enumerate() {
        candidates.extend(found.evictable.iter().map(|found| Candidate {
            what: Item {
                log,
                kind: Kind::Evictable(found.what),
            },
            rank: Rank::Bundle,
            bytes: found.bytes,
            used: found.used,
        }));
        for level in 0..=MAX_LEVEL {
            for entry in entries(&store.groups.level_directory(level)) {
                let path = entry.path();
                let Some(group) = group_of(&path) else {
                    continue;
                };
                for (slot, record) in read_records(&path).unwrap_or_default() {
                    let stored = Duration::from_millis(record.cached_at);
                    candidates.push(Candidate {
                        what: Item {
                            log,
                            kind: Kind::Tile {
                                level,
                                index: group * GROUP_SLOTS + slot,
                                cached_at: record.cached_at,
                            },
                        },
                        rank: Rank::Tile,
                        bytes: FULL_TILE_BYTES as u64,
                        used: SystemTime::UNIX_EPOCH
                            .checked_add(stored)
                            .unwrap_or(SystemTime::UNIX_EPOCH),
                    });
                }
            }
        }
    }
    candidates
}

/// Number of the group whose records a file holds. One that no index reaches is none.
fn group_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".meta")?;
    let group: u64 = name.parse().ok()?;
    (group < u64::MAX / GROUP_SLOTS).then_some(group)
}

/// What goes.
fn select(
    candidates: Vec<Candidate<Item>>,
    now: SystemTime,
    stored: u64,
    prune: &Prune,
) -> Vec<Candidate<Item>> {
    let Prune {
        older_than,
        max_size,
        dry_run: _,
    } = prune;
    let is_old = |candidate: &Candidate<Item>| match older_than {
        // What is stored in the future is not old.
        Some(age) => now.duration_since(candidate.used).is_ok_and(|d| d >= *age),
        None => max_size.is_none(),
    };
    let (mut going, mut rest): (Vec<_>, Vec<_>) = candidates.into_iter().partition(is_old);
    if let Some(max_size) = max_size {
        let gone: u64 = going.iter().map(|candidate| candidate.bytes).sum();
        going.extend(choose(&mut rest, stored.saturating_sub(gone), *max_size));
    }
    going
}

/// The same for the writer: the tiles of one group together.
fn targets(kinds: &[Kind]) -> Vec<Target> {
    let mut groups: BTreeMap<(u8, u64), Vec<(u64, u64)>> = BTreeMap::new();
    let mut targets = Vec::new();
    for kind in kinds {
        match *kind {
            Kind::Evictable(Evictable::Bundle(bundle)) => targets.push(Target::Bundle {
                bundle,
                unused_since: None,
            }),
            Kind::Evictable(Evictable::Entry(leaf)) => targets.push(Target::Entry {
                leaf,
                unused_since: None,
            }),
            Kind::Tile {
                level,
                index,
                cached_at,
            } => groups
                .entry((level, index / GROUP_SLOTS))
                .or_default()
                .push((index % GROUP_SLOTS, cached_at)),
        }
    }
    targets.extend(
        groups
            .into_iter()
            .map(|((level, group), slots)| Target::Tiles {
                level,
                group,
                slots,
            }),
    );
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::path::Bundle;

    #[test]
    fn what_goes_is_old_or_too_much_or_everything() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let tile = |index, at| Candidate {
            what: Item {
                log: 0,
                kind: Kind::Tile {
                    level: 0,
                    index,
                    cached_at: at * 1_000,
                },
            },
            rank: Rank::Tile,
            bytes: 8_192,
            used: SystemTime::UNIX_EPOCH + Duration::from_secs(at),
        };
        let bundle = |index, at| Candidate {
            what: Item {
                log: 0,
                kind: Kind::Evictable(Evictable::Bundle(
                    Bundle::new(index, 256).expect("in range"),
                )),
            },
            rank: Rank::Bundle,
            bytes: 20_480,
            used: SystemTime::UNIX_EPOCH + Duration::from_secs(at),
        };
        let all = [tile(1, 100), tile(2, 200), bundle(3, 150), tile(4, 2_000)];
        let stored = 3 * 8_192 + 20_480 + 4_096; // and a checkpoint
        let age = |seconds| Some(Duration::from_secs(seconds));
        for (older_than, max_size, want) in [
            (None, None, vec![0, 1, 2, 3]),
            (age(900), None, vec![0]),
            (age(901), None, vec![]),
            (age(850), None, vec![0, 2]),
            (age(0), None, vec![0, 1, 2]), // the clock was wrong once: that one is not old
            (None, Some(stored), vec![]),
            (None, Some(stored - 1), vec![2]), // bundles before tiles
            (None, Some(stored - 20_481), vec![2, 0]),
            (None, Some(0), vec![2, 0, 1, 3]),
            (age(900), Some(stored), vec![0]),
            (age(900), Some(stored - 8_193), vec![0, 2]),
        ] {
            let prune = Prune {
                older_than,
                max_size,
                dry_run: false,
            };
            let going = select(all.to_vec(), now, stored, &prune);
            let going: Vec<Item> = going.iter().map(|candidate| candidate.what).collect();
            let want: Vec<Item> = want.iter().map(|which: &usize| all[*which].what).collect();
            assert_eq!(going, want, "{prune:?}");
        }
    }

    #[test]
    fn only_files_of_records_are_groups() {
        for (name, want) in [
            ("0.meta", Some(0)),
            ("17.meta", Some(17)),
            ("17.tiles", None),
            ("x.meta", None),
            ("18446744073709551615.meta", None), // no index has it
        ] {
            assert_eq!(group_of(Path::new(name)), want, "{name}");
        }
    }
}

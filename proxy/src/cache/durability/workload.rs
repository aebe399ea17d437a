//! Things done to a cache, recorded with what each of them promised.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use super::{ORIGIN, model::Random};
use crate::{
    cache::{
        Cache, LOCK_WAIT, LogStore,
        disk::record::{Op, Recording},
        files::StoredCheckpoint,
        prune::Prune,
        remove::Target,
    },
    fixture_log::FixtureLog,
    log::verify::{VerifiedBundle, VerifiedTile},
    tlog::{
        Hash,
        edge::edge_tiles,
        path::{Bundle, Resource},
        perfect_root,
        tile::{FULL_WIDTH, Tile, width_in},
    },
};

/// Sizes that the log is seen at; at the last, tiles have a parent that is a full tile.
const SIZES: [u64; 8] = [1, 255, 700, 1_500, 5_000, 20_000, 65_000, LARGEST];

/// Size of the largest tree.
pub(super) const LARGEST: u64 = 66_000;

/// Things done in one workload.
const STEPS: usize = 60;

/// A workload as it reached the disk.
pub(super) struct Recorded {
    pub(super) base: PathBuf,
    pub(super) ops: Vec<Op>,
    /// Everything that was ever stored.
    pub(super) resources: Vec<String>,
    _directory: tempfile::TempDir,
}

/// What had been promised when the power went.
#[derive(Debug, Default)]
pub(super) struct Promised {
    /// Size of the largest checkpoint whose publication had returned.
    pub(super) published: Option<u64>,
    /// Flushed, and not given up since.
    durable: HashSet<String>,
    /// Contradictions kept.
    pub(super) evidence: usize,
}

impl Promised {
    /// Whether a resource must be served in a tree of this size: it is durable, and so is all that
    /// its proof needs.
    pub(super) fn has(&self, resource: Resource, size: u64) -> bool {
        let tile = match resource {
            Resource::Tile(tile) => tile,
            Resource::Bundle(bundle) => {
                return self.durable.contains(&resource.to_string())
                    && self.has(Resource::Tile(bundle.leaf_tile()), size);
            }
        };
        let (level, index) = (tile.level(), tile.index());
        if width_in(level, index, size) < FULL_WIDTH {
            return true; // the edge is stored with the checkpoint
        }
        let Some(full) = tile.with_width(FULL_WIDTH) else {
            return false;
        };
        let parent = full.parent_slot().and_then(|(l, i, _)| Tile::new(l, i, 1));
        self.durable.contains(&full.to_string())
            && parent.is_some_and(|parent| self.has(Resource::Tile(parent), size))
    }
}

impl Recorded {
    pub(super) fn promised(&self, cut: usize) -> Promised {
        let mut promised = Promised::default();
        for op in &self.ops[..cut] {
            let Op::Mark(mark) = op else { continue };
            match mark.split_once(' ').expect("two words") {
                ("published", size) => promised.published = size.parse().ok(),
                ("durable", path) => drop(promised.durable.insert(path.to_owned())),
                ("removing", "everything") => promised.durable.clear(),
                ("removing", path) => drop(promised.durable.remove(path)),
                ("evidence", _) => promised.evidence += 1,
                (other, _) => panic!("no such mark: {other}"),
            }
        }
        promised
    }
}

/// Does things to a cache, chosen by the seed.
pub(super) async fn record(log: &FixtureLog, seed: u64) -> Recorded {
    let directory = tempfile::tempdir().expect("a directory");
    let recording = Recording::below(directory.path());
    let base = directory.path().join("cache");
    let cache = Cache::open(&base, LOCK_WAIT, 1 << 20, 1 << 30)
        .await
        .expect("opened");
    let mut working = Working {
        log,
        store: cache.log(ORIGIN),
        cache,
        recording,
        random: Random::new(!seed),
        size: 0,
        unflushed: Vec::new(),
        resources: Vec::new(),
    };
    working.run().await;
    let Working {
        recording,
        mut resources,
        ..
    } = working;
    resources.sort();
    resources.dedup();
    Recorded {
        base: directory.path().to_owned(),
        ops: recording.ops(),
        resources,
        _directory: directory,
    }
}

struct Working<'a> {
    log: &'a FixtureLog,
    cache: Cache,
    store: Arc<LogStore>,
    recording: Recording,
    random: Random,
    size: u64,
    unflushed: Vec<String>,
    resources: Vec<String>,
}

impl Working<'_> {
    async fn run(&mut self) {
        let mut sizes = SIZES.iter();
        let named = self
            .cache
            .name_upstream(&self.store, "cdn", "http://log.example/");
        named.expect("named");
        for _ in 0..STEPS {
            match self.random.below(20) {
                0 | 1 => {
                    if let Some(size) = sizes.next() {
                        self.size = *size;
                        self.publish().await;
                    }
                }
                _ if self.size == 0 => {}
                2..=9 => self.tile().await,
                10..=13 => self.bundle().await,
                14 => self.flush().await,
                15 | 16 => self.evidence(),
                17 => self.evict().await,
                18 => self.prune().await,
                _ => self
                    .cache
                    .save_stats(&[(&self.store, 1, 2)])
                    .expect("written"),
            }
        }
    }

    async fn publish(&mut self) {
        let edge: Vec<u8> = edge_tiles(self.size)
            .into_iter()
            .flat_map(|tile| self.log.tile_bytes(tile))
            .collect();
        let stored = StoredCheckpoint {
            note: self.log.checkpoint(self.size).into(),
            edge: edge.into(),
            stored_at: None,
        };
        let stored = self.cache.store_checkpoint(&self.store, self.size, stored);
        stored.await.expect("stored");
        self.recording.mark(format!("published {}", self.size));
        // Tiles first: publishing has flushed them.
        self.all_durable();
        if self.size == LARGEST {
            self.store_tile(1, 0).await; // the parent of most
        }
    }

    async fn tile(&mut self) {
        let full = self.size / 256;
        if full > 0 {
            // Neighbours, mostly, so that slots are written again, and the first after the group.
            let index = self.random.below(full.min(12));
            self.store_tile(0, index).await;
        }
    }

    async fn store_tile(&mut self, level: u8, index: u64) {
        let tile = Tile::new(level, index, FULL_WIDTH).expect("in range");
        let bytes = Bytes::from(self.log.tile_bytes(tile));
        let root = perfect_root(Hash::chunks(&bytes)).expect("256 hashes");
        let proven = VerifiedTile::prove(level, index, bytes, root).expect("the truth");
        self.cache.store_tile(&self.store, proven, self.size).await;
        self.stored(tile.to_string());
    }

    async fn bundle(&mut self) {
        let index = match self.random.below(3) {
            0 => (self.size - 1) / 256, // the partial one
            _ => self.random.below(self.size.div_ceil(256).min(12)),
        };
        let width = width_in(0, index, self.size);
        let bundle = Bundle::new(index, width).expect("in range");
        let bytes = self.log.get(&bundle.to_string(), self.size, false);
        let leaves = self.log.tile_bytes(bundle.leaf_tile());
        let proven = VerifiedBundle::prove(bundle, &bytes.expect("there").into(), &leaves);
        let proven = proven.expect("the truth");
        self.cache.store_bundle(&self.store, proven).await;
        // Narrower ones go when a wider one is stored; they are served from it.
        self.stored(bundle.to_string());
    }

    fn stored(&mut self, path: String) {
        self.resources.push(path.clone());
        self.unflushed.push(path);
    }

    async fn flush(&mut self) {
        self.cache.flush().await.expect("flushed");
        self.all_durable();
    }

    fn all_durable(&mut self) {
        for path in self.unflushed.drain(..) {
            self.recording.mark(format!("durable {path}"));
        }
    }

    fn evidence(&mut self) {
        let offered = format!("a fork at {}", self.random.below(1_000_000));
        let kept = self
            .store
            .files
            .write_evidence(b"trusted", offered.as_bytes());
        if kept.expect("written").is_some() {
            self.recording.mark("evidence kept".to_owned());
        }
    }

    /// What eviction does to a bundle.
    async fn evict(&mut self) {
        let index = self.random.below(self.size.div_ceil(256).min(12));
        // Whatever width was promised, it is served from what goes.
        for bundle in (1..=FULL_WIDTH).filter_map(|width| Bundle::new(index, width)) {
            self.recording.mark(format!("removing {bundle}"));
        }
        for width in self.store.files.bundle_widths(index).expect("readable") {
            let bundle = Bundle::new(index, width).expect("in range");
            let target = Target::Bundle {
                bundle,
                unused_since: Some(SystemTime::now()),
            };
            let removed = self.cache.remove(&self.store, vec![target]).await;
            removed.expect("asked").1.expect("removed");
        }
        self.unflushed.clear();
    }

    async fn prune(&mut self) {
        let dry_run = self.random.below(2) == 0;
        if !dry_run {
            self.recording.mark("removing everything".to_owned());
            self.unflushed.clear();
        }
        let prune = Prune {
            older_than: None,
            max_size: Some(self.random.below(60_000)),
            dry_run,
        };
        let pruned = self.cache.prune(Some(&self.store), &prune);
        tokio::time::timeout(Duration::from_secs(60), pruned)
            .await
            .expect("in time")
            .expect("pruned");
    }
}

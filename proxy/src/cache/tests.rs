//! The cache as a whole: what it keeps within a budget, and that its numbers are the disk's.

use std::{
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use super::{
    prune::{Prune, PruneReport},
    usage::Counters,
    *,
};
use crate::tlog::{leaf_hash, perfect_root, tile::FULL_TILE_BYTES};

/// Longest wait for what happens in the background; far more than it takes, also where the keeper has
/// to pause for a minute in between.
const DEADLINE: Duration = Duration::from_secs(240);

/// Bytes of one of these tests' bundles, which no compression makes smaller: 11 blocks.
const BUNDLE_BYTES: u64 = 45_056;

async fn open(base: &Path, budget: u64) -> Cache {
    Cache::open(base, LOCK_WAIT, 64 << 10, budget)
        .await
        .expect("opened")
}

/// As [`open`], and waits until the scan of a start is over.
async fn open_and_scan(base: &Path, budget: u64) -> Cache {
    let cache = open(base, budget).await;
    eventually("it was looked at once", || cache.usage().scans() > 0).await;
    cache
}

/// Bytes that never repeat.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let digest = |i: u64| Hash::of(&[seed.to_le_bytes(), i.to_le_bytes()].concat()).0;
    (0..).flat_map(digest).take(length).collect()
}

fn bundle(index: u64) -> VerifiedBundle {
    let (mut bytes, mut leaves) = (Vec::new(), Vec::new());
    for i in 0..256 {
        let entry = noise(index * 256 + i, 160);
        bytes.extend((entry.len() as u16).to_be_bytes());
        bytes.extend(&entry);
        leaves.extend(leaf_hash(&entry).0);
    }
    let bundle = Bundle::new(index, 256).expect("in range");
    VerifiedBundle::prove(bundle, &bytes.into(), &leaves).expect("its own leaves")
}

fn tile(index: u64) -> VerifiedTile {
    let bytes = Bytes::from(noise(u64::MAX - index, FULL_TILE_BYTES));
    let root = perfect_root(Hash::chunks(&bytes)).expect("256 hashes");
    VerifiedTile::prove(0, index, bytes, root).expect("its own root")
}

/// Bytes of all files below a directory, as `du` counts them.
fn on_disk(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).expect("readable");
    entries
        .map(|entry| entry.expect("readable").path())
        .map(|path| match fs::metadata(&path).expect("there") {
            metadata if metadata.is_dir() => on_disk(&path),
            metadata => metadata.blocks() * 512,
        })
        .sum()
}

/// Waits until `holds`, with a deadline.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(
            begin.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the numbers are the disk's: at once, unless things changed under the last scan.
async fn is_exact(cache: &Cache, directory: &Path) {
    let want = on_disk(directory);
    eventually("the numbers are right", || {
        cache.usage().wanted.notify_one();
        cache.usage().bytes() == want
    })
    .await;
}

fn stored(store: &LogStore, index: u64) -> bool {
    let wanted = Bundle::new(index, 256).expect("in range");
    store.files.bundle_used(wanted).is_some() // reading it would be a use
}

fn has_tile(store: &LogStore, index: u64) -> bool {
    let found = store.groups.find(0, index).expect("readable");
    found.is_some_and(|(group, slot)| matches!(group.read(slot), Ok(slots::Slot::Stored { .. })))
}

/// Says when a stored bundle was last used.
fn used(store: &LogStore, index: u64, ago: Duration) {
    let path = store.directory.join(format!("entries/{index:03}"));
    disk::touch(&path, SystemTime::now() - ago).expect("stored");
}

#[tokio::test]
async fn bundles_are_evicted_least_recently_used_first_and_full_tiles_never() {
    let directory = tempfile::tempdir().expect("a directory");
    let budget = 4 << 20;
    let cache = open_and_scan(directory.path(), budget).await;
    let store = cache.log("rome.example/2026h1");
    let counter = |name: &str| prometheus::IntCounter::new(name, name).expect("a name");
    let evictions = counter("evictions");
    store.usage.count(Counters {
        evictions: evictions.clone(),
        refused: counter("refused"),
    });
    for index in 0..200 {
        cache.store_tile(&store, tile(index), 70_000).await; // 1.6 MiB
    }
    // 2.1 MiB more: still below the mark at which eviction begins.
    for index in 0..50 {
        cache.store_bundle(&store, bundle(index)).await;
    }
    cache.flush().await.expect("flushed");
    assert_eq!(evictions.get(), 0);
    for index in 0..50 {
        // The highest were used longest ago; and 49 is still in use, from memory.
        used(&store, index, Duration::from_secs(60 * (1 + index)));
    }
    cache.remember_bundle(&store, &bundle(49));
    for index in 50..55 {
        cache.store_bundle(&store, bundle(index)).await;
    }
    cache.flush().await.expect("flushed");
    eventually("there is room again", || evictions.get() > 0).await;
    // Some may have come after the eviction, which ended below that.
    eventually("enough room", || {
        cache.usage().bytes() <= evict::high_water(budget)
    })
    .await;
    for index in 0..200 {
        assert!(has_tile(&store, index), "tile {index}");
    }
    let kept = || -> Vec<u64> { (0..55).filter(|index| stored(&store, *index)).collect() };
    eventually("all are counted", || {
        evictions.get() + kept().len() as u64 == 55
    })
    .await;
    let (kept, evicted) = (kept(), evictions.get());
    // The youngest stay, and so does the one in memory.
    let want: Vec<u64> = (0..49 - evicted).chain(49..55).collect();
    assert_eq!(kept, want);
    assert_eq!(cache.usage().refused(), 0, "nothing was turned away");
    cache.flush().await.expect("flushed");
    is_exact(&cache, directory.path()).await;
    assert_eq!(store.usage.tiles.get(), 200);
}

#[tokio::test]
async fn a_log_that_has_used_its_share_up_takes_no_other_logs() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open_and_scan(directory.path(), 16 << 20).await;
    let (rome, oslo) = (cache.log("rome.example"), cache.log("oslo.example"));
    rome.usage.set_share(2 << 20);
    oslo.usage.set_share(14 << 20);
    for index in 0..40 {
        cache.store_bundle(&rome, bundle(index)).await; // 1.6 MiB
        cache.store_bundle(&oslo, bundle(index)).await;
    }
    cache.flush().await.expect("flushed");
    let full = || rome.usage.full.load(std::sync::atomic::Ordering::Relaxed);
    let begin = Instant::now();
    let mut tiles = (0..250).cycle(); // 2 MiB
    while !full() || oslo.usage.tiles.get() < 250 {
        assert!(
            begin.elapsed() < DEADLINE,
            "rome's tiles never fill its share"
        );
        let index = tiles.next().expect("without end");
        cache.store_tile(&rome, tile(index), 70_000).await;
        cache.store_tile(&oslo, tile(index), 70_000).await;
        cache.flush().await.expect("flushed"); // slowly, so that there is room to be made
    }
    // Not by the tally, which errs upwards while a scan runs.
    let taken = on_disk(&rome.directory);
    assert!(
        taken <= (2 << 20) + (64 << 10),
        "{taken} bytes, and some for estimates"
    );
    assert!(rome.usage.tiles.get() < 250, "not all of them fit");
    assert!(
        (0..40).all(|index| stored(&oslo, index)),
        "oslo keeps everything"
    );
    assert!(cache.usage().refused() > 0);

    // More of the disk, and it goes on.
    rome.usage.set_share(4 << 20);
    let before = rome.usage.tiles.get();
    for index in 250..260 {
        cache.store_tile(&rome, tile(index), 70_000).await;
    }
    cache.flush().await.expect("flushed");
    assert_eq!(rome.usage.tiles.get(), before + 10);
}

#[tokio::test]
async fn full_tiles_that_fill_the_budget_stop_storing_and_a_prune_lets_it_go_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open_and_scan(directory.path(), 1 << 20).await;
    let store = cache.log("rome.example/2026h1");
    for index in 0..130 {
        cache.store_tile(&store, tile(index), 70_000).await;
    }
    cache.flush().await.expect("flushed");
    let full = store.usage.tiles.get();
    assert!((120..128).contains(&full), "{full} tiles in a mebibyte");
    assert_eq!(cache.usage().refused(), 130 - full);
    assert!(cache.usage().bytes() <= 1 << 20);
    eventually("it is known that nothing can be evicted", || {
        cache
            .usage()
            .full
            .load(std::sync::atomic::Ordering::Relaxed)
    })
    .await;
    // Even where a bundle would fit: it would be evicted at once.
    let small = Bundle::new(0, 1).expect("in range");
    let entry = [&[0, 1][..], b"x"].concat();
    let small = VerifiedBundle::prove(small, &entry.into(), &leaf_hash(b"x").0).expect("its leaf");
    cache.store_bundle(&store, small).await;
    cache.flush().await.expect("flushed");
    assert_eq!(cache.usage().refused(), 131 - full);

    let all = Prune::default();
    let report = cache.prune(Some(&store), &all).await.expect("pruned");
    assert_eq!(report.removed.tiles.count, full);
    assert!(
        !store.directory.join("0/0.tiles").exists(),
        "a vacant group"
    );
    is_exact(&cache, directory.path()).await;
    cache.store_tile(&store, tile(5), 70_000).await;
    cache.flush().await.expect("flushed");
    assert!(has_tile(&store, 5));
}

#[tokio::test]
async fn a_prune_removes_what_it_says_and_accounts_for_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open_and_scan(directory.path(), 64 << 20).await;
    let (rome, paris) = (cache.log("rome.example/2026h1"), cache.log("paris.example"));
    for index in 0..4 {
        cache.store_tile(&rome, tile(index), 70_000).await;
        cache.store_bundle(&rome, bundle(index)).await;
        cache.store_bundle(&paris, bundle(index)).await;
    }
    let checkpoint = StoredCheckpoint {
        note: Bytes::from_static(b"note"),
        edge: Bytes::from_static(b"edge"),
        stored_at: None,
    };
    cache
        .store_checkpoint(&rome, 70_000, checkpoint)
        .await
        .expect("stored");
    rome.files.write_evidence(b"a", b"b").expect("written");
    for index in [1, 2] {
        used(&rome, index, Duration::from_secs(7_200));
        used(&paris, index, Duration::from_secs(7_200));
    }
    let hour = |dry_run| Prune {
        older_than: Some(Duration::from_secs(3_600)),
        max_size: None,
        dry_run,
    };
    let count = |count, bytes| Count { count, bytes };
    let would = cache.prune(Some(&rome), &hour(true)).await.expect("looked");
    let removed = Removed {
        bundles: count(2, 2 * BUNDLE_BYTES),
        ..Removed::default()
    };
    assert_eq!((would.dry_run, would.removed), (true, removed));
    assert!(stored(&rome, 1), "a dry run removes nothing");
    let did = cache
        .prune(Some(&rome), &hour(false))
        .await
        .expect("pruned");
    let want = PruneReport {
        dry_run: false,
        ..would
    };
    assert_eq!(did, want);
    let left = |store: &LogStore| -> Vec<u64> { (0..4).filter(|i| stored(store, *i)).collect() };
    assert_eq!(left(&rome), [0, 3]);
    assert_eq!(left(&paris), [0, 1, 2, 3], "another log");

    cache.remember_tile(&rome, &tile(3));
    let nothing = Prune {
        max_size: Some(0),
        ..Prune::default()
    };
    let report = cache.prune(None, &nothing).await.expect("pruned");
    assert_eq!(report.removed.tiles.count, 4);
    assert_eq!(report.removed.bundles, count(6, 6 * BUNDLE_BYTES));
    assert!(!has_tile(&rome, 3));
    let three = Resource::Tile(tile(3).tile());
    assert!(cache.remembered(&rome, three).is_none(), "nor in memory");
    for kept in [
        "origin",
        "checkpoints/70000.checkpoint",
        "checkpoints/70000.edge",
    ] {
        assert!(rome.directory.join(kept).exists(), "{kept}");
    }
    assert_eq!(rome.files.evidence().expect("readable").len(), 1);
    // All but the evidence, which a log writes by itself and the next scan counts.
    assert_eq!(
        report.bytes + on_disk(&rome.directory.join("evidence")),
        on_disk(directory.path())
    );
}

#[tokio::test]
async fn what_was_counted_is_there_at_once_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open_and_scan(directory.path(), 64 << 20).await;
    let store = cache.log("rome.example/2026h1");
    cache.store_tile(&store, tile(0), 70_000).await;
    cache.store_bundle(&store, bundle(0)).await;
    cache.flush().await.expect("flushed");
    let bytes = cache.usage().bytes();
    cache.save_stats(&[(&store, 7, 3)]).expect("written");
    drop((cache, store));

    let cache = open(directory.path(), 64 << 20).await;
    let store = cache.log("rome.example/2026h1");
    assert_eq!((cache.usage().bytes(), store.usage.tiles.get()), (bytes, 1));
    assert_eq!((store.saved().hits, store.saved().misses), (7, 3));
    cache.save_stats(&[(&store, 1, 1)]).expect("written");
    drop((cache, store));
    let cache = open(directory.path(), 64 << 20).await;
    let store = cache.log("rome.example/2026h1");
    assert_eq!((store.saved().hits, store.saved().misses), (8, 4));
}

#[tokio::test]
async fn a_damaged_origin_is_read_from_the_checkpoints() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open(directory.path(), 64 << 20).await;
    let store = cache.log("rome.example/2026h1");
    let checkpoint = StoredCheckpoint {
        note: Bytes::from_static(b"rome.example/2026h1\n70000\n"),
        edge: Bytes::new(),
        stored_at: None,
    };
    cache
        .store_checkpoint(&store, 70_000, checkpoint)
        .await
        .expect("stored");
    for damaged in ["rome.example/2026h2\n", "\u{fffd}", ""] {
        fs::write(store.directory.join("origin"), damaged).expect("written");
        let origins = cache.origins().expect("readable");
        assert_eq!(origins, ["rome.example/2026h1"], "{damaged:?}");
    }
}

//! One task writes tiles, bundles and checkpoints to the disk, in batches.
//!
//! Tiles and bundles become durable within a second or 8 MiB. A checkpoint is written after a flush
//! of everything before it, so that what it needs is on the disk first. A failed sync takes back
//! the records of its batch: the kernel may have dropped those pages, and would not say so again.

use std::{
    collections::{HashMap, HashSet},
    io::{self, ErrorKind},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::{info, warn};

use super::{
    LogStore, Usage,
    disk::sync_directories,
    files::StoredCheckpoint,
    lock::Lock,
    record::{RECORD_BYTES, Record},
    remove::{Removed, Target},
    slots::{GROUP_SLOTS, Group},
};
use crate::{
    log::verify::{VerifiedBundle, VerifiedTile},
    rekor_v1::verify::VerifiedEntry,
    tlog::tile::FULL_TILE_BYTES,
};

/// Longest time a stored tile is not durable.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Most bytes that are stored and not durable.
const FLUSH_BYTES: u64 = 8 << 20;

/// Commands taken up at once, and commands that may wait; their bytes are bounded by the sender.
const BATCH: usize = 1_024;

/// What to write. Tiles, bundles and entries hold their room in the queue until they are written.
pub(super) enum Command {
    Bundle(Arc<LogStore>, VerifiedBundle, OwnedSemaphorePermit),
    Checkpoint(
        Arc<LogStore>,
        u64,
        StoredCheckpoint,
        oneshot::Sender<io::Result<()>>,
    ),
    Entry(Arc<LogStore>, VerifiedEntry, OwnedSemaphorePermit),
    Flush(oneshot::Sender<io::Result<()>>),
    Remove(
        Arc<LogStore>,
        Vec<Target>,
        oneshot::Sender<(Removed, io::Result<()>)>,
    ),
    Tile(Arc<LogStore>, VerifiedTile, u64, u32, OwnedSemaphorePermit),
}

/// Bytes that a stored tile is taken to need until its group has been measured.
const TILE_COST: u64 = (FULL_TILE_BYTES + RECORD_BYTES) as u64;

/// Starts the writer. It ends, after a last flush, when all senders are gone; only then is the lock
/// of the cache left.
pub(super) fn start(usage: Arc<Usage>, lock: Lock) -> mpsc::Sender<Command> {
    let (sender, receiver) = mpsc::channel(BATCH);
    tokio::spawn(run(
        receiver,
        Writer {
            usage,
            dirty: Dirty::default(),
            _lock: lock,
        },
    ));
    sender
}

async fn run(mut commands: mpsc::Receiver<Command>, mut writer: Writer) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let deadline = writer.dirty.since.map(|since| since + FLUSH_INTERVAL);
        let due = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let count = tokio::select! {
            count = commands.recv_many(&mut batch, BATCH) => Some(count),
            () = due => None,
        };
        let ended = count == Some(0);
        let commands = std::mem::take(&mut batch);
        // Disk work belongs on the blocking pool; the task waits for it, so there is one writer.
        let done = tokio::task::spawn_blocking(move || {
            for command in commands {
                writer.execute(command);
            }
            if count.is_none() || ended || writer.dirty.bytes >= FLUSH_BYTES {
                // Already reported; the tiles in it are fetched again when they are asked for.
                let _ = writer.flush();
            }
            writer
        })
        .await;
        match done {
            Ok(back) if !ended => writer = back,
            Ok(_) => return,
            Err(error) => {
                warn!(%error, "cache writer ended; nothing is stored any more");
                return;
            }
        }
    }
}

/// The state of the writer: the only one that stores and removes tiles, bundles and checkpoints.
pub(super) struct Writer {
    usage: Arc<Usage>,
    dirty: Dirty,
    _lock: Lock,
}

/// What was written since the last flush.
#[derive(Default)]
struct Dirty {
    since: Option<tokio::time::Instant>,
    bytes: u64,
    /// By log, level and number.
    groups: HashMap<(u32, u8, u64), DirtyGroup>,
    /// Directories that may have new names, each with the log's directory that they are below.
    directories: HashSet<(PathBuf, PathBuf)>,
}

/// A group with tiles that are not durable.
struct DirtyGroup {
    store: Arc<LogStore>,
    group: Arc<Group>,
    slots: Vec<u64>,
    /// Bytes it took before.
    before: u64,
    /// Bytes that were added to the usage for it since.
    estimated: u64,
}

impl Writer {
    fn execute(&mut self, command: Command) {
        match command {
            Command::Bundle(store, bundle, _room) => {
                let wanted = bundle.bytes().len() as u64;
                let stored = self
                    .has_room_for_bundle(&store, wanted)
                    .then(|| self.write_bundle(&store, &bundle));
                self.conclude(&store, stored, bundle.bundle(), wanted);
            }
            Command::Tile(store, tile, tree_size, upstream, _room) => {
                let stored = self
                    .has_room(&store, TILE_COST)
                    .then(|| self.write_tile(&store, &tile, tree_size, upstream));
                self.conclude(&store, stored, tile.tile(), TILE_COST);
            }
            Command::Checkpoint(store, size, stored, reply) => {
                // Tiles first, checkpoint last. A tile that could not be flushed is no reason to
                // hold the checkpoint back: its edge tiles, which it needs, are stored with it.
                let _ = self.flush();
                // Whatever the budget: it is small, and what has it all for nothing without it.
                let written = store.files.write_checkpoint(&store.origin, size, &stored);
                if let Ok(change) = written {
                    self.adjust(&store, change, 0);
                }
                // The caller may have given up; the checkpoint is written all the same.
                let _ = reply.send(written.map(|_| ()));
            }
            Command::Entry(store, entry, _room) => {
                let wanted = entry.json().len() as u64;
                let stored = self
                    .has_room_for_bundle(&store, wanted)
                    .then(|| self.write_entry(&store, &entry));
                self.conclude(&store, stored, entry.uuid(), wanted);
            }
            Command::Flush(reply) => {
                let _ = reply.send(self.flush());
            }
            Command::Remove(store, targets, reply) => {
                let _ = reply.send(self.remove(&store, targets));
            }
        }
    }

    /// Whether a bundle would stay for a while: it would not if what may not be evicted leaves no
    /// room for it.
    fn has_room_for_bundle(&self, store: &LogStore, bytes: u64) -> bool {
        let full = [&self.usage.full, &store.usage.full];
        self.has_room(store, bytes) && !full.iter().any(|full| full.load(Ordering::Relaxed))
    }

    fn has_room(&self, store: &LogStore, bytes: u64) -> bool {
        self.usage.has_room(bytes) && store.usage.has_room(bytes)
    }

    fn write_tile(
        &mut self,
        store: &Arc<LogStore>,
        tile: &VerifiedTile,
        tree_size: u64,
        upstream: u32,
    ) -> io::Result<()> {
        let (level, index) = (tile.tile().level(), tile.tile().index());
        let (group, slot) = store.groups.find_or_create(level, index)?;
        let record = Record {
            upstream,
            cached_at: now_ms(),
            tree_size,
            digest: tile.digest(),
        };
        let key = (store.number, level, index / GROUP_SLOTS);
        let before = group.allocated()?;
        let dirty = self.dirty.groups.entry(key).or_insert_with(|| DirtyGroup {
            store: Arc::clone(store),
            group: Arc::clone(&group),
            slots: Vec::new(),
            before,
            estimated: 0,
        });
        // Also if it fails: half of it may be there.
        dirty.slots.push(slot);
        let written = group.write(slot, tile.bytes(), &record);
        if matches!(written, Ok(true)) {
            dirty.estimated += TILE_COST;
            self.adjust(store, TILE_COST.cast_signed(), 1);
        }
        self.names_changed(store, level);
        written.map(|_| ())
    }

    fn write_bundle(&mut self, store: &LogStore, bundle: &VerifiedBundle) -> io::Result<()> {
        // Its bytes are durable on return; its name is after the next flush.
        let written = store.files.write_bundle(bundle.bundle(), bundle.bytes())?;
        self.adjust(store, written.change, 0);
        self.dirty
            .directories
            .insert((written.directory, store.directory.clone()));
        Ok(())
    }

    fn write_entry(&mut self, store: &LogStore, entry: &VerifiedEntry) -> io::Result<()> {
        let (leaf, index) = (entry.uuid().leaf, entry.log_index());
        let written = store.files.write_entry(leaf, index, entry.json())?;
        self.adjust(store, written.change, 0);
        let directories = written.directories.into_iter();
        let directories = directories.map(|directory| (directory, store.directory.clone()));
        self.dirty.directories.extend(directories);
        Ok(())
    }

    /// Says that group files of a level came or went; durable after the next flush.
    pub(super) fn names_changed(&mut self, store: &LogStore, level: u8) {
        let directory = store.groups.level_directory(level);
        self.dirty
            .directories
            .insert((directory, store.directory.clone()));
    }

    /// Accounts for a change of what a log has on the disk.
    pub(super) fn adjust(&self, store: &LogStore, bytes: i64, tiles: i64) {
        self.usage.adjust(bytes);
        store.usage.adjust(bytes, tiles);
    }

    /// Says once when storing stops and once when it goes on, and asks for room in time.
    fn conclude(
        &mut self,
        store: &LogStore,
        stored: Option<io::Result<()>>,
        what: impl std::fmt::Display,
        bytes: u64,
    ) {
        let error = match stored {
            Some(Ok(())) => {
                self.dirty.bytes += bytes;
                self.dirty
                    .since
                    .get_or_insert_with(tokio::time::Instant::now);
                self.usage.wake_if_high(&store.usage);
                if store.usage.refusing.swap(false, Ordering::Relaxed) {
                    info!(origin = store.origin, "cache stores again");
                }
                return;
            }
            Some(Err(error)) => {
                if matches!(
                    error.kind(),
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded
                ) {
                    self.usage.disk_is_full();
                }
                error.to_string()
            }
            None => {
                self.usage.wake_if_high(&store.usage);
                match store.usage.has_room(bytes) {
                    true => format!("disk budget of {} bytes is used up", self.usage.budget),
                    false => format!("the log's {} bytes are used up", store.usage.share()),
                }
            }
        };
        self.usage.refuse(&store.usage);
        if !store.usage.refusing.swap(true, Ordering::Relaxed) {
            let origin = &store.origin;
            warn!(origin, %error, resource = %what, "cache cannot store; tiles are served and not kept");
        }
    }

    /// Makes everything written so far durable.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Dirty {
            since: _,
            bytes: _,
            groups,
            directories,
        } = std::mem::take(&mut self.dirty);
        let mut outcome = Ok(());
        for dirty in groups.into_values() {
            if let Err(error) = dirty.group.sync() {
                warn!(%error, tiles = dirty.slots.len(), "sync failed; its tiles are forgotten");
                for slot in &dirty.slots {
                    // If even this fails, the record's digest still guards the slot.
                    let _ = dirty.group.forget(*slot);
                }
                outcome = Err(error);
            }
            // Where blocks cannot be counted, the estimate stays until the next scan.
            if let Ok(after) = dirty.group.allocated() {
                let grown = after.cast_signed() - dirty.before.cast_signed();
                self.adjust(&dirty.store, grown - dirty.estimated.cast_signed(), 0);
            }
        }
        for (directory, top) in directories {
            if let Err(error) = sync_directories(&directory, &top) {
                warn!(%error, directory = %directory.display(), "sync of a directory failed");
                outcome = Err(error);
            }
        }
        outcome
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

//! One task writes tiles, bundles and checkpoints to the disk, in batches.
//!
//! Tiles and bundles become durable within a second or 8 MiB. A checkpoint is written after a flush
//! of everything before it, so that what it needs is on the disk first. A failed sync takes back
//! the records of its batch: the kernel may have dropped those pages, and would not say so again.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::{info, warn};

use super::{
    LogStore, Usage,
    files::{StoredCheckpoint, sync_directories},
    slots::{Group, RECORD_BYTES, Record},
};
use crate::{
    log::verify::{VerifiedBundle, VerifiedTile},
    tlog::{Hash, tile::FULL_TILE_BYTES},
};

/// Longest time a stored tile is not durable.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Most bytes that are stored and not durable.
const FLUSH_BYTES: u64 = 8 << 20;

/// Commands taken up at once, and commands that may wait; their bytes are bounded by the sender.
const BATCH: usize = 1_024;

/// What to write. Tiles and bundles hold their room in the queue until they are written.
pub(super) enum Command {
    Bundle(Arc<LogStore>, VerifiedBundle, OwnedSemaphorePermit),
    Checkpoint(
        Arc<LogStore>,
        u64,
        StoredCheckpoint,
        oneshot::Sender<io::Result<()>>,
    ),
    Flush(oneshot::Sender<io::Result<()>>),
    Tile(Arc<LogStore>, VerifiedTile, u64, OwnedSemaphorePermit),
}

/// Starts the writer. It ends, after a last flush, when all senders are gone.
pub(super) fn start(usage: Arc<Usage>) -> mpsc::Sender<Command> {
    let (sender, receiver) = mpsc::channel(BATCH);
    tokio::spawn(run(
        receiver,
        Disk {
            usage,
            dirty: Dirty::default(),
        },
    ));
    sender
}

async fn run(mut commands: mpsc::Receiver<Command>, mut disk: Disk) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let deadline = disk.dirty.since.map(|since| since + FLUSH_INTERVAL);
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
                disk.execute(command);
            }
            if count.is_none() || ended || disk.dirty.bytes >= FLUSH_BYTES {
                // Already reported; the tiles in it are fetched again when they are asked for.
                let _ = disk.flush();
            }
            disk
        })
        .await;
        match done {
            Ok(back) if !ended => disk = back,
            Ok(_) => return,
            Err(error) => {
                warn!(%error, "cache writer ended; nothing is stored any more");
                return;
            }
        }
    }
}

/// The state of the writer.
struct Disk {
    usage: Arc<Usage>,
    dirty: Dirty,
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
    group: Arc<Group>,
    slots: Vec<u64>,
}

impl Disk {
    fn execute(&mut self, command: Command) {
        match command {
            Command::Bundle(store, bundle, _room) => {
                let wanted = bundle.bytes().len() as u64;
                let stored = self
                    .usage
                    .has_room(wanted)
                    .then(|| self.write_bundle(&store, &bundle));
                self.account(stored, bundle.bundle(), wanted);
            }
            Command::Tile(store, tile, tree_size, _room) => {
                let wanted = (FULL_TILE_BYTES + RECORD_BYTES) as u64;
                let stored = self
                    .usage
                    .has_room(wanted)
                    .then(|| self.write_tile(&store, &tile, tree_size));
                if matches!(stored, Some(Ok(()))) {
                    store.tiles.fetch_add(1, Ordering::Relaxed);
                }
                self.account(stored, tile.tile(), wanted);
            }
            Command::Checkpoint(store, size, stored, reply) => {
                // Tiles first, checkpoint last. A tile that could not be flushed is no reason to
                // hold the checkpoint back: its edge tiles, which it needs, are stored with it.
                let _ = self.flush();
                // The caller may have given up; the checkpoint is written all the same.
                let _ = reply.send(store.files.write_checkpoint(&store.origin, size, &stored));
            }
            Command::Flush(reply) => {
                let _ = reply.send(self.flush());
            }
        }
    }

    fn write_tile(
        &mut self,
        store: &LogStore,
        tile: &VerifiedTile,
        tree_size: u64,
    ) -> io::Result<()> {
        let (level, index) = (tile.tile().level(), tile.tile().index());
        let (group, slot) = store.groups.find_or_create(level, index)?;
        let record = Record {
            upstream: store.upstream.load(Ordering::Relaxed),
            cached_at: now_ms(),
            tree_size,
            digest: Hash::of(tile.bytes()),
        };
        group.write(slot, tile.bytes(), &record)?;
        let key = (store.number, level, index / super::slots::GROUP_SLOTS);
        let dirty = self.dirty.groups.entry(key);
        dirty
            .or_insert_with(|| DirtyGroup {
                group,
                slots: Vec::new(),
            })
            .slots
            .push(slot);
        let directory = store.groups.level_directory(level);
        self.dirty
            .directories
            .insert((directory, store.directory.clone()));
        Ok(())
    }

    fn write_bundle(&mut self, store: &LogStore, bundle: &VerifiedBundle) -> io::Result<()> {
        // Its bytes are durable on return; its name is after the next flush.
        let directory = store.files.write_bundle(bundle.bundle(), bundle.bytes())?;
        self.dirty
            .directories
            .insert((directory, store.directory.clone()));
        Ok(())
    }

    /// Counts what was stored, and says once when storing stops and once when it goes on.
    fn account(
        &mut self,
        stored: Option<io::Result<()>>,
        what: impl std::fmt::Display,
        bytes: u64,
    ) {
        let error = match stored {
            Some(Ok(())) => {
                self.usage.bytes.fetch_add(bytes, Ordering::Relaxed);
                self.dirty.bytes += bytes;
                self.dirty
                    .since
                    .get_or_insert_with(tokio::time::Instant::now);
                if self.usage.refusing.swap(false, Ordering::Relaxed) {
                    info!("cache stores again");
                }
                return;
            }
            Some(Err(error)) => error.to_string(),
            None => format!("disk budget of {} bytes is used up", self.usage.budget),
        };
        self.usage.refused.inc();
        if !self.usage.refusing.swap(true, Ordering::Relaxed) {
            warn!(%error, resource = %what, "cache cannot store; tiles are served and not kept");
        }
    }

    /// Makes everything written so far durable.
    fn flush(&mut self) -> io::Result<()> {
        let Dirty {
            since: _,
            bytes: _,
            groups,
            directories,
        } = std::mem::take(&mut self.dirty);
        let mut outcome = Ok(());
        for DirtyGroup { group, slots } in groups.into_values() {
            if let Err(error) = group.sync() {
                warn!(%error, tiles = slots.len(), "sync failed; its tiles are forgotten");
                for slot in slots {
                    // If even this fails, the record's digest still guards the slot.
                    let _ = group.forget(slot);
                }
                outcome = Err(error);
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

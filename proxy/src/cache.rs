//! Verified resources: a bounded set in memory over the disk.
//!
//! What is on the disk is untrusted when it is read: a stored tile comes back as bytes that the
//! caller must prove, once a process, before it serves them. Only verified types can be stored.
//!
//! ```text
//! {base_path}/
//!   FORMAT                                1
//!   LOCK                                  one process a cache
//!   upstreams.json                        number -> name and URL, for the records
//!   tiles/{hex SHA-256 of the origin}/
//!     origin                              the origin line
//!     {level}/{group}.tiles, .meta        full tiles, see `slots`
//!     entries/x001/x234/067[.p/W][.zst]   entry bundles
//!     checkpoints/{size}.checkpoint, .edge
//!     uuid/{first two}/{leaf hash}.json   Rekor v1 entries; and index/…, other names for them
//!     evidence/                           what proved a split view
//!   metadata/cache_stats.json             what was counted
//! ```

mod bundles;
pub(crate) mod disk;
#[cfg(test)]
mod durability;
mod durable;
mod evict;
pub mod files;
mod format;
pub mod groups;
mod keeper;
mod list;
mod lock;
mod names;
pub mod prune;
mod record;
mod remove;
mod scan;
pub mod slots;
mod stats;
mod store;
#[cfg(test)]
mod tests;
pub mod usage;
mod uuids;
mod view;

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, atomic},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::AbortHandle,
};

use self::{
    disk::sync_directories, durable::Command, files::StoredCheckpoint, format::FORMAT,
    keeper::Keeper, remove::Target, stats::Saved, store::Stores,
};
pub use self::{
    lock::{LOCK_WAIT, Lock, LockError},
    remove::{Count, Removed},
    stats::SavedLog,
    store::{LogStore, origin_hash},
    usage::{LogUsage, Usage},
    view::View,
};
use crate::{
    log::verify::{VerifiedBundle, VerifiedTile},
    rekor_v1::verify::VerifiedEntry,
    tlog::{
        Hash,
        path::{Bundle, Resource},
    },
};

/// Why a cache could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// Written by a proxy that knows another layout, or damaged.
    #[error(
        "{path} says {found:?}; this proxy reads and writes cache format {FORMAT}: use the version \
         that wrote the cache, or another `cache.base_path`"
    )]
    Format {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// The directory cannot be used.
    #[error("cannot use the cache at {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// A resource as it is served.
#[derive(Clone, Debug)]
pub struct Body {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its strong entity tag, quotes included.
    pub etag: http::HeaderValue,
}

impl Body {
    /// The body of these bytes. Costs their SHA-256.
    pub fn new(bytes: Bytes) -> Self {
        let digest = Hash::of(&bytes);
        Self::with_digest(bytes, digest)
    }

    /// The body of these bytes, whose SHA-256 is known.
    fn with_digest(bytes: Bytes, digest: Hash) -> Self {
        let tag = format!("\"{}\"", hex::encode(&digest.0[..16]));
        // Quotes and hex digits are always a header value.
        let etag = http::HeaderValue::from_str(&tag)
            .unwrap_or_else(|_| http::HeaderValue::from_static("\"\""));
        Self { bytes, etag }
    }
}

/// What is kept in memory: full tiles and bundles, by log and coordinates.
type Memory = quick_cache::sync::Cache<(u32, Resource), Body, ByBytes>;

/// Weighs a body by its bytes and what it costs to remember it.
#[derive(Clone)]
struct ByBytes;

/// Bytes that an entry of the memory set takes besides the body's own.
const ENTRY_OVERHEAD: u64 = 160;

impl quick_cache::Weighter<(u32, Resource), Body> for ByBytes {
    fn weight(&self, _: &(u32, Resource), body: &Body) -> u64 {
        body.bytes.len() as u64 + ENTRY_OVERHEAD
    }
}

/// Bytes that may wait to be written: four of the largest bundles.
const QUEUE_BYTES: usize = 64 << 20;

/// Bytes that one permit of the queue stands for.
const QUEUE_UNIT: usize = 1_024;

/// Longest origin that is read back.
const MAX_ORIGIN_BYTES: usize = 4_096;

/// Longest wait for room in the queue.
const STORE_WAIT: Duration = Duration::from_secs(1);

/// The cache of this process.
pub struct Cache {
    base: PathBuf,
    memory: Arc<Memory>,
    usage: Arc<Usage>,
    writer: mpsc::Sender<Command>,
    /// Room in the writer's queue, in units of [`QUEUE_UNIT`] bytes.
    queue: Arc<Semaphore>,
    stores: Arc<Stores>,
    keeper: AbortHandle,
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Cache {
    /// Opens the cache at `base`, and waits up to `lock_wait` for another process to leave it.
    ///
    /// Uses at most `disk_budget` bytes, and at most nine tenths of the file system, which may be
    /// smaller than whoever set the budget thinks: the rest is for checkpoints.
    ///
    /// Looks at no tile: a start takes as long on a full cache as on an empty one.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub async fn open(
        base: &Path,
        lock_wait: Duration,
        memory_budget: u64,
        disk_budget: u64,
    ) -> Result<Self, CacheError> {
        let in_base = |source| CacheError::Io {
            path: base.to_owned(),
            source,
        };
        disk::create_directories(&base.join("tiles")).map_err(in_base)?;
        let lock = lock::Lock::wait(&base.join("LOCK"), lock_wait).await?;
        format::settle(base)?;
        // The names that every later one is below.
        sync_directories(&base.join("tiles"), base).map_err(in_base)?;
        let saved = Saved::read(base);
        let budget = disk_budget.min(usage::most_of_disk(base).map_err(in_base)?);
        let usage = Arc::new(Usage::new(saved.bytes, budget));
        let writer = durable::start(Arc::clone(&usage), lock);
        // Shards are sized by the number of entries expected: full tiles, mostly.
        let entries = usize::try_from(memory_budget / 8_192)
            .unwrap_or(usize::MAX)
            .max(16);
        let memory = Arc::new(Memory::with_weighter(entries, memory_budget, ByBytes));
        let stores = Arc::new(Stores::new(base.join("tiles"), saved));
        let keeper = Keeper {
            base: base.to_owned(),
            usage: Arc::clone(&usage),
            stores: Arc::clone(&stores),
            memory: Arc::clone(&memory),
            writer: writer.downgrade(),
        };
        Ok(Self {
            base: base.to_owned(),
            memory,
            usage,
            writer,
            queue: Arc::new(Semaphore::new(QUEUE_BYTES / QUEUE_UNIT)),
            stores,
            keeper: tokio::spawn(keeper.run()).abort_handle(),
        })
    }

    /// The part for the log with this origin.
    pub fn log(&self, origin: &str) -> Arc<LogStore> {
        self.stores.of_origin(origin)
    }

    /// Origins of the logs that something is stored for.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn origins(&self) -> io::Result<Vec<String>> {
        stored_origins(&self.base)
    }

    /// A resource from memory; everything there is proven.
    pub fn remembered(&self, store: &LogStore, resource: Resource) -> Option<Body> {
        self.memory.get(&(store.number, resource))
    }

    /// Keeps a proven tile in memory, and gives it as it is served.
    pub fn remember_tile(&self, store: &LogStore, tile: &VerifiedTile) -> Body {
        let body = Body::with_digest(tile.bytes().clone(), tile.digest());
        self.remember(store, Resource::Tile(tile.tile()), body)
    }

    /// Keeps a proven bundle in memory, and gives it as it is served.
    pub fn remember_bundle(&self, store: &LogStore, bundle: &VerifiedBundle) -> Body {
        let body = Body::new(bundle.bytes().clone());
        self.remember(store, Resource::Bundle(bundle.bundle()), body)
    }

    fn remember(&self, store: &LogStore, resource: Resource, body: Body) -> Body {
        self.memory.insert((store.number, resource), body.clone());
        body
    }

    /// Stores a tile. On return it is queued; it is durable after the next flush, within a second.
    ///
    /// Waits a moment for room in the queue; a disk that does not keep up costs a tile its place,
    /// and no client its answer.
    pub async fn store_tile(&self, store: &Arc<LogStore>, tile: VerifiedTile, tree_size: u64) {
        let upstream = store.upstream.load(atomic::Ordering::Relaxed);
        self.store_tile_from(upstream, store, tile, tree_size).await;
    }

    /// As [`Cache::store_tile`], with the number of the upstream that it came from.
    pub async fn store_tile_from(
        &self,
        upstream: u32,
        store: &Arc<LogStore>,
        tile: VerifiedTile,
        tree_size: u64,
    ) {
        if let Some(room) = self.room(store, tile.bytes().len()).await {
            // Fails only while the process ends; the tile is fetched again some day.
            let command = Command::Tile(Arc::clone(store), tile, tree_size, upstream, room);
            let _ = self.writer.send(command).await;
        }
    }

    /// Stores a bundle; as [`Cache::store_tile`].
    pub async fn store_bundle(&self, store: &Arc<LogStore>, bundle: VerifiedBundle) {
        if let Some(room) = self.room(store, bundle.bytes().len()).await {
            let _ = self
                .writer
                .send(Command::Bundle(Arc::clone(store), bundle, room))
                .await;
        }
    }

    /// Stores a Rekor v1 entry; as [`Cache::store_tile`].
    pub async fn store_entry(&self, store: &Arc<LogStore>, entry: VerifiedEntry) {
        if let Some(room) = self.room(store, entry.json().len()).await {
            let _ = self
                .writer
                .send(Command::Entry(Arc::clone(store), entry, room))
                .await;
        }
    }

    /// Room in the writer's queue, given back when the command was executed.
    async fn room(&self, store: &LogStore, bytes: usize) -> Option<OwnedSemaphorePermit> {
        // An empty bundle needs a place, too.
        let units = u32::try_from(bytes.div_ceil(QUEUE_UNIT).max(1)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.queue).acquire_many_owned(units);
        match tokio::time::timeout(STORE_WAIT, room).await {
            Ok(Ok(room)) => Some(room),
            Ok(Err(_)) | Err(_) => {
                self.usage.refuse(&store.usage);
                None
            }
        }
    }

    /// Stores a checkpoint after everything stored before it. On return it survives a power loss.
    ///
    /// # Errors
    /// When the disk does not take it; it must then not be served.
    pub async fn store_checkpoint(
        &self,
        store: &Arc<LogStore>,
        size: u64,
        checkpoint: StoredCheckpoint,
    ) -> io::Result<()> {
        self.command(|reply| Command::Checkpoint(Arc::clone(store), size, checkpoint, reply))
            .await
    }

    /// Makes everything stored so far durable.
    ///
    /// # Errors
    /// When a sync failed; what it was for is forgotten.
    pub async fn flush(&self) -> io::Result<()> {
        self.command(Command::Flush).await
    }

    /// Removes a stored bundle that turned out to be damaged.
    pub async fn discard_bundle(&self, store: &Arc<LogStore>, bundle: Bundle) {
        let target = Target::Bundle {
            bundle,
            unused_since: None,
        };
        // What stays is found damaged again.
        let _ = self.remove(store, vec![target]).await;
    }

    /// Removes a stored entry that turned out to be damaged.
    pub async fn discard_entry(&self, store: &Arc<LogStore>, leaf: Hash) {
        let target = Target::Entry {
            leaf,
            unused_since: None,
        };
        // What stays is found damaged again.
        let _ = self.remove(store, vec![target]).await;
    }

    async fn command(
        &self,
        command: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Command,
    ) -> io::Result<()> {
        self.ask(command).await?
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> io::Result<T> {
        let (reply, outcome) = oneshot::channel();
        let ended = || io::Error::new(ErrorKind::BrokenPipe, "the cache writer has ended");
        self.writer
            .send(command(reply))
            .await
            .map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())
    }

    /// Counts what is stored, for whoever stores much at once before the scan of a start is over.
    /// Blocks on the disk for as long as there are files.
    pub fn count(&self) {
        self.usage.scan_begins();
        for (_, store) in self.stores.all() {
            store.usage.scan_begins();
        }
        let mut bytes = scan::scan_rest(&self.base);
        for (store, found) in keeper::scan_all(&self.base, &self.stores) {
            store.usage.scan_found(found.bytes, found.tiles);
            bytes += found.bytes;
        }
        self.usage.scan_found(bytes);
    }

    /// Gives a log another share of the disk, and has what is too much evicted now.
    pub fn set_share(&self, store: &LogStore, bytes: u64) {
        store.usage.set_share(bytes);
        self.usage.wake_if_high(&store.usage);
    }

    /// Bytes on the disk and their budget.
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }
}

fn stored_origins(base: &Path) -> io::Result<Vec<String>> {
    let mut origins = Vec::new();
    for entry in fs::read_dir(base.join("tiles"))? {
        origins.extend(origin_of(&entry?.path()));
    }
    origins.sort();
    Ok(origins)
}

/// The origin of the log in a directory: as the file there says, or, where that is damaged, as its
/// checkpoints do. The directory's name says which is right.
fn origin_of(directory: &Path) -> Option<String> {
    let name = directory.file_name()?.to_str()?;
    let is_ours = |origin: &str| origin_hash(origin) == name;
    let first_line = |bytes: &[u8]| {
        let line = bytes.split(|byte| *byte == b'\n').next()?;
        String::from_utf8(line.to_vec()).ok()
    };
    let stated = files::read_at_most(&directory.join("origin"), MAX_ORIGIN_BYTES).ok();
    let stated = stated.and_then(|bytes| first_line(&bytes));
    if let Some(origin) = stated.filter(|origin| is_ours(origin)) {
        return Some(origin);
    }
    let stored = files::Files::new(directory.to_owned())
        .read_checkpoints()
        .ok()?;
    let mut origins = stored.iter().filter_map(|stored| first_line(&stored.note));
    origins.find(|origin| is_ours(origin))
}

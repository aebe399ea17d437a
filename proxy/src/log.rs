//! The read path of one followed log. Start reading here.
//!
//! A request is answered from memory, from the disk, or by one fetch however many ask; what comes
//! from the disk or from an upstream is proven before it is served. Partial tiles are never fetched
//! for a client: each is the beginning of an edge tile or of a full tile that is proven already.

pub mod fetch;
mod follow;
pub mod timeline;
pub mod verify;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tracing::warn;

pub use self::follow::FollowError;
use self::{
    fetch::{FlightError, Flights},
    verify::{NotProven, VerifiedBundle, VerifiedEdge, VerifiedTile},
};
use crate::{
    cache::{Body, Cache, LogStore, slots::Slot},
    metrics::Metrics,
    note::{checkpoint::Checkpoint, vkey::VerifierKey},
    tlog::{
        HASH_BYTES, Hash,
        bundle::MAX_BUNDLE_BYTES,
        path::{Bundle, Resource},
        tile::{FULL_TILE_BYTES, FULL_WIDTH, Tile, width_in},
    },
    upstream::{FetchError, Upstream},
};

/// A tree that a known key signed and whose edge tiles fold to the signed root.
#[derive(Debug)]
pub struct Trusted {
    /// Origin, size and root.
    pub checkpoint: Checkpoint,
    /// The signed note, byte for byte.
    pub note: Bytes,
    /// Its edge tiles.
    pub edge: VerifiedEdge,
    /// Whether a key that is known now signed the note. If not, size and root stay the floor that
    /// later checkpoints are held against, and the note is not served.
    pub servable: bool,
}

/// How a log is followed.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Name in paths and metrics.
    pub name: String,
    /// First line of its checkpoints; `None` is learned from the first verified one.
    pub origin: Option<String>,
    /// Who may sign its checkpoints.
    pub keys: Vec<VerifierKey>,
    /// How often a newer checkpoint is asked for.
    pub refresh_interval: Duration,
    /// Longest wait of a client.
    pub max_wait: Duration,
    /// How long an error is remembered.
    pub error_ttl: Duration,
    /// Largest checkpoint an upstream may send, in bytes.
    pub checkpoint_bytes: usize,
}

/// One followed log.
pub struct Log {
    options: LogOptions,
    /// `None` in offline mode.
    upstream: Option<Upstream>,
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    /// Set once the origin is known, which is before anything is trusted.
    store: OnceLock<Arc<LogStore>>,
    trusted: ArcSwapOption<Trusted>,
    following: follow::Following,
    flights: Flights<Resource, Fetched, ReadError>,
}

/// Why a resource is not served.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// What everything upstream offered was proven wrong. Answer: 502.
    #[error("what {upstream} sent for {resource} is not in the log's tree: {source}")]
    NotProven {
        /// What was asked for.
        resource: Resource,
        /// Who sent it.
        upstream: String,
        /// What is wrong with it.
        source: NotProven,
    },
    /// Not in the tree, and the log said so a moment ago. Answer: 404.
    #[error("{resource} is not in the log: it has {size} entries")]
    OutsideTree {
        /// What was asked for.
        resource: Resource,
        /// Tree size that the log has confirmed.
        size: u64,
    },
    /// Nobody waits longer. Answer: 504.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Neither cached nor to be had. Answer: 503.
    #[error("not cached, and the log cannot be asked: {0}")]
    Unavailable(String),
    /// No checkpoint is trusted yet. Answer: 502 when the log's own are refused, else 503.
    #[error("no trusted checkpoint: {0}")]
    Untrusted(FollowError),
}

/// A resource, and where it was.
#[derive(Clone, Debug)]
struct Fetched {
    body: Body,
    /// Whether an upstream was asked for it.
    from_upstream: bool,
}

impl Log {
    /// Follows a log, starting from what the cache trusts.
    pub fn new(
        options: LogOptions,
        upstream: Option<Upstream>,
        cache: Arc<Cache>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let flights = Flights::new(options.max_wait, options.error_ttl);
        let log = Self {
            options,
            upstream,
            cache,
            metrics,
            store: OnceLock::new(),
            trusted: ArcSwapOption::empty(),
            following: follow::Following::default(),
            flights,
        };
        log.restore();
        log
    }

    /// Its name in paths and metrics.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its upstream; `None` in offline mode.
    pub fn upstream(&self) -> Option<&Upstream> {
        self.upstream.as_ref()
    }

    /// Its part of the cache, once its origin is known.
    pub fn store(&self) -> Option<&Arc<LogStore>> {
        self.store.get()
    }

    /// The tree that is served now.
    pub fn trusted(&self) -> Option<Arc<Trusted>> {
        self.trusted.load_full().filter(|trusted| trusted.servable)
    }

    /// Time since the log last confirmed what is served; `None` if not since this start.
    pub fn age(&self) -> Option<Duration> {
        self.following.confirmed().map(|at| at.elapsed())
    }

    /// The tree to serve now. Asks the log if there is none yet.
    ///
    /// # Errors
    /// [`ReadError::Untrusted`].
    pub async fn newest(self: &Arc<Self>) -> Result<Arc<Trusted>, ReadError> {
        if let Some(trusted) = self.trusted() {
            return Ok(trusted);
        }
        let refreshed = self.refresh_on_demand().await;
        let untrusted = || ReadError::Untrusted(refreshed.err().unwrap_or(FollowError::Offline));
        self.trusted().ok_or_else(untrusted)
    }

    /// Serves a tile or a bundle.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(self: &Arc<Self>, resource: Resource) -> Result<Body, ReadError> {
        let fetched = self.read_counted(resource).await;
        let counter = match &fetched {
            Ok(Fetched {
                from_upstream: false,
                ..
            }) => &self.metrics.hits,
            // Outside the tree there is nothing to hit or miss.
            Err(ReadError::OutsideTree { .. }) => return fetched.map(|fetched| fetched.body),
            Ok(_) | Err(_) => &self.metrics.misses,
        };
        counter.with_label_values(&[self.name()]).inc();
        fetched.map(|fetched| fetched.body)
    }

    async fn read_counted(self: &Arc<Self>, resource: Resource) -> Result<Fetched, ReadError> {
        let tree = self.tree_with(resource).await?;
        match resource {
            Resource::Tile(tile) => self.read_tile(&tree, tile).await,
            Resource::Bundle(bundle) => self.read_bundle(&tree, bundle).await,
        }
    }

    /// A trusted tree that has the resource; asks the log for a larger one if ours has not.
    async fn tree_with(self: &Arc<Self>, resource: Resource) -> Result<Arc<Trusted>, ReadError> {
        if let Some(tree) = self.trusted().filter(|tree| has(tree, resource)) {
            return Ok(tree);
        }
        let refreshed = self.refresh_on_demand().await;
        match self.trusted() {
            Some(tree) if has(&tree, resource) => Ok(tree),
            // "Does not exist" is only said when the log has just been heard.
            Some(tree)
                if self
                    .age()
                    .is_some_and(|age| age <= self.options.refresh_interval) =>
            {
                Err(ReadError::OutsideTree {
                    resource,
                    size: tree.checkpoint.size,
                })
            }
            Some(_) => Err(ReadError::Unavailable(match refreshed {
                Err(error) => error.to_string(),
                Ok(()) => "its checkpoint is old".to_owned(),
            })),
            None => Err(ReadError::Untrusted(
                refreshed.err().unwrap_or(FollowError::Offline),
            )),
        }
    }

    async fn read_tile(
        self: &Arc<Self>,
        tree: &Arc<Trusted>,
        tile: Tile,
    ) -> Result<Fetched, ReadError> {
        let (wider, from_upstream) = match tree.edge.at(tile.level(), tile.index()) {
            Some(edge) => (edge.clone(), false),
            None => {
                let full = self.full_tile(tree, tile.level(), tile.index()).await?;
                if tile.is_full() {
                    return Ok(full);
                }
                (full.body.bytes, full.from_upstream)
            }
        };
        // `has` made sure that the wider tile has this many hashes.
        let bytes = wider.slice(..tile.bytes().min(wider.len()));
        Ok(Fetched {
            body: Body::new(bytes),
            from_upstream,
        })
    }

    /// A full tile of `tree`: from memory, or by one flight from the disk or the upstream.
    fn full_tile<'a>(
        self: &'a Arc<Self>,
        tree: &'a Arc<Trusted>,
        level: u8,
        index: u64,
    ) -> futures::future::BoxFuture<'a, Result<Fetched, ReadError>> {
        Box::pin(async move {
            let tile = Tile::new(level, index, FULL_WIDTH)
                .ok_or_else(|| ReadError::Unavailable("no such level".to_owned()))?;
            let resource = Resource::Tile(tile);
            let store = self.known_store()?;
            if let Some(body) = self.cache.remembered(store, resource) {
                return Ok(Fetched {
                    body,
                    from_upstream: false,
                });
            }
            let flight = || {
                let (log, store, tree) = (Arc::clone(self), Arc::clone(store), Arc::clone(tree));
                async move { log.fill_tile(&store, &tree, tile).await }
            };
            self.join(resource, flight).await
        })
    }

    /// Finds a full tile on the disk or upstream, proves it, and remembers it.
    async fn fill_tile(
        self: &Arc<Self>,
        store: &Arc<LogStore>,
        tree: &Arc<Trusted>,
        tile: Tile,
    ) -> Result<Fetched, ReadError> {
        let (level, index) = (tile.level(), tile.index());
        match stored_tile(store, level, index).await {
            Some(StoredTile::Proven(tile)) => {
                let body = self.cache.remember_tile(store, &tile);
                return Ok(Fetched {
                    body,
                    from_upstream: false,
                });
            }
            Some(StoredTile::Unproven(bytes)) => {
                let parent = self.parent_hash(tree, tile).await?;
                match VerifiedTile::prove(level, index, bytes, parent) {
                    Ok(tile) => {
                        mark_proven(store, level, index);
                        let body = self.cache.remember_tile(store, &tile);
                        return Ok(Fetched {
                            body,
                            from_upstream: false,
                        });
                    }
                    Err(error) => self.report_corrupt(&tile, &error.to_string()),
                }
            }
            Some(StoredTile::Corrupt) => {
                self.report_corrupt(&tile, "its bytes and record disagree");
            }
            None => {}
        }
        // Asked for before the parent is known, so that both are under way at once.
        let resource = Resource::Tile(tile);
        let (parent, bytes) = tokio::join!(
            self.parent_hash(tree, tile),
            self.fetch(&resource, FULL_TILE_BYTES)
        );
        let (parent, (bytes, upstream)) = (parent?, bytes?);
        let tile = VerifiedTile::prove(level, index, bytes, parent)
            .map_err(|source| self.not_proven(resource, "tile", upstream, source))?;
        let body = self.cache.remember_tile(store, &tile);
        self.cache
            .store_tile(store, tile, tree.checkpoint.size)
            .await;
        Ok(Fetched {
            body,
            from_upstream: true,
        })
    }

    /// What the tree has for a full tile's own root, in its parent.
    async fn parent_hash(
        self: &Arc<Self>,
        tree: &Arc<Trusted>,
        tile: Tile,
    ) -> Result<Hash, ReadError> {
        let missing = || ReadError::Unavailable(format!("{tile} has no parent in this tree"));
        let (level, index, slot) = tile.parent_slot().ok_or_else(missing)?;
        let parent = match tree.edge.at(level, index) {
            Some(edge) => edge.clone(),
            None => self.full_tile(tree, level, index).await?.body.bytes,
        };
        Hash::chunks(&parent)
            .nth(usize::from(slot))
            .ok_or_else(missing)
    }

    async fn read_bundle(
        self: &Arc<Self>,
        tree: &Arc<Trusted>,
        wanted: Bundle,
    ) -> Result<Fetched, ReadError> {
        let store = self.known_store()?;
        // As wide as the tree has it: that one the log is sure to serve, and any narrower one is
        // its beginning.
        let width = width_in(0, wanted.index(), tree.checkpoint.size);
        let widest = wanted.with_width(width).unwrap_or(wanted);
        for candidate in [wanted, widest] {
            if let Some(body) = self.cache.remembered(store, Resource::Bundle(candidate)) {
                return Ok(Fetched {
                    body: narrowed(body, candidate, wanted),
                    from_upstream: false,
                });
            }
        }
        let flight = || {
            let (log, store, tree) = (Arc::clone(self), Arc::clone(store), Arc::clone(tree));
            async move { log.fill_bundle(&store, &tree, wanted, widest).await }
        };
        let fetched = self.join(Resource::Bundle(wanted), flight).await?;
        Ok(fetched)
    }

    /// Finds a bundle on the disk or upstream, proves it, and remembers it.
    async fn fill_bundle(
        self: &Arc<Self>,
        store: &Arc<LogStore>,
        tree: &Arc<Trusted>,
        wanted: Bundle,
        widest: Bundle,
    ) -> Result<Fetched, ReadError> {
        let leaf_tile = widest.leaf_tile();
        if let Some((bundle, bytes)) = stored_bundle(store, wanted).await {
            let leaves = self.read_tile(tree, leaf_tile).await?.body.bytes;
            // Stored meanwhile for a larger tree than this request has: its beginning will do.
            let bundle = if bundle.width() > widest.width() {
                widest
            } else {
                bundle
            };
            match VerifiedBundle::prove(bundle, &bytes, &leaves) {
                Ok(bundle) => {
                    let body = self.cache.remember_bundle(store, &bundle);
                    let body = narrowed(body, bundle.bundle(), wanted);
                    return Ok(Fetched {
                        body,
                        from_upstream: false,
                    });
                }
                Err(error) => {
                    self.report_corrupt(&bundle, &error.to_string());
                    let files = store.files.clone();
                    let _ = tokio::task::spawn_blocking(move || files.remove_bundle(bundle)).await;
                }
            }
        }
        let resource = Resource::Bundle(widest);
        let (leaves, bytes) = tokio::join!(
            self.read_tile(tree, leaf_tile),
            self.fetch(&resource, MAX_BUNDLE_BYTES)
        );
        let (leaves, (bytes, upstream)) = (leaves?.body.bytes, bytes?);
        let bundle = VerifiedBundle::prove(widest, &bytes, &leaves)
            .map_err(|source| self.not_proven(resource, "bundle", upstream, source))?;
        let body = self.cache.remember_bundle(store, &bundle);
        let narrow = narrowed(body, widest, wanted);
        self.cache.store_bundle(store, bundle).await;
        Ok(Fetched {
            body: narrow,
            from_upstream: true,
        })
    }

    /// Fetches a resource, unverified; a partial one that the log has deleted, from the full one.
    async fn fetch<'a>(
        &'a self,
        resource: &Resource,
        limit: usize,
    ) -> Result<(Bytes, &'a str), ReadError> {
        let offline = || ReadError::Unavailable("the proxy is offline".to_owned());
        let upstream = self.upstream.as_ref().ok_or_else(offline)?;
        let (full, hashes) = match resource {
            Resource::Bundle(bundle) => (bundle.with_width(FULL_WIDTH).map(Resource::Bundle), None),
            Resource::Tile(tile) => (
                tile.with_width(FULL_WIDTH).map(Resource::Tile),
                Some(tile.width()),
            ),
        };
        let fetched = match upstream.fetch(&resource.to_string(), limit).await {
            // Logs may delete a partial resource once the full one exists.
            Err(FetchError::NotFound { .. }) if full.is_some_and(|full| full != *resource) => {
                let full = full.unwrap_or(*resource);
                let limit = limit.max(FULL_TILE_BYTES);
                upstream
                    .fetch(&full.to_string(), limit)
                    .await
                    .map(|bytes| match hashes {
                        Some(width) => {
                            bytes.slice(..bytes.len().min(usize::from(width) * HASH_BYTES))
                        }
                        None => bytes, // its proof cuts off what is above our tree
                    })
            }
            outcome => outcome,
        };
        match fetched {
            Ok(bytes) => Ok((bytes, upstream.name())),
            Err(error) => Err(ReadError::Unavailable(error.to_string())),
        }
    }

    async fn join<F>(
        &self,
        resource: Resource,
        flight: impl FnOnce() -> F,
    ) -> Result<Fetched, ReadError>
    where
        F: Future<Output = Result<Fetched, ReadError>> + Send + 'static,
    {
        match self.flights.join(resource, flight).await {
            Ok(landed) => {
                if landed.shared {
                    self.metrics
                        .coalesced
                        .with_label_values(&[self.name()])
                        .inc();
                }
                Ok(landed.value)
            }
            Err(FlightError::Failed(error)) => Err(error),
            Err(FlightError::TimedOut) => Err(ReadError::TimedOut(self.options.max_wait)),
        }
    }

    fn known_store(&self) -> Result<&Arc<LogStore>, ReadError> {
        self.store
            .get()
            .ok_or(ReadError::Untrusted(FollowError::Offline))
    }

    fn not_proven(
        &self,
        resource: Resource,
        kind: &str,
        upstream: &str,
        source: NotProven,
    ) -> ReadError {
        self.metrics
            .verify_failures
            .with_label_values(&[self.name(), kind, upstream])
            .inc();
        warn!(log = self.name(), %resource, upstream, error = %source, "upstream response rejected");
        ReadError::NotProven {
            resource,
            upstream: upstream.to_owned(),
            source,
        }
    }

    fn report_corrupt(&self, resource: &dyn std::fmt::Display, error: &str) {
        self.metrics.corrupt.with_label_values(&[self.name()]).inc();
        warn!(log = self.name(), %resource, error, "stored copy is damaged; fetching it again");
    }
}

/// Whether the tree has all of the resource.
fn has(tree: &Trusted, resource: Resource) -> bool {
    let (level, index, width) = match resource {
        Resource::Bundle(bundle) => (0, bundle.index(), bundle.width()),
        Resource::Tile(tile) => (tile.level(), tile.index(), tile.width()),
    };
    width_in(level, index, tree.checkpoint.size) >= width
}

/// The first entries of a proven bundle.
fn narrowed(body: Body, has: Bundle, wanted: Bundle) -> Body {
    if has == wanted {
        return body;
    }
    match crate::tlog::bundle::prefix_bytes(&body.bytes, wanted.width()) {
        Some(end) => Body::new(body.bytes.slice(..end)),
        None => body, // cannot be: it is proven to have at least as many
    }
}

enum StoredTile {
    Corrupt,
    Proven(VerifiedTile),
    Unproven(Bytes),
}

/// Reads a full tile from the disk; what cannot be read is as good as not there.
async fn stored_tile(store: &Arc<LogStore>, level: u8, index: u64) -> Option<StoredTile> {
    let store = Arc::clone(store);
    let read = tokio::task::spawn_blocking(move || {
        let (group, slot) = store.groups.find(level, index).ok()??;
        group.read(slot).ok()
    });
    match read.await.ok()?? {
        Slot::Stored {
            bytes,
            proven: true,
            ..
        } => VerifiedTile::proven_before(level, index, bytes).map(StoredTile::Proven),
        Slot::Stored {
            bytes,
            proven: false,
            ..
        } => Some(StoredTile::Unproven(bytes)),
        Slot::Corrupt => Some(StoredTile::Corrupt),
        Slot::Vacant => None,
    }
}

fn mark_proven(store: &LogStore, level: u8, index: u64) {
    if let Ok(Some((group, slot))) = store.groups.find(level, index) {
        group.mark_proven(slot);
    }
}

async fn stored_bundle(store: &Arc<LogStore>, wanted: Bundle) -> Option<(Bundle, Bytes)> {
    let files = store.files.clone();
    let read = tokio::task::spawn_blocking(move || files.read_bundle(wanted));
    read.await.ok()?.ok()?
}

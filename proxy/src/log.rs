//! The read path of one followed log. Start reading here.
//!
//! A request is answered from memory, from the disk, or by one fetch however many ask; what comes
//! from the disk or from an upstream is proven before it is served. Partial tiles are never fetched
//! for a client: each is the beginning of an edge tile or of a full tile that is proven already.

mod ask;
mod error;
pub mod fetch;
mod fill;
pub(crate) mod follow;
pub(crate) mod following;
mod offer;
mod restore;
pub mod state;
pub mod stored;
pub mod timeline;
pub mod verify;

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tracing::warn;

pub use self::{
    ask::Asker,
    error::{FollowError, ReadError},
};
use self::{
    fetch::{FlightError, Flights},
    state::Standing,
    verify::{NotProven, VerifiedEdge, VerifiedTile},
};
use crate::{
    audit::{Audit, Event},
    cache::{Body, Cache, LogStore, slots::Slot},
    metrics::{LogMetrics, Metrics},
    note::checkpoint::Checkpoint,
    peers::{self, Peers},
    tlog::{
        path::Resource,
        tile::{Tile, width_in},
    },
    trust::{Trust, TrustSource, TrustedKeys},
    upstream::{
        Asked, Upstreams,
        trace::{Trace, scope},
    },
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
}

/// What later checkpoints are held against: the largest that was ever trusted. It outlives the key
/// that signed it and the tiles that proved it, which is why it is not always what is served.
#[derive(Debug)]
struct Floor {
    checkpoint: Checkpoint,
    note: Bytes,
}

/// How a log is followed.
#[derive(Debug)]
pub struct LogOptions {
    /// Name in paths and metrics.
    pub name: String,
    /// First line of its checkpoints; `None` is learned from the first verified one.
    pub origin: Option<String>,
    /// Who may sign its checkpoints.
    pub keys: TrustedKeys,
    /// How often a newer checkpoint is asked for.
    pub refresh_interval: Duration,
    /// Longest wait of a client.
    pub max_wait: Duration,
    /// Longest time for fetching one resource, repeats included, whether or not somebody waits.
    pub fetch_limit: Duration,
    /// How long an error is remembered.
    pub error_ttl: Duration,
    /// Whether those who want the same thing share one fetch.
    pub coalescing: bool,
    /// Largest checkpoint an upstream may send, in bytes.
    pub checkpoint_bytes: usize,
    /// Bytes of the disk that it may take, beside what the budget of all logs says.
    pub disk_share: u64,
    /// Other replicas, if there are any.
    pub peers: Option<Arc<Peers>>,
    /// Where it is recorded what becomes trusted, and what does not.
    pub audit: Audit,
}

/// One followed log.
pub struct Log {
    options: LogOptions,
    /// None in offline mode.
    upstreams: Upstreams,
    /// What records call them, in the same order; set with `store`.
    upstream_numbers: OnceLock<Vec<u32>>,
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    counts: LogMetrics,
    /// Set once the origin is known, which is before anything is trusted.
    store: OnceLock<Arc<LogStore>>,
    trusted: ArcSwapOption<Trusted>,
    floor: ArcSwapOption<Floor>,
    /// Size of the largest checkpoint that was ever stored, also if it cannot be read any more:
    /// nothing smaller is served.
    least: AtomicU64,
    following: following::Following,
    /// By resource, and whether peers are asked for it.
    flights: Flights<(Resource, bool), Fetched, ReadError>,
    /// Numbers of peers in records, by name and URL.
    peer_numbers: Mutex<HashMap<(String, String), u32>>,
    /// How often a newer checkpoint is asked for, in milliseconds.
    refresh_ms: AtomicU64,
    /// Bytes of the disk that it may take.
    disk_share: AtomicU64,
}

/// A resource, and where it was.
#[derive(Clone, Debug)]
struct Fetched {
    body: Body,
    /// Whether an upstream was asked for it.
    from_upstream: bool,
}

/// Who gave a resource.
enum Giver {
    /// The upstream at this place.
    Upstream(usize),
    /// Another replica.
    Peer(Asked),
}

impl Log {
    /// Follows a log, starting from what the cache trusts.
    ///
    /// # Errors
    /// When what was trusted cannot be read: to start without it would be to forget it.
    pub fn new(
        options: LogOptions,
        upstreams: Upstreams,
        cache: Arc<Cache>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let mut flights = Flights::new(options.max_wait, options.fetch_limit, options.error_ttl);
        if !options.coalescing {
            flights = flights.not_shared();
        }
        let refresh_interval = options.refresh_interval;
        let log = Self {
            counts: metrics.of_log(&options.name),
            disk_share: AtomicU64::new(options.disk_share),
            options,
            upstreams,
            upstream_numbers: OnceLock::new(),
            cache,
            metrics,
            store: OnceLock::new(),
            trusted: ArcSwapOption::empty(),
            floor: ArcSwapOption::empty(),
            least: AtomicU64::new(0),
            following: following::Following::default(),
            flights,
            peer_numbers: Mutex::default(),
            refresh_ms: AtomicU64::new(0),
        };
        log.refresh_every(refresh_interval);
        log.restore()?;
        Ok(log)
    }

    /// Follows with other keys and at another interval, from the next refresh on.
    pub fn follow_with(&self, source: Arc<dyn TrustSource>, refresh_interval: Duration) {
        self.options.keys.replace_source(source);
        self.refresh_every(refresh_interval);
    }

    /// Lets it take another part of the disk, from now on.
    pub fn set_disk_share(&self, bytes: u64) {
        self.disk_share.store(bytes, Ordering::Relaxed);
        if let Some(store) = self.store.get() {
            store.usage.set_share(bytes);
        }
    }

    /// Asks for a newer checkpoint once such an interval, from the next refresh on.
    pub(crate) fn refresh_every(&self, interval: Duration) {
        let ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.refresh_ms.store(ms, Ordering::Relaxed);
    }

    /// How often a newer checkpoint is asked for.
    pub(crate) fn refresh_interval(&self) -> Duration {
        Duration::from_millis(self.refresh_ms.load(Ordering::Relaxed))
    }

    /// Its name in paths and metrics.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Whether a checkpoint is believed whoever signed it.
    pub fn accepts_unsigned(&self) -> bool {
        *self.options.keys.current() == Trust::Anyone
    }

    /// Whether nothing new is believed, because what its keys are known from has expired.
    pub fn trust_has_expired(&self) -> bool {
        self.options.keys.is_expired()
    }

    /// Why no key of it is known, if that is so.
    pub fn why_no_trust(&self) -> Option<String> {
        match &*self.options.keys.current() {
            Trust::Nobody(why) => Some(why.clone()),
            Trust::Anyone | Trust::Keys(_) => None,
        }
    }

    /// What is counted for each of its requests.
    pub fn counts(&self) -> &LogMetrics {
        &self.counts
    }

    /// Its upstreams; none in offline mode.
    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Its part of the cache, once its origin is known.
    pub fn store(&self) -> Option<&Arc<LogStore>> {
        self.store.get()
    }

    /// The tree that is served now.
    pub fn trusted(&self) -> Option<Arc<Trusted>> {
        self.trusted.load_full()
    }

    /// Whether there is a history and none of it can be served: no key that is known now signed the
    /// largest checkpoint, or it is damaged.
    pub fn is_barred(&self) -> bool {
        let history = self.floor.load().is_some() || self.least.load(Ordering::Relaxed) > 0;
        self.trusted.load().is_none() && history
    }

    /// How it goes with following it. Looks at the disk: for a thread that may wait.
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            split_view: self.store().is_some_and(|store| store.has_evidence()),
            serves: self.trusted.load().is_some(),
            age: self.served_age(),
            refresh_interval: self.refresh_interval(),
        }
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
    pub async fn read(
        self: &Arc<Self>,
        resource: Resource,
        asker: Asker,
    ) -> Result<Body, ReadError> {
        if let Some(body) = self.at_hand(resource) {
            self.counts.hits.inc();
            return Ok(body);
        }
        let max_wait = self.options.max_wait;
        // Over all it may wait for: a newer checkpoint, the tile above, the resource itself.
        let fetched = tokio::time::timeout(max_wait, self.find(resource, asker)).await;
        let fetched = fetched.unwrap_or(Err(ReadError::TimedOut(max_wait)));
        let counter = match &fetched {
            Ok(Fetched {
                from_upstream: false,
                ..
            }) => &self.counts.hits,
            // Outside the tree there is nothing to hit or miss.
            Err(ReadError::OutsideTree { .. }) => return fetched.map(|fetched| fetched.body),
            Ok(_) | Err(_) => &self.counts.misses,
        };
        counter.inc();
        fetched.map(|fetched| fetched.body)
    }

    /// A resource for another replica that asks for what is here, and for nobody to be asked: from
    /// memory, or proven before in this process.
    pub fn cached(&self, resource: Resource) -> Option<Body> {
        if let Some(body) = self.at_hand(resource) {
            return Some(body);
        }
        let (store, trusted) = (self.store.get()?, self.trusted.load());
        if !has(trusted.as_ref()?, resource) {
            return None;
        }
        match resource {
            Resource::Tile(tile) if tile.is_full() => {
                let (level, index) = (tile.level(), tile.index());
                let slot = store.groups.read_now(level, index)?;
                let Slot::Stored { bytes, record, .. } = slot else {
                    return None;
                };
                let tile = VerifiedTile::proven_before(level, index, bytes, record.digest)?;
                Some(self.cache.remember_tile(store, &tile))
            }
            resource => self.cache.remembered(store, resource),
        }
    }

    /// Other replicas, if there are any.
    pub fn peers(&self) -> Option<&Arc<Peers>> {
        self.options.peers.as_ref()
    }

    /// Makes sure that a tile or a bundle is cached. Nobody asked for it, so it is neither a hit nor
    /// a miss.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn prefetch(self: &Arc<Self>, resource: Resource) -> Result<(), ReadError> {
        self.find(resource, Asker::Client).await.map(drop)
    }

    /// A full tile that is in memory, or the newest partial one, which is what most clients ask for:
    /// without a future, a timer or an allocation.
    fn at_hand(&self, resource: Resource) -> Option<Body> {
        let Resource::Tile(tile) = resource else {
            return None;
        };
        let trusted = self.trusted.load();
        let trusted = trusted.as_ref()?;
        if let Some(body) = trusted.edge.body(tile) {
            return Some(body.clone());
        }
        let inside = tile.is_full() && has(trusted, resource);
        self.cache
            .remembered(self.store.get().filter(|_| inside)?, resource)
    }

    async fn find(
        self: &Arc<Self>,
        resource: Resource,
        asker: Asker,
    ) -> Result<Fetched, ReadError> {
        let tree = self.tree_with(resource).await?;
        match resource {
            Resource::Tile(tile) => self.read_tile(&tree, tile, asker).await,
            Resource::Bundle(bundle) => self.read_bundle(&tree, bundle, asker).await,
        }
    }

    /// A trusted tree that has the resource; asks the log for a larger one if ours has not.
    async fn tree_with(self: &Arc<Self>, resource: Resource) -> Result<Arc<Trusted>, ReadError> {
        if let Some(tree) = self.trusted().filter(|tree| has(tree, resource)) {
            return Ok(tree);
        }
        let refreshed = self.refresh_on_demand().await;
        // Another replica answering does not say when the log did.
        let is_follower = self.leader().is_some();
        match self.trusted() {
            Some(tree) if has(&tree, resource) => Ok(tree),
            // "Does not exist" is only said when the log has just been heard.
            Some(tree) if (refreshed.is_ok() && !is_follower) || self.is_fresh() => {
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

    fn is_fresh(&self) -> bool {
        let slack = self
            .leader()
            .map_or(Duration::ZERO, |_| 2 * peers::INTERVAL);
        self.age()
            .is_some_and(|age| age <= self.refresh_interval() + slack)
    }

    async fn read_tile(
        self: &Arc<Self>,
        tree: &Arc<Trusted>,
        tile: Tile,
        asker: Asker,
    ) -> Result<Fetched, ReadError> {
        let (wider, from_upstream) = match tree.edge.at(tile.level(), tile.index()) {
            Some(edge) => (edge.clone(), false),
            None => {
                let at = (tile.level(), tile.index());
                let full = self.full_tile(tree, at, asker).await?;
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

    async fn join<F>(
        &self,
        key: (Resource, bool),
        flight: impl FnOnce() -> F,
    ) -> Result<Fetched, ReadError>
    where
        F: Future<Output = Result<Fetched, ReadError>> + Send + 'static,
    {
        // The log sees the trace of the client that started the flight.
        let flight = || scope(Trace::current(), flight());
        match self.flights.join(key, flight).await {
            Ok(landed) => {
                if landed.shared {
                    self.counts.coalesced.inc();
                }
                Ok(landed.value)
            }
            Err(FlightError::Failed(error)) => Err(error),
            Err(FlightError::TimedOut) => Err(ReadError::TimedOut(self.options.max_wait)),
        }
    }

    /// Stores a tile, with who gave it.
    async fn store_tile(&self, giver: &Giver, tile: VerifiedTile, tree_size: u64) {
        let Some(store) = self.store.get() else {
            return; // cannot be: nothing is proven before
        };
        match self.number_of(giver) {
            Some(number) => {
                self.cache
                    .store_tile_from(number, store, tile, tree_size)
                    .await;
            }
            None => self.cache.store_tile(store, tile, tree_size).await,
        }
    }

    /// What records call whoever gave something.
    fn number_of(&self, giver: &Giver) -> Option<u32> {
        let peer = match giver {
            Giver::Upstream(place) => return self.upstream_numbers.get()?.get(*place).copied(),
            Giver::Peer(peer) => peer,
        };
        let key = (peer.name().to_owned(), peer.url().to_string());
        // A number that is known twice is the same one twice.
        let mut known = self
            .peer_numbers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = known.get(&key) {
            return Some(*number);
        }
        let number = self.cache.number_of(&key.0, &key.1).ok()?;
        known.insert(key, number);
        Some(number)
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
        self.options.audit.record(&Event::VerifyFailure {
            log: self.name(),
            kind,
            upstream,
            error: &format!("{resource}: {source}"),
        });
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

//! A Rekor v1 log, which has no tiles: entries by UUID and by index, each with its proof.
//!
//! A log is a row of shards, each a tree with an origin of its own, `<hostname> - <tree ID>`; one key may
//! sign for all. Start reading at [`RekorV1::entry`], the read path. [`verify`] is what makes an entry
//! believed, [`follow`] and [`shard`] how the trees are followed, [`route`] what is answered and what is
//! handed on. Above all that, `http` speaks with clients.
//!
//! Invariants, as for logs with tiles: nothing is stored or served as an entry unless it was proven; a
//! shard's tree never becomes smaller, restarts included; two histories are kept as evidence.

pub mod api;
mod error;
pub mod follow;
mod history;
pub mod route;
pub mod shard;
pub mod verify;

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::FutureExt as _;
use tracing::warn;

pub use self::error::{EntryError, Refused};
use self::{
    api::{Entry, LogInfo, MAX_ENTRY_BYTES, TreeHead, TreeId, Uuid},
    shard::Shard,
    verify::{ShardOrigin, SignedEntry, Unproven, VerifiedEntry},
};
use crate::{
    audit::Event,
    cache::{Body, Cache},
    log::{
        FollowError, LogOptions,
        fetch::{FlightError, Flights},
        following::Following,
        state::Standing,
        timeline::Conclusion,
    },
    metrics::{LogMetrics, Metrics},
    note::{Note, NoteError, Signed},
    trust::TrustSource,
    upstream::{
        Answered, Asked, FetchError, Passed as PassedOn, Upstreams,
        race::Passed,
        trace::{Trace, scope},
    },
};

/// Largest answer to a request that was handed on, and largest body of such a request, 8 MiB: as much as
/// the largest entry.
pub const MAX_PASSED_BYTES: usize = MAX_ENTRY_BYTES;

/// One followed log.
pub struct RekorV1 {
    options: LogOptions,
    /// Whether what is not answered here is handed on.
    passthrough: bool,
    /// None in offline mode.
    upstreams: Upstreams,
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    counts: LogMetrics,
    /// What the origins of its shards begin with; as configured, or learned with the first shard.
    hostname: OnceLock<String>,
    /// Each holds what is trusted of it; one that is here was signed by a key of the log.
    shards: Mutex<BTreeMap<TreeId, Arc<Shard>>>,
    /// The shard that grows, as the log says; 0 before anybody knows.
    active: AtomicU64,
    following: Following,
    disk_share: AtomicU64,
    flights: Flights<Wanted, Found, EntryError>,
    /// How often the log is asked for its state, in milliseconds.
    refresh_ms: AtomicU64,
}

/// An entry that somebody asks for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Wanted {
    /// By its position in the whole log.
    Index(u64),
    /// By its UUID.
    Uuid(Uuid),
}

impl Wanted {
    /// Whether an entry is this one.
    fn admits(self, uuid: Uuid, log_index: u64) -> bool {
        match self {
            Self::Index(index) => index == log_index,
            Self::Uuid(wanted) => wanted.admits(uuid),
        }
    }

    /// Where the log has it.
    fn path(self) -> String {
        match self {
            Self::Index(index) => format!("api/v1/log/entries?logIndex={index}"),
            Self::Uuid(uuid) => format!("api/v1/log/entries/{uuid}"),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "entry {index}"),
            Self::Uuid(uuid) => write!(f, "entry {uuid}"),
        }
    }
}

/// An entry, and where it was.
#[derive(Clone, Debug)]
struct Found {
    body: Body,
    from_upstream: bool,
}

impl RekorV1 {
    /// Follows a log, starting from what the cache trusts.
    ///
    /// # Errors
    /// When what was trusted cannot be read: to start without it would be to forget it.
    pub fn new(
        options: LogOptions,
        passthrough: bool,
        upstreams: Upstreams,
        cache: Arc<Cache>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let mut flights = Flights::new(options.max_wait, options.fetch_limit, options.error_ttl);
        if !options.coalescing {
            flights = flights.not_shared();
        }
        let hostname = OnceLock::new();
        if let Some(origin) = &options.origin {
            // That of a shard names the log as well.
            let name = ShardOrigin::of(origin).map_or(origin.as_str(), |shard| shard.hostname);
            let _ = hostname.set(name.to_owned()); // the first to set it
        }
        let log = Self {
            counts: metrics.of_log(&options.name),
            refresh_ms: AtomicU64::new(0),
            passthrough,
            upstreams,
            cache,
            metrics,
            hostname,
            shards: Mutex::default(),
            active: AtomicU64::new(0),
            following: Following::default(),
            disk_share: AtomicU64::new(options.disk_share),
            flights,
            options,
        };
        log.refresh_every(log.options.refresh_interval);
        log.restore()?;
        Ok(log)
    }

    /// Follows with other keys and at another interval, from the next refresh on.
    pub fn follow_with(&self, source: Arc<dyn TrustSource>, refresh_interval: Duration) {
        self.options.keys.replace_source(source);
        self.refresh_every(refresh_interval);
    }

    /// How often the log is asked for its state.
    pub(crate) fn refresh_interval(&self) -> Duration {
        Duration::from_millis(self.refresh_ms.load(Ordering::Relaxed))
    }

    /// Takes another part of the disk, which is that of all its shards together.
    pub fn set_disk_share(&self, bytes: u64) {
        self.disk_share.store(bytes, Ordering::Relaxed);
        self.divide_disk_share();
    }

    /// Lets each shard have what the others do not take, and at least its part of a division into equal
    /// ones: so the old shards do not keep the one that grows from being stored, and make room for it.
    pub(super) fn divide_disk_share(&self) {
        let all = self.disk_share.load(Ordering::Relaxed);
        let shards = self.shards();
        let taken = |shard: &Arc<Shard>| shard.store().usage.bytes.get();
        let taken: Vec<u64> = shards.iter().map(taken).collect();
        for (shard, share) in shards.iter().zip(shares_of(all, &taken)) {
            self.cache.set_share(shard.store(), share);
        }
    }

    /// Follows the log no further: on return no refresh is under way, and none begins.
    pub(crate) async fn retire(&self) {
        self.following.retire().await;
    }

    /// Follows the log again.
    pub(crate) fn resume(&self) {
        self.following.resume();
    }

    /// Whether anything is trusted of it.
    pub fn is_known(&self) -> bool {
        let shards = self.shards();
        shards.iter().any(|shard| shard.trusted().is_some())
    }

    /// Whether there is a history and none of it can be served: no key that is known now signed it.
    pub fn is_barred(&self) -> bool {
        !self.shards().is_empty() && !self.is_known()
    }

    /// How it goes with following it. Looks at the disk: for a thread that may wait.
    pub(crate) fn standing(&self) -> Standing {
        let shards = self.shards();
        Standing {
            split_view: shards.iter().any(|shard| shard.store().has_evidence()),
            serves: self.active().is_some(),
            age: self.served_age(),
            refresh_interval: self.refresh_interval(),
        }
    }

    fn refresh_every(&self, interval: Duration) {
        let ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.refresh_ms.store(ms, Ordering::Relaxed);
    }

    /// Its name in paths and metrics.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// What the origins of its shards begin with, once that is known.
    pub fn hostname(&self) -> Option<&str> {
        self.hostname.get().map(String::as_str)
    }

    /// What is counted for each of its requests.
    pub fn counts(&self) -> &LogMetrics {
        &self.counts
    }

    /// Its upstreams; none in offline mode.
    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Whether what is not answered here is handed on.
    pub fn passes_through(&self) -> bool {
        self.passthrough
    }

    /// The shard that grows, once anything is trusted of it.
    pub fn active(&self) -> Option<Arc<Shard>> {
        self.shard(TreeId(self.active.load(Ordering::Relaxed)))
            .filter(|shard| shard.trusted().is_some())
    }

    /// All shards of which something is known, by tree ID.
    pub fn shards(&self) -> Vec<Arc<Shard>> {
        self.lock_shards().values().cloned().collect()
    }

    fn shard(&self, tree: TreeId) -> Option<Arc<Shard>> {
        self.lock_shards().get(&tree).cloned()
    }

    fn lock_shards(&self) -> std::sync::MutexGuard<'_, BTreeMap<TreeId, Arc<Shard>>> {
        // Each change is one insertion.
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves an entry.
    ///
    /// # Errors
    /// See [`EntryError`].
    pub async fn entry(self: &Arc<Self>, wanted: Wanted) -> Result<Body, EntryError> {
        if let Some(body) = self.kept(wanted).await {
            self.counts.hits.inc();
            return Ok(body);
        }
        let log = Arc::clone(self);
        // The log sees the trace of the client that started the flight.
        let flight = || scope(Trace::current(), async move { log.fetch(wanted).await });
        let landed = match self.flights.join(wanted, flight).await {
            Ok(landed) => {
                if landed.shared {
                    self.counts.coalesced.inc();
                }
                Ok(landed.value)
            }
            Err(FlightError::Failed(error)) => Err(error),
            Err(FlightError::TimedOut) => Err(EntryError::TimedOut(self.options.max_wait)),
        };
        match &landed {
            Ok(Found {
                from_upstream: false,
                ..
            }) => self.counts.hits.inc(),
            // What does not exist can be neither hit nor missed.
            Err(EntryError::NotThere(_)) => {}
            Ok(_) | Err(_) => self.counts.misses.inc(),
        }
        landed.map(|found| found.body)
    }

    /// What the log says of itself, as far as it is trusted.
    ///
    /// # Errors
    /// Why nothing is.
    pub async fn info(self: &Arc<Self>) -> Result<LogInfo, FollowError> {
        if self.active().is_none() {
            self.refresh_on_demand().await?;
        }
        let active = self.active().ok_or(FollowError::Offline)?;
        let inactive = self.shards();
        let inactive = inactive
            .iter()
            .filter(|shard| shard.tree() != active.tree());
        Ok(LogInfo {
            inactive_shards: inactive.filter_map(|shard| head_of(shard)).collect(),
            active: head_of(&active).ok_or(FollowError::Offline)?,
        })
    }

    /// The key that signed what is trusted of a shard, or of the one that grows, as PEM.
    pub fn public_key(&self, tree: Option<TreeId>) -> Option<String> {
        let shard = tree.map_or_else(|| self.active(), |tree| self.shard(tree))?;
        let trusted = shard.trusted()?;
        let note = Note::parse(&trusted.note).ok()?;
        let trust = self.options.keys.current();
        let signatures = note.signatures().iter();
        let mut signers = signatures.map(|line| line.check(note.text(), trust.keys()));
        signers.find_map(|signed| match signed {
            Signed::By(key) if key.algorithm().vouches_for_logs() => Some(key.pem()),
            Signed::Bad | Signed::By(_) | Signed::Unknown => None,
        })
    }

    /// Hands on a request. Nothing of the answer is proven, and nothing of it is kept.
    ///
    /// # Errors
    /// When nobody answered.
    pub async fn pass(&self, request: &PassedOn) -> Result<Answered, FetchError> {
        self.upstreams.pass(request, MAX_PASSED_BYTES).await
    }

    /// An entry that is on the disk. Everything about it is proven again but that its tree is the
    /// beginning of the trusted one: see [`VerifiedEntry::kept`].
    async fn kept(self: &Arc<Self>, wanted: Wanted) -> Option<Body> {
        let log = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || log.read_kept(wanted));
        let (entry, damaged) = read.await.ok()?; // the process ends
        for (shard, leaf) in damaged {
            self.cache.discard_entry(shard.store(), leaf).await;
        }
        Some(Body::new(entry?.json().clone()))
    }

    fn read_kept(
        &self,
        wanted: Wanted,
    ) -> (Option<VerifiedEntry>, Vec<(Arc<Shard>, crate::tlog::Hash)>) {
        let mut damaged = Vec::new();
        for shard in self.shards() {
            let files = &shard.store().files;
            let stored = match wanted {
                Wanted::Index(index) => files.read_entry_at(index),
                Wanted::Uuid(uuid) if uuid.tree.is_some_and(|tree| tree != shard.tree()) => {
                    continue;
                }
                Wanted::Uuid(uuid) => files.read_entry(uuid.leaf),
            };
            let problem = match (stored, shard.trusted()) {
                (Ok(None), _) | (Ok(Some(_)), None) => continue,
                (Ok(Some(json)), Some(trusted)) => match Entry::parse(&json) {
                    Ok(entry) if !wanted.admits(entry.uuid, entry.log_index) => {
                        "it is another entry".to_owned()
                    }
                    Ok(entry) => {
                        let keys = self.options.keys.current();
                        let opened = SignedEntry::open(entry, &keys, self.hostname());
                        let kept = opened
                            .and_then(|signed| VerifiedEntry::kept(signed, &trusted.checkpoint));
                        match kept {
                            Ok(entry) => return (Some(entry), damaged),
                            // Its key was withdrawn: the entry is as it was.
                            Err(Unproven::Note(NoteError::UnknownKeys { .. })) => continue,
                            Err(error) => error.to_string(),
                        }
                    }
                    Err(error) => error.to_string(),
                },
                (Err(error), _) => error.to_string(),
            };
            self.metrics.corrupt.with_label_values(&[self.name()]).inc();
            warn!(log = self.name(), resource = %wanted, error = problem, "stored copy is damaged; fetching it again");
            if let Wanted::Uuid(uuid) = wanted {
                damaged.push((Arc::clone(&shard), uuid.leaf));
            }
        }
        (None, damaged)
    }

    /// Finds an entry upstream, proves it and stores it.
    async fn fetch(self: Arc<Self>, wanted: Wanted) -> Result<Found, EntryError> {
        // Another flight may have landed between the caller's look and this one.
        if let Some(body) = self.kept(wanted).await {
            return Ok(Found {
                body,
                from_upstream: false,
            });
        }
        let log = &self;
        let finish = self.upstreams.entry(|asked: Asked| {
            async move {
                let json = asked.api(&wanted.path(), MAX_ENTRY_BYTES).await;
                let json = json.map_err(Passed::Fetch)?;
                let proven = log.prove(&asked, wanted, &json).await;
                proven.map_err(|error| {
                    if error.is_refusal() {
                        log.report_failure("entry", &asked, &error);
                        warn!(log = log.name(), resource = %wanted, upstream = asked.name(), %error, "upstream response rejected");
                    }
                    Passed::Wrong(error)
                })
            }
            .boxed()
        });
        let finish = finish.await;
        let Some((_, (shard, entry))) = finish.won else {
            let passed = finish.passed.into_iter();
            let named =
                passed.map(|(place, passed)| (self.upstreams.name(place).to_owned(), passed));
            return Err(EntryError::of(wanted, named));
        };
        let body = Body::new(entry.json().clone());
        self.cache.store_entry(shard.store(), entry).await;
        Ok(Found {
            body,
            from_upstream: true,
        })
    }

    /// Proves what an upstream sent, and follows its tree if that is larger than what is trusted.
    async fn prove(
        &self,
        asked: &Asked,
        wanted: Wanted,
        json: &Bytes,
    ) -> Result<(Arc<Shard>, VerifiedEntry), Refused> {
        let entry = Entry::parse(json)?;
        if !wanted.admits(entry.uuid, entry.log_index) {
            return Err(Refused::Other(Wanted::Uuid(entry.uuid)));
        }
        let signed = self.open_entry(entry).await?;
        let tree = signed.uuid().tree.unwrap_or(TreeId(0)); // proven to be that of its checkpoint
        let offered = signed.checkpoint().clone();
        let is_ahead = |shard: &Arc<Shard>| {
            let trusted = shard.trusted();
            trusted.is_none_or(|trusted| trusted.checkpoint.size < offered.size)
        };
        let shard = match self.shard(tree).filter(|shard| !is_ahead(shard)) {
            Some(shard) => shard,
            None => {
                // As a refresh would.
                let _turn = self.following.turn().await;
                self.consider(asked, tree, signed.note(), None).await?
            }
        };
        let trusted = shard.trusted().ok_or(FollowError::Offline)?;
        if shard.has_point(&offered) {
            return Ok((shard, VerifiedEntry::prove(signed, &offered, &[])?));
        }
        if offered.size >= trusted.checkpoint.size {
            // The same size, and not the same root.
            return Err(self
                .split_view(&shard, &trusted, &offered, signed.note())
                .into());
        }
        let (conclusion, proof) = self
            .history(asked, tree, &trusted.checkpoint, &offered)
            .await?;
        if conclusion == Conclusion::SplitView {
            return Err(self
                .split_view(&shard, &trusted, &offered, signed.note())
                .into());
        }
        shard.add_point(&offered);
        let entry = VerifiedEntry::prove(signed, &trusted.checkpoint, &proof)?;
        Ok((shard, entry))
    }

    /// Opens what an upstream sent; with the keys that there are by now, if it is of none that was known.
    async fn open_entry(&self, entry: Entry) -> Result<SignedEntry, Unproven> {
        let open = |entry| {
            let keys = self.options.keys.current();
            SignedEntry::open(entry, &keys, self.hostname())
        };
        match open(entry.clone()) {
            Err(Unproven::Note(NoteError::UnknownKeys { .. })) if self.has_other_keys().await => {
                open(entry)
            }
            opened => opened,
        }
    }

    fn report_failure(&self, kind: &str, asked: &Asked, error: &impl fmt::Display) {
        let labels = [self.name(), kind, asked.name()];
        self.metrics
            .verify_failures
            .with_label_values(&labels)
            .inc();
        self.options.audit.record(&Event::VerifyFailure {
            log: self.name(),
            kind,
            upstream: asked.name(),
            error: &error.to_string(),
        });
    }
}

/// How much of `all` bytes each may take, of several that have `taken` so much. Where nobody takes more
/// than that, they do not together either.
fn shares_of(all: u64, taken: &[u64]) -> Vec<u64> {
    if all == u64::MAX {
        return vec![all; taken.len()]; // no limit
    }
    let sum: u64 = taken.iter().sum();
    let equal = all / (taken.len() as u64).max(1);
    let share = |own: &u64| all.saturating_sub(sum - own).max(equal);
    taken.iter().map(share).collect()
}

/// The origin of a shard's checkpoints.
pub fn origin_of(hostname: &str, tree: TreeId) -> String {
    format!("{hostname} - {tree}")
}

/// What is trusted of a shard, in the form in which a log says it.
fn head_of(shard: &Shard) -> Option<TreeHead> {
    let trusted = shard.trusted()?;
    Some(TreeHead {
        root_hash: trusted.checkpoint.root,
        signed_tree_head: String::from_utf8(trusted.note.to_vec()).ok()?, // a note is text
        tree_id: shard.tree(),
        tree_size: trusted.checkpoint.size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_what_the_log_may_take() {
        for (all, taken, want) in [
            (u64::MAX, &[7, 8][..], &[u64::MAX, u64::MAX][..]),
            (100, &[], &[]),
            (100, &[0], &[100]),
            (100, &[30, 20], &[80, 70]),
            (100, &[100, 0], &[100, 50]), // the new one may grow,
            (100, &[100, 50], &[50, 50]), // and the old one makes room
            (100, &[60, 60], &[50, 50]),
            (100, &[90, 3, 3], &[94, 33, 33]),
        ] {
            assert_eq!(shares_of(all, taken), want, "{all} {taken:?}");
        }
        // Whatever they begin with, and whoever takes all that is allowed: it comes to an end within.
        let mut taken = vec![400, 0, 7];
        for _ in 0..10 {
            let shares = shares_of(100, &taken);
            taken = shares;
        }
        let settled: Vec<u64> = taken
            .iter()
            .zip(shares_of(100, &taken))
            .map(|(taken, share)| share.min(*taken))
            .collect();
        assert!(settled.iter().sum::<u64>() <= 100, "{settled:?}");
    }
}

#[cfg(test)]
pub(crate) mod testing {
    /// An entry of the public log: the provenance of sigstore-js 2.0.0, as it was published.
    pub(crate) const REAL_ENTRY: &[u8] =
        include_bytes!("../../fuzz/corpus/rekor_entry/real-sigstore-js-2.0.0");

    /// The key of the public log.
    pub(crate) const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwr
kBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw==
-----END PUBLIC KEY-----";
}

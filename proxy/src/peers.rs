//! Other replicas, as one cache: each resource has one owner among them, and only the owner asks the
//! log for it.
//!
//! Whom to ask follows from the names in a list that all replicas have ([`list`], [`mod@rank`]); whether
//! somebody is asked at all, from how it did so far ([`breaker`]). What a peer sends is proven like
//! anything else. A request between replicas says that it is one and shows a token, and is never
//! handed on, so lists that differ for a while cost requests and no deadlock.
//!
//! No I/O but reading the list and the token: asking is the log's business.

mod breaker;
pub mod list;
pub mod rank;

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use http::HeaderMap;
use tokio::time::Instant;
use tracing::{info, warn};

use self::{breaker::Breaker, list::Member, rank::rank};
use crate::{
    bearer,
    cache::origin_hash,
    config::{self, Source, UpstreamSettings},
    metrics::Metrics,
    upstream::{Asked, HOP, Upstream, reread::Reread},
};

/// How often the list is read again, and how often a follower asks for the owner's checkpoint.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Failures in a row after which another replica's checkpoint is followed.
const CHECKPOINT_FAILURES: u32 = 3;

/// How long it is, then, before the one that failed is tried again.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(10);

/// All replicas of a log, this one included.
#[derive(Debug)]
pub struct Peers {
    log: String,
    this: String,
    file: PathBuf,
    token: Source,
    shown: Reread,
    timeout: Duration,
    requests: usize,
    metrics: Arc<Metrics>,
    /// The last good list; `None` before the first.
    members: ArcSwapOption<Vec<Replica>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The list that is used, as it was read.
    text: Option<String>,
    /// Why the newest one is not used, so that it is said once.
    complaint: Option<String>,
    /// The origin of the log, once it is known.
    origin: Option<String>,
}

/// One replica of the list.
#[derive(Clone, Debug)]
pub enum Replica {
    /// This process.
    This {
        /// Its name.
        name: String,
    },
    /// Another one.
    Other(Arc<Peer>),
}

/// Another replica.
#[derive(Debug)]
pub struct Peer {
    member: Member,
    upstream: Arc<Upstream>,
    breaker: Mutex<Breaker>,
    /// Failures in a row with its checkpoint, and when the last one was.
    checkpoint: Mutex<(u32, Option<Instant>)>,
}

impl Peers {
    /// Reads token and list. A list that is not there or not good is said, and read again: until
    /// then the log is asked directly. `None` if there are to be no peers.
    ///
    /// # Errors
    /// When the token cannot be read.
    pub fn new(
        config: &config::Peers,
        log: &str,
        (timeout, requests): (Duration, usize),
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Option<Self>> {
        let config::Peers { this, file, token } = config;
        if file.is_empty() {
            return Ok(None);
        }
        let token = token.clone().context("tile_proxy.peers.token is missing")?;
        let peers = Self {
            log: log.to_owned(),
            this: this.clone(),
            file: PathBuf::from(file),
            shown: Reread::new("tile_proxy.peers.token", token.clone(), is_token)?,
            token,
            timeout,
            requests,
            metrics: Arc::clone(metrics),
            members: ArcSwapOption::empty(),
            state: Mutex::default(),
        };
        peers.reload();
        Ok(Some(peers))
    }

    /// Reads the list again, for ever.
    pub async fn follow(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let peers = Arc::clone(&self);
            // A volume that hangs must not take a thread that serves.
            let _ = tokio::task::spawn_blocking(move || peers.reload()).await;
        }
    }

    /// Reads the list again. One that cannot be read or used changes nothing, and is said once.
    fn reload(&self) {
        let read = fs::read_to_string(&self.file).map_err(|error| error.to_string());
        let (used, origin) = {
            let state = self.state();
            (state.text.clone(), state.origin.clone())
        };
        if read.as_ref().ok() == used.as_ref() && used.is_some() {
            if self.state().complaint.take().is_some() {
                info!(log = self.log, "list of peers is the one in use again");
            }
            return;
        }
        let adopted = read.and_then(|text| {
            let members = list::parse(&text, &self.this)?;
            self.adopt(members, origin.as_deref())?;
            Ok(text)
        });
        let mut state = self.state();
        match adopted {
            Ok(text) => {
                state.text = Some(text);
                state.complaint = None;
            }
            Err(error) if state.complaint.as_ref() != Some(&error) => {
                let file = self.file.display();
                let kept = self.members.load().is_some();
                warn!(log = self.log, %file, kept, error, "list of peers not used");
                state.complaint = Some(error);
            }
            Err(_) => {}
        }
    }

    /// Takes up a list. Who was in the one before keeps connections and breaker.
    fn adopt(&self, members: Vec<Member>, origin: Option<&str>) -> Result<(), String> {
        let before = self.members.load_full();
        let known = |member: &Member| {
            let mut others = before.iter().flat_map(|all| all.iter());
            others.find(|it| matches!(it, Replica::Other(peer) if peer.member == *member))
        };
        let replicas = members.into_iter().map(|member| {
            if member.name == self.this {
                return Ok(Replica::This { name: member.name });
            }
            if let Some(replica) = known(&member) {
                return Ok(replica.clone());
            }
            let peer = self.peer(member, origin);
            peer.map(|peer| Replica::Other(Arc::new(peer)))
        });
        let replicas = replicas.collect::<Result<Vec<_>, String>>()?;
        let peers = replicas.len() - 1;
        self.members.store(Some(Arc::new(replicas)));
        info!(log = self.log, peers, "list of peers read");
        Ok(())
    }

    fn peer(&self, member: Member, origin: Option<&str>) -> Result<Peer, String> {
        let settings = UpstreamSettings {
            name: member.name.clone(),
            url: member.url.clone(),
            checkpoint_base_url: member.url.clone(),
            tile_base_url: member.url.clone(),
            priority: 0,
            timeout: self.timeout,
            learns: false,
            ca: None,
            trusted_ca: None,
            authorization: Some(self.token.clone()),
            write_url: None,
            peer: true,
        };
        let metrics = self.metrics.peer(&self.log, &member.name);
        let upstream = Upstream::new(settings, self.requests, metrics);
        let upstream = upstream.map_err(|error| format!("{}: {error:#}", member.name))?;
        if let Some(origin) = origin {
            upstream.is_below(&below(origin));
        }
        Ok(Peer {
            member,
            upstream: Arc::new(upstream),
            breaker: Mutex::default(),
            checkpoint: Mutex::default(),
        })
    }

    /// Says what the log is. From now on peers are asked for what is of this origin, so that one with
    /// another log has nothing to answer.
    pub fn is_of(&self, origin: &str) {
        let mut state = self.state();
        if state.origin.as_deref() == Some(origin) {
            return;
        }
        state.origin = Some(origin.to_owned());
        drop(state);
        for replica in self.members.load().iter().flat_map(|all| all.iter()) {
            if let Replica::Other(peer) = replica {
                peer.upstream.is_below(&below(origin));
            }
        }
    }

    /// All replicas by their claim on what is at `path`, the owner first. Empty if this one is alone,
    /// or does not know the others.
    pub fn order(&self, origin: &str, path: &str) -> Vec<Replica> {
        let Some(members) = self.members.load_full().filter(|all| all.len() > 1) else {
            return Vec::new();
        };
        let order = rank(members.iter().map(Replica::name), origin, path);
        let replica = |at| members.get(at).cloned();
        order.into_iter().filter_map(replica).collect()
    }

    /// Whether a request is another replica's: it says so, and has the token.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        if !headers.contains_key(HOP) {
            return false;
        }
        let given = bearer::given(headers);
        given.is_some_and(|given| bearer::is(given, &self.shown.current(is_token)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each write replaces whole fields, so a poisoned state is still a sound one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replica {
    /// The replica, if it is not this one.
    pub fn other(&self) -> Option<&Arc<Peer>> {
        match self {
            Self::This { .. } => None,
            Self::Other(peer) => Some(peer),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::This { name } => name,
            Self::Other(peer) => peer.name(),
        }
    }
}

impl Peer {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.member.name
    }

    /// The way to ask it.
    pub fn asked(&self) -> Asked {
        Asked::peer(Arc::clone(&self.upstream))
    }

    /// Whether it may be asked now.
    pub fn admits_questions(&self) -> bool {
        self.breaker().admits(Instant::now())
    }

    /// It answered, whatever it said.
    pub fn answered(&self) {
        self.breaker().answered();
    }

    /// It could not be reached, or did not answer in time.
    pub fn failed(&self) {
        self.breaker().failed(Instant::now());
    }

    /// What it sent is not in the log.
    pub fn lied(&self) {
        self.breaker().lied(Instant::now());
    }

    /// Whether its breaker is open.
    pub fn is_shunned(&self) -> bool {
        self.breaker().is_open()
    }

    /// Whether its checkpoint is worth asking for: it did not fail several times in a row of late.
    pub fn has_checkpoints(&self) -> bool {
        let checkpoint = self
            .checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match *checkpoint {
            (failures, Some(last)) if failures >= CHECKPOINT_FAILURES => {
                last.elapsed() >= CHECKPOINT_PAUSE
            }
            _ => true,
        }
    }

    /// Remembers whether its checkpoint could be followed.
    pub fn checkpoint_followed(&self, followed: bool) {
        let mut checkpoint = self
            .checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *checkpoint = match followed {
            true => (0, None),
            false => (checkpoint.0.saturating_add(1), Some(Instant::now())),
        };
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // Every state of a breaker is a sound one.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a replica has what is of an origin.
fn below(origin: &str) -> String {
    format!("{}/", origin_hash(origin))
}

fn is_token(text: &str) -> Result<(), String> {
    let usable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    usable
        .then_some(())
        .ok_or_else(|| "not a token: one line of visible ASCII, without spaces".to_owned())
}

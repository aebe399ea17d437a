//! Asks other replicas: whoever owns a resource for the resource, and whoever owns the checkpoint for
//! the checkpoint.
//!
//! The log is asked instead as soon as the owner cannot be reached, has lied, does not have it, or
//! says that it cannot get it, and when it has said nothing for half of what a client waits. It
//! might fail alone: its clients' errors must not become everybody's.

use std::{sync::Arc, time::Duration};

use futures::future::{Either, FutureExt as _, OptionFuture, select};

use super::{
    FollowError, Log,
    fill::{Prove, Unproven, fetch_from},
};
use crate::{
    peers::{Peer, Replica},
    tlog::path::Resource,
    upstream::{Asked, FetchError},
};

/// What part of a client's longest wait the owner has for itself before the next in order is asked
/// for what it may have.
const HEDGE_AFTER: u32 = 10;

/// Who asks for a resource.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asker {
    /// Somebody who reads the log.
    Client,
    /// Another replica, because this one owns it.
    Peer,
}

/// Where a resource is asked for that is not here.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// From the log.
    Log,
    /// From the owner, and if need be the next in order; then from the log.
    Peers(Vec<Arc<Peer>>),
}

impl Way {
    /// Two ways to one resource are two flights: replicas whose lists differ might otherwise wait
    /// for each other.
    pub(super) fn is_by_peers(&self) -> bool {
        matches!(self, Self::Peers(_))
    }
}

/// Why the log is asked for what another replica owns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fallback {
    /// It does not have it: its tree may be older.
    Absent,
    /// Its breaker is open.
    Breaker,
    /// It could not get it.
    Failed,
    /// What it sent is not in the tree.
    Lied,
    /// It said nothing in time.
    Slow,
    /// It cannot be reached.
    Unreachable,
}

impl Fallback {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Breaker => "breaker",
            Self::Failed => "failed",
            Self::Lied => "lied",
            Self::Slow => "slow",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What a peer is asked for.
struct Question<'a, T> {
    resource: Resource,
    kind: &'static str,
    limit: usize,
    prove: &'a Prove<'a, T>,
}

impl Log {
    /// The way to a resource that is not here.
    pub(super) fn way(&self, resource: Resource, asker: Asker) -> Way {
        let (Some(peers), Some(store), Asker::Client) =
            (&self.options.peers, self.store.get(), asker)
        else {
            return Way::Log;
        };
        let order = peers.order(store.origin(), &resource.to_string());
        let others: Vec<_> = order.iter().filter_map(Replica::other).cloned().collect();
        match order.first() {
            Some(Replica::Other(_)) => Way::Peers(others),
            Some(Replica::This { .. }) | None => Way::Log,
        }
    }

    /// A resource from its owner, or from the next in order if that one has it; `None` if the log is
    /// to be asked.
    pub(super) async fn ask_peers<'a, T: Send + 'a>(
        &'a self,
        peers: &'a [Arc<Peer>],
        resource: Resource,
        kind: &'static str,
        limit: usize,
        prove: &'a Prove<'a, T>,
    ) -> Option<(Asked, T)> {
        let question = Question {
            resource,
            kind,
            limit,
            prove,
        };
        let owner = peers.first()?;
        if !owner.admits_questions() {
            self.fell_back(owner, Fallback::Breaker);
            return None;
        }
        let patience = self.options.max_wait / 2;
        let asked = self.ask_peer(owner, owner.asked(), &question);
        let hedge = async {
            let second = peers.get(1);
            tokio::time::sleep(self.options.max_wait / HEDGE_AFTER).await;
            let second = second.filter(|second| second.admits_questions());
            let asked = second
                .map(|second| self.ask_peer(second, second.asked().only_if_cached(), &question));
            match OptionFuture::from(asked).await {
                Some(Ok(won)) => won,
                Some(Err(_)) | None => std::future::pending().await,
            }
        };
        let race = select(asked.boxed(), hedge.boxed());
        match tokio::time::timeout(patience, race).await {
            Ok(Either::Left((Ok(won), _)) | Either::Right((won, _))) => Some(won),
            Ok(Either::Left((Err(why), _))) => {
                self.fell_back(owner, why);
                None
            }
            Err(_) => {
                owner.failed();
                self.fell_back(owner, Fallback::Slow);
                None
            }
        }
    }

    /// Asks one peer once, and remembers how it did.
    async fn ask_peer<T>(
        &self,
        peer: &Peer,
        asked: Asked,
        question: &Question<'_, T>,
    ) -> Result<(Asked, T), Fallback> {
        let Question {
            resource,
            kind,
            limit,
            prove,
        } = question;
        let bytes = match fetch_from(&asked, *resource, *limit).await {
            Ok(bytes) => bytes,
            Err(FetchError::NotFound { .. }) => {
                peer.answered();
                return Err(Fallback::Absent);
            }
            Err(FetchError::Status { .. }) => {
                peer.answered();
                return Err(Fallback::Failed);
            }
            Err(_) => {
                peer.failed();
                return Err(Fallback::Unreachable);
            }
        };
        match prove(bytes).await {
            Ok(proven) => {
                peer.answered();
                self.show(peer);
                Ok((asked, proven))
            }
            Err(Unproven::Wrong(source)) => {
                self.not_proven(*resource, kind, asked.name(), source);
                peer.lied();
                Err(Fallback::Lied)
            }
            // Not its fault: what it is proven with is not to be had.
            Err(Unproven::Unknown(_)) => Err(Fallback::Failed),
        }
    }

    fn fell_back(&self, owner: &Peer, why: Fallback) {
        self.show(owner);
        let labels = [self.name(), owner.name(), why.as_str()];
        self.metrics.peer_fallbacks.with_label_values(&labels).inc();
    }

    /// Shows whether a peer is asked.
    fn show(&self, peer: &Peer) {
        let gauge = &self.metrics.peer_healthy;
        let gauge = gauge.with_label_values(&[self.name(), peer.name()]);
        gauge.set((!peer.is_shunned()).into());
    }

    /// Follows the checkpoint of the replica whose turn it is to ask the log. Says how long ago the
    /// log has confirmed it; `None` if it is this one's turn.
    ///
    /// That is the owner of the checkpoint, or after some failures in a row the next in order.
    pub(super) async fn follow_owner(self: &Arc<Self>) -> Option<Result<Duration, FollowError>> {
        let peer = self.leader()?;
        let asked = peer.asked();
        let followed = async {
            let note = asked.aged_checkpoint(self.options.checkpoint_bytes).await;
            let (note, age) = note.map_err(FollowError::Fetch)?;
            self.consider(&asked, note).await?;
            // Nobody who says nothing has just heard the log.
            Ok(age.unwrap_or(Duration::MAX))
        };
        let followed: Result<Duration, FollowError> = followed.await;
        peer.checkpoint_followed(followed.is_ok());
        Some(followed)
    }

    /// The replica whose checkpoint is followed; `None` if it is this one's turn to ask the log.
    pub(super) fn leader(&self) -> Option<Arc<Peer>> {
        let peers = self.options.peers.as_ref()?;
        let known = self.store.get().map(|store| store.origin());
        let origin = self.options.origin.as_deref().or(known).unwrap_or_default();
        let order = peers.order(origin, CHECKPOINT);
        let leader = order.into_iter().find(|replica| match replica {
            Replica::This { .. } => true,
            Replica::Other(peer) => peer.has_checkpoints(),
        });
        leader.and_then(|replica| replica.other().cloned())
    }
}

/// What decides who asks the log for its checkpoint.
const CHECKPOINT: &str = "checkpoint";

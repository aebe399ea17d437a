//! What can go wrong with a read and with following a log; the caller's answer is at each variant.

use std::{mem::discriminant, time::Duration};

use super::verify::NotProven;
use crate::{
    note::{NoteError, checkpoint::CheckpointFormatError},
    rekor_v1::api::ApiError,
    tlog::path::Resource,
    upstream::FetchError,
};

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

/// Why an offered checkpoint did not become the trusted one. What was served stays served.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// Not what such a log answers.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The edge tiles do not fold to the root. Accuses the upstream, not the log.
    #[error("edge tiles of tree size {size} are wrong: {source}")]
    Edge {
        /// Offered tree size.
        size: u64,
        /// What is wrong.
        source: NotProven,
    },
    /// The checkpoint could not be fetched.
    #[error("cannot fetch the checkpoint: {0}")]
    Fetch(FetchError),
    /// Tiles of the offered tree could not be fetched. Not evidence against the log.
    #[error("cannot fetch the tiles of tree size {size}: {source}")]
    Tiles {
        /// Offered tree size.
        size: u64,
        /// Why not.
        source: FetchError,
    },
    /// Nobody waits longer.
    #[error("no answer within {0:?}")]
    TooSlow(Duration),
    /// The note's text is not a checkpoint.
    #[error(transparent)]
    Format(#[from] CheckpointFormatError),
    /// The note does not open with the known keys.
    #[error("checkpoint refused: {0}")]
    Note(#[from] NoteError),
    /// The proxy asks nobody.
    #[error("the proxy is offline")]
    Offline,
    /// A checkpoint of another log.
    #[error("the checkpoint is of `{got}`, not of `{want}`")]
    Origin {
        /// The log that is followed.
        want: String,
        /// First line of the offered checkpoint.
        got: String,
    },
    /// A tree head that is not what stands beside it.
    #[error("the signed tree head has another size or root than is stated beside it")]
    OtherTree,
    /// The same log, two histories. Both notes are kept as evidence.
    #[error("split view: tree sizes {trusted} and {offered} are not of one history")]
    SplitView {
        /// Size of the tree that stays served.
        trusted: u64,
        /// Size of the tree that contradicts it.
        offered: u64,
    },
    /// What the keys are known from has expired: nothing new is believed with them.
    #[error(
        "trust has expired: the checkpoint of tree size {offered} is not believed, and what was is \
         served on; see that TUF metadata is refreshed, or raise `tuf.expiry_grace`"
    )]
    TrustExpired {
        /// Offered tree size.
        offered: u64,
    },
    /// The upstream lags behind what is served.
    #[error("stale: offered tree size {offered}, but {trusted} is served")]
    Stale {
        /// Size of the tree that stays served.
        trusted: u64,
        /// Size of the smaller tree, proven a prefix.
        offered: u64,
    },
    /// The disk did not take it, so that it could not be kept across a restart.
    #[error("cannot store the checkpoint: {0}")]
    Store(String),
    /// Another log of this proxy has the same origin.
    #[error("`{origin}` is followed as `{other}` already: it is one log, so list it once")]
    Taken {
        /// The origin.
        origin: String,
        /// Name of the log that is followed with it.
        other: String,
    },
    /// Tiles for the proof are missing or wrong. Not evidence against the log.
    #[error("cannot prove tree size {old} is a prefix of {new}: {reason}")]
    Unproven {
        /// The smaller size.
        old: u64,
        /// The larger size.
        new: u64,
        /// What is missing.
        reason: String,
    },
}

impl FollowError {
    /// Whether what was offered is wrong, rather than out of reach.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Api(_)
            | Self::Edge { .. }
            | Self::Fetch(FetchError::ReadElsewhere { .. } | FetchError::RekorV1 { .. })
            | Self::Format(_)
            | Self::Note(_)
            | Self::Origin { .. }
            | Self::OtherTree
            | Self::SplitView { .. }
            | Self::Taken { .. }
            | Self::TrustExpired { .. } => true,
            Self::Fetch(_)
            | Self::Offline
            | Self::Stale { .. }
            | Self::Store(_)
            | Self::Tiles { .. }
            | Self::TooSlow(_)
            | Self::Unproven { .. } => false,
        }
    }

    /// Whether a key signed it that may be known by now.
    pub(crate) fn is_of_unknown_key(&self) -> bool {
        matches!(self, Self::Note(NoteError::UnknownKeys { .. }))
    }

    /// The one that is told of what several upstreams came to: the first of those that say most.
    pub(crate) fn that_says_most(errors: impl Iterator<Item = Self>) -> Option<Self> {
        // `max_by_key` would give the last.
        errors.reduce(|told, error| {
            if error.weight() > told.weight() {
                error
            } else {
                told
            }
        })
    }

    /// How much it says: of what several upstreams came to, the greatest is told.
    fn weight(&self) -> u8 {
        match self {
            Self::SplitView { .. } => 3,
            _ if self.is_refusal() => 2,
            Self::Stale { .. } | Self::Store(_) | Self::Unproven { .. } => 1,
            _ => 0,
        }
    }

    /// Whether both are the same news. Numbers in them may differ: a throttled log counts down the
    /// seconds, a growing one its size.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let fetch = |error: &Self| match error {
            Self::Fetch(source) | Self::Tiles { source, .. } => Some(discriminant(source)),
            _ => None,
        };
        discriminant(self) == discriminant(other) && fetch(self) == fetch(other)
    }
}

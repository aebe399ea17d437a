//! What can go wrong with an entry; the caller's answer is at each variant.

use std::time::Duration;

use super::{Wanted, api::ApiError, verify::Unproven};
use crate::{
    log::FollowError,
    upstream::{FetchError, race::Passed},
};

/// Why an entry is not served.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// What upstream sent was proven wrong. Answer: 502.
    #[error("what {upstream} sent for {wanted} is refused: {source}")]
    NotProven {
        /// What was asked for.
        wanted: Wanted,
        /// Who sent it.
        upstream: String,
        /// What is wrong with it.
        source: Refused,
    },
    /// The log says so just now. Answer: 404.
    #[error("the log has no {0}")]
    NotThere(Wanted),
    /// Nobody waits longer. Answer: 504.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Neither cached nor to be had. Answer: 503.
    #[error("{wanted} is not cached, and the log cannot be asked: {reason}")]
    Unavailable {
        /// What was asked for.
        wanted: Wanted,
        /// Why it cannot.
        reason: String,
    },
}

impl EntryError {
    /// What it comes to when all upstreams were passed over, each for this reason. "Does not exist" is
    /// only said when all that there are say so.
    pub(super) fn of(
        wanted: Wanted,
        passed: impl Iterator<Item = (String, Passed<Refused>)>,
    ) -> Self {
        let mut not_there = false;
        let mut unavailable = None;
        for (upstream, passed) in passed {
            match passed {
                Passed::Wrong(source) if source.is_refusal() => {
                    return Self::NotProven {
                        wanted,
                        upstream,
                        source,
                    };
                }
                Passed::Wrong(source) => unavailable = Some(source.to_string()),
                Passed::Fetch(FetchError::NotFound { .. }) => not_there = true,
                Passed::Fetch(error) => unavailable = Some(error.to_string()),
            }
        }
        match (unavailable, not_there) {
            (Some(reason), _) => Self::Unavailable { wanted, reason },
            (None, true) => Self::NotThere(wanted),
            (None, false) => Self::Unavailable {
                wanted,
                reason: "the proxy is offline".to_owned(),
            },
        }
    }
}

/// Why what an upstream sent is not served.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Not an entry.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Its tree is not one that is followed.
    #[error("its tree is not followed: {0}")]
    Follow(#[from] FollowError),
    /// An entry that nobody asked for.
    #[error("it is {0}")]
    Other(Wanted),
    /// An entry that is not proven.
    #[error(transparent)]
    Unproven(#[from] Unproven),
}

impl Refused {
    /// Whether what was sent is wrong, rather than that something else is out of reach.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Api(_) | Self::Other(_) | Self::Unproven(_) => true,
            Self::Follow(error) => error.is_refusal(),
        }
    }
}

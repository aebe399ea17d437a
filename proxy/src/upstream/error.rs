//! Why an upstream gave no bytes.

use std::time::Duration;

use http::StatusCode;

/// Why an upstream gave no bytes. None of it is evidence of anything.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The upstream does not have it: 404 or 410. Inside the tree, another may.
    #[error("{upstream} does not have it")]
    NotFound {
        /// Name of the upstream.
        upstream: String,
    },
    /// Another status than success.
    #[error("{upstream} answered {status}")]
    Status {
        /// Name of the upstream.
        upstream: String,
        /// Its answer.
        status: StatusCode,
        /// How long it is left alone for that, because it said or meant so.
        quiet: Option<Duration>,
    },
    /// No answer, or half of one.
    #[error("cannot read from {upstream}: {message}")]
    Network {
        /// Name of the upstream.
        upstream: String,
        /// Why, without the URL.
        message: String,
    },
    /// It asked not to be asked for a while, and that while is not over.
    #[error("{upstream} asked to be left alone for another {} s", left.as_secs())]
    Throttled {
        /// Name of the upstream.
        upstream: String,
        /// How long.
        left: Duration,
    },
    /// More bytes than such a resource can have.
    #[error("{upstream} sent more than {limit} bytes")]
    TooLarge {
        /// Name of the upstream.
        upstream: String,
        /// Most bytes it may send, after decompression.
        limit: usize,
    },
    /// A log that is written to here and read somewhere else: it answers 501 to whoever reads.
    #[error(
        "{upstream} answers 501 to reads, as Rekor v2 servers do: its checkpoint and tiles are \
         served elsewhere; give that place as `tile_base_url`"
    )]
    ReadElsewhere {
        /// Name of the upstream.
        upstream: String,
    },
    /// A log without tiles.
    #[error("{upstream} speaks Rekor v1, which has neither checkpoint nor tiles to read")]
    RekorV1 {
        /// Name of the upstream.
        upstream: String,
    },
}

impl FetchError {
    /// Whether asking the same upstream again may help, and then how long it wants to be left alone
    /// before that.
    pub fn repeat_after(&self) -> Option<Duration> {
        match self {
            Self::Network { .. } => Some(Duration::ZERO),
            Self::Status { quiet, .. } if quiet.is_some() => *quiet,
            Self::Status { status, .. } if status.is_server_error() => Some(Duration::ZERO),
            Self::Throttled { left, .. } => Some(*left),
            Self::NotFound { .. }
            | Self::ReadElsewhere { .. }
            | Self::RekorV1 { .. }
            | Self::Status { .. }
            | Self::TooLarge { .. } => None,
        }
    }

    /// How long the upstream is to be left alone because of this.
    pub(super) fn quiet(&self) -> Option<Duration> {
        match self {
            Self::Status { quiet, .. } => *quiet,
            _ => None,
        }
    }

    /// What kind of failure it is, whatever its numbers and names.
    pub(super) fn kind(&self) -> &str {
        match self {
            Self::NotFound { .. } => "not found",
            Self::Status { status, .. } => status.as_str(),
            Self::Network { message, .. } => message,
            Self::Throttled { .. } => "throttled",
            Self::TooLarge { .. } => "too large",
            Self::ReadElsewhere { .. } => "read elsewhere",
            Self::RekorV1 { .. } => "Rekor v1",
        }
    }

    /// What it counts as in metrics: a response code, or `error`.
    pub(super) fn status(&self) -> &str {
        match self {
            Self::NotFound { .. } => "404",
            Self::Status { status, .. } => status.as_str(),
            _ => "error",
        }
    }
}

//! Why a refresh of trust came to nothing: each kind of lie and accident has its own word.

use std::error::Error as _;

use jiff::Timestamp;

use crate::upstream::FetchError;

/// Why what a TUF repository or the disk offered was not taken. What was trusted stays trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TufError {
    /// A new root that does not follow the one before it.
    #[error("root version {offered} does not follow {trusted}")]
    BadRoot {
        /// Version of the trusted root.
        trusted: u64,
        /// Version offered.
        offered: u64,
    },
    /// The machine's clock cannot be right, so nothing can be said about expiry.
    #[error("the clock says {now}, before this program was built ({built}); set the clock")]
    Clock {
        /// What the clock says.
        now: Timestamp,
        /// The earliest it can be.
        built: Timestamp,
    },
    /// A role's metadata has expired, beyond `tuf.expiry_grace`.
    #[error("{role} metadata expired at {expires}")]
    Expired {
        /// Whose metadata.
        role: String,
        /// When.
        expires: Timestamp,
    },
    /// Bytes that are not what the role above them pins, by their hash: tampered.
    #[error("not what the metadata pins: {0}")]
    Integrity(String),
    /// Bytes of another length than the role above them pins.
    #[error("not as long as the metadata pins: {0}")]
    Length(String),
    /// Not metadata, or with keys or signatures that no client could take.
    #[error("unusable metadata: {0}")]
    Malformed(String),
    /// A service map of a version that nobody here can read.
    #[error("target `{target}`: its version is {version}, and this proxy reads version {known}")]
    MapVersion {
        /// Name of the target.
        target: String,
        /// As it says, in JSON.
        version: String,
        /// The one there is.
        known: u64,
    },
    /// The repository lists it and does not have it.
    #[error("the repository lacks a file that it must have: {0}")]
    Missing(String),
    /// Each signed, and not of one version: the role above pins another, or what it pinned is gone.
    #[error("metadata of different versions: {0}")]
    MixAndMatch(String),
    /// The repository vouches for nothing that this proxy looks for.
    #[error(
        "the repository has none of the targets that hold keys of logs: trusted_root.json, the \
         service map, rekor-key-v1, rekor-key-v2, rekor.pub"
    )]
    NoTargets,
    /// What a crash or somebody else left in one of the two sets on the disk; see [`super::store`].
    #[error("stored trust is not whole: {0}")]
    NotWhole(Box<Self>),
    /// A target that leads to where nothing is encrypted.
    #[error(
        "target `{target}`: `{key}` is `{url}`, which is not `https://`; `tuf.allow_http: true` lets that be"
    )]
    PlainHttp {
        /// Name of the target.
        target: String,
        /// Where in it.
        key: String,
        /// Where it leads.
        url: String,
    },
    /// An older version than one that was trusted before.
    #[error("rollback of {role}: version {offered} after {trusted}")]
    Rollback {
        /// Whose metadata.
        role: String,
        /// Version seen before.
        trusted: u64,
        /// Version offered.
        offered: u64,
    },
    /// The disk did not take or give it.
    #[error("cannot use the directory of trust: {0}")]
    Store(String),
    /// A target that is well signed and still of no use.
    #[error("target `{target}`: {message}")]
    Target {
        /// Its name.
        target: String,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// Too few of the keys that a role must have signed it.
    #[error("{role} is signed by {found} of the {threshold} keys it needs")]
    Threshold {
        /// Whose metadata.
        role: String,
        /// Valid signatures.
        found: usize,
        /// Signatures needed.
        threshold: usize,
    },
    /// More bytes than such a file can have.
    #[error("{0}")]
    TooLarge(String),
    /// The repository cannot be asked.
    #[error("the repository cannot be reached: {0}")]
    Unreachable(String),
}

impl TufError {
    /// The fixed word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadRoot { .. } => "bad_root",
            Self::Clock { .. } => "clock",
            Self::Expired { .. } => "expired",
            Self::Integrity(_) => "integrity",
            Self::Length(_) => "length",
            Self::Malformed(_) => "malformed",
            Self::MapVersion { .. } => "map_version",
            Self::Missing(_) => "missing",
            Self::MixAndMatch(_) => "mix_and_match",
            Self::NoTargets => "no_targets",
            Self::NotWhole(_) => "not_whole",
            Self::PlainHttp { .. } => "plain_http",
            Self::Rollback { .. } => "rollback",
            Self::Store(_) => "store",
            Self::Target { .. } => "target",
            Self::Threshold { .. } => "threshold",
            Self::TooLarge(_) => "too_large",
            Self::Unreachable(_) => "unreachable",
        }
    }

    /// Whether nothing was offered, rather than something wrong.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    pub(super) fn target(target: &str, message: impl Into<String>) -> Self {
        Self::Target {
            target: target.to_owned(),
            message: message.into(),
        }
    }
}

/// Every reason there is, for the metric's page and its first values.
pub const REASONS: [&str; 18] = [
    "bad_root",
    "clock",
    "expired",
    "integrity",
    "length",
    "malformed",
    "map_version",
    "missing",
    "mix_and_match",
    "no_targets",
    "not_whole",
    "plain_http",
    "rollback",
    "store",
    "target",
    "threshold",
    "too_large",
    "unreachable",
];

/// What [`super::repository`] says of a target with more bytes than are listed, which it reads no
/// further.
pub(super) const LONGER: &str = "longer than the listed";

impl From<sigstore_tuf::Error> for TufError {
    fn from(error: sigstore_tuf::Error) -> Self {
        use sigstore_tuf::Error;
        match error {
            Error::BadRootVersion { trusted, new } => Self::BadRoot {
                trusted,
                offered: new,
            },
            Error::Expired { role, expires } => Self::Expired { role, expires },
            Error::IntegrityMismatch(what) => mismatch(what),
            Error::Io { .. } => Self::Store(with_causes(&error)),
            Error::Rollback { role, trusted, new } => Self::Rollback {
                role,
                trusted,
                offered: new,
            },
            Error::ThresholdNotMet {
                role,
                found,
                threshold,
            } => Self::Threshold {
                role,
                found,
                threshold,
            },
            Error::Transport { message, source } => {
                let cause = source.as_ref().map(|source| source.downcast_ref());
                match cause {
                    // The client itself says so of what a repository answered 404.
                    None => Self::Missing(message),
                    Some(Some(error @ FetchError::TooLarge { .. })) => {
                        Self::TooLarge(format!("{message}: {error}"))
                    }
                    Some(Some(error)) => Self::Unreachable(format!("{message}: {error}")),
                    Some(None) => Self::Unreachable(message),
                }
            }
            _ => Self::Malformed(with_causes(&error)),
        }
    }
}

/// The client has one error for all that the role above does not pin, and says in words which it is.
/// Words it does not use yet are `integrity`.
fn mismatch(what: String) -> TufError {
    let says = |words: &[&str]| words.iter().any(|words| what.contains(words));
    if says(&["exceeds configured max"]) {
        TufError::TooLarge(what)
    } else if says(&[": length ", LONGER]) {
        TufError::Length(what)
    } else if says(&[" does not match ", "snapshot removes", "pins have changed"]) {
        TufError::MixAndMatch(what)
    } else {
        TufError::Integrity(what)
    }
}

/// The client's messages leave their causes to whoever prints them.
fn with_causes(error: &sigstore_tuf::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

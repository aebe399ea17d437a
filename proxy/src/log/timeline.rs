//! Decides what an offered checkpoint means for a log we already follow.
//!
//! No I/O: the caller brings the trusted checkpoint, the offered one, and later what the tiles
//! proved. Every rule is in [`judge`] and [`conclude`] and their table tests, so this file is the
//! policy.
//!
//! Invariant: the tree size served for a log never goes down, across restarts included.

use std::cmp::Ordering;

use crate::{note::checkpoint::Checkpoint, tlog::Hash};

/// What an offered checkpoint means, as far as it can be said without tiles.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The same tree: only its age is new.
    Refresh,
    /// The same size and another root: two histories.
    SplitView,
    /// The smaller tree must be proven a prefix of the larger one, before anything can be concluded.
    ProveConsistency {
        /// Size of the smaller tree, whose root must come out of the larger one's tiles.
        old: u64,
        /// Size of the larger tree.
        new: u64,
    },
}

/// What `offered` means while `trusted` is the checkpoint we serve. Both are of one log.
pub fn judge(trusted: &Checkpoint, offered: &Checkpoint) -> Verdict {
    match offered.size.cmp(&trusted.size) {
        Ordering::Equal if offered.root == trusted.root => Verdict::Refresh,
        Ordering::Equal => Verdict::SplitView,
        // Smaller is a lagging mirror only once proven a prefix of ours; else a split view too.
        Ordering::Less => Verdict::ProveConsistency {
            old: offered.size,
            new: trusted.size,
        },
        Ordering::Greater => Verdict::ProveConsistency {
            old: trusted.size,
            new: offered.size,
        },
    }
}

/// What follows once the tiles of the larger tree have shown the root of its prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Conclusion {
    /// Serve the offered checkpoint from now on.
    Advance,
    /// The upstream lags behind; keep what is served.
    Stale,
    /// Two histories, proven.
    SplitView,
}

/// Concludes from the root that the larger tree's tiles gave for the smaller size.
pub fn conclude(trusted: &Checkpoint, offered: &Checkpoint, proven: Hash) -> Conclusion {
    let (smaller, ahead) = if offered.size > trusted.size {
        (trusted, true)
    } else {
        (offered, false)
    };
    match (proven == smaller.root, ahead) {
        (false, _) => Conclusion::SplitView,
        (true, true) => Conclusion::Advance,
        (true, false) => Conclusion::Stale,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(size: u64, root: u8) -> Checkpoint {
        Checkpoint {
            origin: "rome.example/2026h1".to_owned(),
            size,
            root: Hash([root; 32]),
        }
    }

    #[test]
    fn an_offer_is_judged_by_size_and_root() {
        let trusted = checkpoint(1_000, 1);
        let prove = |old, new| Verdict::ProveConsistency { old, new };
        for (offered, want) in [
            (checkpoint(1_000, 1), Verdict::Refresh),
            (checkpoint(1_000, 2), Verdict::SplitView),
            (checkpoint(1_001, 2), prove(1_000, 1_001)),
            (checkpoint(1_001, 1), prove(1_000, 1_001)), // a root may not stay, but tiles say so
            (checkpoint(999, 2), prove(999, 1_000)),
            (checkpoint(0, 0), prove(0, 1_000)),
        ] {
            assert_eq!(judge(&trusted, &offered), want, "{offered:?}");
        }
    }

    #[test]
    fn only_a_proven_prefix_is_followed_or_called_stale() {
        let trusted = checkpoint(1_000, 1);
        for (offered, proven, want) in [
            (checkpoint(2_000, 2), 1, Conclusion::Advance),
            (checkpoint(2_000, 2), 3, Conclusion::SplitView),
            (checkpoint(500, 5), 5, Conclusion::Stale),
            (checkpoint(500, 5), 6, Conclusion::SplitView),
        ] {
            assert_eq!(
                conclude(&trusted, &offered, Hash([proven; 32])),
                want,
                "{offered:?}"
            );
        }
    }
}

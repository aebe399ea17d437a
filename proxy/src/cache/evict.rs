//! Decides what goes when the cache is too large.
//!
//! No I/O: the caller brings what is stored, with its size and last use, and removes what it is
//! told. Bundles and partials go first, least recently used, since they are many and large and a
//! client seldom asks twice. Full tiles go only where an explicit prune offers them: a stored full
//! tile is never evicted.

use std::time::SystemTime;

/// Part of the budget at which eviction begins, from the top: a thirty-second, so that storing goes
/// on while it runs. At the default of 10 GiB that is 320 MiB.
const BEGIN: u64 = 32;

/// Part of the budget that is free when eviction ends: twice as much, so that it does not begin
/// again at once. Each time costs a look at every file.
const END: u64 = 16;

/// Bytes above which eviction begins.
pub(super) fn high_water(budget: u64) -> u64 {
    budget - budget / BEGIN
}

/// Bytes that eviction leaves.
pub(super) fn low_water(budget: u64) -> u64 {
    budget - budget / END
}

/// In which order kinds go: all of the first before any of the next.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Rank {
    /// Entry bundles, full and partial.
    Bundle,
    /// Full tiles; only a prune offers them.
    Tile,
}

/// Something stored that may go.
#[derive(Clone, Debug)]
pub(super) struct Candidate<T> {
    pub(super) what: T,
    pub(super) rank: Rank,
    /// Bytes that its going gives back.
    pub(super) bytes: u64,
    /// When it was last used, as far as that is noted; for a tile, when it was stored.
    pub(super) used: SystemTime,
}

/// Takes out of the candidates what goes, so that of `stored` bytes at most `target` are left: by
/// rank, then least recently used first, and no more than needed. Where that is not enough, all of
/// them.
pub(super) fn choose<T>(
    candidates: &mut Vec<Candidate<T>>,
    stored: u64,
    target: u64,
) -> Vec<Candidate<T>> {
    candidates.sort_by_key(|candidate| (candidate.rank, candidate.used));
    let mut left = stored;
    let enough = candidates.iter().position(|candidate| {
        let done = left <= target;
        left = left.saturating_sub(candidate.bytes);
        done
    });
    candidates
        .drain(..enough.unwrap_or(candidates.len()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn candidate(what: &'static str, rank: Rank, bytes: u64, used: u64) -> Candidate<&'static str> {
        Candidate {
            what,
            rank,
            bytes,
            used: SystemTime::UNIX_EPOCH + Duration::from_secs(used),
        }
    }

    #[test]
    fn the_least_recently_used_go_first_and_no_more_than_needed() {
        use Rank::{Bundle, Tile};
        let all = [
            candidate("new bundle", Bundle, 10, 300),
            candidate("old bundle", Bundle, 10, 100),
            candidate("older tile", Tile, 10, 10),
            candidate("old tile", Tile, 10, 20),
            candidate("large bundle", Bundle, 50, 200),
        ];
        let order = [
            "old bundle",
            "large bundle",
            "new bundle", // used after every tile, and still before them
            "older tile",
            "old tile",
        ];
        for (stored, target, goes) in [
            (100, 100, 0), // exactly full is not too much
            (101, 100, 1),
            (100, 90, 1),
            (100, 89, 2), // a large one may give back more than was asked for
            (100, 40, 2),
            (100, 39, 3),
            (100, 29, 4),
            (100, 0, 5), // not enough, and everything there is
            (5, 0, 1),
            (0, 0, 0),
        ] {
            let mut staying = all.to_vec();
            let going = choose(&mut staying, stored, target);
            for (some, want) in [(going, &order[..goes]), (staying, &order[goes..])] {
                let some: Vec<&str> = some.iter().map(|candidate| candidate.what).collect();
                assert_eq!(some, want, "{stored} stored, {target} wanted");
            }
        }
    }

    #[test]
    fn eviction_begins_before_the_budget_is_used_up_and_ends_below_that() {
        let budget = 16 << 20; // the smallest that is configured
        assert_eq!(high_water(budget), budget - (512 << 10));
        assert_eq!(low_water(budget), budget - (1 << 20));
        assert!(low_water(u64::MAX) < high_water(u64::MAX));
    }
}

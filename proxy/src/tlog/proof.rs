//! Consistency proofs of RFC 6962, section 2.1.2, as logs without tiles give them.
//!
//! The proof is a list of hashes of subtrees. Together with the two sizes it determines both roots,
//! so it does not matter who gave it: one that leads to the signed root of the larger tree cannot
//! show another root of the smaller one than the larger one really begins with.

use super::{Hash, node_hash};

/// Hashes in the longest proof: one for each level of a tree of 2^63 entries, and the first.
pub const MAX_PROOF_HASHES: usize = 64;

/// The two roots that a proof shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shown {
    /// Of the first `old` entries.
    pub old: Hash,
    /// Of all `new` entries.
    pub new: Hash,
}

/// The roots that `proof` shows for the first `old` of `new` entries. Nothing is proven before
/// [`Shown::new`] is the root that the log signed; then [`Shown::old`] is that of its prefix.
///
/// Where `old` is a power of two, proofs leave out its root, and `old_root` takes its place: if that is
/// wrong, so is [`Shown::new`], and who is to blame cannot be said.
///
/// Costs two node hashes for each hash of the proof; `None` unless 0 < `old` < `new` and their number is
/// that of such a proof (RFC 9162, section 2.1.4.2).
pub fn shown_roots(old: u64, new: u64, old_root: Hash, proof: &[Hash]) -> Option<Shown> {
    if old == 0 || old >= new {
        return None;
    }
    let (mut at, mut last) = (old - 1, new - 1);
    // Below the largest subtree that ends where the old tree does, both trees are the same.
    let shared = at.trailing_ones();
    at >>= shared;
    last >>= shared;
    let (seed, path) = if old.is_power_of_two() {
        (old_root, proof)
    } else {
        let (seed, path) = proof.split_first()?;
        (*seed, path)
    };
    let mut shown = Shown {
        old: seed,
        new: seed,
    };
    for hash in path {
        if last == 0 {
            return None;
        }
        if at % 2 == 1 || at == last {
            shown = Shown {
                old: node_hash(*hash, shown.old),
                new: node_hash(*hash, shown.new),
            };
            // On the right edge, levels without anything to the right are passed over.
            while at.is_multiple_of(2) && at != 0 {
                at /= 2;
                last /= 2;
            }
        } else {
            shown.new = node_hash(shown.new, *hash);
        }
        at /= 2;
        last /= 2;
    }
    (last == 0).then_some(shown)
}

/// What a proof of other sizes shows of the first `old` of `new` entries where `old` is a power of two: the
/// proof for the `old - 1` first ones, which begins with the one that these are the beginning of `old`.
/// As for [`shown_roots`], nothing is proven before [`Shown::new`] is the signed root.
///
/// `None` as there, and below four entries, whose proofs leave out these roots as well.
pub fn shown_by_neighbour(old: u64, new: u64, proof: &[Hash]) -> Option<Shown> {
    if old < 4 || !old.is_power_of_two() {
        return None;
    }
    let nothing = Hash([0; 32]); // not looked at: `old - 1` is no power of two
    let whole = shown_roots(old - 1, new, nothing, proof)?;
    // Its last leaf, the one after it, and one hash for each level above.
    let within = proof.get(..old.trailing_zeros() as usize + 1)?;
    let part = shown_roots(old - 1, old, nothing, within)?;
    Some(Shown {
        old: part.new,
        new: whole.new,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rekor_log::consistency_proof,
        tlog::testing::{decimal_leaves, tree_hash},
    };
    use proptest::prelude::*;

    #[test]
    fn every_prefix_of_small_trees_is_shown() {
        let leaves = decimal_leaves(70);
        for new in 2..=70 {
            let root = tree_hash(&leaves[..new]);
            for old in 1..new {
                let old_root = tree_hash(&leaves[..old]);
                let proof = consistency_proof(&leaves[..new], old);
                let shown = shown_roots(old as u64, new as u64, old_root, &proof);
                let want = Shown {
                    old: old_root,
                    new: root,
                };
                assert_eq!(shown, Some(want), "{old} of {new}");
            }
        }
    }

    #[test]
    fn only_a_whole_proof_of_two_different_trees_shows_anything() {
        let leaves = decimal_leaves(13);
        let root = tree_hash(&leaves[..5]);
        let proof = consistency_proof(&leaves, 5);
        assert!(shown_roots(5, 13, root, &proof).is_some());
        let longer = [&proof[..], &[root]].concat();
        for (old, new, proof) in [
            (5, 13, &proof[1..]),
            (5, 13, &longer),
            (5, 13, &[]),
            (0, 13, &proof),
            (13, 13, &proof),
            (13, 13, &[]),
            (14, 13, &proof),
            (4, 13, &[]),
            (1 << 63, u64::MAX, &proof),
        ] {
            assert_eq!(shown_roots(old, new, root, proof), None, "{old} of {new}");
        }
    }

    #[test]
    fn a_fork_is_shown_by_the_proof_of_its_own_log() {
        let leaves = decimal_leaves(100);
        let mut fork = leaves.clone();
        fork[40] = leaves[41];
        for old in [41, 63, 65, 99] {
            let (ours, theirs) = (tree_hash(&leaves[..old]), tree_hash(&fork[..old]));
            let proof = consistency_proof(&fork, old);
            let shown = shown_roots(old as u64, 100, ours, &proof).expect("a proof");
            assert_eq!(shown.new, tree_hash(&fork), "as they signed it");
            assert_eq!(shown.old, theirs, "and what that says of {old} entries");
            assert_ne!(shown.old, ours);
        }
        // Here it takes our word for the old root, and then does not lead to theirs.
        let ours = tree_hash(&leaves[..64]);
        let shown = shown_roots(64, 100, ours, &consistency_proof(&fork, 64)).expect("a proof");
        assert_ne!(shown.new, tree_hash(&fork));
    }

    #[test]
    fn the_root_that_a_proof_leaves_out_is_shown_by_the_proof_beside_it() {
        let leaves = decimal_leaves(70);
        let mut fork = leaves.clone();
        fork[2] = leaves[3];
        for old in [4, 8, 16, 32, 64] {
            for new in old + 1..=70 {
                for leaves in [&leaves, &fork] {
                    let proof = consistency_proof(&leaves[..new], old - 1);
                    let shown = shown_by_neighbour(old as u64, new as u64, &proof);
                    let want = Shown {
                        old: tree_hash(&leaves[..old]),
                        new: tree_hash(&leaves[..new]),
                    };
                    assert_eq!(shown, Some(want), "{old} of {new}");
                    // Shorter or longer, it is none.
                    let longer = [&proof[..], &[leaves[0]]].concat();
                    for proof in [&proof[1..], &longer] {
                        assert_eq!(shown_by_neighbour(old as u64, new as u64, proof), None);
                    }
                }
            }
        }
        for old in [0, 1, 2, 3, 5, 6, 7] {
            let proof = consistency_proof(&leaves, 3);
            assert_eq!(shown_by_neighbour(old, 70, &proof), None, "{old}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_changed_hash_leads_to_another_root(
            new in 3_usize..500, part in 0.0..1.0_f64, which in any::<prop::sample::Index>(), bit in 0_usize..256,
        ) {
            let leaves = decimal_leaves(new);
            let old = 1 + (part * (new - 2) as f64) as usize;
            let old_root = tree_hash(&leaves[..old]);
            let mut proof = consistency_proof(&leaves, old);
            let at = which.index(proof.len());
            proof[at].0[bit / 8] ^= 1 << (bit % 8);
            let shown = shown_roots(old as u64, new as u64, old_root, &proof);
            prop_assert_ne!(shown.map(|shown| shown.new), Some(tree_hash(&leaves)));
        }
    }
}

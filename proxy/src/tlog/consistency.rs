//! Proves that one tree is a prefix of another, from tiles of the larger one.
//!
//! The root of the first `old` entries follows from what stood on the right edge of the tree when
//! it had that size. Those hashes still stand at the same coordinates in the larger tree, in tiles
//! that have become wider since: at most one a level, the *spine* of `old`.

use bytes::Bytes;

use super::{
    HASH_BYTES, Hash,
    edge::{edge_tiles, fold},
    perfect_root,
    tile::{FULL_WIDTH, MAX_LEVEL, Tile, width_in},
};

/// The tiles of a tree of `new` entries that determine the root of its first `old` entries, from
/// the highest level down, each as wide as it is in that tree; at most 8.
///
/// Those that are partial are edge tiles of the larger tree; the full ones are proven by the tile
/// before them in this list. Empty unless 0 < `old` ≤ `new`.
pub fn spine(old: u64, new: u64) -> Vec<Tile> {
    let Some(lowest) = edge_tiles(old)
        .first()
        .map(|tile| tile.level())
        .filter(|_| old <= new)
    else {
        return Vec::new();
    };
    (lowest..=MAX_LEVEL)
        .rev()
        .filter_map(|level| {
            let index = (old >> (8 * u32::from(level))) / u64::from(FULL_WIDTH);
            Tile::new(level, index, width_in(level, index, new))
        })
        .collect()
}

/// The root of the first `old` entries, from the [`spine`] with its contents.
///
/// Partial tiles in it must be proven edge tiles of the larger tree. The full ones are proven here,
/// each by its parent in the spine, so they may come from anywhere. `None` if one of them is not
/// what its parent says, or has the wrong length.
pub fn prefix_root(old: u64, spine: &[(Tile, Bytes)]) -> Option<Hash> {
    for (i, (tile, bytes)) in spine.iter().enumerate() {
        if bytes.len() != tile.bytes() {
            return None;
        }
        if tile.is_full() {
            let (level, index, slot) = tile.parent_slot()?;
            let (parent, hashes) = spine.get(i.checked_sub(1)?)?;
            if (parent.level(), parent.index()) != (level, index) {
                return None;
            }
            let stated = Hash::chunks(hashes).nth(usize::from(slot))?;
            if perfect_root(Hash::chunks(bytes))? != stated {
                return None;
            }
        }
    }
    let edge = edge_tiles(old);
    let contents: Option<Vec<(Tile, &[u8])>> = edge
        .into_iter()
        .map(|tile| {
            let (_, bytes) = spine.iter().find(|(wider, _)| {
                (wider.level(), wider.index()) == (tile.level(), tile.index())
            })?;
            Some((tile, bytes.get(..usize::from(tile.width()) * HASH_BYTES)?))
        })
        .collect();
    fold(contents?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::testing::{SparseTree, content, decimal_leaves, tree_hash};
    use proptest::prelude::*;

    fn spine_of(leaves: &[Hash], old: u64) -> Vec<(Tile, Bytes)> {
        spine(old, leaves.len() as u64)
            .into_iter()
            .map(|tile| (tile, Bytes::from(content(leaves, tile))))
            .collect()
    }

    #[test]
    fn every_prefix_of_a_tree_is_proven() {
        let leaves = decimal_leaves(70_000);
        for old in [
            1, 255, 256, 257, 511, 512, 4_096, 65_535, 65_536, 65_537, 69_999, 70_000,
        ] {
            let root = prefix_root(old, &spine_of(&leaves, old));
            assert_eq!(
                root,
                Some(tree_hash(&leaves[..old as usize])),
                "old size {old}"
            );
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_in_the_spine_is_noticed() {
        let leaves = decimal_leaves(70_000);
        let good = spine_of(&leaves, 700);
        let names: Vec<String> = good.iter().map(|(tile, _)| tile.to_string()).collect();
        assert_eq!(names, ["tile/2/000.p/1", "tile/1/000", "tile/0/002"]);
        let root = prefix_root(700, &good).expect("proven");
        for which in 1..good.len() {
            for at in [0, 6_000, 8_191] {
                let mut bad = good.clone();
                let mut bytes = bad[which].1.to_vec();
                bytes[at] ^= 1;
                bad[which].1 = bytes.into();
                assert_eq!(prefix_root(700, &bad), None, "{} at {at}", names[which]);
            }
        }
        // The edge tile is proven by the caller; here it only has to make a difference.
        let mut bad = good.clone();
        bad[0].1 = vec![7; HASH_BYTES].into();
        assert_ne!(prefix_root(700, &bad), Some(root));
    }

    #[test]
    fn there_is_no_spine_of_nothing_or_of_the_future() {
        assert!(spine(0, 10).is_empty());
        assert!(spine(11, 10).is_empty());
        assert_eq!(spine(10, 10).len(), 1);
    }

    #[test]
    fn prefixes_of_the_largest_trees_are_proven() {
        for (old, new) in [
            (1, 1 << 63),
            ((1 << 63) - 1, 1 << 63),
            (1 << 63, 1 << 63),
            (1 << 62, (1 << 63) - 1),
            ((1 << 56) - 1, 1 << 56),
            (1 << 56, (1 << 56) + 1),
            (65_535, 65_536),
            (65_536, 65_537),
            (0x1234_5678_9abc_def0, 0x7edc_ba98_7654_3210),
        ] {
            let tree = SparseTree {
                size: new,
                special: old - 1,
            };
            let spine = tree.contents(spine(old, new));
            assert!(spine.len() <= 8);
            assert_eq!(
                prefix_root(old, &spine),
                Some(tree.prefix(old)),
                "{old} of {new}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn prefixes_agree_with_the_definition(new in 1_usize..2_000, part in 0.0..1.0_f64) {
            let leaves = decimal_leaves(new);
            let old = 1 + (part * (new - 1) as f64) as usize;
            let root = prefix_root(old as u64, &spine_of(&leaves, old as u64));
            prop_assert_eq!(root, Some(tree_hash(&leaves[..old])));
        }
    }
}

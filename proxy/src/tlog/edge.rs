//! The edge tiles of a tree: the partial tiles on its right edge, at most one a level.
//!
//! Together they determine the root, so they prove themselves: if they fold to the root that a log
//! signed, every hash in them is in its tree. If they do not, at least one is wrong, and nothing
//! says which: the whole set is suspect.

use super::{
    Hash, empty_root, node_hash, perfect_root,
    tile::{FULL_WIDTH, MAX_LEVEL, Tile, width_in},
};

/// The edge tiles of a tree of `size` entries, from level 0 upwards; at most 8.
pub fn edge_tiles(size: u64) -> Vec<Tile> {
    (0..=MAX_LEVEL)
        .filter_map(|level| {
            let index = (size >> (8 * u32::from(level))) / u64::from(FULL_WIDTH);
            // A width of 0 is no tile: the tree ends between two tiles of this level.
            Tile::new(level, index, width_in(level, index, size))
        })
        .collect()
}

/// The root that edge tiles determine, given from level 0 upwards, each with its content.
///
/// Costs fewer than 256 node hashes a tile. `None` if a content has the wrong length.
pub fn fold<'a>(edge: impl IntoIterator<Item = (Tile, &'a [u8])>) -> Option<Hash> {
    let mut root: Option<Hash> = None;
    for (tile, bytes) in edge {
        if bytes.len() != tile.bytes() {
            return None;
        }
        let hashes: Vec<Hash> = Hash::chunks(bytes).collect();
        // The tile's maximal perfect subtrees stand from large to small, one for each bit of its
        // width; the smallest is rightmost and joins what is to the right of it first.
        let mut end = hashes.len();
        while end > 0 {
            let start = end - (1 << end.trailing_zeros());
            let subtree = perfect_root(hashes[start..end].iter().copied())?;
            root = Some(root.map_or(subtree, |right| node_hash(subtree, right)));
            end = start;
        }
    }
    Some(root.unwrap_or_else(empty_root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::testing::{SparseTree, content, decimal_leaves, tree_hash};
    use proptest::prelude::*;

    fn fold_of(leaves: &[Hash]) -> Option<Hash> {
        let tiles = edge_tiles(leaves.len() as u64);
        let contents: Vec<Vec<u8>> = tiles.iter().map(|tile| content(leaves, *tile)).collect();
        fold(tiles.into_iter().zip(contents.iter().map(Vec::as_slice)))
    }

    #[test]
    fn edge_tiles_agree_with_published_vectors() {
        for (size, want) in [
            (0, vec![]),
            (255, vec!["tile/0/000.p/255"]),
            (256, vec!["tile/1/000.p/1"]),
            (257, vec!["tile/0/001.p/1", "tile/1/000.p/1"]),
            (65_536, vec!["tile/2/000.p/1"]),
            (1 << 32, vec!["tile/4/000.p/1"]),
            (
                70_000,
                vec!["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"],
            ),
            (
                5_035_493,
                vec![
                    "tile/0/x019/669.p/229",
                    "tile/1/076.p/213",
                    "tile/2/000.p/76",
                ],
            ),
            (
                71_909_756,
                vec![
                    "tile/0/x280/897.p/124",
                    "tile/1/x001/097.p/65",
                    "tile/2/004.p/73",
                    "tile/3/000.p/4",
                ],
            ),
            (
                1_000_000_000,
                vec![
                    "tile/1/x015/258.p/202",
                    "tile/2/059.p/154",
                    "tile/3/000.p/59",
                ],
            ),
            (1 << 63, vec!["tile/7/000.p/128"]),
        ] {
            let tiles: Vec<String> = edge_tiles(size).iter().map(ToString::to_string).collect();
            assert_eq!(tiles, want, "size {size}");
        }
    }

    #[test]
    fn folding_gives_the_published_roots() {
        for (size, want) in [
            (
                256,
                "828515d033c19d8c901f37eccb8aed919667703486f8d2fff1cf7040321c5db1",
            ),
            (
                257,
                "1eda049a4351d86f76252bd7ec0b7746ad75b7fa0316ad5f541dbda458a312c4",
            ),
            (
                70_000,
                "1a4cdfcb66374a0c0dcbef49acbd4976d13ee864fb3cb241fc943cad04f02f7e",
            ),
        ] {
            let root = fold_of(&decimal_leaves(size)).expect("right lengths");
            assert_eq!(hex::encode(root.0), want, "size {size}");
        }
        assert_eq!(fold([]), Some(empty_root()));
    }

    #[test]
    fn a_flipped_bit_in_any_edge_tile_changes_the_root() {
        let leaves = decimal_leaves(70_000);
        let tiles = edge_tiles(70_000);
        let good: Vec<Vec<u8>> = tiles.iter().map(|tile| content(&leaves, *tile)).collect();
        let root = fold(tiles.iter().copied().zip(good.iter().map(Vec::as_slice)));
        for which in 0..tiles.len() {
            for at in [0, good[which].len() - 1] {
                let mut bad = good.clone();
                bad[which][at] ^= 1;
                assert_ne!(
                    fold(tiles.iter().copied().zip(bad.iter().map(Vec::as_slice))),
                    root
                );
            }
        }
    }

    #[test]
    fn edges_around_powers_of_the_tile_width_fold_to_the_root() {
        for level in 1..=7 {
            for size in [
                (1 << (8 * level)) - 1,
                1 << (8 * level),
                (1 << (8 * level)) + 1,
            ] {
                assert_folds(size);
            }
        }
        for size in [(1 << 63) - 1, 1 << 63, 0x7f80_0000_0000_00ff] {
            assert_folds(size);
        }
    }

    fn assert_folds(size: u64) {
        let tree = SparseTree {
            size,
            special: size - 1,
        };
        let edge = tree.contents(edge_tiles(size));
        let root = fold(edge.iter().map(|(tile, bytes)| (*tile, &bytes[..])));
        assert_eq!(root, Some(tree.root()), "size {size}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn folding_agrees_with_the_definition(size in 0_usize..3_000) {
            let leaves = decimal_leaves(size);
            prop_assert_eq!(fold_of(&leaves), Some(tree_hash(&leaves)));
        }
    }
}

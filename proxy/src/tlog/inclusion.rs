//! Inclusion proofs: the hashes that lead from one entry to the root, made from tiles and checked.
//!
//! The proof of RFC 6962, section 2.1.1: at each node on the way from the root to the entry, the
//! subtree on the other side. Most are perfect and stand in tiles; those on the right edge are folded
//! from perfect ones, as the root itself is.

use bytes::Bytes;

use super::{
    Hash, node_hash, perfect_root,
    tile::{FULL_WIDTH, Tile, width_in},
};

/// Hashes of a tile's height: a tile is a perfect tree of 2^8 hashes.
const TILE_HEIGHT: u32 = 8;

/// The tiles of a tree of `size` entries that hold what proves its entry at `index`, each as wide as
/// it is in that tree and once, in the order in which the proof needs them. At most 15: one a level on
/// the way, and the edge. Empty unless `index` < `size`.
pub fn proof_tiles(index: u64, size: u64) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let nodes = siblings(index, size)
        .into_iter()
        .flat_map(|(start, end)| perfect_subtrees(start, end));
    for tile in nodes.filter_map(|node| node.tile_in(size)) {
        if !tiles.contains(&tile) {
            tiles.push(tile);
        }
    }
    tiles
}

/// The proof that the entry at `index` is in the tree of `size` entries, from the hash beside it
/// upwards, out of [`proof_tiles`] with their contents.
///
/// Tiles that are not proven give a proof that proves nothing: check it with [`proven_root`]. `None`
/// unless `index` < `size`, if a tile is missing, or if one has another length.
pub fn prove(index: u64, size: u64, tiles: &[(Tile, Bytes)]) -> Option<Vec<Hash>> {
    if index >= size {
        return None;
    }
    siblings(index, size)
        .into_iter()
        .map(|(start, end)| {
            // The rightmost joins what is to the left of it first, as in a tree of its own.
            let mut hashes = perfect_subtrees(start, end)
                .into_iter()
                .rev()
                .map(|node| node.hash_in(size, tiles));
            let rightmost = hashes.next()??;
            hashes.try_fold(rightmost, |right, left| Some(node_hash(left?, right)))
        })
        .collect()
}

/// The root that a proof leads to, for the entry with hash `leaf` at `index` in a tree of `size`
/// entries. The entry is in that tree if this is its root.
///
/// Costs a node hash for each hash of the proof; `None` if their number is not that of such a proof
/// (RFC 9162, section 2.1.3.2).
pub fn proven_root(leaf: Hash, index: u64, size: u64, proof: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut at, mut last) = (index, size - 1);
    let mut root = leaf;
    for sibling in proof {
        if last == 0 {
            return None;
        }
        if at % 2 == 1 || at == last {
            root = node_hash(*sibling, root);
            // On the right edge, levels without anything to the right are passed over.
            while at.is_multiple_of(2) && at != 0 {
                at /= 2;
                last /= 2;
            }
        } else {
            root = node_hash(root, *sibling);
        }
        at /= 2;
        last /= 2;
    }
    (last == 0).then_some(root)
}

/// The ranges of entries beside the way from the root to `index`, from the entry upwards; at most 64.
fn siblings(index: u64, size: u64) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let (mut start, mut end) = (0, size);
    while index < size && end - start > 1 {
        // The largest power of two below the number of entries.
        let split = start + (1 << (end - start - 1).ilog2());
        if index < split {
            ranges.push((split, end));
            end = split;
        } else {
            ranges.push((start, split));
            start = split;
        }
    }
    ranges.reverse();
    ranges
}

/// The perfect subtrees that make up a range, from left to right. Ranges of a tree begin where a
/// subtree at least as large as they could begin.
fn perfect_subtrees(start: u64, end: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut at = start;
    while at < end {
        let height = (end - at).ilog2().min(at.trailing_zeros());
        let index = at >> height;
        nodes.push(Node { height, index });
        at += 1 << height;
    }
    nodes
}

/// A perfect subtree: entries `[index << height, (index + 1) << height)`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Node {
    height: u32, // 0 ≤ height ≤ 63
    index: u64,
}

impl Node {
    /// The level it is in, the position there of its first hash, and how many hashes there are: a
    /// power of two up to 128. They never straddle two tiles.
    fn hashes(self) -> (u8, u64, usize) {
        let within = self.height % TILE_HEIGHT;
        // Height is below 64.
        let level = (self.height / TILE_HEIGHT) as u8;
        (level, self.index << within, 1 << within)
    }

    /// The tile that holds it, as wide as in a tree of `size` entries.
    fn tile_in(self, size: u64) -> Option<Tile> {
        let (level, first, _) = self.hashes();
        let index = first / u64::from(FULL_WIDTH);
        Tile::new(level, index, width_in(level, index, size))
    }

    fn hash_in(self, size: u64, tiles: &[(Tile, Bytes)]) -> Option<Hash> {
        let tile = self.tile_in(size)?;
        let (_, bytes) = tiles.iter().find(|(held, _)| *held == tile)?;
        let (_, first, count) = self.hashes();
        // Below 256, so it fits.
        let slot = (first % u64::from(FULL_WIDTH)) as usize;
        let whole = bytes.len() == tile.bytes() && slot + count <= usize::from(tile.width());
        whole.then(|| perfect_root(Hash::chunks(bytes).skip(slot).take(count)))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::testing::{SparseTree, content, decimal_leaves, tree_hash};

    #[test]
    fn every_entry_of_small_trees_is_proven() {
        let leaves = decimal_leaves(300);
        for size in [1, 2, 3, 7, 8, 255, 256, 257, 300] {
            let root = tree_hash(&leaves[..size as usize]);
            for index in 0..size {
                let tiles: Vec<(Tile, Bytes)> = proof_tiles(index, size)
                    .into_iter()
                    .map(|tile| (tile, content(&leaves, tile).into()))
                    .collect();
                let proof = prove(index, size, &tiles).expect("all tiles");
                let leaf = leaves[index as usize];
                assert_eq!(
                    proven_root(leaf, index, size, &proof),
                    Some(root),
                    "{index} of {size}"
                );
            }
        }
    }

    #[test]
    fn the_tiles_of_a_proof_are_those_on_the_way_and_the_edge() {
        for (index, size, want) in [
            (0, 1, ""), // the entry is the tree
            (0, 2, "tile/0/000.p/2"),
            (
                69_999,
                70_000,
                "tile/0/273.p/112 tile/1/001.p/17 tile/2/000.p/1",
            ),
            (
                700,
                70_000,
                "tile/0/002 tile/1/000 tile/1/001.p/17 tile/0/273.p/112",
            ),
            (70_000, 70_000, ""),
        ] {
            let tiles: Vec<String> = proof_tiles(index, size)
                .iter()
                .map(Tile::to_string)
                .collect();
            assert_eq!(tiles.join(" "), want, "{index} of {size}");
        }
    }

    #[test]
    fn the_largest_trees_overflow_nothing() {
        for size in [
            (1 << 63) - 1,
            1 << 63,
            (1 << 56) - 1,
            1 << 56,
            (1 << 56) + 1,
            0x5555_5555_5555_5555,
        ] {
            for index in [0, 1, 255, 256, size / 3, size / 2, size - 2, size - 1] {
                let tree = SparseTree {
                    size,
                    special: index,
                };
                let tiles = proof_tiles(index, size);
                assert!(tiles.len() <= 15, "{index} of {size}: {}", tiles.len());
                let proof = prove(index, size, &tree.contents(tiles)).expect("all tiles");
                let (leaf, other) = (tree.leaf(index), tree.leaf(index ^ 1));
                assert_eq!(proven_root(leaf, index, size, &proof), Some(tree.root()));
                assert_ne!(proven_root(other, index, size, &proof), Some(tree.root()));
            }
        }
    }

    #[test]
    fn a_proof_of_another_length_or_place_proves_nothing() {
        let leaves = decimal_leaves(300);
        let (index, size) = (200, 300);
        let tiles: Vec<(Tile, Bytes)> = proof_tiles(index, size)
            .into_iter()
            .map(|tile| (tile, content(&leaves, tile).into()))
            .collect();
        let proof = prove(index, size, &tiles).expect("all tiles");
        let (leaf, root) = (leaves[200], Some(tree_hash(&leaves)));
        assert_eq!(proven_root(leaf, index, size, &proof), root);
        assert_ne!(proven_root(leaf, index + 1, size, &proof), root);
        assert_ne!(proven_root(leaves[201], index, size, &proof), root);
        for at in 0..proof.len() {
            let mut bad = proof.clone();
            bad[at].0[31] ^= 1;
            assert_ne!(proven_root(leaf, index, size, &bad), root, "hash {at}");
        }
        let longer = [&proof[..], &[leaf]].concat();
        assert_eq!(proven_root(leaf, index, size, &longer), None);
        assert_eq!(
            proven_root(leaf, index, size, &proof[..proof.len() - 1]),
            None
        );
        assert_eq!(proven_root(leaf, size, size, &proof), None);
        assert_eq!(proven_root(leaf, 0, 0, &[]), None);

        assert_eq!(prove(index, size, &tiles[1..]), None, "a tile is missing");
        let mut cut = tiles.clone();
        cut[0].1 = cut[0].1.slice(32..);
        assert_eq!(prove(index, size, &cut), None, "a tile is cut");
        assert_eq!(prove(size, size, &tiles), None);
    }
}

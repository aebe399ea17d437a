//! Hashes of a tile-based transparency log, and what is computed from them. No I/O below here.
//!
//! The tree is RFC 6962's: leaf and node hashes are SHA-256 with different first bytes, and a tree
//! of `n` entries splits at the largest power of two below `n`. Tiles are C2SP tlog-tiles:
//! <https://c2sp.org/tlog-tiles>.

pub mod bundle;
pub mod consistency;
pub mod edge;
pub mod inclusion;
pub mod path;
pub mod proof;
pub mod tile;

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};

/// Bytes of one hash.
pub const HASH_BYTES: usize = 32;

/// The SHA-256 hash of a leaf, of an inner node, or of a whole tree.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Hash(pub [u8; HASH_BYTES]);

impl Hash {
    /// The SHA-256 of `bytes`, without any prefix; for contents, not for nodes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Reads the standard base64 of 32 bytes, as checkpoints spell a root.
    pub fn from_base64(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }

    /// The hashes that `bytes` holds one after the other; a remainder is left out.
    pub fn chunks(bytes: &[u8]) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator + '_ {
        bytes
            .as_chunks::<HASH_BYTES>()
            .0
            .iter()
            .map(|chunk| Self(*chunk))
    }
}

/// Standard base64, the way checkpoints and their readers write a hash.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hash of an entry: `SHA-256(0x00 || entry)` (RFC 6962, section 2.1).
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Hash(
        Sha256::new()
            .chain_update([0])
            .chain_update(entry)
            .finalize()
            .into(),
    )
}

/// The hash of an inner node: `SHA-256(0x01 || left || right)` (RFC 6962, section 2.1).
pub fn node_hash(left: Hash, right: Hash) -> Hash {
    Hash(
        Sha256::new()
            .chain_update([1])
            .chain_update(left.0)
            .chain_update(right.0)
            .finalize()
            .into(),
    )
}

/// The root of the tree without entries: `SHA-256("")`.
pub fn empty_root() -> Hash {
    Hash::of(b"")
}

/// The root of the perfect tree over `hashes`, whose number must be a power of two.
///
/// Costs one node hash less than there are hashes. `None` if the number is not a power of two.
pub fn perfect_root(hashes: impl ExactSizeIterator<Item = Hash>) -> Option<Hash> {
    if !hashes.len().is_power_of_two() {
        return None;
    }
    let mut row: Vec<Hash> = hashes.collect();
    while row.len() > 1 {
        row = row
            .as_chunks::<2>()
            .0
            .iter()
            .map(|[left, right]| node_hash(*left, *right))
            .collect();
    }
    row.first().copied()
}

#[cfg(test)]
pub(crate) mod testing {
    //! Trees computed from their definition, to hold the tiles against.

    use std::sync::LazyLock;

    use super::{tile::Tile, *};

    /// RFC 6962, section 2.1, word for word.
    pub(crate) fn tree_hash(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node_hash(tree_hash(&leaves[..split]), tree_hash(&leaves[split..]))
            }
        }
    }

    /// The content of `tile`, computed from the leaves by definition.
    pub(crate) fn content(leaves: &[Hash], tile: Tile) -> Vec<u8> {
        let span = 256_usize.pow(u32::from(tile.level()));
        let first = usize::try_from(tile.index()).expect("small") * 256 * span;
        (0..usize::from(tile.width()))
            .flat_map(|slot| {
                let start = first + slot * span;
                tree_hash(&leaves[start..start + span]).0
            })
            .collect()
    }

    /// A tree of any size in which all entries are the same but one: each hash follows from its place
    /// alone, so that trees of 2^63 entries have tiles, too.
    pub(crate) struct SparseTree {
        pub(crate) size: u64,
        pub(crate) special: u64, // index of the entry that is another
    }

    impl SparseTree {
        pub(crate) fn leaf(&self, index: u64) -> Hash {
            leaf_hash(if index == self.special {
                b"one"
            } else {
                b"other"
            })
        }

        pub(crate) fn root(&self) -> Hash {
            self.range(0, self.size)
        }

        /// The root of the first `size` entries.
        pub(crate) fn prefix(&self, size: u64) -> Hash {
            self.range(0, size)
        }

        pub(crate) fn contents(&self, tiles: Vec<Tile>) -> Vec<(Tile, bytes::Bytes)> {
            let content = |tile: Tile| {
                let first = tile.index() * 256;
                (first..first + u64::from(tile.width()))
                    .flat_map(|at| self.perfect(8 * u32::from(tile.level()), at).0)
                    .collect()
            };
            tiles
                .into_iter()
                .map(|tile| (tile, content(tile)))
                .collect()
        }

        /// RFC 6962, section 2.1, over entries `[start, end)`.
        fn range(&self, start: u64, end: u64) -> Hash {
            let count = end - start;
            match count {
                0 => empty_root(),
                _ if count.is_power_of_two() => self.perfect(count.ilog2(), start / count),
                _ => {
                    let split = start + (1 << count.ilog2());
                    node_hash(self.range(start, split), self.range(split, end))
                }
            }
        }

        /// The root of entries `[index << height, (index + 1) << height)`.
        fn perfect(&self, height: u32, index: u64) -> Hash {
            if self.special >> height != index {
                return UNIFORM[height as usize];
            }
            (0..height).fold(leaf_hash(b"one"), |hash, below| {
                let beside = UNIFORM[below as usize];
                match self.special >> below & 1 {
                    0 => node_hash(hash, beside),
                    _ => node_hash(beside, hash),
                }
            })
        }
    }

    /// Roots of perfect trees of 2^0, 2^1, … entries that are all the same.
    static UNIFORM: LazyLock<Vec<Hash>> = LazyLock::new(|| {
        std::iter::successors(Some(leaf_hash(b"other")), |h| Some(node_hash(*h, *h)))
            .take(64)
            .collect()
    });

    /// The leaf hashes of entries "0", "1", "2", … as ASCII decimals.
    pub(crate) fn decimal_leaves(size: usize) -> Vec<Hash> {
        (0..size)
            .map(|i| leaf_hash(i.to_string().as_bytes()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::*, *};

    #[test]
    fn roots_agree_with_published_vectors() {
        assert_eq!(
            empty_root().to_string(),
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        );
        let leaves: Vec<Hash> = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ]
        .iter()
        .map(|entry| leaf_hash(&hex::decode(entry).expect("hex")))
        .collect();
        let want = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328";
        assert_eq!(hex::encode(tree_hash(&leaves).0), want);
        assert_eq!(
            perfect_root(leaves.into_iter())
                .map(|h| hex::encode(h.0))
                .as_deref(),
            Some(want)
        );
    }

    #[test]
    fn only_a_power_of_two_is_perfect() {
        for (count, perfect) in [
            (0, false),
            (1, true),
            (2, true),
            (3, false),
            (255, false),
            (256, true),
        ] {
            let leaves = decimal_leaves(count);
            assert_eq!(
                perfect_root(leaves.into_iter()).is_some(),
                perfect,
                "{count} hashes"
            );
        }
    }
}

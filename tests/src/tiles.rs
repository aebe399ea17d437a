//! What the tests know about tiles themselves: paths, and proofs computed from them. Written from
//! the specifications and sharing nothing with the proxy, so that they do not share its mistakes.

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

/// Entries in a full bundle, and hashes in a full tile.
pub const WIDTH: u64 = 256;

/// A SHA-256 hash of a tree.
pub type Hash = [u8; 32];

/// A tile's index as a path: groups of three digits, all but the last marked with an `x`. See
/// <https://c2sp.org/tlog-tiles>.
pub fn index_path(index: u64) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    path
}

/// The path of the tile that a tree of `size` entries has at this place, as wide as it has it.
pub fn tile_path(level: u32, index: u64, size: u64) -> String {
    path(&format!("tile/{level}"), index, size >> (8 * level))
}

/// The path of the entry bundle that a log of `size` entries has there, as wide as it has it.
pub fn bundle_path(index: u64, size: u64) -> String {
    path("tile/entries", index, size)
}

fn path(below: &str, index: u64, hashes: u64) -> String {
    let path = format!("{below}/{}", index_path(index));
    match hashes.saturating_sub(index * WIDTH) {
        WIDTH.. => path,
        width => format!("{path}.p/{width}"),
    }
}

/// The paths of all full tiles of a tree of `size` entries, and of the full bundles below them.
pub fn full_paths(size: u64) -> Vec<String> {
    let tiles = (0..u64::BITS / 8).flat_map(|level| {
        let full = (size >> (8 * level)) / WIDTH;
        (0..full).map(move |index| format!("tile/{level}/{}", index_path(index)))
    });
    let bundles = (0..size / WIDTH).map(|index| format!("tile/entries/{}", index_path(index)));
    tiles.chain(bundles).collect()
}

/// The entries of a bundle: each has two bytes of length before it.
pub fn entries(mut bundle: &[u8]) -> Result<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let (length, rest) = bundle.split_first_chunk().context("half a length")?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, rest) = rest.split_at_checked(length).context("half an entry")?;
        entries.push(entry);
        bundle = rest;
    }
    Ok(entries)
}

/// The hash of an entry (RFC 6962, section 2.1).
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::digest([&[0], entry].concat()).into()
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::digest([&[1], &left[..], right].concat()).into()
}

/// A tree of `size` entries whose tiles are read with `read`, which is given their paths.
pub struct Tree<F> {
    size: u64,
    read: F,
}

impl<F: FnMut(&str) -> Result<Vec<u8>>> Tree<F> {
    /// Reads nothing yet.
    pub fn new(size: u64, read: F) -> Self {
        Self { size, read }
    }

    /// The inclusion proof of the entry at `index` (RFC 6962, section 2.1.1).
    pub fn inclusion_proof(&mut self, index: u64) -> Result<Vec<Hash>> {
        ensure!(
            index < self.size,
            "{index} is not in a tree of {}",
            self.size
        );
        // From the root down, so the hashes come last first.
        let (mut proof, mut begin, mut end) = (Vec::new(), 0, self.size);
        while end - begin > 1 {
            let middle = begin + split(end - begin);
            if index < middle {
                proof.push(self.hash(middle, end)?);
                end = middle;
            } else {
                proof.push(self.hash(begin, middle)?);
                begin = middle;
            }
        }
        proof.reverse();
        Ok(proof)
    }

    /// The hash over the entries from `begin` to before `end`.
    fn hash(&mut self, begin: u64, end: u64) -> Result<Hash> {
        let entries = end - begin;
        // A whole slot of a tile: 1, 256, 65,536 … entries, in their place.
        let level = entries.ilog2() / 8;
        if entries == 1 << (8 * level) && begin.is_multiple_of(entries) {
            let slot = begin / entries;
            let path = tile_path(level, slot / WIDTH, self.size);
            let tile = (self.read)(&path)?;
            let hash = tile.chunks_exact(32).nth((slot % WIDTH) as usize);
            let hash = hash.with_context(|| format!("{path} has {} bytes", tile.len()))?;
            return Ok(hash.try_into()?);
        }
        let middle = begin + split(entries);
        Ok(node_hash(
            &self.hash(begin, middle)?,
            &self.hash(middle, end)?,
        ))
    }
}

/// The largest power of two below `entries`, which is at least 2.
fn split(entries: u64) -> u64 {
    1 << (entries - 1).ilog2()
}

/// Fails unless `proof` shows that `leaf` is at `index` of the tree of `size` entries with `root`
/// (RFC 9162, section 2.1.3.2).
pub fn verify_inclusion(
    leaf: Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<()> {
    ensure!(index < size, "{index} is not in a tree of {size}");
    let (mut place, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        ensure!(last > 0, "the proof is too long");
        if place % 2 == 1 || place == last {
            hash = node_hash(sibling, &hash);
            while place.is_multiple_of(2) && place != 0 {
                (place, last) = (place / 2, last / 2);
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        (place, last) = (place / 2, last / 2);
    }
    if last != 0 || hash != *root {
        bail!("entry {index} is not in the tree of {size}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(index_path(1_234_067), "x001/x234/067");
        // Its example: a tree of 70,000.
        assert_eq!(tile_path(0, 272, 70_000), "tile/0/272");
        assert_eq!(tile_path(0, 273, 70_000), "tile/0/273.p/112");
        assert_eq!(tile_path(1, 1, 70_000), "tile/1/001.p/17");
        assert_eq!(tile_path(2, 0, 70_000), "tile/2/000.p/1");
        assert_eq!(bundle_path(273, 70_000), "tile/entries/273.p/112");
        assert_eq!(full_paths(70_000).len(), 273 + 1 + 273);
    }

    #[test]
    fn a_proof_holds_for_its_entry_and_no_other() {
        // Leaves "0", "1", "2" …; the root is that of an independent implementation.
        let leaves: Vec<Hash> = (0..257)
            .map(|i: u64| leaf_hash(i.to_string().as_bytes()))
            .collect();
        let root = "1eda049a4351d86f76252bd7ec0b7746ad75b7fa0316ad5f541dbda458a312c4";
        let root: Hash = hex::decode(root).unwrap().try_into().unwrap();
        let full = |hashes: &[Hash]| hashes.concat();
        let read = |path: &str| {
            Ok(match path {
                "tile/0/000" => full(&leaves[..256]),
                "tile/0/001.p/1" => full(&leaves[256..]),
                "tile/1/000.p/1" => {
                    let mut level = leaves[..256].to_vec();
                    while level.len() > 1 {
                        let pairs = level.as_chunks::<2>().0.iter();
                        level = pairs.map(|[left, right]| node_hash(left, right)).collect();
                    }
                    full(&level)
                }
                _ => bail!("{path} is not in this tree"),
            })
        };
        let mut tree = Tree::new(257, read);
        for index in [0, 1, 128, 255, 256] {
            let proof = tree.inclusion_proof(index).unwrap();
            let leaf = leaves[index as usize];
            verify_inclusion(leaf, index, 257, &proof, &root).unwrap();
            verify_inclusion(leaf, index ^ 1, 257, &proof, &root).unwrap_err();
            verify_inclusion(leaf_hash(b"x"), index, 257, &proof, &root).unwrap_err();
        }
    }

    #[test]
    fn a_bundle_is_read_to_its_end() {
        assert_eq!(entries(b"\0\x02ab\0\0").unwrap(), [&b"ab"[..], b""]);
        entries(b"\0\x02a").unwrap_err();
        entries(b"\0").unwrap_err();
    }
}

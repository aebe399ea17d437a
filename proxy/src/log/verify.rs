//! Bytes in, proven bytes out: the only constructors of [`VerifiedTile`], [`VerifiedEdge`] and
//! [`VerifiedBundle`].
//!
//! A function that takes one of these cannot be handed bytes straight from a network or a disk. No
//! I/O: the caller brings the proven hashes that the bytes must agree with.

use bytes::Bytes;

use crate::{
    cache::Body,
    note::checkpoint::Checkpoint,
    tlog::{
        HASH_BYTES, Hash, bundle, edge,
        path::Bundle,
        perfect_root,
        tile::{FULL_TILE_BYTES, FULL_WIDTH, Tile},
    },
};

/// Why bytes are not what the trusted tree has at that place.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NotProven {
    /// Another number of bytes than the resource has.
    #[error("{got} bytes where {want} are right")]
    Length {
        /// What the coordinates ask for.
        want: usize,
        /// What came.
        got: usize,
    },
    /// Another root than the tree states.
    #[error("its root is {got}, but the tree has {want}")]
    Root {
        /// From the tree.
        want: Hash,
        /// From the bytes.
        got: Hash,
    },
    /// An entry whose hash is not in the tree.
    #[error("entry {position} of the bundle is not in the tree")]
    Entry {
        /// Position within the bundle, from 0.
        position: usize,
    },
    /// Not a sequence of entries.
    #[error("not a sequence of length-prefixed entries")]
    Framing,
    /// Fewer entries than the tree has there.
    #[error("{got} entries where the tree has {want}")]
    Width {
        /// What the tree has.
        want: u16,
        /// What came.
        got: usize,
    },
}

/// A full tile proven to be part of the tree of a trusted checkpoint.
#[derive(Clone, Debug)]
pub struct VerifiedTile {
    tile: Tile,
    bytes: Bytes,
    digest: Hash, // SHA-256 of the bytes, for its record and its entity tag
}

impl VerifiedTile {
    /// Proves a full tile by the hash that its proven parent has for it.
    ///
    /// Costs 255 node hashes, and the SHA-256 of its bytes.
    ///
    /// # Errors
    /// [`NotProven`], when these are not the tile's bytes.
    pub fn prove(level: u8, index: u64, bytes: Bytes, parent: Hash) -> Result<Self, NotProven> {
        let length = NotProven::Length {
            want: FULL_TILE_BYTES,
            got: bytes.len(),
        };
        if bytes.len() != FULL_TILE_BYTES {
            return Err(length);
        }
        let tile = Tile::new(level, index, FULL_WIDTH).ok_or(length)?;
        let got = perfect_root(Hash::chunks(&bytes)).ok_or(length)?;
        if got != parent {
            return Err(NotProven::Root { want: parent, got });
        }
        let digest = Hash::of(&bytes);
        Ok(Self {
            tile,
            bytes,
            digest,
        })
    }

    /// A full tile that was proven since the group it is stored in was opened, read from there
    /// again with the digest it had then.
    pub(super) fn proven_before(level: u8, index: u64, bytes: Bytes, digest: Hash) -> Option<Self> {
        let tile = Tile::new(level, index, FULL_WIDTH)?;
        (bytes.len() == FULL_TILE_BYTES).then_some(Self {
            tile,
            bytes,
            digest,
        })
    }

    /// Its coordinates; always a full tile.
    pub fn tile(&self) -> Tile {
        self.tile
    }

    /// Its 8,192 bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The SHA-256 of its bytes.
    pub fn digest(&self) -> Hash {
        self.digest
    }
}

/// The edge tiles of a checkpoint, proven by folding to its root.
#[derive(Clone, Debug)]
pub struct VerifiedEdge {
    tiles: Vec<(Tile, Bytes)>, // from level 0 upwards, exactly `edge_tiles(size)`
    bodies: Vec<Body>,         // of these tiles, in this order
}

impl VerifiedEdge {
    /// Proves the edge tiles of `checkpoint`, from level 0 upwards.
    ///
    /// Costs fewer than 256 node hashes and one SHA-256 of up to 8 KiB a tile.
    ///
    /// # Errors
    /// [`NotProven`], when one of them is wrong; which one cannot be said.
    pub fn prove(checkpoint: &Checkpoint, contents: Vec<Bytes>) -> Result<Self, NotProven> {
        let tiles = edge::edge_tiles(checkpoint.size);
        let want: usize = tiles.iter().map(|tile| tile.bytes()).sum();
        let got = contents.iter().map(Bytes::len).sum();
        let wrong = NotProven::Length { want, got };
        if tiles.len() != contents.len() {
            return Err(wrong);
        }
        let tiles: Vec<(Tile, Bytes)> = tiles.into_iter().zip(contents).collect();
        let root =
            edge::fold(tiles.iter().map(|(tile, bytes)| (*tile, bytes.as_ref()))).ok_or(wrong)?;
        if root != checkpoint.root {
            return Err(NotProven::Root {
                want: checkpoint.root,
                got: root,
            });
        }
        let bodies = tiles.iter().map(|(_, bytes)| Body::new(bytes.clone()));
        Ok(Self {
            bodies: bodies.collect(),
            tiles,
        })
    }

    /// The tiles, from level 0 upwards.
    pub fn tiles(&self) -> &[(Tile, Bytes)] {
        &self.tiles
    }

    /// An edge tile as it is served; `None` if it is none, or one of another width.
    pub fn body(&self, wanted: Tile) -> Option<&Body> {
        let at = self.tiles.iter().position(|(tile, _)| *tile == wanted)?;
        self.bodies.get(at)
    }

    /// The content of the edge tile at these coordinates, if it is one.
    pub fn at(&self, level: u8, index: u64) -> Option<&Bytes> {
        let at = self
            .tiles
            .iter()
            .find(|(tile, _)| (tile.level(), tile.index()) == (level, index));
        at.map(|(_, bytes)| bytes)
    }
}

/// An entry bundle whose every entry is in the tree of a trusted checkpoint.
#[derive(Clone, Debug)]
pub struct VerifiedBundle {
    bundle: Bundle,
    bytes: Bytes,
}

impl VerifiedBundle {
    /// Proves a bundle by the level-0 tile above it, which has at least as many hashes.
    ///
    /// `bytes` may hold more entries than the bundle is wide, as when a log has filled it since;
    /// they are cut off. Costs one leaf hash an entry.
    ///
    /// # Errors
    /// [`NotProven`], when an entry is not in the tree, or entries are missing.
    pub fn prove(bundle: Bundle, bytes: &Bytes, leaf_tile: &[u8]) -> Result<Self, NotProven> {
        let want = bundle.width();
        let Some(end) = bundle::prefix_bytes(bytes, want) else {
            return Err(match bundle::entries(bytes) {
                Some(entries) => NotProven::Width {
                    want,
                    got: entries.len(),
                },
                None => NotProven::Framing,
            });
        };
        let bytes = bytes.slice(..end);
        let hashes = bundle::leaf_hashes(&bytes).ok_or(NotProven::Framing)?;
        let stated = Hash::chunks(leaf_tile);
        if stated.len() < hashes.len() {
            return Err(NotProven::Length {
                want: hashes.len() * HASH_BYTES,
                got: leaf_tile.len(),
            });
        }
        match hashes
            .iter()
            .zip(stated)
            .position(|(got, want)| *got != want)
        {
            Some(position) => Err(NotProven::Entry { position }),
            None => Ok(Self { bundle, bytes }),
        }
    }

    /// Its coordinates.
    pub fn bundle(&self) -> Bundle {
        self.bundle
    }

    /// Its bytes, exactly as many entries as it is wide.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::{
        leaf_hash,
        testing::{content, decimal_leaves, tree_hash},
    };

    fn bundle_of(range: std::ops::Range<usize>) -> Bytes {
        range
            .flat_map(|i| {
                let entry = i.to_string();
                [&(entry.len() as u16).to_be_bytes()[..], entry.as_bytes()].concat()
            })
            .collect()
    }

    #[test]
    fn a_tile_is_proven_by_its_parent_and_by_nothing_else() {
        let leaves = decimal_leaves(512);
        let tile = Tile::new(0, 1, 256).expect("in range");
        let bytes = Bytes::from(content(&leaves, tile));
        let parent = tree_hash(&leaves[256..]);
        assert!(VerifiedTile::prove(0, 1, bytes.clone(), parent).is_ok());
        let neighbour = tree_hash(&leaves[..256]);
        assert!(matches!(
            VerifiedTile::prove(0, 1, bytes.clone(), neighbour),
            Err(NotProven::Root { .. })
        ));
        for bad in [
            bytes.slice(..8_160),
            Bytes::from([&bytes[..], &[0; 32]].concat()),
            Bytes::new(),
        ] {
            assert!(matches!(
                VerifiedTile::prove(0, 1, bad, parent),
                Err(NotProven::Length { want: 8_192, .. })
            ));
        }
    }

    #[test]
    fn an_edge_is_proven_whole_or_not_at_all() {
        let leaves = decimal_leaves(257);
        let checkpoint = Checkpoint {
            origin: "rome".to_owned(),
            size: 257,
            root: tree_hash(&leaves),
        };
        let good: Vec<Bytes> = edge::edge_tiles(257)
            .into_iter()
            .map(|tile| Bytes::from(content(&leaves, tile)))
            .collect();
        let edge = VerifiedEdge::prove(&checkpoint, good.clone()).expect("proven");
        assert_eq!(edge.at(0, 1).map(Bytes::len), Some(32));
        assert!(edge.at(0, 0).is_none());
        assert!(VerifiedEdge::prove(&checkpoint, good[..1].to_vec()).is_err());
        let swapped = vec![good[1].clone(), good[0].clone()];
        assert!(matches!(
            VerifiedEdge::prove(&checkpoint, swapped),
            Err(NotProven::Root { .. })
        ));
    }

    #[test]
    fn a_bundle_is_proven_entry_by_entry() {
        let leaf_tile: Vec<u8> = (0..10)
            .flat_map(|i: u32| leaf_hash(i.to_string().as_bytes()).0)
            .collect();
        let bundle = |width| Bundle::new(0, width).expect("in range");
        let prove = |width, bytes: Bytes| VerifiedBundle::prove(bundle(width), &bytes, &leaf_tile);

        let whole = prove(10, bundle_of(0..10)).expect("proven");
        assert_eq!(whole.bytes(), &bundle_of(0..10));
        // The log has filled it since: what is above our tree is cut off.
        assert_eq!(
            prove(10, bundle_of(0..12)).map(|b| b.bytes().clone()),
            Ok(bundle_of(0..10))
        );

        assert_eq!(
            prove(10, bundle_of(0..9)).err(),
            Some(NotProven::Width { want: 10, got: 9 })
        );
        assert_eq!(
            prove(10, bundle_of(1..11)).err(),
            Some(NotProven::Entry { position: 0 })
        );
        assert_eq!(
            prove(10, bundle_of(0..10).slice(1..)).err(),
            Some(NotProven::Framing)
        );
        assert!(matches!(
            prove(11, bundle_of(0..11)).err(),
            Some(NotProven::Length { .. })
        ));
    }

    impl PartialEq for VerifiedBundle {
        fn eq(&self, other: &Self) -> bool {
            (self.bundle, &self.bytes) == (other.bundle, &other.bytes)
        }
    }
}

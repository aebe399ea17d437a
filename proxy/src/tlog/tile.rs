//! Tile coordinates, and how wide a tile is in a tree of a given size.

use super::HASH_BYTES;

/// Hashes in a full tile, fixed at 2^8 by tlog-tiles.
pub const FULL_WIDTH: u16 = 256;

/// Bytes of a full tile.
pub const FULL_TILE_BYTES: usize = FULL_WIDTH as usize * HASH_BYTES;

/// Highest level a tile can have: level 8 would need 2^64 entries.
pub const MAX_LEVEL: u8 = 7;

/// The coordinates of one tile: `tile/<L>/<N>[.p/<W>]`.
///
/// Slot `i` of the tile at level `l` and index `n` holds the Merkle tree hash of entries
/// `[(256n + i) * 256^l, (256n + i + 1) * 256^l)`. See <https://c2sp.org/tlog-tiles>.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tile {
    level: u8,  // 0 ≤ level ≤ 7
    index: u64, // position within the level
    width: u16, // hashes present, 1 ≤ width ≤ 256; 256 is a full tile
}

impl Tile {
    /// The tile at these coordinates; `None` outside the ranges above.
    pub fn new(level: u8, index: u64, width: u16) -> Option<Self> {
        (level <= MAX_LEVEL && (1..=FULL_WIDTH).contains(&width)).then_some(Self {
            level,
            index,
            width,
        })
    }

    /// Height above the entries' hashes, in tiles: 0 ≤ level ≤ 7.
    pub fn level(self) -> u8 {
        self.level
    }

    /// Position within the level.
    pub fn index(self) -> u64 {
        self.index
    }

    /// Number of hashes: 1 ≤ width ≤ 256.
    pub fn width(self) -> u16 {
        self.width
    }

    /// Length of the tile's content.
    pub fn bytes(self) -> usize {
        usize::from(self.width) * HASH_BYTES
    }

    /// Whether all 256 hashes are there.
    pub fn is_full(self) -> bool {
        self.width == FULL_WIDTH
    }

    /// The tile at the same place with another width; `None` if that is not 1 ≤ width ≤ 256.
    pub fn with_width(self, width: u16) -> Option<Self> {
        Self::new(self.level, self.index, width)
    }

    /// Where this tile's own root stands, once it is full: the level and index of its parent, and
    /// the slot there. `None` at the highest level.
    pub fn parent_slot(self) -> Option<(u8, u64, u8)> {
        let slot = (self.index & 0xff) as u8; // the low 8 bits
        (self.level < MAX_LEVEL).then_some((self.level + 1, self.index >> 8, slot))
    }
}

/// How many hashes the tile at `level` and `index` has in a tree of `size` entries: 0 if it does
/// not exist there, 256 if it is full.
pub fn width_in(level: u8, index: u64, size: u64) -> u16 {
    if level > MAX_LEVEL {
        return 0;
    }
    // Complete subtrees of 256^level entries; each is one hash at this level.
    let hashes = size >> (8 * u32::from(level));
    let Some(before) = index.checked_mul(u64::from(FULL_WIDTH)) else {
        return 0;
    };
    // The minimum is at most 256, so it fits.
    hashes.saturating_sub(before).min(u64::from(FULL_WIDTH)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_is_as_wide_as_the_tree_reaches() {
        for (level, index, size, want) in [
            (0, 0, 0, 0),
            (0, 0, 1, 1),
            (0, 0, 255, 255),
            (0, 0, 256, 256),
            (0, 1, 256, 0),
            (0, 1, 257, 1),
            (1, 0, 255, 0), // only full tiles are hashed upwards
            (1, 0, 256, 1),
            (1, 0, 65_535, 255),
            (0, 273, 70_000, 112), // the example in tlog-tiles
            (1, 1, 70_000, 17),
            (2, 0, 70_000, 1),
            (3, 0, 70_000, 0),
            (7, 0, 1 << 63, 128),
            (8, 0, u64::MAX, 0),
            (0, u64::MAX, u64::MAX, 0), // 256 × index does not fit
        ] {
            assert_eq!(
                width_in(level, index, size),
                want,
                "tile {level}/{index} at size {size}"
            );
        }
    }

    #[test]
    fn coordinates_outside_their_range_do_not_exist() {
        assert!(Tile::new(7, u64::MAX, 256).is_some());
        assert!(Tile::new(8, 0, 1).is_none());
        assert!(Tile::new(0, 0, 0).is_none());
        assert!(Tile::new(0, 0, 257).is_none());
    }
}

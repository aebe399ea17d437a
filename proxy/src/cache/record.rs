//! The record of a stored tile: 64 bytes that say what the slot beside them must hold.

use crate::tlog::Hash;

/// Bytes of one record.
pub(super) const RECORD_BYTES: usize = 64;

/// What is known about a stored tile besides its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record {
    /// Number of the upstream it came from, in `upstreams.json`.
    pub upstream: u32,
    /// When it was stored, in milliseconds since 1970.
    pub cached_at: u64,
    /// Size of the tree it was proven against.
    pub tree_size: u64,
    /// SHA-256 of its bytes.
    pub digest: Hash,
}

/// First byte of a record whose slot holds a tile.
const STATE_STORED: u8 = 1;

/// Bytes of a record that its checksum covers.
const CHECKED_BYTES: usize = 56;

impl Record {
    /// state u8, reserved\[3\], upstream u32, cachedAt u64, treeSize u64, sha256\[32\], crc32 u32,
    /// reserved\[4\]; little-endian.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = STATE_STORED;
        bytes[4..8].copy_from_slice(&self.upstream.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.cached_at.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.tree_size.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.digest.0);
        let checksum = crc32fast::hash(&bytes[..CHECKED_BYTES]);
        bytes[56..60].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` for a slot without a tile, and for a record that was torn or rotted.
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let record = Self {
            upstream: u32::from_le_bytes(*bytes[4..].first_chunk()?),
            cached_at: u64::from_le_bytes(*bytes[8..].first_chunk()?),
            tree_size: u64::from_le_bytes(*bytes[16..].first_chunk()?),
            digest: Hash(*bytes[24..].first_chunk()?),
        };
        // One spelling: what decodes, encodes to the same bytes; this checks the checksum as well.
        (record.encode() == *bytes).then_some(record)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::tlog::tile::FULL_TILE_BYTES;

    /// The record of a tile whose bytes are all 7.
    pub(in crate::cache) fn record() -> Record {
        Record {
            upstream: 3,
            cached_at: 1_795_437_213_000,
            tree_size: 70_000,
            digest: Hash::of(&[7; FULL_TILE_BYTES]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::record, *};

    #[test]
    fn a_record_with_any_bit_flipped_is_none() {
        let good = record().encode();
        assert_eq!(Record::decode(&good), Some(record()));
        assert_eq!(Record::decode(&[0; RECORD_BYTES]), None);
        for bit in 0..RECORD_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&bad), None, "bit {bit}");
        }
    }
}

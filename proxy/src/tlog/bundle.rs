//! Entry bundles: up to 256 entries, each behind its length as a big-endian `u16`.
//! See <https://c2sp.org/tlog-tiles>.

use super::{Hash, leaf_hash};

/// Largest entry bundle a log can serve: 256 entries, each a two-byte length and at most
/// 65,535 bytes, so 256 × (2 + 65,535) = 16,777,472 bytes. Applies after decompression.
pub const MAX_BUNDLE_BYTES: usize = 256 * (2 + 65_535);

/// Bytes of the length before each entry.
const LENGTH_BYTES: usize = 2;

/// The entries of a bundle, in order; `None` if it does not end where an entry ends.
pub fn entries(bundle: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    let mut rest = bundle;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<LENGTH_BYTES>()?;
        let (entry, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        rest = after;
    }
    Some(entries)
}

/// The leaf hashes of a bundle's entries; `None` if it is not well-formed.
pub fn leaf_hashes(bundle: &[u8]) -> Option<Vec<Hash>> {
    Some(entries(bundle)?.into_iter().map(leaf_hash).collect())
}

/// How many bytes the first `width` entries of a bundle take; `None` if it has fewer.
pub fn prefix_bytes(bundle: &[u8], width: u16) -> Option<usize> {
    let mut end = 0;
    for _ in 0..width {
        let length = bundle.get(end..)?.first_chunk::<LENGTH_BYTES>()?;
        end += LENGTH_BYTES + usize::from(u16::from_be_bytes(*length));
    }
    (end <= bundle.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUNDLE: &[u8] = b"\x00\x03one\x00\x00\x00\x05three";

    #[test]
    fn a_bundle_splits_into_its_entries() {
        assert_eq!(entries(BUNDLE), Some(vec![&b"one"[..], b"", b"three"]));
        assert_eq!(entries(b""), Some(vec![]));
    }

    #[test]
    fn a_bundle_cut_anywhere_but_between_entries_is_refused() {
        for end in 0..BUNDLE.len() {
            let whole = [0, 5, 7].contains(&end);
            assert_eq!(entries(&BUNDLE[..end]).is_some(), whole, "cut at {end}");
        }
    }

    #[test]
    fn a_narrower_bundle_is_a_prefix() {
        for (width, want) in [
            (0, Some(0)),
            (1, Some(5)),
            (2, Some(7)),
            (3, Some(14)),
            (4, None),
        ] {
            assert_eq!(prefix_bytes(BUNDLE, width), want, "width {width}");
        }
        assert_eq!(prefix_bytes(&BUNDLE[..13], 3), None); // the last entry is cut
    }

    #[test]
    fn the_longest_entry_fits() {
        let mut bundle = vec![0xff, 0xff];
        bundle.resize(2 + 65_535, 7);
        assert_eq!(entries(&bundle).map(|e| e[0].len()), Some(65_535));
        assert_eq!(bundle.len() * 256, MAX_BUNDLE_BYTES);
    }
}

//! The only place that parses or formats the path of a tile or an entry bundle.
//!
//! Each resource has exactly one spelling: what parses, formats to the same text. Clients of the
//! HTTP interface may also write a plain decimal index; [`parse_lenient`] is for them alone.

use std::fmt;

use super::tile::{FULL_WIDTH, MAX_LEVEL, Tile};

/// Highest level that is well-formed; levels above [`MAX_LEVEL`] exist in no tree.
const MAX_LEVEL_SYNTAX: u8 = 63;

/// A resource below a log's `tile/`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Resource {
    /// Entries `[256 × index, 256 × index + width)`.
    Bundle(Bundle),
    /// Hashes.
    Tile(Tile),
}

/// The coordinates of an entry bundle: `tile/entries/<N>[.p/<W>]`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Bundle {
    index: u64,
    width: u16, // entries present, 1 ≤ width ≤ 256
}

impl Bundle {
    /// The bundle at `index` with `width` entries; `None` unless 1 ≤ width ≤ 256.
    pub fn new(index: u64, width: u16) -> Option<Self> {
        (1..=FULL_WIDTH)
            .contains(&width)
            .then_some(Self { index, width })
    }

    /// Position: the bundle starts with entry 256 × index.
    pub fn index(self) -> u64 {
        self.index
    }

    /// Number of entries: 1 ≤ width ≤ 256.
    pub fn width(self) -> u16 {
        self.width
    }

    /// Whether all 256 entries are there.
    pub fn is_full(self) -> bool {
        self.width == FULL_WIDTH
    }

    /// The bundle at the same place with another width; `None` if that is not 1 ≤ width ≤ 256.
    pub fn with_width(self, width: u16) -> Option<Self> {
        Self::new(self.index, width)
    }

    /// The level-0 tile that holds the hashes of these entries, as wide as the bundle.
    pub fn leaf_tile(self) -> Tile {
        // A bundle's width is in the range of a tile's, and level 0 exists.
        Tile::new(0, self.index, self.width).unwrap_or_else(|| unreachable!("width is in range"))
    }
}

/// Why a path names no tile and no bundle.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Not of the form `tile/<L>/<N>[.p/<W>]`.
    #[error("not of the form tile/<level>/<index>[.p/<width>] or tile/entries/<index>[.p/<width>]")]
    Malformed,
    /// Well-formed, but no tree of 2^64 entries has such a level or index. Answer: does not exist.
    #[error("no log is large enough to have this tile")]
    OutOfReach,
}

/// Parses the one spelling of a path, such as `tile/0/x001/x234/067.p/8`.
///
/// # Errors
/// See [`PathError`].
pub fn parse(path: &str) -> Result<Resource, PathError> {
    parse_with(path, parse_index)
}

/// As [`parse`], and also takes the index as a plain decimal, such as `tile/0/1234067`.
///
/// # Errors
/// See [`PathError`].
pub fn parse_lenient(path: &str) -> Result<Resource, PathError> {
    parse_with(path, |index| match parse_index(index) {
        Err(PathError::Malformed) => parse_decimal(index).ok_or(PathError::Malformed),
        parsed => parsed,
    })
}

fn parse_with(
    path: &str,
    index: impl Fn(&str) -> Result<u64, PathError>,
) -> Result<Resource, PathError> {
    let rest = path.strip_prefix("tile/").ok_or(PathError::Malformed)?;
    let (level, rest) = rest.split_once('/').ok_or(PathError::Malformed)?;
    let (rest, width) = match rest.split_once(".p/") {
        Some((rest, width)) => {
            let width = parse_decimal(width).filter(|w| (1..u64::from(FULL_WIDTH)).contains(w));
            // Below 256, so it fits.
            (rest, width.ok_or(PathError::Malformed)? as u16)
        }
        None => (rest, FULL_WIDTH),
    };
    if level == "entries" {
        let index = index(rest)?;
        return Bundle::new(index, width)
            .map(Resource::Bundle)
            .ok_or(PathError::Malformed);
    }
    let level = parse_decimal(level)
        .and_then(|level| u8::try_from(level).ok())
        .filter(|level| *level <= MAX_LEVEL_SYNTAX)
        .ok_or(PathError::Malformed)?;
    let index = index(rest)?;
    if level > MAX_LEVEL {
        return Err(PathError::OutOfReach);
    }
    Tile::new(level, index, width)
        .map(Resource::Tile)
        .ok_or(PathError::Malformed)
}

/// Three-digit groups, all but the last with an `x` before them, no leading group of zeros.
fn parse_index(text: &str) -> Result<u64, PathError> {
    let mut index = Some(0_u64);
    let mut groups = text.split('/').peekable();
    let mut first = true;
    while let Some(group) = groups.next() {
        let digits = match groups.peek() {
            Some(_) => group.strip_prefix('x').ok_or(PathError::Malformed)?,
            None => group,
        };
        if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(PathError::Malformed);
        }
        if first && digits == "000" && groups.peek().is_some() {
            return Err(PathError::Malformed);
        }
        first = false;
        let value = digits
            .bytes()
            .fold(0, |value, b| value * 10 + u64::from(b - b'0'));
        index = index.and_then(|index| index.checked_mul(1_000)?.checked_add(value));
    }
    index.ok_or(PathError::OutOfReach)
}

/// A decimal without sign, leading zeros or anything else.
fn parse_decimal(text: &str) -> Option<u64> {
    let canonical =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

/// An index as three-digit groups, with the width of a partial resource.
struct IndexAndWidth(u64, u16);

impl fmt::Display for IndexAndWidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(index, width) = *self;
        // 2^64 has seven groups.
        let mut divisor = 1_000_u64.pow(6);
        while divisor > 1 {
            if index >= divisor {
                write!(f, "x{:03}/", index / divisor % 1_000)?;
            }
            divisor /= 1_000;
        }
        write!(f, "{:03}", index % 1_000)?;
        if width < FULL_WIDTH {
            write!(f, ".p/{width}")?;
        }
        Ok(())
    }
}

/// The path from the log's base, such as `tile/0/x001/x234/067.p/8`.
impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tile/{}/{}",
            self.level(),
            IndexAndWidth(self.index(), self.width())
        )
    }
}

/// The path from the log's base, such as `tile/entries/x001/x234/067.p/8`.
impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile/entries/{}", IndexAndWidth(self.index, self.width))
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(bundle) => bundle.fmt(f),
            Self::Tile(tile) => tile.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tile(level: u8, index: u64, width: u16) -> Resource {
        Resource::Tile(Tile::new(level, index, width).expect("in range"))
    }

    fn bundle(index: u64, width: u16) -> Resource {
        Resource::Bundle(Bundle::new(index, width).expect("in range"))
    }

    #[test]
    fn a_path_has_one_spelling() {
        for (path, want) in [
            ("tile/0/000", Ok(tile(0, 0, 256))),
            ("tile/0/x001/x234/067", Ok(tile(0, 1_234_067, 256))), // the example in tlog-tiles
            ("tile/0/x001/x234/067.p/8", Ok(tile(0, 1_234_067, 8))),
            ("tile/2/000.p/1", Ok(tile(2, 0, 1))),
            ("tile/7/000.p/255", Ok(tile(7, 0, 255))),
            ("tile/entries/x019/669.p/229", Ok(bundle(19_669, 229))),
            ("tile/entries/x001/000", Ok(bundle(1_000, 256))),
            (
                "tile/0/x018/x446/x744/x073/x709/x551/615",
                Ok(tile(0, u64::MAX, 256)),
            ),
            (
                "tile/0/x018/x446/x744/x073/x709/x551/616",
                Err(PathError::OutOfReach),
            ),
            ("tile/8/000", Err(PathError::OutOfReach)),
            ("tile/63/000", Err(PathError::OutOfReach)),
            ("tile/64/000", Err(PathError::Malformed)),
            ("tile/256/000", Err(PathError::Malformed)),
            ("tile/0/000.p/0", Err(PathError::Malformed)),
            ("tile/0/000.p/256", Err(PathError::Malformed)), // a full tile has no suffix
            ("tile/0/000.p/01", Err(PathError::Malformed)),
            ("tile/0/000.p/", Err(PathError::Malformed)),
            ("tile/0/000.p/1/", Err(PathError::Malformed)),
            ("tile/00/000", Err(PathError::Malformed)),
            ("tile/+0/000", Err(PathError::Malformed)),
            ("tile/0/67", Err(PathError::Malformed)), // always three digits
            ("tile/0/0005", Err(PathError::Malformed)),
            ("tile/0/x000/067", Err(PathError::Malformed)), // no leading zero group
            ("tile/0/001/002", Err(PathError::Malformed)),
            ("tile/0/x001", Err(PathError::Malformed)),
            ("tile/0/x001/", Err(PathError::Malformed)),
            ("tile/0/000/", Err(PathError::Malformed)),
            ("tile/0//000", Err(PathError::Malformed)),
            ("tile/0/../000", Err(PathError::Malformed)),
            ("tile/0/%30%30%30", Err(PathError::Malformed)),
            ("tile/0/٠٠٠", Err(PathError::Malformed)), // digits, but not ASCII
            ("tile/data/000", Err(PathError::Malformed)),
            ("tile/0", Err(PathError::Malformed)),
            ("tile/", Err(PathError::Malformed)),
            ("/tile/0/000", Err(PathError::Malformed)),
            ("", Err(PathError::Malformed)),
        ] {
            assert_eq!(parse(path), want, "path {path:?}");
            if let Ok(resource) = want {
                assert_eq!(resource.to_string(), path);
            }
        }
    }

    #[test]
    fn a_plain_decimal_index_is_an_alias_for_http_clients_only() {
        for (path, want) in [
            ("tile/0/1234067", Ok(tile(0, 1_234_067, 256))),
            ("tile/0/67", Ok(tile(0, 67, 256))),
            ("tile/0/0", Ok(tile(0, 0, 256))),
            ("tile/entries/273.p/112", Ok(bundle(273, 112))),
            ("tile/0/067", Ok(tile(0, 67, 256))), // the canonical spelling comes first
            ("tile/0/0067", Err(PathError::Malformed)),
            ("tile/0/18446744073709551616", Err(PathError::Malformed)),
        ] {
            assert_eq!(parse_lenient(path), want, "path {path:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_formatted_parses_to_the_same(level in 0..=7_u8, index: u64, width in 1..=256_u16) {
            let resource = tile(level, index, width);
            prop_assert_eq!(parse(&resource.to_string()), Ok(resource));
            let resource = bundle(index, width);
            prop_assert_eq!(parse(&resource.to_string()), Ok(resource));
        }

        #[test]
        fn what_parses_formats_to_the_same(path in "tile/(entries|[0-9]{1,2})/(x?[0-9]{2,3}/){0,3}[0-9]{3}(\\.p/[0-9]{1,3})?") {
            if let Ok(resource) = parse(&path) {
                prop_assert_eq!(resource.to_string(), path);
            }
        }
    }
}

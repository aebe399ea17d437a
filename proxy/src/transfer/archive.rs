//! `bundle`: one archive, tar in zstd, with a static mirror for each log. Unpacked by anyone's `tar`,
//! it can be served as it is.
//!
//! ```text
//! {hex SHA-256 of the origin}/checkpoint            heads first, so that one pass can prove the rest
//! {hex SHA-256 of the origin}/tile/0/273.p/112      the edge tiles of each log's checkpoint
//! {hex SHA-256 of the origin}/tile/1/000            then tiles, parents before children
//! {hex SHA-256 of the origin}/tile/entries/000      then entry bundles
//! SHA256SUMS                                        for people, and `sha256sum -c`
//! manifest.json                                     what it is; its end says that nothing is missing
//! ```
//!
//! The same cache gives the same bytes: one order, one owner, one time, one thread. Reading believes
//! nothing: names mean coordinates or nothing at all, so that no name can leave a directory; lengths
//! are those that the coordinates have; the order allows no repeats; and what comes out of the
//! decompression is bounded by what goes in.

mod sink;

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
    rc::Rc,
};

pub(super) use self::sink::ArchiveSink;
use super::{MAX_NOTE_BYTES, Member, Next, SourceError};
use crate::tlog::{
    bundle::MAX_BUNDLE_BYTES,
    path::{Resource, parse},
    tile::{FULL_TILE_BYTES, MAX_LEVEL},
};

/// First bytes of a zstd frame.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Log2 of the largest window that is decompressed with: 8 MiB, what `zstd -19` uses.
const MAX_WINDOW_LOG: u32 = 23;

/// How many bytes may come out of decompression for each that went in. Entries of real logs shrink
/// to a third, the most repetitive ones of tests to a hundredth.
const MAX_RATIO: u64 = 1_000;

/// Bytes that may come out in any case: a test log of a few repetitive entries.
const FREE_BYTES: u64 = 256 << 20;

/// Largest list of sums for each member before it: 64 digits, two spaces, a name, a newline.
const SUM_LINE_BYTES: u64 = 256;

/// Visits the members of an archive, each with the name of its log's directory. Returns without an
/// error only if the archive is whole or the visitor stopped.
pub(super) fn visit(
    path: &Path,
    visit: &mut dyn FnMut(&str, Member) -> Next,
) -> Result<(), SourceError> {
    let mut magic = [0; 4];
    let is_ours = File::open(path)?.read_exact(&mut magic).is_ok() && magic == MAGIC;
    if !is_ours {
        let why = "it is no archive that `export` writes: its first bytes are not those of zstd";
        return Err(SourceError::Hostile(why.to_owned()));
    }
    let budget = Rc::new(Budget {
        left: Cell::new(FREE_BYTES),
        exceeded: Cell::new(false),
    });
    let file = Grants {
        inner: BufReader::new(File::open(path)?),
        budget: Rc::clone(&budget),
    };
    let mut decoder = zstd::Decoder::new(file)?;
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    let mut archive = tar::Archive::new(Spends {
        inner: decoder,
        budget: Rc::clone(&budget),
    });
    let broken = |error: io::Error| {
        if budget.exceeded.get() {
            SourceError::Hostile(format!(
                "it expands to more than {MAX_RATIO} times its size; no export does"
            ))
        } else {
            SourceError::CutOff(error.to_string())
        }
    };
    let mut last = None;
    let (mut members, mut whole) = (0_u64, false);
    // Raw: no extension gives a member another name or another length than its own header.
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let hostile = |why: &str| SourceError::Hostile(format!("`{}` {why}", name.escape_debug()));
        if whole {
            return Err(hostile("comes after the manifest"));
        }
        let size = entry.size();
        let place = Place::of(&name);
        let limit = match &place {
            Some(place) => place.limit() as u64,
            None if name == "SHA256SUMS" => (members + 1) * SUM_LINE_BYTES,
            None => MAX_NOTE_BYTES as u64,
        };
        if size > limit {
            return Err(hostile(&format!(
                "has {size} bytes; at most {limit} are right"
            )));
        }
        members += 1;
        let kind = entry.header().entry_type();
        let (log, member) = match place {
            _ if kind.is_dir() => continue,
            _ if !kind.is_file() => (String::new(), Member::Refused(name, "no regular file")),
            Some(place) => {
                if last.as_ref().is_some_and(|last| *last >= place) {
                    return Err(hostile("comes twice, or not in its order"));
                }
                let mut bytes = Vec::with_capacity(size as usize); // at most the limit
                entry.read_to_end(&mut bytes).map_err(broken)?;
                let member = place
                    .member(bytes.into())
                    .unwrap_or(Member::Refused(name, "of the wrong length"));
                let log = place.log.clone();
                last = Some(place);
                (log, member)
            }
            None if name == "SHA256SUMS" => continue,
            None if name == "manifest.json" => {
                whole = true;
                continue;
            }
            None => (
                String::new(),
                Member::Refused(name, "not a name that an export has"),
            ),
        };
        if visit(&log, member) == Next::Stop {
            return Ok(());
        }
    }
    // To its very end, where the checksum is.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
    if !whole {
        return Err(SourceError::CutOff(
            "it does not end with manifest.json".to_owned(),
        ));
    }
    Ok(())
}

/// Where a member stands: in the order in which they are written.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Place {
    phase: u8,
    log: String,
    /// 0 at the top of the tree.
    depth: u8,
    index: u64,
    width: u16,
    what: What,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum What {
    Checkpoint,
    Resource(Resource),
}

/// The rest of a place determines what stands there.
impl Ord for What {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl PartialOrd for What {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Place {
    /// Where the member of this name stands; `None` if no export has such a name.
    fn of(name: &str) -> Option<Self> {
        let (log, path) = name.split_once('/')?;
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if log.len() != 64 || !log.bytes().all(lower_hex) {
            return None;
        }
        let what = match path {
            "checkpoint" => What::Checkpoint,
            path => What::Resource(parse(path).ok()?),
        };
        let (phase, depth, index, width) = match what {
            What::Checkpoint => (0, 0, 0, 0),
            // Edge tiles are written from level 0 upwards.
            What::Resource(Resource::Tile(tile)) if !tile.is_full() => {
                (0, 1 + tile.level(), tile.index(), tile.width())
            }
            What::Resource(Resource::Tile(tile)) => {
                (1, MAX_LEVEL - tile.level(), tile.index(), tile.width())
            }
            What::Resource(Resource::Bundle(bundle)) => (2, 0, bundle.index(), bundle.width()),
        };
        Some(Self {
            phase,
            log: log.to_owned(),
            depth,
            index,
            width,
            what,
        })
    }

    /// Most bytes that can be right.
    fn limit(&self) -> usize {
        match self.what {
            What::Checkpoint => MAX_NOTE_BYTES,
            What::Resource(Resource::Bundle(_)) => MAX_BUNDLE_BYTES,
            What::Resource(Resource::Tile(_)) => FULL_TILE_BYTES,
        }
    }

    fn member(&self, bytes: bytes::Bytes) -> Option<Member> {
        match self.what {
            What::Checkpoint => Some(Member::Checkpoint(bytes)),
            What::Resource(Resource::Bundle(bundle)) => Some(Member::Bundle(bundle, bytes)),
            What::Resource(Resource::Tile(tile)) => {
                (bytes.len() == tile.bytes()).then_some(Member::Tile(tile, bytes))
            }
        }
    }
}

/// How many bytes may still come out of the decompression.
struct Budget {
    left: Cell<u64>,
    exceeded: Cell<bool>,
}

/// Grants [`MAX_RATIO`] bytes of output for each byte read.
struct Grants<R> {
    inner: R,
    budget: Rc<Budget>,
}

impl<R: Read> Read for Grants<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let grant = (count as u64).saturating_mul(MAX_RATIO);
        let left = &self.budget.left;
        left.set(left.get().saturating_add(grant));
        Ok(count)
    }
}

/// Spends what was granted.
struct Spends<R> {
    inner: R,
    budget: Rc<Budget>,
}

impl<R: Read> Read for Spends<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(left) = self.budget.left.get().checked_sub(count as u64) {
            self.budget.left.set(left);
            return Ok(count);
        }
        // Whoever reads through others finds their words around an error, and this as it is.
        self.budget.exceeded.set(true);
        Err(io::Error::other("expands without end"))
    }
}

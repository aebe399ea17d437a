//! `tlog-tiles`: a static mirror of one log, for any file server. See <https://c2sp.org/tlog-tiles>.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::{
    MAX_NOTE_BYTES, Member, Next, SourceError,
    directory::{names, prepare, read, write, write_last},
    export::{Head, Sink},
};
use crate::{
    cache::slots::Record,
    log::verify::{VerifiedBundle, VerifiedTile},
    note::{self, checkpoint::Checkpoint},
    tlog::{
        bundle::MAX_BUNDLE_BYTES,
        edge::edge_tiles,
        path::Bundle,
        tile::{FULL_WIDTH, MAX_LEVEL, Tile},
    },
};

/// A mirror that is being written, or an earlier one that is being refreshed: what it holds stays.
pub(super) struct MirrorSink {
    directory: PathBuf,
}

impl MirrorSink {
    /// Refuses to go back: a client of the mirror must never see a smaller tree.
    pub(super) fn create(directory: &Path, head: &Head<'_>) -> io::Result<Self> {
        prepare(directory, &["checkpoint", "tile"])?;
        let refuse = |why: String| Err(io::Error::new(ErrorKind::AlreadyExists, why));
        match read(&directory.join("checkpoint"), MAX_NOTE_BYTES) {
            Ok(note) => {
                let offered = &head.tree.checkpoint;
                match unverified(&note) {
                    Some(there) if there.origin != offered.origin => {
                        return refuse(format!("it is a mirror of `{}`", there.origin));
                    }
                    Some(there) if there.size > offered.size => {
                        return refuse(format!(
                            "its checkpoint is of {} entries, and the cache's of {}",
                            there.size, offered.size
                        ));
                    }
                    _ => {}
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    fn put(&self, path: impl std::fmt::Display, bytes: &[u8]) -> io::Result<()> {
        write(&self.directory.join(path.to_string()), bytes)
    }
}

impl Sink for MirrorSink {
    fn head(&mut self, head: &Head<'_>) -> io::Result<()> {
        let mut edge = head.tree.edge.tiles().iter();
        edge.try_for_each(|(tile, bytes)| self.put(tile, bytes))
    }

    fn tile(&mut self, _: &Head<'_>, tile: &VerifiedTile, _: &Record) -> io::Result<()> {
        self.put(tile.tile(), tile.bytes())
    }

    fn bundle(&mut self, _: &Head<'_>, bundle: &VerifiedBundle) -> io::Result<()> {
        self.put(bundle.bundle(), bundle.bytes())
    }

    /// The checkpoint last: until it is there, the mirror is none, or still the earlier one.
    fn finish(self: Box<Self>, heads: &[Head<'_>]) -> io::Result<()> {
        let path = self.directory.join("checkpoint");
        heads
            .iter()
            .try_for_each(|head| write_last(&self.directory, &path, &head.tree.note))
    }
}

/// What a note says that nobody has verified yet; enough to know what to look for.
pub(super) fn unverified(note: &[u8]) -> Option<Checkpoint> {
    Checkpoint::parse(note::text_unverified(note).ok()?).ok()
}

/// Visits what a mirror holds of its checkpoint's tree: the note, its edge tiles, the full tiles from
/// the highest level down, and with `bundles` the bundles.
pub(super) fn visit(
    directory: &Path,
    bundles: bool,
    visit: &mut dyn FnMut(Member) -> Next,
) -> Result<(), SourceError> {
    let note = read(&directory.join("checkpoint"), MAX_NOTE_BYTES)?;
    let size = unverified(&note).map_or(0, |checkpoint| checkpoint.size);
    if visit(Member::Checkpoint(note)) == Next::Stop {
        return Ok(());
    }
    let mut give = |path: String, limit: usize, member: &dyn Fn(bytes::Bytes) -> Option<Member>| {
        visit(match read(&directory.join(&path), limit) {
            Ok(bytes) => member(bytes).unwrap_or(Member::Refused(path, "of the wrong length")),
            Err(_) => Member::Refused(path, "cannot be read, or is no regular file"),
        })
    };
    let exactly = |tile: Tile| {
        move |bytes: bytes::Bytes| {
            (bytes.len() == tile.bytes()).then_some(Member::Tile(tile, bytes))
        }
    };
    for tile in edge_tiles(size) {
        if give(tile.to_string(), tile.bytes(), &exactly(tile)) == Next::Stop {
            return Ok(());
        }
    }
    for level in (0..=MAX_LEVEL).rev() {
        let mut full = Vec::new();
        let top = directory.join("tile").join(level.to_string());
        walk(&top, 0, &mut |index, width| {
            full.extend((width == FULL_WIDTH).then_some(index));
        })?;
        full.sort_unstable();
        for tile in full
            .into_iter()
            .filter_map(|i| Tile::new(level, i, FULL_WIDTH))
        {
            if give(tile.to_string(), tile.bytes(), &exactly(tile)) == Next::Stop {
                return Ok(());
            }
        }
    }
    if !bundles {
        return Ok(());
    }
    let mut bundles = Vec::new();
    walk(
        &directory.join("tile").join("entries"),
        0,
        &mut |index, width| {
            bundles.extend(Bundle::new(index, width));
        },
    )?;
    bundles.sort_unstable();
    for bundle in bundles {
        let member = |bytes| Some(Member::Bundle(bundle, bytes));
        if give(bundle.to_string(), MAX_BUNDLE_BYTES, &member) == Next::Stop {
            return Ok(());
        }
    }
    Ok(())
}

/// Calls `found` with the index and the width of everything named as a tile below `directory`, whose
/// names continue `prefix`. Other names are nobody's concern: a file server may have its own.
fn walk(directory: &Path, prefix: u64, found: &mut impl FnMut(u64, u16)) -> io::Result<()> {
    for (name, is_directory) in names(directory)? {
        let (digits, inner) = match name.strip_prefix('x') {
            Some(digits) => (digits, true),
            None => (name.strip_suffix(".p").unwrap_or(&name), false),
        };
        let number = (digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()))
            .then(|| digits.parse::<u64>().ok())
            .flatten();
        let Some(index) = number.and_then(|n| prefix.checked_mul(1_000)?.checked_add(n)) else {
            continue;
        };
        match (inner, is_directory) {
            (true, true) => walk(&directory.join(&name), index, found)?,
            (false, true) => {
                for (width, _) in names(&directory.join(&name))? {
                    if let Some(width) = width.parse().ok().filter(|w| (1..FULL_WIDTH).contains(w))
                    {
                        found(index, width);
                    }
                }
            }
            (false, false) => found(index, FULL_WIDTH),
            (true, false) => {}
        }
    }
    Ok(())
}

//! `files`: each tile as `tiles/{origin hash}/{level}/{index}.tile`, and what is known about it as
//! JSON beside it; for tools that were made for such a cache.
//!
//! ```text
//! tiles/{hex SHA-256 of the origin}/
//!   {level}/{index}.tile             a full tile, or the partial one that the tree ends with
//!   {level}/{index}.meta.json        cachedAt, treeSize, isPartial, contentHash, upstreamUrl
//!   entries/{index}.bundle           entries of the tile at level 0 and this index
//!   checkpoints/{size}.checkpoint    the signed note
//! ```

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::Serialize;

use super::{
    MAX_NOTE_BYTES, Member, Next, SourceError,
    directory::{names, prepare, read, write, write_last},
    export::{Head, Sink},
};
use crate::{
    cache::slots::Record,
    log::verify::{VerifiedBundle, VerifiedTile},
    tlog::{
        Hash,
        bundle::{MAX_BUNDLE_BYTES, entries},
        edge::edge_tiles,
        path::Bundle,
        tile::{FULL_TILE_BYTES, FULL_WIDTH, MAX_LEVEL, Tile},
    },
};

/// What is known about a tile besides its bytes, for people and other tools; believed by nobody.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    cached_at: String,
    tree_size: u64,
    is_partial: bool,
    content_hash: String,
    upstream_url: Option<String>,
}

/// A directory that is being written, or an earlier export that is being refreshed.
pub(super) struct FilesSink<'a> {
    directory: PathBuf,
    upstream_url: &'a dyn Fn(u32) -> Option<String>,
}

impl<'a> FilesSink<'a> {
    pub(super) fn create(
        directory: &Path,
        upstream_url: &'a dyn Fn(u32) -> Option<String>,
    ) -> io::Result<Self> {
        prepare(directory, &["tiles"])?;
        Ok(Self {
            directory: directory.to_owned(),
            upstream_url,
        })
    }

    fn path(&self, head: &Head<'_>, below: &str) -> PathBuf {
        self.directory.join("tiles").join(&head.hash).join(below)
    }

    fn put(&self, head: &Head<'_>, tile: Tile, bytes: &[u8], meta: &Meta) -> io::Result<()> {
        let name = |suffix| format!("{}/{}.{suffix}", tile.level(), tile.index());
        let mut json = serde_json::to_vec_pretty(meta)?;
        json.push(b'\n');
        write(&self.path(head, &name("meta.json")), &json)?;
        write(&self.path(head, &name("tile")), bytes)
    }
}

impl Sink for FilesSink<'_> {
    fn head(&mut self, head: &Head<'_>) -> io::Result<()> {
        let stored_at = head.source.stored.stored_at();
        let stored_at = stored_at.and_then(|at| jiff::Timestamp::try_from(at).ok());
        for (tile, bytes) in head.tree.edge.tiles() {
            let meta = Meta {
                cached_at: stored_at.unwrap_or_default().to_string(),
                tree_size: head.tree.checkpoint.size,
                is_partial: true,
                content_hash: hex::encode(Hash::of(bytes).0),
                upstream_url: head.source.upstream_url.clone(),
            };
            self.put(head, *tile, bytes, &meta)?;
        }
        Ok(())
    }

    fn tile(&mut self, head: &Head<'_>, tile: &VerifiedTile, record: &Record) -> io::Result<()> {
        let cached_at = i64::try_from(record.cached_at)
            .ok()
            .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
            .unwrap_or_default();
        let meta = Meta {
            cached_at: cached_at.to_string(),
            tree_size: record.tree_size,
            is_partial: false,
            content_hash: hex::encode(tile.digest().0),
            upstream_url: (self.upstream_url)(record.upstream),
        };
        self.put(head, tile.tile(), tile.bytes(), &meta)
    }

    fn bundle(&mut self, head: &Head<'_>, bundle: &VerifiedBundle) -> io::Result<()> {
        let name = format!("entries/{}.bundle", bundle.bundle().index());
        write(&self.path(head, &name), bundle.bytes())
    }

    /// The checkpoints last: without one, nothing here can be proven, and nothing looks complete.
    fn finish(self: Box<Self>, heads: &[Head<'_>]) -> io::Result<()> {
        heads.iter().try_for_each(|head| {
            let name = format!("checkpoints/{}.checkpoint", head.tree.checkpoint.size);
            write_last(&self.directory, &self.path(head, &name), &head.tree.note)
        })
    }
}

/// Visits what lies below `directory`, log by log: the largest checkpoint, its edge tiles, the full
/// tiles from the highest level down, and with `bundles` the bundles.
pub(super) fn visit(
    directory: &Path,
    bundles: bool,
    visit: &mut dyn FnMut(&str, Member) -> Next,
) -> Result<(), SourceError> {
    let tiles = directory.join("tiles");
    for (hash, is_directory) in names(&tiles)? {
        if is_directory
            && visit_log(&tiles.join(&hash), bundles, &mut |member| {
                visit(&hash, member)
            })? == Next::Stop
        {
            break;
        }
    }
    Ok(())
}

fn visit_log(
    directory: &Path,
    bundles: bool,
    visit: &mut dyn FnMut(Member) -> Next,
) -> Result<Next, SourceError> {
    let checkpoints = directory.join("checkpoints");
    let Some(size) = numbers(&checkpoints, ".checkpoint")?.pop() else {
        let name = checkpoints.display().to_string();
        return Ok(visit(Member::Refused(name, "there is no checkpoint in it")));
    };
    let note = read(
        &checkpoints.join(format!("{size}.checkpoint")),
        MAX_NOTE_BYTES,
    )?;
    if visit(Member::Checkpoint(note)) == Next::Stop {
        return Ok(Next::Stop);
    }
    let mut give = |name: String, limit, member: &dyn Fn(Bytes) -> Option<Member>| {
        let path = directory.join(name);
        let shown = || path.display().to_string();
        visit(match read(&path, limit) {
            Ok(bytes) => {
                member(bytes).unwrap_or_else(|| Member::Refused(shown(), "of the wrong length"))
            }
            Err(_) => Member::Refused(shown(), "cannot be read, or is no regular file"),
        })
    };
    let tile_name = |tile: Tile| format!("{}/{}.tile", tile.level(), tile.index());
    for tile in edge_tiles(size) {
        // It may be wider by now, when an export of a larger tree was cut off: its beginning will do.
        let member = |bytes: Bytes| {
            (bytes.len() >= tile.bytes()).then(|| Member::Tile(tile, bytes.slice(..tile.bytes())))
        };
        if give(tile_name(tile), FULL_TILE_BYTES, &member) == Next::Stop {
            return Ok(Next::Stop);
        }
    }
    for level in (0..=MAX_LEVEL).rev() {
        for index in numbers(&directory.join(level.to_string()), ".tile")? {
            let Some(tile) = Tile::new(level, index, FULL_WIDTH)
                .filter(|_| crate::tlog::tile::width_in(level, index, size) == FULL_WIDTH)
            else {
                continue; // the edge, and what is above the tree
            };
            let member = |bytes: Bytes| {
                (bytes.len() == FULL_TILE_BYTES).then_some(Member::Tile(tile, bytes))
            };
            if give(tile_name(tile), FULL_TILE_BYTES, &member) == Next::Stop {
                return Ok(Next::Stop);
            }
        }
    }
    let bundles = if bundles {
        numbers(&directory.join("entries"), ".bundle")?
    } else {
        Vec::new()
    };
    for index in bundles {
        let member = |bytes: Bytes| {
            let width = u16::try_from(entries(&bytes)?.len()).ok()?;
            Some(Member::Bundle(Bundle::new(index, width)?, bytes))
        };
        let name = format!("entries/{index}.bundle");
        if give(name, MAX_BUNDLE_BYTES, &member) == Next::Stop {
            return Ok(Next::Stop);
        }
    }
    Ok(Next::Continue)
}

/// The numbers that name files with this suffix, ascending.
fn numbers(directory: &Path, suffix: &str) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> = names(directory)?
        .iter()
        .filter_map(|(name, _)| name.strip_suffix(suffix)?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

//! Writes what a cache has proven in a format that others read.
//!
//! Reads beside a serving proxy, without the lock: a checkpoint is chosen first and does not change
//! any more, and everything else is held against its tree. What the proxy stores meanwhile can only
//! add to what is found in that tree; what it replaces, it replaces with the same or a wider bundle,
//! of which the tree's part is cut. What does not prove is skipped, counted and named.

use std::{io, path::Path};

use serde::Serialize;

use super::{Format, archive::ArchiveSink, files::FilesSink, mirror::MirrorSink};
use crate::{
    cache::{
        origin_hash,
        slots::{GROUP_SLOTS, Record},
    },
    log::{
        Trusted,
        stored::{Found, Stored},
        verify::{VerifiedBundle, VerifiedTile},
    },
    tlog::{
        path::Bundle,
        tile::{FULL_WIDTH, MAX_LEVEL, Tile, width_in},
    },
};

/// Findings that are named one by one; the rest is counted.
const MAX_FINDINGS: usize = 1_000;

/// Why nothing was exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The cache cannot be read, or the export not written. Nothing that looks complete is left.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Only an archive is one stream of bytes.
    #[error("only --format bundle can be written to standard output; give a directory")]
    Stdout,
    /// A mirror is of one log.
    #[error("a mirror is of one log, and there are {0}: name one with --log")]
    Several(usize),
    /// There would be nothing to prove anything with.
    #[error(
        "`{origin}` has no trusted checkpoint in the cache: \
         none is stored, no configured key signed it, or its edge tiles are damaged"
    )]
    Untrusted {
        /// The log.
        origin: String,
    },
}

/// What was exported of one kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Carried {
    /// Proven and written.
    pub exported: u64,
    /// Not what the tree has; skipped. `tile-proxy fsck --repair` removes them.
    pub damaged: u64,
    /// Stored, and not provable with what else is stored; skipped.
    pub unprovable: u64,
    /// In the tree and not stored. `tile-proxy sync` fetches them.
    pub missing: u64,
}

/// What was exported of one log.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its name in the configuration.
    pub log: String,
    /// First line of its checkpoints.
    pub origin: String,
    /// Size of the exported tree.
    pub size: u64,
    /// Full tiles.
    pub tiles: Carried,
    /// Entry bundles.
    pub bundles: Carried,
    /// What is damaged, each with the reason; at most 1,000.
    pub findings: Vec<String>,
}

/// A log to export.
pub struct Source {
    /// Its name in the configuration.
    pub name: String,
    /// Where it was fetched from, for what has no record of its own.
    pub upstream_url: Option<String>,
    /// What is stored of it.
    pub stored: Stored,
}

/// A log on its way, with the tree that was chosen for it.
pub(super) struct Head<'a> {
    /// The name of its directory.
    pub(super) hash: String,
    pub(super) tree: &'a Trusted,
    pub(super) source: &'a Source,
}

/// Where an export goes. Called in this order: the head of every log, all tiles of every log from the
/// highest level down, all bundles of every log, the end.
pub(super) trait Sink {
    /// The tree with its edge tiles.
    fn head(&mut self, head: &Head<'_>) -> io::Result<()>;
    fn tile(&mut self, head: &Head<'_>, tile: &VerifiedTile, record: &Record) -> io::Result<()>;
    fn bundle(&mut self, head: &Head<'_>, bundle: &VerifiedBundle) -> io::Result<()>;
    /// Makes it complete, and durable.
    fn finish(self: Box<Self>, heads: &[Head<'_>]) -> io::Result<()>;
}

/// The name of standard output, as [`export`] takes it.
pub const STDOUT: &str = "-";

/// Exports logs to `out`; an archive also to [`STDOUT`]. `upstream_url` names the upstream of a record; `progress` is told how many
/// groups of the total are done.
///
/// # Errors
/// See [`ExportError`].
pub fn export(
    sources: &[Source],
    format: Format,
    out: &Path,
    upstream_url: &dyn Fn(u32) -> Option<String>,
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<Report>, ExportError> {
    let mut heads = Vec::new();
    for source in sources {
        let origin = source.stored.store().origin();
        let tree = source.stored.tree().ok_or_else(|| ExportError::Untrusted {
            origin: origin.to_owned(),
        })?;
        let hash = origin_hash(origin);
        heads.push(Head { hash, tree, source });
    }
    // One order, so that the same cache gives the same bytes.
    heads.sort_by(|a, b| a.hash.cmp(&b.hash));
    let mut sink: Box<dyn Sink + '_> = match format {
        Format::Bundle if out == Path::new(STDOUT) => Box::new(ArchiveSink::stdout()?),
        _ if out == Path::new(STDOUT) => return Err(ExportError::Stdout),
        Format::Bundle => Box::new(ArchiveSink::create(out)?),
        Format::Files => Box::new(FilesSink::create(out, upstream_url)?),
        Format::TlogTiles => match heads.as_slice() {
            [head] => Box::new(MirrorSink::create(out, head)?),
            heads => return Err(ExportError::Several(heads.len())),
        },
    };
    let reports = write_all(&heads, sink.as_mut(), progress)?;
    sink.finish(&heads)?;
    Ok(reports)
}

fn write_all(
    heads: &[Head<'_>],
    sink: &mut (dyn Sink + '_),
    progress: &dyn Fn(usize, usize),
) -> io::Result<Vec<Report>> {
    let mut plans = Vec::new();
    for head in heads {
        sink.head(head)?;
        plans.push(Plan::of(head)?);
    }
    let total: usize = plans.iter().map(Plan::groups).sum();
    let mut done = 0;
    let mut step = || {
        done += 1;
        progress(done, total);
    };
    let mut reports: Vec<Report> = heads.iter().map(Report::of).collect();
    for ((head, plan), report) in heads.iter().zip(&plans).zip(&mut reports) {
        for (level, group) in &plan.tiles {
            write_tiles(head, *level, *group, sink, report)?;
            step();
        }
    }
    for ((head, plan), report) in heads.iter().zip(&plans).zip(&mut reports) {
        for group in &plan.bundles {
            write_bundles(head, *group, sink, report)?;
            step();
        }
        report.count_missing();
    }
    Ok(reports)
}

/// The groups of one log, in the order in which they are written.
struct Plan {
    tiles: Vec<(u8, u64)>,
    bundles: Vec<u64>,
}

impl Plan {
    fn of(head: &Head<'_>) -> io::Result<Self> {
        let store = head.source.stored.store();
        let mut tiles = Vec::new();
        for level in (0..=MAX_LEVEL).rev() {
            tiles.extend(store.stored_groups(level)?.into_iter().map(|g| (level, g)));
        }
        let bundles = store.files.bundle_groups()?.into_iter().collect();
        Ok(Self { tiles, bundles })
    }

    fn groups(&self) -> usize {
        self.tiles.len() + self.bundles.len()
    }
}

fn write_tiles(
    head: &Head<'_>,
    level: u8,
    group: u64,
    sink: &mut (dyn Sink + '_),
    report: &mut Report,
) -> io::Result<()> {
    let stored = &head.source.stored;
    for slot in 0..GROUP_SLOTS {
        let Some(index) = group
            .checked_mul(GROUP_SLOTS)
            .and_then(|i| i.checked_add(slot))
        else {
            break;
        };
        match stored.recorded_tile(level, index) {
            Found::Absent => {}
            Found::Damaged(why) => {
                let tile = Tile::new(level, index, FULL_WIDTH);
                report.tiles.damaged += 1;
                report.found(tile.map(|tile| tile.to_string()), &why);
            }
            Found::Proven((tile, record)) => {
                sink.tile(head, &tile, &record)?;
                report.tiles.exported += 1;
            }
            Found::Unprovable => report.tiles.unprovable += 1,
        }
    }
    Ok(())
}

fn write_bundles(
    head: &Head<'_>,
    group: u64,
    sink: &mut (dyn Sink + '_),
    report: &mut Report,
) -> io::Result<()> {
    let stored = &head.source.stored;
    let first = group.saturating_mul(GROUP_SLOTS);
    for index in first..first.saturating_add(GROUP_SLOTS) {
        // The widest that proves: any narrower one is its beginning.
        for width in stored.store().files.bundle_widths(index)?.into_iter().rev() {
            let Some(bundle) = Bundle::new(index, width) else {
                continue;
            };
            match stored.bundle(bundle) {
                Found::Absent => {}
                Found::Damaged(why) => {
                    report.bundles.damaged += 1;
                    report.found(Some(bundle.to_string()), &why);
                }
                Found::Proven(bundle) => {
                    sink.bundle(head, &bundle)?;
                    report.bundles.exported += 1;
                    let whole = width_in(0, index, stored.size());
                    report.bundles.missing += u64::from(bundle.bundle().width() < whole);
                    break;
                }
                Found::Unprovable => report.bundles.unprovable += 1,
            }
        }
    }
    Ok(())
}

impl Report {
    fn of(head: &Head<'_>) -> Self {
        Self {
            log: head.source.name.clone(),
            origin: head.tree.checkpoint.origin.clone(),
            size: head.tree.checkpoint.size,
            tiles: Carried::default(),
            bundles: Carried::default(),
            findings: Vec::new(),
        }
    }

    /// Resources that were skipped because they are damaged.
    pub fn damaged(&self) -> u64 {
        self.tiles.damaged + self.bundles.damaged
    }

    fn count_missing(&mut self) {
        let full_tiles = |level: u8| (self.size >> (8 * u32::from(level))) / u64::from(FULL_WIDTH);
        let tiles: u64 = (0..=MAX_LEVEL).map(full_tiles).sum();
        let bundles = self.size.div_ceil(u64::from(FULL_WIDTH));
        self.tiles.missing = tiles.saturating_sub(self.tiles.exported);
        // Those that are narrower than the tree's are counted already.
        self.bundles.missing += bundles.saturating_sub(self.bundles.exported);
    }

    fn found(&mut self, what: Option<String>, why: &str) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings
                .push(format!("{}: {why}", what.unwrap_or_default()));
        }
    }
}

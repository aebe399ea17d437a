//! Takes up what somebody else exported. Nothing in it is believed.
//!
//! It is read twice. The first time up to the entry bundles: for each log the signed note, its edge
//! tiles, and those tiles that prove that the tree has grown out of ours; from them follows the
//! tree that everything is held against. The second time everything is proven by that tree, parents
//! first, and stored as if an upstream had sent it. The checkpoint comes last, when what it needs is
//! durable and nothing was missing at the end: an import that is cut off changes nothing that is
//! served, and the next one finds what is there.

mod offer;
mod report;

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use bytes::BytesMut;
use tokio::runtime::Handle;

use self::offer::{Course, Offer};
pub use self::report::{Report, Taken, Verdict};
use super::{Format, Member, Next, SourceError, archive, files, mirror};
use crate::{
    cache::{Cache, files::StoredCheckpoint},
    log::{
        stored::Found,
        verify::{VerifiedBundle, VerifiedTile},
    },
    tlog::tile::FULL_TILE_BYTES,
    trust::Trust,
};

/// Bytes handed to the cache before they are made durable: an eighth of what may wait there.
const FLUSH_BYTES: usize = 8 << 20;

/// Damaged or refused members after which the rest is not read. Each can cost the decompression and
/// the hashing of 16 MiB, so a thousand cost a minute and not a week.
const MAX_DAMAGED: u64 = 1_000;

/// Logs in one import that are not followed here; more is no export.
const MAX_STRANGERS: usize = 100;

/// A log that may take something up.
pub struct Destination {
    /// Its name in the configuration.
    pub name: String,
    /// First line of its checkpoints: as configured, or as the cache has learned it. `None` takes
    /// that of the first checkpoint that one of the keys signed.
    pub origin: Option<String>,
    /// Who may sign its checkpoints.
    pub trust: Arc<Trust>,
}

/// Why an import ended before its end. What was proven until then is stored; no checkpoint is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The cache does not take it.
    #[error("cannot store: {0}")]
    Io(#[from] io::Error),
    /// It holds no log at all.
    #[error("it holds no log")]
    Nothing,
    /// It cannot be read on.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Imports what lies at `path`. Blocks on the disk; `runtime` is that of the cache's writer, and
/// `progress` is told how many resources were looked at.
///
/// # Errors
/// See [`ImportError`]. What is wrong with single logs or resources is in their reports.
pub fn import(
    cache: &Cache,
    runtime: &Handle,
    destinations: &[Destination],
    (path, format): (&Path, Format),
    progress: &dyn Fn(u64),
) -> Result<Vec<Report>, ImportError> {
    let refused_before = cache.usage().refused();
    let Survey {
        offers,
        mut strangers,
        mut broken,
    } = survey(cache, destinations, path, format)?;
    if offers.is_empty() && strangers.is_empty() {
        return Err(broken.map_or(ImportError::Nothing, ImportError::Source));
    }
    let from = std::path::absolute(path)?;
    let mut logs: BTreeMap<String, Importing<'_>> = BTreeMap::new();
    for (hash, offer) in offers {
        let log = Importing::new(cache, runtime, offer, &from)?;
        logs.insert(hash, log);
    }
    let mut seen = 0;
    let mut failed = None;
    let read = visit(path, format, true, &mut |hash, member| {
        seen += 1;
        progress(seen);
        // What belongs to no log here says so by its name; what belongs to another is skipped.
        let log = match logs.get_mut(hash) {
            Some(log) => log,
            None if hash.is_empty() => match logs.values_mut().next() {
                Some(log) => log,
                None => return Next::Continue,
            },
            None => return Next::Continue,
        };
        let taken = log.take(member);
        if taken.is_ok() && log.report.damaged() <= MAX_DAMAGED {
            return Next::Continue;
        }
        failed = Some(taken);
        Next::Stop
    });
    match failed {
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(())) => {
            let why = "more than a thousand of its members are wrong; the rest was not read";
            broken = Some(SourceError::Hostile(why.to_owned()));
        }
        None => {}
    }
    if let Err(error) = read {
        broken = Some(error);
    }
    runtime.block_on(cache.flush())?;
    let unstored = cache.usage().refused() - refused_before;
    let why = match (&broken, unstored) {
        (Some(error), _) => Some(error.to_string()),
        (None, 0) => None,
        (None, unstored) => Some(format!(
            "{unstored} resources were not stored: the disk or `cache.max_size` is full"
        )),
    };
    let mut reports = Vec::new();
    for log in logs.into_values() {
        reports.push(log.finish(why.as_deref())?);
    }
    reports.append(&mut strangers);
    Ok(reports)
}

/// What a first reading found.
struct Survey {
    /// By the name of the log's directory.
    offers: BTreeMap<String, Offer>,
    /// Logs that are none of those here.
    strangers: Vec<Report>,
    /// Why the reading ended early. Nothing is published then.
    broken: Option<SourceError>,
}

fn survey(
    cache: &Cache,
    destinations: &[Destination],
    path: &Path,
    format: Format,
) -> Result<Survey, ImportError> {
    let mut offers: BTreeMap<String, Offer> = BTreeMap::new();
    let mut strangers = Vec::new();
    let read = visit(path, format, false, &mut |hash, member| {
        match member {
            Member::Checkpoint(note) => {
                let known = |origin: &str| offers.values().any(|offer| offer.origin() == origin);
                match Offer::open(note, destinations, cache) {
                    Ok(offer) if !known(offer.origin()) => {
                        offers.insert(hash.to_owned(), offer);
                    }
                    Ok(offer) => strangers.push(Report::stranger(
                        offer.origin(),
                        "it is there a second time".to_owned(),
                    )),
                    Err(why) => strangers.push(Report::stranger(hash, why)),
                }
            }
            Member::Tile(tile, bytes) => {
                if let Some(offer) = offers.get_mut(hash) {
                    offer.see(tile, bytes);
                }
            }
            // Counted in the second reading.
            Member::Bundle(..) | Member::Refused(..) => {}
        }
        if strangers.len() > MAX_STRANGERS {
            return Next::Stop;
        }
        Next::Continue
    });
    let broken = match read {
        Ok(()) => None,
        Err(SourceError::CutOff(why)) => Some(SourceError::CutOff(why)),
        Err(error) => return Err(error.into()),
    };
    if strangers.len() > MAX_STRANGERS {
        let why = format!("more than {MAX_STRANGERS} of its logs are none of those here");
        return Err(SourceError::Hostile(why).into());
    }
    Ok(Survey {
        offers,
        strangers,
        broken,
    })
}

/// Visits what lies at `path`; without `bundles`, at least everything that comes before them.
fn visit(
    path: &Path,
    format: Format,
    bundles: bool,
    visit: &mut dyn FnMut(&str, Member) -> Next,
) -> Result<(), SourceError> {
    match format {
        Format::Bundle => archive::visit(path, &mut |hash, member| match member {
            Member::Bundle(..) if !bundles => Next::Stop, // nothing but bundles follows
            member => visit(hash, member),
        }),
        Format::Files => files::visit(path, bundles, visit),
        // Of one log, whose directory has no name.
        Format::TlogTiles => mirror::visit(path, bundles, &mut |member| visit("mirror", member)),
    }
}

/// A log on its way into the cache.
struct Importing<'a> {
    cache: &'a Cache,
    runtime: &'a Handle,
    course: Course,
    report: Report,
    /// Bytes stored since the last flush.
    unflushed: usize,
    /// Level of the last tile; a new one needs its parents on the disk.
    level: Option<u8>,
}

impl<'a> Importing<'a> {
    fn new(cache: &'a Cache, runtime: &'a Handle, offer: Offer, from: &Path) -> io::Result<Self> {
        let (course, report) = offer.judge();
        if let Some(tree) = &course.tree {
            let url = url::Url::from_file_path(from).map_or_else(|()| String::new(), String::from);
            cache.name_upstream(tree.store(), "import", &url)?;
            cache.count();
        }
        Ok(Self {
            cache,
            runtime,
            course,
            report,
            unflushed: 0,
            level: None,
        })
    }

    /// Proves and stores a member. An error is one of the cache's; the member's are in the report.
    fn take(&mut self, member: Member) -> io::Result<()> {
        let Some(tree) = self.course.tree.clone() else {
            return Ok(());
        };
        match member {
            // A partial tile is the beginning of something that is proven by itself.
            Member::Tile(tile, bytes) if tile.is_full() => {
                if self.level != Some(tile.level()) {
                    self.level = Some(tile.level());
                    self.flush()?;
                }
                let Some(root) = tree.root_of(tile.level(), tile.index()) else {
                    self.report.tiles.unprovable += 1;
                    return Ok(());
                };
                match VerifiedTile::prove(tile.level(), tile.index(), bytes, root) {
                    Ok(tile) => self.take_tile(tile)?,
                    Err(error) => {
                        self.report.tiles.damaged += 1;
                        self.report.found(format!("{tile}: {error}"));
                    }
                }
            }
            Member::Bundle(bundle, bytes) => {
                if self.level.take().is_some() {
                    self.flush()?;
                }
                match tree.prove_bundle(bundle, &bytes) {
                    Found::Proven(bundle) => self.take_bundle(bundle)?,
                    Found::Damaged(why) => {
                        self.report.bundles.damaged += 1;
                        self.report.found(format!("{bundle}: {why}"));
                    }
                    Found::Absent | Found::Unprovable => self.report.bundles.unprovable += 1,
                }
            }
            Member::Refused(name, why) => {
                self.report.refused += 1;
                self.report.found(format!("{}: {why}", name.escape_debug()));
            }
            Member::Checkpoint(_) | Member::Tile(..) => {}
        }
        Ok(())
    }

    fn take_tile(&mut self, tile: VerifiedTile) -> io::Result<()> {
        let Some(tree) = &self.course.tree else {
            return Ok(());
        };
        tree.remember(&tile);
        let (level, index) = (tile.tile().level(), tile.tile().index());
        if tree.unproven_tile(level, index).as_ref() == Some(tile.bytes()) {
            self.report.tiles.present += 1;
            return Ok(());
        }
        self.report.tiles.stored += 1;
        let stored = self.cache.store_tile(tree.store(), tile, tree.size());
        self.runtime.block_on(stored);
        self.wrote(FULL_TILE_BYTES)
    }

    fn take_bundle(&mut self, bundle: VerifiedBundle) -> io::Result<()> {
        let Some(tree) = &self.course.tree else {
            return Ok(());
        };
        let files = &tree.store().files;
        let wanted = bundle.bytes();
        // What cannot be read is written again.
        if let Ok(Some((found, bytes))) = files.read_bundle(bundle.bundle()) {
            if bytes.get(..wanted.len()) == Some(wanted) {
                self.report.bundles.present += 1;
                return Ok(());
            }
            files.remove_bundle(found)?;
        }
        self.report.bundles.stored += 1;
        let bytes = wanted.len();
        let stored = self.cache.store_bundle(tree.store(), bundle);
        self.runtime.block_on(stored);
        self.wrote(bytes)
    }

    /// Keeps the writer's queue short, so that it never has to refuse something.
    fn wrote(&mut self, bytes: usize) -> io::Result<()> {
        self.unflushed += bytes;
        if self.unflushed < FLUSH_BYTES {
            return Ok(());
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.unflushed > 0 {
            self.unflushed = 0;
            self.runtime.block_on(self.cache.flush())?;
        }
        Ok(())
    }

    /// Publishes the checkpoint, if there is nothing against it. Everything before it is durable.
    fn finish(mut self, against: Option<&str>) -> io::Result<Report> {
        if let Some(against) = against {
            self.report.found(against.to_owned());
        }
        let publish = self.course.tree.clone().filter(|_| self.course.publish);
        let Some((held, tree)) = publish.as_ref().and_then(|held| Some((held, held.tree()?)))
        else {
            if against.is_some() && self.report.is_clean() {
                self.report.checkpoint = Verdict::Incomplete;
            }
            return Ok(self.report);
        };
        if against.is_some() {
            self.report.checkpoint = Verdict::Incomplete;
            return Ok(self.report);
        }
        let edge: BytesMut = tree
            .edge
            .tiles()
            .iter()
            .flat_map(|(_, bytes)| bytes.clone())
            .collect();
        let stored = StoredCheckpoint {
            note: tree.note.clone(),
            edge: edge.freeze(),
            stored_at: None,
        };
        let size = tree.checkpoint.size;
        self.runtime
            .block_on(self.cache.store_checkpoint(held.store(), size, stored))?;
        self.report.trusted = Some(size);
        Ok(self.report)
    }
}

//! Proves everything in a cache again, from the trusted checkpoint down.
//!
//! Reads only, so it may run beside the proxy that serves the cache. Tiles are looked at group by
//! group, on all cores; each is proven by its parent, which is proven by its own, up to the edge
//! that the signed root proves. What stays in memory are the parents last used and one number for
//! each group.

mod shard;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde::Serialize;

use crate::{
    cache::{LogStore, slots::GROUP_SLOTS},
    log::stored::{Found, Stored, StoredNote, stored_notes},
    note,
    tlog::{
        path::Bundle,
        tile::{FULL_WIDTH, MAX_LEVEL, Tile},
    },
    trust::Trust,
};

/// Findings that are named one by one; the rest is counted. A rotten volume has millions.
const MAX_FINDINGS: usize = 1_000;

/// What was found of one kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// In the trusted tree, or signed by a known key.
    pub proven: u64,
    /// Not what it says it is.
    pub damaged: u64,
    /// What would prove it is not stored, or no known key signed it. No sign of damage.
    pub unprovable: u64,
    /// In the tree and not stored. A cache need not have everything.
    pub missing: u64,
}

/// What was found of one log.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Its name in the configuration; empty if it has none there.
    pub log: String,
    /// First line of its checkpoints.
    pub origin: String,
    /// Size of the trusted tree; `None` if nothing is trusted, and then nothing below is provable.
    pub size: Option<u64>,
    /// Signed notes.
    pub checkpoints: Counts,
    /// Edge tiles of the stored checkpoints, a set for each.
    pub edges: Counts,
    /// Full tiles.
    pub tiles: Counts,
    /// Entry bundles.
    pub bundles: Counts,
    /// Entries of a shard of Rekor v1, which has neither edges, tiles nor bundles.
    pub entries: Counts,
    /// Pairs of notes that contradict each other.
    pub evidence: Counts,
    /// Files that are none of ours, or were left half-written by a crash.
    pub strays: Vec<String>,
    /// Damaged resources removed.
    pub removed: u64,
    /// What is damaged, each with the reason; at most 1,000.
    pub findings: Vec<String>,
}

impl Report {
    /// Each kind with its counts.
    pub fn kinds(&self) -> [(&'static str, Counts); 6] {
        [
            ("checkpoints", self.checkpoints),
            ("edges", self.edges),
            ("tiles", self.tiles),
            ("bundles", self.bundles),
            ("entries", self.entries),
            ("evidence", self.evidence),
        ]
    }

    /// Damaged resources of all kinds.
    pub fn damaged(&self) -> u64 {
        self.kinds().iter().map(|(_, counts)| counts.damaged).sum()
    }
}

/// How to go about it.
pub struct Options<'a> {
    /// Name of the log in the configuration, for the report.
    pub log: &'a str,
    /// Who may sign its checkpoints.
    pub trust: &'a Trust,
    /// Whether to remove what is damaged. The caller holds the cache's lock then.
    pub repair: bool,
    /// Told how many groups of the total are done.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
}

/// Checks what is stored for one log.
///
/// # Errors
/// When a directory or a checkpoint cannot be read; what cannot be read otherwise is damaged.
pub fn check(store: &Arc<LogStore>, options: &Options<'_>) -> io::Result<Report> {
    let mut report = Report {
        log: options.log.to_owned(),
        origin: store.origin().to_owned(),
        ..Report::default()
    };
    match shard::of(store)? {
        Some(of_rekor_v1) => shard::check(store, of_rekor_v1, options, &mut report)?,
        None => check_tree(store, options, &mut report)?,
    }
    check_evidence(store, options.trust, &mut report)?;
    report.strays = store
        .strays()?
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    Ok(report)
}

/// Checks a log with tiles.
fn check_tree(store: &Arc<LogStore>, options: &Options<'_>, report: &mut Report) -> io::Result<()> {
    let stored = Stored::open(Arc::clone(store), options.trust)?;
    report.size = stored.tree().map(|tree| tree.checkpoint.size);
    let (groups, bundle_groups) = plan(store)?;
    let tasks = groups.len() + bundle_groups.len();
    let parts = on_all_cores(tasks, options, |turn, part| {
        match (groups.get(turn), turn.checked_sub(groups.len())) {
            (Some(group), _) => check_tiles(&stored, options.repair, *group, part),
            (None, Some(turn)) => {
                check_bundles(&stored, options.repair, bundle_groups[turn], part);
            }
            (None, None) => {} // `turn` is one or the other
        }
    });
    for part in parts {
        report.add(part);
    }
    if let Some(size) = report.size {
        let full_tiles = |level: u8| (size >> (8 * u32::from(level))) / u64::from(FULL_WIDTH);
        let tiles: u64 = (0..=MAX_LEVEL).map(full_tiles).sum();
        let bundles = size.div_ceil(u64::from(FULL_WIDTH));
        for (counts, all) in [(&mut report.tiles, tiles), (&mut report.bundles, bundles)] {
            counts.missing = all.saturating_sub(counts.proven);
        }
    }
    // After the tiles, since a repair of those changes what can be said about these.
    check_notes(&stored, options, report)
}

/// Groups to look at, parents before what they prove, and those of bundles.
type Plan = (Vec<(u8, u64)>, Vec<u64>);

fn plan(store: &LogStore) -> io::Result<Plan> {
    let mut groups = Vec::new();
    for level in (0..=MAX_LEVEL).rev() {
        groups.extend(store.stored_groups(level)?.into_iter().map(|g| (level, g)));
    }
    let bundle_groups = store.files.bundle_groups()?.into_iter().collect();
    Ok((groups, bundle_groups))
}

/// What one thread found.
#[derive(Default)]
struct Part {
    tiles: Counts,
    bundles: Counts,
    entries: Counts,
    removed: u64,
    findings: Vec<String>,
}

impl Report {
    fn add(&mut self, part: Part) {
        for (sum, counts) in [
            (&mut self.tiles, part.tiles),
            (&mut self.bundles, part.bundles),
            (&mut self.entries, part.entries),
        ] {
            sum.proven += counts.proven;
            sum.damaged += counts.damaged;
            sum.unprovable += counts.unprovable;
        }
        self.removed += part.removed;
        self.findings.extend(part.findings);
        self.findings.sort();
        self.findings.truncate(MAX_FINDINGS);
    }
}

/// Does this many tasks on all cores, each once and in no order: what they cost is hashing.
fn on_all_cores(
    tasks: usize,
    options: &Options<'_>,
    task: impl Fn(usize, &mut Part) + Sync,
) -> Vec<Part> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let parts = Mutex::new(Vec::new());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores.min(tasks) {
            scope.spawn(|| {
                let mut part = Part::default();
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= tasks {
                        break;
                    }
                    task(turn, &mut part);
                    (options.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, tasks);
                }
                // Pushing is all that is done while it is held.
                parts
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(part);
            });
        }
    });
    parts.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn check_tiles(stored: &Stored, repair: bool, (level, group): (u8, u64), part: &mut Part) {
    for slot in 0..GROUP_SLOTS {
        let Some(index) = group
            .checked_mul(GROUP_SLOTS)
            .and_then(|first| first.checked_add(slot))
        else {
            return;
        };
        let Some(tile) = Tile::new(level, index, FULL_WIDTH) else {
            return;
        };
        let found = stored.tile(level, index);
        if tally(&mut part.tiles, &mut part.findings, tile, &found) && repair {
            part.removed(tile, stored.store().forget_tile(level, index));
        }
    }
}

/// Checks the bundles at 1,024 neighbouring indices, of whatever width.
fn check_bundles(stored: &Stored, repair: bool, group: u64, part: &mut Part) {
    let files = &stored.store().files;
    let first = group.saturating_mul(GROUP_SLOTS);
    for index in first..first.saturating_add(GROUP_SLOTS) {
        let widths = match files.bundle_widths(index) {
            Ok(widths) => widths,
            Err(error) => {
                part.bundles.damaged += 1;
                part.findings
                    .push(format!("bundles at index {index}: {error}"));
                continue;
            }
        };
        for bundle in widths
            .into_iter()
            .filter_map(|width| Bundle::new(index, width))
        {
            let found = stored.bundle(bundle);
            if tally(&mut part.bundles, &mut part.findings, bundle, &found) && repair {
                part.removed(bundle, files.remove_bundle(bundle).map(|_| ()));
            }
        }
    }
}

/// Counts how something was found; says whether it is damaged.
fn tally<T>(
    counts: &mut Counts,
    findings: &mut Vec<String>,
    what: impl std::fmt::Display,
    found: &Found<T>,
) -> bool {
    match found {
        Found::Absent => {}
        Found::Damaged(why) => {
            counts.damaged += 1;
            if findings.len() < MAX_FINDINGS {
                findings.push(format!("{what}: {why}"));
            }
            return true;
        }
        Found::Proven(_) => counts.proven += 1,
        Found::Unprovable => counts.unprovable += 1,
    }
    false
}

impl Part {
    fn removed(&mut self, what: impl std::fmt::Display, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => self.removed += 1,
            Err(error) => self.findings.push(format!("{what}: not removed: {error}")),
        }
    }
}

/// Checks every stored checkpoint with its edge, and that all are of one history.
fn check_notes(stored: &Stored, options: &Options<'_>, report: &mut Report) -> io::Result<()> {
    let store = stored.store();
    let floor = stored.floor().map(|(checkpoint, _)| checkpoint.size);
    for note in stored_notes(store, options.trust)? {
        let name = format!("checkpoint {}", note.named);
        let is_floor = note.checkpoint.as_ref().map(|c| c.size) == floor;
        let found = judge(stored, &note);
        let damaged = tally(&mut report.checkpoints, &mut report.findings, &name, &found);
        let edge = match note.edge_folds {
            Some(true) => Found::Proven(()),
            Some(false) if note.checkpoint.is_none() => Found::Unprovable,
            Some(false) => Found::Damaged("its edge tiles do not fold to its root".to_owned()),
            None => {
                report.edges.missing += 1;
                Found::Absent
            }
        };
        let edge_damaged = tally(&mut report.edges, &mut report.findings, &name, &edge);
        if !options.repair || !(damaged || edge_damaged) {
            continue;
        }
        // What contradicts the tree is evidence; and the floor stays, because without it a smaller
        // tree could be served.
        if is_floor || (damaged && note.checkpoint.is_some()) {
            report.findings.push(format!(
                "{name}: kept; an online proxy or an import mends it"
            ));
            continue;
        }
        match store.files.remove_checkpoint(note.named) {
            Ok(()) => report.removed += 1,
            Err(error) => report
                .findings
                .push(format!("{name}: not removed: {error}")),
        }
    }
    Ok(())
}

fn judge(stored: &Stored, note: &StoredNote) -> Found<()> {
    let Some(checkpoint) = &note.checkpoint else {
        return Found::Damaged("not a checkpoint of this log and size".to_owned());
    };
    if !note.verified {
        return Found::Unprovable;
    }
    match stored.agrees(checkpoint) {
        Some(true) => Found::Proven(()),
        Some(false) => Found::Damaged(
            "signed by the log, but not of the same history as the trusted tree: a split view"
                .to_owned(),
        ),
        None => Found::Unprovable,
    }
}

/// Checks that kept contradictions can be read, and are signed.
fn check_evidence(store: &LogStore, trust: &Trust, report: &mut Report) -> io::Result<()> {
    for evidence in store.files.evidence()? {
        let found = match (&evidence.trusted, &evidence.offered) {
            (Some(trusted), Some(offered)) => {
                let signed = |bytes: &[u8]| trust.open(bytes).is_ok();
                let is_note = |bytes: &[u8]| note::text_unverified(bytes).is_ok();
                match (
                    signed(trusted) && signed(offered),
                    is_note(trusted) && is_note(offered),
                ) {
                    (true, _) => Found::Proven(()),
                    (false, true) => Found::Unprovable,
                    (false, false) => Found::Damaged("not signed notes".to_owned()),
                }
            }
            _ => Found::Damaged("a note is missing or cannot be read".to_owned()),
        };
        // Never removed: even half of it says that something happened.
        let name = evidence.directory.display();
        tally(&mut report.evidence, &mut report.findings, name, &found);
    }
    Ok(())
}

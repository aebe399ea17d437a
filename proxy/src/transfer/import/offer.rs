//! What a first reading finds out about one log: whose it is, and which tree to hold it against.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{Destination, Report, Verdict};
use crate::{
    cache::Cache,
    log::{
        Trusted,
        stored::Stored,
        timeline::{self, Conclusion, conclude},
        verify::VerifiedEdge,
    },
    note::checkpoint::Checkpoint,
    tlog::{
        consistency::{prefix_root, spine},
        edge::edge_tiles,
        tile::Tile,
    },
};

/// A log's offered checkpoint, signed by a known key, and what came to judge it.
pub(super) struct Offer {
    log: String,
    checkpoint: Checkpoint,
    note: Bytes,
    /// What is here already.
    own: Stored,
    /// Offered edge tiles and tiles of the spine, by coordinates; unverified.
    tiles: HashMap<(u8, u64), Bytes>,
}

/// What is to be done with the resources that come with an offer.
pub(super) struct Course {
    /// What resources are held against; `None` if none is taken.
    pub(super) tree: Option<Arc<Stored>>,
    /// Whether the offered checkpoint is to be published at the end.
    pub(super) publish: bool,
}

impl Offer {
    /// Opens a note for one of `destinations`.
    ///
    /// # Errors
    /// Why it is for none of them.
    pub(super) fn open(
        note: Bytes,
        destinations: &[Destination],
        cache: &Cache,
    ) -> Result<Self, String> {
        let mut reasons = Vec::new();
        for destination in destinations {
            match checkpoint_for(&note, destination) {
                Ok(checkpoint) => {
                    let store = cache.log(&checkpoint.origin);
                    let own = Stored::open(store, &destination.trust)
                        .map_err(|error| format!("cannot read what is trusted: {error}"))?;
                    return Ok(Self {
                        log: destination.name.clone(),
                        checkpoint,
                        note,
                        own,
                        tiles: HashMap::new(),
                    });
                }
                Err(reason) => reasons.push(format!("{}: {reason}", destination.name)),
            }
        }
        Err(reasons.join("; "))
    }

    pub(super) fn origin(&self) -> &str {
        &self.checkpoint.origin
    }

    /// Keeps a tile if the judgement may need it: at most 16.
    pub(super) fn see(&mut self, tile: Tile, bytes: Bytes) {
        let wanted = if tile.is_full() {
            let floor = self.own.floor().map_or(0, |(floor, _)| floor.size);
            spine(floor, self.checkpoint.size).contains(&tile)
        } else {
            edge_tiles(self.checkpoint.size).contains(&tile)
        };
        if wanted {
            self.tiles.insert((tile.level(), tile.index()), bytes);
        }
    }

    /// What the offer means for what is trusted here. Keeps evidence of a split view.
    pub(super) fn judge(self) -> (Course, Report) {
        let mut report = Report::new(Verdict::Current);
        report.log.clone_from(&self.log);
        report.origin.clone_from(&self.checkpoint.origin);
        report.offered = self.checkpoint.size;
        report.trusted = self.own.tree().map(|tree| tree.checkpoint.size);
        let Some((floor, floor_note)) = self.own.floor().cloned() else {
            return self.advance(report);
        };
        let (old, new) = match timeline::judge(&floor, &self.checkpoint) {
            timeline::Verdict::Refresh if self.own.tree().is_some() => {
                return self.own_tree(report);
            }
            timeline::Verdict::Refresh => return self.advance(report),
            timeline::Verdict::SplitView => return self.split_view(report, &floor_note),
            timeline::Verdict::ProveConsistency { old, new } => (old, new),
        };
        let proven = if self.checkpoint.size < floor.size {
            self.own.prefix_root(old)
        } else {
            self.offered_prefix_root(old)
        };
        match proven.map(|proven| conclude(&floor, &self.checkpoint, proven)) {
            Some(Conclusion::Advance) => self.advance(report),
            Some(Conclusion::SplitView) => self.split_view(report, &floor_note),
            Some(Conclusion::Stale) => {
                report.checkpoint = Verdict::Stale;
                report.found(format!(
                    "its tree of {old} entries is older than the trusted one of {new}, which stays"
                ));
                self.own_tree(report)
            }
            None => {
                report.checkpoint = Verdict::Unproven;
                let missing = spine(old, new)
                    .into_iter()
                    .filter(|tile| {
                        tile.is_full() && !self.tiles.contains_key(&(tile.level(), tile.index()))
                    })
                    .map(|tile| tile.to_string());
                let missing: Vec<String> = missing.collect();
                report.found(format!(
                    "cannot prove that its tree of {} entries and the trusted one of {} are of one \
                     history; that takes {}",
                    self.checkpoint.size,
                    floor.size,
                    missing.join(", ")
                ));
                self.own_tree(report)
            }
        }
    }

    /// The offered tree, if its edge tiles fold to its root.
    fn offered_tree(&self) -> Result<Trusted, String> {
        let contents: Option<Vec<Bytes>> = edge_tiles(self.checkpoint.size)
            .into_iter()
            .map(|tile| self.tiles.get(&(tile.level(), tile.index())).cloned())
            .collect();
        let contents = contents.ok_or("edge tiles of its checkpoint are missing")?;
        let edge = VerifiedEdge::prove(&self.checkpoint, contents)
            .map_err(|error| format!("edge tiles of its checkpoint are wrong: {error}"))?;
        Ok(Trusted {
            checkpoint: self.checkpoint.clone(),
            note: self.note.clone(),
            edge,
        })
    }

    /// The root of the first `old` entries of the offered tree, if its edge is proven and the spine
    /// is there, in the import or in the cache. Who sent the spine does not matter: it is proven.
    fn offered_prefix_root(&self, old: u64) -> Option<crate::tlog::Hash> {
        let tree = self.offered_tree().ok()?;
        let spine: Option<Vec<(Tile, Bytes)>> = spine(old, self.checkpoint.size)
            .into_iter()
            .map(|tile| {
                let (level, index) = (tile.level(), tile.index());
                let edge = tree.edge.at(level, index).cloned();
                let offered = || self.tiles.get(&(level, index)).cloned();
                let stored = || self.own.unproven_tile(level, index);
                Some((tile, edge.or_else(offered).or_else(stored)?))
            })
            .collect();
        prefix_root(old, &spine?)
    }

    fn advance(self, mut report: Report) -> (Course, Report) {
        match self.offered_tree() {
            Ok(tree) => {
                report.checkpoint = Verdict::Advanced;
                let store = Arc::clone(self.own.store());
                let course = Course {
                    tree: Some(Arc::new(Stored::against(store, tree))),
                    publish: true,
                };
                (course, report)
            }
            Err(error) => {
                report.checkpoint = Verdict::Refused;
                report.found(error);
                self.own_tree(report)
            }
        }
    }

    /// What comes is held against what is trusted already, if anything is.
    fn own_tree(self, report: Report) -> (Course, Report) {
        let tree = Some(self.own)
            .filter(|own| own.tree().is_some())
            .map(Arc::new);
        let publish = false;
        (Course { tree, publish }, report)
    }

    fn split_view(self, mut report: Report, floor_note: &[u8]) -> (Course, Report) {
        report.checkpoint = Verdict::SplitView;
        let kept = self
            .own
            .store()
            .files
            .write_evidence(floor_note, &self.note);
        report.found(match kept {
            Ok(Some(path)) => format!(
                "split view: a known key signed two histories; both notes are in {}",
                path.display()
            ),
            Ok(None) => "split view, known already: a known key signed two histories".to_owned(),
            Err(error) => format!("split view, and the notes could not be kept: {error}"),
        });
        let course = Course {
            tree: None,
            publish: false,
        };
        (course, report)
    }
}

fn checkpoint_for(note: &[u8], destination: &Destination) -> Result<Checkpoint, String> {
    let text = destination
        .trust
        .open(note)
        .map_err(|error| error.to_string())?;
    let checkpoint = Checkpoint::parse(text).map_err(|error| error.to_string())?;
    match &destination.origin {
        Some(want) if *want != checkpoint.origin => {
            let got = &checkpoint.origin;
            Err(format!("its checkpoint is of `{got}`, not of `{want}`"))
        }
        _ => Ok(checkpoint),
    }
}

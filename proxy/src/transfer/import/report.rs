//! What an import came to, for people and as JSON.

use serde::Serialize;

/// Findings that are named one by one; the rest is counted.
const MAX_FINDINGS: usize = 1_000;

/// What an offered checkpoint came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is the trusted one from now on.
    Advanced,
    /// It is the trusted one already.
    Current,
    /// It would have been taken up, but not everything that belongs to it came or could be stored.
    Incomplete,
    /// It is none that this log may take up: an unknown key, another log, a wrong edge.
    Refused,
    /// It contradicts the trusted one. Both notes are kept as evidence, and nothing was imported.
    SplitView,
    /// It is an earlier state of the trusted tree. What comes with it is proven by that tree.
    Stale,
    /// Nothing shows that it and the trusted tree are of one history. What comes with it is proven
    /// by the trusted tree, as far as that reaches.
    Unproven,
}

/// What became of the resources of one kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Taken {
    /// Proven and stored.
    pub stored: u64,
    /// Proven, and there already.
    pub present: u64,
    /// Not what the tree has; skipped.
    pub damaged: u64,
    /// Nothing here proves them, or the tree does not reach them; skipped.
    pub unprovable: u64,
}

/// What an import came to for one log.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its name in the configuration; empty if it is none of the logs here.
    pub log: String,
    /// First line of its checkpoints; of a log that is none of those here, its directory.
    pub origin: String,
    /// What its checkpoint came to.
    pub checkpoint: Verdict,
    /// Size of the offered tree.
    pub offered: u64,
    /// Size of the tree that is trusted now.
    pub trusted: Option<u64>,
    /// Full tiles.
    pub tiles: Taken,
    /// Entry bundles.
    pub bundles: Taken,
    /// Members that no export has.
    pub refused: u64,
    /// What is wrong, in words; at most 1,000.
    pub findings: Vec<String>,
}

impl Report {
    pub(super) fn new(checkpoint: Verdict) -> Self {
        Self {
            log: String::new(),
            origin: String::new(),
            checkpoint,
            offered: 0,
            trusted: None,
            tiles: Taken::default(),
            bundles: Taken::default(),
            refused: 0,
            findings: Vec::new(),
        }
    }

    /// A log that is none of those here.
    pub(super) fn stranger(name: &str, why: String) -> Self {
        Self {
            origin: name.to_owned(),
            findings: vec![why],
            ..Self::new(Verdict::Refused)
        }
    }

    /// Members that were skipped because something is wrong with them.
    pub fn damaged(&self) -> u64 {
        self.tiles.damaged + self.bundles.damaged + self.refused
    }

    /// Whether everything that was offered is here now, or was.
    pub fn is_clean(&self) -> bool {
        let accepted = matches!(
            self.checkpoint,
            Verdict::Advanced | Verdict::Current | Verdict::Stale
        );
        accepted && self.damaged() == 0
    }

    pub(super) fn found(&mut self, finding: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }
}

//! What replicas say of the logs they follow, and what that means for the status and for a rollout.
//! Pure; [`poll`](super::poll) asks them.
//!
//! A replica is believed about nothing but its own logs: how many there are, how long their names are
//! and which states there are is fixed here.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde::Deserialize;

use crate::crd::LogStatus;

/// Most logs that are told of, in the order of their names.
pub const MAX_LOGS: usize = 100;

/// Longest name of a log, in bytes: it is a DNS label.
const MAX_NAME_BYTES: usize = 63;

/// Longest origin of a log, in bytes, as in the spec.
const MAX_ORIGIN_BYTES: usize = 255;

/// The form of the statistics that is understood.
const STATS_VERSION: u32 = 1;

/// From when on a replica that is ready and never answers is taken for one that cannot be asked: a
/// policy of the network keeps the operator from it, and must not keep a rollout from its end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// For how long a replica that is ready may lack a log before its rollout counts as stalled: as long as
/// Kubernetes gives it to become ready.
pub const STALLED_AFTER: Duration = Duration::from_secs(420);

/// For how long a replica that is ready may be silent before the status says so: three polls.
pub const SILENT_AFTER: Duration = Duration::from_secs(180);

/// How it goes with following a log, from good to bad.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum LogState {
    /// The log has confirmed what is served.
    Fresh,
    /// It has not, for long.
    Stale,
    /// Nothing is trusted of it, so nothing is served.
    Failing,
    /// Two histories of it were seen.
    SplitView,
}

impl LogState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fresh, Self::Stale, Self::Failing, Self::SplitView];

    /// Its name, in the statistics of a replica as in the status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "Fresh",
            Self::Stale => "Stale",
            Self::Failing => "Failing",
            Self::SplitView => "SplitView",
        }
    }

    /// The one of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// What a replica says of one log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogReport {
    /// Its name in the configuration of the replica.
    pub name: String,
    /// Empty until the replica knows it.
    pub origin: String,
    /// `None` if it is none that we know, or the replica is too old to say.
    pub state: Option<LogState>,
    /// Whether a trusted tree is served, whatever the state.
    pub serves: bool,
}

impl LogReport {
    /// Whether both are about one log, which may have got another name.
    fn is_of_same(&self, other: &Self) -> bool {
        let has_origin = !self.origin.is_empty();
        self.name == other.name || has_origin && self.origin == other.origin
    }
}

/// What is known of one replica.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What it said last; `None` before it has said anything.
    pub logs: Option<Vec<LogReport>>,
    /// When it was asked for that.
    pub asked: Option<Instant>,
    /// Since when it does not answer; `None` if it does, or was not asked yet.
    pub silent_since: Option<Instant>,
}

impl Report {
    /// Whether it has been silent for long at `now`.
    pub fn is_silent(&self, now: Instant) -> bool {
        let since = self.silent_since;
        since.is_some_and(|since| now.saturating_duration_since(since) >= SILENT_AFTER)
    }
}

/// What is known of all replicas of a TileProxy, by the name of the Deployment.
pub type Reports = BTreeMap<String, Report>;

/// Reads the statistics of a replica. What is not a log as we know it is left out.
///
/// # Errors
/// That these are no statistics, or none of a form that is understood.
pub fn parse(json: &[u8]) -> Result<Vec<LogReport>, String> {
    #[derive(Deserialize)]
    struct Stats {
        version: u32,
        logs: Vec<Log>,
    }
    #[derive(Deserialize)]
    struct Log {
        name: String,
        origin: Option<String>,
        size: Option<u64>,
        state: Option<String>,
    }
    let stats: Stats =
        serde_json::from_slice(json).map_err(|error| format!("no statistics: {error}"))?;
    if stats.version != STATS_VERSION {
        let version = stats.version;
        return Err(format!("statistics of the unknown version {version}"));
    }
    let logs = stats.logs.into_iter().filter(|log| is_label(&log.name));
    let logs = logs.map(|log| {
        let origin = log.origin.filter(|origin| is_line(origin));
        let report = LogReport {
            origin: origin.unwrap_or_default(),
            state: log.state.as_deref().and_then(LogState::of),
            serves: log.size.is_some(),
            name: log.name,
        };
        (report.name.clone(), report)
    });
    // By name: none comes twice.
    let logs: BTreeMap<String, LogReport> = logs.collect();
    Ok(logs.into_values().take(MAX_LOGS).collect())
}

fn is_label(name: &str) -> bool {
    let is_inner = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_inner)
}

fn is_line(origin: &str) -> bool {
    (1..=MAX_ORIGIN_BYTES).contains(&origin.len()) && !origin.contains(char::is_control)
}

/// The status of each log: the worst that a replica says of it. `old` stays until every replica was
/// asked, so that a restart of the operator changes nothing.
pub fn status(reports: &Reports, old: Vec<LogStatus>) -> Vec<LogStatus> {
    let is_known = |report: &Report| report.logs.is_some() || report.silent_since.is_some();
    let nothing_said = reports.values().all(|report| report.logs.is_none());
    if !reports.is_empty() && (nothing_said || !reports.values().all(is_known)) {
        return old;
    }
    let mut worst: BTreeMap<&str, (LogState, &str)> = BTreeMap::new();
    for log in reports.values().filter_map(|r| r.logs.as_ref()).flatten() {
        let Some(state) = log.state else {
            continue;
        };
        let (known, origin) = worst.entry(&log.name).or_insert((state, &log.origin));
        *known = state.max(*known);
        if origin.is_empty() {
            *origin = &log.origin; // a replica that trusts nothing of it does not know
        }
    }
    let logs = worst.into_iter().take(MAX_LOGS);
    logs.map(|(name, (state, origin))| LogStatus {
        name: name.to_owned(),
        origin: origin.to_owned(),
        state: state.as_str().to_owned(),
    })
    .collect()
}

/// Whether a replica that runs the spec and is ready has shown that its logs work too.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trial {
    /// Each log that works elsewhere works here.
    Passed,
    /// It has not said anything since it is ready.
    Unheard,
    /// As [`Trial::Unheard`], for so long that being ready has to do.
    Unreachable,
    /// Others serve these logs, and it does not.
    Lacks {
        /// Their names.
        logs: Vec<String>,
        /// Whether that has been so for longer than starting takes.
        stalled: bool,
    },
}

impl Trial {
    /// Whether the next replica may change.
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Passed | Self::Unreachable)
    }
}

/// The outcome for each replica that was tried, by the name of its Deployment.
pub type Trials = BTreeMap<String, Trial>;

/// How the replica `name`, which is ready since `ready_since`, stands the trial at `now`.
///
/// What counts is whether a log that other `serving` replicas serve is served by it as well. A log that
/// it does not have is one that the spec has given up; one that nobody serves is no fault of the spec.
pub fn judge(
    name: &str,
    (ready_since, now): (Instant, Instant),
    patience: Duration,
    reports: &Reports,
    serving: &BTreeSet<String>,
) -> Trial {
    let waited = now.saturating_duration_since(ready_since);
    // Whatever was asked before speaks of the pod that was there before.
    let report = reports.get(name).filter(|r| r.asked >= Some(ready_since));
    let Some(logs) = report.and_then(|report| report.logs.as_ref()) else {
        return match waited >= patience {
            true => Trial::Unreachable,
            false => Trial::Unheard,
        };
    };
    let others: Vec<&LogReport> = reports
        .iter()
        .filter(|(other, report)| {
            *other != name && serving.contains(*other) && report.silent_since.is_none()
        })
        .filter_map(|(_, report)| report.logs.as_ref())
        .flatten()
        .filter(|log| log.serves)
        .collect();
    let lacks = logs.iter().filter(|log| {
        let works_elsewhere = others.iter().any(|other| other.is_of_same(log));
        !log.serves && works_elsewhere
    });
    let lacks: Vec<String> = lacks.map(|log| log.name.clone()).collect();
    match lacks.is_empty() {
        true => Trial::Passed,
        false => Trial::Lacks {
            logs: lacks,
            stalled: waited >= STALLED_AFTER,
        },
    }
}

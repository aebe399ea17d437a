//! The conditions of a TileProxy and the fixed list of their reasons.
//!
//! `docs/conditions.md` explains each to people; a test keeps it complete. A condition's transition
//! time moves only when its status does, so a settled resource has a status that does not change.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What a condition is about. True is the good state, except for `Degraded` and `Paused`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Type {
    /// The spec is valid and was taken over.
    Accepted,
    /// Something asks for a person, though replicas may serve.
    Degraded,
    /// The operator leaves everything alone.
    Paused,
    /// The operator is bringing replicas to the spec.
    Progressing,
    /// Every replica runs the spec and serves.
    Ready,
    /// The last scheduled sync succeeded.
    Synced,
    /// Every replica has its volume, in the size asked for.
    VolumesReady,
}

impl Type {
    /// All of them.
    const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Degraded,
        Self::Paused,
        Self::Progressing,
        Self::Ready,
        Self::Synced,
        Self::VolumesReady,
    ];

    /// The one of this name; `None` for a condition of somebody else.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|type_| type_.as_str() == name)
    }

    /// Its name in the status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Degraded => "Degraded",
            Self::Paused => "Paused",
            Self::Progressing => "Progressing",
            Self::Ready => "Ready",
            Self::Synced => "Synced",
            Self::VolumesReady => "VolumesReady",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $reason:ident,)+) => {
        /// Why a condition is what it is.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Reason {
            $($(#[doc = $doc])+ $reason,)+
        }

        impl Reason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$reason,)+];

            /// Its name in the status.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$reason => stringify!($reason),)+
                }
            }
        }
    };
}

reasons! {
    /// Every replica runs the spec and serves.
    AllReplicasReady,
    /// Writing to the API server failed; the operator tries again.
    ApplyFailed,
    /// Nothing asks for a person.
    AsExpected,
    /// The sync is scheduled, but none has succeeded yet.
    AwaitingFirstSync,
    /// A claim exists, but no volume is bound to it yet.
    ClaimPending,
    /// A claim is gone, lost its volume, or is being deleted.
    ClaimUnavailable,
    /// Every replica runs what the spec asks for.
    Complete,
    /// An object that is not ours has the name of a child.
    Conflict,
    /// There are no volumes: `cache.ephemeral` is set.
    EphemeralCaches,
    /// The operator may not do something the chart's role normally allows.
    Forbidden,
    /// The spec is not valid; nothing was changed.
    InvalidSpec,
    /// A replica trusts nothing of a log, and serves nothing of it.
    LogFailing,
    /// Two histories of a log were seen.
    LogSplitView,
    /// A log has not confirmed for long what is served.
    LogStale,
    /// `spec.paused` is set.
    PausedBySpec,
    /// A ConfigMap that pods need is not there.
    ReferenceMissing,
    /// Not every replica is ready yet.
    ReplicasNotReady,
    /// The volume cannot be made larger.
    ResizeRefused,
    /// Replicas are being brought to the spec, one at a time.
    RollingOut,
    /// A replica did not become ready; the others keep what they run.
    RolloutStalled,
    /// No replica is asked for.
    ScaledToZero,
    /// The spec asks for a smaller volume than there is; volumes never shrink.
    ShrinkRefused,
    /// There is no sync: `sync.enabled` is false.
    SyncDisabled,
    /// The last sync did not succeed.
    SyncFailed,
    /// The last sync succeeded.
    SyncSucceeded,
    /// No sync is started: `sync.suspend` is set or there is no replica.
    SyncSuspended,
    /// The cluster lacks a kind that the spec asks for.
    UnknownKind,
    /// `spec.paused` is not set.
    Unpaused,
    /// The spec is valid.
    Valid,
    /// Every replica has its volume, in the size asked for.
    VolumesBound,
    /// Volumes are being made larger.
    VolumesResizing,
}

/// One condition before it is merged into the status.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What it is about.
    pub type_: Type,
    /// Whether it holds; `None` is `Unknown`.
    pub holds: Option<bool>,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people. Built only from what was observed, so that it settles.
    pub message: String,
}

impl Finding {
    /// A condition that holds.
    pub fn yes(type_: Type, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            type_,
            holds: Some(true),
            reason,
            message: message.into(),
        }
    }

    /// A condition that does not hold.
    pub fn no(type_: Type, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            type_,
            holds: Some(false),
            reason,
            message: message.into(),
        }
    }

    /// A condition nobody can tell yet.
    pub fn unknown(type_: Type, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            type_,
            holds: None,
            reason,
            message: message.into(),
        }
    }
}

/// Those of `conditions` that are ours. Others may add some of their own; sending them back would
/// take them over.
pub fn ours(mut conditions: Vec<Condition>) -> Vec<Condition> {
    conditions.retain(|condition| Type::of(&condition.type_).is_some());
    conditions
}

/// Merges `findings` into `conditions`: one entry per type of ours, sorted by type, and a transition
/// time that moves to `now` only where the status changed.
pub fn merge(
    conditions: Vec<Condition>,
    findings: Vec<Finding>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = ours(conditions);
    for finding in findings {
        let status = match finding.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let type_ = finding.type_.as_str();
        let since = conditions
            .iter()
            .find(|old| old.type_ == type_ && old.status == status)
            .map_or(Time(now), |old| old.last_transition_time.clone());
        conditions.retain(|old| old.type_ != type_);
        conditions.push(Condition {
            last_transition_time: since,
            message: finding.message,
            observed_generation: generation,
            reason: finding.reason.as_str().to_owned(),
            status: status.to_owned(),
            type_: type_.to_owned(),
        });
    }
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn transition_time_moves_only_when_the_status_flips() {
        let waiting = Finding::no(Type::Ready, Reason::ReplicasNotReady, "0 of 3");
        let closer = Finding::no(Type::Ready, Reason::ReplicasNotReady, "2 of 3");
        let ready = Finding::yes(Type::Ready, Reason::AllReplicasReady, "3 of 3");

        let first = merge(Vec::new(), vec![waiting], Some(1), at(100));
        let second = merge(first, vec![closer], Some(1), at(200));
        assert_eq!(second[0].last_transition_time, Time(at(100)));
        assert_eq!(second[0].message, "2 of 3");
        let third = merge(second, vec![ready], Some(1), at(300));
        assert_eq!(third.len(), 1);
        assert_eq!(third[0].last_transition_time, Time(at(300)));
    }

    #[test]
    fn conditions_of_others_are_left_to_them_and_ours_are_sorted() {
        let foreign = Condition {
            last_transition_time: Time(at(1)),
            message: String::new(),
            observed_generation: None,
            reason: "Foreign".to_owned(),
            status: "True".to_owned(),
            type_: "Zebra".to_owned(),
        };
        let merged = merge(
            vec![foreign],
            vec![
                Finding::yes(Type::Ready, Reason::AllReplicasReady, ""),
                Finding::yes(Type::Accepted, Reason::Valid, ""),
            ],
            None,
            at(2),
        );
        let types: Vec<&str> = merged.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(types, ["Accepted", "Ready"]);
    }

    #[test]
    fn every_reason_is_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conditions.md");
        let page = std::fs::read_to_string(path).expect("docs/conditions.md");
        for reason in Reason::ALL {
            let entry = format!("`{}`", reason.as_str());
            assert!(
                page.contains(&entry),
                "docs/conditions.md does not explain {entry}"
            );
        }
    }
}

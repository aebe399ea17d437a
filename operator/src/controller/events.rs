//! Events: what `kubectl describe tp` tells of the past, where conditions tell of the present.
//!
//! One for each change of a condition that somebody may want to know of, derived from the status
//! before and after; so a settled TileProxy has none, and nothing is told twice.

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tracing::debug;

use super::names::{MANAGER, own_pod};
use crate::condition::{Reason, Type};

/// What the events of one reconcile are about, to the API server.
const ACTION: &str = "Reconcile";

/// The longest note that the API server takes, in bytes.
const MAX_NOTE: usize = 1_024;

/// Whoever publishes our events. It remembers what it said for six minutes, to count repeats.
pub(super) fn recorder(client: Client) -> Recorder {
    let reporter = Reporter {
        controller: MANAGER.to_owned(),
        instance: own_pod(),
    };
    Recorder::new(client, reporter)
}

/// Publishes what changed from `before` to `after` of the resource `about`. A lost event is no reason
/// for anything to fail.
pub(super) async fn publish(
    recorder: &Recorder,
    about: &ObjectReference,
    before: &[Condition],
    after: &[Condition],
) {
    for event in changes(before, after) {
        if let Err(error) = recorder.publish(&event, about).await {
            debug!(%error, reason = event.reason, "event not published");
        }
    }
}

/// An event for each change worth one.
fn changes(before: &[Condition], after: &[Condition]) -> Vec<Event> {
    let mut events = Vec::new();
    for now in after {
        let old = before.iter().find(|old| old.type_ == now.type_);
        if old.is_some_and(|old| (&old.status, &old.reason) == (&now.status, &now.reason)) {
            continue;
        }
        if let Some(type_) = worth(now, old.is_none()) {
            events.push(Event {
                type_,
                reason: now.reason.clone(),
                note: Some(shortened(now.message.clone())),
                action: ACTION.to_owned(),
                secondary: None,
            });
        }
    }
    events
}

/// What a changed condition is worth telling as, if it is. `Degraded` repeats what is wrong with a
/// rollout or a volume, so they tell nothing of that; and that all is well is news only after it was
/// not.
fn worth(now: &Condition, is_first: bool) -> Option<EventType> {
    let holds = now.status == "True";
    let type_ = Type::of(&now.type_)?;
    match type_ {
        Type::Accepted | Type::Synced if now.status == "False" => Some(EventType::Warning),
        Type::Degraded if holds => Some(EventType::Warning),
        Type::Paused | Type::Progressing | Type::Ready if holds => Some(EventType::Normal),
        Type::Progressing => {
            (now.reason == Reason::Complete.as_str() && !is_first).then_some(EventType::Normal)
        }
        Type::Accepted | Type::Degraded | Type::Paused => (!is_first).then_some(EventType::Normal),
        Type::Synced => holds.then_some(EventType::Normal),
        Type::Ready | Type::VolumesReady => None,
    }
}

/// At most [`MAX_NOTE`] bytes of a message, cut between characters.
fn shortened(mut message: String) -> String {
    const CUT: &str = " …";
    if message.len() > MAX_NOTE {
        let mut end = MAX_NOTE - CUT.len();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str(CUT);
    }
    message
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;

    fn condition(type_: Type, status: &str, reason: Reason, message: &str) -> Condition {
        Condition {
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            message: message.to_owned(),
            observed_generation: Some(1),
            reason: reason.as_str().to_owned(),
            status: status.to_owned(),
            type_: type_.as_str().to_owned(),
        }
    }

    fn told(before: &[Condition], after: &[Condition]) -> Vec<(bool, String)> {
        let events = changes(before, after);
        let told = events.into_iter().map(|event| {
            let is_warning = matches!(event.type_, EventType::Warning);
            (is_warning, event.reason)
        });
        told.collect()
    }

    #[test]
    fn a_change_is_told_once_and_a_settled_proxy_tells_nothing() {
        let valid = condition(Type::Accepted, "True", Reason::Valid, "");
        let invalid = condition(Type::Accepted, "False", Reason::InvalidSpec, "spec.x: no");
        let well = condition(Type::Degraded, "False", Reason::AsExpected, "");
        let stalled = condition(Type::Degraded, "True", Reason::RolloutStalled, "a");
        let conflict = condition(Type::Degraded, "True", Reason::Conflict, "b");
        let rolling = condition(Type::Progressing, "True", Reason::RollingOut, "1 of 2");
        let closer = condition(Type::Progressing, "True", Reason::RollingOut, "2 of 2");
        let stuck = condition(Type::Progressing, "False", Reason::RolloutStalled, "a");
        let complete = condition(Type::Progressing, "False", Reason::Complete, "");
        let ready = condition(Type::Ready, "True", Reason::AllReplicasReady, "");
        let waiting = condition(Type::Ready, "False", Reason::ReplicasNotReady, "");
        let warning = |reason: &str| (true, reason.to_owned());
        let normal = |reason: &str| (false, reason.to_owned());
        for (before, after, want) in [
            (
                vec![],
                vec![&valid, &well, &rolling, &waiting],
                vec![normal("RollingOut")],
            ),
            (vec![&rolling], vec![&closer], vec![]),
            (
                vec![&rolling, &waiting],
                vec![&complete, &ready],
                vec![normal("Complete"), normal("AllReplicasReady")],
            ),
            (
                vec![&well, &rolling],
                vec![&stalled, &stuck],
                vec![warning("RolloutStalled")],
            ),
            (vec![&stalled], vec![&conflict], vec![warning("Conflict")]),
            (vec![&stalled], vec![&well], vec![normal("AsExpected")]),
            (vec![], vec![&invalid], vec![warning("InvalidSpec")]),
            (vec![&invalid], vec![&valid], vec![normal("Valid")]),
            (vec![&ready], vec![&waiting], vec![]), // Progressing or Degraded says why
            (
                vec![&valid, &well, &complete, &ready],
                vec![&valid, &well, &complete, &ready],
                vec![],
            ),
        ] {
            let [before, after] =
                [before, after].map(|all| all.into_iter().cloned().collect::<Vec<_>>());
            assert_eq!(told(&before, &after), want, "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_note_is_as_long_as_the_api_server_takes() {
        assert_eq!(shortened("a".repeat(MAX_NOTE)).len(), MAX_NOTE);
        let long = shortened("é".repeat(MAX_NOTE));
        assert!(long.len() <= MAX_NOTE && long.ends_with('…'), "{long}");
    }
}

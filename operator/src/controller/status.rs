//! From what was applied and observed to the status. Pure, apart from the clock it is handed; a
//! settled TileProxy gets the status it already has.

mod heard;

use k8s_openapi::{
    api::{apps::v1::Deployment, batch::v1::CronJob, core::v1::PersistentVolumeClaim},
    jiff::Timestamp,
};
use kube::{ResourceExt as _, core::error_boundary::InvalidObject};

pub use self::heard::Heard;

use self::heard::{on_trial, silent, unwell, with_logs};
use super::{
    apply::{ApplyError, Outcome},
    build,
    logs::{self, Reports, Trial, Trials},
    names::{Component, query},
    observe::find,
    rollout::{is_ready, stalled},
    validate::{Invalid, ValidProxy},
};
use crate::{
    condition::{Finding, Reason, Type, merge},
    crd::{InstanceStatus, TileProxy, TileProxyStatus, VolumeStatus},
};

/// The status of a TileProxy whose children were applied as far as possible, or left alone because
/// it is paused.
pub fn applied(
    proxy: &TileProxy,
    valid: &ValidProxy,
    outcome: &Outcome,
    heard: &Heard,
    now: Timestamp,
) -> TileProxyStatus {
    let replicas: Vec<Replica<'_>> = (0..valid.replicas)
        .map(|ordinal| Replica::of(valid, ordinal, outcome))
        .collect();
    let ready = replicas.iter().filter(|replica| replica.is_ready()).count();
    let cron_job = outcome.resources.cron_jobs.first();
    let old = proxy.status.clone().unwrap_or_default();
    let logs = logs::status(&heard.reports, old.logs);
    let progress = progressing(&replicas, &heard.trials);
    let volumes = volumes_ready(valid, &replicas, outcome);
    let findings = vec![
        Finding::yes(Type::Accepted, Reason::Valid, "the spec is valid"),
        paused(valid),
        with_logs(
            unwell(valid, &logs),
            degraded(valid, outcome, &progress, &volumes),
            &silent(&replicas, heard),
        ),
        readiness(valid, &replicas, outcome),
        progress,
        volumes,
        synced(valid, cron_job),
    ];
    let schedule = cron_job.and_then(|job| job.status.as_ref());
    // Without an answer from the API server, this generation has not been taken over yet.
    let generation = match &outcome.failure {
        Some(failure) if !failure.is_refusal() => old.observed_generation,
        _ => proxy.metadata.generation,
    };
    TileProxyStatus {
        observed_generation: generation,
        replicas: count(replicas.iter().filter(|r| r.deployment.is_some()).count()),
        ready_replicas: count(ready),
        ready: format!("{ready}/{}", valid.replicas),
        selector: query(&valid.names.component(Component::Replica)),
        url: valid.client_url(),
        last_sync_time: schedule.and_then(|status| status.last_schedule_time.clone()),
        last_successful_sync_time: schedule.and_then(|status| status.last_successful_time.clone()),
        logs,
        instances: replicas.iter().map(Replica::status).collect(),
        conditions: merge(old.conditions, findings, generation, now),
    }
}

/// The status of a TileProxy that was refused: what runs goes on, and is still told about.
pub fn refused(
    proxy: &TileProxy,
    invalid: &Invalid,
    (deployments, reports): (&[Deployment], &Reports),
    now: Timestamp,
) -> TileProxyStatus {
    let mut old = proxy.status.clone().unwrap_or_default();
    if !reports.is_empty() {
        old.logs = logs::status(reports, old.logs);
    }
    for instance in &mut old.instances {
        instance.ready = find(deployments, &instance.name).is_some_and(is_ready);
    }
    // Of those that the last valid spec asked for.
    let (ready, all) = (
        old.instances.iter().filter(|i| i.ready).count(),
        old.instances.len(),
    );
    old.ready_replicas = count(ready);
    if all > 0 {
        old.ready = format!("{ready}/{all}");
    }
    refusal(old, invalid.to_string(), proxy.metadata.generation, now)
}

/// The status of a TileProxy whose children the operator may not read: whatever else it said is as old
/// as its generation.
pub fn unobserved(proxy: &TileProxy, message: String, now: Timestamp) -> TileProxyStatus {
    let old = proxy.status.clone().unwrap_or_default();
    let findings = vec![Finding::yes(Type::Degraded, Reason::Forbidden, message)];
    let generation = old.observed_generation;
    TileProxyStatus {
        conditions: merge(old.conditions.clone(), findings, generation, now),
        ..old
    }
}

/// As [`refused`], for a resource that does not even have the right shape.
pub fn unreadable(old: TileProxyStatus, object: &InvalidObject, now: Timestamp) -> TileProxyStatus {
    refusal(old, object.error.clone(), object.metadata.generation, now)
}

fn refusal(
    old: TileProxyStatus,
    message: String,
    generation: Option<i64>,
    now: Timestamp,
) -> TileProxyStatus {
    let findings = vec![
        Finding::no(Type::Accepted, Reason::InvalidSpec, message.clone()),
        Finding::no(Type::Ready, Reason::InvalidSpec, message),
    ];
    TileProxyStatus {
        observed_generation: generation,
        conditions: merge(old.conditions.clone(), findings, generation, now),
        ..old
    }
}

/// The word for a write that failed.
fn reason_of(failure: &ApplyError) -> Reason {
    if failure.is_forbidden() {
        Reason::Forbidden
    } else {
        Reason::ApplyFailed
    }
}

/// One replica as it came out of a reconcile.
struct Replica<'a> {
    name: String,
    deployment: Option<&'a Deployment>,
    claim: Option<&'a PersistentVolumeClaim>,
    updated: bool,
}

impl<'a> Replica<'a> {
    fn of(valid: &ValidProxy, ordinal: u16, outcome: &'a Outcome) -> Self {
        let name = valid.names.replica(ordinal);
        let deployment = find(&outcome.resources.deployments, &name);
        Self {
            deployment,
            claim: find(&outcome.resources.claims, &name),
            updated: deployment.is_some() && !outcome.held.contains(&name),
            name,
        }
    }

    fn is_ready(&self) -> bool {
        self.deployment.is_some_and(is_ready)
    }

    fn status(&self) -> InstanceStatus {
        let claim_status = self.claim.and_then(|claim| claim.status.as_ref());
        InstanceStatus {
            name: self.name.clone(),
            ready: self.is_ready(),
            updated: self.updated,
            volume: VolumeStatus {
                claim_name: self
                    .claim
                    .map(PersistentVolumeClaim::name_any)
                    .unwrap_or_default(),
                capacity: self
                    .claim
                    .and_then(build::capacity)
                    .unwrap_or_default()
                    .to_owned(),
                phase: claim_status
                    .and_then(|s| s.phase.clone())
                    .unwrap_or_default(),
            },
        }
    }
}

fn readiness(valid: &ValidProxy, replicas: &[Replica<'_>], outcome: &Outcome) -> Finding {
    if let Some(conflict) = outcome.conflicts.first() {
        return Finding::no(Type::Ready, Reason::Conflict, conflict);
    }
    if let Some(failure) = &outcome.failure
        && find(&outcome.resources.services, &valid.names.client_service()).is_none()
    {
        return Finding::no(Type::Ready, reason_of(failure), failure.to_string());
    }
    if replicas.is_empty() {
        return Finding::yes(Type::Ready, Reason::ScaledToZero, "no replica is asked for");
    }
    let waiting: Vec<&str> = replicas
        .iter()
        .filter(|replica| !(replica.is_ready() && replica.updated))
        .map(|replica| replica.name.as_str())
        .collect();
    if waiting.is_empty() {
        let url = valid.client_url();
        return Finding::yes(
            Type::Ready,
            Reason::AllReplicasReady,
            format!("serving at {url}"),
        );
    }
    let mut message = format!(
        "{} of {} replicas are ready and run this spec; waiting for {}",
        replicas.len() - waiting.len(),
        replicas.len(),
        waiting.join(", ")
    );
    let secrets = build::secrets(valid);
    if !outcome.missing.is_empty() {
        message.push_str(&format!("; {}", outcome.missing.join("; ")));
    } else if !secrets.is_empty() {
        // The operator may not look at them, so it can only say which there must be.
        message.push_str(&format!(
            "; pods do not start without what they read from {}",
            secrets.join(", ")
        ));
    }
    Finding::no(Type::Ready, Reason::ReplicasNotReady, message)
}

fn progressing(replicas: &[Replica<'_>], trials: &Trials) -> Finding {
    let trying = replicas
        .iter()
        .find(|replica| replica.updated && !replica.is_ready());
    if let Some(replica) = trying
        && let Some(why) = replica.deployment.and_then(stalled)
    {
        let message = format!(
            "{} did not become ready: {}; the other replicas keep what they run. \
             See `kubectl describe deployment,pod` for it; changing the spec back recovers",
            replica.name,
            why.trim_end_matches('.')
        );
        return Finding::no(Type::Progressing, Reason::RolloutStalled, message);
    }
    if let Some(replica) = trying {
        let message = format!("waiting for {} to become ready", replica.name);
        return Finding::yes(Type::Progressing, Reason::RollingOut, message);
    }
    let waiting = trials.iter().find(|(_, trial)| !trial.is_over());
    if let Some((name, trial)) = waiting {
        return on_trial(name, trial);
    }
    if let Some(replica) = replicas.iter().find(|replica| !replica.updated) {
        let mut message = format!("{} is next", replica.name);
        let unreachable = trials.iter().filter(|(_, t)| **t == Trial::Unreachable);
        let unreachable: Vec<&str> = unreachable.map(|(name, _)| name.as_str()).collect();
        if !unreachable.is_empty() {
            message.push_str(&format!(
                "; {} cannot be asked about logs on port 8081, so that being ready has to do",
                unreachable.join(", ")
            ));
        }
        return Finding::yes(Type::Progressing, Reason::RollingOut, message);
    }
    Finding::no(
        Type::Progressing,
        Reason::Complete,
        "every replica runs this spec",
    )
}

fn degraded(
    valid: &ValidProxy,
    outcome: &Outcome,
    progress: &Finding,
    volumes: &Finding,
) -> Finding {
    if let Some(failure) = &outcome.failure {
        return Finding::yes(Type::Degraded, reason_of(failure), failure.to_string());
    }
    if !outcome.conflicts.is_empty() {
        return Finding::yes(
            Type::Degraded,
            Reason::Conflict,
            outcome.conflicts.join("; "),
        );
    }
    if !outcome.missing.is_empty() {
        let message = outcome.missing.join("; ");
        return Finding::yes(Type::Degraded, Reason::ReferenceMissing, message);
    }
    for finding in [progress, volumes] {
        let asks_for_a_person = matches!(
            finding.reason,
            Reason::ClaimUnavailable
                | Reason::ResizeRefused
                | Reason::RolloutStalled
                | Reason::ShrinkRefused
        );
        if asks_for_a_person {
            return Finding::yes(Type::Degraded, finding.reason, &finding.message);
        }
    }
    if let Some(kind) = outcome.unknown_kinds.first() {
        let message = format!(
            "this cluster does not know {kind}, so there is none; it is created once the kind is there"
        );
        return Finding::yes(Type::Degraded, Reason::UnknownKind, message);
    }
    let message = if valid.paused {
        "nothing that runs needs attention; what is in the way of changes shows once spec.paused is false"
    } else {
        "nothing needs attention"
    };
    Finding::no(Type::Degraded, Reason::AsExpected, message)
}

fn paused(valid: &ValidProxy) -> Finding {
    if valid.paused {
        let message = "nothing is changed until spec.paused is false";
        Finding::yes(Type::Paused, Reason::PausedBySpec, message)
    } else {
        Finding::no(Type::Paused, Reason::Unpaused, "changes are carried out")
    }
}

fn volumes_ready(valid: &ValidProxy, replicas: &[Replica<'_>], outcome: &Outcome) -> Finding {
    let no = |reason, message| Finding::no(Type::VolumesReady, reason, message);
    if valid.cache.ephemeral {
        let message = "cache.ephemeral is set: each cache goes with its pod";
        return Finding::yes(Type::VolumesReady, Reason::EphemeralCaches, message);
    }
    for Replica { name, claim, .. } in replicas {
        let phase = claim.and_then(|claim| claim.status.as_ref()?.phase.as_deref());
        let Some(claim) = claim else {
            return no(
                Reason::ClaimUnavailable,
                format!("there is no claim {name} that is this TileProxy's, or it is leaving"),
            );
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return no(
                Reason::ClaimUnavailable,
                format!("the claim {name} is being deleted"),
            );
        }
        match phase {
            Some("Bound") => {}
            Some("Lost") => {
                return no(
                    Reason::ClaimUnavailable,
                    format!("the claim {name} lost its volume"),
                );
            }
            _ => {
                let message = format!(
                    "the claim {name} waits for a volume of {}",
                    valid.cache.size_text
                );
                return no(Reason::ClaimPending, message);
            }
        }
    }
    if let Some(why) = outcome.refused_growth.first() {
        let message = format!("volumes stay smaller than {}: {why}", valid.cache.size_text);
        return no(Reason::ResizeRefused, message);
    }
    for Replica { name, claim, .. } in replicas {
        let requested = claim.and_then(build::requested);
        let capacity = claim.and_then(build::capacity).unwrap_or_default();
        if requested.is_some_and(|requested| requested > valid.cache.size) {
            let asks = claim.and_then(build::requested_text).unwrap_or_default();
            let message = format!(
                "volumes never shrink: {name} has {capacity}; set spec.cache.size back to {asks}, or to any \
                 size above {capacity}, or create another TileProxy"
            );
            return no(Reason::ShrinkRefused, message);
        }
        // A provisioner may round up, so anything that is large enough has arrived.
        if capacity
            .parse::<tile_proxy::config::Size>()
            .is_ok_and(|has| has < valid.cache.size)
        {
            let message = format!("{name} grows from {capacity} to {}", valid.cache.size_text);
            return no(Reason::VolumesResizing, message);
        }
    }
    Finding::yes(
        Type::VolumesReady,
        Reason::VolumesBound,
        "every replica has its volume",
    )
}

fn synced(valid: &ValidProxy, cron_job: Option<&CronJob>) -> Finding {
    if !valid.sync.enabled {
        let message = "sync.enabled is false; replicas fill from what clients ask for";
        return Finding::unknown(Type::Synced, Reason::SyncDisabled, message);
    }
    let status = cron_job
        .and_then(|job| job.status.clone())
        .unwrap_or_default();
    let started = status.last_schedule_time.map(|time| time.0);
    let succeeded = status.last_successful_time.map(|time| time.0);
    let running = status.active.is_some_and(|active| !active.is_empty());
    let at_last = started <= succeeded;
    match (started, succeeded) {
        // A Job that a person created from the CronJob counts, and starts without the schedule.
        (_, Some(time)) if at_last || running => {
            let message = format!("the last sync succeeded at {time}");
            Finding::yes(Type::Synced, Reason::SyncSucceeded, message)
        }
        (Some(time), _) if !running && !at_last => {
            let message = format!(
                "the sync started at {time} did not succeed; see `kubectl logs -n {} job/…` of CronJob {}",
                valid.names.namespace,
                valid.names.sync()
            );
            Finding::no(Type::Synced, Reason::SyncFailed, message)
        }
        _ if valid.sync.suspend || valid.replicas == 0 => {
            let message = "no sync is started while it is suspended or there is no replica";
            Finding::unknown(Type::Synced, Reason::SyncSuspended, message)
        }
        _ => {
            let message = format!(
                "the first sync is due by the schedule {}",
                valid.sync.schedule
            );
            Finding::unknown(Type::Synced, Reason::AwaitingFirstSync, message)
        }
    }
}

fn count(n: usize) -> i32 {
    // At most 16 replicas exist.
    i32::try_from(n).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, marker::PhantomData};

use k8s_openapi::{
    api::{
        apps::v1::{DeploymentCondition, DeploymentStatus},
        batch::v1::CronJobStatus,
        core::v1::PersistentVolumeClaimStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::*;
use crate::{
    controller::{
        build::{Resources, build},
        fixture,
    },
    crd::{SecretRef, Tls},
};

/// What comes out of a reconcile when everything is well, then changed.
fn outcome(valid: &ValidProxy, change: impl FnOnce(&mut Outcome)) -> Outcome {
    let Resources {
        claims,
        config_maps,
        cron_jobs,
        deployments,
        disruption_budgets,
        network_policies,
        service_accounts,
        service_monitors,
        services,
        state: PhantomData,
    } = build(valid);
    let mut outcome = Outcome {
        resources: Resources {
            claims,
            config_maps,
            cron_jobs,
            deployments,
            disruption_budgets,
            network_policies,
            service_accounts,
            service_monitors,
            services,
            state: PhantomData,
        },
        held: BTreeSet::new(),
        conflicts: Vec::new(),
        refused_growth: Vec::new(),
        unknown_kinds: Vec::new(),
        missing: Vec::new(),
        failure: None,
    };
    for deployment in &mut outcome.resources.deployments {
        deployment.metadata.generation = Some(1);
        deployment.status = Some(DeploymentStatus {
            observed_generation: Some(1),
            ready_replicas: Some(1),
            updated_replicas: Some(1),
            ..DeploymentStatus::default()
        });
    }
    for claim in &mut outcome.resources.claims {
        let requests = claim
            .spec
            .as_ref()
            .and_then(|s| s.resources.as_ref()?.requests.clone());
        claim.status = Some(PersistentVolumeClaimStatus {
            capacity: requests,
            phase: Some("Bound".to_owned()),
            ..PersistentVolumeClaimStatus::default()
        });
    }
    change(&mut outcome);
    outcome
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn status_after(change: impl FnOnce(&mut Outcome)) -> TileProxyStatus {
    let valid = fixture::valid(|_| {});
    applied(
        &fixture::proxy(|_| {}),
        &valid,
        &outcome(&valid, change),
        at(100),
    )
}

fn condition(status: &TileProxyStatus, type_: Type) -> (String, String) {
    let found = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_.as_str());
    let found = found.expect("the condition");
    (found.status.clone(), found.reason.clone())
}

#[test]
fn each_state_has_its_reason() {
    type Change = fn(&mut Outcome);
    let rows: [(Change, Type, &str, &str); 13] = [
        (|_| {}, Type::Ready, "True", "AllReplicasReady"),
        (|_| {}, Type::Progressing, "False", "Complete"),
        (|_| {}, Type::VolumesReady, "True", "VolumesBound"),
        (|_| {}, Type::Synced, "Unknown", "AwaitingFirstSync"),
        (
            |o| o.resources.deployments[1].status = None,
            Type::Ready,
            "False",
            "ReplicasNotReady",
        ),
        // Kubernetes has not seen the newest template yet: what it says is of the one before.
        (
            |o| o.resources.deployments[1].metadata.generation = Some(2),
            Type::Progressing,
            "True",
            "RollingOut",
        ),
        (
            |o| o.held.extend(["rome2026h1-replica-1".to_owned()]),
            Type::Ready,
            "False",
            "ReplicasNotReady",
        ),
        (stall, Type::Progressing, "False", "RolloutStalled"),
        (stall, Type::Degraded, "True", "RolloutStalled"),
        (
            |o| o.conflicts.push("Service x is foreign".to_owned()),
            Type::Ready,
            "False",
            "Conflict",
        ),
        (
            |o| drop(o.resources.claims.pop()),
            Type::VolumesReady,
            "False",
            "ClaimUnavailable",
        ),
        (
            |o| o.resources.claims[0].status = None,
            Type::VolumesReady,
            "False",
            "ClaimPending",
        ),
        (
            |o| o.refused_growth.push("no".to_owned()),
            Type::Degraded,
            "True",
            "ResizeRefused",
        ),
    ];
    for (row, (change, type_, status, reason)) in rows.into_iter().enumerate() {
        let got = condition(&status_after(change), type_);
        assert_eq!(got, (status.to_owned(), reason.to_owned()), "row {row}");
    }
}

fn stall(outcome: &mut Outcome) {
    outcome.resources.deployments[0].status = Some(DeploymentStatus {
        conditions: Some(vec![DeploymentCondition {
            type_: Some("Progressing".to_owned()),
            status: Some("False".to_owned()),
            reason: Some("ProgressDeadlineExceeded".to_owned()),
            ..DeploymentCondition::default()
        }]),
        observed_generation: Some(1),
        ..DeploymentStatus::default()
    });
}

fn failure(code: u16) -> ApplyError {
    let reason = if code == 403 { "Forbidden" } else { "" };
    let status = kube::core::Status::failure("refused", reason).with_code(code);
    ApplyError::new(
        "apply",
        &CronJob::default(),
        kube::Error::Api(Box::new(status)),
    )
}

#[test]
fn a_refused_child_degrades_and_leaves_the_rest_of_the_status_true() {
    let status = status_after(|outcome| outcome.failure = Some(failure(422)));
    let word = |type_| condition(&status, type_);
    assert_eq!(word(Type::Degraded), ("True".into(), "ApplyFailed".into()));
    assert_eq!(
        word(Type::Ready),
        ("True".into(), "AllReplicasReady".into())
    );
    assert_eq!(status.observed_generation, Some(4));

    let status = status_after(|outcome| {
        outcome.failure = Some(failure(403));
        outcome.resources.services.clear();
    });
    assert_eq!(
        condition(&status, Type::Ready),
        ("False".into(), "Forbidden".into()),
        "clients have no way in"
    );
}

#[test]
fn while_paused_nobody_says_that_nothing_is_in_the_way() {
    let said = |paused| {
        let valid = fixture::valid(|proxy| proxy.spec.paused = paused);
        let outcome = outcome(&valid, |_| {});
        let status = applied(&fixture::proxy(|_| {}), &valid, &outcome, at(100));
        let mut conditions = status.conditions.into_iter();
        let degraded = conditions.find(|c| c.type_ == "Degraded");
        degraded.expect("the condition").message
    };
    assert_eq!(said(false), "nothing needs attention");
    assert!(
        said(true).contains("spec.paused is false"),
        "{}",
        said(true)
    );
}

#[test]
fn what_pods_wait_for_is_named() {
    let valid = fixture::valid(|proxy| {
        proxy.spec.tls = Some(Tls {
            secret_ref: SecretRef {
                name: "rome-tls".to_owned(),
            },
            client_ca_secret_ref: None,
            require_client_cert: false,
        });
    });
    let message = |type_: Type, missing: &[&str]| {
        let outcome = outcome(&valid, |outcome| {
            outcome.resources.deployments[0].status = None;
            outcome.missing = missing.iter().map(|&text| text.to_owned()).collect();
        });
        let status = applied(&fixture::proxy(|_| {}), &valid, &outcome, at(100));
        let mut conditions = status.conditions.into_iter();
        let found = conditions.find(|condition| condition.type_ == type_.as_str());
        found.map(|condition| (condition.reason, condition.message))
    };
    // Secrets cannot be looked at, so each is a candidate.
    let (reason, text) = message(Type::Ready, &[]).expect("a condition");
    assert_eq!(reason, "ReplicasNotReady");
    assert!(text.contains("waiting for rome2026h1-replica-0"), "{text}");
    assert!(
        text.ends_with("Secret rome-tls (spec.tls.secretRef)"),
        "{text}"
    );
    // A ConfigMap can.
    let lack = "there is no ConfigMap log-keys, which spec.publicKeys[0].configMapKeyRef refers to";
    let (_, text) = message(Type::Ready, &[lack]).expect("a condition");
    assert!(text.ends_with(lack), "{text}");
    let degraded = message(Type::Degraded, &[lack]);
    assert_eq!(
        degraded,
        Some(("ReferenceMissing".to_owned(), lack.to_owned()))
    );
}

#[test]
fn a_kind_that_the_cluster_lacks_is_told_and_nothing_waits_for_it() {
    let status = status_after(|outcome| outcome.unknown_kinds.push("ServiceMonitor".to_owned()));
    let (_, reason) = condition(&status, Type::Degraded);
    assert_eq!(reason, "UnknownKind");
    let (ready, _) = condition(&status, Type::Ready);
    assert_eq!(ready, "True");
}

#[test]
fn a_generation_is_not_observed_while_the_api_server_does_not_answer() {
    let status = status_after(|outcome| outcome.failure = Some(failure(503)));
    assert_eq!(status.observed_generation, None);
    assert_eq!(
        condition(&status, Type::Degraded),
        ("True".into(), "ApplyFailed".into())
    );
}

#[test]
fn a_settled_resource_keeps_its_status_to_the_letter() {
    let valid = fixture::valid(|_| {});
    let outcome = outcome(&valid, |_| {});
    let mut proxy = fixture::proxy(|_| {});
    let first = applied(&proxy, &valid, &outcome, at(100));
    proxy.status = Some(first.clone());
    assert_eq!(applied(&proxy, &valid, &outcome, at(999)), first);
}

#[test]
fn a_refused_resource_still_tells_what_runs() {
    let mut proxy = fixture::proxy(|_| {});
    proxy.status = Some(status_after(|_| {}));
    let invalid = fixture::parsed(|p| p.spec.upstreams.clear()).expect_err("no upstream");
    let deployments = outcome(&fixture::valid(|_| {}), |_| {})
        .resources
        .deployments;
    let status = refused(&proxy, &invalid, &deployments, at(200));
    assert_eq!(
        condition(&status, Type::Accepted),
        ("False".to_owned(), "InvalidSpec".to_owned())
    );
    assert_eq!(status.ready_replicas, 2);
    assert_eq!(status.url, "http://rome2026h1.verifiers.svc:8080");

    let status = refused(&proxy, &invalid, &deployments[..1], at(300));
    assert_eq!((status.ready_replicas, &*status.ready), (1, "1/2"));
    let ready: Vec<bool> = status.instances.iter().map(|i| i.ready).collect();
    assert_eq!(ready, [true, false]);
}

#[test]
fn the_last_sync_is_judged_by_what_started_last() {
    for (started, succeeded, running, want) in [
        (None, None, false, "AwaitingFirstSync"),
        (None, Some(12), false, "SyncSucceeded"), // started by hand
        (Some(10), None, true, "AwaitingFirstSync"),
        (Some(10), None, false, "SyncFailed"),
        (Some(10), Some(12), false, "SyncSucceeded"),
        (Some(20), Some(12), true, "SyncSucceeded"), // the one before, until this one ends
        (Some(20), Some(12), false, "SyncFailed"),
    ] {
        let status = status_after(|outcome| {
            outcome.resources.cron_jobs[0].status = Some(CronJobStatus {
                active: running.then(|| vec![Default::default()]),
                last_schedule_time: started.map(|second| Time(at(second))),
                last_successful_time: succeeded.map(|second| Time(at(second))),
            });
        });
        let (_, reason) = condition(&status, Type::Synced);
        assert_eq!(
            reason, want,
            "started {started:?}, succeeded {succeeded:?}, {running}"
        );
    }
}

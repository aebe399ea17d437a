use std::{collections::BTreeSet, marker::PhantomData, time::Instant};

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
        logs::{LogReport, LogState, Report},
    },
    crd::{Mode, SecretRef, Tls},
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

fn nothing_heard() -> Heard {
    Heard {
        reports: Reports::new(),
        trials: Trials::new(),
        at: Instant::now(),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn status_after(change: impl FnOnce(&mut Outcome)) -> TileProxyStatus {
    status_of(&fixture::valid(|_| {}), change)
}

fn status_of(valid: &ValidProxy, change: impl FnOnce(&mut Outcome)) -> TileProxyStatus {
    let outcome = outcome(valid, change);
    let proxy = fixture::proxy(|_| {});
    applied(&proxy, valid, &outcome, &nothing_heard(), at(100))
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
        let status = status_of(&valid, |_| {});
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
        let status = status_of(&valid, |outcome| {
            outcome.resources.deployments[0].status = None;
            outcome.missing = missing.iter().map(|&text| text.to_owned()).collect();
        });
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
    let first = applied(&proxy, &valid, &outcome, &nothing_heard(), at(100));
    proxy.status = Some(first.clone());
    assert_eq!(
        applied(&proxy, &valid, &outcome, &nothing_heard(), at(999)),
        first
    );
}

#[test]
fn a_refused_resource_still_tells_what_runs() {
    let mut proxy = fixture::proxy(|_| {});
    proxy.status = Some(status_after(|_| {}));
    let invalid = fixture::parsed(|p| p.spec.upstreams.clear()).expect_err("no upstream");
    let deployments = outcome(&fixture::valid(|_| {}), |_| {})
        .resources
        .deployments;
    let status = refused(&proxy, &invalid, (&deployments, &Reports::new()), at(200));
    assert_eq!(
        condition(&status, Type::Accepted),
        ("False".to_owned(), "InvalidSpec".to_owned())
    );
    assert_eq!(status.ready_replicas, 2);
    assert_eq!(status.url, "http://rome2026h1.verifiers.svc:8080");

    let status = refused(
        &proxy,
        &invalid,
        (&deployments[..1], &Reports::new()),
        at(300),
    );
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

/// What each replica says of logs, as name and state.
fn heard(said: [&[(&str, LogState)]; 2]) -> Heard {
    let mut heard = nothing_heard();
    for (ordinal, logs) in (0..).zip(said) {
        let logs = logs.iter().map(|(name, state)| LogReport {
            name: (*name).to_owned(),
            origin: String::new(),
            state: Some(*state),
            serves: *state != LogState::Failing,
        });
        let report = Report {
            logs: Some(logs.collect()),
            asked: Some(heard.at),
            silent_since: None,
        };
        let name = format!("rome2026h1-replica-{ordinal}");
        heard.reports.insert(name, report);
    }
    heard
}

fn status_with(
    heard: &Heard,
    spec: impl FnOnce(&mut TileProxy),
    change: impl FnOnce(&mut Outcome),
) -> TileProxyStatus {
    let (proxy, valid) = (fixture::proxy(|_| {}), fixture::valid(spec));
    applied(&proxy, &valid, &outcome(&valid, change), heard, at(100))
}

fn message(status: &TileProxyStatus, type_: Type) -> String {
    let mut conditions = status.conditions.iter();
    let found = conditions.find(|condition| condition.type_ == type_.as_str());
    found.expect("the condition").message.clone()
}

#[test]
fn what_is_wrong_with_a_log_asks_for_a_person() {
    use LogState::{Failing, Fresh, SplitView, Stale};
    type Row<'a> = (&'a [(&'a str, LogState)], &'a str, &'a str);
    let rows: [Row<'_>; 5] = [
        (&[("oslo", Fresh), ("rome", Fresh)], "False", "AsExpected"),
        (&[("oslo", Fresh), ("rome", Stale)], "True", "LogStale"),
        (&[("oslo", Stale), ("rome", Failing)], "True", "LogFailing"),
        (
            &[("oslo", Failing), ("rome", SplitView)],
            "True",
            "LogSplitView",
        ),
        (&[], "False", "AsExpected"),
    ];
    for (said, holds, reason) in rows {
        let status = status_with(&heard([said, &[]]), |_| {}, |_| {});
        let want = (holds.to_owned(), reason.to_owned());
        assert_eq!(condition(&status, Type::Degraded), want, "{said:?}");
        // The replicas do what they are asked to all the same.
        assert_eq!(condition(&status, Type::Ready).0, "True");
        let told = message(&status, Type::Degraded);
        assert_eq!(told.contains("rome"), holds == "True", "{told}");
        assert!(!told.contains("oslo"), "{told}");
    }
}

#[test]
fn an_old_checkpoint_is_wanted_where_no_log_is_asked() {
    let offline = |proxy: &mut TileProxy| proxy.spec.mode = Mode::Offline;
    for (state, reason) in [
        (LogState::Stale, "AsExpected"),
        (LogState::Failing, "LogFailing"), // nothing was imported
        (LogState::SplitView, "LogSplitView"),
    ] {
        let status = status_with(&heard([&[("rome", state)], &[]]), offline, |_| {});
        assert_eq!(condition(&status, Type::Degraded).1, reason, "{state:?}");
        assert_eq!(status.logs[0].state, state.as_str());
    }
}

#[test]
fn a_split_view_is_hidden_by_nothing_and_hides_nothing() {
    let conflict = |o: &mut Outcome| o.conflicts.push("Service x is foreign".to_owned());
    for (state, reason) in [
        (LogState::SplitView, "LogSplitView"),
        (LogState::Failing, "Conflict"),
        (LogState::Stale, "Conflict"),
    ] {
        let status = status_with(&heard([&[("rome", state)], &[]]), |_| {}, conflict);
        assert_eq!(condition(&status, Type::Degraded).1, reason, "{state:?}");
        let told = message(&status, Type::Degraded);
        assert!(told.contains("Service x is foreign"), "{told}");
    }
}

#[test]
fn a_rollout_says_whose_logs_it_waits_for() {
    let lacks = |stalled| Trial::Lacks {
        logs: vec!["oslo".to_owned(), "rome".to_owned()],
        stalled,
    };
    for (trial, holds, reason, says) in [
        (lacks(false), "True", "RollingOut", "to serve oslo, rome"),
        (lacks(true), "False", "RolloutStalled", "serve oslo, rome"),
        (Trial::Unheard, "True", "RollingOut", "after 60 s"),
        (
            Trial::Unreachable,
            "True",
            "RollingOut",
            "replica-1 is next",
        ),
        (
            Trial::Unreachable,
            "True",
            "RollingOut",
            "replica-0 cannot be asked",
        ),
        (Trial::Passed, "True", "RollingOut", "replica-1 is next"),
    ] {
        let mut heard = nothing_heard();
        let name = "rome2026h1-replica-0".to_owned();
        heard.trials.insert(name, trial.clone());
        let held = |o: &mut Outcome| o.held.extend(["rome2026h1-replica-1".to_owned()]);
        let status = status_with(&heard, |_| {}, held);
        let want = (holds.to_owned(), reason.to_owned());
        assert_eq!(condition(&status, Type::Progressing), want, "{trial:?}");
        let told = message(&status, Type::Progressing);
        assert!(told.contains(says), "{told}");
        let is_degraded = condition(&status, Type::Degraded).0 == "True";
        assert_eq!(is_degraded, reason == "RolloutStalled", "{trial:?}");
    }
}

#[test]
fn a_ready_replica_that_is_silent_for_long_is_told_and_is_no_trouble() {
    let mut heard = heard([&[("rome", LogState::Fresh)], &[]]);
    let silent = heard.reports.get_mut("rome2026h1-replica-1");
    silent.expect("heard").silent_since = Some(heard.at);
    let told = |heard: &Heard, change: fn(&mut Outcome)| {
        let status = status_with(heard, |_| {}, change);
        assert_eq!(condition(&status, Type::Degraded).1, "AsExpected");
        message(&status, Type::Degraded).contains("rome2026h1-replica-1 cannot be asked")
    };
    assert!(!told(&heard, |_| {}));
    heard.at += logs::SILENT_AFTER;
    assert!(told(&heard, |_| {}));
    // Of one that does not serve, more is said elsewhere.
    assert!(!told(&heard, |o| o.resources.deployments[1].status = None));
}

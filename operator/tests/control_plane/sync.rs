//! P32: the sync runs when it is due, never beside itself, and when a person asks for it; and its end
//! is told.
//!
//! Kubernetes' own controllers make Jobs of the CronJob and pods of the Jobs; that the pods end is
//! written by the test.

use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::{Event, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    operator::Operator,
    world::{Plane, World, eventually, find, reason},
};

#[tokio::test]
async fn a_sync_is_started_when_due_and_never_beside_itself_and_its_end_is_told() {
    let plane = Plane::own(&["cronjob-controller", "job-controller"]);
    let world = World::on(plane, "sync").await;
    let every_minute = json!({"sync": {"schedule": "* * * * *"}});
    world.create("rome", 2, every_minute).await;
    let operator = Operator::start(&world).await;
    let proxy = world.settles("rome").await;
    assert_eq!(reason(&proxy, "Synced"), "AwaitingFirstSync");

    // Due: a pod of the right kind is asked for. Nobody runs it, so it is still there a minute later.
    let pod = pod_of_a_sync(&world, &[]).await;
    let spec = pod.spec.as_ref().expect("a pod");
    let args = spec.containers[0].args.clone().unwrap_or_default();
    assert_eq!(args[0], "sync");
    let replicas = args.iter().filter(|arg| arg.contains("://rome-replica-"));
    assert_eq!(replicas.count(), 2, "{args:?}");
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let claims = volumes
        .iter()
        .filter(|v| v.persistent_volume_claim.is_some());
    assert_eq!(claims.count(), 0, "no replica's volume");
    eventually("a start that is left out", async || {
        let events = world.api::<Event>().list(&ListParams::default()).await;
        let reasons = events.expect("a list").items.into_iter();
        let reasons: Vec<_> = reasons.filter_map(|event| event.reason).collect();
        if reasons.iter().any(|reason| reason == "JobAlreadyActive") {
            Ok(())
        } else {
            Err(reasons)
        }
    })
    .await;
    assert_eq!(world.names::<Job>().await.len(), 1, "one at a time");

    // The schedule rests, so that nothing but what is told here runs. The sync fails as often as a Job
    // is tried.
    let rest = json!({"sync": {"suspend": true}});
    world.change("rome", rest).await;
    eventually("a schedule that rests", async || {
        let suspended = world.get::<CronJob>("rome-sync").await.spec.suspend;
        if suspended == Some(true) {
            Ok(())
        } else {
            Err(suspended)
        }
    })
    .await;
    let mut seen = vec![pod.name_any()];
    ends(&world, &pod, "Failed").await;
    for _ in 0..2 {
        let again = pod_of_a_sync(&world, &seen).await;
        ends(&world, &again, "Failed").await;
        seen.push(again.name_any());
    }
    let proxy = world.awaits("rome", "Synced", "False").await;
    assert_eq!(reason(&proxy, "Synced"), "SyncFailed");
    let said = find(&proxy, "Synced").map_or("", |c| &c.message);
    assert!(said.contains("CronJob rome-sync"), "{said}");

    // Not due, but asked for by a person.
    world.kubectl(&["create", "job", "by-hand", "--from=cronjob/rome-sync"]);
    let by_hand = pod_of_a_sync(&world, &seen).await;
    let owner = by_hand.owner_references().first();
    assert_eq!(owner.map(|owner| &*owner.name), Some("by-hand"));
    ends(&world, &by_hand, "Succeeded").await;
    let proxy = world.awaits("rome", "Synced", "True").await;
    assert_eq!(reason(&proxy, "Synced"), "SyncSucceeded");
    let told = proxy.status.and_then(|s| s.last_successful_sync_time);
    let seen = world.get::<CronJob>("rome-sync").await.status;
    assert_eq!(told, seen.and_then(|s| s.last_successful_time));
    drop(operator);
}

/// A pod of a sync that is none of those `seen`.
async fn pod_of_a_sync(world: &World, seen: &[String]) -> Pod {
    let pods: Api<Pod> = world.api();
    let ours = ListParams::default().labels("app.kubernetes.io/instance=rome");
    eventually("a pod of a sync", async || {
        let all = pods.list(&ours).await.expect("a list").items;
        let new = all.into_iter().find(|pod| !seen.contains(&pod.name_any()));
        new.ok_or("none")
    })
    .await
}

/// Writes what a kubelet would once the pod has ended.
async fn ends(world: &World, pod: &Pod, phase: &str) {
    let pods: Api<Pod> = world.api();
    let status = Patch::Merge(json!({"status": {"phase": phase}}));
    let (name, params) = (pod.name_any(), PatchParams::default());
    let written = pods.patch_status(&name, &params, &status).await;
    written.expect("a pod that is there");
}

//! P29, P30, P32: what the status says, and when it says it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, batch::v1::CronJob};
use kube::{
    ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;
use tile_proxy_operator::crd::TileProxy;

use crate::{
    kubelet::Fate,
    operator::Operator,
    state::without_history,
    world::{World, eventually, find, reason},
};

#[tokio::test]
async fn a_paused_tileproxy_is_left_alone_and_still_told_about() {
    let world = World::new("left-alone").await;
    world.create("rome", 2, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    world.change("rome", json!({"paused": true})).await;
    world.awaits("rome", "Paused", "True").await;

    let before = operator.faults.written().len();
    world.kubectl(&["scale", "deployment/rome-replica-0", "--replicas=3"]);
    world.kubectl(&["delete", "service/rome"]);
    let change = json!({"replicas": 3, "image": {"tag": "7.2"}});
    world.change("rome", change).await;
    world.kubelet.decide(|_| Fate::Starting);
    // The status follows what happens.
    world.awaits("rome", "Ready", "False").await;
    eventually("no replica that is ready", async || {
        let status = world.get::<TileProxy>("rome").await.status;
        match status.map(|status| status.ready_replicas) {
            Some(0) => Ok(()),
            ready => Err(ready),
        }
    })
    .await;
    operator.pokes(&world, "rome").await;
    let written = operator.faults.written().split_off(before);
    let harmless = |resource: &str| matches!(resource, "tileproxies" | "events");
    let wrong: Vec<_> = written.iter().filter(|c| !harmless(&c.resource)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");

    world.kubelet.decide(|_| Fate::Ready);
    world.change("rome", json!({"paused": false})).await;
    world.settles("rome").await;
    let other = World::new("left-alone-reference").await;
    let spec = json!({"image": {"tag": "7.2"}, "paused": false});
    other.create("rome", 3, spec).await;
    let beside = Operator::start(&other).await;
    other.settles("rome").await;
    let want = without_history(other.state().await);
    world
        .becomes_apart_from_history(&want, "no longer paused")
        .await;
    drop(beside);
}

#[tokio::test]
async fn the_status_never_claims_more_than_is_true() {
    let world = World::new("honest").await;
    let history = Arc::new(Mutex::new(Vec::<TileProxy>::new()));
    let watched = tokio::spawn(record(world.api(), history.clone()));
    let ready = Arc::new(Mutex::new(false));
    let may_start = ready.clone();
    world.kubelet.decide(move |deployment| {
        let new = deployment.spec.template.spec.as_ref().is_some_and(|pod| {
            pod.containers[0]
                .image
                .as_ref()
                .is_some_and(|i| i.ends_with(":7.2"))
        });
        let last = deployment.name_any() == "rome-replica-2";
        if new && last && !*may_start.lock().expect("no panic") {
            Fate::Starting
        } else {
            Fate::Ready
        }
    });
    world.create("rome", 3, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let changed = world.change("rome", json!({"image": {"tag": "7.2"}})).await;
    eventually("all but the last replica", async || {
        let last = world.get::<Deployment>("rome-replica-2").await;
        let tried = last.metadata.generation == Some(2);
        if tried {
            Ok(())
        } else {
            Err(last.metadata.generation)
        }
    })
    .await;
    operator.pokes(&world, "rome").await;
    let until_then = history.lock().expect("no panic").len();
    *ready.lock().expect("no panic") = true;
    world.kubelet.look();
    world.settles("rome").await;
    drop(operator);
    watched.abort();

    let history = history.lock().expect("no panic");
    for proxy in &history[..until_then] {
        let claims = find(proxy, "Ready").is_some_and(|c| {
            c.status == "True" && c.observed_generation == changed.metadata.generation
        });
        assert!(
            !claims,
            "Ready before the last replica was: {:?}",
            proxy.status
        );
    }
    let mut since = BTreeMap::new();
    for proxy in history.iter() {
        for condition in proxy.status.iter().flat_map(|status| &status.conditions) {
            let now = (
                condition.status.clone(),
                condition.last_transition_time.clone(),
            );
            let then = since.insert(condition.type_.clone(), now.clone());
            let moved = then.is_some_and(|then| then.0 == now.0 && then.1 != now.1);
            assert!(
                !moved,
                "{} did not flip, and its time moved",
                condition.type_
            );
        }
    }
}

async fn record(api: kube::Api<TileProxy>, history: Arc<Mutex<Vec<TileProxy>>>) {
    let versions = watcher(api, watcher::Config::default()).applied_objects();
    let mut versions = std::pin::pin!(versions);
    while let Some(version) = versions.next().await {
        history.lock().expect("no panic").extend(version);
    }
}

#[tokio::test]
async fn the_status_of_the_largest_tileproxy_stays_small() {
    let world = World::new("largest").await;
    world.create("rome", 16, json!({})).await;
    let operator = Operator::start(&world).await;
    let proxy = world.settles("rome").await;
    let status = serde_json::to_string(&proxy.status).expect("plain data");
    assert!(status.len() < 8 * 1024, "{} bytes", status.len());
    drop(operator);
}

#[tokio::test]
async fn a_schedule_that_kubernetes_would_not_take_keeps_the_old_one() {
    let world = World::new("schedule").await;
    world.create("rome", 1, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let before = world.get::<CronJob>("rome-sync").await;
    assert_eq!(before.spec.concurrency_policy.as_deref(), Some("Forbid"));
    for (sync, want) in [
        (json!({"schedule": "99 * * * *"}), "spec.sync.schedule"),
        (json!({"timeZone": "Mars/Phobos"}), "spec.sync.timeZone"),
    ] {
        world.change("rome", json!({"sync": sync})).await;
        let proxy = world.awaits("rome", "Accepted", "False").await;
        assert_eq!(reason(&proxy, "Accepted"), "InvalidSpec");
        let said = find(&proxy, "Accepted").map_or("", |c| &c.message);
        assert!(said.contains(want), "{said}");
        assert_eq!(world.get::<CronJob>("rome-sync").await, before);
        // No retry storm: nothing but another spec helps, so nothing is tried.
        let looks = operator.faults.reconciles("rome");
        operator.pokes(&world, "rome").await;
        assert!(operator.faults.reconciles("rome") - looks < 5);
        world
            .change(
                "rome",
                json!({"sync": {"schedule": null, "timeZone": null}}),
            )
            .await;
        world.awaits("rome", "Accepted", "True").await;
    }
    world
        .change("rome", json!({"sync": {"suspend": true}}))
        .await;
    let proxy = world.awaits("rome", "Synced", "Unknown").await;
    assert_eq!(reason(&proxy, "Synced"), "SyncSuspended");
    assert_eq!(
        world.get::<CronJob>("rome-sync").await.spec.suspend,
        Some(true)
    );
    world
        .change("rome", json!({"sync": {"enabled": false}}))
        .await;
    eventually("the CronJob to go", async || {
        let left = world.names::<CronJob>().await;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

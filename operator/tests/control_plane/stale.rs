//! P11 and P12: what the operator sees may be old or missing. It acts wrongly on neither.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::CronJob,
    core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{
    faults::Faults,
    operator::{Operator, Setup},
    state::{State, without_history},
    world::{World, all_of},
};

#[tokio::test]
async fn a_cache_that_missed_a_scale_up_takes_nothing_down() {
    let world = World::new("stale-cache").await;
    world.create("rome", 1, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    // The cache keeps one replica for the rest of the test.
    operator
        .faults
        .lose_events(|call, _| call.resource == "tileproxies");
    world.change("rome", json!({"replicas": 3})).await;
    operator.pokes(&world, "rome").await;
    world.settles("rome").await;
    operator.pokes(&world, "rome").await;
    assert_eq!(world.names::<Deployment>().await.len(), 3);
    let deletes = operator.faults.calls();
    assert!(!deletes.iter().any(|call| call.verb == "delete"));
}

#[tokio::test]
async fn children_seen_as_they_were_before_a_change_do_no_harm() {
    let want = reference("stale-children-reference", 3).await;
    let world = World::new("stale-children").await;
    world.create("rome", 3, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    // Lists show three replicas whose Deployments are gone by now, and later three others.
    world.change("rome", json!({"replicas": 1})).await;
    world.settles("rome").await;
    world.change("rome", json!({"replicas": 3})).await;
    world.settles("rome").await;
    operator.pokes(&world, "rome").await;
    operator.faults.stale(|call| call.verb == "list");
    world.change("rome", json!({"replicas": 1})).await;
    operator.looks_again("rome", 1).await;
    world.change("rome", json!({"replicas": 3})).await;
    operator.looks_again("rome", 1).await;
    world.change("rome", json!({"replicas": 0})).await;
    operator.looks_again("rome", 1).await;
    world.change("rome", json!({"replicas": 3})).await;
    operator.looks_again("rome", 2).await;
    operator.faults.end();
    // As the next resync would.
    operator.pokes(&world, "rome").await;
    world
        .becomes_apart_from_history(&want, "children seen truly again")
        .await;
}

async fn reference(name: &str, replicas: u16) -> State {
    let world = World::new(name).await;
    world.create("rome", replicas, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    drop(operator);
    without_history(world.state().await)
}

#[tokio::test]
async fn a_watch_that_says_nothing_is_made_good_by_the_next_resync() {
    const CHILDREN: [&str; 8] = [
        "tileproxies",
        "configmaps",
        "cronjobs",
        "deployments",
        "persistentvolumeclaims",
        "poddisruptionbudgets",
        "serviceaccounts",
        "services",
    ];
    all_of(CHILDREN.map(async |resource| {
        let world = World::new(&format!("deaf-{resource}")).await;
        world.create("rome", 2, json!({})).await;
        let setup = Setup {
            resync: Duration::from_secs(1),
            ..Setup::default()
        };
        let operator = Operator::with(&world, Faults::none(), setup).await;
        world.settles("rome").await;
        let want = without_history(world.state().await);
        operator
            .faults
            .lose_events(move |call, _| call.resource == resource);
        let gone = DeleteParams::default();
        let deleted = match resource {
            "configmaps" => world
                .api::<ConfigMap>()
                .delete("rome-config", &gone)
                .await
                .map(drop),
            "cronjobs" => world
                .api::<CronJob>()
                .delete("rome-sync", &gone)
                .await
                .map(drop),
            "deployments" => world
                .api::<Deployment>()
                .delete("rome-replica-1", &gone)
                .await
                .map(drop),
            "persistentvolumeclaims" => {
                let claims = world.api::<PersistentVolumeClaim>();
                claims.delete("rome-replica-1", &gone).await.map(drop)
            }
            "poddisruptionbudgets" => world
                .api::<PodDisruptionBudget>()
                .delete("rome", &gone)
                .await
                .map(drop),
            "serviceaccounts" => world
                .api::<ServiceAccount>()
                .delete("rome-tile-proxy", &gone)
                .await
                .map(drop),
            "services" => world
                .api::<Service>()
                .delete("rome-replica-1", &gone)
                .await
                .map(drop),
            _ => {
                world.change("rome", json!({"replicas": 3})).await;
                world.settles("rome").await;
                world.change("rome", json!({"replicas": 2})).await;
                world.settles("rome").await;
                let claims = world.api::<PersistentVolumeClaim>();
                claims.delete("rome-replica-2", &gone).await.map(drop)
            }
        };
        deleted.expect("a child that is there");
        let what = format!("{resource} without events");
        world.becomes_apart_from_history(&want, &what).await;
        drop(operator);
    }))
    .await;
}

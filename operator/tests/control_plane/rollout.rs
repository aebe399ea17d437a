//! P8 and P9: a change reaches one replica at a time, and a bad one stops at the first.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use serde_json::json;

use crate::{
    kubelet::Fate,
    operator::Operator,
    world::{World, eventually, reason},
};

#[tokio::test]
async fn a_bad_image_stops_at_the_first_replica_and_taking_it_back_recovers() {
    let world = World::new("bad-image").await;
    world.kubelet.decide(|deployment| {
        if image(deployment).ends_with(":bad") {
            Fate::Stalled
        } else {
            Fate::Ready
        }
    });
    world.create("rome", 3, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let good = image(&world.get("rome-replica-0").await);

    world.change("rome", json!({"image": {"tag": "bad"}})).await;
    let proxy = eventually("the rollout to stop", async || {
        let proxy = world.awaits("rome", "Progressing", "False").await;
        if reason(&proxy, "Progressing") == "RolloutStalled" {
            Ok(proxy)
        } else {
            Err(proxy.status)
        }
    })
    .await;
    assert_eq!(reason(&proxy, "Degraded"), "RolloutStalled");
    // Also when looked at again, and by an operator that was not there.
    operator.pokes(&world, "rome").await;
    operator.crash().await;
    let operator = Operator::start(&world).await;
    operator.pokes(&world, "rome").await;
    let images = images(&world).await;
    assert!(images[0].ends_with(":bad"), "{images:?}");
    assert_eq!(images[1..], [good.clone(), good.clone()]);

    world.change("rome", json!({"image": {"tag": null}})).await;
    let proxy = world.settles("rome").await;
    assert_eq!(reason(&proxy, "Degraded"), "AsExpected");
    assert_eq!(
        self::images(&world).await,
        [good.clone(), good.clone(), good]
    );
    for replica in ["rome-replica-1", "rome-replica-2"] {
        let deployment = world.get::<Deployment>(replica).await;
        assert_eq!(
            deployment.metadata.generation,
            Some(1),
            "{replica} was replaced"
        );
    }
}

#[tokio::test]
async fn each_replica_waits_until_the_one_before_it_serves() {
    let world = World::new("one-by-one").await;
    let started = Arc::new(Mutex::new(BTreeSet::<String>::new()));
    let may_start = started.clone();
    world.kubelet.decide(move |deployment| {
        let started = may_start
            .lock()
            .expect("no panic")
            .contains(&deployment.name_any());
        if started || round(deployment) == "1" {
            Fate::Ready
        } else {
            Fate::Starting
        }
    });
    world
        .create("rome", 3, json!({"podAnnotations": {"round": "1"}}))
        .await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;

    world
        .change("rome", json!({"podAnnotations": {"round": "2"}}))
        .await;
    for changed in 1..=3 {
        let want: Vec<&str> = (0..3)
            .map(|n| if n < changed { "2" } else { "1" })
            .collect();
        eventually("the next replica to change", async || {
            let rounds = rounds(&world).await;
            if rounds == want { Ok(()) } else { Err(rounds) }
        })
        .await;
        // It is not ready yet, so looking again changes nothing.
        operator.pokes(&world, "rome").await;
        assert_eq!(rounds(&world).await, want);
        assert_eq!(
            reason(
                &world.awaits("rome", "Progressing", "True").await,
                "Progressing"
            ),
            "RollingOut"
        );
        let serves = format!("rome-replica-{}", changed - 1);
        started.lock().expect("no panic").insert(serves);
        world.kubelet.look();
    }
    world.settles("rome").await;
}

fn image(deployment: &Deployment) -> String {
    let pod = deployment.spec.template.spec.as_ref();
    let image = pod.and_then(|pod| pod.containers[0].image.clone());
    image.unwrap_or_default()
}

async fn images(world: &World) -> Vec<String> {
    let mut images = Vec::new();
    for name in world.names::<Deployment>().await {
        images.push(image(&world.get(&name).await));
    }
    images
}

fn round(deployment: &Deployment) -> String {
    let annotations = deployment.spec.template.metadata.as_ref();
    let annotations = annotations.and_then(|metadata| metadata.annotations.as_ref());
    annotations
        .and_then(|a| a.get("round").cloned())
        .unwrap_or_default()
}

/// What `podAnnotations` of each replica says.
pub(crate) async fn rounds(world: &World) -> Vec<String> {
    let mut rounds = Vec::new();
    for name in world.names::<Deployment>().await {
        rounds.push(round(&world.get(&name).await));
    }
    rounds
}

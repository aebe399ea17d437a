//! P5, P15, P16: volumes are never deleted or shrunk, and grow as far as their class lets them.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tile_proxy_operator::crd::TileProxy;

use crate::{
    operator::Operator,
    world::{World, eventually, find, reason},
};

#[tokio::test]
async fn a_volume_grows_as_asked_and_says_so_meanwhile() {
    let world = World::new("growth").await;
    world.create("rome", 2, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    world.kubelet.stop_provisioning();
    world
        .change("rome", json!({"cache": {"size": "2Gi"}}))
        .await;
    let proxy = world.awaits("rome", "VolumesReady", "False").await;
    assert_eq!(reason(&proxy, "VolumesReady"), "VolumesResizing");
    for claim in requests(&world).await {
        assert_eq!(claim, "2Gi");
    }
    // An operator that comes later finds it under way, and asks for nothing again.
    operator.crash().await;
    let operator = Operator::start(&world).await;
    operator.pokes(&world, "rome").await;
    let calls = operator.faults.written();
    assert!(
        !calls
            .iter()
            .any(|call| call.resource == "persistentvolumeclaims"),
        "{calls:?}"
    );
    world.kubelet.provision();
    world.awaits("rome", "VolumesReady", "True").await;
}

#[tokio::test]
async fn a_smaller_size_shrinks_nothing_and_is_explained() {
    let world = World::new("shrink").await;
    world
        .create("rome", 2, json!({"cache": {"size": "2Gi"}}))
        .await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    world
        .change("rome", json!({"cache": {"size": "1Gi"}}))
        .await;
    let proxy = world.awaits("rome", "VolumesReady", "False").await;
    assert_eq!(reason(&proxy, "VolumesReady"), "ShrinkRefused");
    assert_eq!(reason(&proxy, "Degraded"), "ShrinkRefused");
    assert_eq!(requests(&world).await, ["2Gi", "2Gi"]);
    world
        .change("rome", json!({"cache": {"size": "2Gi"}}))
        .await;
    world.awaits("rome", "VolumesReady", "True").await;
    drop(operator);
}

#[tokio::test]
async fn a_class_that_cannot_expand_is_said_and_the_rest_goes_on() {
    let world = World::new("fixed-class").await;
    let spec = json!({"cache": {"storageClassName": "fixed"}});
    world.create("rome", 1, spec).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let change = json!({"cache": {"size": "2Gi"}, "podAnnotations": {"round": "2"}});
    world.change("rome", change).await;
    let proxy = world.awaits("rome", "VolumesReady", "False").await;
    assert_eq!(reason(&proxy, "VolumesReady"), "ResizeRefused");
    assert_eq!(requests(&world).await, ["1Gi"]);
    // The change of the pods was carried out all the same, and it serves.
    world.settles("rome").await;
    let looks = operator.faults.reconciles("rome");
    for _ in 0..3 {
        operator.pokes(&world, "rome").await;
    }
    let hot = operator.faults.reconciles("rome") - looks;
    assert!(hot < 20, "{hot} reconciles for one refused volume");
    let warnings = crate::events::told(&world).await;
    let warnings = warnings.iter().filter(|(type_, _)| type_ == "Warning");
    let reasons: Vec<_> = warnings.map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(reasons, ["ResizeRefused"], "told once");
}

#[tokio::test]
async fn a_growth_that_does_not_come_can_be_taken_back() {
    let world = World::new("growth-taken-back").await;
    world.create("rome", 2, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    world.kubelet.stop_provisioning();
    let size = |size: &str| json!({"cache": {"size": size}});
    world.change("rome", size("4Ti")).await;
    world.awaits("rome", "VolumesReady", "False").await;
    assert_eq!(requests(&world).await, ["4Ti", "4Ti"]);

    // To what the volume has, the API server lets nobody go back.
    world.change("rome", size("1Gi")).await;
    eventually("a size that is refused", async || {
        let proxy = world.get::<TileProxy>("rome").await;
        let said = find(&proxy, "VolumesReady").map_or("", |c| &c.message);
        if said.contains("back to 4Ti, or to any size above 1Gi") {
            Ok(())
        } else {
            Err(said.to_owned())
        }
    })
    .await;
    assert_eq!(requests(&world).await, ["4Ti", "4Ti"]);

    world.change("rome", size("2Gi")).await;
    eventually("a smaller growth", async || {
        let requests = requests(&world).await;
        if requests == ["2Gi", "2Gi"] {
            Ok(())
        } else {
            Err(requests)
        }
    })
    .await;
    world.kubelet.provision();
    world.awaits("rome", "VolumesReady", "True").await;
    drop(operator);
}

#[tokio::test]
async fn a_claim_that_waits_for_its_volume_grows_once_it_has_one() {
    let world = World::new("growth-pending").await;
    world.kubelet.stop_provisioning();
    world.create("rome", 1, json!({})).await;
    let operator = Operator::start(&world).await;
    let proxy = world.awaits("rome", "VolumesReady", "False").await;
    assert_eq!(reason(&proxy, "VolumesReady"), "ClaimPending");
    let change = json!({"cache": {"size": "2Gi"}});
    world.change("rome", change).await;
    world.awaits("rome", "VolumesReady", "False").await;
    operator.pokes(&world, "rome").await;
    assert_eq!(
        requests(&world).await,
        ["1Gi"],
        "the API server would refuse"
    );
    world.kubelet.provision();
    world.awaits("rome", "VolumesReady", "True").await;
    assert_eq!(requests(&world).await, ["2Gi"]);
}

#[tokio::test]
async fn a_policy_that_keeps_volumes_holds_although_they_cannot_grow() {
    let world = World::new("policy-beside-growth").await;
    let spec = json!({
        "cache": {"storageClassName": "fixed", "retention": {"whenDeleted": "Delete"}},
    });
    world.create("rome", 2, spec).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let before = uids(&world).await;
    world
        .change("rome", json!({"cache": {"size": "2Gi"}}))
        .await;
    world.awaits("rome", "VolumesReady", "False").await;
    let keep = json!({"cache": {"retention": {"whenDeleted": "Retain"}}});
    world.change("rome", keep).await;
    let proxy = world.awaits("rome", "VolumesReady", "False").await;
    assert_eq!(reason(&proxy, "VolumesReady"), "ResizeRefused");
    world.delete("rome").await;
    assert_eq!(uids(&world).await, before);
    drop(operator);
}

#[tokio::test]
async fn deleting_and_creating_again_finds_the_same_volumes() {
    let world = World::new("adoption").await;
    world.create("rome", 2, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let before = uids(&world).await;
    world.delete("rome").await;
    assert_eq!(uids(&world).await, before);
    world.create("rome", 2, json!({})).await;
    world.settles("rome").await;
    assert_eq!(uids(&world).await, before);
    drop(operator);
}

#[tokio::test]
async fn what_a_volume_is_made_of_cannot_change() {
    let world = World::new("immutable").await;
    world.create("rome", 1, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    for (cache, want) in [
        (
            json!({"storageClassName": "fixed"}),
            "do not move between classes",
        ),
        (
            json!({"accessModes": ["ReadWriteMany"]}),
            "because the volumes exist",
        ),
    ] {
        let patch = Patch::Merge(json!({"spec": {"cache": cache}}));
        let api = world.api::<TileProxy>();
        let refused = api.patch("rome", &PatchParams::default(), &patch).await;
        let said = refused.expect_err("immutable").to_string();
        assert!(said.contains(want), "{said}");
    }

    // A TileProxy that was deleted and created anew slips through: what exists stays, and serves.
    world.delete("rome").await;
    let before = uids(&world).await;
    world
        .create("rome", 1, json!({"cache": {"storageClassName": "fixed"}}))
        .await;
    world.settles("rome").await;
    assert_eq!(uids(&world).await, before);
    let looks = operator.faults.reconciles("rome");
    operator.pokes(&world, "rome").await;
    assert!(operator.faults.reconciles("rome") - looks < 10, "a loop");
}

#[tokio::test]
async fn a_volume_that_is_being_deleted_is_reported_and_not_waited_for() {
    let world = World::new("going-claim").await;
    world.create("rome", 1, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let finalizer = json!({"metadata": {"finalizers": ["example.net/in-use"]}});
    world
        .merge::<PersistentVolumeClaim>("rome-replica-0", &finalizer)
        .await;
    let claims = world.api::<PersistentVolumeClaim>();
    let gone = claims
        .delete("rome-replica-0", &DeleteParams::default())
        .await;
    gone.expect("a claim to delete");
    let proxy = world.awaits("rome", "VolumesReady", "False").await;
    assert_eq!(reason(&proxy, "VolumesReady"), "ClaimUnavailable");
    let said = find(&proxy, "VolumesReady")
        .map(|c| c.message.clone())
        .unwrap_or_default();
    assert!(said.contains("being deleted"), "{said}");
    let free = json!({"metadata": {"finalizers": null}});
    world
        .merge::<PersistentVolumeClaim>("rome-replica-0", &free)
        .await;
    world.awaits("rome", "VolumesReady", "True").await;
    drop(operator);
}

async fn requests(world: &World) -> Vec<String> {
    let mut requests = Vec::new();
    for name in world.names::<PersistentVolumeClaim>().await {
        let claim = world.get::<PersistentVolumeClaim>(&name).await;
        let spec = serde_json::to_value(claim.spec).expect("plain data");
        let size = &spec["resources"]["requests"]["storage"];
        requests.push(size.as_str().unwrap_or_default().to_owned());
    }
    requests
}

async fn uids(world: &World) -> Vec<Option<String>> {
    let mut uids = Vec::new();
    for name in world.names::<PersistentVolumeClaim>().await {
        uids.push(world.get::<PersistentVolumeClaim>(&name).await.metadata.uid);
    }
    uids
}

#[tokio::test]
async fn volumes_go_only_where_the_policy_says_so_and_only_ones_own() {
    let world = World::new("retention").await;
    let delete = json!({"cache": {"retention": {"whenScaled": "Delete", "whenDeleted": "Delete"}}});
    world.create("rome", 3, delete).await;
    world.create("milan", 1, json!({})).await;
    let operator = Operator::start(&world).await;
    operator.may_delete_volumes();
    world.settles("rome").await;
    world.settles("milan").await;
    // By its labels this is a removed replica's; by its recorded owner somebody else's.
    world.kubectl(&[
        "label",
        "pvc/milan-replica-0",
        "tiles.stella-ops.org/ordinal=9",
        "--overwrite",
    ]);
    world.change("rome", json!({"replicas": 1})).await;
    eventually("the volumes of removed replicas to go", async || {
        let left = world.names::<PersistentVolumeClaim>().await;
        if left == ["milan-replica-0", "rome-replica-0"] {
            Ok(())
        } else {
            Err(left)
        }
    })
    .await;
    world.delete("rome").await;
    eventually("the volumes of a removed TileProxy to go", async || {
        let left = world.names::<PersistentVolumeClaim>().await;
        if left == ["milan-replica-0"] {
            Ok(())
        } else {
            Err(left)
        }
    })
    .await;
}

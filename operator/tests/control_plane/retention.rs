//! P6, P7: whose volumes are whose, and that a policy holds for all of them from the moment it is set.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::json;

use crate::{
    operator::Operator,
    world::{World, eventually},
};

#[tokio::test]
async fn what_an_earlier_resource_left_is_taken_up_or_left_alone_and_never_deleted() {
    let world = World::new("earlier-volumes").await;
    world.create("rome", 2, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let before = uids(&world).await;
    world.delete("rome").await;
    let delete = json!({"cache": {"retention": {"whenScaled": "Delete"}}});
    world.create("rome", 1, delete).await;
    let proxy = world.settles("rome").await;
    operator.pokes(&world, "rome").await;
    assert_eq!(uids(&world).await, before, "both are there");
    let owner = |claim: PersistentVolumeClaim| {
        let annotations = claim.metadata.annotations.unwrap_or_default();
        annotations.get("tiles.stella-ops.org/owner-uid").cloned()
    };
    let taken = owner(world.get("rome-replica-0").await);
    let left = owner(world.get("rome-replica-1").await);
    assert_eq!(taken, proxy.metadata.uid);
    assert_ne!(left, proxy.metadata.uid, "no replica wanted it");

    // Once it was wanted it is this one's, and goes as the policy of this one says.
    operator.may_delete_volumes();
    world.change("rome", json!({"replicas": 2})).await;
    world.settles("rome").await;
    assert_eq!(uids(&world).await, before);
    world.change("rome", json!({"replicas": 1})).await;
    eventually("the volume of the removed replica to go", async || {
        let left = uids(&world).await;
        if left == before[..1] {
            Ok(())
        } else {
            Err(left)
        }
    })
    .await;
    let calls = operator.faults.written();
    let deleted = |resource: &str| {
        let found = calls.iter().position(|call| {
            call.verb == "delete"
                && call.resource == resource
                && call.name.as_deref() == Some("rome-replica-1")
        });
        found.expect(resource)
    };
    assert!(
        deleted("deployments") < deleted("persistentvolumeclaims"),
        "{calls:?}"
    );
}

#[tokio::test]
async fn a_policy_that_is_taken_back_keeps_the_volumes_of_removed_replicas_too() {
    let world = World::new("policy-taken-back").await;
    let delete = json!({"cache": {"retention": {"whenDeleted": "Delete"}}});
    world.create("rome", 2, delete).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    world.change("rome", json!({"replicas": 1})).await;
    world.settles("rome").await;
    let before = uids(&world).await;
    assert_eq!(before.len(), 2, "whenScaled keeps it");
    let retain = json!({"cache": {"retention": {"whenDeleted": "Retain"}}});
    world.change("rome", retain).await;
    eventually("claims without an owner", async || {
        let mut owned = Vec::new();
        for name in world.names::<PersistentVolumeClaim>().await {
            let claim = world.get::<PersistentVolumeClaim>(&name).await;
            owned.extend(claim.metadata.owner_references.map(|_| name));
        }
        if owned.is_empty() { Ok(()) } else { Err(owned) }
    })
    .await;
    world.delete("rome").await;
    assert_eq!(uids(&world).await, before);
    drop(operator);
}

async fn uids(world: &World) -> Vec<Option<String>> {
    // Read at one moment: one of them may be going.
    let claims = world.api::<PersistentVolumeClaim>();
    let claims = claims.list(&Default::default()).await.expect("a list");
    let uids = claims.items.into_iter().map(|claim| claim.metadata.uid);
    uids.collect()
}

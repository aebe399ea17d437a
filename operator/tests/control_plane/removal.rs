//! P20 and P21: deleting works without the operator, and a namespace that goes is let go.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Secret, Service},
};
use kube::{Api, api::DeleteParams};
use serde_json::json;

use crate::{
    calls::Call,
    faults::{Fault, Faults},
    operator::{Operator, Setup},
    program::Program,
    world::{World, eventually},
};

#[tokio::test]
async fn a_tileproxy_is_deleted_without_the_operator_and_its_volumes_stay() {
    let world = World::new("removal").await;
    world.create("rome", 2, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    operator.crash().await;
    world.delete("rome").await;
    assert!(world.names::<Deployment>().await.is_empty());
    assert!(world.names::<Service>().await.is_empty());
    assert!(world.names::<ConfigMap>().await.is_empty());
    assert!(world.names::<Secret>().await.is_empty());
    let kept = ["rome-replica-0", "rome-replica-1"];
    assert_eq!(world.names::<PersistentVolumeClaim>().await, kept);
}

#[tokio::test]
async fn a_namespace_that_goes_is_not_written_to_again_and_again() {
    let world = World::new("terminating").await;
    world.create("rome", 2, json!({})).await;
    let faults = Faults::none();
    faults.at_write(0, Fault::Held);
    let operator = Operator::with(&world, faults, Setup::default()).await;
    eventually("the first write", async || {
        let calls = operator.faults.calls();
        if calls.iter().any(Call::is_write) {
            Ok(())
        } else {
            Err(calls.len())
        }
    })
    .await;
    let namespaces = Api::<Namespace>::all(world.client.clone());
    let gone = namespaces
        .delete(&world.namespace, &DeleteParams::default())
        .await;
    gone.expect("a namespace to delete");
    operator.faults.release();
    eventually("the namespace to go", async || {
        let left = namespaces
            .get_opt(&world.namespace)
            .await
            .expect("an answer");
        if left.is_none() { Ok(()) } else { Err(left) }
    })
    .await;
    let calls = operator.faults.calls();
    let writes: Vec<_> = calls.iter().filter(|call| call.is_write()).collect();
    assert_eq!(writes[0].answer, Some(403), "{writes:?}");
    assert!(writes.len() <= 2, "{writes:?}");
}

#[tokio::test]
async fn a_tileproxy_that_is_gone_is_not_counted_any_more() {
    const READY: &str = "tile_proxy_operator_resource_ready";
    let world = World::new("uncounted").await;
    let program = Program::start(&world, false, &[]);
    world.create("rome", 1, json!({})).await;
    world.settles("rome").await;
    let counts = async |want: f64| {
        eventually("the metric", async || {
            let ready = program.metric(READY);
            if ready == want { Ok(()) } else { Err(ready) }
        })
        .await;
    };
    counts(1.0).await;
    // At once, so that nobody is told that it is going.
    world.kubectl(&["delete", "tp/rome", "--cascade=background"]);
    counts(0.0).await;
}

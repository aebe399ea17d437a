//! P13: the API server goes away and comes back, forgets where watches were, and holds a resource
//! that cannot be read.

use kube::{Api, api::ListParams};
use serde_json::json;
use tile_proxy_operator::crd::TileProxy;

use crate::{
    operator::Operator,
    world::{Plane, World, eventually},
};

#[tokio::test]
async fn an_api_server_that_restarts_and_forgets_is_followed_again() {
    let plane = Plane::own(&[]);
    let world = World::on(plane, "outage").await;
    world.create("rome", 2, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;

    plane.control_mut().kill_api_server().expect("killed");
    plane.control_mut().start_api_server().expect("started");
    world.change("rome", json!({"replicas": 3})).await;
    world.settles("rome").await;

    // While it is away, what the watches last saw is forgotten: they are told 410 Gone.
    let newest = Api::<TileProxy>::all(world.client.clone());
    let newest = newest.list(&ListParams::default()).await.expect("a list");
    let revision = newest.metadata.resource_version.expect("a version");
    plane.control_mut().kill_api_server().expect("killed");
    let revision = revision.parse().expect("a number");
    plane
        .control_mut()
        .forget_history(revision)
        .expect("compacted");
    plane.control_mut().start_api_server().expect("started");
    world.change("rome", json!({"replicas": 1})).await;
    world.settles("rome").await;
    drop(operator);
}

#[tokio::test]
async fn a_resource_that_cannot_be_read_is_refused_and_disturbs_no_other() {
    let world = World::on(Plane::own(&[]), "unreadable").await;
    let operator = Operator::start(&world).await;
    world.create("milan", 1, json!({})).await;
    world.settles("milan").await;
    // An older CRD, or none of its checks.
    let schema = "/spec/versions/0/schema/openAPIV3Schema";
    let anything = json!([
        {
            "op": "replace",
            "path": format!("{schema}/properties/spec"),
            "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
        {"op": "remove", "path": format!("{schema}/x-kubernetes-validations")},
    ]);
    let crd = "crd/tileproxies.tiles.stella-ops.org";
    world.kubectl(&[
        "patch",
        crd,
        "--type=json",
        "--patch",
        &anything.to_string(),
    ]);
    let mut strange = crate::world::proxy("rome", 1, &json!({}));
    strange["spec"]["publicKeys"] = json!("many");
    eventually("an API server that takes anything", async || {
        world
            .create_any(&strange)
            .map_err(|error| format!("{error:#}"))
    })
    .await;
    eventually("a condition that says what is wrong", async || {
        let said = world.kubectl(&["get", "tp/rome", "--output=jsonpath={.status.conditions}"]);
        let refused = said.contains("InvalidSpec") && said.contains("many");
        if refused { Ok(()) } else { Err(said) }
    })
    .await;
    world.change("milan", json!({"replicas": 2})).await;
    world.settles("milan").await;
    world.kubectl(&["delete", "tp/rome"]);
    drop(operator);
}

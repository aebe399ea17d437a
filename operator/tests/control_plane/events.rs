//! What `kubectl describe` tells: one event for each change, and none for a settled TileProxy.

use k8s_openapi::api::events::v1::Event;
use serde_json::json;

use crate::{
    operator::Operator,
    world::{World, eventually},
};

/// Type and reason of every event about `rome`, sorted.
pub(crate) async fn told(world: &World) -> Vec<(String, String)> {
    let events = world.api::<Event>().list(&Default::default()).await;
    let mut told: Vec<_> = events
        .expect("a list")
        .items
        .into_iter()
        .filter(|event| event.regarding.as_ref().and_then(|it| it.name.as_deref()) == Some("rome"))
        .map(|event| {
            (
                event.type_.unwrap_or_default(),
                event.reason.unwrap_or_default(),
            )
        })
        .collect();
    told.sort();
    told
}

async fn tells(world: &World, want: &[(&str, &str)]) {
    let owned = |(type_, reason): &(&str, &str)| ((*type_).to_owned(), (*reason).to_owned());
    let want: Vec<_> = want.iter().map(owned).collect();
    eventually("the events", async || {
        let told = told(world).await;
        if told == want { Ok(()) } else { Err(told) }
    })
    .await;
}

#[tokio::test]
async fn each_change_is_told_once() {
    let world = World::new("events").await;
    let operator = Operator::start(&world).await;
    world.create("rome", 1, json!({})).await;
    world.settles("rome").await;
    let begun = [
        ("Normal", "AllReplicasReady"),
        ("Normal", "Complete"),
        ("Normal", "RollingOut"),
    ];
    tells(&world, &begun).await;
    for _ in 0..3 {
        operator.pokes(&world, "rome").await;
    }
    tells(&world, &begun).await;

    // Five fields, so the CRD takes it.
    world
        .change("rome", json!({"sync": {"schedule": "61 * * * *"}}))
        .await;
    world.awaits("rome", "Accepted", "False").await;
    tells(
        &world,
        &[&begun[..], &[("Warning", "InvalidSpec")]].concat(),
    )
    .await;
    world
        .change("rome", json!({"sync": {"schedule": "1 * * * *"}}))
        .await;
    world.settles("rome").await;
    eventually("it is well again", async || {
        let told = told(&world).await;
        let well = ("Normal".to_owned(), "Valid".to_owned());
        if told.contains(&well) {
            Ok(())
        } else {
            Err(told)
        }
    })
    .await;
}

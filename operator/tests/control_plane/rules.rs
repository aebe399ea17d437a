//! The rules of the CRD as the real API server applies them: a row for each, from both sides.

use kube::{
    Api,
    api::{ApiResource, DynamicObject, PostParams},
};
use tile_proxy_operator::crd::TileProxy;

use crate::world::World;

#[path = "../../src/crd/rules/rows.rs"]
mod rows;

#[tokio::test]
async fn the_api_server_refuses_with_a_message_that_helps() {
    let world = World::new("rules").await;
    let kind = ApiResource::erase::<TileProxy>(&());
    let api = Api::<DynamicObject>::namespaced_with(world.client.clone(), &world.namespace, &kind);
    let try_only = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let mut wrong = Vec::new();
    for (pointer, value, want) in rows::rows() {
        let proxy = serde_json::from_value(rows::with(pointer, &value)).expect("an object");
        let said = match api.create(&try_only, &proxy).await {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let as_wanted = want.map_or(said.is_empty(), |want| said.contains(want));
        if !as_wanted {
            wrong.push(format!("{pointer} = {value}: {said:?}, not {want:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

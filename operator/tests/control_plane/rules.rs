//! The rules of the CRD as the real API server applies them: a row for each, from both sides.

use kube::{
    Api,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::Value;
use tile_proxy_operator::crd::TileProxy;

use crate::world::World;

#[path = "../../src/crd/rules/log_rows.rs"]
mod log_rows;
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
    let of_fields = rows::rows().into_iter().map(|(pointer, value, want)| {
        let what = format!("{pointer} = {value}");
        (what, rows::with(pointer, &value), want)
    });
    let of_logs = log_rows::rows().into_iter();
    let of_logs = of_logs.map(|(spec, want)| (spec.to_string(), log_rows::with(&spec), want));
    let all: Vec<(String, Value, Option<&str>)> = of_fields.chain(of_logs).collect();
    let mut wrong = Vec::new();
    for (what, proxy, want) in all {
        let proxy = serde_json::from_value(proxy).expect("an object");
        let said = match api.create(&try_only, &proxy).await {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let as_wanted = want.map_or(said.is_empty(), |want| said.contains(want));
        if !as_wanted {
            wrong.push(format!("{what}: {said:?}, not {want:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! The rules of the CRD as the real API server applies them: a row for each, from both sides.

use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
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

/// The list of logs is a map by name: whoever applies one of them owns that one.
#[tokio::test]
async fn two_people_may_each_own_a_log_and_no_two_logs_have_one_name() {
    let world = World::new("logs-by-name").await;
    let api = world.api::<TileProxy>();
    let apply = async |person: &str, logs: &[&str]| {
        let logs = logs.iter().map(|name| {
            let upstreams = json!([{"url": format!("https://{name}.sigstore.dev/")}]);
            json!({"name": name, "upstreams": upstreams})
        });
        let spec = json!({"logs": logs.collect::<Vec<_>>()});
        let patch = Patch::Apply(log_rows::with(&spec));
        let params = PatchParams::apply(person);
        let applied = api.patch("rome2026h1", &params, &patch).await;
        let proxy = applied.map_err(|error| error.to_string())?;
        let names = proxy.spec.logs.into_iter().map(|log| log.name);
        Ok::<Vec<String>, String>(names.collect())
    };
    assert_eq!(apply("one", &["rome"]).await.expect("taken"), ["rome"]);
    let both = apply("other", &["oslo"]).await.expect("taken");
    assert_eq!(both, ["rome", "oslo"]);
    assert_eq!(apply("other", &[]).await.expect("taken"), ["rome"]);

    let twice = json!({"name": "rome", "upstreams": [{"url": "https://rome.sigstore.dev/"}]});
    let proxy = log_rows::with(&json!({"logs": [twice, twice]}));
    let proxy = serde_json::from_value(proxy).expect("a TileProxy");
    let said = api.create(&PostParams::default(), &proxy).await;
    let said = said.expect_err("one name, two logs").to_string();
    assert!(said.contains("Duplicate value"), "{said}");
}

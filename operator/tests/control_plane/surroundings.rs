//! P24, P28: what the cluster or others are to bring is told while it is missing, and taken up once it
//! is there. And every example, which needs most of it.

use std::fs;

use k8s_openapi::{
    api::core::v1::ConfigMap,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, ResourceExt as _, api::PostParams};
use serde_json::json;
use tile_proxy_operator::{controller::build::ServiceMonitor, crd::TileProxy};
use tile_proxy_tests::paths;

use crate::{
    operator::Operator,
    world::{World, find, reason},
};

#[tokio::test]
async fn a_service_monitor_waits_for_its_kind_and_nothing_waits_for_it() {
    let world = World::new("service-monitor").await;
    let monitored = json!({"monitoring": {"serviceMonitor": {"enabled": true}}});
    world.create("rome", 1, monitored).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let proxy = world.awaits("rome", "Degraded", "True").await;
    assert_eq!(reason(&proxy, "Degraded"), "UnknownKind");

    install_service_monitors(&world).await;
    world.awaits("rome", "Degraded", "False").await;
    assert_eq!(world.names::<ServiceMonitor>().await, ["rome"]);

    let monitored = json!({"monitoring": {"serviceMonitor": {"enabled": false}}});
    world.change("rome", monitored).await;
    world.settles("rome").await;
    assert_eq!(world.names::<ServiceMonitor>().await, Vec::<String>::new());
    drop(operator);
}

/// What the Prometheus operator would bring, without its checks.
async fn install_service_monitors(world: &World) {
    let kind = json!({
        "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "names": {"kind": "ServiceMonitor", "plural": "servicemonitors"},
            "scope": "Namespaced",
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                }},
            }],
        },
    });
    let kind: CustomResourceDefinition = serde_json::from_value(kind).expect("a CRD");
    let kinds = Api::<CustomResourceDefinition>::all(world.client.clone());
    let created = kinds.create(&PostParams::default(), &kind).await;
    created.expect("a kind the API server takes");
}

#[tokio::test]
async fn a_config_map_that_is_missing_is_named_until_it_has_the_entry() {
    let world = World::new("missing-reference").await;
    let keys =
        json!({"publicKeys": [{"configMapKeyRef": {"name": "log-keys", "key": "rome.pub"}}]});
    world.create("rome", 1, keys).await;
    let operator = Operator::start(&world).await;
    let proxy = world.awaits("rome", "Degraded", "True").await;
    assert_eq!(reason(&proxy, "Degraded"), "ReferenceMissing");
    let said = |proxy: &TileProxy| {
        let found = find(proxy, "Degraded");
        found.map(|c| c.message.clone()).unwrap_or_default()
    };
    let want = "there is no ConfigMap log-keys, which spec.publicKeys[0].configMapKeyRef refers to";
    assert_eq!(said(&proxy), want);

    let keys = json!({"metadata": {"name": "log-keys"}, "data": {"oslo.pub": ""}});
    let keys: ConfigMap = serde_json::from_value(keys).expect("a ConfigMap");
    let created = world.api().create(&PostParams::default(), &keys).await;
    created.expect("a ConfigMap");
    operator.pokes(&world, "rome").await;
    let proxy = world.get::<TileProxy>("rome").await;
    assert!(
        said(&proxy).contains("has no entry rome.pub"),
        "{}",
        said(&proxy)
    );

    let entry = json!({"data": {"rome.pub": "a key"}});
    world.merge::<ConfigMap>("log-keys", &entry).await;
    world.awaits("rome", "Degraded", "False").await;
}

#[tokio::test]
async fn every_example_settles() {
    let mut count = 0;
    for entry in fs::read_dir(paths::checkout().join("examples")).expect("examples") {
        let path = entry.expect("a file").path();
        let text = fs::read_to_string(&path).expect("text");
        let Ok(mut proxy) = serde_saphyr::from_str::<TileProxy>(&text) else {
            continue; // a configuration of the proxy
        };
        count += 1;
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let world = World::new(&format!("example-{name}")).await;
        proxy.metadata.namespace = None;
        let created = world.api().create(&PostParams::default(), &proxy).await;
        created.unwrap_or_else(|error| panic!("{name}: {error}"));
        let operator = Operator::start(&world).await;
        world.settles(&proxy.name_any()).await;
        drop(operator);
    }
    assert!(count >= 7, "found {count} examples");
}

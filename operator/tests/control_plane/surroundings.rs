//! P24, P28: what the cluster or others are to bring is told while it is missing, and taken up once it
//! is there. And every example, which needs most of it.

use std::fs;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{ResourceExt as _, api::PostParams};
use serde_json::json;
use tile_proxy_operator::{controller::build::ServiceMonitor, crd::TileProxy};
use tile_proxy_tests::paths;

use crate::{
    operator::Operator,
    world::{Plane, World, find, reason},
};

#[tokio::test]
async fn a_service_monitor_waits_for_its_kind_and_nothing_waits_for_it() {
    let plane = Plane::own(&[]);
    let world = World::on(plane, "service-monitor").await;
    let monitored = json!({"monitoring": {"serviceMonitor": {"enabled": true}}});
    world.create("rome", 1, monitored).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let proxy = world.awaits("rome", "Degraded", "True").await;
    assert_eq!(reason(&proxy, "Degraded"), "UnknownKind");

    plane.install_prometheus_operator();
    world.awaits("rome", "Degraded", "False").await;
    assert_eq!(world.names::<ServiceMonitor>().await, ["rome"]);

    let monitored = json!({"monitoring": {"serviceMonitor": {"enabled": false}}});
    world.change("rome", monitored).await;
    world.settles("rome").await;
    assert_eq!(world.names::<ServiceMonitor>().await, Vec::<String>::new());
    drop(operator);
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
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
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
    assert!(count >= 14, "found {count} examples");
}

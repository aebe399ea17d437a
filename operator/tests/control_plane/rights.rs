//! P25: the operator has every right that it needs, which all tests show, and none that it does not
//! use.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    audit,
    program::Program,
    world::{Plane, RELEASE, SYSTEM, World, eventually, find, reason},
};

/// Rights that no request shows, as the API server writes them, and who asks for each.
const ASKED_FOR_BY_OTHERS: [&str; 1] = [
    // An admission plugin, which runs here: children block the deletion of their owner.
    "update tileproxies/finalizers",
];

#[tokio::test]
async fn every_right_of_the_chart_is_used() {
    let world = World::new("rights").await;
    let program = Program::start(&world, true, &[]);
    let all = json!({
        "cache": {"retention": {"whenScaled": "Delete"}},
        "monitoring": {"serviceMonitor": {"enabled": true}},
        "networkPolicy": {"enabled": true},

    });
    world.create("rome", 2, all).await;
    world.settles("rome").await;
    let growth = json!({"cache": {"size": "2Gi"}, "image": {"tag": "7.2"}});
    world.change("rome", growth).await;
    world.settles("rome").await;
    // The second rollout within minutes is told as a repeat of the first.
    world.change("rome", json!({"image": {"tag": "7.3"}})).await;
    world.settles("rome").await;
    let less = json!({
        "replicas": 1,
        "monitoring": {"serviceMonitor": {"enabled": false}},
        "networkPolicy": {"enabled": false},
        "sync": {"enabled": false},
    });
    world.change("rome", less).await;
    world.settles("rome").await;
    // What it asks for last.
    used_in(&world, "delete persistentvolumeclaims").await;
    // A watch is written down when it ends.
    program.stop();

    let granted = granted(&world);
    let expected = granted.len() - ASKED_FOR_BY_OTHERS.len();
    eventually("every right to be used", async || {
        let used = used(&world);
        let unused: Vec<_> = granted.difference(&used).collect();
        if unused == ASKED_FOR_BY_OTHERS.each_ref() {
            Ok(())
        } else {
            Err(format!("granted and not used: {unused:?}"))
        }
    })
    .await;
    println!("{expected} rights are granted, and used");
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_until_it_is_there() {
    let world = World::on(Plane::own(&[]), "missing-right").await;
    let program = Program::start(&world, false, &[]);
    world.create("rome", 1, json!({})).await;
    world.settles("rome").await;
    let role = ["get", "clusterrole", RELEASE, "--output=json"];
    let role: Value = serde_json::from_str(&world.kubectl(&role)).expect("JSON");
    let without = |resource: &str| -> Value {
        let rules =
            list(&role["rules"]).filter(|rule| !list(&rule["resources"]).any(|r| r == resource));
        rules.cloned().collect()
    };
    for resource in ["cronjobs", "deployments"] {
        let grant = |rules: &Value| {
            let patch = json!({"rules": rules}).to_string();
            world.kubectl(&[
                "patch",
                "clusterrole",
                RELEASE,
                "--type=merge",
                "--patch",
                &patch,
            ]);
        };
        grant(&without(resource));
        let proxy = world.awaits("rome", "Degraded", "True").await;
        assert_eq!(reason(&proxy, "Degraded"), "Forbidden");
        let said = find(&proxy, "Degraded").map_or("", |c| &c.message);
        let names_it = said.contains("cannot list resource") && said.contains(resource);
        assert!(names_it, "{said}");
        grant(&role["rules"]);
        world.awaits("rome", "Degraded", "False").await;
    }
    program.stop();
}

/// Waits until `right` was used.
async fn used_in(world: &World, right: &str) {
    eventually(right, async || {
        let used = used(world);
        if used.contains(right) {
            Ok(())
        } else {
            Err(used)
        }
    })
    .await;
}

/// Verb and resource of every rule of the operator's roles.
fn granted(world: &World) -> BTreeSet<String> {
    let control = world.plane.control();
    let read = |args: &[&str]| -> Value {
        let run = control.kubectl(args).args(["--output=json"]);
        serde_json::from_str(&run.stdout().expect("roles")).expect("JSON")
    };
    let mut roles = vec![read(&["get", "clusterrole", RELEASE])];
    let of_namespace = read(&["get", "roles", "--namespace", SYSTEM]);
    roles.extend(
        of_namespace["items"]
            .as_array()
            .cloned()
            .unwrap_or_default(),
    );
    let mut granted = BTreeSet::new();
    for rule in roles.iter().flat_map(|role| list(&role["rules"])) {
        for resource in list(&rule["resources"]) {
            for verb in list(&rule["verbs"]) {
                granted.insert(format!("{} {}", text(verb), text(resource)));
            }
        }
    }
    assert!(granted.len() > 50, "{granted:?}");
    granted
}

/// Verb and resource of everything that the operator was allowed in the namespace of `world` and in
/// its own, by the API server's account.
fn used(world: &World) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for event in audit::allowed(world) {
        let object = &event["objectRef"];
        let resource = match object["subresource"].as_str() {
            Some(subresource) => format!("{}/{subresource}", text(&object["resource"])),
            None => text(&object["resource"]).to_owned(),
        };
        used.insert(format!("{} {resource}", text(&event["verb"])));
        // An apply that creates needs both rights and is told as a patch.
        if event["responseStatus"]["code"] == 201 {
            used.insert(format!("create {resource}"));
        }
    }
    used
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

//! P4 and P17: what others do to our fields is undone, what they do beside them is left alone, and
//! what the spec no longer says is removed.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::Api;
use serde_json::{Value, json};

use crate::{
    operator::Operator,
    state::without_history,
    world::{World, eventually},
};

/// What a person changes of what the operator has set: kind and name, and a merge patch.
fn edits(config_file: &str) -> Vec<(&'static str, Value)> {
    vec![
        (
            "configmap/rome-config",
            json!({"data": {config_file: "tile_proxy: {}"}}),
        ),
        (
            "cronjob/rome-sync",
            json!({"spec": {"schedule": "1 1 1 1 *", "suspend": true}}),
        ),
        (
            "cronjob/rome-sync",
            json!({"spec": {"concurrencyPolicy": "Allow"}}),
        ),
        (
            "deployment/rome-replica-0",
            json!({"spec": {"replicas": 5}}),
        ),
        (
            "deployment/rome-replica-1",
            json!({"spec": {"strategy": {"type": "RollingUpdate"}}}),
        ),
        (
            "deployment/rome-replica-1",
            json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 600}}}}),
        ),
        (
            "networkpolicy/rome",
            json!({"spec": {"ingress": [{}], "policyTypes": ["Egress"]}}),
        ),
        (
            "poddisruptionbudget/rome",
            json!({"spec": {"minAvailable": 0}}),
        ),
        (
            "serviceaccount/rome-tile-proxy",
            json!({"automountServiceAccountToken": true}),
        ),
        (
            "servicemonitor/rome",
            json!({"spec": {"endpoints": [], "jobLabel": "other"}}),
        ),
        (
            "service/rome",
            json!({"spec": {"selector": {"app.kubernetes.io/instance": "milan"}}}),
        ),
        (
            "service/rome",
            json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}}),
        ),
        (
            "service/rome",
            json!({"spec": {"ports": [{"name": "http", "port": 9999, "targetPort": "http"}]}}),
        ),
        (
            "service/rome-replica-0",
            json!({"spec": {"publishNotReadyAddresses": false}}),
        ),
        (
            "deployment/rome-replica-0",
            json!({"spec": {"template": {"spec": {"containers": [
                {"name": "other", "image": "example.net/other"},
            ]}}}}),
        ),
    ]
}

const CHILDREN: [&str; 11] = [
    "configmap/rome-config",
    "cronjob/rome-sync",
    "deployment/rome-replica-0",
    "deployment/rome-replica-1",
    "networkpolicy/rome",
    "poddisruptionbudget/rome",
    "pvc/rome-replica-1",
    "service/rome",
    "service/rome-replica-0",
    "serviceaccount/rome-tile-proxy",
    "servicemonitor/rome",
];

/// A spec with which there is a child of every kind.
fn all_kinds() -> Value {
    json!({
        "monitoring": {"serviceMonitor": {"enabled": true}},
        "networkPolicy": {"enabled": true},
    })
}

#[tokio::test]
async fn an_edit_of_any_child_is_undone() {
    let world = World::new("edits").await;
    world.create("rome", 2, all_kinds()).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let want = without_history(world.state().await);
    let config = world.get::<ConfigMap>("rome-config").await.data;
    let config_file = config.and_then(|data| data.into_keys().next());
    for (child, patch) in edits(&config_file.unwrap_or_default()) {
        let text = patch.to_string();
        world.kubectl(&["patch", child, "--type=merge", "--patch", &text]);
        let what = format!("{child} after {patch}");
        eventually(&what, async || {
            let mut state = without_history(world.state().await);
            // What others put beside our containers is theirs.
            remove_other_container(&mut state);
            let difference = crate::state::difference(&want, &state);
            if difference.is_empty() {
                Ok(())
            } else {
                Err(difference)
            }
        })
        .await;
    }
    // However it was done: what is applied is owned by applying, so that it can be removed again.
    for child in CHILDREN {
        let object = world.kubectl(&["get", child, "--output=json", "--show-managed-fields"]);
        let object: Value = serde_json::from_str(&object).expect("JSON");
        let managers = object["metadata"]["managedFields"]
            .as_array()
            .into_iter()
            .flatten();
        let otherwise =
            |m: &&Value| m["manager"] == "tile-proxy-operator" && m["operation"] != "Apply";
        let owned = managers.filter(otherwise).count();
        assert_eq!(owned, usize::from(child.starts_with("pvc/")), "{child}");
    }
    drop(operator);
}

fn remove_other_container(state: &mut crate::state::State) {
    for object in state.values_mut() {
        let containers = object.pointer_mut("/spec/template/spec/containers");
        if let Some(containers) = containers.and_then(Value::as_array_mut) {
            containers.retain(|container| container["name"] != "other");
        }
    }
}

#[tokio::test]
async fn a_child_that_is_deleted_is_made_again() {
    let world = World::new("deletions").await;
    world.create("rome", 2, all_kinds()).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let want = without_history(world.state().await);
    for child in CHILDREN {
        world.kubectl(&["delete", child]);
        world
            .becomes_apart_from_history(&want, &format!("{child} deleted"))
            .await;
    }
    drop(operator);
}

#[tokio::test]
async fn what_others_add_to_a_child_survives_repairs() {
    let world = World::new("additions").await;
    world.create("rome", 2, all_kinds()).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    for child in CHILDREN {
        world.kubectl(&["annotate", child, "example.net/added=kept"]);
        world.kubectl(&["label", child, "example.net/added=kept"]);
    }
    world.kubectl(&["annotate", "tp/rome", "example.net/added=kept"]);
    world.kubectl(&["rollout", "restart", "deployment/rome-replica-0"]);
    let sidecar = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "sidecar", "image": "example.net/sidecar"},
    ]}}}});
    let sidecar = sidecar.to_string();
    world.kubectl(&[
        "patch",
        "deployment/rome-replica-1",
        "--type=strategic",
        "--patch",
        &sidecar,
    ]);
    // A repair, and a successor that writes everything again.
    world.kubectl(&["scale", "deployment/rome-replica-0", "--replicas=2"]);
    operator.pokes(&world, "rome").await;
    operator.crash().await;
    let operator = Operator::start(&world).await;
    operator.pokes(&world, "rome").await;
    world.settles("rome").await;

    for child in CHILDREN {
        let object = world.kubectl(&["get", child, "--output=json"]);
        let object: Value = serde_json::from_str(&object).expect("JSON");
        for kind in ["annotations", "labels"] {
            let added = &object["metadata"][kind]["example.net/added"];
            assert_eq!(added, "kept", "{kind} of {child}");
        }
    }
    let deployments: Api<Deployment> = world.api();
    let restarted = deployments.get("rome-replica-0").await.expect("a replica");
    let restarted = serde_json::to_value(restarted).expect("plain data");
    let annotations = &restarted["spec"]["template"]["metadata"]["annotations"];
    assert!(
        annotations["kubectl.kubernetes.io/restartedAt"].is_string(),
        "{annotations}"
    );
    assert_eq!(restarted["spec"]["replicas"], 1);
    let beside = deployments.get("rome-replica-1").await.expect("a replica");
    let pod = beside.spec.template.spec.expect("a pod");
    let names: Vec<&str> = pod.containers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["sidecar", "tile-proxy"]);
}

#[tokio::test]
async fn what_the_spec_no_longer_says_is_removed_from_the_children() {
    let world = World::new("removed-fields").await;
    world.create("rome", 2, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let want = without_history(world.state().await);
    let more = json!({
        "affinity": {"nodeAffinity": {}},
        "imagePullSecrets": [{"name": "regcred"}],
        "nodeSelector": {"disk": "ssd"},
        "origin": "rome.example.net/2026h1",
        "podAnnotations": {"example.net/a": "1"},
        "podLabels": {"example.net/b": "2"},
        "resources": {"limits": {"memory": "1Gi"}},
        "service": {"annotations": {"example.net/c": "3"}, "labels": {"example.net/d": "4"}},
        "tolerations": [{"key": "example.net/e", "operator": "Exists"}],
    });
    world.change("rome", more.clone()).await;
    world.settles("rome").await;
    assert_ne!(without_history(world.state().await), want);
    let mut nothing = more;
    for value in nothing
        .as_object_mut()
        .into_iter()
        .flat_map(|spec| spec.values_mut())
    {
        *value = Value::Null;
    }
    world.change("rome", nothing).await;
    world
        .becomes_apart_from_history(&want, "everything optional removed")
        .await;
    drop(operator);
}

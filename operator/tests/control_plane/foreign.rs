//! P23, P22, P26: names that others have, names next to each other, and a second operator.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    faults::Faults,
    operator::{Operator, Setup},
    world::{World, all_of, find, reason},
};

#[tokio::test]
async fn what_is_not_ours_is_never_taken_over() {
    let pod = json!({
        "metadata": {"labels": {"app": "theirs"}},
        "spec": {
            "containers": [{"name": "theirs", "image": "example.net/theirs"}],
            "restartPolicy": "Always",
        },
    });
    let mut job = pod.clone();
    job["spec"]["restartPolicy"] = json!("Never");
    let selector = json!({"matchLabels": {"app": "theirs"}});
    let service = json!({"spec": {"ports": [{"port": 1}]}});
    let claim = json!({"spec": {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
    }});
    let cases = [
        (
            "v1",
            "ConfigMap",
            "rome-config",
            json!({"data": {"theirs": "yes"}}),
        ),
        ("v1", "ServiceAccount", "rome-tile-proxy", json!({})),
        ("v1", "Service", "rome", service.clone()),
        ("v1", "Service", "rome-replica-0", service),
        ("v1", "PersistentVolumeClaim", "rome-replica-0", claim),
        (
            "apps/v1",
            "Deployment",
            "rome-replica-0",
            json!({"spec": {"selector": selector, "template": pod}}),
        ),
        (
            "batch/v1",
            "CronJob",
            "rome-sync",
            json!({"spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": job}}}}),
        ),
        (
            "policy/v1",
            "PodDisruptionBudget",
            "rome",
            json!({"spec": {"minAvailable": 1, "selector": selector}}),
        ),
    ];
    all_of(
        cases
            .into_iter()
            .map(async |(version, kind, name, mut object)| {
                let namespace = format!("foreign-{}-{name}", kind.to_lowercase());
                let world = World::new(&namespace).await;
                object["apiVersion"] = json!(version);
                object["kind"] = json!(kind);
                object["metadata"] = json!({"name": name});
                world
                    .create_any(&object)
                    .expect("an object of somebody else");
                let read = || -> Value {
                    let text = world.kubectl(&["get", kind, name, "--output=json"]);
                    serde_json::from_str(&text).expect("JSON")
                };
                let theirs = read();

                world.create("rome", 2, json!({})).await;
                let operator = Operator::start(&world).await;
                let proxy = world.awaits("rome", "Degraded", "True").await;
                assert_eq!(reason(&proxy, "Degraded"), "Conflict");
                let said = find(&proxy, "Degraded").map_or("", |c| &c.message);
                assert!(said.contains(kind) && said.contains(name), "{said}");
                operator.pokes_any(&world, "rome").await;
                let now = read();
                // Whoever provisions volumes or counts pods may write the status.
                assert_eq!(now["spec"], theirs["spec"], "{kind} {name}");
                assert_eq!(now["data"], theirs["data"], "{kind} {name}");
                assert_eq!(now["metadata"]["labels"], theirs["metadata"]["labels"]);
                assert_eq!(now["metadata"]["uid"], theirs["metadata"]["uid"]);
                assert_eq!(now["metadata"]["ownerReferences"], Value::Null);

                world.kubectl(&["delete", kind, name]);
                let proxy = world.settles("rome").await;
                assert_eq!(reason(&proxy, "Degraded"), "AsExpected");
                drop(operator);
            }),
    )
    .await;
}

#[tokio::test]
async fn names_next_to_each_other_never_meet() {
    let world = World::new("neighbours").await;
    let longest = format!("rome-{}", "a".repeat(35));
    assert_eq!(longest.len(), 40);
    let names = [
        "rome",
        "rome-admin",
        "rome-config",
        "rome-peers",
        "rome-replica",
        "rome-sync",
        "rome-tile-proxy",
        &longest,
    ];
    for name in names {
        let replicas = if name == longest { 16 } else { 2 };
        world.create(name, replicas, json!({})).await;
    }
    let operator = Operator::with(&world, Faults::none(), LOOKS_OFTEN).await;
    for name in names {
        let proxy = world.settles(name).await;
        assert_eq!(reason(&proxy, "Degraded"), "AsExpected", "{name}");
    }
    // Settled for real: no two of them take a child from each other for ever.
    operator.looks_again("rome", 2).await;
    let writes = operator.faults.written().len();
    operator.looks_again("rome", 3).await;
    let after = operator.faults.written();
    assert_eq!(after.len(), writes, "{:?}", &after[writes..]);
}

#[tokio::test]
async fn two_operators_at_once_do_no_harm() {
    let alone = World::new("one-operator").await;
    let together = World::new("two-operators").await;
    let operators = [
        Operator::with(&alone, Faults::none(), LOOKS_OFTEN).await,
        Operator::with(&together, Faults::none(), LOOKS_OFTEN).await,
        Operator::with(&together, Faults::none(), LOOKS_OFTEN).await,
    ];
    for world in [&alone, &together] {
        world.create("rome", 3, json!({})).await;
        world.settles("rome").await;
        let change = json!({"image": {"tag": "7.2"}, "replicas": 2});
        world.change("rome", change).await;
        world.settles("rome").await;
    }
    // The same end, and no pod was replaced more often.
    let want = alone.state().await;
    together.becomes(&want, "two operators").await;
    // And then they rest.
    for operator in &operators {
        operator.looks_again("rome", 2).await;
        let writes = operator.faults.written().len();
        operator.looks_again("rome", 3).await;
        let after = operator.faults.written();
        assert_eq!(after.len(), writes, "{:?}", &after[writes..]);
    }
}

/// Often enough that a test can wait for it.
const LOOKS_OFTEN: Setup = Setup {
    resync: Duration::from_secs(1),
    retries: false,
};

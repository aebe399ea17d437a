//! What replicas say of their logs shows in the status, and holds a rollout.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;
use tile_proxy_operator::crd::{LogStatus, TileProxy};

use crate::{
    operator::Operator,
    replicas::Replicas,
    rollout::rounds,
    world::{World, eventually, find, reason},
};

/// Waits until the only log of `rome` is in this state.
async fn is(world: &World, state: &str) -> TileProxy {
    eventually(state, async || {
        let proxy = world.get::<TileProxy>("rome").await;
        let logs = proxy.status.clone().unwrap_or_default().logs;
        match &logs[..] {
            [LogStatus { state: said, .. }] if said == state => Ok(proxy),
            _ => Err(logs),
        }
    })
    .await
}

#[tokio::test]
async fn the_worst_that_a_replica_says_is_told_once_and_outlives_the_operator() {
    let (world, replicas) = (World::new("log-states").await, Replicas::start().await);
    for replica in ["rome-replica-0", "rome-replica-1"] {
        replicas.say(replica, "Fresh");
    }
    world.create("rome", 2, json!({})).await;
    let operator = Operator::asking(&world, replicas.url()).await;
    world.settles("rome").await;
    let proxy = is(&world, "Fresh").await;
    let logs = proxy.status.expect("a status").logs;
    assert_eq!(logs[0].name, "default");
    assert_eq!(logs[0].origin, "rome.example.net/2026h1");
    // Asked all the time, it calls nobody else.
    let (before, _) = replicas.asked();
    operator.rests().await;
    assert!(replicas.asked().0 > before, "nobody was asked meanwhile");

    replicas.say("rome-replica-1", "SplitView");
    is(&world, "SplitView").await;
    let proxy = world.awaits("rome", "Degraded", "True").await;
    assert_eq!(reason(&proxy, "Degraded"), "LogSplitView");
    assert_eq!(find(&proxy, "Ready").map(|c| &*c.status), Some("True"));
    eventually("an event", async || {
        let events = world.kubectl(&["get", "events", "--output=name"]);
        let reasons = world.kubectl(&["get", "events", "-o=jsonpath={.items[*].reason}"]);
        match reasons.contains("LogSplitView") {
            true => Ok(()),
            false => Err((events, reasons)),
        }
    })
    .await;
    operator.rests().await;

    // Another operator finds nobody who says anything: what was said stays.
    operator.crash().await;
    replicas.fall_silent();
    let operator = Operator::asking(&world, replicas.url()).await;
    let (before, _) = replicas.asked();
    eventually("they are asked", async || match replicas.asked().0 {
        asked if asked >= before + 4 => Ok(()),
        asked => Err(asked),
    })
    .await;
    operator.pokes(&world, "rome").await;
    is(&world, "SplitView").await;

    // What is no statistics changes nothing either; the truth does.
    replicas.answer("rome-replica-0", &json!({"version": 2, "logs": []}));
    operator.pokes(&world, "rome").await;
    is(&world, "SplitView").await;
    for replica in ["rome-replica-0", "rome-replica-1"] {
        replicas.say(replica, "Fresh");
    }
    is(&world, "Fresh").await;
    let proxy = world.awaits("rome", "Degraded", "False").await;
    assert_eq!(reason(&proxy, "Degraded"), "AsExpected");

    // Nobody is asked any more once it is gone.
    world.delete("rome").await;
    eventually("the questions to end", async || match replicas.asked() {
        (_, Some(last)) if last.elapsed() > Duration::from_secs(2) => Ok(()),
        (asked, _) => Err(asked),
    })
    .await;
}

#[tokio::test]
async fn a_rollout_stops_at_a_replica_whose_log_does_not_work_and_taking_it_back_recovers() {
    let (world, replicas) = (World::new("log-rollout").await, Replicas::start().await);
    let all = ["rome-replica-0", "rome-replica-1", "rome-replica-2"];
    for replica in all {
        replicas.say(replica, "Fresh");
    }
    let round = |round: &str| json!({"podAnnotations": {"round": round}});
    world.create("rome", 3, round("1")).await;
    let operator = Operator::asking(&world, replicas.url()).await;
    world.settles("rome").await;
    is(&world, "Fresh").await;

    // The next spec is one with which the log does not work; every pod becomes ready with it.
    replicas.say("rome-replica-0", "Failing");
    is(&world, "Failing").await;
    world.change("rome", round("2")).await;
    let proxy = eventually("the rollout to wait for the log", async || {
        let proxy = world.awaits("rome", "Progressing", "True").await;
        let message = find(&proxy, "Progressing").map(|c| c.message.clone());
        match message {
            Some(message) if message.contains("rome-replica-0 to serve default") => Ok(proxy),
            message => Err(message),
        }
    })
    .await;
    assert_eq!(reason(&proxy, "Degraded"), "LogFailing");
    operator.pokes(&world, "rome").await;
    assert_eq!(rounds(&world).await, ["2", "1", "1"]);

    world.change("rome", round("1")).await;
    world.settles("rome").await;
    assert_eq!(rounds(&world).await, ["1", "1", "1"]);
    for replica in &all[1..] {
        let deployment = world.get::<Deployment>(replica).await;
        assert_eq!(deployment.metadata.generation, Some(1), "{replica}");
    }

    // A log that is gone everywhere is no reason to wait.
    for replica in all {
        replicas.say(replica, "Failing");
    }
    world.change("rome", round("3")).await;
    world.settles("rome").await;
    assert_eq!(rounds(&world).await, ["3", "3", "3"]);
}

//! A second node, and what happens to it. Each replica's volume is on its node, so a replica does not
//! move; what is asked for here is that the others do not suffer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Scene, neighbours};
use crate::progress::Step;
use crate::real_log::NAMESPACE;
use crate::tile_proxy::{PAUSE, Pod};
use crate::tiles::WIDTH;
use crate::wait::{self, Seen};

pub(super) fn run(scene: &Scene<'_>) -> Result<()> {
    scene.cluster.up(2, scene.progress)?;
    scene.step("replicas spread", |step| spread(scene, step))?;
    scene.node_step("node cut off, and back", |step| cut_off(scene, step))?;
    scene.node_step("node lost, and back", |step| lost(scene, step))
}

/// Two replicas prefer two nodes.
fn spread(scene: &Scene<'_>, step: &Step<'_>) -> Result<String> {
    neighbours::apply_oslo(scene)?;
    scene.oslo.await_ready(step)?;
    let nodes: Vec<String> = [0, 1]
        .into_iter()
        .map(|ordinal| scene.oslo.pod(ordinal)?.node().map(str::to_owned))
        .collect::<Result<_>>()?;
    ensure!(nodes[0] != nodes[1], "both replicas are on {}", nodes[0]);
    Ok(format!("on {} and {}", nodes[0], nodes[1]))
}

/// Which replica of two is on the node that something happens to, and which is not.
struct Sides {
    node: String,
    gone: u16,
    stays: u16,
}

fn sides(scene: &Scene<'_>) -> Result<Sides> {
    let nodes = scene.cluster.other_nodes();
    let node = nodes
        .into_iter()
        .next()
        .context("there is no second node")?;
    let pod = scene.oslo.pod(0)?;
    let (gone, stays) = if pod.node()? == node { (0, 1) } else { (1, 0) };
    let pod = scene.oslo.pod(gone)?;
    ensure!(pod.node()? == node, "no replica is on {node}");
    Ok(Sides { node, gone, stays })
}

/// A replica whose node cannot be reached is missed by nobody: the other one answers for every tile,
/// also for those the lost one owns and which nobody has; and the Service leads to it alone, once
/// Kubernetes has noticed.
fn cut_off(scene: &Scene<'_>, step: &Step<'_>) -> Result<String> {
    let sides = sides(scene)?;
    scene.cluster.cut_off(&sides.node)?;
    let outcome = without_the_node(scene, &sides, step);
    // Also after a failure: what is looked at then should be the failure, not the cut.
    scene.cluster.reconnect(&sides.node)?;
    let asked = outcome?;
    await_node(scene, &sides.node, "True", step)?;
    scene.oslo.await_ready(step)?;
    await_serving(scene, sides.gone)?;
    Ok(format!("{asked}; back and ready"))
}

fn without_the_node(scene: &Scene<'_>, sides: &Sides, step: &Step<'_>) -> Result<String> {
    let tiles = scene.log.size()? / WIDTH;
    scene.oslo.read_tiles_from(sides.stays, 0..tiles)?;
    await_node(scene, &sides.node, "Unknown", step)?;
    // Node by node, kube-proxy follows the endpoints within moments.
    wait::until("the Service to leave the node out", NOTICED, PAUSE, || {
        let of = ["endpointslices", "--namespace", NAMESPACE];
        let selector = format!("--selector=kubernetes.io/service-name={}", scene.oslo.name);
        let slices = scene
            .cluster
            .get::<Value>(&[&of[..], &[&selector]].concat())?;
        let slices = slices.unwrap_or_default();
        let lists = slices["items"].as_array().into_iter().flatten();
        let endpoints = lists.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        let mut there = endpoints.filter(|one| one["nodeName"] == sides.node.as_str());
        Ok(if there.any(|one| one["conditions"]["ready"] == true) {
            Seen::NotYet("its endpoint is ready".to_owned())
        } else {
            Seen::Ready(())
        })
    })?;
    wait::until("the Service to answer", NOTICED, PAUSE, || {
        Ok(match scene.oslo.body("tile/0/000") {
            Ok(_) => Seen::Ready(()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })?;
    for _ in 0..SERVICE_REQUESTS {
        scene.oslo.body("tile/0/000")?;
    }
    Ok(format!(
        "{tiles} cold tiles from the other replica, {SERVICE_REQUESTS} requests to the Service, 0 failed"
    ))
}

/// A node that loses power comes back with its disk: the replica's containers are new, its cache is
/// consistent, and what was in it is served.
fn lost(scene: &Scene<'_>, step: &Step<'_>) -> Result<String> {
    let sides = sides(scene)?;
    let kept = scene.oslo.body_from(sides.gone, "tile/0/001")?;
    // What has not been flushed yet may be lost, as documented.
    scene.oslo.sources(sides.gone, 1..2)?;
    let before = scene.oslo.pod(sides.gone)?;
    scene.cluster.end_node(&sides.node)?;
    let served = scene.oslo.body_from(sides.stays, "tile/0/001");
    if scene.full {
        await_node(scene, &sides.node, "Unknown", step)?;
        await_given_up(scene, &before)?;
    }
    scene.cluster.start_node(&sides.node)?;
    ensure!(
        served? == kept,
        "the replica that stayed serves another tile"
    );
    step.note("waiting for the replica");
    wait::until("the replica's container to run again", BACK, PAUSE, || {
        // Of two pods for a moment, one is about to go.
        let Ok(pod) = scene.oslo.pod(sides.gone) else {
            return Ok(Seen::NotYet("its pod is being replaced".to_owned()));
        };
        Ok(if pod.is_ready() && pod.run() != before.run() {
            Seen::Ready(())
        } else {
            Seen::NotYet("it is the one from before, or not ready".to_owned())
        })
    })
    .with_context(|| scene.cluster.diagnosis(&[NAMESPACE]))?;
    scene.oslo.await_ready(step)?;
    await_serving(scene, sides.gone)?;
    let again = scene.oslo.body_from(sides.gone, "tile/0/001")?;
    ensure!(again == kept, "tile/0/001 is another one");
    let how = if scene.full { "given up, " } else { "" };
    Ok(format!(
        "{how}started again; its replica serves from its disk"
    ))
}

/// Waits until Kubernetes has told the pod to go: some time after its node was lost.
fn await_given_up(scene: &Scene<'_>, pod: &Pod) -> Result<()> {
    wait::until("the pod to be given up", NOTICED, PAUSE, || {
        let of = ["pod", &pod.metadata.name, "--namespace", NAMESPACE];
        let found = scene.cluster.get::<Value>(&of)?.unwrap_or_default();
        Ok(match found["metadata"]["deletionTimestamp"].as_str() {
            Some(_) => Seen::Ready(()),
            None => Seen::NotYet("it was not told to go".to_owned()),
        })
    })
}

/// Waits until the condition `Ready` of a node has this status.
fn await_node(scene: &Scene<'_>, name: &str, status: &str, step: &Step<'_>) -> Result<()> {
    wait::until(
        &format!("node {name} to be {status}"),
        NOTICED,
        PAUSE,
        || {
            let node = scene
                .cluster
                .get::<Value>(&["node", name])?
                .unwrap_or_default();
            let mut conditions = node["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten();
            let ready = conditions.find(|condition| condition["type"] == "Ready");
            let now = ready.map_or("absent", |ready| {
                ready["status"].as_str().unwrap_or_default()
            });
            step.note(format_args!("{name} is {now}"));
            Ok(if now == status {
                Seen::Ready(())
            } else {
                Seen::NotYet(format!("it is {now}"))
            })
        },
    )
}

/// A ready pod is not yet one that its Service leads to.
fn await_serving(scene: &Scene<'_>, ordinal: u16) -> Result<()> {
    wait::until("the replica to serve", BACK, PAUSE, || {
        Ok(match scene.oslo.body_from(ordinal, "tile/0/000") {
            Ok(_) => Seen::Ready(()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
}

/// Requests that must all succeed once the Service leaves the node out.
const SERVICE_REQUESTS: u32 = 40;
/// Twenty seconds by the settings of the cluster; a loaded machine takes longer.
const NOTICED: Duration = Duration::from_secs(120);
const BACK: Duration = Duration::from_secs(180);

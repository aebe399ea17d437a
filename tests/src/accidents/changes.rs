//! Changes that people make, while clients are served.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Scene;
use crate::chain;
use crate::clients::Clients;
use crate::older_chart::is_older;
use crate::paths;
use crate::progress::Step;
use crate::real_log::NAMESPACE;
use crate::tile_proxy::{PAUSE, Pod};
use crate::wait::{self, Seen};

pub(super) fn run(scene: &Scene<'_>) -> Result<()> {
    scene.step("one to none", |step| none(scene, step))?;
    scene.step("none to two", |step| scene.tessera.scale(2, step))?;
    scene.step("two to three", |step| scene.tessera.scale(3, step))?;

    let clients = Clients::of(scene.cluster, NAMESPACE, scene.tessera.name)?;
    scene.step("chart and image upgraded", |step| {
        upgrade(scene, &clients, step)
    })?;
    scene.step("configuration changed", |step| {
        configuration(scene, &clients, step)
    })?;
    scene.step("bad image, and back", |step| {
        bad_image(scene, &clients, step)
    })?;
    scene.step("pod deleted", |_| pod_deleted(scene, &clients))
}

/// At 0 replicas no pod is left, no sync begins, and every volume is kept.
fn none(scene: &Scene<'_>, step: &Step<'_>) -> Result<String> {
    scene.tessera.scale(0, step)?;
    wait::until("no replica", DEADLINE, PAUSE, || {
        let pods = scene.tessera.pods()?;
        Ok(match pods.first() {
            None => Seen::Ready(()),
            Some(pod) => Seen::NotYet(format!("{} is there", pod.metadata.name)),
        })
    })?;
    let sync = scene
        .cluster
        .get::<Value>(&["cronjob", "tessera-sync", "--namespace", NAMESPACE])?
        .context("the CronJob is gone")?;
    ensure!(
        sync["spec"]["suspend"] == true,
        "syncs go on without replicas"
    );
    for ordinal in 0..3 {
        let claim = scene.tessera.replica(ordinal);
        let found = scene
            .cluster
            .get::<Value>(&["pvc", &claim, "--namespace", NAMESPACE])?;
        ensure!(found.is_some(), "the claim {claim} is gone");
    }
    Ok("no pod, no sync; three volumes".to_owned())
}

/// The chart of today over an older one: operator and replicas change their image, too.
fn upgrade(scene: &Scene<'_>, clients: &Clients<'_>, step: &Step<'_>) -> Result<String> {
    let crd = || -> Result<Value> {
        let crd = ["crd", "tileproxies.tiles.stella-ops.org"];
        scene.cluster.get(&crd)?.context("there is no CRD")
    };
    ensure!(is_older(&crd()?), "the chart was upgraded before");
    let chart = paths::checkout().join(chain::CHART);
    chain::install_operator(scene.cluster, &chart, scene.image, &[], step)?;
    ensure!(
        !is_older(&crd()?),
        "the CRD was not upgraded with the chart"
    );
    wait::until("all replicas to run the image", DEADLINE, PAUSE, || {
        let pods = scene.tessera.pods()?;
        let new = pods.iter().filter(|pod| runs(pod, &scene.image.reference));
        let new = new.count();
        step.note(format_args!("{new} of {}", pods.len()));
        Ok(match new {
            3 => Seen::Ready(()),
            _ => Seen::NotYet(format!("{new} of {}", pods.len())),
        })
    })
    .with_context(|| scene.cluster.diagnosis(&[NAMESPACE]))?;
    scene.tessera.await_ready(step)?;
    let told = clients.were_all_served()?;
    chain::test_release(scene.cluster, step)?;
    Ok(format!(
        "three replicas on the image; {} requests, 0 failed",
        told.asked
    ))
}

/// A setting that needs new pods reaches all of them, one by one.
fn configuration(scene: &Scene<'_>, clients: &Clients<'_>, step: &Step<'_>) -> Result<String> {
    let uids = || -> Result<BTreeSet<String>> {
        let pods = scene.tessera.pods()?;
        Ok(pods.into_iter().map(|pod| pod.metadata.uid).collect())
    };
    let before = uids()?;
    scene
        .tessera
        .patch(r#"{"spec": {"cache": {"memory": "64Mi"}}}"#)?;
    scene.tessera.await_ready(step)?;
    let after = uids()?;
    ensure!(
        before.is_disjoint(&after),
        "a pod has the old configuration"
    );
    let told = clients.were_all_served()?;
    Ok(format!("three new pods; {} requests, 0 failed", told.asked))
}

/// An image that does not exist stops at the replica that was to have it first; the spec taken back
/// mends that one, without hands.
fn bad_image(scene: &Scene<'_>, clients: &Clients<'_>, step: &Step<'_>) -> Result<String> {
    let before = scene.tessera.pods()?;
    scene
        .tessera
        .patch(r#"{"spec": {"image": {"tag": "no-such-tag"}}}"#)?;
    // By then the kubelet has tried twice, and the operator has had all the time to go on.
    let stopped = wait::until("a replica without its image", DEADLINE, PAUSE, || {
        let pods = scene.tessera.pods()?;
        let waits = |pod: &&Pod| {
            let mut containers = pod.status.container_statuses.iter();
            containers.any(|container| {
                let waiting = container.state.waiting.as_ref();
                waiting.is_some_and(|waiting| waiting.reason == "ImagePullBackOff")
            })
        };
        Ok(match pods.iter().find(waits) {
            Some(pod) => Seen::Ready(pod.metadata.name.clone()),
            None => Seen::NotYet("every replica has its image".to_owned()),
        })
    })?;
    let serving = |pods: &[Pod]| -> BTreeSet<String> {
        let ready = pods.iter().filter(|pod| pod.is_ready());
        ready.map(|pod| pod.metadata.uid.clone()).collect()
    };
    let (were, are) = (serving(&before), serving(&scene.tessera.pods()?));
    ensure!(
        are.len() == 2 && are.is_subset(&were),
        "of {} replicas that served, {} still do",
        were.len(),
        are.intersection(&were).count()
    );
    scene
        .tessera
        .patch(r#"{"spec": {"image": {"tag": null}}}"#)?;
    scene.tessera.await_ready(step)?;
    let kept = serving(&scene.tessera.pods()?);
    ensure!(
        are.is_subset(&kept),
        "a replica that served was replaced on the way back"
    );
    let told = clients.were_all_served()?;
    Ok(format!(
        "stopped at {stopped}; {} requests, 0 failed",
        told.asked
    ))
}

fn pod_deleted(scene: &Scene<'_>, clients: &Clients<'_>) -> Result<String> {
    let pod = scene.tessera.pod(1)?.metadata.name;
    scene
        .cluster
        .kubectl(["delete", "pod", &pod, "--namespace", NAMESPACE])
        .arg("--timeout=90s")
        .deadline(DEADLINE)
        .stdout()?;
    let replica = scene.tessera.replica(1);
    scene
        .cluster
        .await_deployment(NAMESPACE, &replica, DEADLINE)?;
    let told = clients.were_all_served()?;
    Ok(format!("replaced; {} requests, 0 failed", told.asked))
}

fn runs(pod: &Pod, image: &str) -> bool {
    pod.spec
        .containers
        .iter()
        .all(|container| container.image == image)
}

/// Three replicas, one after the other.
const DEADLINE: Duration = Duration::from_secs(240);

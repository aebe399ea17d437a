//! The end: an operator for one namespace only, then no TileProxy, no operator, no CRD; and nothing
//! left but what a policy retains.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::examples::NAMESPACES;
use super::{Scene, neighbours};
use crate::chain::{self, RELEASE};
use crate::paths;
use crate::progress::Step;
use crate::real_log::NAMESPACE;
use crate::tile_proxy::{OPERATOR_NAMESPACE, PAUSE};
use crate::wait::{self, Seen};

pub(super) fn run(scene: &Scene<'_>) -> Result<()> {
    scene.step("operator uninstalled", |_| uninstalled(scene))?;
    scene.step("operator for one namespace", |step| namespaced(scene, step))?;
    scene.step("TileProxies deleted", |_| deleted(scene))?;
    scene.step("chart and CRD removed", |_| removed(scene))?;
    scene.step("nothing left", |_| nothing_left(scene))
}

/// Without the chart everything that runs goes on running.
fn uninstalled(scene: &Scene<'_>) -> Result<String> {
    uninstall(scene)?;
    scene.tessera.body("tile/0/000")?;
    ensure!(
        neighbours::ready_replicas(scene, NAMESPACE, scene.tessera.name)? > 0,
        "the TileProxy is there, but says that nothing is ready"
    );
    Ok("replicas serve, and the TileProxies are there".to_owned())
}

/// Installed for one namespace, the operator looks after what is there, and after nothing else.
fn namespaced(scene: &Scene<'_>, step: &Step<'_>) -> Result<String> {
    let chart = paths::checkout().join(chain::CHART);
    let only = format!("watchNamespaces={{{NAMESPACE}}}");
    chain::install_operator(scene.cluster, &chart, scene.image, &[&only], step)?;
    scene.cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {ELSEWHERE}}}\n"
    ))?;
    let example = std::fs::read_to_string(paths::checkout().join("examples/tileproxy.yaml"))?;
    let there = format!("namespace: {NAMESPACE}");
    ensure!(
        example.contains(&there),
        "the example is not in {NAMESPACE}"
    );
    let elsewhere = format!("namespace: {ELSEWHERE}");
    scene.cluster.apply(&example.replace(&there, &elsewhere))?;
    // By the time this one has changed, the other one would have been seen.
    scene.tessera.scale(3, step)?;
    let of = ["tileproxy", "tessera", "--namespace", ELSEWHERE];
    let other = scene.cluster.get::<Value>(&of)?.context("it is gone")?;
    ensure!(
        other.get("status").is_none(),
        "the operator has seen {ELSEWHERE}"
    );
    Ok(format!("scales in {NAMESPACE}, sees nothing elsewhere"))
}

/// What belonged to TileProxies goes with them, but for the volumes that are to be kept.
fn deleted(scene: &Scene<'_>) -> Result<String> {
    scene
        .cluster
        .kubectl(["delete", "tileproxies", "--all", "--all-namespaces"])
        .arg("--timeout=120s")
        .deadline(DEADLINE)
        .stdout()?;
    scene
        .cluster
        .kubectl(["delete", "namespace", ELSEWHERE, "--timeout=120s"])
        .deadline(DEADLINE)
        .stdout()?;
    let kept = wait::until("claims of the one that keeps them", DEADLINE, PAUSE, || {
        let names = scene
            .cluster
            .kubectl(["get", "pvc", "--namespace", NAMESPACE])
            .args(["--selector=app.kubernetes.io/name=tile-proxy"])
            .arg("--output=jsonpath={.items[*].metadata.name}")
            .stdout()?;
        let mut names: Vec<&str> = names.split_whitespace().collect();
        names.sort_unstable();
        Ok(if names == KEPT {
            Seen::Ready(names.len())
        } else {
            Seen::NotYet(names.join(", "))
        })
    })?;
    Ok(format!(
        "{kept} volumes kept, which have whenDeleted: Retain; the others are gone"
    ))
}

fn removed(scene: &Scene<'_>) -> Result<String> {
    uninstall(scene)?;
    scene
        .cluster
        .kubectl(["delete", "crd", "tileproxies.tiles.stella-ops.org"])
        .arg("--timeout=120s")
        .deadline(DEADLINE)
        .stdout()?;
    scene
        .cluster
        .kubectl(["delete", "namespace", OPERATOR_NAMESPACE, "--timeout=120s"])
        .deadline(DEADLINE)
        .stdout()?;
    Ok("helm uninstall, kubectl delete crd".to_owned())
}

/// Every object of every kind, by name: what is ours is a volume that was to be kept.
fn nothing_left(scene: &Scene<'_>) -> Result<String> {
    let kinds = scene
        .cluster
        .kubectl(["api-resources", "--verbs=list", "--output=name"])
        .stdout()?;
    // Events tell of what is gone; nodes of ours have our name.
    let not_ours = [
        "events",
        "events.events.k8s.io",
        "nodes",
        "csinodes.storage.k8s.io",
    ];
    let kinds: Vec<&str> = kinds
        .lines()
        .filter(|kind| !not_ours.contains(kind))
        .collect();
    let mut seen = 0;
    wait::until("all objects to be gone", DEADLINE, PAUSE, || {
        let objects = scene
            .cluster
            .kubectl(["get", &kinds.join(","), "--all-namespaces", "--no-headers"])
            .arg("--output=custom-columns=A:.kind,B:.metadata.namespace,C:.metadata.name")
            .stdout()?;
        seen = objects.lines().count();
        let left: Vec<String> = objects
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| is_ours(words) && !may_stay(words))
            .map(|words| words.join(" "))
            .collect();
        Ok(if left.is_empty() {
            Seen::Ready(())
        } else {
            Seen::NotYet(left.join(", "))
        })
    })?;
    Ok(format!(
        "of {seen} objects of {} kinds, three claims are ours",
        kinds.len()
    ))
}

/// Whether an object (kind, namespace, name) has a name that only we give.
fn is_ours(words: &[&str]) -> bool {
    let [_, namespace, name] = words else {
        return true; // no such line is expected, so it had better be looked at
    };
    // Where the cluster keeps what it is made of; with kind, that has our name in it as well.
    if CLUSTERS_OWN.contains(namespace) {
        return false;
    }
    let ours = ["tile-proxy", "tileproxies", "tessera", "oslo", "verifier"];
    let namespaces = [OPERATOR_NAMESPACE, ELSEWHERE];
    let namespaced = namespaces.contains(namespace) || namespaces.contains(name);
    let of_an_example = [namespace, name]
        .iter()
        .any(|one| one.starts_with(NAMESPACES));
    namespaced || of_an_example || ours.iter().any(|part| name.contains(part))
}

fn may_stay(words: &[&str]) -> bool {
    matches!(words, ["PersistentVolumeClaim", NAMESPACE, name] if KEPT.contains(name))
}

fn uninstall(scene: &Scene<'_>) -> Result<()> {
    scene
        .cluster
        .helm(["uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE])
        .args(["--wait", "--timeout", "120s"])
        .deadline(DEADLINE)
        .stdout()
        .map(drop)
}

/// A namespace that the operator is not told to look at.
const ELSEWHERE: &str = "elsewhere";

/// Namespaces in which neither the chart nor the operator has ever written.
const CLUSTERS_OWN: [&str; 4] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "local-path-storage",
];

const KEPT: [&str; 3] = [
    "tessera-replica-0",
    "tessera-replica-1",
    "tessera-replica-2",
];

/// Pods stop, volumes are removed, namespaces are emptied.
const DEADLINE: Duration = Duration::from_secs(180);

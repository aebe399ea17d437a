//! Several TileProxies, and what else a namespace may have.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Scene, examples};
use crate::chain::LOG;
use crate::progress::Step;
use crate::real_log::{NAMESPACE, VERIFIER_KEY};
use crate::tile_proxy::OPERATOR_NAMESPACE;

pub(super) fn run(scene: &Scene<'_>) -> Result<()> {
    scene.step("restricted pods only", |_| restricted(scene))?;
    scene.step("a second TileProxy", |step| second(scene, step))?;
    scene.step("deleted with the operator away", |step| {
        operator_away(scene, step)
    })?;
    scene.step("proxy beside its client", |step| {
        examples::sidecar(scene, step)
    })?;
    scene.step("every example", |step| examples::all(scene, step))
}

/// Both namespaces take restricted pods alone, and all that ran so far ran under that.
fn restricted(scene: &Scene<'_>) -> Result<String> {
    let label = "pod-security.kubernetes.io/enforce=restricted";
    let labelled = scene
        .cluster
        .kubectl(["label", "namespace", OPERATOR_NAMESPACE, "--overwrite"])
        .arg(label)
        .ended()?;
    ensure!(labelled.status.success(), "{}", labelled.stderr);
    // Pods that run already would break the standard, or not: the API server says which.
    ensure!(!labelled.stderr.contains("Warning"), "{}", labelled.stderr);
    for namespace in [NAMESPACE, OPERATOR_NAMESPACE] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "careless", "namespace": namespace},
            "spec": {"containers": [{"name": "careless", "image": "localhost/none"}]},
        });
        let ended = scene
            .cluster
            .kubectl(["create", "--dry-run=server", "--filename=-"])
            .input(&pod.to_string())?
            .ended()?;
        ensure!(
            ended.stderr.contains("violates PodSecurity"),
            "{namespace} takes any pod: {}",
            ended.stderr
        );
    }
    Ok(format!(
        "{NAMESPACE} and {OPERATOR_NAMESPACE} refuse a careless pod"
    ))
}

/// Another TileProxy beside the first, with children of its own; the first does not notice.
fn second(scene: &Scene<'_>, step: &Step<'_>) -> Result<String> {
    let before = pods(scene)?;
    apply_oslo(scene)?;
    scene.oslo.await_ready(step)?;
    let (ours, theirs) = (
        scene.oslo.body("tile/0/000")?,
        scene.tessera.body("tile/0/000")?,
    );
    ensure!(ours == theirs, "two proxies of one log differ");
    ensure!(
        pods(scene)? == before,
        "the first TileProxy has other pods now"
    );
    Ok("two replicas, beside one that noticed nothing".to_owned())
}

pub(super) fn apply_oslo(scene: &Scene<'_>) -> Result<()> {
    let oslo = json!({
        "apiVersion": "tiles.stella-ops.org/v1alpha1", "kind": "TileProxy",
        "metadata": {"name": scene.oslo.name, "namespace": NAMESPACE},
        "spec": {
            "replicas": 2,
            "upstreams": [{"url": LOG}],
            "publicKeys": [{"inline": VERIFIER_KEY}],
            "cache": {"size": "1Gi", "retention": {"whenDeleted": "Delete"}},
        },
    });
    scene.cluster.apply(&oslo.to_string())
}

/// A TileProxy that is deleted while no operator runs goes with all its children, and with its
/// volumes if it says so; no finalizer waits for anybody. The operator that comes back finds nothing
/// to do about it.
fn operator_away(scene: &Scene<'_>, step: &Step<'_>) -> Result<String> {
    let operator = |replicas: u8| {
        scene
            .cluster
            .kubectl(["scale", "deployment", "tile-proxy"])
            .args(["--namespace", OPERATOR_NAMESPACE])
            .arg(format!("--replicas={replicas}"))
            .stdout()
    };
    operator(0)?;
    scene
        .cluster
        .kubectl(["wait", "pod", "--for=delete", "--timeout=120s"])
        .args(["--namespace", OPERATOR_NAMESPACE])
        .arg("--selector=app.kubernetes.io/name=tile-proxy-operator")
        .deadline(Duration::from_secs(130))
        .stdout()?;
    let deleted = scene.oslo.delete();
    let left = deleted.and_then(|()| await_no_children(scene, scene.oslo.name));
    operator(1)?;
    left?;
    let deadline = Duration::from_secs(120);
    scene
        .cluster
        .await_deployment(OPERATOR_NAMESPACE, "tile-proxy", deadline)?;
    // The one that stays is looked after again.
    scene.tessera.scale(2, step)?;
    Ok("its children and volumes went without it; the other one scales again".to_owned())
}

/// Waits until nothing in the namespace says that it belongs to the TileProxy `name`.
fn await_no_children(scene: &Scene<'_>, name: &str) -> Result<()> {
    use crate::tile_proxy::PAUSE;
    use crate::wait::{self, Seen};
    let kinds = "deployments,services,configmaps,secrets,serviceaccounts,cronjobs,jobs,pods,\
                 persistentvolumeclaims,poddisruptionbudgets";
    let selector = format!("--selector=app.kubernetes.io/instance={name}");
    wait::until(
        "its children to be gone",
        Duration::from_secs(120),
        PAUSE,
        || {
            let left = scene
                .cluster
                .kubectl(["get", kinds, "--output=name", "--namespace", NAMESPACE])
                .arg(&selector)
                .stdout()?;
            Ok(match left.trim() {
                "" => Seen::Ready(()),
                left => Seen::NotYet(left.replace('\n', ", ")),
            })
        },
    )
}

fn pods(scene: &Scene<'_>) -> Result<Vec<String>> {
    let pods = scene.tessera.pods()?;
    let mut uids: Vec<_> = pods.into_iter().map(|pod| pod.metadata.uid).collect();
    uids.sort_unstable();
    Ok(uids)
}

/// The number of replicas that are ready, as the status says.
pub(super) fn ready_replicas(scene: &Scene<'_>, namespace: &str, name: &str) -> Result<u64> {
    let of = ["tileproxy", name, "--namespace", namespace];
    let object = scene.cluster.get::<Value>(&of)?;
    let object = object.with_context(|| format!("the TileProxy {name} is gone"))?;
    Ok(object["status"]["readyReplicas"].as_u64().unwrap_or(0))
}

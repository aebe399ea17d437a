//! What a replica can lose: its volume, and what watches over its containers.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::Scene;
use crate::chain::LOG;
use crate::progress::Step;
use crate::real_log::NAMESPACE;
use crate::tile_proxy::{Named, PAUSE};
use crate::tiles::WIDTH;
use crate::wait::{self, Seen};

pub(super) fn run(scene: &Scene<'_>) -> Result<()> {
    scene.step("volume deleted with its pod", |step| volume(scene, step))?;
    scene.node_step("containerd's shim killed", |step| shim(scene, step))
}

/// A replica whose volume was deleted gets a new one, and fills it from the others: the log is asked
/// for what the replica itself owns, and no more.
fn volume(scene: &Scene<'_>, step: &Step<'_>) -> Result<String> {
    #[derive(Deserialize)]
    struct Claim {
        metadata: Named,
    }
    let claim = scene.tessera.replica(2);
    let uid = || -> Result<Option<String>> {
        let of = ["pvc", &claim, "--namespace", NAMESPACE];
        let found = scene.cluster.get::<Claim>(&of)?;
        Ok(found.map(|claim| claim.metadata.uid))
    };
    let before = uid()?;
    let pod = scene.tessera.pod(2)?.metadata.name;
    // The claim stays until no pod uses it.
    for arguments in [["pvc", claim.as_str()], ["pod", pod.as_str()]] {
        scene
            .cluster
            .kubectl(["delete", "--wait=false", "--namespace", NAMESPACE])
            .args(arguments)
            .stdout()?;
    }
    wait::until("a new claim", DEADLINE, PAUSE, || {
        Ok(match uid()? {
            Some(uid) if Some(&uid) != before.as_ref() => Seen::Ready(()),
            Some(_) => Seen::NotYet("the old one is there".to_owned()),
            None => Seen::NotYet("there is none".to_owned()),
        })
    })?;
    wait::until("the replica to be back", DEADLINE, PAUSE, || {
        let back = scene
            .tessera
            .pod(2)
            .is_ok_and(|new| new.metadata.name != pod);
        Ok(if back {
            Seen::Ready(())
        } else {
            Seen::NotYet("its pod was not replaced".to_owned())
        })
    })?;
    scene
        .cluster
        .await_deployment(NAMESPACE, &claim, DEADLINE)?;
    scene.tessera.await_ready(step)?;

    let tiles = scene.log.size()? / WIDTH;
    scene.tessera.read_tiles_from(2, 0..tiles)?;
    let sources = scene.tessera.sources(2, 0..tiles)?;
    let from_log = sources.iter().filter(|source| *source == LOG).count() as u64;
    ensure!(from_log < tiles, "it has everything from the log");
    Ok(format!(
        "{} of {tiles} tiles from the others, {from_log} from the log",
        tiles - from_log
    ))
}

/// Without its shim containerd gives the containers up; the kubelet starts them again in the same
/// pod, and the replica finds its volume consistent.
fn shim(scene: &Scene<'_>, step: &Step<'_>) -> Result<String> {
    let before = scene.tessera.pod(0)?;
    let kept = scene.tessera.body_from(0, "tile/0/000")?;
    scene.cluster.kill_shim(&before.metadata.uid)?;
    wait::until("another run of the container", DEADLINE, PAUSE, || {
        let pod = scene.tessera.pod(0)?;
        ensure!(
            pod.metadata.uid == before.metadata.uid,
            "the pod was replaced, not its containers"
        );
        Ok(if pod.is_ready() && pod.run() != before.run() {
            Seen::Ready(())
        } else {
            Seen::NotYet("the container is not back".to_owned())
        })
    })?;
    scene.tessera.await_ready(step)?;
    // A ready pod is not yet one the Service leads to.
    let again = wait::until("the replica to serve", DEADLINE, PAUSE, || {
        Ok(match scene.tessera.body_from(0, "tile/0/000") {
            Ok(body) => Seen::Ready(body),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })?;
    ensure!(kept == again, "tile/0/000 is another one");
    Ok(format!("{} runs again", before.metadata.name))
}

/// A volume is unmounted, removed and made; a kubelet looks every few seconds.
const DEADLINE: Duration = Duration::from_secs(180);

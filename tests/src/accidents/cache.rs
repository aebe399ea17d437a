//! What is in the caches: filled by the sync, and there again after the resource was not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Scene;
use crate::chain;
use crate::progress::Step;
use crate::real_log::{self, NAMESPACE};
use crate::tile_proxy::{CLIENT_PORT, PAUSE};
use crate::tiles::WIDTH;
use crate::wait::{self, Seen};

pub(super) fn run(scene: &Scene<'_>) -> Result<()> {
    scene.step("sync fills every replica", |step| sync(scene, step))?;
    // Whatever happens to a stopped log, it is started again: the rest needs it.
    let adopted = scene.step("made anew, log stopped", |step| adopted(scene, step));
    scene.step("log started again", |_| {
        scene.log.start().map(|()| String::new())
    })?;
    adopted
}

/// The Job of the CronJob leaves every new tile on every replica, and one of them asked the log.
fn sync(scene: &Scene<'_>, step: &Step<'_>) -> Result<String> {
    let before = scene.log.size()?;
    let after = scene.log.add_entries(GROWTH, step)?;
    // A sync goes by the checkpoint that is trusted when it begins.
    for ordinal in 0..3 {
        wait::until("every replica to follow", FOLLOW, PAUSE, || {
            let checkpoint = scene.tessera.body_from(ordinal, "checkpoint")?;
            let size = real_log::tree_size(&String::from_utf8_lossy(&checkpoint))?;
            Ok(if size >= after {
                Seen::Ready(())
            } else {
                Seen::NotYet(format!("replica {ordinal}: size {size} of {after}"))
            })
        })?;
    }
    let here = ["--namespace", NAMESPACE];
    scene
        .cluster
        .kubectl(["delete", "job", JOB, "--ignore-not-found"])
        .args(here)
        .stdout()?;
    scene
        .cluster
        .kubectl(["create", "job", JOB, "--from=cronjob/tessera-sync"])
        .args(here)
        .stdout()?;
    scene
        .cluster
        .kubectl([
            "wait",
            "job",
            JOB,
            "--for=condition=Complete",
            "--timeout=180s",
        ])
        .args(here)
        .deadline(Duration::from_secs(190))
        .stdout()
        .with_context(|| scene.cluster.diagnosis(&[NAMESPACE]))?;
    let synced = scene
        .tessera
        .await_condition("Synced", step, |synced| synced.status == "True")?;
    // Tiles that were partial before are new, too.
    let tiles = before / WIDTH..after / WIDTH;
    let counted = chain::came_from_the_log_once(&scene.tessera, &[0, 1, 2], tiles)?;
    Ok(format!("{counted}; {}", synced.message))
}

/// Deleted and made anew while the log is away, the TileProxy has its volume again: a whole log is
/// read through it and proven, and nobody could have been asked for it.
fn adopted(scene: &Scene<'_>, step: &Step<'_>) -> Result<String> {
    scene.log.stop()?;
    let claim = || -> Result<String> {
        let of = ["pvc", "tessera-replica-0", "--namespace", NAMESPACE];
        let claim = scene.cluster.get::<Value>(&of)?.context("it is gone")?;
        let uid = claim["metadata"]["uid"].as_str();
        Ok(uid.context("an object has a UID")?.to_owned())
    };
    let before = claim().context("the claim before")?;
    scene.tessera.delete()?;
    let kept = claim().context("the claim without its TileProxy")?;
    chain::apply_tile_proxy(scene.cluster)?;
    scene.tessera.await_ready(step)?;
    let after = claim().context("the claim of the new TileProxy")?;
    ensure!(before == kept && kept == after, "the volume is another one");
    let route = scene
        .cluster
        .route(NAMESPACE, scene.tessera.name, CLIENT_PORT)?;
    real_log::fsck(scene.cluster, route.url(), step)
        .with_context(|| scene.cluster.diagnosis(&[NAMESPACE]))
}

const JOB: &str = "tessera-sync-now";

/// Four new tiles, and one that becomes full.
const GROWTH: u64 = 4 * WIDTH + 100;

const FOLLOW: Duration = Duration::from_secs(90);

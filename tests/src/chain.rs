//! The whole chain once: from nothing to a tile that was proven, kept, and survives its log.
//!
//! Each step is a method that returns what it saw, in one line, or fails with what explains it.
//! [`run`] takes them in order; the demonstration shows the lines, the end-to-end test only asks
//! that none fails.

mod proxied;
mod replicas;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use self::proxied::Proxied;
use crate::cluster::Cluster;
use crate::image::{Archive, product};
use crate::paths;
use crate::progress::{Progress, Step, Time};
use crate::real_log::{NAMESPACE, RealLog};
use crate::tiles::WIDTH;
use crate::wait::{self, Seen};

/// What the chain is run with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Entries the log has at least.
    pub entries: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { entries: 3_000 }
    }
}

/// Runs the whole chain on `cluster`, which is left running, with the log up.
pub fn run(cluster: &Cluster, options: Options, progress: &Progress) -> Result<()> {
    ensure!(
        options.entries >= MIN_ENTRIES,
        "the log needs at least {MIN_ENTRIES} entries"
    );
    progress.say("Cluster");
    cluster.up(1, progress)?;

    progress.say("\nImage");
    let image = product::build(progress)?;
    step(progress, "load image", |_| load_image(cluster, &image))?;

    progress.say("\nLog");
    let log = progress.step("start");
    let log = RealLog::install(cluster, &log).inspect(|_| log.done("example-log.logs.svc:2025"))?;
    step(progress, "entries", |step| {
        fill(&log, options.entries, step)
    })?;

    progress.say("\nOperator");
    step(progress, "helm upgrade --install", |step| {
        install_operator(cluster, &image, step)
    })?;
    step(progress, "kubectl apply TileProxy", |_| {
        apply_tile_proxy(cluster)
    })?;
    step(progress, "Ready", |step| await_ready(cluster, step))?;
    step(progress, "helm test", |step| test_release(cluster, step))?;

    progress.say("\nTiles");
    let proxied = Proxied { cluster, log };
    step(progress, "checkpoint and tiles", |_| {
        proxied.serves_what_the_log_has()
    })?;
    step(progress, "proven by Tessera's fsck", |step| {
        proxied.is_proven_by_others(step)
    })?;
    step(progress, "second fetch", |_| {
        proxied.second_fetch_is_a_hit()
    })?;

    progress.say("\nReplicas");
    step(progress, "one to three", |step| scale(cluster, 3, step))?;
    step(progress, "fill each other", |_| {
        replicas::fill_each_other(cluster, options.entries / WIDTH)
    })?;
    step(progress, "three to one", |step| scale(cluster, 1, step))?;

    progress.say("\nAccidents");
    let new = step_with(progress, "log grows", |step| proxied.follows_the_log(step))?;
    // Whatever happens to a stopped log, it is started again: people go on with this cluster.
    let survived =
        step(progress, "log stopped", |_| proxied.outlives_the_log(&new)).and_then(|()| {
            step(progress, "replica's pod deleted", |_| {
                proxied.outlives_its_pod()
            })
        });
    step(progress, "log started again", |_| {
        log.start().map(|()| String::new())
    })?;
    survived
}

/// What runs after [`run`], and what to try next.
pub fn last_screen(kind: bool) -> String {
    let cluster = if kind {
        "cargo xtask cluster --kind"
    } else {
        "cargo xtask cluster"
    };
    format!(
        "
Running now
  operator   tile-proxy in tile-proxy-system, installed by Helm
  proxy      TileProxy tessera in logs: http://tessera.logs.svc:8080 in the cluster
  log        example-log in logs, a Tessera log: http://example-log.logs.svc:2025

Try next
  {cluster} kubectl get tileproxies --namespace logs --output wide
  {cluster} kubectl describe tileproxy tessera --namespace logs
  {cluster} kubectl scale tileproxy tessera --namespace logs --replicas 2
  {cluster} kubectl get pods,pvc --namespace logs
  {cluster} kubectl logs --namespace tile-proxy-system deployment/tile-proxy

A shell where Service addresses answer:  {cluster} shell
Stop and remove all of it:               {cluster} down
"
    )
}

fn load_image(cluster: &Cluster, image: &Archive) -> Result<String> {
    cluster.load_image(&image.path)?;
    Ok(image.reference.clone())
}

/// Brings the log to `entries`; a second run finds them there.
fn fill(log: &RealLog<'_>, entries: u64, step: &Step<'_>) -> Result<String> {
    let size = log.size()?;
    if size >= entries {
        return Ok(format!("{size}, from an earlier run"));
    }
    let started = std::time::Instant::now();
    let size = log.add_entries(entries - size, step)?;
    Ok(format!("{size}, over HTTP in {}", Time(started.elapsed())))
}

fn install_operator(cluster: &Cluster, image: &Archive, step: &Step<'_>) -> Result<String> {
    let chart = paths::checkout().join("charts/tile-proxy");
    let (repository, tag) = image.named()?;
    cluster
        .helm(["upgrade", "--install", RELEASE])
        .arg(&chart)
        .args(["--namespace", OPERATOR_NAMESPACE, "--create-namespace"])
        .args(["--set", &format!("image.repository={repository}")])
        .args(["--set", &format!("image.tag={tag}")])
        .args(["--wait", "--timeout", "120s"])
        .deadline(Duration::from_secs(150))
        .live(step)
        .stdout()
        .with_context(|| cluster.diagnosis(&[OPERATOR_NAMESPACE]))?;
    Ok(format!("release {RELEASE} in {OPERATOR_NAMESPACE}"))
}

/// A pod of the chart asks the operator, by its Service, whether it is ready.
fn test_release(cluster: &Cluster, step: &Step<'_>) -> Result<String> {
    cluster
        .helm(["test", RELEASE, "--namespace", OPERATOR_NAMESPACE])
        .args(["--timeout", "120s"])
        .deadline(Duration::from_secs(150))
        .live(step)
        .stdout()
        .with_context(|| cluster.diagnosis(&[OPERATOR_NAMESPACE]))?;
    Ok("the operator says that it is ready".to_owned())
}

fn apply_tile_proxy(cluster: &Cluster) -> Result<String> {
    let example = paths::checkout().join("examples/tileproxy.yaml");
    let said = cluster
        .kubectl(["apply", "--filename"])
        .arg(&example)
        .stdout()?;
    Ok(said.trim().replace('\n', ", "))
}

/// Changes the number of replicas as an autoscaler would, and waits until they are ready.
fn scale(cluster: &Cluster, replicas: u16, step: &Step<'_>) -> Result<String> {
    cluster
        .kubectl(["scale", "tileproxy", "tessera", "--namespace", NAMESPACE])
        .arg(format!("--replicas={replicas}"))
        .stdout()?;
    await_ready(cluster, step)
}

/// Waits for the condition `Ready` of the spec as it is now; shows the messages meanwhile.
fn await_ready(cluster: &Cluster, step: &Step<'_>) -> Result<String> {
    #[derive(Deserialize)]
    struct TileProxy {
        metadata: Metadata,
        #[serde(default)]
        status: Status,
    }
    #[derive(Deserialize)]
    struct Metadata {
        generation: i64,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Status {
        observed_generation: Option<i64>,
        conditions: Vec<Condition>,
    }
    #[derive(Deserialize)]
    struct Condition {
        r#type: String,
        status: String,
        #[serde(default)]
        message: String,
    }
    wait::until("TileProxy tessera to be Ready", READY, PAUSE, || {
        let tile_proxy = cluster
            .get::<TileProxy>(&["tileproxy", "tessera", "--namespace", NAMESPACE])?
            .context("the TileProxy tessera is gone")?;
        let status = tile_proxy.status;
        if status.observed_generation != Some(tile_proxy.metadata.generation) {
            let seen = "the operator has not looked at it yet";
            step.note(seen);
            return Ok(Seen::NotYet(seen.to_owned()));
        }
        let ready = status
            .conditions
            .iter()
            .find(|condition| condition.r#type == "Ready");
        Ok(match ready {
            Some(ready) if ready.status == "True" => Seen::Ready(ready.message.clone()),
            Some(ready) => {
                step.note(&ready.message);
                Seen::NotYet(format!("Ready is {}: {}", ready.status, ready.message))
            }
            None => Seen::NotYet("it has no condition Ready".to_owned()),
        })
    })
    .with_context(|| cluster.diagnosis(&[NAMESPACE, OPERATOR_NAMESPACE]))
}

/// Runs one step that returns its own outcome line.
fn step(
    progress: &Progress,
    name: &str,
    work: impl FnOnce(&Step<'_>) -> Result<String>,
) -> Result<()> {
    let step = progress.step(name);
    let outcome = work(&step).with_context(|| format!("step {name:?}"))?;
    step.done(outcome);
    Ok(())
}

/// Runs one step whose result a later one needs; the line shows it.
fn step_with<T: std::fmt::Display>(
    progress: &Progress,
    name: &str,
    work: impl FnOnce(&Step<'_>) -> Result<T>,
) -> Result<T> {
    let step = progress.step(name);
    let outcome = work(&step).with_context(|| format!("step {name:?}"))?;
    step.done(&outcome);
    Ok(outcome)
}

/// Fails with the path and what came instead unless `answer` has `status`.
fn expect_status(answer: &crate::http::Answer, status: u16, path: &str) -> Result<()> {
    if answer.status != status {
        bail!(
            "GET {path}: status {}, expected {status}; it says: {}",
            answer.status,
            answer.text()
        );
    }
    Ok(())
}

const RELEASE: &str = "tile-proxy";
const OPERATOR_NAMESPACE: &str = "tile-proxy-system";

/// One full tile and one partial, so that both kinds are met.
const MIN_ENTRIES: u64 = WIDTH + 1;

const PAUSE: Duration = Duration::from_millis(500);
const READY: Duration = Duration::from_secs(120);

//! The whole chain once: from nothing to a tile that was proven, kept, and survives its log.
//!
//! Each step is a method that returns what it saw, in one line, or fails with what explains it.
//! [`run`] takes them in order; the demonstration shows the lines, the end-to-end test only asks
//! that none fails.

mod proxied;
mod replicas;

pub(crate) use self::replicas::{LOG, came_from_the_log_once};

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use self::proxied::Proxied;
use crate::cluster::Cluster;
use crate::image::{Archive, product};
use crate::older_chart;
use crate::paths;
use crate::progress::{Progress, Step, Time};
use crate::real_log::{NAMESPACE, RealLog};
use crate::tile_proxy::{OPERATOR_NAMESPACE, TileProxy};
use crate::tiles::WIDTH;

/// What the chain is run with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Entries the log has at least.
    pub entries: u64,
    /// Begin with an older version of the chart and another image, so that there is something to
    /// upgrade.
    pub older: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            entries: 3_000,
            older: false,
        }
    }
}

/// Runs the whole chain on `cluster`, which is left running, with the log up. Returns our image,
/// which the cluster has.
pub fn run(cluster: &Cluster, options: Options, progress: &Progress) -> Result<Archive> {
    ensure!(
        options.entries >= MIN_ENTRIES,
        "the log needs at least {MIN_ENTRIES} entries"
    );
    progress.say("\nCluster");
    cluster.up(1, progress)?;

    progress.say("\nImage");
    let image = product::build(progress)?;
    step(progress, "load image", |_| load_image(cluster, &image))?;
    let older = older(cluster, &image, options, progress)?;
    let (chart, installed) = match &older {
        Some((chart, image)) => (chart.clone(), image),
        None => (paths::checkout().join(CHART), &image),
    };

    progress.say("\nLog");
    let log = progress.step("start");
    let log = RealLog::install(cluster, &log).inspect(|_| log.done("example-log.logs.svc:2025"))?;
    step(progress, "entries", |step| {
        fill(&log, options.entries, step)
    })?;

    progress.say("\nOperator");
    step(progress, "helm upgrade --install", |step| {
        install_operator(cluster, &chart, installed, &[], step)
    })?;
    step(progress, "kubectl apply TileProxy", |_| {
        apply_tile_proxy(cluster)
    })?;
    let tessera = tessera(cluster);
    step(progress, "Ready", |step| tessera.await_ready(step))?;
    step(progress, "its log", |step| {
        tessera.await_logs("Fresh", step)
    })?;
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
    step(progress, "one to three", |step| tessera.scale(3, step))?;
    step(progress, "fill each other", |_| {
        replicas::fill_each_other(&tessera, options.entries / WIDTH)
    })?;
    step(progress, "three to one", |step| tessera.scale(1, step))?;

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
    survived?;
    Ok(image)
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

/// The TileProxy of `examples/tileproxy.yaml`.
pub(crate) fn tessera(cluster: &Cluster) -> TileProxy<'_> {
    TileProxy {
        cluster,
        namespace: NAMESPACE,
        name: "tessera",
    }
}

/// What an upgrade begins with, where one is asked for: an older chart, and our image by another
/// name, which is another one to whoever changes it.
fn older(
    cluster: &Cluster,
    image: &Archive,
    options: Options,
    progress: &Progress,
) -> Result<Option<(PathBuf, Archive)>> {
    if !options.older {
        return Ok(None);
    }
    let step = progress.step("older chart, other image");
    let other = image.tagged("older", &paths::target().join("image/older.oci.tar"))?;
    cluster.load_image(&other.path)?;
    let chart = older_chart::write(&paths::target().join("older-chart-e2e"))?;
    step.done(&other.reference);
    Ok(Some((chart, other)))
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

/// Installs the chart, or brings an installed one to it; `settings` are values besides the image.
pub(crate) fn install_operator(
    cluster: &Cluster,
    chart: &Path,
    image: &Archive,
    settings: &[&str],
    step: &Step<'_>,
) -> Result<String> {
    let (repository, tag) = image.named()?;
    cluster
        .helm(["upgrade", "--install", RELEASE])
        .arg(chart)
        .args(["--namespace", OPERATOR_NAMESPACE, "--create-namespace"])
        .args(["--set", &format!("image.repository={repository}")])
        .args(["--set", &format!("image.tag={tag}")])
        .args(settings.iter().flat_map(|setting| ["--set", setting]))
        .args(["--wait", "--timeout", "120s"])
        .deadline(Duration::from_secs(150))
        .live(step)
        .stdout()
        .with_context(|| cluster.diagnosis(&[OPERATOR_NAMESPACE]))?;
    Ok(format!("release {RELEASE} in {OPERATOR_NAMESPACE}"))
}

/// A pod of the chart asks the operator, by its Service, whether it is ready.
pub(crate) fn test_release(cluster: &Cluster, step: &Step<'_>) -> Result<String> {
    cluster
        .helm(["test", RELEASE, "--namespace", OPERATOR_NAMESPACE])
        .args(["--timeout", "120s"])
        .deadline(Duration::from_secs(150))
        .live(step)
        .stdout()
        .with_context(|| cluster.diagnosis(&[OPERATOR_NAMESPACE]))?;
    Ok("the operator says that it is ready".to_owned())
}

pub(crate) fn apply_tile_proxy(cluster: &Cluster) -> Result<String> {
    let example = paths::checkout().join("examples/tileproxy.yaml");
    let said = cluster
        .kubectl(["apply", "--filename"])
        .arg(&example)
        .stdout()?;
    Ok(said.trim().replace('\n', ", "))
}

/// Runs one step that returns its own outcome line.
pub(crate) fn step(
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

pub(crate) const RELEASE: &str = "tile-proxy";
/// The chart, below the checkout.
pub(crate) const CHART: &str = "charts/tile-proxy";

/// One full tile and one partial, so that both kinds are met.
const MIN_ENTRIES: u64 = WIDTH + 1;

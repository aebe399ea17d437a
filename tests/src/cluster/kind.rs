//! The same interface over kind, for machines with Docker.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Cluster;
use crate::progress::Progress;
use crate::run::Run;

/// Creates the cluster unless it exists, and writes its kubeconfig.
pub(super) fn up(cluster: &Cluster, progress: &Progress) -> Result<()> {
    let step = progress.step("kind cluster");
    let kubeconfig = cluster.kubeconfig();
    if exists() {
        let text = kind(&["get", "kubeconfig"])
            .deadline(Duration::from_secs(30))
            .stdout()?;
        write_private(&kubeconfig, &text)?;
        cluster.kubectl(["get", "--raw", "/readyz"]).stdout().context(
            "the kind cluster exists but does not answer; remove it with `cargo xtask cluster down \
             --kind` and try again",
        )?;
        step.done("runs already");
        return Ok(());
    }
    kind(&[
        "create",
        "cluster",
        "--wait",
        "180s",
        "--config",
        "-",
        "--kubeconfig",
    ])
    .arg(&kubeconfig)
    .input(include_str!("kind.yaml"))?
    .deadline(CREATE)
    .live(&step)
    .stdout()
    .context("kind could not create the cluster")?;
    step.done("Ready");
    Ok(())
}

/// Deletes the cluster, if there is one.
pub(super) fn down(progress: &Progress) -> Result<()> {
    let step = progress.step("kind cluster down");
    kind(&["delete", "cluster"]).deadline(CREATE).stdout()?;
    step.done("");
    Ok(())
}

/// Whether kind knows the cluster.
pub(super) fn exists() -> bool {
    let clusters = Run::new("kind").args(["get", "clusters"]).stdout();
    clusters.is_ok_and(|clusters| clusters.lines().any(|name| name == NAME))
}

/// Loads an OCI archive into the node.
pub(super) fn load_image(archive: &Path) -> Result<()> {
    kind(&["load", "image-archive"])
        .arg(archive)
        .deadline(CREATE)
        .stdout()
        .map(drop)
}

fn kind(args: &[&str]) -> Run<'static> {
    Run::new("kind").args(args).args(["--name", NAME])
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    crate::lock::write_atomically(path, text.as_bytes())?;
    Ok(std::fs::set_permissions(
        path,
        std::fs::Permissions::from_mode(0o600),
    )?)
}

const NAME: &str = "tile-proxy";

/// The first time kind pulls its node image.
const CREATE: Duration = Duration::from_secs(10 * 60);

//! Nodes beside the first one: added, cut off, ended as by a power loss, started again; and what
//! else can befall a node from outside Kubernetes.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::{Node, State};
use super::{Cluster, builtin, network, node, worker};
use crate::image::helpers;
use crate::progress::Progress;
use crate::run::Run;

/// Adds `node` to a running cluster, with every image the first node has.
pub(super) fn add(
    cluster: &Cluster,
    state: &State,
    node: &Node,
    progress: &Progress,
) -> Result<()> {
    let step = progress.step(format!("node {}", node.name()));
    let pause = helpers::pause(&cluster.toolchain)?;
    boot(cluster, state, node, &pause.reference)?;
    step.note("copying images");
    copy_images(&state.first(), node)?;
    step.note("joining");
    builtin::join(cluster, state, node)?;
    step.done("Ready");
    Ok(())
}

/// See [`Cluster::cut_off`].
pub(super) fn cut_off(state: &State, name: &str) -> Result<()> {
    network::connect(&other(state, name)?, &state.first(), false)
}

/// See [`Cluster::reconnect`].
pub(super) fn reconnect(state: &State, name: &str) -> Result<()> {
    network::connect(&other(state, name)?, &state.first(), true)
}

/// See [`Cluster::end_node`].
pub(super) fn end(state: &State, name: &str) -> Result<()> {
    node::end(&other(state, name)?, &state.first())
}

/// See [`Cluster::start_node`].
pub(super) fn start(cluster: &Cluster, state: &State, name: &str) -> Result<()> {
    let node = other(state, name)?;
    let pause = helpers::pause(&cluster.toolchain)?;
    boot(cluster, state, &node, &pause.reference)?;
    builtin::join(cluster, state, &node)
}

/// See [`Cluster::kill_shim`].
pub(super) fn kill_shim(state: &State, pod_uid: &str) -> Result<()> {
    for node in state.nodes().filter(node::exists) {
        let sandboxes = Run::from_command(node::inside(&node, "ctr")?)
            .args(["--namespace", "k8s.io", "containers", "list", "--quiet"])
            .arg(format!(
                "labels.\"io.kubernetes.pod.uid\"=={pod_uid},\
                 labels.\"io.cri-containerd.kind\"==sandbox"
            ))
            .stdout()?;
        let shims: Vec<i32> = sandboxes.split_whitespace().flat_map(shims_of).collect();
        for pid in &shims {
            kill(Pid::from_raw(*pid), Signal::SIGKILL).context("cannot kill the shim")?;
        }
        if !shims.is_empty() {
            return Ok(());
        }
    }
    anyhow::bail!("no node has a shim for the pod {pod_uid}")
}

/// The processes that watch over the containers of a sandbox for containerd; one, if it runs.
fn shims_of(sandbox: &str) -> Vec<i32> {
    let is_shim = |pid: &i32| {
        let Ok(words) = fs::read(format!("/proc/{pid}/cmdline")) else {
            return false; // it has ended meanwhile
        };
        let mut words = words.split(|&byte| byte == 0);
        let program = words.next().unwrap_or_default();
        program.ends_with(b"containerd-shim-runc-v2")
            && words.any(|word| word == sandbox.as_bytes())
    };
    super::proc::pids().filter(is_shim).collect()
}

/// Makes the namespaces of `node` and starts its containerd, which remembers its images.
fn boot(cluster: &Cluster, state: &State, node: &Node, pause_image: &str) -> Result<()> {
    node::create(node, &state.first(), &cluster.toolchain)?;
    worker::configure(node, pause_image)?;
    worker::containerd().start(node)?;
    builtin::await_containerd(node)
}

/// Gives `node` what `first` has: pods that name an image by its tag find it nowhere else.
fn copy_images(first: &Node, node: &Node) -> Result<()> {
    let images = |args: &[&str]| -> Result<String> {
        Run::from_command(node::inside(first, "ctr")?)
            .args(["--namespace", "k8s.io", "images"])
            .args(args)
            .named("ctr images")
            .deadline(COPY)
            .stdout()
    };
    let list = images(&["list", "--quiet"])?;
    // The same images again, by their digest.
    let names = list
        .lines()
        .filter(|name| !name.starts_with("sha256:") && !name.contains('@'));
    let names: Vec<&str> = names.collect();
    ensure!(!names.is_empty(), "the first node has no images");
    // The folder that the node sees as /var/tmp.
    let archive = first.var().join("tmp/images.tar");
    images(&[&["export", "/var/tmp/images.tar"], &names[..]].concat())?;
    let imported = builtin::import(node, &archive);
    fs::remove_file(&archive).context("cannot remove the archive of images")?;
    imported
}

/// The node `name`, which is not the first: without that one there is no cluster.
fn other(state: &State, name: &str) -> Result<Node> {
    let mut nodes = state.nodes().filter(|node| !node.is_first());
    let node = nodes.find(|node| node.name() == name && node::exists(node));
    node.with_context(|| format!("there is no node {name} beside the first one"))
}

/// Some fifty megabytes.
const COPY: Duration = Duration::from_secs(120);

//! The built-in nodes from nothing to Ready, and back.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::layout::{Node, State};
use super::proc::Process;
use super::{Cluster, addons, control_plane, daemon, members, node, pki, worker};
use crate::image::helpers;
use crate::progress::Progress;
use crate::run::Run;
use crate::toolchain::{ALL, Tool, Toolchain};
use crate::wait::{self, Seen};
use crate::{lock, prerequisites};

/// See [`Cluster::up`].
pub(super) fn up(cluster: &Cluster, state: &State, nodes: u8, progress: &Progress) -> Result<()> {
    prerequisites::ensure_node(progress)?;
    cluster.toolchain.build(&ALL, progress)?;

    let step = progress.step("cluster");
    let _lock = lock::take(Path::new(LOCK), LOCK_NAME, OTHER_RUN, &step)?;
    if is_healthy(cluster, state) {
        step.done("runs already");
    } else {
        if let Some(remains) = node::remains(state) {
            step.note("removing an unhealthy or unfinished cluster");
            node::destroy(state)?;
            step.done(format!("removed the remains of an earlier run ({remains})"));
        } else {
            step.done("starting");
        }
        start(cluster, state, progress)
            .with_context(|| format!("the cluster did not start; its logs: {}", logs(state)))?;
    }
    let wanted = state.nodes().take(nodes.into());
    for node in wanted.filter(|node| !node::exists(node)) {
        members::add(cluster, state, &node, progress).with_context(|| {
            let log = node.var().join("log").display().to_string();
            format!("{} did not start; its logs: {log}", node.name())
        })?;
    }
    Ok(())
}

/// See [`Cluster::down`].
pub(super) fn down(state: &State, progress: &Progress) -> Result<()> {
    prerequisites::ensure_root()?;
    let step = progress.step("cluster down");
    let _lock = lock::take(Path::new(LOCK), LOCK_NAME, OTHER_RUN, &step)?;
    let Some(remains) = node::remains(state) else {
        step.done("nothing to stop");
        return Ok(());
    };
    node::destroy(state)?;
    step.done(format!("removed {remains}"));
    Ok(())
}

/// One component of a node.
#[derive(Clone, Debug)]
pub struct ComponentStatus {
    /// The node it belongs to.
    pub node: String,
    /// Its name.
    pub name: &'static str,
    /// Its process, seen from the host; none if it was never started.
    pub pid: Option<i32>,
    /// Seconds since it started; none if it does not run.
    pub age_seconds: Option<u64>,
    /// Its log.
    pub log: std::path::PathBuf,
}

/// See [`Cluster::components`].
pub(super) fn components(state: &State) -> Option<Vec<ComponentStatus>> {
    node::remains(state)?;
    let status = |(node, name): (Node, _)| {
        let process = daemon::recorded(&node, name);
        ComponentStatus {
            node: node.name().to_owned(),
            name,
            pid: process.map(|process| process.pid),
            age_seconds: process
                .filter(|p| p.is_alive())
                .and_then(Process::age_seconds),
            log: node.log(name),
        }
    };
    Some(expected(state).map(status).collect())
}

/// The daemons of every node that was started.
fn expected(state: &State) -> impl Iterator<Item = (Node, &'static str)> {
    let nodes = state
        .nodes()
        .filter(|node| node.is_first() || node::exists(node));
    nodes.flat_map(|node| {
        let control_plane: &[_] = if node.is_first() { &CONTROL_PLANE } else { &[] };
        let all = control_plane.iter().chain(&WORKER);
        all.map(move |&name| (node.clone(), name))
    })
}

/// See [`Cluster::load_image`].
pub(super) fn load_image(state: &State, archive: &Path) -> Result<()> {
    for node in state.nodes().filter(node::exists) {
        import(&node, archive)?;
    }
    Ok(())
}

/// Imports an image into the store of `node`.
pub(super) fn import(node: &Node, archive: &Path) -> Result<()> {
    let file = File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
    // Read from standard input: the node does not see the host's /var and /run.
    Run::from_command(node::inside(node, "ctr")?)
        .args(["--namespace", "k8s.io", "images", "import", "-"])
        .input_file(file)
        .named("ctr images import")
        .deadline(Duration::from_secs(120))
        .stdout()
        .map(drop)
}

/// Everything runs, in the versions of today, and all nodes are Ready.
fn is_healthy(cluster: &Cluster, state: &State) -> bool {
    let complete = fs::read_to_string(state.complete()).is_ok_and(|text| text == versions());
    complete
        && node::first(&state.first()).is_some()
        && expected(state).all(|(node, name)| daemon::check(&node, name).is_ok())
        && state
            .nodes()
            .filter(node::exists)
            .all(|node| node_condition(cluster, &node).is_ok_and(|condition| condition.is_none()))
}

/// Starts the first node where there is none. What waits for nothing starts first.
fn start(cluster: &Cluster, state: &State, progress: &Progress) -> Result<()> {
    let toolchain = &cluster.toolchain;
    let first = &state.first();
    let step = progress.step("namespaces");
    node::create(first, first, toolchain)?;
    step.done("network, mounts, processes");

    let step = progress.step("certificates");
    pki::write(state)?;
    let pause = helpers::pause(toolchain)?;
    worker::configure(first, &pause.reference)?;
    step.done("");

    let store = progress.step("etcd");
    control_plane::etcd().start(first)?;
    worker::containerd().start(first)?;
    await_answer(first, "etcd", || {
        Run::from_command(node::inside(first, "bash")?)
            .args(["-c", "exec 3<>/dev/tcp/127.0.0.1/2379"])
            .stdout()
    })?;
    store.done("listens");

    let api_server = progress.step("kube-apiserver");
    control_plane::api_server().start(first)?;
    let runtime = progress.step("containerd");
    await_containerd(first)?;
    runtime.done("answers");
    load_helpers(first, toolchain, progress)?;
    await_answer(first, "kube-apiserver", || {
        cluster
            .kubectl(["get", "--raw", "/readyz"])
            .deadline(Duration::from_secs(10))
            .stdout()
    })?;
    api_server.done("ready");

    let ready = progress.step("node");
    for daemon in [
        control_plane::controller_manager(),
        control_plane::scheduler(),
    ] {
        daemon.start(first)?;
    }
    join(cluster, state, first)?;
    ready.done("Ready");

    addons::install(cluster, first, progress)?;
    lock::write_atomically(&state.complete(), versions().as_bytes())
}

/// Starts the kubelet and the proxy of `node`, where containerd answers, and waits until it is Ready.
pub(super) fn join(cluster: &Cluster, state: &State, node: &Node) -> Result<()> {
    worker::kubelet(node).start(node)?;
    worker::kube_proxy().start(node)?;
    let what = format!("node {} Ready", node.name());
    wait::until(&what, READY, daemon::PAUSE * 4, || {
        for (node, name) in expected(state) {
            daemon::check(&node, name)?;
        }
        Ok(match node_condition(cluster, node) {
            Ok(None) => Seen::Ready(()),
            Ok(Some(why)) => Seen::NotYet(why),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .with_context(|| cluster.diagnosis(&[]))
}

/// Waits for the container runtime of `node`: a kubelet that finds none ends.
pub(super) fn await_containerd(node: &Node) -> Result<()> {
    await_answer(node, "containerd", || {
        Run::from_command(node::inside(node, "ctr")?)
            .arg("version")
            .stdout()
    })
}

/// Imports the images of the add-ons.
fn load_helpers(node: &Node, toolchain: &Toolchain, progress: &Progress) -> Result<()> {
    let step = progress.step("images");
    for helper in [
        helpers::pause(toolchain)?,
        helpers::coredns(toolchain)?,
        helpers::local_path_provisioner(toolchain)?,
        helpers::busybox(toolchain)?,
    ] {
        step.note(&helper.reference);
        import(node, &helper.archive)?;
    }
    step.done("imported");
    Ok(())
}

/// Waits until `ask` succeeds; fails at once when the daemon asked has ended.
fn await_answer(node: &Node, name: &'static str, ask: impl Fn() -> Result<String>) -> Result<()> {
    wait::until(
        &format!("{name} to answer"),
        READY,
        daemon::PAUSE * 2,
        || {
            daemon::check(node, name)?;
            Ok(match ask() {
                Ok(_) => Seen::Ready(()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        },
    )
    .with_context(|| {
        format!(
            "last words of {name}:\n{}",
            crate::run::last_lines_of(&node.log(name), 12)
        )
    })
}

/// Why `node` is not Ready; none if it is.
pub(super) fn node_condition(cluster: &Cluster, node: &Node) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Object {
        status: Status,
    }
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        conditions: Vec<Condition>,
    }
    #[derive(Deserialize)]
    struct Condition {
        r#type: String,
        status: String,
        message: String,
    }
    let Some(node) = cluster.get::<Object>(&["node", node.name()])? else {
        return Ok(Some("the kubelet has not registered it yet".to_owned()));
    };
    let ready = node
        .status
        .conditions
        .into_iter()
        .find(|condition| condition.r#type == "Ready");
    Ok(match ready {
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(condition.message),
        None => Some("it has no condition Ready yet".to_owned()),
    })
}

/// The versions a cluster made now would run.
fn versions() -> String {
    ALL.iter().map(Tool::folder).collect::<Vec<_>>().join("\n")
}

fn logs(state: &State) -> String {
    state.first().var().join("log").display().to_string()
}

/// The daemons of the control plane, in the order they start.
const CONTROL_PLANE: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// The daemons of every node.
const WORKER: [&str; 3] = ["containerd", "kubelet", "kube-proxy"];

/// Outside the nodes' folders, which `down` removes.
const LOCK: &str = "/run/lock/tile-proxy-cluster.lock";
const LOCK_NAME: &str = "the lock of the cluster";

/// How long another `up` or `down` may take.
const OTHER_RUN: Duration = Duration::from_secs(10 * 60);

/// Each component is there within seconds; a loaded machine takes longer.
const READY: Duration = Duration::from_secs(120);

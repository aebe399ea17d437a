//! The built-in node from nothing to Ready, and back.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::layout::{NODE_NAME, State};
use super::proc::Process;
use super::{Cluster, addons, control_plane, daemon, node, pki, worker};
use crate::image::helpers;
use crate::progress::Progress;
use crate::run::Run;
use crate::toolchain::{ALL, Tool, Toolchain};
use crate::wait::{self, Seen};
use crate::{lock, prerequisites};

/// See [`Cluster::up`].
pub(super) fn up(cluster: &Cluster, state: &State, progress: &Progress) -> Result<()> {
    prerequisites::ensure_node(progress)?;
    cluster.toolchain.build(&ALL, progress)?;

    let step = progress.step("cluster");
    let _lock = lock::take(Path::new(LOCK), LOCK_NAME, OTHER_RUN, &step)?;
    if is_healthy(cluster, state) {
        step.done("runs already");
        return Ok(());
    }
    if let Some(remains) = node::remains(state) {
        step.note("removing an unhealthy or unfinished cluster");
        node::destroy(state)?;
        step.done(format!("removed the remains of an earlier run ({remains})"));
    } else {
        step.done("starting");
    }

    let started = start(cluster, state, progress);
    started.with_context(|| format!("the cluster did not start; its logs: {}", logs(state)))
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

/// One component of the node.
#[derive(Clone, Debug)]
pub struct ComponentStatus {
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
    let status = |name| {
        let process = daemon::recorded(state, name);
        ComponentStatus {
            name,
            pid: process.map(|process| process.pid),
            age_seconds: process
                .filter(|p| p.is_alive())
                .and_then(Process::age_seconds),
            log: state.log(name),
        }
    };
    Some(COMPONENTS.into_iter().map(status).collect())
}

/// See [`Cluster::load_image`].
pub(super) fn load_image(state: &State, archive: &Path) -> Result<()> {
    let file = File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
    // Read from standard input: the node does not see the host's /var and /run.
    Run::from_command(node::inside(state, "ctr")?)
        .args(["--namespace", "k8s.io", "images", "import", "-"])
        .input_file(file)
        .named("ctr images import")
        .deadline(Duration::from_secs(120))
        .stdout()
        .map(drop)
}

/// Everything runs, in the versions of today, and the node is Ready.
fn is_healthy(cluster: &Cluster, state: &State) -> bool {
    let complete = fs::read_to_string(state.complete()).is_ok_and(|text| text == versions());
    complete
        && node::first(state).is_some()
        && COMPONENTS
            .iter()
            .all(|name| daemon::check(state, name).is_ok())
        && node_condition(cluster).is_ok_and(|condition| condition.is_none())
}

/// Starts a node where there is none. What waits for nothing starts first.
fn start(cluster: &Cluster, state: &State, progress: &Progress) -> Result<()> {
    let toolchain = &cluster.toolchain;
    let step = progress.step("namespaces");
    node::create(state, toolchain)?;
    step.done("network, mounts, processes");

    let step = progress.step("certificates");
    pki::write(state)?;
    let pause = helpers::pause(toolchain)?;
    worker::configure(state, &pause.reference)?;
    step.done("");

    let store = progress.step("etcd");
    control_plane::etcd().start(state)?;
    worker::containerd().start(state)?;
    await_answer(state, "etcd", || {
        Run::from_command(node::inside(state, "bash")?)
            .args(["-c", "exec 3<>/dev/tcp/127.0.0.1/2379"])
            .stdout()
    })?;
    store.done("listens");

    let api_server = progress.step("kube-apiserver");
    control_plane::api_server().start(state)?;
    let runtime = progress.step("containerd");
    await_answer(state, "containerd", || {
        Run::from_command(node::inside(state, "ctr")?)
            .arg("version")
            .stdout()
    })?;
    runtime.done("answers");
    load_helpers(state, toolchain, progress)?;
    await_answer(state, "kube-apiserver", || {
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
        worker::kubelet(),
        worker::kube_proxy(),
    ] {
        daemon.start(state)?;
    }
    wait::until("node Ready", READY, daemon::PAUSE * 4, || {
        for name in COMPONENTS {
            daemon::check(state, name)?;
        }
        Ok(match node_condition(cluster) {
            Ok(None) => Seen::Ready(()),
            Ok(Some(why)) => Seen::NotYet(why),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .with_context(|| cluster.diagnosis(&[]))?;
    ready.done("Ready");

    addons::install(cluster, progress)?;
    lock::write_atomically(&state.complete(), versions().as_bytes())
}

/// Imports the images of the add-ons.
fn load_helpers(state: &State, toolchain: &Toolchain, progress: &Progress) -> Result<()> {
    let step = progress.step("images");
    for helper in [
        helpers::pause(toolchain)?,
        helpers::coredns(toolchain)?,
        helpers::local_path_provisioner(toolchain)?,
        helpers::busybox(toolchain)?,
    ] {
        step.note(&helper.reference);
        load_image(state, &helper.archive)?;
    }
    step.done("imported");
    Ok(())
}

/// Waits until `ask` succeeds; fails at once when the daemon asked has ended.
fn await_answer(state: &State, name: &'static str, ask: impl Fn() -> Result<String>) -> Result<()> {
    wait::until(
        &format!("{name} to answer"),
        READY,
        daemon::PAUSE * 2,
        || {
            daemon::check(state, name)?;
            Ok(match ask() {
                Ok(_) => Seen::Ready(()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        },
    )
    .with_context(|| {
        format!(
            "last words of {name}:\n{}",
            crate::run::last_lines_of(&state.log(name), 12)
        )
    })
}

/// Why the node is not Ready; none if it is.
fn node_condition(cluster: &Cluster) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Node {
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
    let Some(node) = cluster.get::<Node>(&["node", NODE_NAME])? else {
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
    state.var().join("log").display().to_string()
}

/// The daemons of a running node, in the order they start.
const COMPONENTS: [&str; 7] = [
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

/// Outside the node's folder, which `down` removes.
const LOCK: &str = "/run/lock/tile-proxy-cluster.lock";
const LOCK_NAME: &str = "the lock of the cluster";

/// How long another `up` or `down` may take.
const OTHER_RUN: Duration = Duration::from_secs(10 * 60);

/// Each component is there within seconds; a loaded machine takes longer.
const READY: Duration = Duration::from_secs(120);

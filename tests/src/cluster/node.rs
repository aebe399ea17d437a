//! A node: a network, mount and PID namespace with one first process.
//!
//! Everything the node runs, containers included, is a descendant of that first process. When it
//! dies the kernel kills the rest and drops every mount, whatever state they were in. So there is
//! one way to stop a node, and it works after any accident.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::{MARKER, Node, State, TOOLS};
use super::proc::{self, Process};
use super::{daemon, network};
use crate::run;
use crate::toolchain::{PAUSE, Toolchain};
use crate::wait::{self, Seen};

/// Creates the namespaces and starts the first process; see [`network::create`] for `first`.
pub(super) fn create(node: &Node, first: &Node, toolchain: &Toolchain) -> Result<()> {
    let log_dir = node.var().join("log");
    for dir in [
        &node.var().join("lib/kubernetes"),
        &node.var().join("tmp"),
        &log_dir,
    ] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    network::create(node, first)?;

    let log = node.log("node");
    let mut command = Command::new("setsid");
    command
        .args([
            "nsenter",
            &format!("--net={}", node.network().display()),
            "--",
        ])
        .args(["unshare", "--mount", "--propagation", "private"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .args(["sh", "-ec", SET_UP, "sh"])
        .arg(toolchain.tools())
        .arg(node.var())
        .arg(Path::new(TOOLS).join(PAUSE.folder()).join(PAUSE.name));
    let wrapper = command
        .env(MARKER, node.dir())
        .stdin(Stdio::null())
        .stdout(daemon::open_log(&log)?)
        .stderr(daemon::open_log(&log)?)
        .spawn()
        .context("cannot run setsid")?;
    let wrapper = Process::with_pid(wrapper.id().cast_signed())?;

    // The first process is the wrapper's child, and set up once it has become `pause`.
    let process = wait::until("the node's first process", START, daemon::PAUSE, || {
        if !wrapper.is_alive() {
            bail!(
                "the node's namespaces were not made:\n{}",
                run::last_lines_of(&log, 10)
            );
        }
        let first = wrapper.only_child().filter(|child| {
            child
                .program()
                .is_some_and(|program| program.ends_with(PAUSE.name))
        });
        Ok(first.map_or_else(|| Seen::NotYet("being set up".to_owned()), Seen::Ready))
    })?;
    daemon::record(node, FIRST, process)
}

/// Whether the node was ever started.
pub(super) fn exists(node: &Node) -> bool {
    daemon::recorded(node, FIRST).is_some()
}

/// The first process, if it runs.
pub(super) fn first(node: &Node) -> Option<Process> {
    daemon::recorded(node, FIRST).filter(|first| first.is_alive())
}

/// A command inside the node: its network, its mounts, its processes.
pub(super) fn inside(node: &Node, program: impl AsRef<Path>) -> Result<Command> {
    let first = first(node).with_context(|| {
        let name = node.name();
        format!("the node {name} does not run; start it: cargo xtask cluster up")
    })?;
    let mut command = Command::new("nsenter");
    command
        .args([
            "--target",
            &first.pid.to_string(),
            "--mount",
            "--net",
            "--pid",
            "--",
        ])
        .arg(program.as_ref())
        .current_dir("/")
        .env_clear()
        .env(MARKER, node.dir())
        .env("HOME", "/root")
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
    Ok(command)
}

/// Ends all nodes and removes all they left on the host. Also works on half a node, and on none.
pub(super) fn destroy(state: &State) -> Result<()> {
    for node in state.nodes().rev() {
        end(&node, &state.first())?;
    }
    unmount_all(state.dir())?;
    remove_cgroups();
    remove_dir(state.dir())
}

/// Ends one node, and its network with it; its disk stays.
pub(super) fn end(node: &Node, first: &Node) -> Result<()> {
    kill_all(node)?;
    network::remove(node, first)
}

/// What of a cluster is on this machine, for a message; none where there is nothing.
pub(super) fn remains(state: &State) -> Option<String> {
    let processes: usize = state.nodes().map(|node| members(&node).len()).sum();
    let mut remains = Vec::new();
    if processes > 0 {
        remains.push(format!("{processes} processes"));
    }
    let networks = state.nodes().map(|node| node.network());
    let folders = networks.chain([state.dir().to_path_buf()]);
    remains.extend(
        folders
            .filter(|path| path.exists())
            .map(|path| path.display().to_string()),
    );
    (!remains.is_empty()).then(|| remains.join(", "))
}

/// Every process of the node.
fn members(node: &Node) -> Vec<i32> {
    let network = proc::namespace_id(&node.network());
    proc::members(network.as_deref(), &node.marker())
}

/// Kills until nobody is left.
///
/// The first process goes first: the kernel then kills and reaps all of its PID namespace before
/// it lets it end, and its parent, our `unshare`, ends by itself. Killed in any other order they
/// would be left to the init of the host, which in many containers reaps nobody.
fn kill_all(node: &Node) -> Result<()> {
    if let Some(first) = first(node) {
        kill_one(first.pid);
        let end = Instant::now() + STOP / 6;
        while Instant::now() < end && !members(node).is_empty() {
            thread::sleep(daemon::PAUSE);
        }
    }
    let what = format!("the processes of {} to end", node.name());
    wait::until(&what, STOP, daemon::PAUSE, || {
        let left = members(node);
        left.iter().copied().for_each(kill_one);
        Ok(match left.first() {
            None => Seen::Ready(()),
            Some(one) => {
                let name = fs::read_to_string(format!("/proc/{one}/comm")).unwrap_or_default();
                Seen::NotYet(format!(
                    "{} left, among them {one} {}",
                    left.len(),
                    name.trim()
                ))
            }
        })
    })
}

fn kill_one(pid: i32) {
    // It may have ended meanwhile; whoever is left is tried again.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// The nodes' mounts are private to them, so there should be none of them here. Should one exist all
/// the same, removing its folder would reach through it.
fn unmount_all(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot list mounts")?;
    let mut below: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4)) // the mount point; proc_pid_mountinfo(5)
        .filter(|point| Path::new(point).starts_with(dir))
        .collect();
    below.sort_unstable_by_key(|point| std::cmp::Reverse(point.len()));
    for point in below {
        umount2(point, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {point}"))?;
    }
    Ok(())
}

/// Removes the empty cgroups containerd left, in the one hierarchy of v2 or in each of v1. Another
/// containerd of the host may use the same name; what it runs is not empty and stays.
fn remove_cgroups() {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.to_path_buf()]) {
        let ours = hierarchy.join(CGROUP);
        if ours.is_dir() {
            remove_cgroup(&ours);
        }
    }
}

/// A cgroup goes by `rmdir`, leaves first; its files cannot be removed. One that stays is empty and
/// costs nothing, so it is no reason to fail.
fn remove_cgroup(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&child.path());
        }
    }
    drop(fs::remove_dir(dir));
}

fn remove_dir(dir: &Path) -> Result<()> {
    wait::until(
        &format!("removing {}", dir.display()),
        STOP,
        daemon::PAUSE,
        || {
            Ok(match fs::remove_dir_all(dir) {
                Ok(()) => Seen::Ready(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Seen::Ready(()),
                // A mount namespace that is being torn down may hold it for a moment.
                Err(error) => Seen::NotYet(error.to_string()),
            })
        },
    )
}

/// The record of the first process.
const FIRST: &str = "first";

/// Where containerd puts the containers of Kubernetes when the kubelet names no parent.
const CGROUP: &str = "k8s.io";

/// Runs as the first process of the new namespaces, with the folder of the tools, the node's
/// `/var` and the program to become. The host's `/run` and `/var` are out of sight from here on,
/// so nothing inside can meet a socket, a volume or a package database of the host.
///
/// The kubelet insists on some settings of the kernel (to panic on an oops is one) and would set
/// them for the whole machine. It finds files that say they are set; the machine keeps its own.
const SET_UP: &str = r#"
mount --bind "$1" /opt
mount --bind "$2" /var
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run
ln -sfn /run /var/run
mkdir -p /run/lock /run/netns
mkdir -p /run/sysctl
claim() {
    echo "$2" > "/run/sysctl/${1##*/}"
    mount --bind "/run/sysctl/${1##*/}" "/proc/sys/$1"
}
claim vm/overcommit_memory 1
claim vm/panic_on_oom 0
claim kernel/panic 10
claim kernel/panic_on_oops 1
claim kernel/keys/root_maxkeys 1000000
claim kernel/keys/root_maxbytes 25000000
exec "$3"
"#;

const START: Duration = Duration::from_secs(10);
const STOP: Duration = Duration::from_secs(30);

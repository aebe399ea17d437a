//! A node's network namespace: its own loopback, one address, and no way to the machine.
//!
//! Everything the cluster opens (ports, bridges, veth pairs, iptables rules, routes) is inside and
//! vanishes with it. The first node's has a bridge, on which all nodes hang; whatever they send each
//! other passes it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};

use super::layout::{FIRST_NODE_IP, Node};
use super::proc;
use crate::run::Run;

/// Creates the namespace of `node` and its devices; for another node than the first, that one's
/// must be there.
///
/// The file is bound by hand instead of with `ip netns add`, which would leave `/run/netns` mounted
/// on itself. `ip netns exec` must not be used for a node: it remounts `/sys` and so hides the
/// cgroup file systems from the kubelet.
pub(super) fn create(node: &Node, first: &Node) -> Result<()> {
    let path = node.network();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Run::new("unshare")
        .arg(format!("--net={}", path.display()))
        .args(["ip", "link", "set", "lo", "up"])
        .stdout()
        .context("cannot create the network namespace")?;
    if node.is_first() {
        // Unlike a dummy device, every kernel that runs containers has a bridge. The route lets
        // packets to Service addresses leave, so that iptables gets to see them.
        let devices = format!(
            "link add {BRIDGE} type bridge\n\
             addr add {FIRST_NODE_IP}/24 dev {BRIDGE}\n\
             link set {BRIDGE} up\n\
             route add default via {FIRST_NODE_IP} dev {BRIDGE}\n"
        );
        ip(node, &devices)?;
    } else {
        let (name, address, pods) = (node.name(), node.ip(), node.pods());
        let port = port(node);
        let devices = format!(
            "link add {port} type veth peer name eth0 netns {name}\n\
             link set {port} master {BRIDGE} up\n\
             route replace {pods} via {address} dev {BRIDGE}\n"
        );
        ip(first, &devices)?;
        let devices = format!(
            "addr add {address}/24 dev eth0\n\
             link set eth0 up\n\
             route add default via {FIRST_NODE_IP} dev eth0\n"
        );
        ip(node, &devices)?;
    }
    // Read and written through /proc, the sysctls of `net` are those of the caller's namespace.
    Run::from_command(inside(node, "sh"))
        .args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        .stdout()
        .map(drop)
}

/// Takes `node` off the bridge, as if its cable were pulled, or puts it back.
pub(super) fn connect(node: &Node, first: &Node, connected: bool) -> Result<()> {
    let state = if connected { "up" } else { "down" };
    ip(first, &format!("link set {} {state}\n", port(node)))
}

/// Removes the namespace; nothing may live in it any more.
pub(super) fn remove(node: &Node, first: &Node) -> Result<()> {
    // The kernel removes the pair some time after the namespace. A new one has the same name.
    if !node.is_first() && proc::namespace_id(&first.network()).is_some() {
        let gone = Run::from_command(inside(first, "ip"))
            .args(["link", "del", &port(node)])
            .ended()?;
        drop(gone); // it was not there
    }
    let path = node.network();
    if proc::namespace_id(&path).is_some() {
        umount2(&path, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", path.display()))?;
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Has `ip` carry out `commands` in the namespace of `node`.
fn ip(node: &Node, commands: &str) -> Result<()> {
    Run::from_command(inside(node, "ip"))
        .args(["-batch", "-"])
        .input(commands)?
        .stdout()
        .map(drop)
}

/// The end of the node's cable on the bridge.
fn port(node: &Node) -> String {
    // Names of devices have at most 15 bytes; the first node's namespace has no other `port-…`.
    format!("port-{}", node.ordinal())
}

/// A command that runs in the namespace of `node`, and otherwise sees the host.
pub(super) fn inside(node: &Node, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", node.network().display()))
        .arg("--")
        .arg(program.as_ref());
    // A proxy of the host is out of reach in there, and would be asked for every address.
    for key in PROXY_VARIABLES {
        command.env_remove(key);
    }
    command
}

/// Runs `work` on a thread of its own inside the namespace of `node`: sockets it opens belong there, also
/// when they are used elsewhere later.
pub(super) fn run_inside<T: Send>(
    node: &Node,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(node)?;
                work()
            })
            .join()
            .map_err(|_| anyhow!("a thread in the node's network panicked"))?
    })
}

/// Moves the calling thread into the namespace of `node`. There is no way back; threads it starts
/// follow.
pub(super) fn enter(node: &Node) -> Result<()> {
    let path = node.network();
    let namespace = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter {}", path.display()))
}

/// The device of the first node that all nodes hang on, and that has its address.
const BRIDGE: &str = "node0";

const PROXY_VARIABLES: [&str; 8] = [
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

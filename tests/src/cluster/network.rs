//! The node's network namespace: its own loopback, one address, a default route that leads nowhere.
//!
//! Everything the cluster opens (ports, bridges, veth pairs, iptables rules, routes) is inside and
//! vanishes with it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};

use super::layout::{NETNS, NODE_IP};
use super::proc;
use crate::run::Run;

/// Creates the namespace and its devices.
///
/// The file is bound by hand instead of with `ip netns add`, which would leave `/run/netns` mounted
/// on itself. `ip netns exec` must not be used for the node: it remounts `/sys` and so hides the
/// cgroup file systems from the kubelet.
pub(super) fn create() -> Result<()> {
    let path = Path::new(NETNS);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(path).with_context(|| format!("cannot create {NETNS}"))?;
    Run::new("unshare")
        .args([&format!("--net={NETNS}"), "ip", "link", "set", "lo", "up"])
        .stdout()
        .context("cannot create the network namespace")?;
    // The address sits on a bridge: unlike a dummy device, every kernel that runs containers has it.
    // The route lets packets to Service addresses leave, so that iptables gets to see them.
    let devices = format!(
        "link add node0 type bridge\n\
         addr add {NODE_IP}/24 dev node0\n\
         link set node0 up\n\
         route add default via {NODE_IP} dev node0\n"
    );
    Run::from_command(inside("ip"))
        .args(["-batch", "-"])
        .input(&devices)?
        .stdout()?;
    // Read and written through /proc, the sysctls of `net` are those of the caller's namespace.
    Run::from_command(inside("sh"))
        .args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        .stdout()
        .map(drop)
}

/// Removes the namespace; nothing may live in it any more.
pub(super) fn remove() -> Result<()> {
    let path = Path::new(NETNS);
    if proc::namespace_id(path).is_some() {
        umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {NETNS}"))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {NETNS}"))
        }
        _ => Ok(()),
    }
}

/// A command that runs in the namespace, and otherwise sees the host.
pub(super) fn inside(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={NETNS}"))
        .arg("--")
        .arg(program.as_ref());
    // A proxy of the host is out of reach in there, and would be asked for every address.
    for key in PROXY_VARIABLES {
        command.env_remove(key);
    }
    command
}

/// Runs `work` on a thread of its own inside the namespace: sockets it opens belong there, also
/// when they are used elsewhere later.
pub(super) fn run_inside<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                enter()?;
                work()
            })
            .join()
            .map_err(|_| anyhow!("a thread in the node's network panicked"))?
    })
}

/// Moves the calling thread into the namespace. There is no way back; threads it starts follow.
pub(super) fn enter() -> Result<()> {
    let namespace = File::open(NETNS).with_context(|| format!("cannot open {NETNS}"))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {NETNS}"))
}

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

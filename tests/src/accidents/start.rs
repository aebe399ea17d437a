//! A start that dies in the middle, and what `down` leaves of it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::cluster::Cluster;
use crate::paths;
use crate::prerequisites;
use crate::progress::Progress;
use crate::run::Run;
use crate::tile_proxy::PAUSE;
use crate::toolchain::ALL;
use crate::wait::{self, Seen};

/// Kills `cargo xtask cluster up` (`kill -9`) once its API server runs, and takes the rest down.
pub(super) fn killed(cluster: &Cluster, progress: &Progress) -> Result<()> {
    let name = "start killed, then down";
    if let Some(reason) = cluster.nodes_are_not_ours() {
        progress.step(name).not_run(reason);
        return Ok(());
    }
    if cluster.components().is_some() {
        let reason = "there is a cluster, which somebody may want to keep";
        progress.step(name).not_run(reason);
        return Ok(());
    }
    // What is installed and built on the way is not what is looked at.
    prerequisites::ensure_node(progress)?;
    cluster.toolchain().build(&ALL, progress)?;
    let step = progress.step(name);
    let xtask = ["run", "--quiet", "--locked", "--package", "xtask"];
    cargo(&[&xtask[..], &["--", "cluster", "status"]].concat())
        .deadline(Duration::from_secs(20 * 60))
        .ended()?;
    let before = traces()?;
    let ended = kill_a_start(cluster, &xtask);
    let down = cluster.down(&Progress::quiet());
    let running = ended?;
    down?;
    let after = traces()?;
    let left: Vec<_> = after.difference(&before).cloned().collect();
    ensure!(left.is_empty(), "down has left behind: {}", left.join(", "));
    ensure!(cluster.components().is_none(), "down has left a cluster");
    step.done(format!(
        "{running} components ran; no process, mount, network or rule is left"
    ));
    Ok(())
}

/// Returns how many components the start had brought up by then, and left running.
fn kill_a_start(cluster: &Cluster, xtask: &[&str]) -> Result<usize> {
    let mut start = Command::new(env!("CARGO"))
        .current_dir(paths::checkout())
        .args(xtask)
        .args(["--", "cluster", "up", "--nodes", "2"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot run cargo")?;
    let running = || {
        let components = cluster.components().unwrap_or_default();
        let running = components.iter().filter(|one| one.age_seconds.is_some());
        running.map(|one| one.name).collect::<Vec<_>>()
    };
    let seen = wait::until("the API server of a start", START, PAUSE / 5, || {
        let seen = running();
        Ok(if seen.contains(&"kube-apiserver") {
            Seen::Ready(())
        } else {
            Seen::NotYet(seen.join(", "))
        })
    });
    let group = Pid::from_raw(i32::try_from(start.id()).context("a pid fits")?);
    killpg(group, Signal::SIGKILL).context("cannot kill the start")?;
    start.wait()?;
    seen?;
    let left = running();
    ensure!(!left.is_empty(), "the components went with their starter");
    Ok(left.len())
}

/// What a cluster might leave on the machine: network devices, rules, and mounts of ours.
fn traces() -> Result<BTreeSet<String>> {
    let mut traces = BTreeSet::new();
    for device in fs::read_dir("/sys/class/net")? {
        traces.insert(format!("device {}", device?.file_name().display()));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let ours = mounts.lines().filter(|line| line.contains("tile-proxy"));
    traces.extend(ours.map(|line| format!("mount {line}")));
    let rules = Run::new("iptables-save").stdout()?;
    let rules = rules.lines().filter(|line| !line.starts_with('#'));
    // Behind a bracket are counters, which move.
    let rules = rules.map(|line| line.split(" [").next().unwrap_or(line));
    traces.extend(rules.map(|rule| format!("rule {rule}")));
    Ok(traces)
}

fn cargo(args: &[&str]) -> Run<'static> {
    Run::new(env!("CARGO"))
        .current_dir(paths::checkout())
        .args(args)
}

/// Longer than a loaded machine takes to the API server.
const START: Duration = Duration::from_secs(120);

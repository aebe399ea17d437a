//! `cargo xtask cluster`: a real Kubernetes of one node or a few to try things on.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use tile_proxy_tests::cluster::Cluster;
use tile_proxy_tests::cluster::layout::MAX_NODES;
use tile_proxy_tests::progress::{Progress, Time};
use tile_proxy_tests::toolchain::{HELM, KUBECTL};

/// A real Kubernetes of one node or a few: up, down, and ways in.
///
/// It runs in namespaces of its own and listens nowhere on the host. The first `up` builds every
/// component from Go modules (about ten minutes on two cores); later ones take seconds.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask cluster up
  cargo xtask cluster up --nodes 2     replicas spread; a second node can be lost
  cargo xtask cluster kubectl get tileproxies --all-namespaces
  cargo xtask cluster helm list --all-namespaces
  cargo xtask cluster shell
  cargo xtask cluster shell -- curl http://10.96.0.10:8080/
  cargo xtask cluster down

Environment:
  TILE_PROXY_CACHE  built tools and images   [default: ~/.cache/tile-proxy]
  TILE_PROXY_STATE  the nodes' own folder    [default: /var/lib/tile-proxy-cluster]")]
pub(crate) struct Args {
    /// Use kind and Docker instead of the built-in nodes
    #[arg(long, global = true)]
    kind: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start the cluster, or find that it runs; repairs what an earlier run left
    Up {
        /// Nodes it has at least; a running cluster gets what is missing. kind has always two
        #[arg(long, default_value_t = 1, value_name = "N",
              value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_NODES)))]
        nodes: u8,
    },
    /// Stop the cluster and remove all of it
    Down,
    /// Show every component, the node and the pods
    Status,
    /// Load an OCI archive into the node
    Load {
        /// The archive, such as target/image/tile-proxy.oci.tar
        archive: PathBuf,
    },
    /// Run kubectl in the cluster's network
    #[command(disable_help_flag = true)]
    Kubectl {
        /// What kubectl is to do
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run helm in the cluster's network
    #[command(disable_help_flag = true)]
    Helm {
        /// What helm is to do
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run a shell or a command in the cluster's network, with kubectl and helm on its PATH
    Shell {
        /// The command; without one, $SHELL
        #[arg(last = true)]
        command: Vec<String>,
    },
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let cluster = if args.kind {
        Cluster::kind()?
    } else {
        Cluster::builtin()?
    };
    match args.action {
        Action::Up { nodes } => cluster.up(nodes, &Progress::new())?,
        Action::Down => cluster.down(&Progress::new())?,
        Action::Status => return status(&cluster),
        Action::Load { archive } => cluster.load_image(&archive)?,
        Action::Kubectl { args } => become_tool(&cluster, cluster.toolchain().path(KUBECTL), args)?,
        Action::Helm { args } => become_tool(&cluster, cluster.toolchain().path(HELM), args)?,
        Action::Shell { command } => shell(&cluster, command)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints how the cluster is; fails unless all of it runs.
fn status(cluster: &Cluster) -> Result<ExitCode> {
    let Some(components) = cluster.components() else {
        println!("there is no cluster; start it: cargo xtask cluster up");
        return Ok(ExitCode::FAILURE);
    };
    let mut healthy = true;
    let mut report = String::new();
    for component in components {
        let pid = component
            .pid
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let state = match component.age_seconds {
            Some(age) => {
                format!(
                    "running  pid {pid:<8} for {}",
                    Time(Duration::from_secs(age))
                )
            }
            None => {
                healthy = false;
                format!("ended    pid {pid:<8} {}", component.log.display())
            }
        };
        report += &format!("{:<14} {:<26} {state}\n", component.node, component.name);
    }
    for what in ["nodes", "pods"] {
        match cluster
            .kubectl(["get", what, "--all-namespaces", "--request-timeout=5s"])
            .stdout()
        {
            Ok(list) => report += &format!("\n{}\n", list.trim_end()),
            Err(error) => {
                healthy = false;
                report += &format!("\n{what}: {error:#}\n");
            }
        }
    }
    // Whoever reads it may have seen enough (`| head`); the exit code still tells.
    drop(std::io::stdout().write_all(report.as_bytes()));
    Ok(if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Becomes `program`, so that its exit code, its signals and its terminal are our caller's.
fn become_tool(cluster: &Cluster, program: PathBuf, args: Vec<String>) -> Result<()> {
    require_running(cluster)?;
    exec(cluster.command(program).args(args))
}

fn shell(cluster: &Cluster, command: Vec<String>) -> Result<()> {
    require_running(cluster)?;
    let mut words = command.into_iter();
    let program = words.next().or_else(|| std::env::var("SHELL").ok());
    let mut shell = cluster.command(program.unwrap_or_else(|| "/bin/sh".to_owned()));
    shell.args(words);

    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = [KUBECTL, HELM].map(|tool| cluster.toolchain().tools().join(tool.folder()));
    let path = std::env::join_paths(tools.into_iter().chain(std::env::split_paths(&path)))
        .context("PATH cannot be extended")?;
    exec(shell.env("PATH", path))
}

fn require_running(cluster: &Cluster) -> Result<()> {
    if cluster.components().is_none() {
        bail!("there is no cluster; start it: cargo xtask cluster up");
    }
    Ok(())
}

fn exec(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    // Returns only where it failed.
    Err(command.exec()).with_context(|| format!("cannot run {}", program.display()))
}

//! `cargo xtask demo`: the whole chain, once, for real.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use tile_proxy_tests::chain::{self, Options};
use tile_proxy_tests::cluster::Cluster;
use tile_proxy_tests::progress::{Progress, Time};

/// Start a cluster, a real log, the operator and a TileProxy, and show what they do.
///
/// Everything is set up on the way: on Debian or Ubuntu as root, missing packages are installed;
/// Kubernetes is built from Go modules the first time (about ten minutes on two cores). The cluster
/// is left running; doing it again takes a minute or two.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask demo
  cargo xtask demo --entries 20000
  cargo xtask demo --kind             with Docker and kind instead of the built-in node
  cargo xtask cluster down            when done")]
pub(crate) struct Args {
    /// Entries of the log, at least
    #[arg(long, default_value_t = Options::default().entries, value_name = "N")]
    entries: u64,
    /// Use kind and Docker instead of the built-in node
    #[arg(long)]
    kind: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let started = Instant::now();
    let cluster = if args.kind {
        Cluster::kind()?
    } else {
        Cluster::builtin()?
    };
    chain::run(
        &cluster,
        Options {
            entries: args.entries,
            ..Options::default()
        },
        &Progress::new(),
    )?;
    println!("{}", chain::last_screen(args.kind));
    println!("Done in {}.", Time(started.elapsed()));
    Ok(ExitCode::SUCCESS)
}

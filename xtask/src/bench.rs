//! `cargo xtask bench`: tile-proxy beside nginx.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use tile_proxy_tests::progress::Progress;
use tile_proxy_tests::{paths, prerequisites};

/// Compare tile-proxy with nginx on the same work in the same run, and print the ratios.
///
/// Builds what ships, installs nginx, wrk and vmtouch where they are missing, and takes some ten
/// minutes. Everything stays on loopback and ends by itself. Leave the machine alone meanwhile: a
/// measurement that something else disturbs is repeated.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench                                       all tables
  cargo xtask bench --tables warm --rounds 3 --seconds 2  the cost of a hit, quickly")]
pub(crate) struct Args {
    /// Rounds of every table; the median of them is shown
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each warm measurement
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Only these tables: warm, cold, herd
    #[arg(long, value_delimiter = ',')]
    tables: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    prerequisites::ensure_bench(&Progress::new())?;
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(paths::checkout())
        .args([
            "bench",
            "--locked",
            "--package=tile-proxy",
            "--bench=peers",
            "--",
        ])
        .args(["--rounds", &args.rounds.to_string()])
        .args(["--seconds", &args.seconds.to_string()]);
    if !args.tables.is_empty() {
        command.args(["--tables", &args.tables.join(",")]);
    }
    let status = command.status().context("cannot start cargo")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

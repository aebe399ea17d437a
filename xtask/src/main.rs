//! The project's commands: `cargo xtask demo`, `test`, `bench`, `cluster`, `image`, `crds`.
//!
//! Thin on purpose: what the commands do is in the harness (`tests/src`), where the end-to-end
//! tests use it too.

mod ahead;
mod bench;
mod cluster;
mod crds;
mod demo;
mod image;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tile_proxy_tests::interrupt;

/// The project's commands.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Bench(bench::Args),
    Cluster(cluster::Args),
    Crds(crds::Args),
    Demo(demo::Args),
    Image(image::Args),
    Test(test::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = on_interrupt().and_then(|()| match cli.command {
        Task::Bench(args) => bench::run(args),
        Task::Cluster(args) => cluster::run(args),
        Task::Crds(args) => crds::run(args),
        Task::Demo(args) => demo::run(args),
        Task::Image(args) => image::run(args),
        Task::Test(args) => test::run(args),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            // The chain without a backtrace: it names what failed, not where in our code.
            eprintln!("\nerror: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

/// The first Ctrl-C (or SIGTERM) lets the command clean up, a second one during that ends it.
fn on_interrupt() -> Result<()> {
    ctrlc::set_handler(|| {
        if interrupt::raised() {
            std::process::exit(130);
        }
        eprintln!("\nstopping; once more to stop without clean-up");
        interrupt::raise();
    })?;
    Ok(())
}

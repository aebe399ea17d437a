//! The command line: one file a subcommand.

mod check;
mod export;
mod fsck;
mod import;
mod inspect;
mod logs;
mod prune;
mod replicas;
mod serve;
mod sync;
mod tuf_client;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A caching reverse proxy for transparency logs that proves every tile.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Check),
    Export(export::Export),
    Fsck(fsck::Fsck),
    Import(import::Import),
    Inspect(inspect::Inspect),
    Prune(prune::Prunes),
    Serve(serve::Serve),
    Sync(sync::Sync),
    #[command(hide = true)]
    TufClient(tuf_client::TufClient),
}

/// Exit code for a bad configuration (`EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;

/// Exit code where 1 already means a finding, and the work could not be done (`EX_IOERR`).
const EXIT_IO: u8 = 74;

/// Exit code for anything else that went wrong.
const EXIT_FAILURE: u8 = 1;

/// Runs the command that the arguments name.
pub async fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(command) => command.run(),
        Command::Export(command) => command.run().await,
        Command::Fsck(command) => command.run().await,
        Command::Import(command) => command.run().await,
        Command::Inspect(command) => command.run().await,
        Command::Prune(command) => command.run().await,
        Command::Serve(command) => command.run().await,
        Command::Sync(command) => command.run().await,
        Command::TufClient(command) => command.run().await,
    }
}

/// Prints what went wrong, with its causes, on one line of standard error.
fn fail(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("tile-proxy: {error:#}");
    ExitCode::from(code)
}

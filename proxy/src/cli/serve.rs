//! `tile-proxy serve`: configuration, tracing, signals; the rest is [`crate::app`].

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::EnvFilter;

use super::{EXIT_CONFIG, EXIT_FAILURE, check::settings, fail};
use crate::{
    app,
    config::{Tracing, TracingFormat},
};

/// Exit code after a second signal: as if the first had ended the process.
const EXIT_SECOND_SIGNAL: i32 = 128 + 15;

/// Serve a log from its cache, and keep the cache filled.
///
/// Every key of the file can be set in the environment, which wins: `tile_proxy.cache.max_size` is
/// `TILE_PROXY__CACHE__MAX_SIZE`. Ends with 78 on a bad configuration, and with 75 if another
/// process keeps the cache for two minutes.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  tile-proxy serve --config tile-proxy.yaml\n  \
    TILE_PROXY__LISTEN=127.0.0.1:8080 tile-proxy serve --config tile-proxy.yaml"
)]
pub(super) struct Serve {
    /// Configuration file, YAML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Serve {
    pub(super) async fn run(&self) -> ExitCode {
        let settings = match settings(&self.config) {
            Ok(settings) => settings,
            Err(code) => return code,
        };
        if let Err(error) = start_tracing(&settings.config.log) {
            return fail(EXIT_CONFIG, &error);
        }
        let stop = match stop_on_signal() {
            Ok(stop) => stop,
            Err(error) => return fail(EXIT_FAILURE, &error.into()),
        };
        raise_descriptor_limit();
        match app::run(settings, stop).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if app::is_cache_busy(&error) => fail(app::EXIT_CACHE_BUSY, &error),
            Err(error) => fail(EXIT_FAILURE, &error),
        }
    }
}

/// What `log.level` lets through.
pub(super) fn tracing_filter(config: &Tracing) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(&config.level)
        .map_err(|error| anyhow::anyhow!("tile_proxy.log.level = {}: {error}", config.level))
}

fn start_tracing(config: &Tracing) -> anyhow::Result<()> {
    let filter = tracing_filter(config)?;
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(terminal)
        .with_writer(std::io::stderr);
    match config.format {
        TracingFormat::Auto if terminal => lines.init(),
        TracingFormat::Text => lines.init(),
        TracingFormat::Auto | TracingFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Allows as many descriptors as the process may have: a connection each, and two a group of tiles.
/// The usual soft limit of 1,024 is for programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, ?current, "descriptor limit not raised");
    }
}

/// Cancelled by the first SIGTERM or SIGINT; a second one ends the process as it would without us.
fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal = name, "stopping");
        stopping.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(EXIT_SECOND_SIGNAL);
    });
    Ok(stop)
}

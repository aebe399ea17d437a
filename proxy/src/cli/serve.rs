//! `tile-proxy serve`: configuration, tracing, signals; the rest is [`crate::app`].

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::{
    EXIT_CONFIG, EXIT_FAILURE,
    check::{NO_FILE, loaded},
    fail,
};
use crate::{
    app::{self, tracing_filter},
    config::{Tracing, TracingFormat},
    reload::{Reload, SetLevel},
};

/// Exit code after a second signal: as if the first had ended the process.
const EXIT_SECOND_SIGNAL: i32 = 128 + 15;

/// Serve a log from its cache, and keep the cache filled.
///
/// Every key of the file can be set in the environment, which wins: `tile_proxy.cache.max_size` is
/// `TILE_PROXY__CACHE__MAX_SIZE`. Ends with 78 on a bad configuration, and with 75 if another
/// process keeps the cache for two minutes. The file is read again when it changes, and on SIGHUP.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  tile-proxy serve --config tile-proxy.yaml\n  \
    TILE_PROXY__LISTEN=127.0.0.1:8080 tile-proxy serve --config tile-proxy.yaml\n  \
    TILE_PROXY__UPSTREAM_URL=https://log.example/ TILE_PROXY__PUBLIC_KEYS='[\"…\"]' tile-proxy serve"
)]
pub(super) struct Serve {
    /// Configuration file, YAML; without one, the environment alone says everything.
    #[arg(long, value_name = "FILE", default_value = NO_FILE, hide_default_value = true)]
    config: PathBuf,
}

impl Serve {
    pub(super) async fn run(&self) -> ExitCode {
        let loaded = match loaded(&self.config) {
            Ok(loaded) => loaded,
            Err(code) => return code,
        };
        let set_level = match start_tracing(&loaded.settings.config.log) {
            Ok(set_level) => set_level,
            Err(error) => return fail(EXIT_CONFIG, &error),
        };
        let signals = stop_on_signal().and_then(|stop| Ok((stop, signal(SignalKind::hangup())?)));
        let (stop, hangup) = match signals {
            Ok(signals) => signals,
            Err(error) => return fail(EXIT_FAILURE, &error.into()),
        };
        raise_descriptor_limit();
        let reload = Reload {
            file: self.config.clone(),
            hangup,
            set_level,
        };
        match app::run(loaded, reload, stop).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if app::is_cache_busy(&error) => fail(app::EXIT_CACHE_BUSY, &error),
            Err(error) => fail(EXIT_FAILURE, &error),
        }
    }
}

/// Starts printing; gives what changes the level.
fn start_tracing(config: &Tracing) -> anyhow::Result<SetLevel> {
    let filter = tracing_filter(&config.level).map_err(|error| anyhow::anyhow!(error))?;
    let terminal = std::io::stderr().is_terminal();
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(terminal)
        .with_writer(std::io::stderr);
    let lines = match config.format {
        TracingFormat::Auto if terminal => lines.boxed(),
        TracingFormat::Text => lines.boxed(),
        TracingFormat::Auto | TracingFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    Ok(Box::new(move |level| {
        let filter = tracing_filter(level)?;
        handle.reload(filter).map_err(|error| error.to_string())
    }))
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

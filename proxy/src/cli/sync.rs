//! `tile-proxy sync`: starts a sync on running replicas and follows it to its end.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::Args;
use futures::future::join_all;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use url::Url;

use super::{
    EXIT_FAILURE, fail,
    replicas::{client, refusal, token},
};
use crate::{
    config::Interval,
    sync::{SyncProgress, SyncRequest, SyncState},
};

/// How often a replica is asked how far it is.
const POLL: Duration = Duration::from_secs(1);

/// Longest time for one call to a replica.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Restarts of a replica that a sync outlives.
const MAX_RESTARTS: u32 = 3;

/// Calls in a row that may fail before a replica counts as lost: at one a second, as long as a
/// replaced pod may take.
const LOST_AFTER: u32 = 120;

/// Have replicas prefetch the newest entries of their log, and wait until they have.
///
/// Talks to the administration port of each replica; the replica fetches, proves and stores. Exits
/// with 0 if every replica has everything, else with 1.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  tile-proxy sync --replica http://127.0.0.1:8080\n  \
    tile-proxy sync --replica http://a:8081 --replica http://b:8081 --token-file token \
    --depth 100000"
)]
pub(super) struct Sync {
    /// Base URL of a replica's administration port; may be given several times.
    #[arg(long = "replica", value_name = "URL", required = true)]
    replicas: Vec<Url>,
    /// File with the replicas' administration token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Name of the log, where there are several.
    #[arg(long, value_name = "NAME")]
    log: Option<String>,
    /// How many of the newest entries; as the replica is configured if not given.
    #[arg(long, value_name = "ENTRIES")]
    depth: Option<u64>,
    /// Longest time for all of it.
    #[arg(long, value_name = "DURATION", default_value = "45m")]
    timeout: Interval,
}

impl Sync {
    pub(super) async fn run(self) -> ExitCode {
        match self.sync_all().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(EXIT_FAILURE, &error),
        }
    }

    async fn sync_all(self) -> anyhow::Result<()> {
        let token = token(self.token_file.as_deref())?;
        let client = client(CALL_TIMEOUT)?;
        let request = SyncRequest {
            log: self.log,
            depth: self.depth,
        };
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let syncs = self.replicas.into_iter().map(|url| {
            let replica = Replica {
                client: client.clone(),
                url,
                token: token.clone(),
            };
            let bar = bars.add(ProgressBar::new(0).with_style(style()));
            bar.set_message(replica.name());
            let request = request.clone();
            async move {
                let outcome = tokio::time::timeout(self.timeout.0, replica.sync(&request, &bar))
                    .await
                    .unwrap_or_else(|_| bail!("not done within {}", self.timeout));
                bar.finish_and_clear();
                (replica.name(), outcome)
            }
        });
        let mut failed = Vec::new();
        for (name, outcome) in join_all(syncs).await {
            match outcome {
                Ok(end) => println!("{name}: {} of {} resources cached", end.done, end.total),
                Err(error) => {
                    eprintln!("{name}: {error:#}");
                    failed.push(name);
                }
            }
        }
        if !failed.is_empty() {
            bail!("not synced: {}", failed.join(", "));
        }
        Ok(())
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg:30!} {bar:30} {pos}/{len} {per_sec} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A running proxy, at its administration port.
struct Replica {
    client: reqwest::Client,
    url: Url,
    token: Option<String>,
}

impl Replica {
    fn name(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Starts a sync and follows it to its end. A replica that is restarted meanwhile is asked
    /// again: what it had cached, it has.
    async fn sync(&self, request: &SyncRequest, bar: &ProgressBar) -> anyhow::Result<SyncProgress> {
        let (mut id, mut failures, mut restarts) = (None, 0, 0);
        loop {
            let called = match id {
                None => self.call(reqwest::Method::POST, Some(request)).await,
                Some(_) => self.call(reqwest::Method::GET, None).await,
            };
            let progress = match called {
                Ok(progress) => progress,
                Err(error) if failures >= LOST_AFTER || !error.is_transient() => {
                    return Err(error.into());
                }
                Err(_) => {
                    // Starting again is harmless: a sync that runs is joined.
                    id = None;
                    failures += 1;
                    tokio::time::sleep(POLL).await;
                    continue;
                }
            };
            failures = 0;
            if id.is_none() && !progress.covers(request) && progress.state == SyncState::Running {
                tokio::time::sleep(POLL).await; // one at a time: another log's goes first
                continue;
            }
            if *id.get_or_insert(progress.id) != progress.id {
                restarts += 1;
                anyhow::ensure!(
                    restarts <= MAX_RESTARTS,
                    "it was restarted {restarts} times"
                );
                id = None;
                continue;
            }
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            match progress.state {
                SyncState::Running => tokio::time::sleep(POLL).await,
                SyncState::Succeeded => return Ok(progress),
                SyncState::Failed => {
                    let error = progress.error.unwrap_or_default();
                    bail!(
                        "{} of {} cached, then: {error}",
                        progress.done,
                        progress.total
                    );
                }
            }
        }
    }

    async fn call(
        &self,
        method: reqwest::Method,
        body: Option<&SyncRequest>,
    ) -> Result<SyncProgress, CallError> {
        let url = self
            .url
            .join("/_admin/cache/sync")
            .map_err(|e| CallError::answer(e.to_string()))?;
        let mut request = self.client.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            let body = serde_json::to_vec(body).map_err(|e| CallError::answer(e.to_string()))?;
            request = request.body(body);
        }
        let response = request.send().await.map_err(CallError::Unreachable)?;
        let status = response.status();
        let answer = response.bytes().await.map_err(CallError::Unreachable)?;
        let forgotten = body.is_none() && status == reqwest::StatusCode::NOT_FOUND;
        if forgotten || status.is_server_error() {
            // Just restarted: it knows of no sync, or still waits for its cache.
            return Err(CallError::NotNow(status));
        }
        if !status.is_success() {
            return Err(CallError::answer(refusal(status, &answer)));
        }
        serde_json::from_slice(&answer).map_err(|error| {
            CallError::answer(format!("its answer is no sync's progress: {error}"))
        })
    }
}

/// Why a call to a replica failed.
#[derive(Debug, thiserror::Error)]
enum CallError {
    /// It said something that another call will not change.
    #[error("{0}")]
    Answer(String),
    /// It is not ready.
    #[error("it answered {0}")]
    NotNow(reqwest::StatusCode),
    /// It did not answer.
    #[error("it cannot be reached")]
    Unreachable(#[source] reqwest::Error),
}

impl CallError {
    fn answer(message: String) -> Self {
        Self::Answer(message)
    }

    fn is_transient(&self) -> bool {
        !matches!(self, Self::Answer(_))
    }
}

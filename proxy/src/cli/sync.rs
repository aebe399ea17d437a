//! `tile-proxy sync`: starts a sync on running replicas and follows it to its end.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use futures::future::join_all;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use url::Url;

use super::{EXIT_FAILURE, fail};
use crate::{
    config::{Interval, Source},
    sync::{SyncProgress, SyncRequest, SyncState},
};

/// How often a replica is asked how far it is.
const POLL: Duration = Duration::from_secs(1);

/// Longest time for one call to a replica.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Calls in a row that may fail before a replica counts as lost.
const LOST_AFTER: u32 = 10;

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
    #[arg(long, value_name = "DURATION", default_value = "50m")]
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
        let token = match &self.token_file {
            Some(path) => {
                let token = Source::File(path.clone())
                    .read()
                    .map_err(|e| anyhow::anyhow!(e))?;
                Some(token)
            }
            None => None,
        };
        // Replicas are neighbours: no proxy is asked for the way to them.
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(CALL_TIMEOUT)
            .build()?;
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

    async fn sync(&self, request: &SyncRequest, bar: &ProgressBar) -> anyhow::Result<SyncProgress> {
        let started = self.call(reqwest::Method::POST, Some(request)).await?;
        let mut failures = 0;
        loop {
            tokio::time::sleep(POLL).await;
            let progress = match self.call(reqwest::Method::GET, None).await {
                Ok(progress) => progress,
                Err(error) if failures >= LOST_AFTER => return Err(error),
                Err(_) => {
                    failures += 1;
                    continue;
                }
            };
            failures = 0;
            if progress.id != started.id {
                bail!("the replica was restarted; what it had cached stays, start the sync again");
            }
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            match progress.state {
                SyncState::Running => {}
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
    ) -> anyhow::Result<SyncProgress> {
        let url = self.url.join("/_admin/cache/sync")?;
        let mut request = self.client.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.body(serde_json::to_vec(body)?);
        }
        let response = request.send().await.context("cannot reach the replica")?;
        let status = response.status();
        let answer = response
            .bytes()
            .await
            .context("cannot read the replica's answer")?;
        if !status.is_success() {
            let message = serde_json::from_slice::<serde_json::Value>(&answer)
                .ok()
                .and_then(|answer| Some(answer.get("message")?.as_str()?.to_owned()))
                .unwrap_or_default();
            bail!("the replica answered {status}: {message}");
        }
        serde_json::from_slice(&answer).context("the replica's answer is not a sync's progress")
    }
}

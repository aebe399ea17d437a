//! `tile-proxy prune`: removes from the caches of running replicas, or from one that nobody runs.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use url::Url;

use super::{
    EXIT_FAILURE, EXIT_IO, fail,
    logs::{Opened, configured},
    replicas::{client, refusal, token},
};
use crate::{
    cache::prune::{Prune, PruneReport},
    config::{Interval, Size},
};

/// Longest time for one replica: a cache of millions of tiles is looked at whole.
const CALL_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Remove tiles and bundles from a cache, by age, by size, or all of a log.
///
/// The cache keeps full tiles for ever and only evicts entry bundles; this is how tiles go. What
/// is served is served as before, except that what was removed is fetched again when somebody asks.
/// Checkpoints, their edge tiles and evidence are never removed.
///
/// Works on running replicas through their administration ports (--replica), or on a cache that no
/// process has (--config). Ends with 0, with 1 if a replica failed, 74 if the cache cannot be
/// changed, 75 if another process has it, 78 on a bad configuration.
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("where").required(true),
    group = ArgGroup::new("what").required(true).multiple(true),
    after_help = "Examples:\n  tile-proxy prune --replica http://127.0.0.1:8080 --older-than 720h \
    --dry-run\n  tile-proxy prune --replica http://a:8081 --token-file token --max-size 5Gi\n  \
    tile-proxy prune --config tile-proxy.yaml --log rome2026h1"
)]
pub(super) struct Prunes {
    /// Base URL of a replica's administration port; may be given several times.
    #[arg(long = "replica", value_name = "URL", group = "where")]
    replicas: Vec<Url>,
    /// File with the replicas' administration token.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    token_file: Option<PathBuf>,
    /// Configuration file, YAML, of a proxy that is not running.
    #[arg(
        long,
        value_name = "FILE",
        group = "where",
        conflicts_with = "replicas"
    )]
    config: Option<PathBuf>,
    /// Remove tiles that were stored, and bundles that were last used, longer ago than this.
    #[arg(long, value_name = "DURATION", group = "what")]
    older_than: Option<Interval>,
    /// Remove as much as makes the cache no larger than this: bundles first, then the oldest tiles.
    #[arg(long, value_name = "SIZE", group = "what")]
    max_size: Option<Size>,
    /// Only from this log; without --older-than and --max-size, everything of it.
    #[arg(long, value_name = "NAME", group = "what")]
    log: Option<String>,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
}

impl Prunes {
    pub(super) async fn run(self) -> ExitCode {
        if let Some(file) = &self.config {
            return self.prune_here(file).await.unwrap_or_else(|code| code);
        }
        match self.prune_replicas().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(EXIT_FAILURE, &error),
        }
    }

    fn prune(&self) -> Prune {
        Prune {
            older_than: self.older_than.map(|age| age.0),
            max_size: self.max_size.map(|size| size.0),
            dry_run: self.dry_run,
        }
    }

    /// Prunes the cache of a configuration, with its lock.
    async fn prune_here(&self, file: &Path) -> Result<ExitCode, ExitCode> {
        let (settings, known) = configured(file, self.log.as_deref())?;
        let opened = Opened::locked(&settings, EXIT_IO).await?;
        let known = known.first().filter(|_| self.log.is_some());
        let pruned = async {
            let Opened::Locked(cache) = &opened else {
                bail!("the cache was opened without its lock");
            };
            let Some(log) = known else {
                return Ok(cache.prune(None, &self.prune()).await?);
            };
            let origins = opened.origins_of(log)?;
            if origins.is_empty() {
                bail!("nothing is stored that the log's keys signed");
            }
            let stores: Vec<_> = origins.iter().map(|origin| opened.log(origin)).collect();
            Ok(cache.prune_all_of(&stores, &self.prune()).await?)
        };
        match pruned.await {
            Ok(report) => {
                print("cache", &report);
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => Err(fail(EXIT_IO, &error)),
        }
    }

    async fn prune_replicas(&self) -> anyhow::Result<()> {
        let token = token(self.token_file.as_deref())?;
        let client = client(CALL_TIMEOUT)?;
        let mut failed = Vec::new();
        // One after the other: while one looks at its disk, the others serve.
        for replica in &self.replicas {
            match self.call(&client, replica, token.as_deref()).await {
                Ok(report) => print(replica.as_str(), &report),
                Err(error) => {
                    eprintln!("{replica}: {error:#}");
                    failed.push(replica.as_str());
                }
            }
        }
        if !failed.is_empty() {
            bail!("not pruned: {}", failed.join(", "));
        }
        Ok(())
    }

    async fn call(
        &self,
        client: &reqwest::Client,
        replica: &Url,
        token: Option<&str>,
    ) -> anyhow::Result<PruneReport> {
        let mut request = client.delete(self.url(replica)?);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.context("it cannot be reached")?;
        let status = response.status();
        let answer = response.bytes().await.context("its answer broke off")?;
        if !status.is_success() {
            bail!(refusal(status, &answer));
        }
        serde_json::from_slice(&answer).context("its answer is no report of a prune")
    }

    fn url(&self, replica: &Url) -> anyhow::Result<Url> {
        let mut url = replica.join("/_admin/cache/prune")?;
        let mut query = url.query_pairs_mut();
        for (name, value) in [
            ("older_than", self.older_than.map(|age| age.to_string())),
            ("max_size", self.max_size.map(|size| size.to_string())),
            ("log", self.log.clone()),
            ("dry_run", self.dry_run.then(|| "true".to_owned())),
        ] {
            if let Some(value) = value {
                query.append_pair(name, &value);
            }
        }
        drop(query);
        Ok(url)
    }
}

fn print(whose: &str, report: &PruneReport) {
    let verb = if report.dry_run {
        "would remove"
    } else {
        "removed"
    };
    println!("{whose}: {verb}");
    for (kind, count) in [
        ("tiles", report.removed.tiles),
        ("bundles", report.removed.bundles),
        ("partial bundles", report.removed.partials),
        ("entries", report.removed.entries),
    ] {
        println!("  {kind:<15} {:>10} {:>15} bytes", count.count, count.bytes);
    }
    println!("  {:<15} {:>10} {:>15} bytes", "left", "", report.bytes);
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        prunes: Prunes,
    }

    #[test]
    fn one_says_where_and_what() {
        for (line, valid) in [
            ("--replica http://a:1 --older-than 720h", true),
            (
                "--replica http://a:1 --replica http://b:1 --max-size 5Gi --dry-run",
                true,
            ),
            ("--config f --log rome", true),
            ("--config f --log rome --older-than 1h --max-size 0", true),
            ("--replica http://a:1", false), // nothing says what
            ("--older-than 720h", false),    // nor where
            ("--config f --dry-run", false),
            ("--config f --replica http://a:1 --log rome", false),
            ("--config f --token-file t --log rome", false),
            ("--config f --older-than 720", false),
        ] {
            let parsed = Line::try_parse_from(["prune"].into_iter().chain(line.split(' ')));
            assert_eq!(parsed.is_ok(), valid, "{line}");
        }
    }

    #[test]
    fn a_replica_is_asked_for_the_same() {
        let line = "prune --replica http://a:1/x --older-than 720h --log a&b --dry-run";
        let line = Line::try_parse_from(line.split(' ')).expect("valid").prunes;
        let url = line.url(&line.replicas[0]).expect("a URL");
        let want = "http://a:1/_admin/cache/prune?older_than=720h&log=a%26b&dry_run=true";
        assert_eq!(url.as_str(), want);
    }
}

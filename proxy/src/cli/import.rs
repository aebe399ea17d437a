//! `tile-proxy import`: takes up what another proxy exported.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{
    EXIT_FAILURE, fail,
    logs::{KnownLog, Opened, configured, print_json, progress_bar, run},
};
use crate::{
    cache::Cache,
    transfer::{
        Format,
        import::{Destination, Report, Taken, Verdict, import},
    },
};

/// Exit code when a known key has signed two histories (`EX_PROTOCOL`).
const EXIT_SPLIT_VIEW: u8 = 76;

/// Take up what another proxy exported, or a static mirror of a log.
///
/// Nothing in it is believed: the checkpoint must be signed by a configured key and of one history
/// with what is trusted already, and every tile and entry bundle must be in its tree. The size that
/// is trusted never goes down. What is there already costs a comparison, so an import that was cut
/// off is simply run again. No proxy may be running on the cache.
///
/// Ends with 0 if everything is in the cache; 1 if something was refused, damaged or cut off; 75 if
/// another process has the cache; 76 if a configured key has signed two histories, of which both
/// are kept as evidence; 78 on a bad configuration.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  tile-proxy import --config tile-proxy.yaml rekor.tar.zst\n  \
    tile-proxy import --config tile-proxy.yaml /mnt/stick --format files\n  \
    tile-proxy import --config tile-proxy.yaml rekor.tar.zst --json | jq '.logs[].checkpoint'"
)]
pub(super) struct Import {
    /// Configuration file, YAML: where the cache is, and which keys may sign.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The archive or the directory.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// How it is laid out; found out if not given.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Name of the log; every configured one if not given.
    #[arg(long, value_name = "NAME")]
    log: Option<String>,
    /// Print one JSON object in place of the summary.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    version: u8,
    logs: &'a [Report],
}

impl Import {
    pub(super) async fn run(self) -> ExitCode {
        self.try_run().await.unwrap_or_else(|code| code)
    }

    async fn try_run(self) -> Result<ExitCode, ExitCode> {
        let (settings, known) = configured(&self.config, self.log.as_deref())?;
        let opened = Opened::locked(&settings, EXIT_FAILURE).await?;
        let json = self.json;
        let import = move || self.import(&opened, known);
        let reports = run("import", EXIT_FAILURE, import).await?;
        Ok(print(&reports, json))
    }

    fn import(&self, opened: &Opened, known: Vec<KnownLog>) -> anyhow::Result<Vec<Report>> {
        let path = self.path.display();
        let format = match self.format {
            Some(format) => format,
            None => Format::of(&self.path).with_context(|| format!("cannot import {path}"))?,
        };
        let mut destinations = Vec::new();
        for log in known {
            destinations.push(Destination {
                origin: opened.origin_of(&log)?,
                name: log.name,
                trust: log.trust,
            });
        }
        let cache: &Cache = match opened {
            Opened::Locked(cache) => cache,
            Opened::Beside(_) => anyhow::bail!("the cache is not locked"),
        };
        let bar = progress_bar("import", "resources");
        let runtime = tokio::runtime::Handle::current();
        let from = (self.path.as_path(), format);
        let imported = import(cache, &runtime, &destinations, from, &|seen| {
            bar.set_length(seen);
            bar.set_position(seen);
        });
        bar.finish_and_clear();
        let mut reports = imported.with_context(|| format!("cannot import {path}"))?;
        // With --log, the others of an archive are not asked for.
        if self.log.is_some() && reports.iter().any(|report| !report.log.is_empty()) {
            reports.retain(|report| !report.log.is_empty());
        }
        Ok(reports)
    }
}

fn print(reports: &[Report], json: bool) -> ExitCode {
    if json {
        let output = Output {
            version: 1,
            logs: reports,
        };
        if let Err(error) = print_json(&output) {
            return fail(EXIT_FAILURE, &error);
        }
    } else {
        reports.iter().for_each(print_summary);
    }
    let split = |report: &Report| report.checkpoint == Verdict::SplitView;
    if reports.iter().any(split) {
        ExitCode::from(EXIT_SPLIT_VIEW)
    } else if reports.iter().all(Report::is_clean) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FAILURE)
    }
}

fn print_summary(report: &Report) {
    for finding in &report.findings {
        eprintln!("{}: {finding}", report.origin);
    }
    let says = match report.checkpoint {
        Verdict::Advanced => "taken up",
        Verdict::Current => "trusted already",
        Verdict::Incomplete => "not taken up: not everything is here",
        Verdict::Refused => "refused",
        Verdict::SplitView => "refused: a split view",
        Verdict::Stale => "older than the trusted one",
        Verdict::Unproven => "not taken up: not proven to continue the trusted one",
    };
    println!(
        "{} ({}): checkpoint of {} entries {says}",
        report.origin,
        match report.log.as_str() {
            "" => "not configured",
            log => log,
        },
        report.offered
    );
    if let Some(trusted) = report.trusted {
        println!("  trusted: {trusted} entries");
    }
    for (kind, taken) in [("tiles", report.tiles), ("bundles", report.bundles)] {
        let Taken {
            stored,
            present,
            damaged,
            unprovable,
        } = taken;
        println!(
            "  {kind:<8} {stored:>10} stored {present:>10} there already {damaged:>6} damaged \
             {unprovable:>6} unprovable"
        );
    }
}

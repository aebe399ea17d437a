//! `tile-proxy fsck`: proves everything in a cache again, and prints what it found.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{
    EXIT_FAILURE, EXIT_IO, fail,
    logs::{KnownLog, Opened, configured, print_json, progress_bar, run},
};
use crate::{
    fsck::{Options, Report, check},
    trust::Trust,
};

/// Prove everything in the cache again.
///
/// Every full tile against its parent up to the signed root, every entry bundle against its tile,
/// every checkpoint by its signatures, its edge tiles and the history it shares with the others; of
/// Rekor v1, every entry by its hash, its inclusion proof and both of its signatures.
/// May run beside a proxy that serves the cache, except with --repair.
///
/// "unprovable" is no damage: what would prove it is not stored, or no configured key signed it.
/// "missing" is in the log's tree and not in the cache, which need not have everything.
///
/// Ends with 0 if nothing is damaged; 1 if something is, also when it was removed; 74 if the cache
/// cannot be read; 75 if --repair finds another process in it; 78 on a bad configuration.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  tile-proxy fsck --config tile-proxy.yaml\n  \
    tile-proxy fsck --config tile-proxy.yaml --repair\n  \
    tile-proxy fsck --config tile-proxy.yaml --json | jq '.logs[].tiles'"
)]
pub(super) struct Fsck {
    /// Configuration file, YAML: where the cache is, and which keys may sign.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Name of the log; everything in the cache if not given.
    #[arg(long, value_name = "NAME")]
    log: Option<String>,
    /// Remove what is damaged, so that it is fetched again. No proxy may be running on the cache.
    #[arg(long)]
    repair: bool,
    /// Print one JSON object in place of the table.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    version: u8,
    clean: bool,
    logs: &'a [Report],
}

impl Fsck {
    pub(super) async fn run(self) -> ExitCode {
        self.try_run().await.unwrap_or_else(|code| code)
    }

    async fn try_run(self) -> Result<ExitCode, ExitCode> {
        let (settings, known) = configured(&self.config, self.log.as_deref())?;
        let opened = if self.repair {
            Opened::locked(&settings, EXIT_IO).await?
        } else {
            Opened::beside(&settings, EXIT_IO)?
        };
        let json = self.json;
        let check = move || self.check(&opened, &known);
        let reports = run("check", EXIT_IO, check).await?;
        Ok(print(&reports, json))
    }

    fn check(&self, opened: &Opened, known: &[KnownLog]) -> anyhow::Result<Vec<Report>> {
        let mut reports = Vec::new();
        for (name, origin, trust) in self.logs(opened, known)? {
            let bar = progress_bar("fsck", "groups");
            let options = Options {
                log: &name,
                trust: &trust,
                repair: self.repair,
                progress: &|done, total| {
                    bar.set_length(total as u64);
                    bar.set_position(done as u64);
                },
            };
            let store = opened.log(&origin);
            let report = check(&store, &options)
                .with_context(|| format!("cannot read what is stored for `{origin}`"))?;
            bar.finish_and_clear();
            reports.push(report);
        }
        Ok(reports)
    }

    /// Name, origin and signers of every log to check: those that are configured, and whatever else is
    /// in the cache, with all keys there are.
    fn logs(&self, opened: &Opened, known: &[KnownLog]) -> anyhow::Result<Vec<Checked>> {
        let mut logs: Vec<Checked> = Vec::new();
        for log in known {
            for origin in opened.origins_of(log)? {
                logs.push((log.name.clone(), origin, (*log.trust).clone()));
            }
        }
        if self.log.is_none() {
            let all = Trust::any_of(known.iter().map(|log| &*log.trust));
            for origin in opened.origins()? {
                if logs.iter().all(|(_, known, _)| *known != origin) {
                    logs.push((String::new(), origin, all.clone()));
                }
            }
        }
        Ok(logs)
    }
}

type Checked = (String, String, Trust);

fn print(reports: &[Report], json: bool) -> ExitCode {
    let clean = reports.iter().all(|report| report.damaged() == 0);
    if json {
        let output = Output {
            version: 1,
            clean,
            logs: reports,
        };
        if let Err(error) = print_json(&output) {
            return fail(EXIT_IO, &error);
        }
    } else {
        reports.iter().for_each(print_table);
        if reports.is_empty() {
            println!("nothing is stored");
        }
    }
    if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FAILURE)
    }
}

fn print_table(report: &Report) {
    for finding in &report.findings {
        eprintln!("{finding}");
    }
    for stray in &report.strays {
        eprintln!("{stray}: none of the cache's files");
    }
    let name = match report.log.as_str() {
        "" => "not configured",
        name => name,
    };
    match report.size {
        Some(size) => println!("{} ({name}): {size} entries", report.origin),
        None => println!(
            "{} ({name}): no trusted checkpoint, so nothing can be proven",
            report.origin
        ),
    }
    println!(
        "  {:<12} {:>10} {:>10} {:>10} {:>10}",
        "", "proven", "damaged", "unprovable", "missing"
    );
    for (kind, counts) in report.kinds() {
        println!(
            "  {kind:<12} {:>10} {:>10} {:>10} {:>10}",
            counts.proven, counts.damaged, counts.unprovable, counts.missing
        );
    }
    if report.removed > 0 {
        println!("  removed: {}", report.removed);
    }
}

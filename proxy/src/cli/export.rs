//! `tile-proxy export`: writes what the cache has proven in a format that others read.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{
    EXIT_FAILURE, fail,
    logs::{KnownLog, Opened, configured, progress_bar, run},
};
use crate::{
    log::stored::{Stored, is_known},
    transfer::{
        Format,
        export::{Carried, ExportError, Report, STDOUT, Source, export},
    },
};

/// Write what the cache has proven: an archive for an air gap, a static mirror, or plain files.
///
/// Everything is proven again on the way, from the checkpoint that is trusted now; what is damaged
/// is skipped and counted. Reads only, so it may run beside a proxy that serves the cache. An
/// export that is cut off never looks complete: an archive gets its name at the end, a directory its
/// checkpoint. Running it again refreshes a directory, and writes only what is new.
///
/// Rekor v1 logs are left out, as they have no tiles: for them, copy the cache's directory.
///
/// Ends with 0 if everything stored was written; 1 if something was damaged, or nothing could be
/// written; 78 on a bad configuration.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  tile-proxy export --config tile-proxy.yaml --format bundle \
    --out rekor.tar.zst\n  \
    tile-proxy export --config tile-proxy.yaml --format tlog-tiles --out /srv/www/rekor\n  \
    tile-proxy export --config tile-proxy.yaml --format files --out /mnt/stick --json\n  \
    kubectl exec deploy/rekor-replica-0 -- /usr/local/bin/tile-proxy export \
    --config /etc/tile-proxy/config/config-….yaml --format bundle --out - > rekor.tar.zst"
)]
pub(super) struct Export {
    /// Configuration file, YAML: where the cache is, and which keys may sign.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How it is laid out.
    #[arg(long, value_enum)]
    format: Format,
    /// The archive or the directory to write; `-` writes an archive to standard output, and the
    /// summary to standard error.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
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

impl Export {
    pub(super) async fn run(self) -> ExitCode {
        self.try_run().await.unwrap_or_else(|code| code)
    }

    async fn try_run(self) -> Result<ExitCode, ExitCode> {
        let (settings, known) = configured(&self.config, self.log.as_deref())?;
        let opened = Opened::beside(&settings, EXIT_FAILURE)?;
        let (json, piped) = (self.json, self.out == Path::new(STDOUT));
        let export = move || self.export(&opened, known);
        let reports = run("export", EXIT_FAILURE, export).await?;
        Ok(print(&reports, json, piped))
    }

    fn export(&self, opened: &Opened, known: Vec<KnownLog>) -> anyhow::Result<Vec<Report>> {
        let mut sources = Vec::new();
        for log in known {
            // Of several, the others are exported all the same.
            if opened.is_rekor_v1(&log)? {
                let error = no_tiles(&log.name);
                if self.log.is_some() {
                    return Err(error);
                }
                eprintln!("{error:#}");
                continue;
            }
            sources.push(source(opened, log)?);
        }
        if sources.is_empty() {
            anyhow::bail!("no other log is configured, so nothing is exported");
        }
        let bar = progress_bar("export", "groups");
        let upstream_url = |number| opened.upstream_url(number).ok().flatten();
        let exported = export(
            &sources,
            self.format,
            &self.out,
            &upstream_url,
            &|done, total| {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            },
        );
        bar.finish_and_clear();
        exported.map_err(|error| match error {
            ExportError::Io(_) => {
                let out = self.out.display();
                anyhow::Error::from(error).context(format!("cannot export to {out}"))
            }
            error => error.into(),
        })
    }
}

/// Why a Rekor v1 log cannot be exported, and what to do.
fn no_tiles(log: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "`{log}` is left out: it is a Rekor v1 log, which has no tiles to prove an export by; copy the \
         cache's directory instead, which `tile-proxy fsck` proves on the other side"
    )
}

fn source(opened: &Opened, log: KnownLog) -> anyhow::Result<Source> {
    let known = |origin: &String| is_known(&opened.log(origin), &log.trust).unwrap_or_default();
    let origin = match log.origin {
        Some(origin) => Some(origin),
        None => opened.origins()?.into_iter().find(known),
    };
    let origin = origin.with_context(|| {
        let name = &log.name;
        format!("nothing is stored for the log `{name}`, or nothing that one of its keys signed")
    })?;
    Ok(Source {
        stored: Stored::open(opened.log(&origin), &log.trust)
            .with_context(|| format!("cannot read what is trusted for `{origin}`"))?,
        name: log.name,
        upstream_url: log.upstream_url,
    })
}

fn print(reports: &[Report], json: bool, piped: bool) -> ExitCode {
    let summary = if json {
        let output = Output {
            version: 1,
            logs: reports,
        };
        match serde_json::to_string_pretty(&output) {
            Ok(text) => text,
            Err(error) => return fail(EXIT_FAILURE, &error.into()),
        }
    } else {
        let logs: Vec<String> = reports.iter().map(summary).collect();
        logs.join("\n")
    };
    if piped {
        eprintln!("{summary}");
    } else {
        println!("{summary}");
    }
    match reports.iter().map(Report::damaged).sum() {
        0_u64 => ExitCode::SUCCESS,
        damaged => {
            let hint = "`tile-proxy fsck --repair` removes them, and the proxy fetches them again";
            fail(
                EXIT_FAILURE,
                &anyhow::anyhow!("{damaged} damaged resources were left out; {hint}"),
            )
        }
    }
}

/// What was exported of one log, for people.
fn summary(report: &Report) -> String {
    for finding in &report.findings {
        eprintln!("{finding}");
    }
    let mut text = format!(
        "{} ({}): {} entries",
        report.origin, report.log, report.size
    );
    for (kind, carried) in [("tiles", report.tiles), ("bundles", report.bundles)] {
        let Carried {
            exported,
            damaged,
            unprovable,
            missing,
        } = carried;
        text.push_str(&format!(
            "\n  {kind:<8} {exported:>10} exported {damaged:>6} damaged {unprovable:>6} unprovable \
             {missing:>10} not in the cache"
        ));
    }
    text
}

//! `tile-proxy inspect`: what a log is, from what it serves.

mod probe;
mod report;

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;
use url::Url;

use self::{
    probe::{Found, Probe},
    report::Report,
};
use super::{EXIT_CONFIG, EXIT_FAILURE, fail};
use crate::{
    config::{Config, Interval, Kind, Source},
    note::vkey::VerifierKey,
};

/// Say what a log is: its kind, origin, size and signatures, and how to follow it.
///
/// Fetches the checkpoint and the edge tiles of its tree, and says whether they fold to its root, who
/// signed it, and what caches are told. With --key, also whether that key is the log's; without one,
/// nothing here is proven: it is what the server says. Ends with the configuration to follow the log.
///
/// Ends with 0 if the log can be followed as far as can be seen; 1 if there is no log, if its edge
/// tiles do not fold to its root, or if no given key signed its checkpoint; 78 if a given key is none.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  tile-proxy inspect https://log.example/2026h1\n  \
    tile-proxy inspect https://log2025-1.rekor.sigstore.dev \\\n    \
    --key log2025-1.rekor.sigstore.dev+cf119915+AbfK5adZJxsI323FwGD2AJJ9F4i89cfDuLdGJBIYntuO\n  \
    tile-proxy inspect http://localhost:8080 --key file:log.pem --json | jq .size"
)]
pub(super) struct Inspect {
    /// Base URL of the log: `checkpoint` and `tile/` are below it, or below its `api/v2/`.
    #[arg(value_name = "URL")]
    url: Url,
    /// Verifier key of the log (`name+id+base64` or PEM), or `file:PATH`; may be given several times.
    // PEM begins with hyphens.
    #[arg(long = "key", value_name = "KEY", allow_hyphen_values = true)]
    keys: Vec<Source>,
    /// Authorities that may vouch for the server beside those of the system: certificates in PEM, or
    /// `file:PATH`.
    #[arg(long, value_name = "CERTIFICATES", allow_hyphen_values = true)]
    ca: Option<Source>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Longest time for one request.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: Interval,
}

impl Inspect {
    pub(super) async fn run(self) -> ExitCode {
        let keys = match self.keys() {
            Ok(keys) => keys,
            Err(error) => return fail(EXIT_CONFIG, &error),
        };
        let report = match self.report(&keys).await {
            Ok(report) => report,
            Err(error) => return fail(EXIT_FAILURE, &error),
        };
        if self.json {
            match serde_json::to_string_pretty(&report) {
                Ok(json) => println!("{json}"),
                Err(error) => return fail(EXIT_FAILURE, &error.into()),
            }
        } else {
            print!("{report}");
        }
        for problem in &report.problems {
            eprintln!("tile-proxy: {problem}");
        }
        if report.problems.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(EXIT_FAILURE)
        }
    }

    fn keys(&self) -> anyhow::Result<Vec<VerifierKey>> {
        let mut keys = Vec::new();
        for source in &self.keys {
            let text = source.read().map_err(|error| anyhow::anyhow!(error))?;
            let parsed =
                VerifierKey::parse_all(&text).with_context(|| format!("--key {source}"))?;
            anyhow::ensure!(!parsed.is_empty(), "--key {source}: there is no key in it");
            keys.extend(parsed);
        }
        Ok(keys)
    }

    fn authorities(&self) -> anyhow::Result<Vec<reqwest::Certificate>> {
        let Some(source) = &self.ca else {
            return Ok(Vec::new());
        };
        let text = source.read().map_err(|error| anyhow::anyhow!(error))?;
        let authorities = reqwest::Certificate::from_pem_bundle(text.as_bytes())
            .with_context(|| format!("--ca {source}"))?;
        anyhow::ensure!(
            !authorities.is_empty(),
            "--ca {source}: there is no certificate in it"
        );
        Ok(authorities)
    }

    /// What was given here, as it stands in a configuration.
    fn configuration(&self, base: &Url, kind: Kind) -> Config {
        Config {
            upstream_url: Some(base.clone()),
            kind,
            public_keys: self.keys.clone(),
            trusted_ca: self.ca.clone(),
            ..Config::default()
        }
    }

    async fn report(&self, keys: &[VerifierKey]) -> anyhow::Result<Report> {
        let authorities = self.authorities()?;
        let probe = Probe::new(Duration::max(self.timeout.0, MIN_TIMEOUT), authorities)?;
        match probe.find(&self.url).await? {
            Found::Tiles {
                base,
                kind,
                checkpoint,
            } => {
                let mut report = Report::of_note(&base, kind, &checkpoint.body, keys)?;
                report.caching.checkpoint = checkpoint.caching();
                let edge = probe.edge(&base, &report.checkpoint).await;
                report.add_edge(edge);
                report.add_configuration(self.configuration(&base, Kind::Auto));
                Ok(report)
            }
            Found::RekorV1 {
                base,
                note,
                caching,
            } => {
                let mut report = Report::of_note(&base, probe::LogKind::RekorV1, &note, keys)?;
                report.caching.checkpoint = caching;
                report.add_configuration(self.configuration(&base, Kind::RekorV1));
                Ok(report)
            }
        }
    }
}

/// Shortest time for a request: below it, nothing answers.
const MIN_TIMEOUT: Duration = Duration::from_millis(100);

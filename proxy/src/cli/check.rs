//! `tile-proxy check`: whether a configuration would start.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{EXIT_CONFIG, fail, serve::tracing_filter};
use crate::{
    config::{Config, Settings},
    trust::TrustedKeys,
};

/// Say whether a configuration is valid, and what it means, without starting anything.
///
/// Reads the file and the environment as `serve` does, and prints every problem with its key.
/// Exits with 0 if `serve` would take it, else with 78.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  tile-proxy check --config tile-proxy.yaml\n  \
    TILE_PROXY__CACHE__MAX_SIZE=9Gi tile-proxy check --config tile-proxy.yaml"
)]
pub(super) struct Check {
    /// Configuration file, YAML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Check {
    pub(super) fn run(&self) -> ExitCode {
        match settings(&self.config) {
            Ok(settings) => {
                for warning in &settings.warnings {
                    eprintln!("warning: {warning}");
                }
                print!("{}", settings.config.to_yaml());
                ExitCode::SUCCESS
            }
            Err(code) => code,
        }
    }
}

/// The settings that a file and the environment give; prints all problems.
pub(super) fn settings(file: &std::path::Path) -> Result<Settings, ExitCode> {
    let config =
        Config::load(file, environment()).map_err(|error| fail(EXIT_CONFIG, &error.into()))?;
    let settings = config.check().map_err(|problems| {
        for problem in &problems {
            eprintln!("tile-proxy: {problem}");
        }
        ExitCode::from(EXIT_CONFIG)
    })?;
    for log in &settings.logs {
        TrustedKeys::read(&log.keys).map_err(|error| fail(EXIT_CONFIG, &error))?;
    }
    tracing_filter(&settings.config.log).map_err(|error| fail(EXIT_CONFIG, &error))?;
    Ok(settings)
}

/// Variables that are UTF-8; others cannot be keys of ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

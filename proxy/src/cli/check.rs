//! `tile-proxy check`: whether a configuration would start.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::EXIT_CONFIG;
use crate::{
    config::Settings,
    reload::{self, Loaded, load},
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
    /// Configuration file, YAML; without one, the environment alone says everything.
    #[arg(long, value_name = "FILE", default_value = NO_FILE, hide_default_value = true)]
    config: PathBuf,
}

impl Check {
    pub(super) fn run(&self) -> ExitCode {
        match loaded(&self.config) {
            Ok(Loaded { settings, .. }) => {
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

/// What is read where no file is given: containers are often told everything by their environment.
pub(super) const NO_FILE: &str = "/dev/null";

/// What a file and the environment give; prints all problems.
pub(super) fn loaded(file: &std::path::Path) -> Result<Loaded, ExitCode> {
    load(file).map_err(|problems| refused(&problems))
}

/// As [`loaded`], for those who serve nobody.
pub(super) fn settings(file: &std::path::Path) -> Result<Settings, ExitCode> {
    reload::settings(file).map_err(|problems| refused(&problems))
}

fn refused(problems: &[String]) -> ExitCode {
    for problem in problems {
        eprintln!("tile-proxy: {problem}");
    }
    ExitCode::from(EXIT_CONFIG)
}

//! Clients of transparency logs, and of TUF, that are written in Python, in a virtual environment of
//! the cache.
//!
//! Every package is pinned, and the environment's folder is named after the pins and the Python, so
//! that a new pin or a new Python is a new environment. The clients are run as modules, because a
//! program's file would name the folder it was built in.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::Toolchain;
use crate::prerequisites;
use crate::progress::Progress;
use crate::run::Run;

/// The module of a verifier of signatures, inclusion and consistency.
pub const AICS_TLOG: &str = "aics_tlog";
/// The module of a reader that checks inclusion and no signature.
pub const TLOG_SCALES: &str = "tlog_scales.cli";

impl Toolchain {
    /// The Python that has [`AICS_TLOG`], [`TLOG_SCALES`] and python-tuf; makes it if it is missing.
    pub fn python(&self, progress: &Progress) -> Result<PathBuf> {
        let python = prerequisites::ensure_python(progress)?;
        let version = Run::new(&python)
            .args([
                "-c",
                "import sys; print('%d.%d' % sys.version_info[:2], end='')",
            ])
            .stdout()?;
        let pins = hex::encode(Sha256::digest(REQUIREMENTS));
        let folder = format!("python{version}-clients-{}", &pins[..8]);
        let made = self.tools().join(&folder).join("bin/python");
        if made.is_file() {
            return Ok(made);
        }

        let step = progress.step(format!("Python {version} clients"));
        let _lock = self.lock(&step)?;
        if made.is_file() {
            step.done("made by another run");
            return Ok(made);
        }
        // Renamed when it is whole, like any tool.
        let building = self.tools().join(format!(".{folder}.building"));
        Run::new(&python)
            .args(["-m", "venv"])
            .arg(&building)
            .named("python3 -m venv")
            .deadline(INSTALL_DEADLINE)
            .live(&step)
            .stdout()?;
        let requirements = building.join("requirements.txt");
        fs::write(&requirements, REQUIREMENTS)?;
        Run::new(building.join("bin/python"))
            .args(["-m", "pip", "install", "--disable-pip-version-check"])
            // What is installed is what is pinned. One package declares a newer Python than Debian
            // has; it uses nothing of it, as the tests see.
            .args(["--no-deps", "--ignore-requires-python", "--requirement"])
            .arg(&requirements)
            .named("pip install")
            .deadline(INSTALL_DEADLINE)
            .live(&step)
            .stdout()
            .context("cannot install the clients written in Python")?;
        fs::rename(&building, self.tools().join(&folder))
            .context("cannot move the Python clients into place")?;
        step.done("made");
        Ok(made)
    }
}

const REQUIREMENTS: &str = include_str!("requirements.txt");

/// Some 10 MB over a slow network.
const INSTALL_DEADLINE: Duration = Duration::from_secs(10 * 60);

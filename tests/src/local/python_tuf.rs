//! TUF by python-tuf: a repository that nobody here wrote the metadata of, and a client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;

use super::World;
use crate::run::{Ended, Run};

/// Its program, which is ours, and the Python that has what it needs.
#[derive(Debug)]
pub struct PythonTuf {
    python: PathBuf,
    program: PathBuf,
}

/// Texts by the names of targets.
pub type Texts = BTreeMap<String, String>;

/// A log's key that was made there.
#[derive(Debug, Deserialize)]
pub struct LogKey {
    /// As Tessera takes it.
    pub private: String,
    /// The verifier key.
    pub verifier: String,
    /// The public key alone.
    pub pem: String,
}

impl PythonTuf {
    /// Makes it in the test's directory.
    pub fn new(world: &World) -> Result<Self> {
        Ok(Self {
            python: world.toolchain().python(world.progress())?,
            program: world.file("python_tuf.py", include_str!("python_tuf.py"))?,
        })
    }

    /// A new key of a log of this name.
    pub fn log_key(&self, name: &str) -> Result<LogKey> {
        let printed = self.run("logkey").arg(name).stdout()?;
        serde_json::from_str(&printed).with_context(|| format!("not a key: {printed}"))
    }

    /// Publishes the next version of a repository, with these targets, and these that a delegated role
    /// lists; `rotate` gives it a root with other keys.
    pub fn publish(
        &self,
        repository: &Path,
        targets: &Texts,
        delegated: &Texts,
        rotate: bool,
    ) -> Result<()> {
        let wish = json!({"targets": targets, "delegated": delegated, "rotate": rotate});
        let run = self.run("publish").arg(repository);
        run.input(&wish.to_string())?.stdout().map(drop)
    }

    /// Fails unless the metadata in a directory is signed, from `root.json` on.
    pub fn verify(&self, directory: &Path) -> Result<()> {
        self.run("verify").arg(directory).stdout().map(drop)
    }

    /// Follows the repository at `url` from `root` on, with what `directory` has of it, and prints
    /// these targets as [`Texts`].
    pub fn read(&self, root: &Path, url: &str, directory: &Path, names: &[&str]) -> Result<Ended> {
        let run = self.run("read").arg(root).arg(url).arg(directory);
        run.args(names).ended()
    }

    fn run(&self, command: &str) -> Run<'_> {
        Run::new(&self.python)
            .arg(&self.program)
            .arg(command)
            // A proxy of the machine has no way to loopback.
            .env("NO_PROXY", "*")
            .named(format!("python-tuf: {command}"))
    }
}

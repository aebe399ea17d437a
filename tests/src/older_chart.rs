//! The chart as an earlier version might have been: with another CRD.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::paths;

/// Writes it to `to`, which is replaced.
pub fn write(to: &Path) -> Result<PathBuf> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    copy(&paths::checkout().join("charts/tile-proxy"), to)?;
    let edit = |file: &str, from: &str, into: &str| -> Result<()> {
        let path = to.join(file);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        ensure!(text.contains(from), "{file} has no {from:?}");
        fs::write(&path, text.replacen(from, into, 1)).context("cannot write the older chart")
    };
    edit("Chart.yaml", "\nversion: 0.1.0\n", "\nversion: 0.0.1\n")?;
    edit("files/tileproxies.yaml", "- tp\n", "- tp\n    - older\n")?;
    Ok(to.to_path_buf())
}

/// Whether a CRD, as JSON, is that of the older chart.
pub fn is_older(crd: &serde_json::Value) -> bool {
    crd["spec"]["names"]["shortNames"]
        .to_string()
        .contains("older")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .context("an entry of a folder has a name")?;
        if path.is_dir() {
            copy(&path, &to.join(name))?;
        } else {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

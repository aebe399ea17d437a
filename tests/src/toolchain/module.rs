//! The scratch module a tool is built in: a `go.mod` that requires the tool's module at its tag.
//!
//! It lives in the cache and is written anew for every build, so nothing generated is committed
//! and a half-written file of a killed run does no harm. The go command fills in the rest
//! (`-mod=mod`); minimal version selection makes that the same everywhere.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Go, Source, Tool};

/// A module ready to build one tool in.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) dir: PathBuf,
    pub(super) package: String,
    pub(super) linker_flags: String,
}

/// Writes the module of `tool` below `modules`.
pub(super) fn prepare(go: &Go, modules: &Path, tool: &Tool) -> Result<Module> {
    let (key, module, package) = match tool.source {
        Source::Kubernetes => (
            "kubernetes",
            KUBERNETES,
            format!("{KUBERNETES}/cmd/{}", tool.name),
        ),
        Source::Module { module, package } => (tool.name, module, format!("{module}{package}")),
        Source::Own(_) => (tool.name, "", ".".to_owned()),
    };
    let dir = modules.join(format!("{key}-{}", tool.version));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;

    let mut go_mod = format!("module tile-proxy.invalid/{key}\n\ngo 1.26.0\n");
    let mut linker_flags = "-s -w".to_owned();
    match tool.source {
        Source::Own(source) => fs::write(dir.join("main.go"), source)?,
        Source::Module { .. } => write!(go_mod, "\nrequire {module} {}\n", tool.version)?,
        Source::Kubernetes => {
            write!(go_mod, "\nrequire {module} {}\n", tool.version)?;
            fs::write(dir.join("go.mod"), &go_mod)?;
            let theirs = downloaded_go_mod(go, &dir, module, tool.version)?;
            go_mod.push_str(&staging_replacements(&theirs, tool.version)?);
            // Unstamped, the server calls itself v0.0.0-master, and charts refuse that.
            let stamp = |key, value| format!(" -X k8s.io/component-base/version.{key}={value}");
            linker_flags += &stamp("gitVersion", tool.version);
            linker_flags += &stamp("gitTreeState", "clean");
        }
    }
    fs::write(dir.join("go.mod"), &go_mod)
        .with_context(|| format!("cannot write {}", dir.join("go.mod").display()))?;
    Ok(Module {
        dir,
        package,
        linker_flags,
    })
}

/// The folder of the module that `tool` is built from, as it was downloaded.
pub(super) fn source(go: &Go, modules: &Path, tool: &Tool) -> Result<PathBuf> {
    let Source::Module { module, .. } = tool.source else {
        bail!("{} is not built from a module of its own", tool.name);
    };
    let dir = prepare(go, modules, tool)?.dir;
    Ok(download(go, &dir, module, tool.version)?.dir)
}

/// What the go command says of a downloaded module.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    dir: PathBuf,
    go_mod: PathBuf,
}

/// Downloads a module, if it is not there yet.
fn download(go: &Go, dir: &Path, module: &str, version: &str) -> Result<Downloaded> {
    let answer = go
        .command(dir)
        .args(["mod", "download", "-json", &format!("{module}@{version}")])
        .named(format!("go mod download {module}@{version}"))
        .deadline(DOWNLOAD_DEADLINE)
        .stdout()?;
    serde_json::from_str(&answer).context("unexpected answer of go mod download")
}

/// Downloads a module and returns the text of its go.mod.
fn downloaded_go_mod(go: &Go, dir: &Path, module: &str, version: &str) -> Result<String> {
    let downloaded = download(go, dir, module, version)?;
    fs::read_to_string(&downloaded.go_mod)
        .with_context(|| format!("cannot read {}", downloaded.go_mod.display()))
}

/// The `replace` directives that stand for Kubernetes' own ones.
///
/// Kubernetes replaces its staging modules by folders of its repository, and such directives count
/// in the main module only. The same code is published as modules: v1.36.3 as v0.36.3.
fn staging_replacements(go_mod: &str, version: &str) -> Result<String> {
    let Some(minor_and_patch) = version.strip_prefix("v1.") else {
        bail!("Kubernetes {version} is not a v1 release");
    };
    let mut replacements = String::from("\nreplace (\n");
    let mut found = false;
    for line in go_mod.lines() {
        let Some((module, target)) = line.trim().split_once(" => ") else {
            continue;
        };
        if target.starts_with("./staging/") {
            found = true;
            writeln!(replacements, "\t{module} => {module} v0.{minor_and_patch}")?;
        }
    }
    if !found {
        bail!("the go.mod of Kubernetes {version} replaces no staging module; its layout changed");
    }
    replacements.push_str(")\n");
    Ok(replacements)
}

const KUBERNETES: &str = "k8s.io/kubernetes";

/// One module of 50 MB, over a slow network.
const DOWNLOAD_DEADLINE: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_staging_modules_are_replaced() {
        let theirs = "replace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\
            \tgithub.com/a/b => github.com/c/b v1.0.0\n)\n";
        assert_eq!(
            staging_replacements(theirs, "v1.36.3").unwrap(),
            "\nreplace (\n\tk8s.io/api => k8s.io/api v0.36.3\n)\n"
        );
        staging_replacements("module k8s.io/kubernetes\n", "v1.36.3").unwrap_err();
    }
}

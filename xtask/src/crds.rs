//! `cargo xtask crds`: files generated from the operator's types.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tile_proxy_tests::paths;
use tile_proxy_tests::run::Run;

/// Write the CustomResourceDefinition the operator's types describe.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask crds            write the files
  cargo xtask crds --check    fail, with a diff, if they are not current")]
pub(crate) struct Args {
    /// Change nothing; fail if a file is not current
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let wanted = generate()?;
    if args.check {
        check(&wanted)?;
    } else {
        for file in files() {
            fs::write(&file, &wanted)
                .with_context(|| format!("cannot write {}", file.display()))?;
            println!("wrote {}", file.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the operator says its resource looks like.
pub(crate) fn generate() -> Result<String> {
    Run::new(env!("CARGO"))
        .current_dir(paths::checkout())
        .args([
            "run",
            "--quiet",
            "--locked",
            "--package",
            "tile-proxy-operator",
            "--",
            "crd",
        ])
        .named("tile-proxy-operator crd")
        .deadline(Duration::from_secs(30 * 60))
        .stdout()
}

/// As [`generate`], by a program that is built.
pub(crate) fn generate_by(operator: &Path) -> Result<String> {
    Run::new(operator).arg("crd").stdout()
}

/// Fails with a diff if one of the files is not `wanted`.
pub(crate) fn check(wanted: &str) -> Result<()> {
    for file in files() {
        let diff = Run::new("diff")
            .args(["--unified", "--label", "committed", "--label", "generated"])
            .arg(&file)
            .arg("-")
            .input(wanted)?
            .ended()?;
        if !diff.status.success() {
            bail!(
                "{} is not what the operator's types say; run `cargo xtask crds` and commit it\n{}{}",
                file.display(),
                diff.stdout,
                diff.stderr
            );
        }
    }
    Ok(())
}

/// The committed file, and the chart's own copy where it keeps one.
fn files() -> Vec<PathBuf> {
    let root = paths::checkout();
    let copies = [
        "charts/tile-proxy/crds/tileproxies.yaml",
        "charts/tile-proxy/files/tileproxies.yaml",
    ];
    let copies = copies
        .into_iter()
        .map(|copy| root.join(copy))
        .filter(|copy| copy.is_file());
    [root.join("crds/tileproxies.yaml")]
        .into_iter()
        .chain(copies)
        .collect()
}

//! Tessera's `fsck`, which reads a whole log and proves every byte of it: the judge that is not our
//! code.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::progress::Step;
use crate::run::{self, Run};

/// Reads everything below `url` with `program` and proves it against the verifier key in the file
/// `key`; returns the line in which it says so.
///
/// The origin is the key's name unless `origin` says otherwise.
pub fn prove(
    program: Command,
    url: &str,
    key: &Path,
    origin: Option<&str>,
    step: &Step<'_>,
) -> Result<String> {
    let ended = Run::from_command(program)
        // With one worker v1.0.4 hangs on the first wrong tile.
        .args([&format!("--storage_url={url}/"), "--N=4", "--ui=false"])
        .arg(format!("--public_key={}", key.display()))
        .args(origin.map(|origin| format!("--origin={origin}")))
        .named("fsck")
        .deadline(DEADLINE)
        .live(step)
        .ended()?;
    // Its exit code is 0 in any case.
    let output = format!("{}{}", ended.stdout, ended.stderr);
    match output.lines().find(|line| line.contains(VERDICT)) {
        Some(line) => Ok(line
            .split_once("] ")
            .map_or(line, |(_, text)| text)
            .trim()
            .to_owned()),
        None => bail!(
            "fsck of {url} did not succeed:\n{}",
            run::last_lines(&output, 15)
        ),
    }
}

/// What it says when all is well.
const VERDICT: &str = "Successfully fsck'd log";

const DEADLINE: Duration = Duration::from_secs(180);

//! The real binary's other subcommands, run to their end.

use std::{path::Path, process::Command};

use super::Proxy;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// What it printed with `--json`.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON: {error}: {self:?}"))
    }
}

/// Runs `tile-proxy {command} --config {directory}/config.yaml {arguments}`, with the file that a
/// proxy left there.
pub(crate) fn run(command: &str, directory: &Path, arguments: &[&str]) -> Outcome {
    tile_proxy(
        [command, "--config"]
            .map(str::to_owned)
            .into_iter()
            .chain([directory.join("config.yaml").display().to_string()])
            .chain(arguments.iter().map(|&argument| argument.to_owned())),
    )
}

/// Has a proxy fetch all of its log.
pub(crate) fn sync_all(proxy: &Proxy) {
    let replica = format!("http://{}", proxy.address());
    let arguments = ["sync", "--depth", "1000000000", "--replica", &replica];
    let synced = tile_proxy(arguments.map(str::to_owned));
    assert_eq!(synced.code, Some(0), "{synced:?}");
}

pub(crate) fn tile_proxy(arguments: impl IntoIterator<Item = String>) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_tile-proxy"))
        .args(arguments)
        .output()
        .expect("the binary starts");
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

//! What the commands that call running replicas have in common.

use std::{path::Path, time::Duration};

use crate::config::Source;

/// A client for calls that take no longer than `timeout`. Replicas are neighbours: no proxy is asked
/// for the way to them.
pub(super) fn client(timeout: Duration) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(timeout)
        .build()
}

/// The administration token in a file, if one is given.
pub(super) fn token(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let read = |file: &Path| Source::File(file.to_owned()).read();
    file.map(read).transpose().map_err(|e| anyhow::anyhow!(e))
}

/// What a replica said about a call that it refused.
pub(super) fn refusal(status: reqwest::StatusCode, answer: &[u8]) -> String {
    let message = serde_json::from_slice::<serde_json::Value>(answer)
        .ok()
        .and_then(|answer| Some(answer.get("message")?.as_str()?.to_owned()))
        .unwrap_or_default();
    format!("it answered {status}: {message}")
}

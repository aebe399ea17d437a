//! Sigstore's monitor configuration: where each log is read, by its origin (protobuf-specs,
//! `dev.sigstore.monitor.v1`).

use serde::Deserialize;
use url::Url;

use super::{error::TufError, service_map::address};

/// Names of the target. Sigstore has not published one yet; these follow the names of its others.
pub(super) const TARGETS: [&str; 2] = ["monitor_config.v1.json", "monitor_config.json"];

/// Most logs in one file.
const MAX_LOGS: usize = 256;

/// Where a log is read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct MonitoredLog {
    /// Its checkpoint and tiles are below this.
    pub(super) read_url: Url,
    /// First line of its checkpoints.
    pub(super) origin: String,
    /// Version of Rekor's API.
    pub(super) major_api_version: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    rekor_logs: Vec<Log>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Log {
    read_url: String,
    log_origin: String,
    major_api_version: Option<u32>,
}

/// Reads such a file, whose target is called `name`.
///
/// # Errors
/// When it is not one, or a log in it cannot be read where it says.
pub(super) fn parse(
    name: &str,
    bytes: &[u8],
    allow_http: bool,
) -> Result<Vec<MonitoredLog>, TufError> {
    let wrong = |message: String| TufError::target(name, message);
    let file: File = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    if file.rekor_logs.len() > MAX_LOGS {
        return Err(wrong(format!("it has more than {MAX_LOGS} logs")));
    }
    let read = file.rekor_logs.into_iter().map(|log| {
        let read_url = address(name, "readUrl", &log.read_url, allow_http)?;
        Ok(MonitoredLog {
            read_url,
            origin: log.log_origin,
            major_api_version: log.major_api_version,
        })
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_log_says_where_it_is_read() {
        let text = r#"{"rekorLogs": [{"readUrl": "https://cdn.example/log/",
            "logOrigin": "log2026-1.example", "majorApiVersion": 2}],
            "ctLogs": [{"readUrl": "ftp://nobody"}]}"#;
        let logs = parse("m", text.as_bytes(), false).expect("valid");
        assert_eq!(logs[0].read_url.as_str(), "https://cdn.example/log/");
        assert_eq!(logs[0].origin, "log2026-1.example");
        let plain = text.replace("https", "http");
        assert!(parse("m", plain.as_bytes(), false).is_err());
        assert!(parse("m", plain.as_bytes(), true).is_ok());
        assert!(parse("m", b"{", false).is_err());
    }
}

//! `signing_config*.json`: where Sigstore's clients write, and which version of Rekor's API that is.
//!
//! Nothing is written from here; what is taken from it is the version, because `trusted_root.json`
//! does not say it.

use serde::Deserialize;
use url::Url;

use super::error::TufError;

/// Names of the targets, the one that says more first.
pub(super) const TARGETS: [&str; 3] = [
    "signing_config_rekor_v2.v0.2.json",
    "signing_config.v0.2.json",
    "signing_config.json",
];

const V0_1: &str = "application/vnd.dev.sigstore.signingconfig.v0.1+json";
const V0_2: &str = "application/vnd.dev.sigstore.signingconfig.v0.2+json";

/// Most logs in one file.
const MAX_LOGS: usize = 256;

/// A log that is written to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct SigningLog {
    /// Where.
    pub(super) url: Url,
    /// By which version of Rekor's API.
    pub(super) major_api_version: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    media_type: String,
    /// v0.2.
    #[serde(default)]
    rekor_tlog_urls: Vec<Service>,
    rekor_tlog_config: Option<Choice>,
    /// v0.1, which knew Rekor v1 alone.
    #[serde(default)]
    tlog_urls: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Service {
    url: String,
    major_api_version: u32,
}

#[derive(Deserialize)]
struct Choice {
    selector: Option<String>,
    count: Option<u32>,
}

/// Reads such a file, whose target is called `name`.
///
/// # Errors
/// When it is not one.
pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Vec<SigningLog>, TufError> {
    let wrong = |message: &str| TufError::target(name, message);
    let file: File = serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))?;
    let services: Vec<(String, u32)> = match file.media_type.as_str() {
        V0_1 => file.tlog_urls.into_iter().map(|url| (url, 1)).collect(),
        V0_2 => {
            let choice = file.rekor_tlog_config.as_ref();
            match choice.map(|choice| (choice.selector.as_deref(), choice.count)) {
                None | Some((Some("ANY" | "ALL"), _) | (Some("EXACT"), Some(1..))) => {}
                Some(_) => {
                    return Err(wrong(
                        "its `selector` is not ANY, ALL, or EXACT with a count",
                    ));
                }
            }
            let services = file.rekor_tlog_urls.into_iter();
            services
                .map(|service| (service.url, service.major_api_version))
                .collect()
        }
        _ => {
            return Err(wrong(
                "its media type is not that of a signing configuration",
            ));
        }
    };
    if services.len() > MAX_LOGS {
        return Err(wrong(&format!("it has more than {MAX_LOGS} logs")));
    }
    let read = services.into_iter().map(|(url, major_api_version)| {
        let url = url
            .parse()
            .map_err(|_| wrong(&format!("`{url}` is not a URL")))?;
        Ok(SigningLog {
            url,
            major_api_version,
        })
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Sigstore's public instance publishes, shortened.
    const PRODUCTION: &str = r#"{
        "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
        "caUrls": [{"url": "https://fulcio.sigstore.dev", "majorApiVersion": 1}],
        "rekorTlogUrls": [{"url": "https://rekor.sigstore.dev", "majorApiVersion": 1,
            "validFor": {"start": "2021-01-12T11:53:27.000Z"}, "operator": "sigstore.dev"}],
        "rekorTlogConfig": {"selector": "ANY"}}"#;

    #[test]
    fn both_versions_say_what_is_written_to() {
        let v0_1 = r#"{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.1+json",
            "caUrl": "https://fulcio.sigstore.dev", "tlogUrls": ["https://rekor.sigstore.dev"]}"#;
        for text in [PRODUCTION, v0_1] {
            let logs = parse("signing_config.json", text.as_bytes()).expect(text);
            assert_eq!(logs.len(), 1);
            assert_eq!(logs[0].url.as_str(), "https://rekor.sigstore.dev/");
            assert_eq!(logs[0].major_api_version, 1);
        }
    }

    #[test]
    fn a_selector_nobody_has_defined_is_refused() {
        for (selector, taken) in [
            (r#"{"selector": "ALL"}"#, true),
            (r#"{"selector": "EXACT", "count": 1}"#, true),
            (r#"{"selector": "EXACT", "count": 0}"#, false),
            (r#"{"selector": "EXACT"}"#, false),
            (r#"{"selector": "SERVICE_SELECTOR_UNDEFINED"}"#, false),
            (r#"{"selector": "MOST"}"#, false),
            ("{}", false),
        ] {
            let text = PRODUCTION.replace(r#"{"selector": "ANY"}"#, selector);
            let parsed = parse("signing_config.json", text.as_bytes());
            assert_eq!(parsed.is_ok(), taken, "{selector}");
        }
        for (from, to) in [("v0.2", "v0.3"), ("https://rekor.sigstore.dev", "rekor")] {
            assert!(
                parse("x", PRODUCTION.replace(from, to).as_bytes()).is_err(),
                "{to}"
            );
        }
    }
}

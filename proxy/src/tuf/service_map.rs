//! The service map: where a deployment's services are, for each of its environments.
//!
//! ```json
//! { "version": 1,
//!   "rekor": { "url": "https://rekor.example.com", "tile_base_url": "https://rekor.example.com/api/v2",
//!              "origin": "rekor.example.com", "log_id": "zxGZFVvd0FEmjR8WrFwMdcAJ9vtaY/QXf44Y1wUeP6A=",
//!              "major_api_version": 2, "public_key_targets": ["rekor-key-v1", "rekor-key-v2"] },
//!   "overrides": { "staging": { "rekor": { "url": "https://rekor.staging.example.com" } } } }
//! ```
//!
//! `overrides` of the configured environment are merged into the rest, key by key and as deep as they
//! go; what they do not name stays. Unknown fields are somebody else's.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{error::TufError, repository::is_plain};

/// The only version there is.
const VERSION: u64 = 1;

/// Most targets with keys of one log: the one in use, and those before and after it.
const MAX_KEY_TARGETS: usize = 16;

/// Most characters of what a target says that are shown in a message.
const MAX_SHOWN: usize = 200;

/// What the map says of the log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct MappedLog {
    /// Where it is.
    pub(super) url: Option<Url>,
    /// Where its checkpoint and tiles are, if not there.
    pub(super) tile_base_url: Option<Url>,
    /// First line of its checkpoints.
    pub(super) origin: Option<String>,
    /// Sigstore's name of it.
    pub(super) log_id: Option<Vec<u8>>,
    /// Version of Rekor's API.
    pub(super) major_api_version: Option<u32>,
    /// Targets with its keys; empty: those that are called so by custom.
    pub(super) public_key_targets: Vec<String>,
}

/// How a map is read.
#[derive(Clone, Debug)]
pub(super) struct Rules<'a> {
    /// Name of the target, for messages.
    pub(super) name: &'a str,
    /// The environment of this proxy; empty is none.
    pub(super) environment: &'a str,
    /// Whether a log may be read over plain HTTP.
    pub(super) allow_http: bool,
}

#[derive(Deserialize)]
struct Rekor {
    url: Option<String>,
    tile_base_url: Option<String>,
    origin: Option<String>,
    log_id: Option<String>,
    major_api_version: Option<u32>,
    #[serde(default)]
    public_key_targets: Vec<String>,
    public_key_target: Option<String>,
}

/// Reads a map: the log in it, if there is one, and what to tell.
///
/// # Errors
/// When it is of another version, or what it says of the log cannot be followed.
pub(super) fn parse(
    bytes: &[u8],
    rules: &Rules<'_>,
) -> Result<(Option<MappedLog>, Vec<String>), TufError> {
    let wrong = |message: String| TufError::target(rules.name, message);
    let mut map: Value = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    if map["version"] != VERSION {
        return Err(TufError::MapVersion {
            target: rules.name.to_owned(),
            version: map["version"].to_string().chars().take(MAX_SHOWN).collect(),
            known: VERSION,
        });
    }
    let mut notes = Vec::new();
    if !rules.environment.is_empty() {
        match map["overrides"][rules.environment].clone() {
            Value::Null => notes.push(format!(
                "{}: it overrides nothing for the environment `{}`",
                rules.name, rules.environment
            )),
            over @ Value::Object(_) => merge(&mut map, over),
            _ => {
                return Err(wrong(format!(
                    "`overrides.{}` is not a map",
                    rules.environment
                )));
            }
        }
        // Of the map it came from, not of the one it went into.
        if map["version"] != VERSION {
            return Err(wrong(
                "an environment cannot have a version of its own".to_owned(),
            ));
        }
    }
    let rekor = match map["rekor"].take() {
        Value::Null => return Ok((None, notes)),
        rekor => rekor,
    };
    let rekor: Rekor =
        serde_json::from_value(rekor).map_err(|error| wrong(format!("`rekor`: {error}")))?;
    Ok((Some(rekor.read(rules)?), notes))
}

impl Rekor {
    fn read(self, rules: &Rules<'_>) -> Result<MappedLog, TufError> {
        let wrong = |message: String| TufError::target(rules.name, format!("`rekor.{message}"));
        let url = |key: &str, text: Option<String>| match text {
            Some(text) => {
                address(rules.name, &format!("rekor.{key}"), &text, rules.allow_http).map(Some)
            }
            None => Ok(None),
        };
        let log_id = match &self.log_id {
            Some(id) => {
                let id = BASE64_STANDARD.decode(id).ok().filter(|id| id.len() == 32);
                Some(id.ok_or_else(|| wrong("log_id` is not 32 bytes in base64".to_owned()))?)
            }
            None => None,
        };
        let mut targets = self.public_key_targets;
        targets.extend(self.public_key_target);
        if targets.len() > MAX_KEY_TARGETS {
            return Err(wrong(format!(
                "public_key_targets` are more than {MAX_KEY_TARGETS}"
            )));
        }
        if let Some(target) = targets.iter().find(|target| !is_plain(target)) {
            let target = target.escape_debug();
            return Err(wrong(format!(
                "public_key_targets`: `{target}` is not the path of a target"
            )));
        }
        if !matches!(self.major_api_version, None | Some(1 | 2)) {
            return Err(wrong("major_api_version` is neither 1 nor 2".to_owned()));
        }
        Ok(MappedLog {
            url: url("url", self.url)?,
            tile_base_url: url("tile_base_url", self.tile_base_url)?,
            origin: self.origin.filter(|origin| !origin.is_empty()),
            log_id,
            major_api_version: self.major_api_version,
            public_key_targets: targets,
        })
    }
}

/// A URL to read a log at, which stands at `key` of a target.
pub(super) fn address(
    target: &str,
    key: &str,
    text: &str,
    allow_http: bool,
) -> Result<Url, TufError> {
    let shown: String = text.escape_debug().take(MAX_SHOWN).collect();
    let wrong = |why: &str| TufError::target(target, format!("`{key}` is `{shown}`, {why}"));
    let url: Url = text.parse().map_err(|_| wrong("which is not a URL"))?;
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    match url.scheme() {
        "http" | "https" if !bare => {
            Err(wrong("which must end with the path, and hold no password"))
        }
        "http" if !allow_http => Err(TufError::PlainHttp {
            target: target.to_owned(),
            key: key.to_owned(),
            url: shown.clone(),
        }),
        "http" | "https" if url.host_str().is_some_and(|host| !host.is_empty()) => Ok(url),
        _ => Err(wrong("which is not `https://` and a host")),
    }
}

/// Puts `over` into `base`: maps key by key, anything else as a whole.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = r#"{ "version": 1,
        "rekor": { "url": "https://rekor.example", "tile_base_url": "https://rekor.example/api/v2",
            "origin": "rekor.example", "log_id": "zxGZFVvd0FEmjR8WrFwMdcAJ9vtaY/QXf44Y1wUeP6A=",
            "major_api_version": 2, "public_key_targets": ["rekor-key-v2"], "future": true },
        "fulcio": { "url": "https://fulcio.example" },
        "overrides": { "staging": { "rekor": { "url": "https://rekor.staging.example",
            "public_key_target": "staging/key" } }, "odd": [] } }"#;

    fn rules(environment: &str) -> Rules<'_> {
        Rules {
            name: "sigstore-services-v1",
            environment,
            allow_http: false,
        }
    }

    fn read(text: &str, environment: &str) -> Result<MappedLog, String> {
        let parsed = parse(text.as_bytes(), &rules(environment));
        parsed
            .map(|(log, _)| log.expect("a log"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_environment_overrides_what_it_names_and_nothing_else() {
        let base = read(MAP, "").expect("valid");
        assert_eq!(
            base.url.as_ref().map(Url::as_str),
            Some("https://rekor.example/")
        );
        assert_eq!(base.public_key_targets, ["rekor-key-v2"]);
        assert_eq!(base.log_id.as_ref().map(Vec::len), Some(32));
        let staging = read(MAP, "staging").expect("valid");
        assert_eq!(
            staging.url.as_ref().map(Url::as_str),
            Some("https://rekor.staging.example/")
        );
        assert_eq!(staging.origin, base.origin, "not named there");
        assert_eq!(staging.tile_base_url, base.tile_base_url);
        assert_eq!(staging.public_key_targets, ["rekor-key-v2", "staging/key"]);
        let (log, notes) = parse(MAP.as_bytes(), &rules("nowhere")).expect("valid");
        assert_eq!(log.as_ref(), Some(&base));
        assert!(notes[0].contains("`nowhere`"), "{notes:?}");
    }

    #[test]
    fn a_map_that_cannot_be_followed_is_refused_with_its_own_words() {
        for (from, to, environment, want) in [
            ("\"version\": 1", "\"version\": 2", "", "its version is 2"),
            ("\"version\": 1,", "", "", "its version is null"),
            (
                "\"version\": 1",
                "\"version\": \"1\"",
                "",
                "its version is \"1\"",
            ),
            (
                "https://rekor.example\"",
                "http://rekor.example\"",
                "",
                "is not `https://`",
            ),
            (
                "https://rekor.staging.example",
                "http://a",
                "staging",
                "is not `https://`",
            ),
            (
                "https://rekor.example\"",
                "https://u:p@a/\"",
                "",
                "hold no password",
            ),
            ("https://rekor.example\"", "file:///etc\"", "", "and a host"),
            ("https://rekor.example\"", "rekor\"", "", "is not a URL"),
            (
                "\"rekor-key-v2\"",
                "\"../../etc/passwd\"",
                "",
                "is not the path of a target",
            ),
            ("zxGZ", "AA", "", "is not 32 bytes"),
            (
                "\"major_api_version\": 2",
                "\"major_api_version\": 3",
                "",
                "neither 1 nor 2",
            ),
            ("\"major_api_version\": 2", "\"url\": \"https://b\"", "", ""),
            (
                "{ \"rekor\": { \"url\"",
                "{ \"version\": 2, \"rekor\": { \"url\"",
                "staging",
                "version of its own",
            ),
            ("", "", "odd", "is not a map"),
            ("{ \"version\"", "{{", "", "key must be"),
        ] {
            let outcome = read(&MAP.replacen(from, to, 1), environment);
            match (outcome, want) {
                (Ok(_), "") => {} // the last of two counts, as in any JSON value
                (Err(error), want) if !want.is_empty() && error.contains(want) => {}
                (outcome, want) => panic!("{want}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn plain_http_is_followed_when_that_is_said() {
        let text = MAP.replace("https://rekor.example", "http://rekor.example");
        let mut rules = rules("");
        rules.allow_http = true;
        let (log, _) = parse(text.as_bytes(), &rules).expect("allowed");
        assert_eq!(
            log.and_then(|log| log.url)
                .map(|url| url.scheme().to_owned())
                .as_deref(),
            Some("http")
        );
    }

    #[test]
    fn a_map_without_a_log_is_somebody_elses() {
        let (log, notes) = parse(br#"{"version": 1, "tsa": {}}"#, &rules("")).expect("valid");
        assert_eq!((log, notes), (None, Vec::new()));
    }

    #[test]
    fn as_many_key_targets_as_allowed_are_taken_and_not_one_more() {
        for (count, taken) in [(MAX_KEY_TARGETS, true), (MAX_KEY_TARGETS + 1, false)] {
            let names: Vec<String> = (0..count).map(|i| format!("\"key-{i}\"")).collect();
            let text = MAP.replacen("\"rekor-key-v2\"", &names.join(","), 1);
            assert_eq!(read(&text, "").is_ok(), taken, "{count}");
        }
    }
}

//! Reads the configuration file, lays the environment over it, and says exactly what is wrong.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Config, LogConfig, Upstream};

/// Prefix of environment variables; `__` joins the keys of the path:
/// `TILE_PROXY__CACHE__MAX_SIZE_GB` is `tile_proxy.cache.max_size_gb`.
pub const ENVIRONMENT_PREFIX: &str = "TILE_PROXY__";

/// The key under which everything stands in the file.
const ROOT: &str = "tile_proxy";

/// Why a configuration could not be read. Nothing was started; the text says what to write.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not there or not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not YAML.
    #[error("{path} is not valid YAML: {message}")]
    Syntax {
        /// The file.
        path: String,
        /// What the parser says, with line and column.
        message: String,
    },
    /// A key is unknown, or its value has the wrong type or unit.
    #[error("{key}{}: {message}", value.as_ref().map(|v| format!(" = {v}")).unwrap_or_default())]
    Key {
        /// Path of the key, such as `tile_proxy.cache.max_size`.
        key: String,
        /// The value found there, as JSON.
        value: Option<String>,
        /// What would be right.
        message: String,
    },
}

impl Config {
    /// Reads `file` and lays the variables of `environment` that start with
    /// [`ENVIRONMENT_PREFIX`] over it.
    ///
    /// # Errors
    /// See [`ConfigError`]; the first problem found. Whether the values go together is
    /// [`Config::check`]'s question.
    pub fn load<I>(file: &Path, environment: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = (String, String)>,
    {
        let path = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Read {
            path: path.clone(),
            source,
        })?;
        Self::parse(&path, &text, environment)
    }

    /// As [`Config::load`], from text that came from `path`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse<I>(path: &str, text: &str, environment: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = (String, String)>,
    {
        let mut document: Value = if text.trim().is_empty() {
            Value::Null
        } else {
            from_yaml(path, text)?
        };
        if document.is_null() {
            document = Value::Object(Map::new());
        }
        let mut variables: Vec<(String, String)> = environment
            .into_iter()
            .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
            .collect();
        variables.sort(); // a parent before its children, the same every time
        for (name, value) in variables {
            overlay(&mut document, &name, &value)?;
        }
        let Value::Object(mut document) = document else {
            return Err(wrong_root(path, "the file must be a mapping"));
        };
        let root = document
            .remove(ROOT)
            .unwrap_or_else(|| Value::Object(Map::new()));
        if let Some(stray) = document.keys().next() {
            return Err(wrong_root(
                stray,
                "unknown key; everything the proxy reads stands under `tile_proxy:`",
            ));
        }
        let mut root = if root.is_null() {
            Value::Object(Map::new())
        } else {
            root
        };
        resolve_alias(&mut root)?;
        serde_path_to_error::deserialize(&root).map_err(|error| {
            let pointer = error.path().to_string();
            let value = error
                .path()
                .iter()
                .try_fold(&root, |at, segment| match segment {
                    serde_path_to_error::Segment::Map { key } => at.get(key),
                    serde_path_to_error::Segment::Seq { index } => at.get(index),
                    _ => None,
                });
            ConfigError::Key {
                key: if pointer == "." {
                    ROOT.to_owned()
                } else {
                    format!("{ROOT}.{pointer}")
                },
                value: value.filter(|v| !v.is_object()).map(Value::to_string),
                message: error.inner().to_string(),
            }
        })
    }

    /// The configuration as a file, with only the keys that differ from their defaults: an older
    /// proxy that reads it must not meet keys it does not know.
    pub fn to_yaml(&self) -> String {
        // Both are plain trees of strings, numbers and lists, which always have a JSON and a YAML
        // form, so neither conversion can fail.
        let tree = |config: &Self| serde_json::to_value(config).unwrap_or_default();
        let mut root = tree(self);
        let default = Self {
            // What each item of a list is compared with.
            logs: vec![LogConfig {
                upstreams: vec![Upstream::default()],
                ..LogConfig::default()
            }],
            upstreams: vec![Upstream::default()],
            ..Self::default()
        };
        remove_defaults(&mut root, &tree(&default));
        let document = serde_json::json!({ ROOT: root });
        serde_saphyr::to_string(&document).unwrap_or_else(|_| document.to_string())
    }
}

fn from_yaml(path: &str, text: &str) -> Result<Value, ConfigError> {
    serde_saphyr::from_str(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

/// Sets the key that `name` spells to `value`, which is read as YAML so that lists, numbers and
/// booleans mean what they mean in the file; what is not YAML is text.
fn overlay(document: &mut Value, name: &str, value: &str) -> Result<(), ConfigError> {
    let value = serde_saphyr::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    let mut at = document;
    // The prefix itself spells the root key: TILE_PROXY__X is tile_proxy.x.
    for segment in name.split("__") {
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
        let Value::Object(map) = at else {
            return Err(ConfigError::Key {
                key: name.to_owned(),
                value: None,
                message: "goes below a key that is not a mapping; give the whole value in the file"
                    .to_owned(),
            });
        };
        at = map
            .entry(segment.to_ascii_lowercase())
            .or_insert(Value::Null);
    }
    *at = value;
    Ok(())
}

/// `tuf_url` is an older spelling of `tuf.url`.
fn resolve_alias(root: &mut Value) -> Result<(), ConfigError> {
    let Some(map) = root.as_object_mut() else {
        return Ok(());
    };
    let Some(url) = map.remove("tuf_url") else {
        return Ok(());
    };
    let tuf = map
        .entry("tuf")
        .or_insert_with(|| Value::Object(Map::new()));
    let Some(tuf) = tuf.as_object_mut() else {
        return Ok(());
    };
    if tuf.insert("url".to_owned(), url).is_some() {
        return Err(wrong_root(
            "tile_proxy.tuf_url",
            "is an alias of `tuf.url`: give one of them",
        ));
    }
    Ok(())
}

fn wrong_root(key: &str, message: &str) -> ConfigError {
    ConfigError::Key {
        key: key.to_owned(),
        value: None,
        message: message.to_owned(),
    }
}

/// Removes from `value` every key whose value is the same in `default`, and what is left empty.
/// The items of a list of mappings are each compared with the first one of the default's.
fn remove_defaults(value: &mut Value, default: &Value) {
    match (value, default) {
        (Value::Object(map), Value::Object(defaults)) => map.retain(|key, value| {
            let Some(default) = defaults.get(key) else {
                return true;
            };
            if value == default {
                return false;
            }
            remove_defaults(value, default);
            !is_empty(value)
        }),
        (Value::Array(items), Value::Array(defaults)) => {
            if let Some(default) = defaults.first().filter(|default| default.is_object()) {
                items
                    .iter_mut()
                    .for_each(|item| remove_defaults(item, default));
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Kind, Size, Source};

    fn parse(text: &str) -> Result<Config, String> {
        parse_with(text, &[])
    }

    fn parse_with(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::parse("config.yaml", text, environment).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        for text in ["", "\n", "tile_proxy:", "tile_proxy: {}", "# nothing\n"] {
            assert_eq!(parse(text), Ok(Config::default()), "{text:?}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let config = parse_with(
            "tile_proxy: {kind: rekor-v2, cache: {max_size_gb: 3, memory_mb: 7}}",
            &[
                ("TILE_PROXY__CACHE__MAX_SIZE_GB", "5"),
                ("TILE_PROXY__PUBLIC_KEYS", "[file:/keys/a, file:/keys/b]"),
                ("TILE_PROXY__UPSTREAM_URL", "http://log.example:2025/"),
                ("UNRELATED__KIND", "nonsense"),
            ],
        )
        .expect("valid");
        assert_eq!((config.cache.max_size_gb, config.cache.memory_mb), (5, 7));
        assert_eq!(config.kind, Kind::RekorV2);
        assert_eq!(config.public_keys.len(), 2);
        assert_eq!(config.public_keys[0], Source::File("/keys/a".into()));
        assert_eq!(
            config.upstream_url.map(String::from).as_deref(),
            Some("http://log.example:2025/")
        );
    }

    #[test]
    fn a_wrong_key_is_named_with_its_value_and_what_would_be_right() {
        for (text, want) in [
            (
                "tile_proxy: {cache: {size: 3}}",
                "tile_proxy.cache.size = 3: unknown field `size`",
            ),
            (
                "tile_proxy: {cache: {max_size: 9GB}}",
                "tile_proxy.cache.max_size = \"9GB\": `9GB` is not a size",
            ),
            (
                "tile_proxy: {listen: 8080}",
                "tile_proxy.listen = 8080: expected one address",
            ),
            (
                "tile_proxy: {kind: rekor}",
                "tile_proxy.kind = \"rekor\": unknown variant `rekor`",
            ),
            (
                "tile_proxy: {upstreams: [{url: 'x y'}]}",
                "tile_proxy.upstreams[0].url = \"x y\": relative URL",
            ),
            (
                "proxy: {}",
                "proxy: unknown key; everything the proxy reads stands under",
            ),
            (
                "tile_proxy: {tuf_url: 'http://a/', tuf: {url: 'http://b/'}}",
                "tile_proxy.tuf_url: is an alias",
            ),
            ("tile_proxy: [", "config.yaml is not valid YAML"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(
                error.starts_with(want),
                "{text}\n  want {want}\n  got  {error}"
            );
        }
    }

    #[test]
    fn only_what_differs_from_the_defaults_is_rendered() {
        let mut config = Config::default();
        config.cache.max_size = Some(Size(9 << 30));
        config.public_keys = vec![Source::File("/keys/0".into())];
        let text = config.to_yaml();
        assert!(
            text.contains("max_size: 9Gi") && !text.contains("memory_mb"),
            "{text}"
        );
        assert_eq!(parse(&text), Ok(config));
        assert_eq!(parse(&Config::default().to_yaml()), Ok(Config::default()));

        let upstream = Upstream {
            url: "http://log.example/".parse().ok(),
            ..Upstream::default()
        };
        let config = Config {
            upstreams: vec![upstream.clone()],
            ..Config::default()
        };
        let text = config.to_yaml();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert_eq!(parse(&text), Ok(config));

        let log = LogConfig {
            name: "rome".to_owned(),
            upstreams: vec![upstream],
            ..LogConfig::default()
        };
        let config = Config {
            logs: vec![log],
            ..Config::default()
        };
        let text = config.to_yaml();
        assert_eq!(text.lines().count(), 5, "{text}");
        assert_eq!(parse(&text), Ok(config));
    }
}

//! Finds out what an upstream is that has no checkpoint where one would be.
//!
//! A Rekor v2 log is read below a prefix, and not from the server that is written to; a Rekor v1 log
//! has neither checkpoint nor tiles. With `kind: auto` nobody has said which one it is.

use std::time::Duration;

use url::Url;

use crate::config::{UpstreamSettings, with_rekor_v2_prefix};

/// How long a conclusion is believed before the other places are looked at again. A log that is just
/// being set up is found soon enough; one that is not there is not asked three questions each time.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Where Rekor v1 describes its log, below its URL.
pub(super) const V1_LOG: &str = "api/v1/log";

/// Where the checkpoint and the tiles are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Bases {
    pub(super) checkpoint: Url,
    pub(super) tiles: Url,
}

/// As configured.
pub(super) fn configured(settings: &UpstreamSettings) -> Bases {
    Bases {
        checkpoint: settings.checkpoint_base_url.clone(),
        tiles: settings.tile_base_url.clone(),
    }
}

/// Other places where they may be, the likeliest first.
pub(super) fn elsewhere(settings: &UpstreamSettings) -> Vec<Bases> {
    let configured = configured(settings);
    let mut all = Vec::new();
    for base in [
        // What is read of a Rekor v2 log is in one place, checkpoint included.
        configured.tiles.clone(),
        with_rekor_v2_prefix(configured.tiles.clone()),
        with_rekor_v2_prefix(configured.checkpoint.clone()),
    ] {
        let bases = Bases {
            checkpoint: base.clone(),
            tiles: base,
        };
        if bases != configured && !all.contains(&bases) {
            all.push(bases);
        }
    }
    all
}

/// Whether this is how Rekor v1 describes its log.
pub(super) fn is_v1_log(body: &[u8]) -> bool {
    let Ok(serde_json::Value::Object(log)) = serde_json::from_slice(body) else {
        return false;
    };
    ["rootHash", "treeSize", "signedTreeHead"]
        .iter()
        .all(|key| log.contains_key(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(keys: &str) -> Vec<String> {
        let text = format!("tile_proxy: {{public_keys: [k], {keys}}}");
        let config = crate::config::Config::parse("config.yaml", &text, []).expect("well-formed");
        let settings = config.check().expect("valid");
        let all = elsewhere(&settings.logs[0].upstreams[0]);
        assert!(all.iter().all(|bases| bases.checkpoint == bases.tiles));
        all.iter().map(|bases| bases.tiles.to_string()).collect()
    }

    #[test]
    fn a_checkpoint_is_looked_for_beside_the_tiles_and_below_the_prefix() {
        for (keys, want) in [
            (
                "upstream_url: 'http://rekor/'",
                &["http://rekor/api/v2/"][..],
            ),
            ("upstream_url: 'http://rekor/api/v2/'", &[]),
            (
                "upstream_url: 'http://rekor/', tile_base_url: 'http://bucket/rome/'",
                &[
                    "http://bucket/rome/",
                    "http://bucket/rome/api/v2/",
                    "http://rekor/api/v2/",
                ],
            ),
        ] {
            assert_eq!(places(keys), want, "{keys}");
        }
    }

    #[test]
    fn rekor_v1_is_told_by_how_it_describes_its_log() {
        for (body, want) in [
            (
                r#"{"rootHash": "00", "treeSize": 3, "signedTreeHead": "x", "treeID": "1", "inactiveShards": []}"#,
                true,
            ),
            (r#"{"treeSize": 3}"#, false),
            (r#"["rootHash", "treeSize", "signedTreeHead"]"#, false),
            ("<html>", false),
            ("", false),
        ] {
            assert_eq!(is_v1_log(body.as_bytes()), want, "{body}");
        }
    }
}

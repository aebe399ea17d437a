//! `spec.kind` and `spec.logs`: what protocol a log speaks, and several of them.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PublicKey, Upstream, upstream::NAMES_CEL};

/// Most logs of one TileProxy. The proxy takes a hundred; but what the API server lets the rules for a
/// URL cost is spent at 95.
pub const MAX_LOGS: usize = 64;

/// What protocol a log speaks.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum LogKind {
    /// Found out from its answers.
    #[default]
    Auto,
    /// Rekor v1's JSON API, which has no tiles.
    RekorV1,
    /// Rekor v2: tlog-tiles below `api/v2/`.
    RekorV2,
    /// C2SP tlog-tiles.
    TlogTiles,
}

/// One of several logs.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new(TILES_CEL).message(TILES_RULE),
    validation = Rule::new(WRITES_CEL).message(WRITES_RULE)
)]
pub struct LogSpec {
    /// Name in paths, such as `/rome/checkpoint`, and in metrics: a DNS label, at most 63 characters.
    /// No two logs have the same.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    #[x_kube(validation = Rule::new("!(self in ['api', 'checkpoint', 'proof', 'sumdb', 'tile', 'tuf'])").message(RESERVED_RULE))]
    pub name: String,

    /// Whether paths without a name mean this log. At most one says so; a log that is alone in the list
    /// is the default anyway. Defaults to false.
    #[serde(default)]
    pub default: bool,

    /// The first line of the log's checkpoints, as `spec.origin`. No two logs have the same. Needed
    /// where two logs have a key in common. At most 255 characters.
    #[serde(default)]
    #[schemars(length(max = 255))]
    #[x_kube(validation = Rule::new("!self.matches('[[:cntrl:]]|^[[:space:]]|[[:space:]]$')").message(ORIGIN_RULE))]
    pub origin: String,

    /// What protocol the log speaks, as `spec.kind`. Defaults to Auto.
    #[serde(default)]
    pub kind: LogKind,

    /// The keys that may sign the log's checkpoints, at most 16. None for Sigstore's public logs, whose
    /// keys ship with the proxy, and for those of `spec.tuf`.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub public_keys: Vec<PublicKey>,

    /// Where the log is read, as `spec.upstreams`: 1 to 16 places, or none if `spec.mode` is Offline.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new(NAMES_CEL).message(super::NAMES_RULE))]
    pub upstreams: Vec<Upstream>,

    /// Its part of the cache, as a weight beside those of the other logs, 1 to 1000. Each part must
    /// come to at least 16Mi. Defaults to 1: all have the same.
    #[serde(default = "defaults::cache_share")]
    #[schemars(range(min = 1, max = 1000))]
    pub cache_share: u32,
}

// Rules that hold for the spec of one log and for one of several: both have `kind` and `upstreams`.

/// No tiles where there are none.
pub(super) const TILES_CEL: &str =
    "self.kind != 'RekorV1' || self.upstreams.all(u, u.tileBaseURL == '')";

/// No writes where none are handed on.
pub(super) const WRITES_CEL: &str =
    "self.kind in ['Auto', 'RekorV1'] || self.upstreams.all(u, u.writeURL == '')";

/// What is said about tiles of a log that has none.
pub(crate) const TILES_RULE: &str = "a log of kind RekorV1 has no tiles: remove tileBaseURL";

/// What is said about writes to a log that gets none.
pub(crate) const WRITES_RULE: &str =
    "writes are handed on to logs of kind RekorV1 only: remove writeURL";

/// What is said about a name that paths have another use for.
pub(crate) const RESERVED_RULE: &str =
    "must not be api, checkpoint, proof, sumdb, tile or tuf, which mean something else in paths";

/// What is said about an origin that no checkpoint begins with.
pub(crate) const ORIGIN_RULE: &str =
    "must be one line without spaces around it, exactly as the log's checkpoints start";

/// One of the logs at most, or nobody knows which.
pub(super) const DEFAULT_CEL: &str = "self.filter(l, l.default).size() <= 1";

/// One log is listed once.
pub(super) const ORIGINS_CEL: &str =
    "self.all(l, l.origin == '' || self.exists_one(m, m.origin == l.origin))";

/// What is said about two logs that both want paths without a name.
pub(crate) const DEFAULT_RULE: &str = "only one of the logs can be the default";

/// What is said about one log under two names.
pub(crate) const ORIGINS_RULE: &str =
    "two of the logs have the same origin: it is one log, so list it once";

mod defaults {
    pub(super) fn cache_share() -> u32 {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tile_proxy::config::{self, MAX_CACHE_SHARE, RESERVED_LOG_NAMES};

    #[test]
    fn limits_and_names_are_those_of_the_proxy() {
        let listed = RESERVED_RULE
            .trim_start_matches("must not be ")
            .split(", which")
            .next()
            .map(|list| list.replace(" or ", ", "));
        assert_eq!(listed, Some(RESERVED_LOG_NAMES.join(", ")));
        let crd = serde_json::to_value(super::super::crd()).expect("a tree");
        let logs = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            ["logs"];
        assert_eq!(logs["maxItems"], MAX_LOGS);
        const { assert!(MAX_LOGS <= config::MAX_LOGS) }
        let log = &logs["items"]["properties"];
        assert_eq!(
            log["cacheShare"]["maximum"].as_f64(),
            Some(MAX_CACHE_SHARE.into())
        );
        let rule = &log["name"]["x-kubernetes-validations"][0]["rule"];
        for name in RESERVED_LOG_NAMES {
            assert!(
                rule.as_str()
                    .is_some_and(|rule| rule.contains(&format!("'{name}'")))
            );
        }
    }
}

//! `spec.mode`, `spec.checkpoint` and `spec.peering`: how the log is followed, and by whom.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether upstreams are asked at all.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Mode {
    /// Never ask an upstream.
    Offline,
    /// Ask upstreams for what is missing.
    #[default]
    Online,
}

/// How checkpoints are followed.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
pub struct CheckpointSpec {
    /// How often the log is asked for a newer checkpoint, 1s to 24h, such as `10s`. A new entry
    /// is visible to clients after at most this long. Defaults to 10s, about the rate at which
    /// logs publish.
    #[serde(default = "defaults::refresh_interval")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('24h')")
        .message("must be a duration between 1s and 24h, such as 10s"))]
    pub refresh_interval: String,
}

// A derived `Default` would put the empty string into the CRD, not the default of the field.
impl Default for CheckpointSpec {
    fn default() -> Self {
        Self {
            refresh_interval: defaults::refresh_interval(),
        }
    }
}

/// How replicas fill each other's caches.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Peering {
    /// Whether the log is asked once for what any replica is asked for: by the replica that owns it,
    /// whom the others ask. What a replica sends is proven like anything else. Defaults to true.
    #[serde(default = "defaults::peering")]
    pub enabled: bool,
}

// A derived `Default` would say false.
impl Default for Peering {
    fn default() -> Self {
        Self {
            enabled: defaults::peering(),
        }
    }
}

mod defaults {
    pub(super) fn peering() -> bool {
        true
    }

    pub(super) fn refresh_interval() -> String {
        "10s".to_owned()
    }
}

//! The `TileProxy` resource: every field with its unit, range, default and reason.
//!
//! These types are the only source of the CRD: `tile-proxy-operator crd` prints it, and the
//! committed `crds/tileproxies.yaml` is checked against it. A field exists once the proxy honours
//! it, and never changes its meaning afterwards; there is no webhook to convert old resources.
//!
//! What the schema and its rules cannot say is said by [`validate`](mod@crate::controller::validate),
//! which also repeats the rules, because a cluster may still hold an older CRD.

// The derive of `KubeSchema` repeats each type inside a function, where `pub` reaches nobody.
#![allow(unreachable_pub)]

mod cache;
mod keys;
mod pod;
#[cfg(test)]
mod rules;
mod schema;
mod status;
mod sync;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    cache::{AccessMode, Cache, Retention, RetentionPolicy},
    keys::{KeyRef, PublicKey},
    pod::{ClientService, Image, PullPolicy, PullSecret, ServiceType},
    schema::{crd, crd_yaml},
    status::{InstanceStatus, TileProxyStatus, VolumeStatus},
    sync::SyncSpec,
};

pub(crate) use self::cache::{ALONE_RULE, CLASS_RULE};

/// The API group of every resource and annotation of this operator.
pub const GROUP: &str = "tiles.stella-ops.org";

/// Longest name of a TileProxy. Children add at most `-replica-15` and a CronJob allows 52
/// characters, so 40 leaves room for both.
pub const MAX_NAME: usize = 40;

/// Most replicas of one TileProxy. Each holds the whole cache, so more add load on the log but
/// hardly any speed.
pub const MAX_REPLICAS: i32 = 16;

/// What the proxies of one transparency log look like.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "tiles.stella-ops.org",
    version = "v1alpha1",
    kind = "TileProxy",
    plural = "tileproxies",
    shortname = "tp",
    category = "tiles",
    namespaced,
    cel,
    derive = "PartialEq",
    status = "TileProxyStatus",
    doc = "A TileProxy runs replicas of a verifying, caching reverse proxy for one transparency log. Every replica proves each tile against a signed checkpoint, keeps it on a volume of its own, and goes on serving it while the log is away.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        description = "Whether every replica is ready, of this generation, and reachable.",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "string",
        description = "Ready replicas out of those asked for.",
        json_path = ".status.ready"
    ),
    printcolumn(
        name = "Upstream",
        type_ = "string",
        description = "The log.",
        json_path = ".spec.upstreams[0].url"
    ),
    printcolumn(
        name = "Last Sync",
        type_ = "date",
        description = "When the last sync of all replicas succeeded.",
        json_path = ".status.lastSuccessfulSyncTime"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        description = "Why Ready is what it is.",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(
        name = "Cache",
        type_ = "string",
        description = "Size of each replica's volume.",
        json_path = ".spec.cache.size",
        priority = 1
    ),
    printcolumn(
        name = "URL",
        type_ = "string",
        description = "Where clients in the cluster connect.",
        json_path = ".status.url",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("the name must have at most 40 characters: children append to it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name must start with a letter and hold only a-z, 0-9 and '-': it names Services"),
    validation = Rule::new("!self.metadata.name.matches('-replica-[0-9]+$')")
        .message("the name must not end in -replica-<number>: a replica of another TileProxy may have it")
)]
#[serde(rename_all = "camelCase")]
pub struct TileProxySpec {
    /// How many replicas run, 0 to 16; also set by `kubectl scale`. Each has its own volume with
    /// the whole cache, so two are enough to survive a node. Volumes of removed replicas are kept,
    /// unless `cache.retention` says otherwise. Defaults to 1.
    #[serde(default = "defaults::replicas")]
    #[schemars(range(min = 0, max = 16))]
    pub replicas: i32,

    /// Stops the operator from changing anything that belongs to this resource; its status is
    /// still kept up to date, and running replicas go on serving. Defaults to false.
    #[serde(default)]
    pub paused: bool,

    /// The image of the proxy. Every part left empty is taken from the operator's own image, so
    /// that an upgrade of the operator brings the proxies along.
    #[serde(default)]
    pub image: Image,

    /// Secrets of type `kubernetes.io/dockerconfigjson` with which the image is pulled, at most 8.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<PullSecret>,

    /// Where the log is read: exactly one upstream today.
    #[schemars(length(min = 1, max = 1))]
    pub upstreams: Vec<Upstream>,

    /// The first line of the log's checkpoints, which is its identity, such as
    /// `log2025-1.rekor.sigstore.dev`. At most 255 characters. Empty: learned from the first
    /// checkpoint that one of the public keys verifies.
    #[serde(default)]
    #[schemars(length(max = 255))]
    #[x_kube(validation = Rule::new("!self.matches('[[:cntrl:]]|^[[:space:]]|[[:space:]]$')")
        .message("must be one line without spaces around it, exactly as the log's checkpoints start"))]
    pub origin: String,

    /// The keys that may sign the log's checkpoints, 1 to 16. Several of them let a log rotate its
    /// key: a checkpoint needs the signature of one.
    #[schemars(length(min = 1, max = 16))]
    pub public_keys: Vec<PublicKey>,

    /// `Online` asks the upstream for what is missing. `Offline` never does: everything is served
    /// from the cache, as behind an air gap. Defaults to Online.
    #[serde(default)]
    pub mode: Mode,

    /// How checkpoints are followed.
    #[serde(default)]
    pub checkpoint: CheckpointSpec,

    /// What each replica keeps, and where.
    #[serde(default)]
    pub cache: Cache,

    /// The scheduled prefetch of the newest entries into every replica.
    #[serde(default)]
    pub sync: SyncSpec,

    /// Whether replicas ask each other for what they lack.
    #[serde(default)]
    pub peering: Peering,

    /// The Service clients connect to. It has the name of this resource and listens on port 8080.
    #[serde(default)]
    pub service: ClientService,

    /// CPU and memory of each replica. Defaults to requests of 100m CPU and of `cache.memory` plus
    /// 128Mi memory, without limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<k8s_openapi::api::core::v1::ResourceRequirements>,

    /// Labels a node must have to run replicas and sync Jobs.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: std::collections::BTreeMap<String, String>,

    /// Taints of nodes that replicas and sync Jobs tolerate, at most 32.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<k8s_openapi::api::core::v1::Toleration>,

    /// Scheduling constraints of the replicas. Defaults to a preference for different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<k8s_openapi::api::core::v1::Affinity>,

    /// Annotations of the pods of replicas and sync Jobs. A change restarts the replicas.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub pod_annotations: std::collections::BTreeMap<String, String>,

    /// Labels of the pods of replicas and sync Jobs, beside those the operator sets itself. A
    /// change restarts the replicas.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub pod_labels: std::collections::BTreeMap<String, String>,
}

/// One place that serves the log.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
pub struct Upstream {
    /// Base URL of the log: `checkpoint` and `tile/` are below it. At most 2048 characters.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')").message(URL_RULE))]
    pub url: String,

    /// How long one request to the log may take, 1s to 10m, such as `30s`. Defaults to 30s.
    #[serde(default = "defaults::timeout")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('10m')")
        .message("must be a duration between 1s and 10m, such as 30s"))]
    pub timeout: String,

    /// Where the tiles are, if not below `url`; a final `tile/` is cut off. At most 2048
    /// characters. Empty: below `url`.
    #[serde(default, rename = "tileBaseURL")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self == '' || self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')").message(URL_RULE))]
    pub tile_base_url: String,
}

/// What is said about a URL that is refused.
pub(crate) const URL_RULE: &str = "must be an http:// or https:// URL without user, query or fragment, such as https://log.example.com/";

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

    pub(super) fn replicas() -> i32 {
        1
    }

    pub(super) fn timeout() -> String {
        "30s".to_owned()
    }

    pub(super) fn refresh_interval() -> String {
        "10s".to_owned()
    }
}

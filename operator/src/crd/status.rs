//! `status`: what the operator observed, as people and `kubectl wait` read it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator observed.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TileProxyStatus {
    /// The generation of the spec that this status speaks about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Replicas that exist.
    #[serde(default)]
    pub replicas: i32,

    /// Replicas that are ready.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Ready replicas out of those asked for, such as `2/3`.
    #[serde(default)]
    pub ready: String,

    /// Label selector of the replicas' pods, for the scale subresource.
    #[serde(default)]
    pub selector: String,

    /// Where clients in the cluster connect.
    #[serde(default)]
    pub url: String,

    /// When a sync was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync_time: Option<Time>,

    /// When a sync of all replicas last succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_sync_time: Option<Time>,

    /// How it goes with following each log: the worst that a replica says. Empty until one was asked,
    /// which happens once a minute.
    #[serde(default)]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub logs: Vec<LogStatus>,

    /// Each replica by itself.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub instances: Vec<InstanceStatus>,

    /// Ready, Accepted, Progressing, Degraded, VolumesReady, Synced and Paused; docs/conditions.md
    /// lists every reason.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One log.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogStatus {
    /// Its name in paths and metrics; `default` for a single one.
    pub name: String,

    /// The first line of its checkpoints. Empty until a replica knows it.
    #[serde(default)]
    pub origin: String,

    /// `Fresh`; `Stale`: it has not confirmed for long what is served; `Failing`: a replica trusts
    /// nothing of it, and serves nothing; `SplitView`: two histories of it were seen.
    #[serde(default)]
    pub state: String,
}

/// One replica.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// Name of its Deployment, Service and claim.
    pub name: String,

    /// Whether it serves.
    #[serde(default)]
    pub ready: bool,

    /// Whether it runs what the spec asks for now.
    #[serde(default)]
    pub updated: bool,

    /// Its volume.
    #[serde(default)]
    pub volume: VolumeStatus,
}

/// The volume of one replica.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// Name of the claim.
    #[serde(default)]
    pub claim_name: String,

    /// Size the volume has now. Empty until it is bound.
    #[serde(default)]
    pub capacity: String,

    /// Pending, Bound or Lost. Empty until the claim exists.
    #[serde(default)]
    pub phase: String,
}

//! `spec.image`, `spec.imagePullSecrets` and `spec.service`: what runs, and how it is reached.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The image of the proxy. Every part left empty is taken from the operator's own image.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Registry and repository, such as `registry.example.com/tile-proxy`. At most 255 characters.
    #[serde(default)]
    #[schemars(
        length(max = 255),
        regex(pattern = r"^([a-zA-Z0-9]([-._:/a-zA-Z0-9]*[a-zA-Z0-9])?)?$")
    )]
    pub repository: String,

    /// Tag, such as `0.1.0`. At most 128 characters. Ignored by container runtimes when `digest`
    /// is set.
    #[serde(default)]
    #[schemars(
        length(max = 128),
        regex(pattern = r"^([a-zA-Z0-9_][-._a-zA-Z0-9]*)?$")
    )]
    pub tag: String,

    /// Digest that pins the image, such as `sha256:` and 64 hexadecimal digits.
    #[serde(default)]
    #[schemars(length(max = 71), regex(pattern = r"^(sha256:[0-9a-f]{64})?$"))]
    pub digest: String,

    /// When the image is pulled. Defaults to IfNotPresent.
    #[serde(default)]
    pub pull_policy: PullPolicy,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum PullPolicy {
    /// At every start of a pod.
    Always,
    /// When the node does not have it.
    #[default]
    IfNotPresent,
    /// Never: the node must have it.
    Never,
}

impl PullPolicy {
    /// The name Kubernetes knows it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// A Secret with which the image is pulled.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PullSecret {
    /// Name of the Secret, in the namespace of the TileProxy.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// The Service clients connect to.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientService {
    /// How the Service is reached. Defaults to ClusterIP, which is inside the cluster only.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,

    /// Port of the Service, 1 to 65535, such as 443 with `tls`. That of the pods stays 8080. Defaults
    /// to 8080.
    #[serde(default = "defaults::port")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,

    /// Which replicas a client is led to if there are several. Left out: any of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<TrafficDistribution>,

    /// Annotations of the Service, such as those a load balancer reads.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,

    /// Labels of the Service, beside those the operator sets itself.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
}

// A derived `Default` would say port 0.
impl Default for ClientService {
    fn default() -> Self {
        Self {
            type_: ServiceType::default(),
            port: defaults::port(),
            traffic_distribution: None,
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }
}

/// Which replicas a client is led to, as long as there is one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum TrafficDistribution {
    /// Those of its node.
    PreferSameNode,
    /// Those of its zone.
    PreferSameZone,
}

impl TrafficDistribution {
    /// The name Kubernetes knows it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PreferSameNode => "PreferSameNode",
            Self::PreferSameZone => "PreferSameZone",
        }
    }
}

/// How a Service is reached.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ServiceType {
    /// At an address inside the cluster.
    #[default]
    ClusterIP,
    /// At an external load balancer.
    LoadBalancer,
    /// At a port of every node.
    NodePort,
}

impl ServiceType {
    /// The name Kubernetes knows it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
        }
    }
}

mod defaults {
    pub(super) fn port() -> i32 {
        8080
    }
}

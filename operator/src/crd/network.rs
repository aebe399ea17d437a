//! `spec.networkPolicy` and `spec.monitoring`: who may reach the replicas, and who watches them.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A NetworkPolicy for the replicas. It says who may come in, and nothing about where they go: a
/// policy knows upstreams by address only, and an in-cluster Service by the port behind it.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Whether there is one. It has an effect only where the cluster's network enforces policies.
    /// Defaults to false.
    #[serde(default)]
    pub enabled: bool,

    /// Who may reach the port of clients, 8080: peers as in a NetworkPolicy, at most 32. Empty:
    /// everyone.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub allow_from: Vec<NetworkPolicyPeer>,

    /// Who may reach the port of administration and metrics, 8081, besides the pods of this TileProxy:
    /// peers as in a NetworkPolicy, at most 32, such as the namespace of Prometheus. Empty: nobody.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub allow_admin_from: Vec<NetworkPolicyPeer>,
}

/// How the replicas are watched.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// A ServiceMonitor of the Prometheus operator, for the metrics of every replica.
    #[serde(default)]
    pub service_monitor: ServiceMonitorOptions,
}

/// A ServiceMonitor of the Prometheus operator.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
pub struct ServiceMonitorOptions {
    /// Whether there is one. In a cluster that does not know ServiceMonitors, `Degraded` says so, and
    /// it is created once it can be. Defaults to false.
    #[serde(default)]
    pub enabled: bool,

    /// How often metrics are read, 5s to 1h, such as `30s`. Defaults to 30s.
    #[serde(default = "defaults::interval")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(ms|s|m|h))+$') && duration(self) >= duration('5s') && duration(self) <= duration('1h')")
        .message("must be a duration between 5s and 1h, such as 30s"))]
    pub interval: String,

    /// Labels of the ServiceMonitor, beside those the operator sets itself; a Prometheus may select
    /// by them.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
}

// A derived `Default` would put the empty string into the CRD, not the default of the field.
impl Default for ServiceMonitorOptions {
    fn default() -> Self {
        Self {
            enabled: false,
            interval: defaults::interval(),
            labels: BTreeMap::new(),
        }
    }
}

mod defaults {
    pub(super) fn interval() -> String {
        "30s".to_owned()
    }
}

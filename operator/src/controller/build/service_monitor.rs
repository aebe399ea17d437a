//! The ServiceMonitor: how a Prometheus finds the metrics of every replica.
//!
//! Its kind belongs to the Prometheus operator and may not be there. Only the fields that we set are
//! known here; a newer Prometheus operator may have more.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::child_meta;
use crate::controller::{names::ORDINAL_LABEL, validate::ValidProxy};

/// What is watched, and how.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "monitoring.coreos.com",
    version = "v1",
    kind = "ServiceMonitor",
    namespaced,
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceMonitorSpec {
    /// The label of a Service that becomes the `job` of its metrics.
    pub job_label: String,
    /// Which Services.
    pub selector: LabelSelector,
    /// Which of their ports.
    pub endpoints: Vec<Endpoint>,
}

/// A port to read metrics from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Endpoint {
    /// Name of the Service's port.
    pub port: String,
    /// Path of the metrics.
    pub path: String,
    /// How often.
    pub interval: String,
}

/// The ServiceMonitor of all replicas, if there is to be one.
pub(super) fn replicas(proxy: &ValidProxy) -> Option<ServiceMonitor> {
    let options = proxy.service_monitor.as_ref()?;
    let mut metadata = child_meta(proxy, proxy.names.service_monitor());
    let mut labels: BTreeMap<_, _> = options.labels.clone();
    labels.extend(proxy.names.selector());
    metadata.labels = Some(labels);
    Some(ServiceMonitor {
        metadata,
        spec: ServiceMonitorSpec {
            job_label: "app.kubernetes.io/instance".to_owned(),
            selector: LabelSelector {
                match_labels: Some(proxy.names.selector()),
                // The Services of replicas: that of clients has no admin port.
                match_expressions: Some(vec![LabelSelectorRequirement {
                    key: ORDINAL_LABEL.to_owned(),
                    operator: "Exists".to_owned(),
                    values: None,
                }]),
            },
            endpoints: vec![Endpoint {
                port: "admin".to_owned(),
                path: "/_admin/metrics".to_owned(),
                interval: options.interval.clone(),
            }],
        },
    })
}

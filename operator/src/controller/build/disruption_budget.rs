//! The PodDisruptionBudget: a drain takes one replica at a time.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::child_meta;
use crate::controller::{names::Component, validate::ValidProxy};

/// The budget of all replicas, unless the spec wants none; none for a single one, which could never be drained.
///
/// The number is an integer and a minimum: a percentage and `maxUnavailable` count the scale of the
/// Deployments whose pods exist at that moment, so a replica that is just being replaced would drop
/// out of the sum and let a second one be evicted.
pub(super) fn replicas(proxy: &ValidProxy) -> Option<PodDisruptionBudget> {
    (proxy.disruption_budget && proxy.replicas > 1).then(|| PodDisruptionBudget {
        metadata: child_meta(proxy, proxy.names.disruption_budget()),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(i32::from(proxy.replicas) - 1)),
            selector: Some(LabelSelector {
                match_labels: Some(proxy.names.component(Component::Replica)),
                match_expressions: None,
            }),
            // A replica that does not start must not hold up the drain of its node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}

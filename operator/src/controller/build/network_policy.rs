//! The NetworkPolicy: who may reach the replicas.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
        NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{ADMIN_PORT, CLIENT_PORT, child_meta};
use crate::controller::{names::Component, validate::ValidProxy};

/// The policy of all replicas, if there is to be one. Probes come from the node, which no policy keeps
/// out.
pub(super) fn replicas(proxy: &ValidProxy) -> Option<NetworkPolicy> {
    let policy = proxy.network_policy.as_ref()?;
    // Syncs, and replicas among themselves.
    let mut admins = vec![NetworkPolicyPeer {
        pod_selector: Some(LabelSelector {
            match_labels: Some(proxy.names.selector()),
            match_expressions: None,
        }),
        ..NetworkPolicyPeer::default()
    }];
    admins.extend(policy.admins.iter().cloned());
    Some(NetworkPolicy {
        metadata: child_meta(proxy, proxy.names.network_policy()),
        spec: Some(NetworkPolicySpec {
            ingress: Some(vec![
                // Without peers, a rule lets everyone in.
                rule(CLIENT_PORT, policy.clients.clone()),
                rule(ADMIN_PORT, admins),
            ]),
            pod_selector: Some(LabelSelector {
                match_labels: Some(proxy.names.component(Component::Replica)),
                match_expressions: None,
            }),
            policy_types: Some(vec!["Ingress".to_owned()]),
            egress: None,
        }),
    })
}

fn rule(port: i32, from: Vec<NetworkPolicyPeer>) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        from: (!from.is_empty()).then_some(from),
        ports: Some(vec![NetworkPolicyPort {
            port: Some(IntOrString::Int(port)),
            protocol: Some("TCP".to_owned()),
            end_port: None,
        }]),
    }
}

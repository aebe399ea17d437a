//! Services: one for clients, and one per replica with a name that stays.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{ADMIN_PORT, CLIENT_PORT, child_meta, non_empty};
use crate::controller::{
    names::{Component, ORDINAL_LABEL},
    validate::ValidProxy,
};

/// The Service clients connect to: every ready replica, and never the admin port.
pub(super) fn clients(proxy: &ValidProxy) -> Service {
    let mut metadata = child_meta(proxy, proxy.names.client_service());
    metadata.annotations = non_empty(proxy.service.annotations.clone());
    let mut labels = proxy.service.labels.clone();
    labels.extend(proxy.names.selector());
    metadata.labels = Some(labels);
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(proxy.service.type_.as_str().to_owned()),
            ports: Some(vec![ServicePort {
                port: proxy.service.port,
                ..client_port(proxy)
            }]),
            traffic_distribution: proxy
                .service
                .traffic_distribution
                .map(|preferred| preferred.as_str().to_owned()),
            selector: Some(proxy.names.component(Component::Replica)),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The Service that gives replica `ordinal` a stable name.
///
/// Addresses are published before the pod is ready: a replica still warming its cache must be
/// reachable for a sync, which is what warms it.
pub(super) fn replica(proxy: &ValidProxy, ordinal: u16) -> Service {
    let mut metadata = child_meta(proxy, proxy.names.replica(ordinal));
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(ORDINAL_LABEL.to_owned(), ordinal.to_string());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            ports: Some(vec![client_port(proxy), port("admin", ADMIN_PORT)]),
            publish_not_ready_addresses: Some(true),
            selector: Some(proxy.names.ordinal(ordinal)),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The port of clients. Its name tells meshes and load balancers what is spoken there; that of the
/// pods' port stays, so that endpoints of replicas from before a change are not lost.
fn client_port(proxy: &ValidProxy) -> ServicePort {
    let name = if proxy.tls.is_some() { "https" } else { "http" };
    ServicePort {
        name: Some(name.to_owned()),
        ..port("http", CLIENT_PORT)
    }
}

fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}

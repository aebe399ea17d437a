//! The list by which replicas know each other, so that they ask the log once for what any of them is
//! asked for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapVolumeSource, EnvVar, Volume, VolumeMount};
use serde_json::json;

use super::{child_meta, pod};
use crate::controller::validate::ValidProxy;

/// Where the list is mounted: as a directory, because a single file would never update.
pub(super) const PEERS_PATH: &str = "/etc/tile-proxy/peers";

/// The file in it.
pub(super) const PEERS_FILE: &str = "peers.json";

/// Name of the volume with the list.
const VOLUME: &str = "peers";

/// The ConfigMap `{name}-peers`: every replica of the spec, by its stable name.
///
/// It is there without peering, too, where nobody mounts it: that way the operator needs no right to
/// delete ConfigMaps.
pub(super) fn list(proxy: &ValidProxy) -> ConfigMap {
    let peers = (0..proxy.replicas).map(|ordinal| {
        json!({
            "name": proxy.names.replica(ordinal),
            "url": proxy.names.admin_url(ordinal),
        })
    });
    let list = json!({"version": 1, "peers": peers.collect::<Vec<_>>()});
    ConfigMap {
        metadata: child_meta(proxy, proxy.names.peers()),
        data: Some(BTreeMap::from([(PEERS_FILE.to_owned(), list.to_string())])),
        ..ConfigMap::default()
    }
}

/// The list as a replica sees it. A change of it restarts nobody: the proxy reads it again.
pub(super) fn mounted(proxy: &ValidProxy) -> Option<(Volume, VolumeMount)> {
    let volume = Volume {
        name: VOLUME.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: proxy.names.peers(),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mount = pod::mount(VOLUME, PEERS_PATH, true);
    proxy.peering.then_some((volume, mount))
}

/// What a replica is called in the list: the only key of its configuration that is its own.
pub(super) fn own_name(proxy: &ValidProxy, ordinal: u16) -> Option<EnvVar> {
    proxy.peering.then(|| EnvVar {
        name: "TILE_PROXY__PEERS__SELF".to_owned(),
        value: Some(proxy.names.replica(ordinal)),
        value_from: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::{
        build::{build, config_map::config},
        fixture::valid,
    };
    use tile_proxy::peers::list;

    #[test]
    fn every_replica_finds_itself_in_the_list() {
        let proxy = valid(|p| p.spec.replicas = 3);
        let resources = build(&proxy);
        let list = &resources.config_maps[1];
        assert_eq!(list.metadata.name.as_deref(), Some("rome2026h1-peers"));
        let text = &list.data.as_ref().expect("a file")[PEERS_FILE];
        for (ordinal, deployment) in resources.deployments.iter().enumerate() {
            let pod = deployment.spec.template.spec.as_ref().expect("a pod");
            let env = pod.containers[0].env.as_ref().expect("variables");
            let name = env[0].value.as_deref().expect("a name");
            let members = list::parse(text, name).expect("the proxy reads it");
            assert_eq!(members.len(), 3);
            let own = &members[ordinal];
            assert_eq!(
                own.url.as_str(),
                format!("http://rome2026h1-replica-{ordinal}.verifiers.svc:8081/")
            );
        }
        let peers = config(&proxy).peers;
        assert_eq!(peers.file, "/etc/tile-proxy/peers/peers.json");
        assert!(peers.token.is_some());
    }

    #[test]
    fn a_scale_up_restarts_nobody() {
        let [two, three] = [2, 3].map(|n| build(&valid(|p| p.spec.replicas = n)));
        assert_eq!(two.deployments[..], three.deployments[..2]);
        assert_ne!(two.config_maps[1], three.config_maps[1]);
    }

    #[test]
    fn without_peering_nobody_knows_the_others() {
        let proxy = valid(|p| p.spec.peering.enabled = false);
        assert_eq!(config(&proxy).peers, Default::default());
        for deployment in build(&proxy).deployments {
            let text = serde_json::to_string(&deployment).expect("JSON");
            assert!(!text.contains("peers"), "{text}");
        }
    }
}

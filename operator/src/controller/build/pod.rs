//! What the pods of replicas and of sync Jobs have in common: they meet the *restricted* Pod
//! Security Standard and hold no token of the API server.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, KeyToPath, LocalObjectReference, PodSecurityContext, PodSpec, SeccompProfile,
    SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};

use super::config_map::{ADMIN_PATH, TOKEN_FILE};
use crate::{controller::validate::ValidProxy, crd::PodSecurity};

/// Name of the volume with the admin token.
const ADMIN_VOLUME: &str = "admin";

/// A pod without containers and volumes.
pub(super) fn restricted(proxy: &ValidProxy) -> PodSpec {
    let secrets: Vec<_> = proxy
        .image
        .pull_secrets
        .iter()
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    let PodSecurity {
        run_as_user,
        run_as_group,
        fs_group,
        supplemental_groups,
        se_linux_options,
    } = proxy.pods.security.clone();
    PodSpec {
        automount_service_account_token: Some(false),
        // The variables of every Service in the namespace would only be noise.
        enable_service_links: Some(false),
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        node_selector: super::non_empty(proxy.pods.node_selector.clone()),
        security_context: Some(PodSecurityContext {
            fs_group,
            // The volume can hold a million files; walking them at every start would take minutes.
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            run_as_group,
            run_as_non_root: Some(true),
            run_as_user,
            se_linux_options,
            supplemental_groups: (!supplemental_groups.is_empty()).then_some(supplemental_groups),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        priority_class_name: (!proxy.pods.priority_class.is_empty())
            .then(|| proxy.pods.priority_class.clone()),
        service_account_name: Some(match proxy.pods.service_account.as_str() {
            "" => proxy.names.service_account(),
            theirs => theirs.to_owned(),
        }),
        tolerations: (!proxy.pods.tolerations.is_empty()).then(|| proxy.pods.tolerations.clone()),
        ..PodSpec::default()
    }
}

/// What a container of such a pod may do: nothing.
pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            add: None,
            drop: Some(vec!["ALL".to_owned()]),
        }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

/// The admin token: its volume, and where it is mounted.
pub(super) fn admin_token(proxy: &ValidProxy) -> (Volume, VolumeMount) {
    let volume = Volume {
        name: ADMIN_VOLUME.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(proxy.names.admin_secret()),
            items: Some(vec![KeyToPath {
                key: TOKEN_FILE.to_owned(),
                path: TOKEN_FILE.to_owned(),
                ..KeyToPath::default()
            }]),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    (volume, mount(ADMIN_VOLUME, ADMIN_PATH, true))
}

/// Mounts the volume `name`.
pub(super) fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

/// Labels of a pod: the user's, and ours above them.
pub(super) fn labels(
    proxy: &ValidProxy,
    ours: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut labels = proxy.pods.labels.clone();
    labels.extend(ours);
    labels
}

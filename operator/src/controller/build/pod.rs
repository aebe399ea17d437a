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

/// What a container of such a pod may do: nothing, but for what the spec asks, which is within the
/// standard.
pub(super) fn container_security(proxy: &ValidProxy) -> SecurityContext {
    let asked = proxy.pods.container_security.clone();
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            add: asked.capabilities.and_then(|capabilities| capabilities.add),
            drop: Some(vec!["ALL".to_owned()]),
        }),
        read_only_root_filesystem: asked.read_only_root_filesystem.or(Some(true)),
        ..asked
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::{build::build, fixture::valid};

    #[test]
    fn what_the_spec_asks_of_a_container_is_added_to_what_is_always_so() {
        let asked = SecurityContext {
            capabilities: Some(Capabilities {
                add: Some(vec!["NET_BIND_SERVICE".to_owned()]),
                drop: Some(vec!["NET_RAW".to_owned()]),
            }),
            read_only_root_filesystem: Some(false),
            run_as_user: Some(1000),
            ..SecurityContext::default()
        };
        let proxy = valid(|proxy| proxy.spec.security_context = Some(asked.clone()));
        let want = SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                add: Some(vec!["NET_BIND_SERVICE".to_owned()]),
                drop: Some(vec!["ALL".to_owned()]),
            }),
            ..asked
        };
        assert_eq!(container_security(&proxy), want);
        let built = build(&proxy);
        let replica = built.deployments[0].spec.template.spec.clone();
        let job = built.cron_jobs[0].spec.job_template.spec.clone();
        for pod in [replica, job.and_then(|job| job.template.spec)] {
            let pod = pod.expect("a pod");
            assert_eq!(pod.containers[0].security_context.as_ref(), Some(&want));
        }
    }
}

//! One replica: a Deployment of its own, with a volume of its own.
//!
//! A StatefulSet would order replicas too, but its volume templates cannot change, and a rollout
//! that got stuck needs hands to revert. `Recreate` gives up the old pod first, because both cannot
//! hold the volume.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy},
        core::v1::{
            Affinity, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource,
            HTTPGetAction, Lifecycle, LifecycleHandler, PersistentVolumeClaimVolumeSource,
            PodAffinityTerm, PodAntiAffinity, PodSpec, PodTemplateSpec, Probe,
            ResourceRequirements, SleepAction, TopologySpreadConstraint, Volume,
            WeightedPodAffinityTerm,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{
    ADMIN_PORT, CLIENT_PORT, child_meta,
    config_map::{self, CACHE_PATH, CONFIG_PATH},
    digest, peers, pod,
    reference::references,
};
use crate::controller::{
    names::{CONFIG_ANNOTATION, Component, ORDINAL_LABEL, TEMPLATE_ANNOTATION},
    validate::ValidProxy,
};

/// How long a stopped pod still serves, in seconds: endpoints are removed some seconds after the
/// stop, and clients keep coming until then.
const PRE_STOP_SECONDS: i64 = 5;

/// What of the time to stop is not for requests under way, in seconds: the pause above, and 10 s to
/// flush.
pub(super) const STOP_OVERHEAD_SECONDS: i64 = PRE_STOP_SECONDS + 10;

/// How long a replica may take to become ready before its rollout counts as stalled, in seconds:
/// 120 s in which the previous pod may hold the cache, 180 s of start-up probes, 120 s to pull.
const PROGRESS_DEADLINE_SECONDS: i32 = 120 + 180 + 120;

/// The Deployment of replica `ordinal`.
pub(super) fn replica(proxy: &ValidProxy, ordinal: u16, configuration: &str) -> Deployment {
    let mut annotations = proxy.pods.annotations.clone();
    annotations.insert(CONFIG_ANNOTATION.to_owned(), digest(&configuration));
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            annotations: Some(annotations),
            labels: Some(pod::labels(proxy, proxy.names.ordinal(ordinal))),
            ..ObjectMeta::default()
        }),
        spec: Some(pod_spec(proxy, ordinal, configuration)),
    };
    let mut metadata = child_meta(proxy, proxy.names.replica(ordinal));
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(ORDINAL_LABEL.to_owned(), ordinal.to_string());
    metadata.annotations = Some(BTreeMap::from([(
        TEMPLATE_ANNOTATION.to_owned(),
        digest(&template),
    )]));
    Deployment {
        metadata,
        spec: DeploymentSpec {
            min_ready_seconds: (proxy.delay_seconds > 0).then_some(proxy.delay_seconds),
            progress_deadline_seconds: Some(PROGRESS_DEADLINE_SECONDS + proxy.delay_seconds),
            replicas: Some(1),
            revision_history_limit: Some(2),
            selector: LabelSelector {
                match_labels: Some(proxy.names.ordinal(ordinal)),
                match_expressions: None,
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("Recreate".to_owned()),
                rolling_update: None,
            }),
            template,
            ..DeploymentSpec::default()
        },
        status: None,
    }
}

fn pod_spec(proxy: &ValidProxy, ordinal: u16, configuration: &str) -> PodSpec {
    let (admin, admin_mount) = pod::admin_token(proxy);
    let mut volumes = vec![
        cache(proxy, ordinal),
        Volume {
            name: "config".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: proxy.names.config_map(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        admin,
    ];
    let mut mounts = vec![
        pod::mount("cache", CACHE_PATH, false),
        pod::mount("config", CONFIG_PATH, true),
        admin_mount,
    ];
    if let Some((volume, mount)) = peers::mounted(proxy) {
        volumes.push(volume);
        mounts.push(mount);
    }
    for reference in references(proxy) {
        let (volume, mount) = reference.mounted();
        volumes.push(volume);
        mounts.push(mount);
    }
    let mut env: Vec<_> = peers::own_name(proxy, ordinal).into_iter().collect();
    env.extend(proxy.pods.env.iter().cloned());
    let spread = topology_spread(proxy);
    PodSpec {
        affinity: Some(proxy.pods.affinity.clone().unwrap_or_else(|| apart(proxy))),
        containers: vec![Container {
            name: "tile-proxy".to_owned(),
            image: Some(proxy.image.reference.clone()),
            image_pull_policy: Some(proxy.image.pull_policy.to_owned()),
            command: Some(vec!["/usr/local/bin/tile-proxy".to_owned()]),
            args: Some(vec![
                "serve".to_owned(),
                "--config".to_owned(),
                config_map::file_path(configuration),
            ]),
            env: (!env.is_empty()).then_some(env),
            lifecycle: Some(Lifecycle {
                pre_stop: Some(LifecycleHandler {
                    sleep: Some(SleepAction {
                        seconds: PRE_STOP_SECONDS,
                    }),
                    ..LifecycleHandler::default()
                }),
                ..Lifecycle::default()
            }),
            // 3 s × 60: a start opens the cache, and may wait 120 s for the previous pod to let go.
            startup_probe: Some(probe("/_admin/ready", 3, 60)),
            readiness_probe: Some(probe("/_admin/ready", 5, 2)),
            liveness_probe: Some(probe("/_admin/health", 10, 3)),
            ports: Some(vec![port("http", CLIENT_PORT), port("admin", ADMIN_PORT)]),
            resources: Some(
                proxy
                    .pods
                    .resources
                    .clone()
                    .unwrap_or_else(|| default_resources(proxy)),
            ),
            security_context: Some(pod::container_security(proxy)),
            volume_mounts: Some(mounts),
            ..Container::default()
        }],
        termination_grace_period_seconds: Some(proxy.pods.grace_seconds),
        topology_spread_constraints: (!spread.is_empty()).then_some(spread),
        volumes: Some(volumes),
        ..pod::restricted(proxy)
    }
}

/// Where the replica keeps what it has proven: a volume of its own, or a part of the node's disk.
fn cache(proxy: &ValidProxy, ordinal: u16) -> Volume {
    let volume = Volume {
        name: "cache".to_owned(),
        ..Volume::default()
    };
    if proxy.cache.ephemeral {
        return Volume {
            empty_dir: Some(EmptyDirVolumeSource {
                // A replica that fills more is evicted; its budget stays below it.
                size_limit: Some(Quantity(proxy.cache.size_text.clone())),
                ..EmptyDirVolumeSource::default()
            }),
            ..volume
        };
    }
    Volume {
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: proxy.names.replica(ordinal),
            read_only: None,
        }),
        ..volume
    }
}

/// Replicas would rather not share a node: one lost node then costs one replica.
fn apart(proxy: &ValidProxy) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                WeightedPodAffinityTerm {
                    weight: 100,
                    pod_affinity_term: PodAffinityTerm {
                        label_selector: Some(LabelSelector {
                            match_labels: Some(proxy.names.component(Component::Replica)),
                            match_expressions: None,
                        }),
                        topology_key: "kubernetes.io/hostname".to_owned(),
                        ..PodAffinityTerm::default()
                    },
                },
            ]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// The constraints of the spec. One without a selector would count no pod, so it counts replicas.
fn topology_spread(proxy: &ValidProxy) -> Vec<TopologySpreadConstraint> {
    let mut constraints = proxy.pods.topology_spread.clone();
    for constraint in &mut constraints {
        constraint
            .label_selector
            .get_or_insert_with(|| LabelSelector {
                match_labels: Some(proxy.names.component(Component::Replica)),
                match_expressions: None,
            });
    }
    constraints
}

/// What a replica asks for when the spec does not say: the memory it may fill, and 128 MiB for
/// connections, proofs and what is not flushed yet.
fn default_resources(proxy: &ValidProxy) -> ResourceRequirements {
    let memory = format!("{}Mi", proxy.cache.memory_mb + 128);
    ResourceRequirements {
        requests: Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity("100m".to_owned())),
            ("memory".to_owned(), Quantity(memory)),
        ])),
        ..ResourceRequirements::default()
    }
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        failure_threshold: Some(failure_threshold),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::{build::build, fixture::valid};

    #[test]
    fn an_ephemeral_cache_is_a_bounded_part_of_the_nodes_disk() {
        let proxy = valid(|proxy| {
            proxy.spec.cache.ephemeral = true;
            proxy.spec.cache.size = "3Gi".to_owned();
        });
        let resources = build(&proxy);
        assert!(resources.claims.is_empty());
        for deployment in &resources.deployments {
            let pod = deployment.spec.template.spec.as_ref().expect("a pod");
            let volumes = pod.volumes.iter().flatten();
            let cache: Vec<_> = volumes.filter(|volume| volume.name == "cache").collect();
            let [cache] = cache[..] else {
                panic!("{cache:?}");
            };
            assert!(cache.persistent_volume_claim.is_none());
            let limit = cache.empty_dir.as_ref().and_then(|d| d.size_limit.clone());
            assert_eq!(limit, Some(Quantity("3Gi".to_owned())));
        }
        // The rest is for what is not flushed yet: nobody is evicted for it.
        let budget = config_map::config(&proxy).cache.max_size;
        assert_eq!(budget, "2764Mi".parse().ok());
    }
}

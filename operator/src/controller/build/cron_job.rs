//! The sync: a CronJob that asks every replica to prefetch, over HTTP.
//!
//! It mounts no cache: a second pod on a replica's volume would wait for it, or take it away.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec},
        core::v1::{Container, PodSpec, PodTemplateSpec, ResourceRequirements},
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{
    child_meta,
    config_map::{ADMIN_PATH, TOKEN_FILE},
    non_empty, pod,
};
use crate::controller::{names::Component, validate::ValidProxy};

/// How long a finished Job is kept, in seconds: a day, to read its log.
const TTL_SECONDS: i32 = 86_400;

/// The CronJob `{name}-sync`. Suspended without replicas, because nobody would answer it.
pub(super) fn sync(proxy: &ValidProxy) -> CronJob {
    let labels = proxy.names.component(Component::Sync);
    CronJob {
        metadata: child_meta(proxy, proxy.names.sync()),
        spec: CronJobSpec {
            concurrency_policy: Some("Forbid".to_owned()),
            failed_jobs_history_limit: Some(proxy.sync.failed_jobs_history_limit),
            job_template: JobTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels.clone()),
                    ..ObjectMeta::default()
                }),
                spec: Some(JobSpec {
                    active_deadline_seconds: Some(proxy.sync.active_deadline_seconds),
                    backoff_limit: Some(2),
                    template: PodTemplateSpec {
                        metadata: Some(ObjectMeta {
                            annotations: non_empty(proxy.pods.annotations.clone()),
                            labels: Some(pod::labels(proxy, labels)),
                            ..ObjectMeta::default()
                        }),
                        spec: Some(pod_spec(proxy)),
                    },
                    ttl_seconds_after_finished: Some(TTL_SECONDS),
                    ..JobSpec::default()
                }),
            },
            schedule: proxy.sync.schedule.clone(),
            starting_deadline_seconds: Some(proxy.sync.starting_deadline_seconds),
            successful_jobs_history_limit: Some(proxy.sync.successful_jobs_history_limit),
            suspend: Some(proxy.sync.suspend || proxy.replicas == 0),
            time_zone: Some(proxy.sync.time_zone.clone()),
        },
        status: None,
    }
}

fn pod_spec(proxy: &ValidProxy) -> PodSpec {
    let (admin, admin_mount) = pod::admin_token(proxy);
    let mut args = vec!["sync".to_owned()];
    for ordinal in 0..proxy.replicas {
        args.extend(["--replica".to_owned(), proxy.names.admin_url(ordinal)]);
    }
    args.extend([
        "--token-file".to_owned(),
        format!("{ADMIN_PATH}/{TOKEN_FILE}"),
        "--depth".to_owned(),
        proxy.sync.depth.to_string(),
    ]);
    PodSpec {
        containers: vec![Container {
            name: "sync".to_owned(),
            image: Some(proxy.image.reference.clone()),
            image_pull_policy: Some(proxy.image.pull_policy.to_owned()),
            command: Some(vec!["/usr/local/bin/tile-proxy".to_owned()]),
            args: Some(args),
            resources: proxy
                .sync
                .resources
                .clone()
                .or_else(|| Some(default_resources())),
            security_context: Some(pod::container_security(proxy)),
            volume_mounts: Some(vec![admin_mount]),
            ..Container::default()
        }],
        restart_policy: Some("Never".to_owned()),
        volumes: Some(vec![admin]),
        ..pod::restricted(proxy)
    }
}

/// What a Job asks for when the spec does not say: it asks and waits.
fn default_resources() -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity("10m".to_owned())),
            ("memory".to_owned(), Quantity("32Mi".to_owned())),
        ])),
        ..ResourceRequirements::default()
    }
}

//! P14: replicas come and go, and their volumes stay.

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::CronJob,
    core::v1::{PersistentVolumeClaim, Service},
    policy::v1::PodDisruptionBudget,
};
use serde_json::json;

use crate::{
    operator::Operator,
    world::{World, reason},
};

#[tokio::test]
async fn one_three_one_none_one_and_every_volume_is_kept() {
    let world = World::new("scaling").await;
    world.create("rome", 1, json!({})).await;
    let operator = Operator::start(&world).await;
    world.settles("rome").await;
    let first = world.get::<PersistentVolumeClaim>("rome-replica-0").await;

    let mut most = 1;
    for replicas in [3, 1, 0, 1_usize] {
        let replicas_flag = format!("--replicas={replicas}");
        world.kubectl(&["scale", "tp/rome", &replicas_flag]);
        let proxy = world.settles("rome").await;

        let named = |count| {
            (0..count)
                .map(|n| format!("rome-replica-{n}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(world.names::<Deployment>().await, named(replicas));
        let mut services = vec!["rome".to_owned()];
        services.extend(named(replicas));
        assert_eq!(world.names::<Service>().await, services);
        most = most.max(replicas);
        assert_eq!(world.names::<PersistentVolumeClaim>().await, named(most));
        let budgets = world.names::<PodDisruptionBudget>().await;
        assert_eq!(budgets.len(), usize::from(replicas > 1));
        let sync = world.get::<CronJob>("rome-sync").await;
        assert_eq!(sync.spec.suspend, Some(replicas == 0));
        let reached = sync_replicas(&sync);
        assert_eq!(reached, replicas, "the sync asks every replica");

        let status = proxy.status.clone().unwrap_or_default();
        assert_eq!(status.ready, format!("{replicas}/{replicas}"));
        let zero = reason(&proxy, "Ready") == "ScaledToZero";
        assert_eq!(zero, replicas == 0);
    }
    let kept = world.get::<PersistentVolumeClaim>("rome-replica-0").await;
    assert_eq!(kept.metadata.uid, first.metadata.uid);
    drop(operator);
}

fn sync_replicas(sync: &CronJob) -> usize {
    let job = sync.spec.job_template.spec.as_ref();
    let pod = job.and_then(|job| job.template.spec.as_ref());
    let args = pod.and_then(|pod| pod.containers[0].args.clone());
    args.unwrap_or_default()
        .iter()
        .filter(|arg| *arg == "--replica")
        .count()
}

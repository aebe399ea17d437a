mod logs;

use k8s_openapi::api::{core::v1::PodSpec, networking::v1::NetworkPolicyPeer};
use kube::ResourceExt as _;
use tile_proxy::config::{Config, Size, Source};

use super::*;
use crate::{
    controller::{
        Defaults,
        fixture::{proxy, valid},
        validate::validate,
    },
    crd::{KeyRef, PodSecurity, PublicKey, SecretRef, Tls},
};

fn pods(resources: &Resources<Prepared>) -> Vec<PodSpec> {
    let replicas = resources
        .deployments
        .iter()
        .filter_map(|d| d.spec.template.spec.clone());
    let jobs = resources
        .cron_jobs
        .iter()
        .filter_map(|job| job.spec.job_template.spec.as_ref()?.template.spec.clone());
    replicas.chain(jobs).collect()
}

fn name_of<K: kube::Resource>(objects: &[K]) -> Vec<String> {
    objects.iter().map(kube::ResourceExt::name_any).collect()
}

#[test]
fn the_children_of_a_tile_proxy_have_the_documented_names() {
    let resources = build(&valid(|_| {}));
    assert_eq!(
        name_of(&resources.config_maps),
        ["rome2026h1-config", "rome2026h1-peers"]
    );
    assert_eq!(
        name_of(&resources.service_accounts),
        ["rome2026h1-tile-proxy"]
    );
    assert_eq!(
        name_of(&resources.services),
        ["rome2026h1", "rome2026h1-replica-0", "rome2026h1-replica-1"]
    );
    let replicas = ["rome2026h1-replica-0", "rome2026h1-replica-1"];
    assert_eq!(name_of(&resources.deployments), replicas);
    assert_eq!(name_of(&resources.claims), replicas);
    assert_eq!(name_of(&resources.cron_jobs), ["rome2026h1-sync"]);
    assert_eq!(name_of(&resources.disruption_budgets), ["rome2026h1"]);
}

#[test]
fn the_same_spec_builds_the_same_bytes() {
    let many = |backwards: bool| {
        valid(|proxy| {
            let mut pairs: Vec<u8> = (0..20).collect();
            if backwards {
                pairs.reverse();
            }
            for n in pairs {
                proxy
                    .spec
                    .pod_labels
                    .insert(format!("k{n}"), format!("v{n}"));
                proxy
                    .spec
                    .pod_annotations
                    .insert(format!("k{n}"), format!("v{n}"));
            }
        })
    };
    let json = |proxy: &ValidProxy| serde_json::to_string(&build(proxy).deployments).ok();
    assert_eq!(json(&many(false)), json(&many(true)));
}

#[test]
fn every_child_but_the_volumes_goes_with_the_resource() {
    let resources = build(&valid(|_| {}));
    for deployment in &resources.deployments {
        assert_eq!(deployment.owner_references()[0].uid, "5a11e7");
    }
    for claim in &resources.claims {
        assert!(claim.owner_references().is_empty(), "the cache is kept");
    }
}

#[test]
fn every_pod_is_restricted_and_holds_no_token() {
    let resources = build(&valid(|_| {}));
    let pods = pods(&resources);
    assert_eq!(pods.len(), 3, "two replicas and the sync");
    for pod in pods {
        assert_eq!(pod.automount_service_account_token, Some(false));
        let security = pod.security_context.expect("a pod security context");
        assert_eq!(security.run_as_non_root, Some(true));
        assert_eq!(security.run_as_user, Some(65_532));
        assert_eq!(
            security.seccomp_profile.map(|p| p.type_).as_deref(),
            Some("RuntimeDefault")
        );
        for container in pod.containers {
            let security = container.security_context.expect("a security context");
            assert_eq!(security.allow_privilege_escalation, Some(false));
            assert_eq!(security.read_only_root_filesystem, Some(true));
            let dropped = security
                .capabilities
                .and_then(|c| c.drop)
                .unwrap_or_default();
            assert_eq!(dropped, ["ALL"]);
        }
    }
}

#[test]
fn a_pod_has_time_to_drain() {
    let resources = build(&valid(|_| {}));
    let pod = &pods(&resources)[0];
    let pre_stop = pod.containers[0]
        .lifecycle
        .as_ref()
        .and_then(|l| l.pre_stop.as_ref());
    let sleep = pre_stop
        .and_then(|p| p.sleep.as_ref())
        .expect("a pause before SIGTERM")
        .seconds;
    let drain = i64::try_from(Config::default().shutdown.drain.0.as_secs()).expect("small");
    assert!(pod.termination_grace_period_seconds > Some(sleep + drain));
}

#[test]
fn the_proxy_reads_the_configuration_it_is_given() {
    let proxy = valid(|proxy| {
        proxy.spec.cache.size = "10Gi".to_owned();
        proxy.spec.upstreams[0].timeout = "7s".to_owned();
        proxy.spec.public_keys.push(PublicKey {
            secret_key_ref: Some(KeyRef {
                name: "keys".to_owned(),
                key: "rome.pub".to_owned(),
            }),
            ..PublicKey::default()
        });
    });
    let config = config_map::config(&proxy);
    assert_eq!(
        config.cache.max_size,
        Some(Size(9 << 30)),
        "90 % of the volume"
    );
    assert_eq!(
        config.public_keys[1],
        Source::File("/etc/tile-proxy/keys/1/key".into())
    );
    assert!(!config.sync.enabled, "the CronJob syncs");

    let yaml = config_map::rendered(&proxy);
    let read = Config::parse("config.yaml", &yaml, Vec::<(String, String)>::new());
    assert_eq!(read.map_err(|e| e.to_string()), Ok(config));
}

#[test]
fn a_key_by_reference_is_mounted_and_never_copied() {
    let proxy = valid(|proxy| {
        proxy.spec.public_keys = vec![PublicKey {
            config_map_key_ref: Some(KeyRef {
                name: "keys".to_owned(),
                key: "a".to_owned(),
            }),
            ..PublicKey::default()
        }];
    });
    let pod = &pods(&build(&proxy))[0];
    let volumes = pod.volumes.as_deref().unwrap_or_default();
    let volume = volumes
        .iter()
        .find(|volume| volume.name == "key-0")
        .expect("a volume");
    let source = volume.config_map.as_ref().expect("of the ConfigMap");
    assert_eq!(source.name, "keys");
    let mounts = pod.containers[0]
        .volume_mounts
        .as_deref()
        .unwrap_or_default();
    let mount = mounts
        .iter()
        .find(|mount| mount.name == "key-0")
        .expect("a mount");
    assert_eq!(mount.mount_path, "/etc/tile-proxy/keys/0");
    assert_eq!(mount.sub_path, None, "a sub-path would never be updated");
}

#[test]
fn what_an_upstream_and_tls_need_is_mounted_and_never_copied() {
    let reference = |name: &str| {
        Some(KeyRef {
            name: name.to_owned(),
            key: "entry".to_owned(),
        })
    };
    let proxy = valid(|proxy| {
        let mut mirror = proxy.spec.upstreams[0].clone();
        mirror.url = "https://mirror.example.net/".to_owned();
        mirror.priority = 3;
        mirror.ca_config_map_key_ref = reference("mirror-ca");
        mirror.auth_secret_ref = reference("mirror-access");
        proxy.spec.upstreams.push(mirror);
        proxy.spec.tls = Some(Tls {
            secret_ref: SecretRef {
                name: "rome-tls".to_owned(),
            },
            client_ca_secret_ref: reference("verifiers"),
            require_client_cert: true,
        });
    });
    let config = config_map::config(&proxy);
    let file = |path: &str| Some(Source::File(path.into()));
    let mirror = &config.upstreams[1];
    assert_eq!(mirror.priority, 3);
    assert_eq!(mirror.ca, file("/etc/tile-proxy/upstreams/1/ca/ca.pem"));
    assert_eq!(
        mirror.authorization,
        file("/etc/tile-proxy/upstreams/1/authorization/value")
    );
    assert_eq!(config.tls.cert, file("/etc/tile-proxy/tls/tls.crt"));
    assert_eq!(config.tls.key, file("/etc/tile-proxy/tls/tls.key"));
    assert_eq!(
        config.tls.client_ca,
        file("/etc/tile-proxy/client-ca/ca.pem")
    );
    assert!(!config.tls.admin, "probes and syncs stay plain");

    // Each of these files is there: its directory is mounted, and the entry is given that name.
    let pod = &pods(&build(&proxy))[0];
    let mounts = pod.containers[0]
        .volume_mounts
        .as_deref()
        .unwrap_or_default();
    let volumes = pod.volumes.as_deref().unwrap_or_default();
    for (directory, object, entries) in [
        ("upstreams/1/ca", "mirror-ca", vec![("entry", "ca.pem")]),
        (
            "upstreams/1/authorization",
            "mirror-access",
            vec![("entry", "value")],
        ),
        (
            "tls",
            "rome-tls",
            vec![("tls.crt", "tls.crt"), ("tls.key", "tls.key")],
        ),
        ("client-ca", "verifiers", vec![("entry", "ca.pem")]),
    ] {
        let path = format!("/etc/tile-proxy/{directory}");
        let mount = mounts
            .iter()
            .find(|mount| mount.mount_path == path)
            .expect(directory);
        let volume = volumes
            .iter()
            .find(|volume| volume.name == mount.name)
            .expect(directory);
        let (name, items) = match (&volume.secret, &volume.config_map) {
            (Some(secret), None) => (secret.secret_name.clone(), secret.items.clone()),
            (None, Some(map)) => (Some(map.name.clone()), map.items.clone()),
            other => panic!("{directory}: {other:?}"),
        };
        assert_eq!(name.as_deref(), Some(object), "{directory}");
        let items = items.unwrap_or_default();
        let have: Vec<_> = items
            .iter()
            .map(|i| (i.key.as_str(), i.path.as_str()))
            .collect();
        assert_eq!(have, entries, "{directory}");
    }
    let url = proxy.client_url();
    assert_eq!(url, "https://rome2026h1.verifiers.svc:8080");
}

#[test]
fn a_policy_lets_clients_to_their_port_and_our_own_pods_to_the_other() {
    let policy = |change: fn(&mut crate::crd::NetworkPolicySpec)| {
        let proxy = valid(|proxy| {
            proxy.spec.network_policy.enabled = true;
            change(&mut proxy.spec.network_policy);
        });
        let policy = build(&proxy).network_policies.remove(0);
        policy
            .spec
            .and_then(|spec| spec.ingress)
            .unwrap_or_default()
    };
    let open = policy(|_| {});
    assert_eq!(open[0].from, None, "clients come from anywhere");
    let from = open[1].from.clone().unwrap_or_default();
    assert_eq!(from.len(), 1, "nobody but ourselves");
    let selector = from[0].pod_selector.clone().and_then(|s| s.match_labels);
    assert_eq!(selector, Some(valid(|_| {}).names.selector()));

    let some = policy(|policy| policy.allow_admin_from = vec![Default::default()]);
    assert_eq!(some[1].from.as_ref().map(Vec::len), Some(2));
    assert!(build(&valid(|_| {})).network_policies.is_empty());

    // The operator asks how the logs are.
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(Default::default()),
        ..NetworkPolicyPeer::default()
    };
    let defaults = Defaults {
        operand_image: "tile-proxy:7.1".to_owned(),
        operator_pods: Some(operator.clone()),
    };
    let asked = proxy(|proxy| proxy.spec.network_policy.enabled = true);
    let asked = validate(&asked, &defaults).expect("valid");
    let policy = build(&asked).network_policies.remove(0).spec;
    let ingress = policy.and_then(|spec| spec.ingress).unwrap_or_default();
    assert!(
        ingress[1]
            .from
            .iter()
            .flatten()
            .any(|peer| *peer == operator)
    );
    assert_eq!(ingress[0].from, None, "and as a client it is one of many");
}

#[test]
fn a_service_monitor_finds_the_admin_port_of_every_replica() {
    let proxy = valid(|proxy| proxy.spec.monitoring.service_monitor.enabled = true);
    let resources = build(&proxy);
    let monitor = serde_json::to_value(&resources.service_monitors[0]).expect("a tree");
    assert_eq!(monitor["apiVersion"], "monitoring.coreos.com/v1");
    let endpoint = &monitor["spec"]["endpoints"][0];
    let wanted = monitor["spec"]["selector"]["matchLabels"]
        .as_object()
        .expect("labels");
    let found = resources.services.iter().filter(|service| {
        let labels = service.labels();
        let spec = service.spec.as_ref().expect("a spec");
        wanted
            .iter()
            .all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
            && labels.contains_key(crate::controller::names::ORDINAL_LABEL)
            && spec.ports.iter().flatten().any(|port| {
                port.name.as_deref() == endpoint["port"].as_str() && port.port == ADMIN_PORT
            })
    });
    assert_eq!(found.count(), 2);
}

#[test]
fn a_cluster_that_chooses_users_itself_is_asked_for_none() {
    let proxy = valid(|proxy| proxy.spec.pod_security_context = Some(PodSecurity::default()));
    for pod in pods(&build(&proxy)) {
        let security = pod.security_context.expect("still restricted");
        assert_eq!((security.run_as_user, security.fs_group), (None, None));
        assert_eq!(security.run_as_non_root, Some(true));
        assert!(security.seccomp_profile.is_some());
    }
}

#[test]
fn a_longer_time_to_stop_is_for_requests_under_way() {
    let proxy = valid(|proxy| proxy.spec.termination_grace_period_seconds = 90);
    let drain = config_map::config(&proxy).shutdown.drain;
    assert_eq!(drain.0.as_secs(), 75);
    let default = config_map::config(&valid(|_| {})).shutdown;
    assert_eq!(default, Config::default().shutdown, "not rendered");
}

#[test]
fn the_sync_asks_every_replica_and_mounts_no_cache() {
    let resources = build(&valid(|_| {}));
    let pod = pods(&resources).pop().expect("the sync");
    assert_eq!(
        pod.containers[0]
            .args
            .as_deref()
            .unwrap_or_default()
            .join(" "),
        "sync --replica http://rome2026h1-replica-0.verifiers.svc:8081 \
         --replica http://rome2026h1-replica-1.verifiers.svc:8081 \
         --token-file /etc/tile-proxy/admin/token --depth 10000"
    );
    let volumes = pod.volumes.unwrap_or_default();
    assert!(
        volumes
            .iter()
            .all(|volume| volume.persistent_volume_claim.is_none())
    );
}

#[test]
fn without_replicas_the_sync_is_suspended_and_everything_else_stays() {
    let resources = build(&valid(|proxy| proxy.spec.replicas = 0));
    assert_eq!(resources.cron_jobs[0].spec.suspend, Some(true));
    assert!(resources.deployments.is_empty() && resources.disruption_budgets.is_empty());
    assert_eq!(name_of(&resources.services), ["rome2026h1"]);
}

#[test]
fn clients_do_not_reach_the_admin_port() {
    let resources = build(&valid(|_| {}));
    let ports = |service: &Service| -> Vec<i32> {
        let spec = service.spec.as_ref().expect("a spec");
        spec.ports.iter().flatten().map(|port| port.port).collect()
    };
    assert_eq!(ports(&resources.services[0]), [8080]);
    assert_eq!(ports(&resources.services[1]), [8080, 8081]);

    let other = valid(|proxy| proxy.spec.service.port = 80);
    let resources = build(&other);
    assert_eq!(ports(&resources.services[0]), [80]);
    assert_eq!(
        ports(&resources.services[1]),
        [8080, 8081],
        "as peers know it"
    );
    assert_eq!(other.client_url(), "http://rome2026h1.verifiers.svc:80");
}

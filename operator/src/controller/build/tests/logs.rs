//! Tests of what becomes of several logs and of TUF: what the proxy is told, what is mounted, and which of
//! it restarts replicas.

use std::collections::BTreeSet;

use kube::ResourceExt as _;
use tile_proxy::config::Source;

use super::{super::*, pods};
use crate::{
    controller::{fixture::valid, names::TEMPLATE_ANNOTATION},
    crd::{LogSpec, MAX_LOGS, TileProxySpec},
};

/// The rollout is what stops a wrong key or setting at the first replica. So whatever the proxy is told
/// in its configuration is a new template, also what it would take up while it runs; what it is not told
/// there is none.
#[test]
fn what_the_proxy_is_told_restarts_the_pods_and_nothing_else_does() {
    type Change = fn(&mut TileProxySpec);
    let template = |change: Change| {
        let proxy = valid(|proxy| {
            proxy.spec = several_logs();
            change(&mut proxy.spec);
        });
        let deployment = &build(&proxy).deployments[0];
        deployment.annotations().get(TEMPLATE_ANNOTATION).cloned()
    };
    let before = template(|_| {});
    let restarts: [(&str, Change); 8] = [
        ("a log that goes", |spec| drop(spec.logs.pop())),
        ("its origin", |spec| spec.logs[0].origin = "oslo".to_owned()),
        ("its share", |spec| spec.logs[0].cache_share = 2),
        ("its key", |spec| drop(spec.logs[1].public_keys.pop())),
        ("another key of the same object", |spec| {
            let key = &mut spec.logs[1].public_keys[1];
            if let Some(from) = &mut key.config_map_key_ref {
                from.key = "other.pub".to_owned();
            }
        }),
        ("the grace of TUF", |spec| {
            let tuf = spec.tuf.as_mut().expect("there");
            tuf.expiry_grace = "1h".to_owned();
        }),
        ("no TUF", |spec| spec.tuf = None),
        ("passthrough", |spec| spec.passthrough = true),
    ];
    for (what, change) in restarts {
        assert_ne!(before, template(change), "{what}");
    }
    let stays: [(&str, Change); 4] = [
        ("the order of logs", |spec| spec.logs.reverse()),
        ("the schedule", |spec| {
            spec.sync.schedule = "@hourly".to_owned();
        }),
        ("more replicas", |spec| spec.replicas = 5),
        ("a Service's port", |spec| spec.service.port = 80),
    ];
    for (what, change) in stays {
        assert_eq!(before, template(change), "{what}");
    }
    let origin = |origin: &str| {
        let proxy = valid(|proxy| proxy.spec.origin = origin.to_owned());
        build(&proxy).deployments[0].annotations().clone()
    };
    assert_ne!(origin(""), origin("rome.example.net/2026h1"));
}

/// Two logs, one of them with a key by reference, and TUF.
fn several_logs() -> TileProxySpec {
    let spec = "
      logs:
      - {name: oslo, upstreams: [{url: 'https://log2025-1.rekor.sigstore.dev/'}]}
      - name: rome
        publicKeys:
        - inline: rome.example.net/2026h1+e920e5d1+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx
        - configMapKeyRef: {name: log-keys, key: rome.pub}
        - secretKeyRef: {name: more-log-keys, key: rome.pub}
        upstreams:
        - url: https://rome.example.net/
        - url: https://mirror.example.net/rome/
          caConfigMapKeyRef: {name: mirror-ca, key: ca.crt}
          authSecretRef: {name: mirror-access, key: authorization}
      tuf:
        url: https://tuf.example.net/
        rootSecretKeyRef: {name: tuf-root, key: root}
        caConfigMapKeyRef: {name: company-ca, key: ca.crt}
    ";
    serde_saphyr::from_str(spec).expect("a spec")
}

#[test]
fn what_logs_and_tuf_refer_to_is_mounted_where_the_proxy_looks_and_never_copied() {
    let proxy = valid(|proxy| proxy.spec = several_logs());
    let config = config_map::config(&proxy);
    let [oslo, rome] = &config.logs[..] else {
        panic!("{:?}", config.logs);
    };
    assert_eq!((oslo.name.as_str(), rome.name.as_str()), ("oslo", "rome"));
    assert!(oslo.public_keys.is_empty(), "TUF has them");
    assert_eq!((config.tuf.enabled, config.tuf.url.is_some()), (true, true));
    let pod = &pods(&build(&proxy))[0];
    let mounts = pod.containers[0].volume_mounts.as_deref();
    let volumes = pod.volumes.as_deref().unwrap_or_default();
    // The source, and the object and entry that it comes from.
    for (source, object, entry) in [
        (Some(&rome.public_keys[1]), "log-keys", "rome.pub"),
        (Some(&rome.public_keys[2]), "more-log-keys", "rome.pub"),
        (rome.upstreams[1].ca.as_ref(), "mirror-ca", "ca.crt"),
        (
            rome.upstreams[1].authorization.as_ref(),
            "mirror-access",
            "authorization",
        ),
        (config.tuf.root.as_ref(), "tuf-root", "root"),
        (config.tuf.ca.as_ref(), "company-ca", "ca.crt"),
    ] {
        let Some(Source::File(file)) = source else {
            panic!("{object}: {source:?}");
        };
        let (directory, name) = (file.parent().expect("one"), file.file_name().expect("one"));
        let mut mounts = mounts.unwrap_or_default().iter();
        let mount = mounts.find(|mount| directory.to_str() == Some(&mount.mount_path));
        let mount = mount.expect(object);
        assert_eq!(
            (mount.read_only, mount.sub_path.as_deref()),
            (Some(true), None)
        );
        let volume = volumes.iter().find(|volume| volume.name == mount.name);
        let volume = volume.expect(object);
        let (from, items) = match (&volume.secret, &volume.config_map) {
            (Some(secret), None) => (secret.secret_name.as_deref(), &secret.items),
            (None, Some(map)) => (Some(map.name.as_str()), &map.items),
            other => panic!("{object}: {other:?}"),
        };
        assert_eq!(from, Some(object));
        let item = &items.as_ref().expect("one")[0];
        assert_eq!(
            (item.key.as_str(), name.to_str()),
            (entry, Some(&*item.path))
        );
    }
    let fields: Vec<String> = references(&proxy).into_iter().map(|r| r.field).collect();
    assert_eq!(
        fields,
        [
            "spec.logs[rome].upstreams[1].caConfigMapKeyRef",
            "spec.logs[rome].upstreams[1].authSecretRef",
            "spec.logs[rome].publicKeys[1].configMapKeyRef",
            "spec.logs[rome].publicKeys[2].secretKeyRef",
            "spec.tuf.rootSecretKeyRef",
            "spec.tuf.caConfigMapKeyRef",
        ]
    );
}

/// The API server takes no volume whose name is longer than a DNS label.
#[test]
fn the_longest_names_of_logs_leave_volumes_a_valid_one() {
    let proxy = valid(|proxy| {
        let mut spec = several_logs();
        let log = spec.logs.remove(1);
        spec.logs = (0..MAX_LOGS)
            .map(|n| LogSpec {
                name: format!("{}{n:03}", "a".repeat(60)),
                origin: n.to_string(),
                ..log.clone()
            })
            .collect();
        proxy.spec = spec;
    });
    let pod = &pods(&build(&proxy))[0];
    let names = pod.volumes.iter().flatten().map(|volume| &volume.name);
    let names: BTreeSet<&String> = names.collect();
    assert!(names.len() > 4 * MAX_LOGS && names.iter().all(|name| name.len() <= 63));
}

#[test]
fn only_keys_that_differ_from_the_defaults_are_told() {
    let proxy = valid(|proxy| {
        let spec = "{logs: [{name: rekor, upstreams: [{url: 'https://rekor.sigstore.dev/'}]}], \
                    tuf: {url: 'https://tuf-repo-cdn.sigstore.dev'}}";
        proxy.spec = serde_saphyr::from_str(spec).expect("a spec");
    });
    let text = config_map::rendered(&proxy);
    for key in [
        "default:",
        "kind:",
        "cache_share",
        "write_url",
        "passthrough",
        "allow_http",
        "environment",
        "service_map",
        "expiry_grace",
        "validate_checkpoint_signature",
    ] {
        assert!(!text.contains(key), "{key} in\n{text}");
    }
    let one = config_map::rendered(&valid(|_| {}));
    assert!(!one.contains("logs") && !one.contains("tuf"), "{one}");
}

use super::*;
use k8s_openapi::api::core::v1::EnvVar;
use tile_proxy::config::Size;

use crate::{
    controller::{
        build::config,
        fixture::{parsed, valid},
    },
    crd::{
        AccessMode, KeyRef, LogKind, PodSecurity, PublicKey, PullSecret, SecretRef, Tls, Upstream,
    },
};

fn reference() -> KeyRef {
    KeyRef {
        name: "mirror".to_owned(),
        key: "value".to_owned(),
    }
}

fn variable(name: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        ..EnvVar::default()
    }
}

#[test]
fn what_the_spec_leaves_out_has_the_documented_default() {
    let proxy = valid(|_| {});
    assert_eq!(proxy.cache.size, Size(10 << 30));
    assert_eq!(proxy.cache.memory_mb, 128);
    assert_eq!(proxy.cache.storage_class, None);
    assert_eq!(proxy.cache.checkpoint_ttl_minutes, 5);
    assert_eq!(proxy.refresh_interval, Interval::seconds(10));
    let ValidLogs::One(log) = &proxy.logs else {
        panic!("{:?}", proxy.logs);
    };
    assert_eq!(log.upstreams[0].timeout, Interval::seconds(30));
    assert_eq!((log.origin.as_str(), log.kind), ("", LogKind::Auto));
    assert_eq!(
        proxy.image.reference,
        "mirror.example.net:5000/tile-proxy:7.1"
    );
    assert_eq!(proxy.mode, Mode::Online);
}

#[test]
fn an_invalid_resource_is_refused_with_the_field_and_what_to_write() {
    type Change = fn(&mut TileProxy);
    let rows: [(Change, &str); 46] = [
        (
            |p| p.metadata.name = Some("a".repeat(41)),
            "metadata.name: must have at most 40",
        ),
        (
            |p| p.metadata.name = Some("9lives".into()),
            "metadata.name: must start with a letter",
        ),
        (
            |p| p.metadata.name = Some("rome-replica-3".into()),
            "metadata.name: must not end in",
        ),
        (
            |p| p.spec.topology_spread_constraints = vec![Default::default(); 2],
            "spec.topologySpreadConstraints[1]: there is one already",
        ),
        (
            |p| {
                let name = "registry".to_owned();
                p.spec.image_pull_secrets = vec![PullSecret { name }; 2];
            },
            "spec.imagePullSecrets[1].name: registry is there already",
        ),
        (|p| p.spec.replicas = 17, "spec.replicas: must be 0 to 16"),
        (|p| p.spec.replicas = -1, "spec.replicas: must be 0 to 16"),
        (
            |p| p.spec.upstreams.clear(),
            "spec: set upstreams for one log, logs for several, or tuf",
        ),
        (
            |p| p.spec.upstreams[0].url = "rome".into(),
            "spec.upstreams[0].url: must be an http://",
        ),
        (
            |p| p.spec.upstreams[0].timeout = "30".into(),
            "spec.upstreams[0].timeout: `30` is not",
        ),
        (
            |p| p.spec.upstreams[0].timeout = "11m".into(),
            "spec.upstreams[0].timeout: is 11m; must be between 1s and 10m",
        ),
        (
            |p| {
                let mirror = p.spec.upstreams[0].clone();
                p.spec.upstreams.push(mirror);
            },
            "spec.upstreams[1].name: two upstreams have the same name, and metrics could not tell them apart: rome.example.net",
        ),
        (
            |p| p.spec.upstreams[0].name = "https://rome".into(),
            "spec.upstreams[0].name: must be a name",
        ),
        (
            |p| p.spec.upstreams = vec![p.spec.upstreams[0].clone(); 17],
            "spec.upstreams: must hold at most 16",
        ),
        (
            |p| {
                p.spec.upstreams[0] = Upstream {
                    url: "http://rome.example.net/".into(),
                    ca_config_map_key_ref: Some(reference()),
                    ..p.spec.upstreams[0].clone()
                };
            },
            "spec.upstreams[0]: caConfigMapKeyRef vouches for certificates",
        ),
        (
            |p| p.spec.danger_accept_unsigned = true,
            "spec: dangerAcceptUnsigned is for logs that have no key",
        ),
        (
            |p| {
                p.spec.tls = Some(Tls {
                    secret_ref: SecretRef {
                        name: "rome-tls".into(),
                    },
                    client_ca_secret_ref: None,
                    require_client_cert: true,
                });
            },
            "spec.tls: requireClientCert needs clientCASecretRef",
        ),
        (
            |p| p.spec.rate_limit.burst = 1,
            "spec.rateLimit: burst and trustedProxies have no effect",
        ),
        (
            |p| {
                p.spec.rate_limit.per_ip_per_second = 1;
                p.spec.rate_limit.trusted_proxies = vec!["10.0.0.0/33".into()];
            },
            "spec.rateLimit.trustedProxies[0]: 10.0.0.0/33 is not an address",
        ),
        (
            |p| p.spec.log.level = "tile_proxy=loud".into(),
            "spec.log.level: tile_proxy=loud is neither a level",
        ),
        (
            |p| p.spec.monitoring.service_monitor.interval = "1m 5".into(),
            "spec.monitoring.serviceMonitor.interval: `1m 5` is not",
        ),
        (
            |p| p.spec.proxy.https_proxy = "http://u:p@proxy.example.net".into(),
            "spec.proxy.httpsProxy: must be an http:// or https:// URL without user",
        ),
        // It would move a port, or a path, behind the operator's back.
        (
            |p| p.spec.extra_env = vec![variable("TILE_PROXY__LISTEN")],
            "spec.extraEnv[0].name: TILE_PROXY__… is configuration",
        ),
        (
            |p| p.spec.extra_env = vec![variable("A"), variable("A")],
            "spec.extraEnv[1].name: A is set already",
        ),
        (
            |p| {
                p.spec.pod_security_context = Some(PodSecurity {
                    run_as_user: Some(0),
                    ..PodSecurity::default()
                });
            },
            "spec.podSecurityContext.runAsUser: must be 1 to 2147483647",
        ),
        (
            |p| {
                p.spec.pod_labels.insert("team".into(), "a b".into());
            },
            "spec.podLabels[team]: must have a value of at most 63",
        ),
        (
            |p| {
                p.spec.pod_annotations.insert("a b".into(), String::new());
            },
            "spec.podAnnotations[a b]: must be a key such as",
        ),
        (
            |p| p.spec.sync.starting_deadline_seconds = 199,
            "spec.sync.startingDeadlineSeconds: must be 200 to 86400",
        ),
        (
            |p| p.spec.origin = "a b\n".into(),
            "spec.origin: must be one line",
        ),
        (
            |p| p.spec.origin = " a".into(),
            "spec.origin: must be one line",
        ),
        (
            |p| p.spec.public_keys.clear(),
            "spec: publicKeys must hold at least one key",
        ),
        (
            |p| p.spec.public_keys[0] = PublicKey::default(),
            "spec.publicKeys[0]: set exactly one of",
        ),
        // It would make the proxy read a file of its pod.
        (
            |p| p.spec.public_keys[0].inline = Some("file:/etc/passwd".into()),
            "spec.publicKeys[0].inline: must be a verifier key",
        ),
        (
            |p| p.spec.public_keys[0].inline = Some("-----BEGIN PUBLIC KEY-----".into()),
            "spec.publicKeys[0].inline: must be a verifier key such as example.com/log+33d7b496+AeHTu4Q3hEIM…, or PEM: not a public key in PEM",
        ),
        (
            |p| p.spec.public_keys[0].inline = Some("rome+33d7b496+AeHT".into()),
            "spec.publicKeys[0].inline: must be a verifier key",
        ),
        // The second line counts as well.
        (
            |p| {
                let key = p.spec.public_keys[0].inline.get_or_insert_default();
                key.push_str("\noslo");
            },
            "spec.publicKeys[0].inline: must be a verifier key",
        ),
        (
            |p| {
                p.spec.cache.access_modes.push(AccessMode::ReadWriteOncePod);
            },
            "spec.cache.accessModes: ReadWriteOncePod must stand alone",
        ),
        (
            |p| p.spec.cache.storage_class_name = "Fast".into(),
            "spec.cache.storageClassName: must be the name of a StorageClass",
        ),
        (
            |p| p.spec.cache.storage_class_name = "fast..ssd".into(),
            "spec.cache.storageClassName: must be the name of a StorageClass",
        ),
        (
            |p| p.spec.sync.time_zone = "Mars/Phobos".into(),
            "spec.sync.timeZone: Mars/Phobos is not a time zone",
        ),
        (
            |p| p.spec.cache.size = "10GB".into(),
            "spec.cache.size: `10GB` is not a size",
        ),
        (
            |p| p.spec.cache.size = "1Mi".into(),
            "spec.cache.size: is 1Mi; must be at least 64Mi",
        ),
        (
            |p| p.spec.cache.checkpoint_ttl = "90s".into(),
            "spec.cache.checkpointTTL: must be whole minutes",
        ),
        (
            |p| p.spec.sync.schedule = "0 25 * * *".into(),
            "spec.sync.schedule: `25` is not a valid hour",
        ),
        (
            |p| p.spec.sync.depth = 0,
            "spec.sync.depth: must be 1 to 1000000000",
        ),
        (
            |p| {
                p.spec
                    .pod_labels
                    .insert("app.kubernetes.io/name".into(), "x".into());
            },
            "spec.podLabels[app.kubernetes.io/name]: is set by the operator",
        ),
    ];
    for (change, want) in rows {
        let message = parsed(change).expect_err(want).to_string();
        assert!(message.starts_with(want), "want {want}\ngot  {message}");
    }
}

#[test]
fn what_real_logs_use_is_accepted() {
    let proxy = valid(|p| {
        p.spec.origin = "rekor.sigstore.dev - 2605736670972794746".to_owned();
        p.spec.cache.storage_class_name = "fast.csi.example.net".to_owned();
        p.spec.cache.access_modes = vec![AccessMode::ReadWriteOncePod];
        let key = p.spec.public_keys[0].inline.clone().unwrap_or_default();
        let other = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
        let pem = "-----BEGIN PUBLIC KEY-----\n\
            MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwr\n\
            kBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw==\n\
            -----END PUBLIC KEY-----";
        p.spec.public_keys[0].inline = Some(format!("{key}\n{other}\n{pem}\n"));
    });
    let told = config(&proxy);
    assert_eq!(told.origin, "rekor.sigstore.dev - 2605736670972794746");
}

#[test]
fn a_log_without_a_key_is_followed_only_where_that_is_said_out_loud() {
    let unsigned = |said: bool| {
        parsed(|p| {
            p.spec.public_keys.clear();
            p.spec.danger_accept_unsigned = said;
        })
    };
    assert!(unsigned(false).is_err());
    let told = config(&unsigned(true).expect("valid"));
    assert!(told.danger_accept_unsigned && told.public_keys.is_empty());
}

//! The configuration of the proxy: the one place where the resource becomes keys of the proxy.

use std::collections::BTreeMap;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use tile_proxy::config::{self, Config, Interval, LogConfig, Source};

use super::{
    child_meta,
    deployment::STOP_OVERHEAD_SECONDS,
    digest,
    peers::{PEERS_FILE, PEERS_PATH},
    reference::{File, Place, placed},
};
use crate::{
    controller::validate::{
        NamedLog, Pods, ValidCache, ValidKey, ValidLog, ValidProxy, ValidTuf, ValidUpstream,
    },
    crd::{Log, LogFormat, LogKind, Mode, RateLimit, Tls},
};

/// Where the volume of a replica is mounted.
pub(super) const CACHE_PATH: &str = "/var/cache/tile-proxy";

/// Where the ConfigMap is mounted: as a directory, because a single file would never update.
pub(super) const CONFIG_PATH: &str = "/etc/tile-proxy/config";

/// Where the Secret with the admin token is mounted.
pub(super) const ADMIN_PATH: &str = "/etc/tile-proxy/admin";

/// The file in [`ADMIN_PATH`], which is the key of the Secret.
pub const TOKEN_FILE: &str = "token";

/// The ConfigMap `{name}-config` with `configuration`.
pub(super) fn config_map(proxy: &ValidProxy, configuration: &str) -> ConfigMap {
    ConfigMap {
        metadata: child_meta(proxy, proxy.names.config_map()),
        data: Some(BTreeMap::from([(
            file_name(configuration),
            configuration.to_owned(),
        )])),
        ..ConfigMap::default()
    }
}

/// The file with `configuration`. Its content names it, so that a replica that is held back reads
/// what it was started with, even if its pod restarts.
fn file_name(configuration: &str) -> String {
    let digest = digest(&configuration);
    format!("config-{}.yaml", digest.get(..16).unwrap_or(&digest))
}

/// Where a replica finds `configuration`.
pub(super) fn file_path(configuration: &str) -> String {
    format!("{CONFIG_PATH}/{}", file_name(configuration))
}

/// Copies into `desired` the files of `existing` that one of `deployments` still starts with. A file
/// that none of them names is dropped.
pub fn keep_files_in_use(
    desired: &mut ConfigMap,
    existing: &ConfigMap,
    deployments: &[Deployment],
) {
    let files = existing.data.iter().flatten();
    let in_use = files.filter(|(file, _)| {
        let path = format!("{CONFIG_PATH}/{file}");
        deployments.iter().any(|deployment| {
            let pod = deployment.spec.template.spec.as_ref();
            let containers = pod.map(|pod| pod.containers.as_slice());
            containers
                .unwrap_or_default()
                .iter()
                .flat_map(|container| container.args.iter().flatten())
                .any(|arg| *arg == path)
        })
    });
    let data = desired.data.get_or_insert_default();
    for (file, text) in in_use {
        data.entry(file.clone()).or_insert_with(|| text.clone());
    }
}

/// The configuration file: only what differs from the proxy's defaults, so that an older image does
/// not meet keys it does not know.
pub(super) fn rendered(proxy: &ValidProxy) -> String {
    config(proxy).to_yaml()
}

/// What the proxy is told. Listen addresses, paths and the token's place are not for a resource to
/// choose and are set here and nowhere else.
pub(in crate::controller) fn config(proxy: &ValidProxy) -> Config {
    // Destructured without `..`: a new field does not compile until someone decided whether the
    // proxy is told about it.
    let ValidProxy {
        names: _,
        owner: _,
        replicas: _,
        paused: _,
        image: _,
        logs,
        unsigned,
        tuf,
        passthrough,
        trusted_ca,
        mode,
        refresh_interval,
        cache:
            cache @ ValidCache {
                size: _, // the budget is taken of it
                size_text: _,
                memory_mb,
                storage_class: _,
                access_modes: _,
                ephemeral: _,
                checkpoint_ttl_minutes,
                retention: _,
            },
        sync: _, // the CronJob's, not the proxy's
        peering,
        service: _,
        tls,
        rate_limit:
            RateLimit {
                per_ip_per_second,
                burst,
                trusted_proxies,
            },
        audit,
        log: Log { level, format },
        network_policy: _,
        service_monitor: _,
        disruption_budget: _,
        delay_seconds: _,
        pods:
            Pods {
                resources: _,
                node_selector: _,
                tolerations: _,
                affinity: _,
                topology_spread: _,
                priority_class: _,
                annotations: _,
                labels: _,
                security: _,
                container_security: _,
                service_account: _,
                grace_seconds,
                env: _, // among it the forward proxy, which the proxy takes from there
            },
    } = proxy;

    let mut config = Config::default();
    config.admin_listen = Some(config::Listen(([0_u16; 8], 8081).into()));
    for (place, log) in placed(logs) {
        let ValidLog {
            origin,
            kind,
            keys,
            upstreams,
        } = log;
        let kind = self::kind(*kind);
        let keys = keys.iter().enumerate();
        let public_keys = keys.map(|(at, key)| key_source(&place, at, key)).collect();
        let upstreams = upstreams.iter().enumerate();
        let upstreams = upstreams.map(|(at, u)| upstream(&place, at, u)).collect();
        match place.named {
            None => {
                config.origin.clone_from(origin);
                config.kind = kind;
                config.public_keys = public_keys;
                config.upstreams = upstreams;
            }
            Some(NamedLog {
                name,
                default,
                cache_share,
                log: _,
            }) => config.logs.push(LogConfig {
                name: name.clone(),
                default: *default,
                origin: origin.clone(),
                kind,
                public_keys,
                upstreams,
                cache_share: *cache_share,
            }),
        }
    }
    config.danger_accept_unsigned = *unsigned;
    config.passthrough = *passthrough;
    if let Some(tuf) = tuf {
        config.tuf = self::tuf(tuf);
    }
    config.trusted_ca = trusted_ca.as_ref().map(|_| File::trusted_ca().source());
    config.mode = match mode {
        Mode::Offline => config::Mode::Offline,
        Mode::Online => config::Mode::Online,
    };
    config.cache.base_path = CACHE_PATH.into();
    config.cache.max_size = Some(cache.budget());
    config.cache.memory_mb = *memory_mb;
    config.cache.checkpoint_ttl_minutes = *checkpoint_ttl_minutes;
    config.checkpoint.refresh_interval = *refresh_interval;
    config.sync.enabled = false;
    if let Some(tls) = tls {
        config.tls = self::tls(tls);
    }
    config.rate_limit.per_ip_per_second = *per_ip_per_second;
    config.rate_limit.burst = *burst;
    config
        .rate_limit
        .trusted_proxies
        .clone_from(trusted_proxies);
    if *audit {
        config.audit.path = "-".to_owned(); // standard output, which outlives the pod
    }
    config.log.level.clone_from(level);
    config.log.format = match format {
        LogFormat::Json => config::TracingFormat::Auto, // a pod has no terminal
        LogFormat::Text => config::TracingFormat::Text,
    };
    let drain = u64::try_from(grace_seconds - STOP_OVERHEAD_SECONDS).unwrap_or_default();
    config.shutdown.drain = Interval::seconds(drain);
    let token = Source::File(format!("{ADMIN_PATH}/{TOKEN_FILE}").into());
    if *peering {
        config.peers.file = format!("{PEERS_PATH}/{PEERS_FILE}");
        // Who may ask a replica to sync may ask it for a tile.
        config.peers.token = Some(token.clone());
    }
    config.admin.token = Some(token);
    config
}

/// The proxy's own default, which needs no mention.
const DEFAULT_TIMEOUT: Interval = Interval::seconds(30);

fn kind(kind: LogKind) -> config::Kind {
    match kind {
        LogKind::Auto => config::Kind::Auto,
        LogKind::RekorV1 => config::Kind::RekorV1,
        LogKind::RekorV2 => config::Kind::RekorV2,
        LogKind::TlogTiles => config::Kind::TlogTiles,
    }
}

fn key_source(place: &Place<'_>, at: usize, key: &ValidKey) -> Source {
    match key {
        ValidKey::Inline(key) => Source::Inline(key.clone()),
        ValidKey::Mounted(_) => File::key(place, at).source(),
    }
}

fn upstream(place: &Place<'_>, at: usize, upstream: &ValidUpstream) -> config::Upstream {
    let ValidUpstream {
        name,
        url,
        tile_base_url,
        priority,
        timeout,
        write_url,
        ca,
        authorization,
    } = upstream;
    config::Upstream {
        name: name.clone(),
        url: Some(url.clone()),
        tile_base_url: tile_base_url.clone(),
        priority: *priority,
        timeout: (*timeout != DEFAULT_TIMEOUT).then_some(*timeout),
        ca: ca.as_ref().map(|_| File::ca(place, at).source()),
        authorization: authorization
            .as_ref()
            .map(|_| File::authorization(place, at).source()),
        write_url: write_url.clone(),
    }
}

fn tuf(tuf: &ValidTuf) -> config::Tuf {
    let ValidTuf {
        url,
        root,
        ca,
        environment,
        service_map,
        allow_http,
        refresh_interval,
        expiry_grace,
        validate_checkpoint_signature,
    } = tuf;
    config::Tuf {
        enabled: true,
        url: url.clone(),
        root: root.as_ref().map(|_| File::tuf_root().source()),
        ca: ca.as_ref().map(|_| File::tuf_ca().source()),
        cache_path: String::new(), // below the cache, so that a restart needs nobody
        environment: environment.clone(),
        service_map: service_map.clone(),
        allow_http: *allow_http,
        refresh_interval: *refresh_interval,
        expiry_grace: *expiry_grace,
        validate_checkpoint_signature: *validate_checkpoint_signature,
    }
}

fn tls(tls: &Tls) -> config::Tls {
    let Tls {
        secret_ref: _,
        client_ca_secret_ref,
        require_client_cert,
    } = tls;
    config::Tls {
        cert: Some(File::certificate().source()),
        key: Some(File::private_key().source()),
        client_ca: client_ca_secret_ref
            .as_ref()
            .map(|_| File::client_ca().source()),
        require_client_cert: *require_client_cert,
        ..config::Tls::default()
    }
}

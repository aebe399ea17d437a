//! From a TileProxy as written to one that can be built: parsed types, nothing optional that has a
//! default, or one message that says what to write instead. No I/O.
//!
//! The API server has checked most of this already, by the rules in the CRD. It is checked again
//! because the CRD in the cluster may be older than this operator.

mod image;

use std::{collections::BTreeMap, fmt, time::Duration};

use k8s_openapi::{
    api::core::v1::{Affinity, ResourceRequirements, Toleration},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource as _, ResourceExt as _};
use tile_proxy::{
    config::{Interval, Size},
    note::vkey::VerifierKey,
};
use url::Url;

use self::image::image_reference;
use super::{
    Defaults,
    names::{Names, RESERVED_PREFIXES},
    schedule,
};
use crate::crd::{
    ALONE_RULE, AccessMode, CLASS_RULE, Cache, ClientService, KeyRef, MAX_NAME, MAX_REPLICAS, Mode,
    PublicKey, Retention, SyncSpec, TileProxy, TileProxySpec, URL_RULE, Upstream,
};

/// A TileProxy that can be built. Only [`validate`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidProxy {
    /// Names and labels of its children.
    pub names: Names,
    /// What makes its children go when it goes.
    pub owner: OwnerReference,
    /// How many replicas; at most 16.
    pub replicas: u16,
    /// Whether everything is left alone.
    pub paused: bool,
    /// What the pods run.
    pub image: ValidImage,
    /// Where the log is read.
    pub upstream: ValidUpstream,
    /// First line of the log's checkpoints; empty if it is to be learned.
    pub origin: String,
    /// The keys that may sign checkpoints; at least one.
    pub keys: Vec<ValidKey>,
    /// Whether upstreams are asked.
    pub mode: Mode,
    /// How often the log is asked for a checkpoint.
    pub refresh_interval: Interval,
    /// What each replica keeps.
    pub cache: ValidCache,
    /// The scheduled prefetch.
    pub sync: SyncSpec,
    /// Whether replicas ask each other.
    pub peering: bool,
    /// The Service clients connect to.
    pub service: ClientService,
    /// Where and how pods run.
    pub pods: Pods,
}

/// The image, with what the operator contributes.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidImage {
    /// The whole reference.
    pub reference: String,
    /// When it is pulled.
    pub pull_policy: &'static str,
    /// Secrets to pull it with.
    pub pull_secrets: Vec<String>,
}

/// One upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidUpstream {
    /// Base URL.
    pub url: Url,
    /// Base URL of the tiles, where it is another one.
    pub tile_base_url: Option<Url>,
    /// Longest request.
    pub timeout: Interval,
}

/// Where a public key comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ValidKey {
    /// An entry of a ConfigMap, mounted.
    ConfigMap(KeyRef),
    /// The spec itself.
    Inline(String),
    /// An entry of a Secret, mounted.
    Secret(KeyRef),
}

/// What each replica keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidCache {
    /// Size of the volume.
    pub size: Size,
    /// As the spec spells it, for the claim.
    pub size_text: String,
    /// Verified bytes in memory, in whole mebibytes.
    pub memory_mb: u64,
    /// StorageClass; `None` is the cluster's default.
    pub storage_class: Option<String>,
    /// How the volume is mounted.
    pub access_modes: Vec<AccessMode>,
    /// Age at which a checkpoint is called stale, in whole minutes.
    pub checkpoint_ttl_minutes: u64,
    /// What becomes of volumes that are no longer used.
    pub retention: Retention,
}

/// Where and how pods run.
#[derive(Clone, Debug, PartialEq)]
pub struct Pods {
    /// CPU and memory of a replica, if the spec says so.
    pub resources: Option<ResourceRequirements>,
    /// Labels of nodes.
    pub node_selector: BTreeMap<String, String>,
    /// Tolerated taints.
    pub tolerations: Vec<Toleration>,
    /// Placement of replicas, if the spec says so.
    pub affinity: Option<Affinity>,
    /// Annotations beside our own.
    pub annotations: BTreeMap<String, String>,
    /// Labels beside our own.
    pub labels: BTreeMap<String, String>,
}

/// What is wrong with a TileProxy, and what would be right. Retrying does not help; the next change
/// of the resource does.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Invalid {
    field: String,
    message: String,
}

fn invalid(field: impl Into<String>, message: impl fmt::Display) -> Invalid {
    Invalid {
        field: field.into(),
        message: message.to_string(),
    }
}

/// Parses `proxy`.
///
/// # Errors
/// The first thing that is wrong, in the order of the fields.
pub fn validate(proxy: &TileProxy, defaults: &Defaults) -> Result<ValidProxy, Invalid> {
    let name = proxy.name_any();
    check_name(&name)?;
    let namespace = proxy
        .namespace()
        .ok_or_else(|| invalid("metadata.namespace", "must be set"))?;
    let owner = proxy
        .controller_owner_ref(&())
        .ok_or_else(|| invalid("metadata.uid", "is set by the API server and must be there"))?;
    // Destructured without `..`: a new field does not compile until it is parsed here.
    let TileProxySpec {
        replicas,
        paused,
        image,
        image_pull_secrets,
        upstreams,
        origin,
        public_keys,
        mode,
        checkpoint,
        cache,
        sync,
        peering,
        service,
        resources,
        node_selector,
        tolerations,
        affinity,
        pod_annotations,
        pod_labels,
    } = proxy.spec.clone();

    let replicas = u16::try_from(replicas)
        .ok()
        .filter(|_| replicas <= MAX_REPLICAS)
        .ok_or_else(|| invalid("spec.replicas", format!("must be 0 to {MAX_REPLICAS}")))?;
    let [upstream] = upstreams.as_slice() else {
        return Err(invalid("spec.upstreams", "must hold exactly one upstream"));
    };
    if origin.contains(char::is_control) || origin.trim() != origin {
        return Err(invalid(
            "spec.origin",
            "must be one line without spaces around it, exactly as the log's checkpoints start",
        ));
    }
    if public_keys.is_empty() {
        return Err(invalid(
            "spec.publicKeys",
            "must hold at least one key: without it nothing the log says can be proven",
        ));
    }
    check_labels("spec.podLabels", &pod_labels)?;
    check_labels("spec.service.labels", &service.labels)?;
    if sync.enabled {
        schedule::check(&sync.schedule).map_err(|why| invalid("spec.sync.schedule", why))?;
        schedule::check_zone(&sync.time_zone).map_err(|why| invalid("spec.sync.timeZone", why))?;
    }
    if sync.depth < 1 {
        return Err(invalid("spec.sync.depth", "must be at least 1"));
    }
    Ok(ValidProxy {
        names: Names { name, namespace },
        owner,
        replicas,
        paused,
        image: ValidImage {
            reference: image_reference(&image, &defaults.operand_image),
            pull_policy: image.pull_policy.as_str(),
            pull_secrets: image_pull_secrets
                .into_iter()
                .map(|secret| secret.name)
                .collect(),
        },
        upstream: valid_upstream(upstream)?,
        origin,
        keys: public_keys
            .into_iter()
            .enumerate()
            .map(|(at, key)| valid_key(at, key))
            .collect::<Result<_, _>>()?,
        mode,
        refresh_interval: interval(
            "spec.checkpoint.refreshInterval",
            &checkpoint.refresh_interval,
            Duration::from_secs(1)..=Duration::from_secs(24 * 3600),
        )?,
        cache: valid_cache(cache)?,
        sync,
        peering: peering.enabled,
        service,
        pods: Pods {
            resources,
            node_selector,
            tolerations,
            affinity,
            annotations: pod_annotations,
            labels: pod_labels,
        },
    })
}

fn check_name(name: &str) -> Result<(), Invalid> {
    let wrong = |message: String| Err(invalid("metadata.name", message));
    if name.len() > MAX_NAME {
        return wrong(format!(
            "must have at most {MAX_NAME} characters: children append to it"
        ));
    }
    let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !valid {
        return wrong("must start with a letter and hold only a-z, 0-9 and '-'".to_owned());
    }
    let ordinal = name.rsplit_once("-replica-").map(|(_, ordinal)| ordinal);
    if ordinal.is_some_and(|o| !o.is_empty() && o.bytes().all(|b| b.is_ascii_digit())) {
        return wrong(
            "must not end in -replica-<number>: a replica of another TileProxy may have it"
                .to_owned(),
        );
    }
    Ok(())
}

fn check_labels(field: &str, labels: &BTreeMap<String, String>) -> Result<(), Invalid> {
    let reserved = labels
        .keys()
        .find(|k| RESERVED_PREFIXES.iter().any(|p| k.starts_with(p)));
    match reserved {
        Some(key) => Err(invalid(
            format!("{field}[{key}]"),
            "is set by the operator; choose another key",
        )),
        None => Ok(()),
    }
}

fn valid_upstream(upstream: &Upstream) -> Result<ValidUpstream, Invalid> {
    let Upstream {
        url,
        timeout,
        tile_base_url,
    } = upstream;
    let parse = |field: &str, text: &str| {
        Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .filter(|url| url.username().is_empty() && url.password().is_none())
            .filter(|url| url.query().is_none() && url.fragment().is_none())
            .ok_or_else(|| invalid(field, URL_RULE))
    };
    Ok(ValidUpstream {
        url: parse("spec.upstreams[0].url", url)?,
        tile_base_url: match tile_base_url.as_str() {
            "" => None,
            text => Some(parse("spec.upstreams[0].tileBaseURL", text)?),
        },
        timeout: interval(
            "spec.upstreams[0].timeout",
            timeout,
            Duration::from_secs(1)..=Duration::from_secs(600),
        )?,
    })
}

fn valid_key(at: usize, key: PublicKey) -> Result<ValidKey, Invalid> {
    match key {
        PublicKey {
            inline: Some(key),
            secret_key_ref: None,
            config_map_key_ref: None,
        } => {
            let key = key.trim();
            check_key(key).map_err(|why| invalid(format!("spec.publicKeys[{at}].inline"), why))?;
            Ok(ValidKey::Inline(key.to_owned()))
        }
        PublicKey {
            inline: None,
            secret_key_ref: Some(key),
            config_map_key_ref: None,
        } => Ok(ValidKey::Secret(key)),
        PublicKey {
            inline: None,
            secret_key_ref: None,
            config_map_key_ref: Some(key),
        } => Ok(ValidKey::ConfigMap(key)),
        PublicKey { .. } => Err(invalid(
            format!("spec.publicKeys[{at}]"),
            "set exactly one of inline, secretKeyRef and configMapKeyRef",
        )),
    }
}

/// Checks that the proxy will start with `text`: verifier keys, one a line, or PEM.
fn check_key(text: &str) -> Result<(), String> {
    const RULE: &str =
        "must be a verifier key such as example.com/log+33d7b496+AeHTu4Q3hEIM…, or PEM";
    // The proxy would take it for the path of a file in its pod.
    if text.is_empty() || text.starts_with("file:") {
        return Err(RULE.to_owned());
    }
    let keys = VerifierKey::parse_all(text).map_err(|why| format!("{RULE}: {why}"))?;
    if keys.is_empty() {
        return Err(RULE.to_owned());
    }
    Ok(())
}

fn valid_cache(cache: Cache) -> Result<ValidCache, Invalid> {
    let Cache {
        size: size_text,
        memory,
        storage_class_name,
        access_modes,
        checkpoint_ttl,
        retention,
    } = cache;
    let size = size_in(
        "spec.cache.size",
        &size_text,
        Size(64 << 20)..=Size(u64::MAX),
    )?;
    let memory = size_in("spec.cache.memory", &memory, Size(1 << 20)..=Size(64 << 30))?;
    let ttl = interval(
        "spec.cache.checkpointTTL",
        &checkpoint_ttl,
        Duration::from_secs(60)..=Duration::from_secs(168 * 3600),
    )?;
    if !ttl.0.as_secs().is_multiple_of(60) {
        return Err(invalid(
            "spec.cache.checkpointTTL",
            "must be whole minutes, such as 5m",
        ));
    }
    let invalid_modes = |message| Err(invalid("spec.cache.accessModes", message));
    if access_modes.is_empty() {
        return invalid_modes("must hold at least one, ReadWriteOnce");
    }
    if access_modes.contains(&AccessMode::ReadWriteOncePod) && access_modes.len() > 1 {
        return invalid_modes(ALONE_RULE);
    }
    if !storage_class_name.is_empty() && !is_subdomain(&storage_class_name) {
        return Err(invalid("spec.cache.storageClassName", CLASS_RULE));
    }
    Ok(ValidCache {
        size,
        size_text,
        memory_mb: memory.0 >> 20,
        storage_class: (!storage_class_name.is_empty()).then_some(storage_class_name),
        access_modes,
        checkpoint_ttl_minutes: ttl.0.as_secs() / 60,
        retention,
    })
}

/// Whether `name` can name an object: DNS labels of a-z, 0-9 and '-', joined by dots.
fn is_subdomain(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

fn interval(
    field: &str,
    text: &str,
    range: std::ops::RangeInclusive<Duration>,
) -> Result<Interval, Invalid> {
    let interval: Interval = text.parse().map_err(|why| invalid(field, why))?;
    if range.contains(&interval.0) {
        return Ok(interval);
    }
    let (from, to) = (Interval(*range.start()), Interval(*range.end()));
    Err(invalid(
        field,
        format!("is {text}; must be between {from} and {to}"),
    ))
}

fn size_in(
    field: &str,
    text: &str,
    range: std::ops::RangeInclusive<Size>,
) -> Result<Size, Invalid> {
    let size: Size = text.parse().map_err(|why| invalid(field, why))?;
    if range.contains(&size) {
        return Ok(size);
    }
    let most = if range.end().0 == u64::MAX {
        String::new()
    } else {
        format!(" and at most {}", range.end())
    };
    Err(invalid(
        field,
        format!("is {text}; must be at least {}{most}", range.start()),
    ))
}

#[cfg(test)]
mod tests;

//! From a TileProxy as written to one that can be built: parsed types, nothing optional that has a
//! default, or one message that says what to write instead. No I/O.
//!
//! The API server has checked most of this already, by the rules in the CRD. It is checked again
//! because the CRD in the cluster may be older than this operator.

mod cache;
mod image;
mod keys;
mod logs;
mod pods;
mod security;
mod serving;
mod tuf;
mod units;
mod upstreams;

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};
use tile_proxy::config::Interval;

use self::image::image_reference;
use super::{Defaults, names::Names, schedule};
use crate::crd::{
    ClientService, KeyRef, Log, MAX_NAME, MAX_REPLICAS, MIN_GRACE_SECONDS, Mode, RateLimit,
    SyncSpec, TileProxy, TileProxySpec, Tls,
};

pub use self::{
    cache::ValidCache,
    keys::ValidKey,
    logs::{NamedLog, ValidLog, ValidLogs},
    pods::Pods,
    serving::{ValidNetworkPolicy, ValidServiceMonitor},
    tuf::ValidTuf,
    upstreams::ValidUpstream,
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
    /// What is served.
    pub logs: ValidLogs,
    /// Whether a log without keys is believed.
    pub unsigned: bool,
    /// The repository that keys, and perhaps logs, are taken from.
    pub tuf: Option<ValidTuf>,
    /// Whether what is not answered of a Rekor v1 log is handed on.
    pub passthrough: bool,
    /// Who may vouch for upstreams, beside those the image trusts; mounted.
    pub trusted_ca: Option<Mounted>,
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
    /// TLS for clients.
    pub tls: Option<Tls>,
    /// How much one client may ask.
    pub rate_limit: RateLimit,
    /// Whether an audit log is printed.
    pub audit: bool,
    /// What else is printed.
    pub log: Log,
    /// Who may reach the replicas, if that is said.
    pub network_policy: Option<ValidNetworkPolicy>,
    /// How the replicas are watched, if they are.
    pub service_monitor: Option<ValidServiceMonitor>,
    /// Whether a drain waits.
    pub disruption_budget: bool,
    /// How long a replica must be ready before the next one changes, in seconds.
    pub delay_seconds: i32,
    /// Where and how pods run.
    pub pods: Pods,
}

impl ValidProxy {
    /// Where clients in the cluster connect.
    pub fn client_url(&self) -> String {
        self.names.client_url(self.tls.is_some(), self.service.port)
    }
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

/// An entry of an object that replicas mount.
#[derive(Clone, Debug, PartialEq)]
pub enum Mounted {
    /// Of a ConfigMap.
    ConfigMap(KeyRef),
    /// Of a Secret.
    Secret(KeyRef),
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
        kind,
        public_keys,
        logs,
        tuf,
        danger_accept_unsigned,
        passthrough,
        mode,
        checkpoint,
        cache,
        sync,
        peering,
        service,
        tls,
        rate_limit,
        audit,
        log,
        network_policy,
        monitoring,
        pod_disruption_budget,
        update_strategy,
        trusted_ca,
        proxy: egress_proxy,
        resources,
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints,
        priority_class_name,
        pod_annotations,
        pod_labels,
        pod_security_context,
        security_context,
        service_account_name,
        termination_grace_period_seconds,
        extra_env,
    } = proxy.spec.clone();

    let replicas = u16::try_from(replicas)
        .ok()
        .filter(|_| replicas <= MAX_REPLICAS)
        .ok_or_else(|| invalid("spec.replicas", format!("must be 0 to {MAX_REPLICAS}")))?;
    let tuf = tuf.map(|tuf| tuf::valid_tuf(tuf, mode)).transpose()?;
    let cache = cache::valid_cache(cache)?;
    let written = logs::Written {
        one: logs::WrittenLog {
            upstreams,
            origin,
            kind,
            public_keys,
        },
        several: logs,
        rules: logs::Rules {
            unsigned: danger_accept_unsigned,
            passthrough,
            mode,
            validates: tuf.as_ref().map(|tuf| tuf.validate_checkpoint_signature),
        },
    };
    let logs = written.valid()?;
    logs.check_shares(&cache)?;
    pods::check_labels("spec.podLabels", &pod_labels)?;
    pods::check_labels("spec.service.labels", &service.labels)?;
    pods::check_annotations("spec.podAnnotations", &pod_annotations)?;
    pods::check_spread(&topology_spread_constraints)?;
    pods::check_annotations("spec.service.annotations", &service.annotations)?;
    check_sync(&sync)?;
    tls.as_ref().map_or(Ok(()), serving::check_tls)?;
    serving::check_rate_limit(&rate_limit)?;
    serving::check_log(&log)?;
    units::number("spec.service.port", service.port, &(1..=65_535))?;
    let security = pod_security_context.unwrap_or_else(security::default_pod);
    security::check_pod(&security)?;
    let container_security = security_context.unwrap_or_default();
    security::check_container(&container_security)?;
    Ok(ValidProxy {
        names: Names { name, namespace },
        owner,
        replicas,
        paused,
        image: ValidImage {
            reference: image_reference(&image, &defaults.operand_image),
            pull_policy: image.pull_policy.as_str(),
            pull_secrets: pods::valid_pull_secrets(image_pull_secrets)?,
        },
        logs,
        unsigned: danger_accept_unsigned,
        tuf,
        passthrough,
        trusted_ca: trusted_ca.map(upstreams::valid_trusted_ca).transpose()?,
        mode,
        refresh_interval: units::interval(
            "spec.checkpoint.refreshInterval",
            &checkpoint.refresh_interval,
            1..=24 * 3600,
        )?,
        cache,
        sync,
        peering: peering.enabled,
        service,
        tls,
        rate_limit,
        audit: audit.enabled,
        log,
        network_policy: serving::valid_network_policy(
            network_policy,
            defaults.operator_pods.as_ref(),
        ),
        service_monitor: serving::valid_monitoring(monitoring)?,
        disruption_budget: pod_disruption_budget.enabled,
        delay_seconds: units::number(
            "spec.updateStrategy.delaySeconds",
            update_strategy.delay_seconds,
            &(0..=3600),
        )?,
        pods: Pods {
            resources,
            node_selector,
            tolerations,
            affinity,
            topology_spread: topology_spread_constraints,
            priority_class: priority_class_name,
            annotations: pod_annotations,
            labels: pod_labels,
            security,
            container_security,
            service_account: service_account_name,
            grace_seconds: units::number(
                "spec.terminationGracePeriodSeconds",
                termination_grace_period_seconds,
                &(MIN_GRACE_SECONDS..=3600),
            )?,
            env: pods::valid_env(egress_proxy, extra_env)?,
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

fn check_sync(sync: &SyncSpec) -> Result<(), Invalid> {
    if sync.enabled {
        schedule::check(&sync.schedule).map_err(|why| invalid("spec.sync.schedule", why))?;
        schedule::check_zone(&sync.time_zone).map_err(|why| invalid("spec.sync.timeZone", why))?;
    }
    units::number("spec.sync.depth", sync.depth, &(1..=1_000_000_000))?;
    let day = 86_400;
    let starting = sync.starting_deadline_seconds;
    units::number("spec.sync.startingDeadlineSeconds", starting, &(200..=day))?;
    let active = sync.active_deadline_seconds;
    units::number("spec.sync.activeDeadlineSeconds", active, &(60..=day))?;
    for (field, limit) in [
        ("successful", sync.successful_jobs_history_limit),
        ("failed", sync.failed_jobs_history_limit),
    ] {
        let field = format!("spec.sync.{field}JobsHistoryLimit");
        units::number(&field, limit, &(0..=10))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! How clients are served, what is printed about it, and who may watch.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use tile_proxy::app::tracing_filter;

use super::{Invalid, invalid, pods::check_labels, units};
use crate::crd::{
    CLIENT_CA_RULE, Log, MAX_RATE, Monitoring, NetworkPolicySpec, RATE_RULE, RateLimit,
    ServiceMonitorOptions, Tls,
};

/// Who may reach the replicas.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidNetworkPolicy {
    /// On the port of clients; empty is everyone.
    pub clients: Vec<NetworkPolicyPeer>,
    /// On the port of administration, besides our own pods: whom the spec names, and the operator.
    pub admins: Vec<NetworkPolicyPeer>,
}

/// How the replicas are watched.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidServiceMonitor {
    /// As the spec spells it, which Prometheus understands too.
    pub interval: String,
    /// Labels beside our own.
    pub labels: BTreeMap<String, String>,
}

pub(super) fn check_tls(tls: &Tls) -> Result<(), Invalid> {
    if tls.require_client_cert && tls.client_ca_secret_ref.is_none() {
        return Err(invalid("spec.tls", CLIENT_CA_RULE));
    }
    Ok(())
}

pub(super) fn check_rate_limit(limit: &RateLimit) -> Result<(), Invalid> {
    let RateLimit {
        per_ip_per_second,
        burst,
        trusted_proxies,
    } = limit;
    let range = 0..=MAX_RATE;
    units::number("spec.rateLimit.perIPPerSecond", *per_ip_per_second, &range)?;
    units::number("spec.rateLimit.burst", *burst, &range)?;
    if *per_ip_per_second == 0 && *limit != RateLimit::default() {
        return Err(invalid("spec.rateLimit", RATE_RULE));
    }
    for (at, text) in trusted_proxies.iter().enumerate() {
        if !is_network(text) {
            return Err(invalid(
                format!("spec.rateLimit.trustedProxies[{at}]"),
                format!("{text} is not an address or a network such as 10.0.0.0/8"),
            ));
        }
    }
    Ok(())
}

/// Whether `text` is an address, or one with the length of a prefix.
fn is_network(text: &str) -> bool {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    prefix.is_none_or(|prefix| prefix.parse::<u8>().is_ok_and(|prefix| prefix <= bits))
}

pub(super) fn check_log(log: &Log) -> Result<(), Invalid> {
    match tracing_filter(&log.level) {
        Ok(_) => Ok(()),
        Err(_) => Err(invalid(
            "spec.log.level",
            format!(
                "{} is neither a level such as info nor a filter such as info,tile_proxy=debug",
                log.level
            ),
        )),
    }
}

pub(super) fn valid_network_policy(
    policy: NetworkPolicySpec,
    operator: Option<&NetworkPolicyPeer>,
) -> Option<ValidNetworkPolicy> {
    let NetworkPolicySpec {
        enabled,
        allow_from: clients,
        allow_admin_from: mut admins,
    } = policy;
    admins.extend(operator.cloned());
    enabled.then_some(ValidNetworkPolicy { clients, admins })
}

pub(super) fn valid_monitoring(
    monitoring: Monitoring,
) -> Result<Option<ValidServiceMonitor>, Invalid> {
    let Monitoring {
        service_monitor:
            ServiceMonitorOptions {
                enabled,
                interval,
                labels,
            },
    } = monitoring;
    units::interval(
        "spec.monitoring.serviceMonitor.interval",
        &interval,
        5..=3600,
    )?;
    check_labels("spec.monitoring.serviceMonitor.labels", &labels)?;
    Ok(enabled.then_some(ValidServiceMonitor { interval, labels }))
}

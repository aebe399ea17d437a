//! Where and how pods run.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, ResourceRequirements, SecurityContext, Toleration, TopologySpreadConstraint,
};
use tile_proxy::config::ENVIRONMENT_PREFIX;
use url::Url;

use super::{Invalid, invalid, units};
use crate::{
    controller::names::RESERVED_PREFIXES,
    crd::{EgressProxy, PROXY_RULE, PodSecurity, PullSecret},
};

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
    /// How replicas are spread.
    pub topology_spread: Vec<TopologySpreadConstraint>,
    /// PriorityClass; empty is the cluster's default.
    pub priority_class: String,
    /// Annotations beside our own.
    pub annotations: BTreeMap<String, String>,
    /// Labels beside our own.
    pub labels: BTreeMap<String, String>,
    /// As whom they run.
    pub security: PodSecurity,
    /// What containers may do, over what is set anyway.
    pub container_security: SecurityContext,
    /// ServiceAccount; empty is our own.
    pub service_account: String,
    /// Time a replica has to stop, in seconds.
    pub grace_seconds: i64,
    /// Environment of replicas.
    pub env: Vec<EnvVar>,
}

/// Checks labels that users add to ours.
pub(super) fn check_labels(field: &str, labels: &BTreeMap<String, String>) -> Result<(), Invalid> {
    for (key, value) in labels {
        let field = format!("{field}[{key}]");
        if RESERVED_PREFIXES.iter().any(|p| key.starts_with(p)) {
            return Err(invalid(field, "is set by the operator; choose another key"));
        }
        if !units::is_key(key) {
            return Err(invalid(field, KEY_RULE));
        }
        if !units::is_label_value(value) {
            let message = "must have a value of at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends";
            return Err(invalid(field, message));
        }
    }
    Ok(())
}

const KEY_RULE: &str = "must be a key such as team or example.com/team";

/// Checks annotations that users add to ours.
pub(super) fn check_annotations(
    field: &str,
    annotations: &BTreeMap<String, String>,
) -> Result<(), Invalid> {
    match annotations.keys().find(|key| !units::is_key(key)) {
        Some(key) => Err(invalid(format!("{field}[{key}]"), KEY_RULE)),
        None => Ok(()),
    }
}

/// Checks that each constraint has a key of its own, by which the API server tells them apart.
pub(super) fn check_spread(constraints: &[TopologySpreadConstraint]) -> Result<(), Invalid> {
    let mut seen = BTreeSet::new();
    for (at, constraint) in constraints.iter().enumerate() {
        let (topology, otherwise) = (&constraint.topology_key, &constraint.when_unsatisfiable);
        if !seen.insert((topology, otherwise)) {
            let field = format!("spec.topologySpreadConstraints[{at}]");
            let message = format!(
                "there is one already with topologyKey {topology} and whenUnsatisfiable {otherwise}"
            );
            return Err(invalid(field, message));
        }
    }
    Ok(())
}

/// The Secrets to pull images with, each once.
pub(super) fn valid_pull_secrets(secrets: Vec<PullSecret>) -> Result<Vec<String>, Invalid> {
    let mut names = Vec::with_capacity(secrets.len());
    for (at, PullSecret { name }) in secrets.into_iter().enumerate() {
        if names.contains(&name) {
            let field = format!("spec.imagePullSecrets[{at}].name");
            return Err(invalid(field, format!("{name} is there already")));
        }
        names.push(name);
    }
    Ok(names)
}

/// The environment of replicas: a forward proxy, and what the spec adds.
pub(super) fn valid_env(proxy: EgressProxy, extra: Vec<EnvVar>) -> Result<Vec<EnvVar>, Invalid> {
    let EgressProxy {
        https_proxy,
        no_proxy,
    } = proxy;
    let is_proxy = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
    };
    if !https_proxy.is_empty() && !Url::parse(&https_proxy).is_ok_and(|url| is_proxy(&url)) {
        return Err(invalid("spec.proxy.httpsProxy", PROXY_RULE));
    }
    let of = |name: &str, value: String| {
        (!value.is_empty()).then(|| EnvVar {
            name: name.to_owned(),
            value: Some(value),
            value_from: None,
        })
    };
    let mut env: Vec<EnvVar> = [of("HTTPS_PROXY", https_proxy), of("NO_PROXY", no_proxy)]
        .into_iter()
        .flatten()
        .collect();
    let mut names: BTreeSet<String> = env.iter().map(|var| var.name.clone()).collect();
    for (at, var) in extra.into_iter().enumerate() {
        let field = format!("spec.extraEnv[{at}].name");
        if var.name.is_empty() || var.name.contains('=') || var.name.contains(char::is_control) {
            return Err(invalid(field, "must be the name of a variable"));
        }
        if var
            .name
            .to_ascii_uppercase()
            .starts_with(ENVIRONMENT_PREFIX)
        {
            return Err(invalid(
                field,
                format!("{ENVIRONMENT_PREFIX}… is configuration: use the fields of this resource"),
            ));
        }
        if !names.insert(var.name.clone()) {
            return Err(invalid(field, format!("{} is set already", var.name)));
        }
        env.push(var);
    }
    Ok(env)
}

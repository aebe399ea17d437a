//! From a valid TileProxy to the objects it needs. Pure: no client, no clock, no randomness; the
//! same input gives the same bytes.
//!
//! One file per kind of child. The Secret with the admin token is not here, because it is random:
//! [`apply`](mod@crate::controller::apply) creates it once and never writes it again.

mod claim;
mod config_map;
mod cron_job;
mod deployment;
mod disruption_budget;
mod network_policy;
mod peers;
mod pod;
mod reference;
mod service;
mod service_monitor;

use std::{collections::BTreeMap, marker::PhantomData};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::CronJob,
        core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::validate::ValidProxy;

#[cfg(test)]
pub(super) use self::config_map::config;
pub use self::{
    claim::{
        ClaimPlan, UnusedClaim, capacity, is_bound, plan as plan_claim,
        plan_unused as plan_unused_claim, requested, requested_text,
    },
    config_map::{TOKEN_FILE, keep_files_in_use},
    reference::{Kind, Reference, references, secrets},
    service_monitor::ServiceMonitor,
};

/// Port of clients.
pub const CLIENT_PORT: i32 = 8080;

/// Port of administration, metrics, probes and peers.
pub const ADMIN_PORT: i32 = 8081;

/// Built, but not yet ordered by a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared;

/// What may be applied now: every other replica is left as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Allowed;

/// As the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied;

/// Every child of one TileProxy, except the Secret. `State` says how far it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Resources<State> {
    /// One per replica, by ordinal; none with an ephemeral cache. In no sweep: [`plan_unused_claim`]
    /// alone says what may go.
    pub claims: Vec<PersistentVolumeClaim>,
    /// The proxy's configuration, and the list of replicas.
    pub config_maps: Vec<ConfigMap>,
    /// The sync, if there is one.
    pub cron_jobs: Vec<CronJob>,
    /// One per replica, by ordinal.
    pub deployments: Vec<Deployment>,
    /// With more than one replica.
    pub disruption_budgets: Vec<PodDisruptionBudget>,
    /// Who may reach the replicas, if that is said.
    pub network_policies: Vec<NetworkPolicy>,
    /// What pods run as.
    pub service_accounts: Vec<ServiceAccount>,
    /// How the replicas are watched, if they are. A cluster may not know the kind.
    pub service_monitors: Vec<ServiceMonitor>,
    /// One for clients, one per replica.
    pub services: Vec<Service>,
    /// How far it came.
    pub state: PhantomData<State>,
}

/// Builds every child of `proxy`.
pub fn build(proxy: &ValidProxy) -> Resources<Prepared> {
    let ordinals = 0..proxy.replicas;
    let configuration = config_map::rendered(proxy);
    Resources {
        claims: ordinals
            .clone()
            .filter(|_| !proxy.cache.ephemeral)
            .map(|ordinal| claim::claim(proxy, ordinal))
            .collect(),
        config_maps: vec![
            config_map::config_map(proxy, &configuration),
            peers::list(proxy),
        ],
        cron_jobs: proxy
            .sync
            .enabled
            .then(|| cron_job::sync(proxy))
            .into_iter()
            .collect(),
        deployments: ordinals
            .clone()
            .map(|ordinal| deployment::replica(proxy, ordinal, &configuration))
            .collect(),
        disruption_budgets: disruption_budget::replicas(proxy).into_iter().collect(),
        network_policies: network_policy::replicas(proxy).into_iter().collect(),
        service_accounts: vec![service_account(proxy)],
        service_monitors: service_monitor::replicas(proxy).into_iter().collect(),
        services: std::iter::once(service::clients(proxy))
            .chain(ordinals.map(|ordinal| service::replica(proxy, ordinal)))
            .collect(),
        state: PhantomData,
    }
}

/// What pods run as: an identity without a token, because they never talk to the API server. It is
/// there, too, while pods run as one of the user's: it does nothing, and is ready when it is wanted.
fn service_account(proxy: &ValidProxy) -> ServiceAccount {
    ServiceAccount {
        metadata: child_meta(proxy, proxy.names.service_account()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// Metadata of a child that goes when `proxy` goes.
fn child_meta(proxy: &ValidProxy, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(proxy.names.namespace.clone()),
        labels: Some(proxy.names.selector()),
        owner_references: Some(vec![proxy.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// `None` for what is empty: server-side apply then owns nothing there.
fn non_empty(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}

/// The hex SHA-256 of the JSON form of `value`. Keys are sorted, so equal values have equal digests.
pub(super) fn digest(value: &impl Serialize) -> String {
    // Children are plain data, which always has a JSON form.
    let tree = serde_json::to_value(value).unwrap_or_default();
    hex::encode(Sha256::digest(tree.to_string()))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod upgrade;

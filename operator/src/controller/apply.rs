//! Writes what a rollout allows, in an order in which no pod starts against yesterday's
//! configuration, and removes what is no longer wanted.
//!
//! Children are written by server-side apply, forced, under one field manager: edits by others to
//! what we own are undone, and what we do not own is left alone. An object with a child's name that
//! we do not control is never written: it is reported as a conflict, and pods that would use it are
//! not started.
//!
//! An edit that contradicts what we own, so that the API server refuses the two together, is replaced as
//! a whole.
//!
//! A child that the API server refuses does not keep the others from being written; only an API
//! server that cannot answer ends an apply early.
//!
//! A settled TileProxy costs no write: what is unchanged since we last applied the same to it is
//! skipped. Forgetting that, as a restart does, costs one idempotent write per child.

mod claims;
mod memory;
mod overrule;
mod secret;
mod writer;

use std::{collections::BTreeSet, marker::PhantomData};

use k8s_openapi::api::batch::v1::CronJob;
use kube::{Client, Resource, ResourceExt, api::PostParams};

pub use self::{memory::Memory, secret::create_admin_secret};

use self::writer::Writer;
use super::{
    answer,
    build::{Applied, Resources},
    names::MANAGER,
    observe::{Existing, find},
    rollout::{Step, is_ready, same_template, withhold},
    validate::ValidProxy,
};
use crate::admin::Metrics;

/// A call that failed. Every one of them can be repeated.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {kind} {name}: {}", answer(source))]
pub struct ApplyError {
    verb: &'static str,
    kind: String,
    name: String,
    source: kube::Error,
}

impl ApplyError {
    /// `verb` on `child` failed with `source`.
    pub(super) fn new<K>(verb: &'static str, child: &K, source: kube::Error) -> Self
    where
        K: Resource<DynamicType = ()>,
    {
        Self::of::<K>(verb, &child.name_any(), source)
    }

    /// `verb` on the object `name` failed with `source`.
    pub(super) fn of<K>(verb: &'static str, name: &str, source: kube::Error) -> Self
    where
        K: Resource<DynamicType = ()>,
    {
        Self {
            verb,
            kind: K::kind(&()).into_owned(),
            name: name.to_owned(),
            source,
        }
    }

    /// Whether the API server refused for lack of rights.
    pub fn is_forbidden(&self) -> bool {
        matches!(&self.source, kube::Error::Api(status) if status.is_forbidden())
    }

    /// Whether the API server refused this one object, so that others may still go through.
    pub fn is_refusal(&self) -> bool {
        let kube::Error::Api(status) = &self.source else {
            return false;
        };
        // Of an object that does not fit its schema, an older one perhaps, the API server says that it
        // has made the mistake itself.
        if status.code == 500 && status.message.starts_with(NO_OBJECT) {
            return true;
        }
        // Who we are (401), too slow (408) and too many (429) concern every call alike.
        (400..500).contains(&status.code)
            && !matches!(status.code, 401 | 408 | 429)
            && !self.namespace_is_terminating()
    }

    /// Whether the namespace is going away, so that nothing can be created in it.
    pub fn namespace_is_terminating(&self) -> bool {
        let kube::Error::Api(status) = &self.source else {
            return false;
        };
        let causes = status
            .details
            .as_ref()
            .map(|details| details.causes.as_slice());
        causes
            .unwrap_or_default()
            .iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
    }
}

/// How the API server begins when an apply has a field that its schema does not know, or twice the same
/// key in a list.
const NO_OBJECT: &str = "failed to create typed patch object";

/// What applying came to.
#[derive(Debug)]
pub struct Outcome {
    /// Every child as the API server has it now, replicas that were held back included.
    pub resources: Resources<Applied>,
    /// Deployments that do not run the spec yet, because it is not their turn or could not be.
    pub held: BTreeSet<String>,
    /// Objects that are in the way, and what to do about each.
    pub conflicts: Vec<String>,
    /// Volumes that the API server would not grow, and why.
    pub refused_growth: Vec<String>,
    /// Children of a kind that the cluster does not know.
    pub unknown_kinds: Vec<String>,
    /// Objects of others that pods need and that are not there, as far as the operator may look.
    pub missing: Vec<String>,
    /// The call that ended the apply early, or else the first that was refused. What was written
    /// stays, and all of it is repeated next time.
    pub failure: Option<ApplyError>,
}

impl Outcome {
    /// Whether `replicas` replicas run the spec and serve.
    pub fn is_settled(&self, replicas: u16) -> bool {
        let ready = self.resources.deployments.iter().filter(|d| is_ready(d));
        ready.count() == usize::from(replicas) && self.held.is_empty()
    }
}

/// Applies `step` and sweeps orphans, as far as the API server lets us.
pub async fn apply(
    client: &Client,
    memory: &Memory,
    metrics: &Metrics,
    proxy: &ValidProxy,
    step: Step,
    existing: &Resources<Existing>,
) -> Outcome {
    // No `..`: a new kind of child does not compile until it is applied here.
    let Step {
        resources:
            Resources {
                claims,
                config_maps,
                cron_jobs,
                deployments,
                disruption_budgets,
                network_policies,
                service_accounts,
                service_monitors,
                services,
                state: PhantomData,
            },
        mut held,
    } = step;
    let mut writer = Writer {
        client,
        memory,
        metrics,
        proxy,
        unwritten: BTreeSet::new(),
        conflicts: Vec::new(),
        refused_growth: Vec::new(),
        unknown_kinds: Vec::new(),
        failure: None,
    };

    // What pods refer to comes before them; what refers to pods comes before them too, so that a
    // replica has its name by the time it starts. Workloads come last.
    let service_accounts = writer
        .children(service_accounts, &existing.service_accounts)
        .await;
    let config_maps = writer.children(config_maps, &existing.config_maps).await;
    let lacks_shared = !writer.unwritten.is_empty();
    let services = writer.children(services, &existing.services).await;
    let claims = writer.claims(claims, &existing.claims).await;
    let disruption_budgets = writer
        .children(disruption_budgets, &existing.disruption_budgets)
        .await;
    let network_policies = writer
        .children(network_policies, &existing.network_policies)
        .await;
    let wanted: Vec<String> = deployments
        .iter()
        .map(ResourceExt::name_any)
        .chain(held.iter().cloned())
        .collect();
    let allowed = withhold(deployments, &existing.deployments, &mut held, |replica| {
        let lacks_claim = !proxy.cache.ephemeral && find(&claims, replica).is_none();
        lacks_shared || lacks_claim
    });
    let mut deployments = writer.deployments(allowed, existing, &mut held).await;
    let left = existing.deployments.iter().filter(|deployment| {
        let name = deployment.name_any();
        wanted.contains(&name) && find(&deployments, &name).is_none()
    });
    deployments.extend(left.cloned().collect::<Vec<_>>());
    let cron_jobs = if lacks_shared {
        let wanted = |job: &&CronJob| find(&cron_jobs, &job.name_any()).is_some();
        existing.cron_jobs.iter().filter(wanted).cloned().collect()
    } else {
        writer.children(cron_jobs, &existing.cron_jobs).await
    };

    let service_monitors = writer
        .children_if_known(service_monitors, &existing.service_monitors)
        .await;

    writer.sweep(&cron_jobs, &existing.cron_jobs).await;
    writer.sweep(&deployments, &existing.deployments).await;
    writer.sweep(&services, &existing.services).await;
    writer
        .sweep(&disruption_budgets, &existing.disruption_budgets)
        .await;
    writer
        .sweep(&network_policies, &existing.network_policies)
        .await;
    writer
        .sweep(&service_monitors, &existing.service_monitors)
        .await;
    writer
        .unused_claims(&existing.claims, &existing.deployments)
        .await;

    let Writer {
        conflicts,
        refused_growth,
        unknown_kinds,
        failure,
        ..
    } = writer;
    let resources = Resources {
        claims,
        config_maps,
        cron_jobs,
        deployments,
        disruption_budgets,
        network_policies,
        service_accounts,
        service_monitors,
        services,
        state: PhantomData,
    };
    Outcome {
        resources,
        held,
        conflicts,
        refused_growth,
        unknown_kinds,
        missing: Vec::new(),
        failure,
    }
}

/// What a paused TileProxy comes to: everything stays as it is.
pub fn leave(proxy: &ValidProxy, step: Step, existing: Resources<Existing>) -> Outcome {
    let Step {
        resources: Resources {
            deployments: desired,
            ..
        },
        mut held,
    } = step;
    // What could change now does not either.
    held.extend(desired.iter().filter_map(|desired| {
        let found = find(&existing.deployments, &desired.name_any())?;
        (!same_template(desired, found)).then(|| desired.name_any())
    }));
    let wanted: Vec<String> = (0..proxy.replicas)
        .map(|n| proxy.names.replica(n))
        .collect();
    let Resources {
        mut claims,
        config_maps,
        cron_jobs,
        mut deployments,
        disruption_budgets,
        network_policies,
        service_accounts,
        service_monitors,
        services,
        state: PhantomData,
    } = existing;
    claims.retain(|claim| !proxy.cache.ephemeral && wanted.contains(&claim.name_any()));
    deployments.retain(|deployment| wanted.contains(&deployment.name_any()));
    Outcome {
        resources: Resources {
            claims,
            config_maps,
            cron_jobs,
            deployments,
            disruption_budgets,
            network_policies,
            service_accounts,
            service_monitors,
            services,
            state: PhantomData,
        },
        held,
        conflicts: Vec::new(),
        refused_growth: Vec::new(),
        unknown_kinds: Vec::new(),
        missing: Vec::new(),
        failure: None,
    }
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::json;

    use super::*;

    fn refused(code: u16, cause: &str) -> ApplyError {
        let message = format!("{cause} (logs/rome): no");
        let status =
            json!({"code": code, "message": message, "details": {"causes": [{"reason": cause}]}});
        let status = serde_json::from_value(status).expect("a Status");
        let source = kube::Error::Api(Box::new(status));
        ApplyError::new("apply", &Deployment::default(), source)
    }

    #[test]
    fn a_refused_object_does_not_keep_the_others_from_being_written() {
        for (code, cause, want) in [
            (422, "FieldValueInvalid", true),
            (403, "", true), // one kind may be missing from the role
            (409, "", true), // another object took its place meanwhile
            (403, "NamespaceTerminating", false),
            (401, "", false),
            (429, "", false),
            (500, "", false),
            (500, NO_OBJECT, true),
        ] {
            assert_eq!(refused(code, cause).is_refusal(), want, "{code} {cause}");
        }
    }
}

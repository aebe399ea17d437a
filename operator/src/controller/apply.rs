//! Writes what a rollout allows, in an order in which no pod starts against yesterday's
//! configuration, and removes what is no longer wanted.
//!
//! Children are written by server-side apply, forced, under one field manager: edits by others to
//! what we own are undone, and what we do not own is left alone. An object with a child's name that
//! we do not control is never written: it is reported as a conflict.
//!
//! A settled TileProxy costs no write: what is unchanged since we last applied the same to it is
//! skipped. Forgetting that, as a restart does, costs one idempotent write per child.

mod memory;
mod secret;

use std::{collections::BTreeSet, fmt::Debug, marker::PhantomData};

use k8s_openapi::{NamespaceResourceScope, api::core::v1::PersistentVolumeClaim};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use tracing::info;

pub use self::{memory::Memory, secret::create_admin_secret};

use super::{
    answer,
    build::{self, Applied, ClaimPlan, Resources},
    names::MANAGER,
    observe::{Existing, find, is_controlled_by},
    rollout::{Step, same_template},
    validate::ValidProxy,
};
use crate::admin::Metrics;

/// A write that failed. Every one of them can be repeated.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {kind} {name}: {}", answer(source))]
pub struct ApplyError {
    verb: &'static str,
    kind: String,
    name: String,
    source: kube::Error,
}

impl ApplyError {
    /// Whether the API server refused for lack of rights.
    pub fn is_forbidden(&self) -> bool {
        matches!(&self.source, kube::Error::Api(status) if status.is_forbidden())
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

/// What applying came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Every child as the API server has it now, replicas that were held back included.
    pub resources: Resources<Applied>,
    /// Deployments that do not run the spec yet, because it is not their turn.
    pub held: BTreeSet<String>,
    /// Objects that are in the way, and what to do about each.
    pub conflicts: Vec<String>,
    /// Volumes that the API server would not grow, and why.
    pub refused_growth: Vec<String>,
}

/// Applies `step` and sweeps orphans.
///
/// # Errors
/// The first write that failed; those before it stay, and all are repeated next time.
pub async fn apply(
    client: &Client,
    memory: &Memory,
    metrics: &Metrics,
    proxy: &ValidProxy,
    step: Step,
    existing: &Resources<Existing>,
) -> Result<Outcome, ApplyError> {
    // No `..`: a new kind of child does not compile until it is applied here.
    let Step {
        resources:
            Resources {
                claims,
                config_maps,
                cron_jobs,
                deployments,
                disruption_budgets,
                service_accounts,
                services,
                state: PhantomData,
            },
        held,
    } = step;
    let mut writer = Writer {
        client,
        memory,
        metrics,
        proxy,
        conflicts: Vec::new(),
        refused_growth: Vec::new(),
    };

    // What pods refer to comes before them; what refers to pods comes before them too, so that a
    // replica has its name by the time it starts. Workloads come last.
    let service_accounts = writer
        .children(service_accounts, &existing.service_accounts)
        .await?;
    let config_maps = writer.children(config_maps, &existing.config_maps).await?;
    let services = writer.children(services, &existing.services).await?;
    let mut applied_claims = Vec::new();
    for claim in claims {
        applied_claims.extend(writer.claim(claim, &existing.claims).await?);
    }
    let disruption_budgets = writer
        .children(disruption_budgets, &existing.disruption_budgets)
        .await?;
    let mut deployments = writer.children(deployments, &existing.deployments).await?;
    deployments.extend(
        existing
            .deployments
            .iter()
            .filter(|d| held.contains(&d.name_any()))
            .cloned(),
    );
    let cron_jobs = writer.children(cron_jobs, &existing.cron_jobs).await?;

    writer.sweep(&cron_jobs, &existing.cron_jobs).await?;
    writer.sweep(&deployments, &existing.deployments).await?;
    writer.sweep(&services, &existing.services).await?;
    writer
        .sweep(&disruption_budgets, &existing.disruption_budgets)
        .await?;

    let Writer {
        conflicts,
        refused_growth,
        ..
    } = writer;
    let resources = Resources {
        claims: applied_claims,
        config_maps,
        cron_jobs,
        deployments,
        disruption_budgets,
        service_accounts,
        services,
        state: PhantomData,
    };
    Ok(Outcome {
        resources,
        held,
        conflicts,
        refused_growth,
    })
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
        let name = desired.name_any();
        let found = find(&existing.deployments, &name)?;
        (!same_template(desired, found)).then_some(name)
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
        service_accounts,
        services,
        state: PhantomData,
    } = existing;
    claims.retain(|claim| wanted.contains(&claim.name_any()));
    deployments.retain(|deployment| wanted.contains(&deployment.name_any()));
    Outcome {
        resources: Resources {
            claims,
            config_maps,
            cron_jobs,
            deployments,
            disruption_budgets,
            service_accounts,
            services,
            state: PhantomData,
        },
        held,
        conflicts: Vec::new(),
        refused_growth: Vec::new(),
    }
}

struct Writer<'a> {
    client: &'a Client,
    memory: &'a Memory,
    metrics: &'a Metrics,
    proxy: &'a ValidProxy,
    conflicts: Vec<String>,
    refused_growth: Vec<String>,
}

/// Anything we write: namespaced, known at compile time, and with a JSON form.
trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
{
}

impl<K> Child for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
{
}

impl Writer<'_> {
    fn api<K: Child>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.proxy.names.namespace)
    }

    async fn children<K: Child>(
        &mut self,
        desired: Vec<K>,
        existing: &[K],
    ) -> Result<Vec<K>, ApplyError> {
        let mut applied = Vec::with_capacity(desired.len());
        for child in desired {
            applied.extend(self.child(child, existing).await?);
        }
        Ok(applied)
    }

    /// Applies one child. `None` if someone else's object is in its place.
    async fn child<K: Child>(
        &mut self,
        mut desired: K,
        existing: &[K],
    ) -> Result<Option<K>, ApplyError> {
        let api = self.api::<K>();
        let name = desired.name_any();
        let found = match find(existing, &name) {
            Some(found) => Some(found.clone()),
            // Not among ours: it is missing, or it is not ours.
            None => api
                .get_opt(&name)
                .await
                .map_err(|e| failed("read", &desired, e))?,
        };
        let digest = build::digest(&desired);
        let key = format!("{}/{}/{name}", K::kind(&()), self.proxy.names.namespace);
        if let Some(found) = &found {
            if !is_controlled_by(found, &self.proxy.owner.uid) {
                self.conflicts.push(format!(
                    "{} {name} belongs to {}; delete or rename it, or rename this TileProxy",
                    K::kind(&()),
                    owner_of(found),
                ));
                return Ok(None);
            }
            if self.memory.is(&key, found, &digest) {
                return Ok(Some(found.clone()));
            }
            // The uid makes the write fail if another object took this one's place meanwhile.
            desired.meta_mut().uid.clone_from(&found.meta().uid);
        }
        let params = PatchParams::apply(MANAGER).force();
        let applied = api
            .patch(&name, &params, &Patch::Apply(&desired))
            .await
            .map_err(|e| failed("apply", &desired, e))?;
        if found.and_then(|found| found.resource_version()) != applied.resource_version() {
            info!(kind = %K::kind(&()), name, namespace = self.proxy.names.namespace, "applied");
        }
        self.metrics.applied(&K::kind(&()), "apply");
        self.memory.remember(key, &applied, digest);
        Ok(Some(applied))
    }

    /// Creates or grows one claim; never anything else.
    async fn claim(
        &mut self,
        desired: PersistentVolumeClaim,
        existing: &[PersistentVolumeClaim],
    ) -> Result<Option<PersistentVolumeClaim>, ApplyError> {
        let api = self.api::<PersistentVolumeClaim>();
        let name = desired.name_any();
        let found = match find(existing, &name) {
            Some(found) => Some(found.clone()),
            None => api
                .get_opt(&name)
                .await
                .map_err(|e| failed("read", &desired, e))?,
        };
        match build::plan_claim(&desired, found.as_ref()) {
            ClaimPlan::Conflict(why) => {
                self.conflicts
                    .push(format!("PersistentVolumeClaim {name}: {why}"));
                Ok(None)
            }
            ClaimPlan::Create => {
                let created = api.create(&post(), &desired).await;
                let created = created.map_err(|e| failed("create", &desired, e))?;
                info!(
                    kind = "PersistentVolumeClaim",
                    name,
                    namespace = self.proxy.names.namespace,
                    "created"
                );
                self.metrics.applied("PersistentVolumeClaim", "create");
                Ok(Some(created))
            }
            ClaimPlan::Keep => Ok(found),
            ClaimPlan::Patch(patch) => {
                let params = PatchParams {
                    field_manager: Some(MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                match api.patch(&name, &params, &Patch::Merge(&patch)).await {
                    Ok(patched) => {
                        info!(
                            kind = "PersistentVolumeClaim",
                            name,
                            namespace = self.proxy.names.namespace,
                            "patched"
                        );
                        self.metrics.applied("PersistentVolumeClaim", "patch");
                        Ok(Some(patched))
                    }
                    // Admission says so when the class cannot expand; a missing right reads
                    // differently and is an error.
                    Err(kube::Error::Api(status))
                        if status.is_forbidden()
                            && !status.message.contains("cannot patch resource") =>
                    {
                        self.refused_growth.push(status.message.clone());
                        Ok(found)
                    }
                    Err(source) => Err(failed("patch", &desired, source)),
                }
            }
        }
    }

    /// Deletes those of `existing` that are not among `wanted`. Claims have no such step.
    async fn sweep<K: Child>(&self, wanted: &[K], existing: &[K]) -> Result<(), ApplyError> {
        for orphan in existing {
            let name = orphan.name_any();
            if find(wanted, &name).is_some() || orphan.meta().deletion_timestamp.is_some() {
                continue;
            }
            let params = DeleteParams::background().preconditions(Preconditions {
                uid: orphan.uid(),
                resource_version: None,
            });
            match self.api::<K>().delete(&name, &params).await {
                Ok(_) => {
                    info!(kind = %K::kind(&()), name, namespace = self.proxy.names.namespace, "deleted");
                    self.metrics.applied(&K::kind(&()), "delete");
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(source) => return Err(failed("delete", orphan, source)),
            }
        }
        Ok(())
    }
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

fn failed<K: Child>(verb: &'static str, child: &K, source: kube::Error) -> ApplyError {
    ApplyError {
        verb,
        kind: K::kind(&()).into_owned(),
        name: child.name_any(),
        source,
    }
}

fn owner_of<K: Child>(object: &K) -> String {
    let owners = object.owner_references().iter();
    match owners
        .clone()
        .find(|o| o.controller == Some(true))
        .or_else(|| owners.clone().next())
    {
        Some(owner) => format!("{} {}", owner.kind, owner.name),
        None => "someone else".to_owned(),
    }
}

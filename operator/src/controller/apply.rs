//! Writes what a rollout allows, in an order in which no pod starts against yesterday's
//! configuration, and removes what is no longer wanted.
//!
//! Children are written by server-side apply, forced, under one field manager: edits by others to
//! what we own are undone, and what we do not own is left alone. An object with a child's name that
//! we do not control is never written: it is reported as a conflict, and pods that would use it are
//! not started.
//!
//! A child that the API server refuses does not keep the others from being written; only an API
//! server that cannot answer ends an apply early.
//!
//! A settled TileProxy costs no write: what is unchanged since we last applied the same to it is
//! skipped. Forgetting that, as a restart does, costs one idempotent write per child.

mod memory;
mod secret;

use std::{collections::BTreeSet, fmt::Debug, marker::PhantomData};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::Deployment, batch::v1::CronJob, core::v1::PersistentVolumeClaim},
};
use kube::{
    Api, Client, Resource, ResourceExt,
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
    rollout::{Step, is_ready, runs, same_template, withhold},
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
        Self {
            verb,
            kind: K::kind(&()).into_owned(),
            name: child.name_any(),
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
    /// The first call that failed. What was written stays, and all of it is repeated next time.
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
                service_accounts,
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
    let wanted: Vec<String> = deployments
        .iter()
        .map(ResourceExt::name_any)
        .chain(held.iter().cloned())
        .collect();
    let allowed = withhold(deployments, &existing.deployments, &mut held, |replica| {
        lacks_shared || find(&claims, replica).is_none()
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

    writer.sweep(&cron_jobs, &existing.cron_jobs).await;
    writer.sweep(&deployments, &existing.deployments).await;
    writer.sweep(&services, &existing.services).await;
    writer
        .sweep(&disruption_budgets, &existing.disruption_budgets)
        .await;

    let Writer {
        conflicts,
        refused_growth,
        failure,
        ..
    } = writer;
    let resources = Resources {
        claims,
        config_maps,
        cron_jobs,
        deployments,
        disruption_budgets,
        service_accounts,
        services,
        state: PhantomData,
    };
    Outcome {
        resources,
        held,
        conflicts,
        refused_growth,
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
        failure: None,
    }
}

struct Writer<'a> {
    client: &'a Client,
    memory: &'a Memory,
    metrics: &'a Metrics,
    proxy: &'a ValidProxy,
    unwritten: BTreeSet<String>, // names of children, of any kind, that were not written
    conflicts: Vec<String>,
    refused_growth: Vec<String>,
    failure: Option<ApplyError>, // the first
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

    /// Whether the rest would fail as well.
    fn has_stopped(&self) -> bool {
        self.failure.as_ref().is_some_and(|e| !e.is_refusal())
    }

    fn fail(&mut self, error: ApplyError) {
        // One that stops everything says more than a refusal before it.
        if self.failure.as_ref().is_none_or(ApplyError::is_refusal) && !error.is_refusal() {
            self.failure = Some(error);
        } else {
            self.failure.get_or_insert(error);
        }
    }

    /// Applies children of one kind, and returns what there is of them then.
    async fn children<K: Child>(&mut self, desired: Vec<K>, existing: &[K]) -> Vec<K> {
        let mut there = Vec::with_capacity(desired.len());
        for child in desired {
            let name = child.name_any();
            let written = if self.has_stopped() {
                None
            } else {
                self.child(child, existing).await.unwrap_or_else(|error| {
                    self.fail(error);
                    None
                })
            };
            match written {
                Some(written) => there.push(written),
                None => {
                    there.extend(find(existing, &name).cloned());
                    self.unwritten.insert(name);
                }
            }
        }
        there
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
                .map_err(|e| ApplyError::new("read", &desired, e))?,
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
            .map_err(|e| ApplyError::new("apply", &desired, e))?;
        if found.and_then(|found| found.resource_version()) != applied.resource_version() {
            info!(kind = %K::kind(&()), name, namespace = self.proxy.names.namespace, "applied");
        }
        self.metrics.applied(&K::kind(&()), "apply");
        self.memory.remember(key, &applied, digest);
        Ok(Some(applied))
    }

    /// As [`children`](Self::children); what could not be written is also added to `held`, if it
    /// does not run the spec yet.
    async fn deployments(
        &mut self,
        desired: Vec<Deployment>,
        existing: &Resources<Existing>,
        held: &mut BTreeSet<String>,
    ) -> Vec<Deployment> {
        let there = self.children(desired.clone(), &existing.deployments).await;
        let behind = desired.iter().filter(|desired| !runs(&there, desired));
        held.extend(behind.map(ResourceExt::name_any));
        there
    }

    /// Creates or grows claims, and returns those there are then.
    async fn claims(
        &mut self,
        desired: Vec<PersistentVolumeClaim>,
        existing: &[PersistentVolumeClaim],
    ) -> Vec<PersistentVolumeClaim> {
        let mut there = Vec::with_capacity(desired.len());
        for claim in desired {
            // Ours by its labels, and usable although it could not be grown.
            let found = find(existing, &claim.name_any()).cloned();
            if self.has_stopped() {
                there.extend(found);
                continue;
            }
            match self.claim(claim, existing).await {
                Ok(claim) => there.extend(claim),
                Err(error) => {
                    self.fail(error);
                    there.extend(found);
                }
            }
        }
        there
    }

    /// Creates or grows one claim; never anything else. `None` if someone else's is in its place.
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
                .map_err(|e| ApplyError::new("read", &desired, e))?,
        };
        match build::plan_claim(&desired, found.as_ref()) {
            ClaimPlan::Conflict(why) => {
                self.conflicts
                    .push(format!("PersistentVolumeClaim {name}: {why}"));
                Ok(None)
            }
            ClaimPlan::Create => {
                let created = api.create(&post(), &desired).await;
                let created = created.map_err(|e| ApplyError::new("create", &desired, e))?;
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
                    Err(source) => Err(ApplyError::new("patch", &desired, source)),
                }
            }
        }
    }

    /// Deletes those of `existing` that are not among `wanted`. Claims have no such step.
    async fn sweep<K: Child>(&mut self, wanted: &[K], existing: &[K]) {
        for orphan in existing {
            let name = orphan.name_any();
            let going = orphan.meta().deletion_timestamp.is_some();
            if find(wanted, &name).is_some() || going || self.has_stopped() {
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
                Err(source) => self.fail(ApplyError::new("delete", orphan, source)),
            }
        }
    }
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(code: u16, cause: &str) -> ApplyError {
        let status = json!({"code": code, "details": {"causes": [{"reason": cause}]}});
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
        ] {
            assert_eq!(refused(code, cause).is_refusal(), want, "{code} {cause}");
        }
    }
}

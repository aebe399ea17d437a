//! The calls that apply and delete children, one at a time.

use std::collections::BTreeSet;

use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Preconditions},
};
use tracing::info;

use super::{ApplyError, Memory, overrule::apply_at_last};
use crate::{
    admin::Metrics,
    controller::{
        build::{self, Resources},
        child::Child,
        observe::{Existing, find, is_controlled_by, is_unknown_kind},
        rollout::runs,
        validate::ValidProxy,
    },
};

/// Makes the calls of one apply, and notes what became of them.
pub(super) struct Writer<'a> {
    pub(super) client: &'a Client,
    pub(super) memory: &'a Memory,
    pub(super) metrics: &'a Metrics,
    pub(super) proxy: &'a ValidProxy,
    pub(super) unwritten: BTreeSet<String>, // names of children, of any kind, that were not written
    pub(super) conflicts: Vec<String>,
    pub(super) refused_growth: Vec<String>,
    pub(super) unknown_kinds: Vec<String>,
    pub(super) failure: Option<ApplyError>, // the first refusal, or what ended the apply
}

impl Writer<'_> {
    pub(super) fn api<K: Child>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.proxy.names.namespace)
    }

    /// Whether the rest would fail as well.
    pub(super) fn has_stopped(&self) -> bool {
        self.failure.as_ref().is_some_and(|e| !e.is_refusal())
    }

    pub(super) fn fail(&mut self, error: ApplyError) {
        // One that stops everything says more than a refusal before it.
        if self.failure.as_ref().is_none_or(ApplyError::is_refusal) && !error.is_refusal() {
            self.failure = Some(error);
        } else {
            self.failure.get_or_insert(error);
        }
    }

    /// Applies children of one kind, and returns what there is of them then.
    pub(super) async fn children<K: Child>(&mut self, desired: Vec<K>, existing: &[K]) -> Vec<K> {
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

    /// As [`children`](Self::children), for a kind that the cluster may not know: what cannot be
    /// written for that reason is noted, and nothing else waits for it.
    pub(super) async fn children_if_known<K: Child>(
        &mut self,
        desired: Vec<K>,
        existing: &[K],
    ) -> Vec<K> {
        let mut known = Vec::with_capacity(desired.len());
        for child in desired {
            if self.has_stopped() || !existing.is_empty() || self.is_known::<K>().await {
                known.push(child);
            } else {
                let kind = K::kind(&()).into_owned();
                self.unknown_kinds.push(kind);
            }
        }
        self.children(known, existing).await
    }

    /// Whether the API server has a list of this kind. What else may go wrong is told by the call that
    /// then fails.
    async fn is_known<K: Child>(&self) -> bool {
        let one = ListParams::default().limit(1);
        let answer = self.api::<K>().list_metadata(&one).await;
        !answer.is_err_and(|error| is_unknown_kind(&error))
    }

    /// The object with the name of `desired`, whoever it belongs to.
    pub(super) async fn found<K: Child>(
        &self,
        api: &Api<K>,
        desired: &K,
        existing: &[K],
    ) -> Result<Option<K>, ApplyError> {
        let name = desired.name_any();
        match find(existing, &name) {
            Some(found) => Ok(Some(found.clone())),
            // Not among ours: it is missing, or it is not ours.
            None => api
                .get_opt(&name)
                .await
                .map_err(|e| ApplyError::new("read", desired, e)),
        }
    }

    /// Applies one child. `None` if someone else's object is in its place.
    async fn child<K: Child>(
        &mut self,
        mut desired: K,
        existing: &[K],
    ) -> Result<Option<K>, ApplyError> {
        let api = self.api::<K>();
        let name = desired.name_any();
        let found = self.found(&api, &desired, existing).await?;
        let digest = build::digest(&desired);
        let key = format!("{}/{}/{name}", K::kind(&()), self.proxy.names.namespace);
        if let Some(found) = &found {
            if !is_controlled_by(found, &self.proxy.owner.uid) {
                let whose = whose(found, &self.proxy.owner);
                self.conflicts
                    .push(format!("{} {name} belongs to {whose}", K::kind(&())));
                return Ok(None);
            }
            if self.memory.is(&key, found, &digest) {
                return Ok(Some(found.clone()));
            }
            // The uid makes the write fail if another object took this one's place meanwhile.
            desired.meta_mut().uid.clone_from(&found.meta().uid);
        }
        let applied = apply_at_last(&api, &desired, found.as_ref())
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
    pub(super) async fn deployments(
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

    /// Deletes those of `existing` that are not among `wanted`. Claims have a step of their own.
    pub(super) async fn sweep<K: Child>(&mut self, wanted: &[K], existing: &[K]) {
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

/// Whose `object` is, as it is not that of `ours`, and what to do about it.
fn whose<K: Child>(object: &K, ours: &OwnerReference) -> String {
    let owners = object.owner_references().iter();
    let owner = owners
        .clone()
        .find(|o| o.controller == Some(true))
        .or_else(|| owners.clone().next());
    let owner = match owner {
        Some(owner) if (&owner.kind, &owner.name) == (&ours.kind, &ours.name) => {
            return "an earlier TileProxy of this name, until the garbage collector has removed it"
                .to_owned();
        }
        Some(owner) => format!("{} {}", owner.kind, owner.name),
        None => "someone else".to_owned(),
    };
    format!("{owner}; delete or rename it, or rename this TileProxy")
}

//! The calls that create, grow, hand over and, by policy alone, delete volume claims.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::PersistentVolumeClaim};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::Value;
use tracing::info;

use super::{ApplyError, post, writer::Writer};
use crate::{
    controller::{
        build::{self, ClaimPlan, UnusedClaim},
        names::MANAGER,
        observe::find,
    },
    crd::{RetentionPolicy, TileProxy},
};

const KIND: &str = "PersistentVolumeClaim";

impl Writer<'_> {
    /// Creates or grows claims, and returns those there are then.
    pub(super) async fn claims(
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

    /// Creates, grows or takes over one claim; never anything else. `None` if one is in its place
    /// that nothing may start with.
    async fn claim(
        &mut self,
        desired: PersistentVolumeClaim,
        existing: &[PersistentVolumeClaim],
    ) -> Result<Option<PersistentVolumeClaim>, ApplyError> {
        let api = self.api::<PersistentVolumeClaim>();
        let name = desired.name_any();
        let mut found = self.found(&api, &desired, existing).await?;
        let mut plan = build::plan_claim(self.proxy, &desired, found.as_ref());
        if let ClaimPlan::Own(patch) = plan {
            let owned = self.patch_claim(&desired, &patch).await;
            found = Some(owned.map_err(|e| ApplyError::new("patch", &desired, e))?);
            plan = build::plan_claim(self.proxy, &desired, found.as_ref());
        }
        match plan {
            ClaimPlan::Conflict(why) => {
                self.conflicts.push(format!("{KIND} {name}: {why}"));
                Ok(None)
            }
            ClaimPlan::Create => {
                let created = api.create(&post(), &desired).await;
                let created = created.map_err(|e| ApplyError::new("create", &desired, e))?;
                self.tell("create", &name);
                Ok(Some(created))
            }
            // Whoever undid at once what was just written gets the next turn.
            ClaimPlan::Keep | ClaimPlan::Own(_) => Ok(found),
            ClaimPlan::Leaving => Ok(None),
            ClaimPlan::Resize(patch) => match self.patch_claim(&desired, &patch).await {
                Ok(patched) => Ok(Some(patched)),
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
            },
        }
    }

    async fn patch_claim(
        &self,
        claim: &PersistentVolumeClaim,
        patch: &Value,
    ) -> Result<PersistentVolumeClaim, kube::Error> {
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let name = claim.name_any();
        let api = self.api::<PersistentVolumeClaim>();
        let patched = api.patch(&name, &params, &Patch::Merge(patch)).await?;
        self.tell("patch", &name);
        Ok(patched)
    }

    /// Carries out the retention policy on the claims of removed replicas: the only way by which this
    /// operator ever deletes a volume.
    pub(super) async fn unused_claims(
        &mut self,
        existing: &[PersistentVolumeClaim],
        replicas: &[Deployment],
    ) {
        for claim in existing {
            if self.has_stopped() {
                return;
            }
            let replica_exists = find(replicas, &claim.name_any()).is_some();
            let done = match build::plan_unused_claim(self.proxy, claim, replica_exists) {
                UnusedClaim::Delete => self.delete_claim(claim).await,
                UnusedClaim::Keep => Ok(()),
                UnusedClaim::Patch(patch) => self
                    .patch_claim(claim, &patch)
                    .await
                    .map(|_| ())
                    .map_err(|e| ApplyError::new("patch", claim, e)),
            };
            done.unwrap_or_else(|error| self.fail(error));
        }
    }

    async fn delete_claim(&self, claim: &PersistentVolumeClaim) -> Result<(), ApplyError> {
        let name = claim.name_any();
        if !self.is_still_unused(&name).await? {
            return Ok(()); // the change that says so causes the next reconcile
        }
        // This very claim, as it was when its labels and its recorded owner were read.
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: claim.uid(),
            resource_version: claim.resource_version(),
        });
        match self
            .api::<PersistentVolumeClaim>()
            .delete(&name, &params)
            .await
        {
            Ok(_) => {
                self.tell("delete", &name);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(source) => Err(ApplyError::new("delete", claim, source)),
        }
    }

    /// Whether the TileProxy as it is at this moment still has no use for the claim `name`. It was
    /// read when the reconcile began; a deleted volume is worth asking again.
    async fn is_still_unused(&self, name: &str) -> Result<bool, ApplyError> {
        let names = &self.proxy.names;
        let api = Api::<TileProxy>::namespaced(self.client.clone(), &names.namespace);
        let now = match api.get(&names.name).await {
            Ok(now) => now,
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(false),
            Err(source) => return Err(ApplyError::of::<TileProxy>("read", &names.name, source)),
        };
        let used = (0..now.spec.replicas.max(0))
            .filter_map(|ordinal| u16::try_from(ordinal).ok())
            .any(|ordinal| names.replica(ordinal) == name);
        Ok(now.uid().as_deref() == Some(&self.proxy.owner.uid)
            && now.metadata.deletion_timestamp.is_none()
            && now.spec.cache.retention.when_scaled == RetentionPolicy::Delete
            && !now.spec.paused
            && !used)
    }

    fn tell(&self, operation: &str, name: &str) {
        let namespace = &self.proxy.names.namespace;
        info!(
            kind = KIND,
            name, namespace, operation, "volume claim changed"
        );
        self.metrics.applied(KIND, operation);
    }
}

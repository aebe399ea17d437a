//! Volume claims: created once, grown on request, otherwise kept as they are.
//!
//! A claim has no owner reference, so that deleting a TileProxy keeps its cache; a TileProxy of the
//! same name takes it up again. Nothing in this operator deletes a claim.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use serde_json::{Value, json};
use tile_proxy::config::Size;

use crate::{
    controller::{
        names::{MANAGER, ORDINAL_LABEL, OWNER_ANNOTATION},
        validate::ValidProxy,
    },
    crd::AccessMode,
};

/// The claim of replica `ordinal`, as it is created.
pub(super) fn claim(proxy: &ValidProxy, ordinal: u16) -> PersistentVolumeClaim {
    let size = Quantity(proxy.cache.size_text.clone());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(proxy.names.replica(ordinal)),
            namespace: Some(proxy.names.namespace.clone()),
            labels: Some(proxy.names.ordinal(ordinal)),
            annotations: Some(BTreeMap::from([(
                OWNER_ANNOTATION.to_owned(),
                proxy.owner.uid.clone(),
            )])),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(
                proxy
                    .cache
                    .access_modes
                    .iter()
                    .map(|m| AccessMode::as_str(*m).to_owned())
                    .collect(),
            ),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                limits: None,
            }),
            storage_class_name: proxy.cache.storage_class.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// What to do about one claim.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimPlan {
    /// Someone else's claim has the name; the message says how to hand it over.
    Conflict(String),
    /// It is not there: create it.
    Create,
    /// It is as it should be, or nothing can be done now.
    Keep,
    /// Send this merge patch: a larger size, or a new owner's uid.
    Patch(Value),
}

/// What turns `observed` into `desired`, as far as a volume allows.
pub fn plan(
    desired: &PersistentVolumeClaim,
    observed: Option<&PersistentVolumeClaim>,
) -> ClaimPlan {
    let Some(observed) = observed else {
        return ClaimPlan::Create;
    };
    if observed.metadata.deletion_timestamp.is_some() {
        return ClaimPlan::Keep;
    }
    let want = desired.metadata.labels.clone().unwrap_or_default();
    let have = observed.metadata.labels.clone().unwrap_or_default();
    // The labels say whose cache it is. They outlive the TileProxy, so a re-created one finds its
    // volumes, and a person can hand over any other claim by setting them.
    if let Some((key, value)) = want
        .iter()
        .find(|(key, value)| have.get(*key) != Some(*value))
    {
        return ClaimPlan::Conflict(format!(
            "its label {key} is not {value}; rename it, or set the labels of {MANAGER} on it ({ORDINAL_LABEL} too) to hand it over"
        ));
    }
    let mut patch = json!({});
    let owner = |claim: &PersistentVolumeClaim| {
        claim
            .metadata
            .annotations
            .as_ref()?
            .get(OWNER_ANNOTATION)
            .cloned()
    };
    if owner(desired) != owner(observed) {
        patch["metadata"] = json!({"annotations": {OWNER_ANNOTATION: owner(desired)}});
    }
    if let (Some(want), Some(have)) = (requested(desired), requested(observed))
        && want > have
        && is_bound(observed)
    {
        patch["spec"] = json!({"resources": {"requests": {"storage": requested_text(desired)}}});
    }
    if patch == json!({}) {
        ClaimPlan::Keep
    } else {
        ClaimPlan::Patch(patch)
    }
}

/// A pending claim's request cannot change.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        == Some("Bound")
}

/// Size asked for by a claim. `None` for a spelling only Kubernetes knows, such as `1e9`.
pub fn requested(claim: &PersistentVolumeClaim) -> Option<Size> {
    requested_text(claim)?.parse().ok()
}

/// Size the volume has now, as the API server spells it.
pub fn capacity(claim: &PersistentVolumeClaim) -> Option<&str> {
    let capacity = claim.status.as_ref()?.capacity.as_ref()?;
    capacity.get("storage").map(|quantity| quantity.0.as_str())
}

fn requested_text(claim: &PersistentVolumeClaim) -> Option<&str> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").map(|quantity| quantity.0.as_str())
}

//! Volume claims: created once, grown on request, otherwise kept as they are.
//!
//! A claim records the uid of its TileProxy, and has an owner reference only where
//! `retention.whenDeleted` asks the garbage collector to take it along. Otherwise deleting a
//! TileProxy keeps its cache, and a TileProxy of the same name takes it up again. The claim of a
//! removed replica is deleted only by `retention.whenScaled`, and only with the uid of this very
//! TileProxy on it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tile_proxy::config::Size;

use crate::{
    controller::{
        names::{MANAGER, ORDINAL_LABEL, OWNER_ANNOTATION},
        validate::ValidProxy,
    },
    crd::{AccessMode, RetentionPolicy},
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
            owner_references: goes_with(proxy).then(|| vec![proxy.owner.clone()]),
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

/// Whether claims go when `proxy` goes.
fn goes_with(proxy: &ValidProxy) -> bool {
    proxy.cache.retention.when_deleted == RetentionPolicy::Delete
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
    /// The garbage collector is about to delete it with the TileProxy it belonged to: nothing may
    /// start with it, and the next one is made once it is gone.
    Leaving,
    /// Send this merge patch, which makes it go with the TileProxy or stay, and then plan again: whose it
    /// is must not wait for a size that may be refused.
    Own(Value),
    /// Send this merge patch: the size that is asked for.
    Resize(Value),
}

/// What turns `observed` into `desired`, as far as a volume allows.
pub fn plan(
    proxy: &ValidProxy,
    desired: &PersistentVolumeClaim,
    observed: Option<&PersistentVolumeClaim>,
) -> ClaimPlan {
    let Some(observed) = observed else {
        return ClaimPlan::Create;
    };
    if observed.metadata.deletion_timestamp.is_some() {
        return ClaimPlan::Keep;
    }
    // The labels say whose cache it is. They outlive the TileProxy, so a re-created one finds its
    // volumes, and a person can hand over any other claim by setting them.
    if let Some((key, value)) = lacking_label(desired.labels(), observed) {
        return ClaimPlan::Conflict(format!(
            "its label {key} is not {value}; rename it, or set the labels of {MANAGER} on it ({ORDINAL_LABEL} too) to hand it over"
        ));
    }
    if let Some(other) = controller(observed).filter(|other| other.uid != proxy.owner.uid) {
        if is_tile_proxy(proxy, other) {
            return ClaimPlan::Leaving;
        }
        return ClaimPlan::Conflict(format!(
            "{} {} controls it; rename it, or remove that owner reference to hand it over",
            other.kind, other.name
        ));
    }
    let patch = ownership(proxy, observed);
    if !is_empty(&patch) {
        return ClaimPlan::Own(patch);
    }
    if may_resize(desired, observed) {
        let size = requested_text(desired);
        return ClaimPlan::Resize(json!({"spec": {"resources": {"requests": {"storage": size}}}}));
    }
    ClaimPlan::Keep
}

/// Whether the size that `desired` asks for can be asked of `observed`: a larger one always, a smaller
/// one only while the volume is smaller still, which takes back a growth that does not come.
fn may_resize(desired: &PersistentVolumeClaim, observed: &PersistentVolumeClaim) -> bool {
    let (Some(want), Some(have)) = (requested(desired), requested(observed)) else {
        return false;
    };
    let has = capacity(observed).and_then(|text| text.parse::<Size>().ok());
    let is_growth = has.is_some_and(|has| want > has);
    is_bound(observed) && (want > have || want < have && is_growth)
}

/// What to do about a claim that no replica is to have.
#[derive(Clone, Debug, PartialEq)]
pub enum UnusedClaim {
    /// It is this TileProxy's, its replica is gone, and the policy does not keep it: delete it.
    Delete,
    /// It is not ours to touch, or as it should be.
    Keep,
    /// Send this merge patch: it goes with the TileProxy, or no longer does.
    Patch(Value),
}

/// What to do about `observed` if no replica is to have it. `replica_exists` says whether its
/// Deployment is still there.
pub fn plan_unused(
    proxy: &ValidProxy,
    observed: &PersistentVolumeClaim,
    replica_exists: bool,
) -> UnusedClaim {
    let ordinal = observed.labels().get(ORDINAL_LABEL);
    let Some(ordinal) = ordinal.and_then(|text| text.parse::<u16>().ok()) else {
        return UnusedClaim::Keep;
    };
    let ours = observed.name_any() == proxy.names.replica(ordinal)
        && lacking_label(&proxy.names.ordinal(ordinal), observed).is_none()
        && recorded_owner(observed) == Some(&proxy.owner.uid)
        && controller(observed).is_none_or(|other| other.uid == proxy.owner.uid);
    let is_removed = ordinal >= proxy.replicas;
    let is_unused = is_removed || proxy.cache.ephemeral;
    if !ours || !is_unused || observed.metadata.deletion_timestamp.is_some() {
        return UnusedClaim::Keep;
    }
    // The volume of a replica that now does without is for the day on which it no longer does.
    let policy = proxy.cache.retention.when_scaled;
    if is_removed && policy == RetentionPolicy::Delete && !replica_exists {
        return UnusedClaim::Delete;
    }
    // An owner reference of an earlier policy would still make it go with the TileProxy.
    let patch = ownership(proxy, observed);
    if is_empty(&patch) {
        UnusedClaim::Keep
    } else {
        UnusedClaim::Patch(patch)
    }
}

/// The merge patch that makes `observed` the claim of `proxy`, and of no other TileProxy.
fn ownership(proxy: &ValidProxy, observed: &PersistentVolumeClaim) -> Value {
    let mut metadata = json!({});
    if recorded_owner(observed) != Some(&proxy.owner.uid) {
        metadata["annotations"] = json!({OWNER_ANNOTATION: proxy.owner.uid});
    }
    let have = observed.owner_references();
    let mut want: Vec<_> = have
        .iter()
        .filter(|owner| owner.uid != proxy.owner.uid)
        .cloned()
        .collect();
    if goes_with(proxy) {
        want.push(proxy.owner.clone());
    }
    if goes_with(proxy) != have.iter().any(|owner| owner.uid == proxy.owner.uid) {
        metadata["ownerReferences"] = json!(want);
    }
    if is_empty(&metadata) {
        return metadata;
    }
    // A list is replaced as a whole, and two TileProxies may be after the same claim: what was
    // decided holds for this version of it and no other.
    metadata["uid"] = json!(observed.uid());
    metadata["resourceVersion"] = json!(observed.resource_version());
    json!({ "metadata": metadata })
}

fn is_empty(patch: &Value) -> bool {
    patch.as_object().is_none_or(serde_json::Map::is_empty)
}

fn lacking_label<'a>(
    wanted: &'a BTreeMap<String, String>,
    observed: &PersistentVolumeClaim,
) -> Option<(&'a String, &'a String)> {
    wanted
        .iter()
        .find(|(key, value)| observed.labels().get(*key) != Some(*value))
}

fn recorded_owner(claim: &PersistentVolumeClaim) -> Option<&String> {
    claim.annotations().get(OWNER_ANNOTATION)
}

fn controller(claim: &PersistentVolumeClaim) -> Option<&OwnerReference> {
    claim
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))
}

fn is_tile_proxy(proxy: &ValidProxy, owner: &OwnerReference) -> bool {
    let group = |owner: &OwnerReference| {
        let group = owner.api_version.split_once('/').map(|(group, _)| group);
        group.map(str::to_owned)
    };
    owner.kind == proxy.owner.kind && group(owner) == group(&proxy.owner)
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

/// The same as the API server spells it.
pub fn requested_text(claim: &PersistentVolumeClaim) -> Option<&str> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").map(|quantity| quantity.0.as_str())
}

#[cfg(test)]
mod tests;

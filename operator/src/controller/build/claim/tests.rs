use k8s_openapi::api::core::v1::PersistentVolumeClaimStatus;
use kube::ResourceExt as _;

use super::*;
use crate::{
    controller::{build::build, fixture::valid},
    crd::{
        Retention,
        RetentionPolicy::{Delete, Retain},
    },
};

/// The fixture with two replicas and these policies.
fn keeping(when_deleted: RetentionPolicy, when_scaled: RetentionPolicy) -> ValidProxy {
    valid(|proxy| {
        proxy.spec.cache.retention = Retention {
            when_deleted,
            when_scaled,
        };
    })
}

/// The claim of replica `ordinal` as the operator left it on the API server.
fn existing(proxy: &ValidProxy, ordinal: u16) -> PersistentVolumeClaim {
    let mut claim = claim(proxy, ordinal);
    claim.metadata.uid = Some(format!("claim-{ordinal}"));
    claim.metadata.resource_version = Some("7".to_owned());
    claim
}

/// A patch of the metadata, which holds for this version of the claim alone.
fn metadata(mut patch: Value, ordinal: u16) -> Value {
    patch["uid"] = json!(format!("claim-{ordinal}"));
    patch["resourceVersion"] = json!("7");
    json!({ "metadata": patch })
}

#[test]
fn a_claim_is_created_grown_and_otherwise_left_alone() {
    let claim = |size: &str| {
        build(&valid(|proxy| proxy.spec.cache.size = size.to_owned()))
            .claims
            .remove(0)
    };
    let bound = |size: &str| {
        let mut claim = claim(size);
        claim.status = Some(PersistentVolumeClaimStatus {
            phase: Some("Bound".to_owned()),
            ..PersistentVolumeClaimStatus::default()
        });
        claim
    };
    let grow = json!({"spec": {"resources": {"requests": {"storage": "20Gi"}}}});
    assert_eq!(
        plan(&valid(|_| {}), &claim("10Gi"), None),
        ClaimPlan::Create
    );
    assert_eq!(
        plan(&valid(|_| {}), &claim("10Gi"), Some(&bound("10Gi"))),
        ClaimPlan::Keep
    );
    assert_eq!(
        plan(&valid(|_| {}), &claim("20Gi"), Some(&bound("10Gi"))),
        ClaimPlan::Resize(grow)
    );
    assert_eq!(
        plan(&valid(|_| {}), &claim("10Gi"), Some(&bound("20Gi"))),
        ClaimPlan::Keep,
        "never shrinks"
    );
    assert_eq!(
        plan(&valid(|_| {}), &claim("20Gi"), Some(&claim("10Gi"))),
        ClaimPlan::Keep,
        "pending: cannot change"
    );
    // A growth that does not come is taken back to whatever is larger than the volume.
    let growing = |capacity: &str| {
        let mut claim = bound("30Gi");
        if let Some(status) = &mut claim.status {
            let capacity = Quantity(capacity.to_owned());
            status.capacity = Some(BTreeMap::from([("storage".to_owned(), capacity)]));
        }
        claim
    };
    let back = json!({"spec": {"resources": {"requests": {"storage": "20Gi"}}}});
    for (capacity, want) in [
        ("10Gi", ClaimPlan::Resize(back)),
        ("20Gi", ClaimPlan::Keep), // the API server would refuse
        ("30Gi", ClaimPlan::Keep),
        ("no size", ClaimPlan::Keep),
    ] {
        let found = growing(capacity);
        let planned = plan(&valid(|_| {}), &claim("20Gi"), Some(&found));
        assert_eq!(planned, want, "a volume of {capacity}");
    }
    // The spelling of a size is not a change.
    assert_eq!(
        plan(&valid(|_| {}), &claim("1024Mi"), Some(&bound("1Gi"))),
        ClaimPlan::Keep
    );
}

#[test]
fn a_recreated_resource_takes_up_its_volumes_and_nobody_elses() {
    let proxy = keeping(Retain, Retain);
    let desired = claim(&proxy, 0);
    let mut retained = existing(&proxy, 0);
    retained
        .annotations_mut()
        .insert(OWNER_ANNOTATION.to_owned(), "an-earlier-uid".to_owned());
    let adopt = metadata(json!({"annotations": {OWNER_ANNOTATION: "5a11e7"}}), 0);
    assert_eq!(
        plan(&proxy, &desired, Some(&retained)),
        ClaimPlan::Own(adopt)
    );

    let mut foreign = existing(&proxy, 0);
    foreign.metadata.labels = Some(BTreeMap::from([("app".to_owned(), "database".to_owned())]));
    let refused = plan(&proxy, &desired, Some(&foreign));
    assert!(matches!(refused, ClaimPlan::Conflict(why) if why.contains("is not")));

    // Our labels, but another controller decides over it.
    let mut controlled = existing(&proxy, 0);
    controlled.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "StatefulSet".to_owned(),
        name: "database".to_owned(),
        uid: "da7aba5e".to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    let refused = plan(&proxy, &desired, Some(&controlled));
    assert!(matches!(refused, ClaimPlan::Conflict(why) if why.starts_with("StatefulSet database")));
}

#[test]
fn a_volume_goes_with_the_resource_only_where_the_policy_says_so() {
    let (keep, go) = (keeping(Retain, Retain), keeping(Delete, Retain));
    let owned = json!([go.owner]);
    assert!(claim(&keep, 0).owner_references().is_empty());
    assert_eq!(json!(claim(&go, 0).owner_references()), owned);

    // Either way a policy can change, for replicas there are and for volumes of removed ones.
    let take = metadata(json!({"ownerReferences": owned}), 1);
    let free = metadata(json!({"ownerReferences": []}), 1);
    let desired = claim(&go, 1);
    let (free_now, owned_now) = (existing(&keep, 1), existing(&go, 1));
    assert_eq!(plan(&go, &desired, Some(&owned_now)), ClaimPlan::Keep);
    assert_eq!(
        plan(&go, &desired, Some(&free_now)),
        ClaimPlan::Own(take.clone())
    );
    assert_eq!(
        plan(&keep, &desired, Some(&owned_now)),
        ClaimPlan::Own(free.clone())
    );
    let one = |mut proxy: ValidProxy| {
        proxy.replicas = 1;
        proxy
    };
    assert_eq!(
        plan_unused(&one(go.clone()), &free_now, false),
        UnusedClaim::Patch(take)
    );
    assert_eq!(
        plan_unused(&one(keep.clone()), &owned_now, false),
        UnusedClaim::Patch(free)
    );
    assert_eq!(plan_unused(&one(keep), &free_now, false), UnusedClaim::Keep);

    // Owners that others added are theirs to remove.
    let mut shared = existing(&go, 1);
    let backup = OwnerReference {
        kind: "Backup".to_owned(),
        uid: "bac0b".to_owned(),
        controller: None,
        ..go.owner.clone()
    };
    shared.owner_references_mut().insert(0, backup.clone());
    let freed = metadata(json!({"ownerReferences": [backup]}), 1);
    assert_eq!(
        plan(&keeping(Retain, Retain), &desired, Some(&shared)),
        ClaimPlan::Own(freed)
    );
}

#[test]
fn nothing_starts_with_a_volume_that_goes_with_an_earlier_resource() {
    let proxy = keeping(Delete, Retain);
    let mut leaving = existing(&proxy, 0);
    leaving.owner_references_mut()[0].uid = "an-earlier-uid".to_owned();
    leaving
        .annotations_mut()
        .insert(OWNER_ANNOTATION.to_owned(), "an-earlier-uid".to_owned());
    assert_eq!(
        plan(&proxy, &claim(&proxy, 0), Some(&leaving)),
        ClaimPlan::Leaving
    );
}

#[test]
fn only_a_removed_replicas_own_volume_is_deleted_and_only_by_policy() {
    type Change = fn(&mut PersistentVolumeClaim);
    let proxy = keeping(Retain, Delete); // two replicas: ordinal 2 was removed
    let unused = existing(&proxy, 2);
    assert_eq!(plan_unused(&proxy, &unused, false), UnusedClaim::Delete);
    assert_eq!(
        plan_unused(&proxy, &unused, true),
        UnusedClaim::Keep,
        "its replica is there"
    );
    assert_eq!(
        plan_unused(&keeping(Retain, Retain), &unused, false),
        UnusedClaim::Keep
    );
    assert_eq!(
        plan_unused(&proxy, &existing(&proxy, 1), false),
        UnusedClaim::Keep,
        "in use"
    );

    // Without volumes for now: those there are wait, also while nothing uses them.
    let mut without = proxy.clone();
    without.cache.ephemeral = true;
    let waiting = existing(&proxy, 1);
    for replica_exists in [true, false] {
        let plan = plan_unused(&without, &waiting, replica_exists);
        assert_eq!(plan, UnusedClaim::Keep, "{replica_exists}");
    }
    without.cache.retention = keeping(Delete, Delete).cache.retention;
    assert!(matches!(
        plan_unused(&without, &waiting, true),
        UnusedClaim::Patch(_) // it still goes with its TileProxy, or no longer
    ));

    let rows: [(&str, Change); 8] = [
        ("an earlier resource's", |claim| {
            claim
                .annotations_mut()
                .insert(OWNER_ANNOTATION.to_owned(), "earlier".to_owned());
        }),
        ("nobody's", |claim| claim.annotations_mut().clear()),
        ("another instance's", |claim| {
            claim
                .labels_mut()
                .insert("app.kubernetes.io/instance".to_owned(), "oslo".to_owned());
        }),
        ("without our manager", |claim| {
            claim.labels_mut().remove("app.kubernetes.io/managed-by");
        }),
        ("of another name", |claim| {
            claim.metadata.name = Some("rome2026h1-replica-3".to_owned());
        }),
        ("without an ordinal", |claim| {
            claim.labels_mut().remove(ORDINAL_LABEL);
        }),
        ("going already", |claim| {
            claim.metadata.deletion_timestamp =
                serde_json::from_value(json!("2026-01-02T03:04:05Z")).ok();
        }),
        ("controlled by another", |claim| {
            claim.metadata.owner_references = Some(vec![OwnerReference {
                uid: "da7aba5e".to_owned(),
                controller: Some(true),
                ..OwnerReference::default()
            }]);
        }),
    ];
    for (what, change) in rows {
        let mut claim = unused.clone();
        change(&mut claim);
        assert_eq!(
            plan_unused(&proxy, &claim, false),
            UnusedClaim::Keep,
            "{what}"
        );
    }
}

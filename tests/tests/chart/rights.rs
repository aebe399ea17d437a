//! What the chart lets the operator and its users do.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{NAMESPACE, list, objects, of_kind, string, text, the};

/// Who may do what: `group/resource: verbs`, one line for each resource of a role, sorted.
fn rights(role: &Value) -> Vec<String> {
    let mut rights = Vec::new();
    for rule in list(&role["rules"]) {
        let verbs: Vec<&str> = list(&rule["verbs"]).iter().map(string).collect();
        for group in list(&rule["apiGroups"]) {
            for resource in list(&rule["resources"]) {
                rights.push(format!(
                    "{}/{}: {}",
                    string(group),
                    string(resource),
                    verbs.join(" ")
                ));
            }
        }
    }
    rights.sort();
    rights
}

/// A new right is a decision: it gets its reason at the rule, and its line here.
#[test]
fn the_operator_may_do_what_it_does_and_nothing_else() {
    let default = objects("default");
    let roles = of_kind(&default, "ClusterRole");
    let role = roles
        .iter()
        .find(|r| r["metadata"]["name"] == "prod-tile-proxy");
    let all = rights(role.expect("the operator's"));
    assert_eq!(
        all,
        RIGHTS.lines().collect::<Vec<_>>(),
        "now:\n{}",
        all.join("\n")
    );

    let lease = the(&default, "Role");
    let of_lease = "coordination.k8s.io/leases: ";
    assert_eq!(
        rights(lease),
        [format!("{of_lease}create"), format!("{of_lease}get update")]
    );
    let named = &list(&lease["rules"])[0];
    assert_eq!(named["resourceNames"], json!(["prod-tile-proxy"]));
    assert_eq!(lease["metadata"]["namespace"], NAMESPACE);
    let args = &the(&default, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"];
    for arg in [
        "--lease-name=prod-tile-proxy",
        "--lease-namespace=tiles-system",
    ] {
        assert!(list(args).contains(&json!(arg)), "{arg} in {args}");
    }
    assert!(
        of_kind(&objects("throwaway"), "Role").is_empty(),
        "no Lease, no right on it"
    );
}

const RIGHTS: &str = "\
/configmaps: get list watch create patch
/persistentvolumeclaims: get list watch create patch delete
/secrets: create
/serviceaccounts: get list watch create patch
/services: get list watch create patch delete
apps/deployments: get list watch create patch delete
batch/cronjobs: get list watch create patch delete
events.k8s.io/events: create patch
monitoring.coreos.com/servicemonitors: get list watch create patch delete
networking.k8s.io/networkpolicies: get list watch create patch delete
policy/poddisruptionbudgets: get list watch create patch delete
tiles.stella-ops.org/tileproxies/finalizers: update
tiles.stella-ops.org/tileproxies/status: patch
tiles.stella-ops.org/tileproxies: get list watch";

#[test]
fn every_rule_has_its_reason_above_it() {
    for file in ["_helpers.tpl", "aggregate-roles.yaml", "lease-role.yaml"] {
        let template = text(&format!("charts/tile-proxy/templates/{file}"));
        let mut above = "";
        let mut rules = 0;
        for line in template.lines().map(str::trim) {
            if line.starts_with("- apiGroups:") {
                assert!(
                    above.starts_with("# "),
                    "{file}: {line} comes after {above:?}"
                );
                rules += 1;
            }
            above = line;
        }
        assert!(rules > 0, "{file} has no rules");
    }
}

#[test]
fn with_namespaces_nothing_is_cluster_wide_and_each_has_the_same_rights() {
    let objects = objects("namespaces");
    let kinds: BTreeSet<&str> = objects.iter().map(|o| string(&o["kind"])).collect();
    assert!(
        kinds.iter().all(|kind| !kind.starts_with("C")),
        "cluster-wide: {kinds:?}"
    );

    let without_delete: Vec<String> = RIGHTS
        .lines()
        .map(|line| match line.strip_prefix("/persistentvolumeclaims") {
            Some(_) => "/persistentvolumeclaims: get list watch create patch".to_owned(), // rbac.deleteVolumes
            None => line.to_owned(),
        })
        .collect();
    let mut places = Vec::new();
    for role in of_kind(&objects, "Role") {
        let (name, namespace) = (
            &role["metadata"]["name"],
            string(&role["metadata"]["namespace"]),
        );
        let bindings = of_kind(&objects, "RoleBinding");
        let binding = bindings
            .iter()
            .find(|b| b["roleRef"]["name"] == *name && b["metadata"]["namespace"] == namespace);
        let subjects = &binding.expect("each Role is bound")["subjects"];
        assert_eq!(subjects[0]["namespace"], NAMESPACE, "the operator's own");
        if *name == "prod-tile-proxy" {
            assert_eq!(rights(role), without_delete, "{namespace}");
            places.push(namespace);
        }
    }
    assert_eq!(places, ["rome", "oslo"]);
    let args = &the(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"];
    assert!(
        list(args).contains(&json!("--watch-namespaces=rome,oslo")),
        "{args}"
    );
}

#[test]
fn users_get_what_their_role_in_a_namespace_promises() {
    let objects = objects("default");
    let roles = of_kind(&objects, "ClusterRole");
    let role = |name: &str| {
        *roles
            .iter()
            .find(|r| r["metadata"]["name"] == name)
            .expect(name)
    };
    let group = "tiles.stella-ops.org";
    let view = role("prod-tile-proxy-view");
    let read = "get list watch";
    assert_eq!(
        rights(view),
        [
            format!("{group}/tileproxies/scale: {read}"),
            format!("{group}/tileproxies/status: {read}"),
            format!("{group}/tileproxies: {read}"),
        ]
    );
    // The status is the operator's, also before those who edit.
    let edit = role("prod-tile-proxy-edit");
    assert_eq!(
        rights(edit),
        [
            format!("{group}/tileproxies/scale: patch update"),
            format!("{group}/tileproxies: create delete deletecollection patch update"),
        ]
    );
    for (role, into) in [
        (view, vec!["view", "edit", "admin"]),
        (edit, vec!["edit", "admin"]),
    ] {
        let labels = role["metadata"]["labels"].as_object().expect("labels");
        let found: BTreeSet<&str> = labels
            .keys()
            .filter_map(|key| key.strip_prefix("rbac.authorization.k8s.io/aggregate-to-"))
            .collect();
        assert_eq!(found, into.into_iter().collect());
    }
}

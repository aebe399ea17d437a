//! What the chart renders.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    NAMESPACE, RELEASE, cases, chart, helm, list, objects, objects_with, of_kind, pods, string,
    text, the, yaml,
};

#[test]
fn every_set_of_values_passes_helms_own_checks() {
    for (case, file) in cases() {
        let run = helm(&["lint", "--strict"]).arg(chart());
        let ended = run.arg("--values").arg(file).ended().expect("helm runs");
        assert!(ended.status.success(), "{case}: {}", ended.stdout);
    }
}

#[test]
fn every_object_says_whose_it_is_and_where() {
    for case in cases().keys() {
        let objects = objects(case);
        let mut seen = BTreeSet::new();
        for object in &objects {
            let (kind, meta) = (string(&object["kind"]), &object["metadata"]);
            let name = string(&meta["name"]);
            assert!(
                seen.insert((kind, name, meta["namespace"].to_string())),
                "{case}: {kind} {name} is there twice"
            );
            // What users bring is theirs to label and to place.
            if kind == "ConfigMap" {
                continue;
            }
            let labels = &meta["labels"];
            assert_eq!(
                labels["app.kubernetes.io/managed-by"], "Helm",
                "{case}: {kind} {name}"
            );
            assert_eq!(
                labels["app.kubernetes.io/instance"], RELEASE,
                "{case}: {kind} {name}"
            );
            let cluster_wide = kind.starts_with("Cluster") || kind == "CustomResourceDefinition";
            assert_eq!(
                meta["namespace"].is_null(),
                cluster_wide,
                "{case}: {kind} {name}"
            );
        }
    }
}

#[test]
fn every_image_has_a_tag_or_a_digest_and_the_registry_is_before_each() {
    let digest = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let airgap = format!("registry.example:5000/mirror/stella-ops/tile-proxy:0.1.0{digest}");
    for (case, image, operand) in [
        (
            "default",
            "stella-ops/tile-proxy:0.1.0",
            "stella-ops/tile-proxy:0.1.0",
        ),
        (
            "everything",
            "stella-ops/tile-proxy:9.9.9",
            "mirror.example/tiles/proxy:7.7.7",
        ),
        (
            "namespaces",
            "stella-ops/tile-proxy:0.1.0",
            "stella-ops/tile-proxy:0.1.0",
        ),
        ("airgap", &airgap, &airgap),
        (
            "throwaway",
            "stella-ops/tile-proxy:0.1.0",
            "stella-ops/tile-proxy:0.1.0",
        ),
    ] {
        let objects = objects(case);
        for pod in pods(&objects) {
            for container in list(&pod["containers"]) {
                assert_eq!(container["image"], image, "{case}");
            }
        }
        let container = &the(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
        let told = list(&container["env"])
            .iter()
            .find(|e| e["name"] == "TILE_PROXY_OPERATOR_OPERAND_IMAGE");
        assert_eq!(told.expect("told")["value"], operand, "{case}");
    }
    assert_eq!(cases().len(), 5, "a row for each set of values");
}

/// As the *restricted* Pod Security Standard asks, and a read-only root on top.
#[test]
fn every_pod_may_do_nothing() {
    for case in cases().keys() {
        let objects = objects(case);
        let pods = pods(&objects);
        assert_eq!(
            pods.len(),
            1 + usize::from(case != "throwaway"),
            "{case}: the operator, and `helm test`"
        );
        for pod in pods {
            let security = &pod["securityContext"];
            assert_eq!(security["runAsNonRoot"], true, "{case}");
            assert_ne!(security["runAsUser"], 0, "{case}");
            assert_eq!(
                security["seccompProfile"]["type"], "RuntimeDefault",
                "{case}"
            );
            for field in ["hostNetwork", "hostPID", "hostIPC", "initContainers"] {
                assert!(pod[field].is_null(), "{case}: {field}");
            }
            for container in list(&pod["containers"]) {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{case}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{case}");
                assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{case}");
                assert!(
                    !container["resources"]["requests"]["memory"].is_null(),
                    "{case}"
                );
            }
        }
        let test = of_kind(&objects, "Pod");
        assert!(
            test.iter()
                .all(|pod| pod["spec"]["automountServiceAccountToken"] == false)
        );
    }
}

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
fn the_crd_is_the_generated_one_and_outlives_the_release() {
    let generated = yaml(&text("crds/tileproxies.yaml"));
    let keep = |objects: &[Value]| {
        let mut crd = the(objects, "CustomResourceDefinition").clone();
        let meta = crd["metadata"].as_object_mut().expect("there is one");
        meta.remove("labels");
        let annotations = meta.remove("annotations").unwrap_or_default();
        assert!(same(&crd, &generated), "nothing else is added or lost");
        annotations["helm.sh/resource-policy"] == "keep"
    };
    assert!(keep(&objects("default")));
    assert!(!keep(&objects("throwaway")));
    let without = objects_with("default", &["crds.enabled=false"]);
    assert!(of_kind(&without, "CustomResourceDefinition").is_empty());
}

/// Equal; Helm writes 16.0 as 16, which to the API server is the same.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, a)| b.get(k).is_some_and(|b| same(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

/// An upgrade can change neither: both are written down by every version that was released.
#[test]
fn what_an_upgrade_cannot_change_is_what_it_was() {
    let objects = objects("default");
    let deployment = the(&objects, "Deployment");
    let selector = json!({
        "app.kubernetes.io/instance": RELEASE,
        "app.kubernetes.io/name": "tile-proxy-operator",
    });
    assert_eq!(deployment["metadata"]["name"], "prod-tile-proxy");
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], selector);
    let test = the(&objects, "Pod");
    assert_ne!(
        test["metadata"]["labels"]["app.kubernetes.io/name"], "tile-proxy-operator",
        "or the Service would send scrapers to it"
    );
    assert_eq!(the(&objects, "Service")["spec"]["selector"], selector);
}

#[test]
fn one_operator_ends_before_the_next_begins_to_work() {
    let strategy = |case| the(&objects(case), "Deployment")["spec"]["strategy"].clone();
    // The Lease decides who works, so both may run.
    assert_eq!(
        strategy("default")["rollingUpdate"],
        json!({"maxSurge": 1, "maxUnavailable": 0})
    );
    assert_eq!(strategy("throwaway"), json!({"type": "Recreate"}));
}

#[test]
fn a_budget_is_there_where_more_than_one_operator_is() {
    assert!(of_kind(&objects("default"), "PodDisruptionBudget").is_empty());
    let everything = objects("everything");
    let budget = &the(&everything, "PodDisruptionBudget")["spec"];
    assert_eq!(budget["minAvailable"], 1);
    assert_eq!(
        budget["selector"],
        the(&everything, "Deployment")["spec"]["selector"]
    );
    let off = objects_with("everything", &["podDisruptionBudget.enabled=false"]);
    assert!(of_kind(&off, "PodDisruptionBudget").is_empty());
}

#[test]
fn the_network_policy_lets_through_what_was_asked_for() {
    let everything = objects("everything");
    let policy = &the(&everything, "NetworkPolicy")["spec"];
    assert_eq!(policy["egress"][0], json!({"ports": [{"port": 16443}]}));
    assert_eq!(policy["egress"][2], json!({"ports": [{"port": 3128}]}));
    let from = list(&policy["ingress"][0]["from"]);
    assert_eq!(from.len(), 2, "{from:?}");
    let test = &from[1]["podSelector"]["matchLabels"];
    let labels = &the(&everything, "Pod")["metadata"]["labels"];
    for (key, value) in test.as_object().expect("labels") {
        assert_eq!(labels[key], *value, "the pod of `helm test` gets through");
    }
    let open = objects_with("default", &["networkPolicy.enabled=true"]);
    let policy = &the(&open, "NetworkPolicy")["spec"];
    assert_eq!(policy["ingress"], json!([{"ports": [{"port": 8080}]}]));
    assert_eq!(
        policy["egress"][0],
        json!({"ports": [{"port": 443}, {"port": 6443}]})
    );
}

#[test]
fn the_scraper_keeps_the_namespace_of_the_resource() {
    let everything = objects("everything");
    let monitor = the(&everything, "ServiceMonitor");
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!(endpoint["honorLabels"], true);
    assert_eq!(monitor["metadata"]["labels"]["prometheus"], "main");
    let service = the(&everything, "Service");
    assert_eq!(endpoint["port"], service["spec"]["ports"][0]["name"]);
    for (key, value) in monitor["spec"]["selector"]["matchLabels"]
        .as_object()
        .expect("labels")
    {
        assert_eq!(service["metadata"]["labels"][key], *value);
    }
}

#[test]
fn what_users_bring_is_rendered_as_it_is() {
    let everything = objects("everything");
    let pod = &the(&everything, "Deployment")["spec"]["template"];
    let container = &pod["spec"]["containers"][0];
    assert_eq!(
        container["volumeMounts"],
        json!([{"name": "scratch", "mountPath": "/scratch"}])
    );
    assert_eq!(
        pod["spec"]["volumes"],
        json!([{"name": "scratch", "emptyDir": {}}])
    );
    assert_eq!(
        list(&container["args"]).last(),
        Some(&json!("--metrics-addr=0.0.0.0:8080"))
    );
    assert_eq!(
        list(&container["env"]).last().expect("some")["name"],
        "RUST_BACKTRACE"
    );
    assert_eq!(pod["metadata"]["labels"]["example.com/pod"], "labelled");
    assert_eq!(pod["metadata"]["labels"]["team"], "transparency");
    assert_eq!(
        pod["metadata"]["annotations"]["example.com/pod"],
        "annotated"
    );
    for field in [
        "nodeSelector",
        "tolerations",
        "affinity",
        "topologySpreadConstraints",
        "priorityClassName",
        "imagePullSecrets",
    ] {
        assert!(!pod["spec"][field].is_null(), "{field}");
    }
    let maps = of_kind(&everything, "ConfigMap");
    let names: Vec<&str> = maps
        .iter()
        .map(|map| string(&map["metadata"]["name"]))
        .collect();
    assert_eq!(names, ["prod-tiles-notes", "prod-text"]);
    assert_eq!(maps[0]["data"]["release"], RELEASE);
}

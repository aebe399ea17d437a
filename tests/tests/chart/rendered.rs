//! What the chart renders.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tile_proxy_tests::paths;
use tile_proxy_tests::run::Run;

use super::{
    RELEASE, cases, chart, helm, list, objects, objects_with, of_kind, pods, string, text, the,
    yaml,
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

/// Started without an API server: it gets as far as looking for one.
#[test]
fn the_program_takes_the_arguments_and_variables_it_is_given() {
    for case in cases().keys() {
        let objects = objects(case);
        let container = &the(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(
            container["command"],
            json!(["/usr/local/bin/tile-proxy-operator"])
        );
        let mut run = Run::new(env!("CARGO"))
            .current_dir(paths::checkout())
            .args([
                "run",
                "--quiet",
                "--locked",
                "--package=tile-proxy-operator",
                "--",
            ]);
        for argument in list(&container["args"]).iter().map(string) {
            // Any free port instead of one that this machine may use.
            let argument = match argument.split_once('=') {
                Some(("--metrics-addr", _)) => "--metrics-addr=127.0.0.1:0",
                _ => argument,
            };
            run = run.arg(argument);
        }
        for variable in list(&container["env"]) {
            run = run.env(string(&variable["name"]), string(&variable["value"]));
        }
        let run = run
            .env("KUBECONFIG", "/there/is/none")
            .deadline(Duration::from_secs(30 * 60));
        let ended = run.ended().expect("cargo runs");
        let says = "found no Kubernetes API server";
        assert!(ended.stderr.contains(says), "{case}: {}", ended.stderr);
    }
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
    assert_eq!(policy["egress"][3], json!({"ports": [{"port": 3128}]}));
    let replicas = &policy["egress"][2];
    assert_eq!(replicas["ports"], json!([{"port": 8081}]));
    let selected = &replicas["to"][0]["podSelector"]["matchLabels"];
    assert_eq!(selected["app.kubernetes.io/component"], "replica");
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
    assert_eq!(policy["egress"][2]["to"][0]["namespaceSelector"], json!({}));
    let some = [
        "networkPolicy.enabled=true",
        "watchNamespaces={logs,staging}",
    ];
    let some = objects_with("default", &some);
    let policy = &the(&some, "NetworkPolicy")["spec"];
    let watched = &policy["egress"][2]["to"][0]["namespaceSelector"]["matchExpressions"][0];
    assert_eq!(watched["values"], json!(["logs", "staging"]));
}

#[test]
fn the_operator_knows_by_which_labels_its_pods_are_let_in() {
    let everything = objects("everything");
    let deployment = &the(&everything, "Deployment")["spec"];
    let selector = deployment["selector"]["matchLabels"].as_object();
    let labels = selector.expect("labels").iter();
    let labels = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let mut want: Vec<String> = labels.collect();
    let args = list(&deployment["template"]["spec"]["containers"][0]["args"]);
    let mut args = args.iter().filter_map(|arg| arg.as_str());
    let told = args.find_map(|arg| arg.strip_prefix("--own-pods="));
    let mut told: Vec<&str> = told.expect("the flag").split(',').collect();
    told.sort_unstable();
    want.sort_unstable();
    assert_eq!(told, want);
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

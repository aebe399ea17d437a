//! The chart on a real API server: taken as it is written, admitted, upgraded, removed.
//!
//! There is no node, so no pod runs; `helm test` is part of the end-to-end test.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tile_proxy_tests::control_plane::{ControlPlane, PROMETHEUS_OPERATOR};
use tile_proxy_tests::older_chart::{self, is_older};
use tile_proxy_tests::paths;
use tile_proxy_tests::run::{Ended, Run};
use tile_proxy_tests::wait::{self, Seen};

use super::{NAMESPACE, RELEASE, cases, chart, objects, string, template, text, the};

/// One that all tests of objects share, with the namespaces that sets of values name, each of them
/// for restricted pods only, and the kinds of the chart and of the Prometheus operator.
fn shared() -> &'static ControlPlane {
    static PLANE: OnceLock<ControlPlane> = OnceLock::new();
    PLANE.get_or_init(|| {
        let plane = start();
        apply(&plane, PROMETHEUS_OPERATOR);
        apply(&plane, &text("crds/tileproxies.yaml"));
        for crd in [
            "servicemonitors.monitoring.coreos.com",
            "prometheusrules.monitoring.coreos.com",
            "tileproxies.tiles.stella-ops.org",
        ] {
            established(&plane, crd);
        }
        for name in [NAMESPACE, "rome", "oslo", "cairo"] {
            apply(&plane, &restricted_namespace(name));
        }
        plane
    })
}

fn start() -> ControlPlane {
    let controllers = ["garbage-collector-controller", "serviceaccount-controller"];
    ControlPlane::start(&controllers).expect("a control plane")
}

#[test]
fn the_api_server_takes_every_object_as_it_is_written() {
    let plane = shared();
    for (case, values) in cases() {
        let rendered = template(Some(&values), &[]).stdout;
        let dry = plane.kubectl(["apply", "--server-side", "--dry-run=server"]);
        // Strict: a field that is not there is an error, and not dropped.
        let dry = dry.args(["--validate=strict", "--filename=-"]);
        let ended = dry
            .input(&rendered)
            .and_then(Run::ended)
            .expect("kubectl runs");
        assert!(ended.status.success(), "{case}: {}", ended.stderr);
        // Pod Security warns of templates whose pods it would refuse.
        assert!(
            !ended.stderr.contains("Warning"),
            "{case}: {}",
            ended.stderr
        );
        assert_eq!(ended.stdout.lines().count(), objects(&case).len(), "{case}");
    }
}

#[test]
fn the_api_server_admits_the_operators_pod_and_would_refuse_another() {
    let plane = shared();
    for case in cases().keys() {
        let objects = objects(case);
        let mut template = the(&objects, "Deployment")["spec"]["template"].clone();
        let account = template["spec"]["serviceAccountName"].take();
        template["spec"]["serviceAccountName"] = json!("default");
        wait_for(
            plane,
            &["serviceaccount", "default", "--namespace", NAMESPACE],
        );
        assert!(string(&account).starts_with("prod-") || account == "tiles-operator");
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]});
        pod["metadata"] = json!({"name": "operator", "namespace": NAMESPACE});
        let ended = create_dry(plane, &pod);
        assert!(ended.status.success(), "{case}: {}", ended.stderr);

        pod["spec"]["containers"][0]["securityContext"] = Value::Null;
        let ended = create_dry(plane, &pod);
        assert!(
            ended.stderr.contains("violates PodSecurity"),
            "{case}: {}",
            ended.stderr
        );
    }
}

#[test]
fn the_operators_account_is_held_to_its_namespaces_and_its_verbs() {
    let plane = shared();
    let rendered = template(Some(&cases()["namespaces"]), &[]).stdout;
    apply(plane, &rendered);
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:prod-tile-proxy");
    for (allowed, verb, resource, namespace) in [
        (true, "patch", "deployments.apps", "rome"),
        (true, "create", "secrets", "oslo"),
        (false, "get", "secrets", "rome"),
        (false, "list", "secrets", "oslo"),
        (false, "patch", "secrets", "rome"),
        (false, "delete", "persistentvolumeclaims", "rome"), // rbac.deleteVolumes is false
        (false, "patch", "tileproxies.tiles.stella-ops.org", "rome"), // only their status
        (
            true,
            "patch",
            "tileproxies.tiles.stella-ops.org/status",
            "rome",
        ),
        (false, "create", "pods", "rome"),
        (false, "create", "roles.rbac.authorization.k8s.io", "rome"),
        (false, "get", "deployments.apps", "cairo"), // not one of its namespaces
        (false, "get", "deployments.apps", NAMESPACE),
        (
            true,
            "update",
            "leases.coordination.k8s.io/prod-tile-proxy",
            NAMESPACE,
        ),
        (
            false,
            "update",
            "leases.coordination.k8s.io/another",
            NAMESPACE,
        ),
        (
            false,
            "update",
            "leases.coordination.k8s.io/prod-tile-proxy",
            "rome",
        ),
    ] {
        let mut run = plane.kubectl(["auth", "can-i", verb]);
        // kubectl takes a slash for a name, and wants a subresource as an option.
        run = match resource.strip_suffix("/status") {
            Some(resource) => run.args([resource, "--subresource=status"]),
            None => run.arg(resource),
        };
        let run = run.args(["--namespace", namespace, &account]);
        let ended = run.ended().expect("kubectl runs");
        let what = format!("{verb} {resource} in {namespace}: {}", ended.stderr);
        assert_eq!(ended.stdout.trim() == "yes", allowed, "{what}");
    }
}

/// What docs/upgrade.md promises, from an older version of the chart to a removed one.
#[test]
fn resources_outlive_upgrade_rollback_and_removal_of_the_chart() {
    let plane = start();
    let older = older_chart::write(&paths::target().join("older-chart")).expect("written");
    helm(&plane, &["install", RELEASE, "--create-namespace"], &older);
    established(&plane, "tileproxies.tiles.stella-ops.org");
    apply(&plane, &restricted_namespace("logs"));
    apply(&plane, &text("examples/tileproxy.yaml"));
    apply(&plane, VOLUME);
    let crd = ["crd", "tileproxies.tiles.stella-ops.org"];
    let proxy = ["tileproxy", "tessera", "--namespace", "logs"];
    let volume = ["pvc", "tessera-replica-0", "--namespace", "logs"];
    let operator = ["deployment", "prod-tile-proxy", "--namespace", NAMESPACE];
    let before = [
        get(&plane, &crd),
        get(&plane, &proxy),
        get(&plane, &operator),
        get(&plane, &volume),
    ];
    assert!(is_older(&before[0]));
    let same = |when: &str| {
        let crd_now = get(&plane, &crd);
        assert_eq!(uid(&crd_now), uid(&before[0]), "{when}");
        let proxy_now = get(&plane, &proxy);
        assert_eq!(uid(&proxy_now), uid(&before[1]), "{when}");
        assert_eq!(proxy_now["spec"], before[1]["spec"], "{when}");
        assert_eq!(uid(&get(&plane, &volume)), uid(&before[3]), "{when}");
        crd_now
    };

    helm(&plane, &["upgrade", RELEASE], &chart());
    assert!(!is_older(&same("upgraded")), "the CRD is upgraded, too");
    let after = get(&plane, &operator);
    assert_eq!(
        uid(&after),
        uid(&before[2]),
        "and the operator in its place"
    );

    let back = plane.helm(["rollback", RELEASE, "1", "--namespace", NAMESPACE]);
    back.stdout().expect("rolled back");
    assert!(is_older(&same("rolled back")));

    // Handed over to someone who applies the CRD: it is not deleted with the release's interest.
    helm(
        &plane,
        &["upgrade", RELEASE, "--set=crds.enabled=false"],
        &chart(),
    );
    same("without the CRD");
    uninstall(&plane, RELEASE);
    same("uninstalled");
    assert!(!exists(&plane, &operator));

    // Under its own name it takes up what it left.
    helm(&plane, &["install", RELEASE], &chart());
    same("installed anew");
    uninstall(&plane, RELEASE);

    // Another release is told whose the CRD is, and takes it over as the page says.
    let other = plane.helm(["install", "other", "--namespace", NAMESPACE]);
    let ended = other.arg(chart()).ended().expect("helm runs");
    assert!(
        ended.stderr.contains("invalid ownership metadata"),
        "{}",
        ended.stderr
    );
    let page = text("docs/upgrade.md");
    let keys = [
        "meta.helm.sh/release-name",
        "meta.helm.sh/release-namespace",
    ];
    assert!(
        keys.iter().all(|key| page.contains(key)),
        "the page names both"
    );
    let annotate = plane.kubectl(["annotate", "--overwrite"]).args(crd);
    let values = [
        format!("{}=other", keys[0]),
        format!("{}={NAMESPACE}", keys[1]),
    ];
    annotate.args(values).stdout().expect("annotated");
    helm(&plane, &["install", "other"], &chart());
    same("taken over");

    // Only who asks for it loses everything.
    helm(
        &plane,
        &["upgrade", "other", "--set=crds.keep=false"],
        &chart(),
    );
    uninstall(&plane, "other");
    wait::until("the CRD to be gone", DEADLINE, PAUSE, || {
        Ok(match exists(&plane, &crd) {
            false => Seen::Ready(()),
            true => Seen::NotYet("it is there".to_owned()),
        })
    })
    .expect("gone");
    assert!(!exists(&plane, &proxy), "and with it every TileProxy");
    assert_eq!(uid(&get(&plane, &volume)), uid(&before[3]), "volumes stay");
}

fn helm(plane: &ControlPlane, args: &[&str], chart: &Path) {
    let run = plane.helm(args).args(["--namespace", NAMESPACE]).arg(chart);
    run.stdout().expect("helm");
}

fn uninstall(plane: &ControlPlane, release: &str) {
    let run = plane.helm(["uninstall", release, "--namespace", NAMESPACE]);
    run.stdout().expect("uninstalled");
}

fn create_dry(plane: &ControlPlane, object: &Value) -> Ended {
    let run = plane.kubectl(["create", "--dry-run=server", "--filename=-"]);
    let run = run.input(&object.to_string()).and_then(Run::ended);
    run.expect("kubectl runs")
}

/// Applies `manifest`; repeated, because what was just defined may not be served yet.
fn apply(plane: &ControlPlane, manifest: &str) {
    wait::until("kubectl apply", DEADLINE, PAUSE, || {
        let run = plane.kubectl([
            "apply",
            "--server-side",
            "--force-conflicts",
            "--filename=-",
        ]);
        Ok(match run.input(manifest)?.stdout() {
            Ok(said) => Seen::Ready(said),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .expect("applied");
}

fn established(plane: &ControlPlane, crd: &str) {
    let wait = [
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd",
    ];
    plane.kubectl(wait).arg(crd).stdout().expect("established");
}

fn wait_for(plane: &ControlPlane, object: &[&str]) {
    wait::until(&format!("{object:?}"), DEADLINE, PAUSE, || {
        Ok(match exists(plane, object) {
            true => Seen::Ready(()),
            false => Seen::NotYet("it is not there".to_owned()),
        })
    })
    .expect("created by a controller");
}

fn get(plane: &ControlPlane, object: &[&str]) -> Value {
    let said = plane
        .kubectl(["get", "--output=json"])
        .args(object)
        .stdout();
    serde_json::from_str(&said.expect("it is there")).expect("JSON")
}

fn exists(plane: &ControlPlane, object: &[&str]) -> bool {
    let ended = plane
        .kubectl(["get"])
        .args(object)
        .ended()
        .expect("kubectl runs");
    ended.status.success()
}

fn uid(object: &Value) -> &str {
    string(&object["metadata"]["uid"])
}

fn restricted_namespace(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata:
  name: {name}
  labels:
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/warn: restricted
"
    )
}

/// As the operator makes one for the example: without an owner.
const VOLUME: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: tessera-replica-0, namespace: logs}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
";

/// Longer than a loaded machine takes for any of it.
const DEADLINE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(200);

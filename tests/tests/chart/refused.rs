//! What Helm says to values that make no sense.

use super::{chart, helm, template};

#[test]
fn a_bad_value_is_refused_by_its_name() {
    for (setting, name) in [
        ("replicas=2", "replicas"), // a key that is not there, as after a slip of the pen
        ("image.repo=x", "repo"),
        ("image.repository=", "/image/repository"),
        ("image.digest=latest", "/image/digest"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("replicaCount=4", "/replicaCount"),
        ("replicaCount=-1", "/replicaCount"),
        ("replicaCount=two", "/replicaCount"),
        ("leaderElection.enabled=maybe", "/leaderElection/enabled"),
        (
            "podDisruptionBudget.minAvailable=0",
            "/podDisruptionBudget/minAvailable",
        ),
        (
            "podDisruptionBudget.minAvailable=3",
            "/podDisruptionBudget/minAvailable",
        ),
        ("watchNamespaces=rome", "/watchNamespaces"),
        ("watchNamespaces={rome,rome}", "/watchNamespaces"),
        ("resync=9s", "/resync"),
        ("resync=10", "/resync"),
        ("logFormat=xml", "/logFormat"),
        ("extraEnv={A}", "/extraEnv/0"),
        ("volumeMounts[0].name=x", "/volumeMounts/0"),
        ("extraObjects={1}", "/extraObjects/0"),
        ("serviceAccount.automount=1", "/serviceAccount/automount"),
        ("rbac.deleteVolumes=never", "/rbac/deleteVolumes"),
        ("serviceMonitor.interval=often", "/serviceMonitor/interval"),
        (
            "prometheusRule.runbookURL=docs",
            "/prometheusRule/runbookURL",
        ),
        (
            "prometheusRule.checkpointAgeSeconds=0",
            "/prometheusRule/checkpointAgeSeconds",
        ),
        (
            "prometheusRule.disabled={SplitView}",
            "/prometheusRule/disabled/0",
        ),
        (
            "networkPolicy.apiServerPorts={65536}",
            "/networkPolicy/apiServerPorts/0",
        ),
        ("commonLabels.a=1", "/commonLabels/a"), // a label is text: --set-string
    ] {
        let ended = template(None, &[setting]);
        assert!(!ended.status.success(), "{setting} went through");
        assert!(ended.stderr.contains(name), "{setting}: {}", ended.stderr);
    }
}

#[test]
fn the_other_side_of_each_bound_is_taken() {
    for setting in [
        "replicaCount=0",
        "replicaCount=3",
        "podDisruptionBudget.minAvailable=2",
        "resync=10s",
        "serviceMonitor.interval=1m30s",
        "prometheusRule.checkpointAgeSeconds=1",
        "networkPolicy.apiServerPorts={65535}",
        "global.imageRegistry=x", // of a parent chart, and none of ours
    ] {
        let ended = template(None, &[setting]);
        assert!(ended.status.success(), "{setting}: {}", ended.stderr);
    }
}

#[test]
fn values_that_contradict_each_other_are_told_apart() {
    for (settings, says) in [
        (
            [
                "serviceMonitor.enabled=true",
                "metrics.service.enabled=false",
            ],
            "serviceMonitor.enabled needs metrics.service.enabled",
        ),
        (
            ["serviceAccount.create=false", "serviceAccount.name="],
            "serviceAccount.name is needed when serviceAccount.create is false",
        ),
        (
            [
                "prometheusRule.enabled=true",
                "prometheusRule.disabled={TileProxySplitViews}",
            ],
            "prometheusRule.disabled: there is no alert TileProxySplitViews",
        ),
    ] {
        let ended = template(None, &settings);
        assert!(!ended.status.success(), "{settings:?} went through");
        assert!(
            ended.stderr.contains(says),
            "{settings:?}: {}",
            ended.stderr
        );
    }
}

#[test]
fn an_older_kubernetes_is_refused() {
    for (version, taken) in [("1.32.9", false), ("1.33.0", true), ("1.36.3-gke.1", true)] {
        let run = helm(&["template", "prod"]).arg(chart());
        let ended = run
            .args(["--kube-version", version])
            .ended()
            .expect("helm runs");
        assert_eq!(ended.status.success(), taken, "{version}: {}", ended.stderr);
    }
}

#[test]
fn notes_warn_of_what_deletes_everything() {
    for (settings, says) in [
        ("crds.keep=true", "Do not delete the CRD"),
        ("crds.keep=false", "WARNING: crds.keep is false"),
        (
            "crds.enabled=false",
            "Apply crds/tileproxies.yaml before each upgrade",
        ),
        (
            "watchNamespaces={rome,oslo}",
            "watches the namespaces rome, oslo",
        ),
        (
            "metrics.service.enabled=true",
            "helm -n tiles-system test prod",
        ),
    ] {
        let run = helm(&["install", "prod"]).arg(chart());
        let run = run.args([
            "--dry-run=client",
            "--namespace",
            "tiles-system",
            "--set",
            settings,
        ]);
        let notes = run.stdout().expect("helm runs");
        assert!(notes.contains(says), "{settings}: {notes}");
    }
}

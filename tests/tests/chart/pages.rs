//! What is written about the chart: its README, its schema, its entry in catalogues of charts.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{list, objects, string, text, the, yaml};

/// One value as `values.yaml` explains it.
struct Explained {
    path: String,
    meaning: String,
}

/// The values that have a comment `# --`, which goes on to the next line that is not a comment.
fn explained(values: &str) -> Vec<Explained> {
    let mut explained = Vec::new();
    let mut keys: Vec<(usize, &str)> = Vec::new();
    let mut meaning: Option<String> = None;
    for line in values.lines() {
        let text = line.trim_start();
        if let Some(first) = text.strip_prefix("# -- ") {
            meaning = Some(first.to_owned());
            continue;
        }
        if let (Some(more), Some(meaning)) = (text.strip_prefix("# "), &mut meaning) {
            meaning.push(' ');
            meaning.push_str(more);
            continue;
        }
        let Some((key, _)) = text.split_once(':').filter(|_| !text.starts_with('#')) else {
            continue;
        };
        let indent = line.len() - text.len();
        keys.retain(|(outer, _)| *outer < indent);
        keys.push((indent, key));
        if let Some(meaning) = meaning.take() {
            let path: Vec<&str> = keys.iter().map(|(_, key)| *key).collect();
            let path = path.join(".");
            explained.push(Explained { path, meaning });
        }
    }
    explained
}

/// The value at a dotted path.
fn at<'a>(values: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(values, |value, key| &value[key])
}

#[test]
fn the_readme_lists_every_value_with_its_default_and_its_comment() {
    let source = text("charts/tile-proxy/values.yaml");
    let values = yaml(&source);
    let mut rows: Vec<String> = explained(&source)
        .iter()
        .map(|Explained { path, meaning }| {
            let default = match at(&values, path) {
                Value::String(text) if !text.is_empty() => text.clone(),
                other => other.to_string(),
            };
            format!("| `{path}` | `{default}` | {meaning} |")
        })
        .collect();
    rows.sort();
    let readme = text("charts/tile-proxy/README.md");
    let listed: Vec<&str> = readme
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    assert_eq!(
        listed,
        rows,
        "charts/tile-proxy/README.md should have\n{}",
        rows.join("\n")
    );
}

/// Paths of values: a map goes on, unless it is empty or explained as a whole.
fn paths(value: &Value, path: &str, whole: &BTreeSet<String>, into: &mut BTreeSet<String>) {
    match value.as_object() {
        Some(map) if !map.is_empty() && !whole.contains(path) => {
            for (key, value) in map {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                paths(value, &path, whole, into);
            }
        }
        _ => {
            into.insert(path.to_owned());
        }
    }
}

/// Paths that a schema knows: an object with properties goes on.
fn schema_paths(schema: &Value, path: &str, into: &mut BTreeSet<String>) {
    match schema["properties"].as_object() {
        Some(properties) => {
            assert_eq!(
                schema["additionalProperties"], false,
                "{path:?} takes any key"
            );
            for (key, schema) in properties {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                schema_paths(schema, &path, into);
            }
        }
        None => {
            into.insert(path.to_owned());
        }
    }
}

#[test]
fn every_value_is_explained_and_has_a_schema_and_no_other_has() {
    let source = text("charts/tile-proxy/values.yaml");
    let explained: BTreeSet<String> = explained(&source).into_iter().map(|e| e.path).collect();
    let mut values = BTreeSet::new();
    paths(&yaml(&source), "", &explained, &mut values);
    assert_eq!(explained, values, "a comment `# --` for each value");
    let schema = text("charts/tile-proxy/values.schema.json");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let mut known = BTreeSet::new();
    schema_paths(&schema, "", &mut known);
    assert!(known.remove("global"), "what parent charts set for all");
    assert_eq!(known, values);
}

#[test]
fn the_entry_in_catalogues_says_what_is_true() {
    let chart = yaml(&text("charts/tile-proxy/Chart.yaml"));
    let annotation = |name: &str| {
        yaml(string(
            &chart["annotations"][format!("artifacthub.io/{name}")],
        ))
    };
    let objects = objects("default");
    let image = &the(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(annotation("images")[0]["image"], *image);
    assert_eq!(
        annotation("crdsExamples")[0],
        yaml(&text("examples/tileproxy.yaml"))
    );
    let crd = the(&objects, "CustomResourceDefinition");
    let entry = &annotation("crds")[0];
    assert_eq!(entry["name"], crd["metadata"]["name"]);
    assert_eq!(entry["kind"], crd["spec"]["names"]["kind"]);
    assert_eq!(entry["version"], crd["spec"]["versions"][0]["name"]);
    for change in list(&annotation("changes")) {
        assert!(["added", "changed", "fixed", "removed"].contains(&string(&change["kind"])));
    }
    let workspace = text("Cargo.toml");
    let version = format!("version = \"{}\"", string(&chart["appVersion"]));
    assert!(
        workspace.contains(&version),
        "the chart installs this version"
    );
}

#[test]
fn troubleshooting_names_metrics_and_reasons_that_there_are() {
    let page = text("docs/troubleshooting.md");
    let (metrics, conditions) = (text("docs/metrics.md"), text("docs/conditions.md"));
    let mut found = 0;
    let codes = page.split('`').skip(1).step_by(2);
    for code in codes {
        let word = code.split([' ', '{', '=']).next().unwrap_or_default();
        let known = match word {
            metric if metric.starts_with("tile_proxy_") => &metrics,
            reason if is_reason(reason) => &conditions,
            _ => continue,
        };
        found += 1;
        assert!(known.contains(word), "{word} is not explained");
    }
    assert!(found > 30, "found {found} names");
}

/// Whether a word looks like a condition's type or reason: `ClaimPending`, and not `Warning: 110`.
fn is_reason(word: &str) -> bool {
    // Words of Kubernetes that look the same.
    let theirs = [
        "ContainerCreating",
        "ErrImagePull",
        "ImagePullBackOff",
        "Pending",
        "Retry-After",
        "Terminating",
        "Warning:",
        "NS",
        "NAME",
    ];
    word.starts_with(|first: char| first.is_ascii_uppercase()) && !theirs.contains(&word)
}

/// Tilt is not run here, so its file is held against what it names.
#[test]
fn the_tiltfile_names_what_there_is() {
    let tiltfile = text("Tiltfile");
    let values = yaml(&text("charts/tile-proxy/values.yaml"));
    let settings = tiltfile
        .lines()
        .find_map(|line| line.trim().strip_prefix("set=["));
    let settings = settings.expect("settings of the chart");
    for setting in settings.split('\'').filter(|part| part.contains('=')) {
        let (path, _) = setting.split_once('=').expect("as just seen");
        assert!(
            !at(&values, path).is_null(),
            "{path} is no value of the chart"
        );
    }
    let objects = objects("default");
    let deployment = the(&objects, "Deployment");
    // Tilt's release has the name of the chart, which is then the name of the Deployment.
    assert_eq!(string(&deployment["metadata"]["name"]), "prod-tile-proxy");
    for name in [
        "name='tile-proxy'",
        "k8s_resource('tile-proxy'",
        "'charts/tile-proxy'",
    ] {
        assert!(tiltfile.contains(name), "the Tiltfile has no {name}");
    }
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["ports"][0]["containerPort"], 8080);
    assert!(
        tiltfile.contains("'8080:8080'"),
        "the port of probes and metrics"
    );
    let operand = list(&container["env"])
        .iter()
        .any(|env| env["name"] == "TILE_PROXY_OPERATOR_OPERAND_IMAGE");
    assert!(operand && tiltfile.contains("match_in_env_vars=True"));
    // And the fields it replaces in a TileProxy.
    let crd = yaml(&text("crds/tileproxies.yaml"));
    let version = &list(&crd["spec"]["versions"])[0]["schema"]["openAPIV3Schema"];
    let image = &version["properties"]["spec"]["properties"]["image"]["properties"];
    for field in ["repository", "tag"] {
        assert!(!image[field].is_null(), "spec.image has no {field}");
        assert!(tiltfile.contains(&format!("'{field}'")));
    }
}

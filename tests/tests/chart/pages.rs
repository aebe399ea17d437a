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

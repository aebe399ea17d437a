//! Renders the CRD from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::Value;

use super::TileProxy;

/// First lines of the committed file.
const HEADER: &str = "\
# Generated from operator/src/crd.rs. Do not edit; run `cargo xtask crds`.
---
";

/// The CRD as the API server gets it.
pub fn crd() -> CustomResourceDefinition {
    // The tree is the CRD itself with texts and formats changed, so it reads back.
    serde_json::from_value(tree()).unwrap_or_else(|_| TileProxy::crd())
}

/// The CRD as a YAML file.
pub fn crd_yaml() -> String {
    // A tree of strings, numbers and lists always has a YAML form.
    let yaml = serde_saphyr::to_string(&tree()).unwrap_or_default();
    format!("{HEADER}{}\n", yaml.trim_end())
}

fn tree() -> Value {
    let mut tree = serde_json::to_value(TileProxy::crd()).unwrap_or_default();
    tidy(&mut tree);
    tree
}

/// Unwraps the lines of descriptions, which `kubectl explain` wraps itself, and removes formats
/// that are Rust's and not OpenAPI's, which the API server warns about.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get_mut("description") {
                let paragraphs = text.split("\n\n").map(|p| p.replace('\n', " "));
                *text = paragraphs.collect::<Vec<_>>().join("\n\n");
            }
            if map
                .get("format")
                .and_then(Value::as_str)
                .is_some_and(|f| f.starts_with("uint"))
            {
                map.remove("format");
            }
            map.values_mut().for_each(tidy);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_crd_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/tileproxies.yaml");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == crd_yaml(),
            "crds/tileproxies.yaml differs from operator/src/crd.rs: run `cargo xtask crds`"
        );
    }

    #[test]
    fn the_default_of_every_object_is_what_an_empty_one_means() {
        let crd = tree();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        let mut checked = Vec::new();
        defaults("spec", &schema["spec"], &mut checked);
        for object in ["spec.cache", "spec.cache.retention", "spec.sync"] {
            assert!(checked.iter().any(|path| path == object), "{object}");
        }
    }

    fn defaults(path: &str, schema: &Value, checked: &mut Vec<String>) {
        let properties = schema["properties"].as_object();
        if let (Some(default), Some(properties)) = (schema["default"].as_object(), properties) {
            for (key, property) in properties {
                assert_eq!(default.get(key), property.get("default"), "{path}.{key}");
            }
            checked.push(path.to_owned());
        }
        for (key, property) in properties.into_iter().flatten() {
            defaults(&format!("{path}.{key}"), property, checked);
        }
    }

    #[test]
    fn every_field_is_described_and_bounded() {
        let crd = tree();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        walk("spec", &schema["spec"]);
    }

    /// Kubernetes' own types are not ours to describe or bound.
    const FOREIGN: [&str; 10] = [
        "spec.affinity",
        "spec.extraEnv",
        "spec.networkPolicy.allowAdminFrom",
        "spec.networkPolicy.allowFrom",
        "spec.podSecurityContext.seLinuxOptions",
        "spec.resources",
        "spec.securityContext",
        "spec.sync.resources",
        "spec.tolerations",
        "spec.topologySpreadConstraints",
    ];

    fn walk(path: &str, schema: &Value) {
        if schema["type"] == "array" {
            assert!(schema["maxItems"].is_u64(), "{path} needs a length");
        }
        if schema["type"] == "string" {
            assert!(
                schema["maxLength"].is_u64() || schema["enum"].is_array(),
                "{path} needs a length"
            );
        }
        if FOREIGN.contains(&path) {
            return;
        }
        if schema["items"].is_object() {
            walk(&format!("{path}[]"), &schema["items"]);
        }
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            assert!(
                property["description"].is_string(),
                "{path} needs a description"
            );
            walk(&path, property);
        }
    }
}

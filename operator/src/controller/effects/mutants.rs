//! Changes of a resource, one at every leaf of its schema: valid ones, those at a bound and beyond it,
//! and senseless ones.
//!
//! Also read by the tests against a real API server, which carry them out.

use std::{fs, path::PathBuf};

use serde_json::{Map, Value, json};

/// Parts of Kubernetes' own types, which go into children as they are.
pub(crate) const FOREIGN: [&str; 10] = [
    "affinity",
    "extraEnv",
    "networkPolicy.allowAdminFrom",
    "networkPolicy.allowFrom",
    "podSecurityContext.seLinuxOptions",
    "resources",
    "securityContext",
    "sync.resources",
    "tolerations",
    "topologySpreadConstraints",
];

/// Fields that decide what the operator does, and show in no child.
pub(crate) const ABOUT_THE_OPERATOR: [&str; 2] = ["cache.retention.whenScaled", "paused"];

/// Strings of every form that some field takes.
const STRINGS: [&str; 16] = [
    "",
    "other",
    "7s",
    "17m",
    "2h",
    "21Gi",
    "200Mi",
    "https://other.example.net/log/",
    "http://other.example.net:3128",
    "https://rekor.sigstore.dev/",
    "@daily",
    "Europe/Vienna",
    "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "debug",
    "10.9.0.0/16",
    "rome.example.net/2026h1+e920e5d1+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx",
];

/// Longer than any string of ours may be, in characters.
const TOO_LONG: usize = 5_000;

/// Whether a leaf of ours is at `field`: nothing is in it, or parts of Kubernetes' own types.
pub(crate) fn is_leaf_of_ours(schema: &Value, field: &str) -> bool {
    FOREIGN.contains(&field) || is_leaf(schema, field)
}

/// Whether nothing is in what `schema` describes.
pub(crate) fn is_leaf(schema: &Value, _field: &str) -> bool {
    !schema["properties"].is_object() && !schema["items"].is_object()
}

/// Calls `see` with the name, the place and the schema of every leaf that `value` has.
pub(crate) fn visit(
    schema: &Value,
    value: &Value,
    (field, pointer): (&str, &str),
    is_leaf: fn(&Value, &str) -> bool,
    see: &mut impl FnMut(&str, &str, &Value),
) {
    if is_leaf(schema, field) {
        see(field, pointer, schema);
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                let at = (&*join(field, key), &*pointer);
                visit(&schema["properties"][key], value, at, is_leaf, see);
            }
        }
        Value::Array(items) => {
            for (n, value) in items.iter().enumerate() {
                let at = (field, &*format!("{pointer}/{n}"));
                visit(&schema["items"], value, at, is_leaf, see);
            }
        }
        _ => panic!("{field} is neither a leaf nor holds any"),
    }
}

/// The name of `key` in `field`.
pub(crate) fn join(field: &str, key: &str) -> String {
    let dot = if field.is_empty() { "" } else { "." };
    format!("{field}{dot}{key}")
}

/// Variants of `object` that differ at `pointer`, and in nothing else.
pub(crate) fn mutants(object: &Value, pointer: &str, schema: &Value) -> Vec<Value> {
    let have = object.pointer(pointer).expect("visited");
    let mut values: Vec<Value> = match have {
        Value::Bool(yes) => vec![json!(!yes)],
        Value::Number(_) => {
            // Kubernetes' own numbers have none.
            let (min, max) = bounds(schema).unwrap_or((0, 2_147_483_647));
            [min - 1, min, min + 1, max, max + 1]
                .map(Value::from)
                .to_vec()
        }
        Value::String(_) => match schema["enum"].as_array() {
            Some(variants) => [&variants[..], &[json!("Senseless")]].concat(),
            None => STRINGS.map(Value::from).to_vec(),
        },
        Value::Array(items) => vec![json!([]), json!([&items[..], &items[..]].concat())],
        Value::Object(_) => vec![
            json!({}),
            json!({"example.net/other": "1"}),
            json!({"no key of anything!": "1"}),
        ],
        Value::Null => Vec::new(),
    };
    values.push(match have {
        Value::String(_) => json!("a".repeat(TOO_LONG)),
        _ => json!("senseless"),
    });
    let set = values.into_iter().map(|value| {
        let mut mutant = object.clone();
        if let Some(place) = mutant.pointer_mut(pointer) {
            *place = value;
        }
        mutant
    });
    set.chain(without(object, pointer)).collect()
}

/// `object` without what is at `pointer`.
fn without(object: &Value, pointer: &str) -> Option<Value> {
    let (parent, key) = pointer.rsplit_once('/')?;
    let mut mutant = object.clone();
    match mutant.pointer_mut(parent)? {
        Value::Object(map) => map.remove(key),
        Value::Array(items) => Some(items.remove(key.parse().ok()?)),
        _ => None,
    };
    Some(mutant)
}

/// The least and the greatest number, where there is one.
pub(crate) fn bounds(schema: &Value) -> Option<(i64, i64)> {
    let bound = |name: &str| {
        // Written as a number with a fraction by some schemas.
        let bound = schema[name].as_f64()?;
        format!("{bound:.0}").parse::<i64>().ok()
    };
    Some((bound("minimum")?, bound("maximum")?))
}

/// The resource in the file `name` of the examples.
pub(crate) fn example(name: &str) -> Value {
    let text = fs::read_to_string(examples().join(name)).expect(name);
    let object: Map<String, Value> = serde_saphyr::from_str(&text).expect(name);
    Value::Object(object)
}

/// Where the examples are.
pub(crate) fn examples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

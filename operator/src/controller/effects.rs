//! Tests of the spec as a whole: each example is valid, and no field is without effect.
//!
//! The fields are taken from the schema of the CRD, so a new one is tested by being there. The
//! starting points are the examples, which therefore have all of them: `full.yaml` whatever goes
//! together with one log, others several logs, and TUF.

mod mutants;

use std::{collections::BTreeMap, fs};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};
use tile_proxy::config::Config;

use self::mutants::{
    ABOUT_THE_OPERATOR, bounds, example, examples, is_leaf_of_ours, join, mutants, visit,
};
use super::{
    Defaults,
    build::{Prepared, Resources, build, config},
    validate::{ValidProxy, validate},
};
use crate::crd::{TileProxy, crd};

/// Fields that say only how another is to be understood: each change of one alone is refused.
const REFUSED_ALONE: [&str; 2] = ["dangerAcceptUnsigned", "tuf.validateCheckpointSignature"];

#[test]
fn every_field_shows_in_a_child_or_is_refused() {
    let schema = spec_schema();
    let mut seen = BTreeMap::new();
    for (_, example) in proxies() {
        changes(&schema, &example, &mut seen);
    }
    for (field, shown) in &seen {
        let refused = REFUSED_ALONE.contains(&field.as_str());
        assert_ne!(*shown, refused, "no other value of {field} was accepted");
    }
    let mut fields = Vec::new();
    leaves(&schema, "", &mut fields);
    assert!(fields.len() > 60, "{fields:?}");
    for field in fields {
        assert!(seen.contains_key(&field), "no example has {field}");
    }
}

/// Changes each leaf of `example`, and notes for each field whether one of its changes was accepted.
fn changes(schema: &Value, example: &Value, seen: &mut BTreeMap<String, bool>) {
    let base = accepted(example).expect("a valid example");
    let built = build(&base);
    visit(
        schema,
        &example["spec"],
        ("", "/spec"),
        is_leaf_of_ours,
        &mut |field, pointer, schema| {
            let shown = seen.entry(field.to_owned()).or_insert(false);
            for mutant in mutants(example, pointer, schema) {
                let what = format!(
                    "{field} = {}",
                    mutant.pointer(pointer).unwrap_or(&Value::Null)
                );
                let in_range = within(mutant.pointer(pointer), schema);
                match accepted(&mutant) {
                    Ok(_) if !in_range => panic!("{what} is out of range, and accepted"),
                    Ok(valid) if valid == base => {} // another spelling, or the default
                    Ok(valid) => {
                        let effect = shows(&built, &valid);
                        assert!(
                            effect || ABOUT_THE_OPERATOR.contains(&field),
                            "{what} was accepted and changes no child"
                        );
                        *shown = true;
                    }
                    Err(why) => assert!(why.len() > 10, "{what}: {why}"),
                }
            }
        },
    );
}

#[test]
fn every_example_is_valid_and_starts_a_proxy() {
    let all = proxies();
    for (name, object) in &all {
        let mut unknown = Vec::new();
        unknown_keys(&spec_schema(), &object["spec"], "spec", &mut unknown);
        assert_eq!(unknown, Vec::<String>::new(), "examples/{name}");
        let valid = accepted(object).unwrap_or_else(|why| panic!("examples/{name}: {why}"));
        let told = config(&valid);
        let none = Vec::<(String, String)>::new();
        let read = Config::parse("config.yaml", &told.to_yaml(), none).map_err(|e| e.to_string());
        assert_eq!(read, Ok(told), "examples/{name}");
        let proxy: TileProxy = serde_json::from_value(object.clone()).expect("as just now");
        assert!(proxy.validate_cel().is_ok(), "examples/{name}");
    }
    assert!(all.len() >= 14, "found {} examples", all.len());
}

/// P19: what is harmless alone may not be together; then it is refused.
#[test]
fn whatever_is_combined_is_refused_or_built_and_taken_by_the_proxy() {
    const SAMPLES: u64 = 3_000;
    let examples: Vec<(Value, Vec<(String, Value)>)> = ["full", "several-logs", "tuf-private"]
        .map(|name| example(&format!("{name}.yaml")))
        .into_iter()
        .map(|example| {
            let places = places(&example);
            (example, places)
        })
        .collect();
    let (mut built, mut refused) = (0, 0);
    for seed in 0..SAMPLES {
        let mut random = StdRng::seed_from_u64(seed);
        let (example, places) = examples.choose(&mut random).expect("some");
        let mut object = example.clone();
        for _ in 0..random.random_range(2..=6) {
            let (pointer, schema) = places.choose(&mut random).expect("some");
            // One that another change has taken away is not there to be changed.
            if object.pointer(pointer).is_some() {
                let mutants = mutants(&object, pointer, schema);
                object = mutants.choose(&mut random).expect("some").clone();
            }
        }
        match accepted(&object) {
            Ok(valid) => {
                assert_eq!(build(&valid), build(&valid), "seed {seed}: {object}");
                built += 1;
            }
            Err(_) => refused += 1,
        }
    }
    let least = SAMPLES / 20;
    assert!(
        built > least && refused > least,
        "{built} built, {refused} refused"
    );
}

/// Every leaf that `example` has: where, and what may be there.
fn places(example: &Value) -> Vec<(String, Value)> {
    let mut places = Vec::new();
    visit(
        &spec_schema(),
        &example["spec"],
        ("", "/spec"),
        is_leaf_of_ours,
        &mut |_, pointer, schema| places.push((pointer.to_owned(), schema.clone())),
    );
    places
}

/// Parses a resource as the operator does, and lets the proxy look at what it would be told. The rules
/// of the CRD are not asked: in a cluster with an older one they are not there.
fn accepted(object: &Value) -> Result<ValidProxy, String> {
    let mut object = object.clone();
    object["metadata"]["uid"] = json!("5a11e7");
    let proxy: TileProxy = serde_json::from_value(object).map_err(|e| e.to_string())?;
    let defaults = Defaults {
        operand_image: "mirror.example.net:5000/tile-proxy:7.1".to_owned(),
        ..Defaults::default()
    };
    let valid = validate(&proxy, &defaults).map_err(|e| e.to_string())?;
    let mut told = config(&valid);
    if valid.peering {
        told.peers.this = valid.names.replica(0); // from the environment, each its own
    }
    let told = told.check().map(|_| ());
    assert_eq!(told, Ok(()), "validate() takes what the proxy does not");
    Ok(valid)
}

fn shows(base: &Resources<Prepared>, mutant: &ValidProxy) -> bool {
    build(mutant) != *base
}

fn within(value: Option<&Value>, schema: &Value) -> bool {
    let Some(number) = value.and_then(Value::as_i64) else {
        return true;
    };
    let (min, max) = bounds(schema).expect("a bounded number");
    (min..=max).contains(&number)
}

/// The names of every leaf that there is.
fn leaves(schema: &Value, field: &str, found: &mut Vec<String>) {
    if is_leaf_of_ours(schema, field) {
        found.push(field.to_owned());
    } else if schema["items"].is_object() {
        leaves(&schema["items"], field, found);
    } else {
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            leaves(property, &join(field, key), found);
        }
    }
}

/// Keys of `value` that `schema` does not know, which the API server would drop.
fn unknown_keys(schema: &Value, value: &Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let property = &schema["properties"][key];
                if property.is_object() {
                    unknown_keys(property, value, &format!("{path}.{key}"), unknown);
                } else if schema["additionalProperties"].is_null() {
                    unknown.push(format!("{path}.{key}"));
                }
            }
        }
        Value::Array(items) => {
            for value in items {
                unknown_keys(&schema["items"], value, path, unknown);
            }
        }
        _ => {}
    }
}

fn spec_schema() -> Value {
    let crd = serde_json::to_value(crd()).expect("a tree");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Every TileProxy among the examples, by the name of its file.
fn proxies() -> Vec<(String, Value)> {
    let files = fs::read_dir(examples()).expect("examples");
    let names = files.map(|file| {
        file.expect("a file")
            .file_name()
            .to_string_lossy()
            .into_owned()
    });
    names
        .filter(|name| name.ends_with(".yaml"))
        .map(|name| (example(&name), name))
        .filter(|(object, _)| object["kind"] == "TileProxy")
        .map(|(object, name)| (name, object))
        .collect()
}

//! The chart, by real Helm: what it renders from each set of values below its `ci/`, what it
//! refuses, what a real API server makes of it, and whether its pages, its schema and its alerts say
//! what is there.
//!
//! Needs Go the first time, to build Helm and the API server. `cargo xtask test` runs it. By hand:
//! `cargo test -p tile-proxy-tests --features chart --test chart`.

mod alerts;
mod installed;
mod pages;
mod refused;
mod rendered;
mod rights;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use tile_proxy_tests::paths;
use tile_proxy_tests::progress::Progress;
use tile_proxy_tests::run::{Ended, Run};
use tile_proxy_tests::toolchain::{HELM, Toolchain};

/// The release all tests render: neither the chart's name nor a default namespace.
const RELEASE: &str = "prod";
const NAMESPACE: &str = "tiles-system";

fn chart() -> PathBuf {
    paths::checkout().join("charts/tile-proxy")
}

/// The file `path` of the checkout.
fn text(path: &str) -> String {
    let path = paths::checkout().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The sets of values below the chart's `ci/`, by name.
fn cases() -> BTreeMap<String, PathBuf> {
    let files = fs::read_dir(chart().join("ci")).expect("charts/tile-proxy/ci");
    let cases: BTreeMap<_, _> = files
        .map(|file| file.expect("readable").path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix("-values.yaml")?;
            Some((name.to_owned(), path.clone()))
        })
        .collect();
    assert!(
        cases.contains_key("default") && cases.len() >= 5,
        "{cases:?}"
    );
    cases
}

/// Helm, built the first time.
fn helm(args: &[&str]) -> Run<'static> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let toolchain = Toolchain::open().expect("a cache");
        toolchain
            .build(&[HELM], &Progress::quiet())
            .expect("helm can be built");
        toolchain.path(HELM)
    });
    Run::new(program).args(args)
}

/// `helm template` with the values of `file` and `settings` (`--set`).
fn template(file: Option<&Path>, settings: &[&str]) -> Ended {
    let mut run = helm(&["template", RELEASE])
        .arg(chart())
        .args(["--namespace", NAMESPACE]);
    if let Some(file) = file {
        run = run.arg("--values").arg(file);
    }
    for setting in settings {
        run = run.args(["--set", setting]);
    }
    run.ended().expect("helm runs")
}

/// The objects of a case, tests included.
fn objects(case: &str) -> Vec<Value> {
    objects_with(case, &[])
}

/// The objects of a case with some settings changed.
fn objects_with(case: &str, settings: &[&str]) -> Vec<Value> {
    let ended = template(Some(&cases()[case]), settings);
    assert!(ended.status.success(), "{case}: {}", ended.stderr);
    let documents: Vec<Value> = serde_saphyr::from_multiple(&ended.stdout)
        .unwrap_or_else(|error| panic!("{case}: {error}"));
    documents.into_iter().filter(|d| !d.is_null()).collect()
}

/// Those of one kind.
fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|o| o["kind"] == kind).collect()
}

/// The only one of its kind.
fn the<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    match of_kind(objects, kind)[..] {
        [only] => only,
        ref others => panic!("{} of kind {kind}, not one", others.len()),
    }
}

/// The pods of `objects`: those that are one, and those of templates.
fn pods(objects: &[Value]) -> Vec<&Value> {
    let direct = of_kind(objects, "Pod").into_iter().map(|pod| &pod["spec"]);
    let templates = of_kind(objects, "Deployment").into_iter();
    direct
        .chain(templates.map(|d| &d["spec"]["template"]["spec"]))
        .collect()
}

/// Text of a value that has to be one.
fn string(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not text: {value}"))
}

/// Elements of a value that has to be a list.
fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("not a list: {value}"))
}

//! What stands in `examples/`, on a cluster.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Scene;
use crate::cluster::pki::Authority;
use crate::image::helpers;
use crate::paths;
use crate::progress::Step;
use crate::real_log::NAMESPACE;
use crate::tile_proxy::{PAUSE, Pod, TileProxy};
use crate::wait::{self, Seen};

/// Every TileProxy of `examples/`, each in a namespace of its own with what it refers to, brings up a
/// replica. The logs they name are out of reach, which is no reason for a replica not to be ready.
pub(super) fn all(scene: &Scene<'_>, step: &Step<'_>) -> Result<String> {
    let mut examples = BTreeMap::new();
    for entry in fs::read_dir(paths::checkout().join("examples"))? {
        let path = entry?.path();
        let text = match path.extension() {
            Some(extension) if extension == "yaml" => fs::read_to_string(&path)?,
            _ => continue,
        };
        if text.lines().any(|line| line == "kind: TileProxy") {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            examples.insert(stem.into_owned(), text);
        }
    }
    ensure!(examples.len() >= 14, "found {} examples", examples.len());
    let (elsewhere, examples): (Vec<_>, Vec<_>) = examples
        .into_iter()
        .partition(|(name, _)| NOT_HERE.iter().any(|(there, _)| there == name));
    let surroundings = surroundings()?;
    for (example, text) in &examples {
        step.note(example);
        let there = format!("namespace: {NAMESPACE}");
        ensure!(text.contains(&there), "{example} is not in {NAMESPACE}");
        let here = format!("namespace: {}", namespace(example));
        let text = text.replace(&there, &here);
        let text = if scene.full { text } else { smaller(&text) };
        let surroundings = surroundings.replace("@NAMESPACE@", &namespace(example));
        scene
            .cluster
            .apply(&format!("{surroundings}---\n{text}"))
            .with_context(|| example.clone())?;
    }
    let served = await_all(scene, &examples, step);
    let namespaces: Vec<String> = examples.iter().map(|(name, _)| namespace(name)).collect();
    if served.is_err() {
        let namespaces: Vec<&str> = namespaces.iter().map(String::as_str).collect();
        served.with_context(|| scene.cluster.diagnosis(&namespaces))?;
    }
    scene
        .cluster
        .kubectl(["delete", "namespace", "--wait=false"])
        .args(&namespaces)
        .stdout()?;
    ensure!(
        elsewhere.len() == NOT_HERE.len(),
        "not all are there: {NOT_HERE:?}"
    );
    let not_run = NOT_HERE.map(|(name, why)| format!("{name}, {why}"));
    Ok(format!(
        "{} serve; not run: {}",
        examples.len(),
        not_run.join("; ")
    ))
}

fn await_all(scene: &Scene<'_>, examples: &[(String, String)], step: &Step<'_>) -> Result<()> {
    wait::until("a replica of every example", DEADLINE, PAUSE, || {
        let mut waiting = Vec::new();
        for (example, text) in examples {
            let proxy = TileProxy {
                cluster: scene.cluster,
                namespace: &namespace(example),
                name: name(text).with_context(|| format!("{example} has no name"))?,
            };
            // Not its status: one of them counts a replica two minutes after it is ready.
            if !proxy.pods()?.iter().any(Pod::is_ready) {
                waiting.push(example.as_str());
            }
        }
        step.note(format_args!("waiting for {}", waiting.join(", ")));
        Ok(if waiting.is_empty() {
            Seen::Ready(())
        } else {
            Seen::NotYet(format!("waiting for {}", waiting.join(", ")))
        })
    })
}

/// `examples/standalone/sidecar.yaml` with our image and our client: which knows nothing but its own
/// loopback, and reads there.
pub(super) fn sidecar(scene: &Scene<'_>, step: &Step<'_>) -> Result<String> {
    let client = helpers::client(scene.cluster.toolchain())?;
    scene.cluster.load_image(&client.archive)?;
    let example = fs::read_to_string(paths::checkout().join("examples/standalone/sidecar.yaml"))?;
    let replace = |text: String, from: &str, to: &str| -> Result<String> {
        ensure!(
            text.contains(from),
            "examples/standalone/sidecar.yaml has no {from}"
        );
        Ok(text.replace(from, to))
    };
    let example = replace(
        example,
        "stella-ops/tile-proxy:0.1.0",
        &scene.image.reference,
    )?;
    let example = replace(
        example,
        "registry.example.com/verifier:1.0",
        &client.reference,
    )?;
    scene.cluster.apply(&example)?;
    scene
        .cluster
        .await_deployment(NAMESPACE, SIDECAR, DEADLINE)?;
    step.note("waiting for its client");
    let words = wait::until("the client to read", DEADLINE, PAUSE, || {
        let log = scene
            .cluster
            .kubectl(["logs", &format!("deployment/{SIDECAR}")])
            .args(["--container=verifier", "--namespace", NAMESPACE])
            .stdout()?;
        Ok(match log.lines().rfind(|line| line.starts_with("size ")) {
            Some(line) => Seen::Ready(line.to_owned()),
            None => Seen::NotYet(format!("it says {log:?}")),
        })
    })
    .with_context(|| scene.cluster.diagnosis(&[NAMESPACE]))?;
    let size: u64 = match words.strip_prefix("size ").map(str::parse) {
        Some(Ok(size)) => size,
        _ => bail!("the client says {words:?}"),
    };
    ensure!(size > 0, "the client has read an empty log");
    scene
        .cluster
        .kubectl(["delete", "--filename=-", "--wait=true", "--timeout=120s"])
        .input(&example)?
        .deadline(DEADLINE)
        .stdout()?;
    Ok(format!("its client reads {words} on its own loopback"))
}

/// Whatever examples refer to, with contents of the right kind, in the namespace `@NAMESPACE@`.
fn surroundings() -> Result<String> {
    let authority = Authority::new()?;
    let server = authority.server("tessera", &["tessera.logs.svc"])?;
    let indent = |pem: &str| pem.trim().replace('\n', "\n    ");
    Ok(include_str!("examples.yaml")
        .replace("@AUTHORITY@", &indent(authority.certificate()))
        .replace("@CERTIFICATE@", &indent(server.certificate()))
        .replace("@KEY@", &indent(server.key())))
}

fn namespace(example: &str) -> String {
    format!("{NAMESPACES}{example}")
}

/// The name of the TileProxy in a manifest: the first one below `metadata`.
fn name(text: &str) -> Option<&str> {
    let mut lines = text.lines().skip_while(|line| *line != "kind: TileProxy");
    let line = lines.find_map(|line| line.strip_prefix("  name: "))?;
    line.split_whitespace().next()
}

/// Two cores have room for one replica of each, if none asks for much.
fn smaller(text: &str) -> String {
    let lines = text.lines().map(|line| {
        if line.starts_with("  replicas: ") {
            "  replicas: 1"
        } else if line.starts_with("    requests: ") {
            "    requests: {cpu: 50m, memory: 128Mi}"
        } else {
            line
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// How namespaces of examples begin. They go by themselves.
pub(super) const NAMESPACES: &str = "example-of-";

const SIDECAR: &str = "verifier";

/// Examples that cannot serve on these clusters, and why. Without a group of their own, the pods of the
/// first cannot write what the provisioner makes; the others are not ready before they trust somebody.
const NOT_HERE: [(&str, &str); 4] = [
    ("openshift", "which needs a cluster that chooses users"),
    ("tuf-discovery", "which needs Sigstore's repository"),
    ("tuf-keys", "which needs a repository"),
    ("tuf-private", "which needs a Sigstore"),
];

const DEADLINE: Duration = Duration::from_secs(240);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_known_by_its_name() {
        let text = "apiVersion: v1\nkind: TileProxy\nmetadata:\n  name: rome # why\nspec:\n  replicas: 3 # x\n";
        assert_eq!(name(text), Some("rome"));
        assert!(smaller(text).ends_with("  replicas: 1"));
        let asks = "  resources:\n    requests: {cpu: 4, memory: 1Gi}\n    limits: {memory: 2Gi}";
        let want =
            "  resources:\n    requests: {cpu: 50m, memory: 128Mi}\n    limits: {memory: 2Gi}";
        assert_eq!(smaller(asks), want);
    }
}

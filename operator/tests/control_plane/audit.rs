//! What the operator asked for, by the API server's own account.

use std::fs;

use serde_json::Value;

use crate::world::{RELEASE, SYSTEM, World};

/// Every request that the operator was allowed in the namespace of `world` and in its own. One about
/// a watch is there once the watch has ended.
pub(crate) fn allowed(world: &World) -> Vec<Value> {
    let operator = format!("system:serviceaccount:{SYSTEM}:{RELEASE}");
    let namespaces = [&*world.namespace, SYSTEM];
    let log = fs::read_to_string(world.plane.control().audit_log()).expect("an audit log");
    // Most are of other tests, and are not worth reading.
    let here = namespaces.map(|name| format!(r#""namespace":"{name}""#));
    let here = |line: &&str| here.iter().any(|namespace| line.contains(namespace));
    // The last line may not be whole yet.
    let events = log.lines().filter(here);
    let events = events.filter_map(|line| serde_json::from_str(line).ok());
    let events = events.filter(|event: &Value| {
        let namespace = event["objectRef"]["namespace"].as_str();
        event["user"]["username"] == *operator
            && namespace.is_some_and(|name| namespaces.contains(&name))
            && event["annotations"]["authorization.k8s.io/decision"] == "allow"
    });
    events.collect()
}

/// Those of them in the namespace of `world` that changed something. An admin Secret that is tried
/// once per resync and is there already does not.
pub(crate) fn writes(world: &World) -> Vec<String> {
    let has_written = |event: &Value| {
        let verb = event["verb"].as_str().unwrap_or_default();
        let code = event["responseStatus"]["code"].as_u64().unwrap_or_default();
        !matches!(verb, "get" | "list" | "watch")
            && (200..300).contains(&code)
            && event["objectRef"]["namespace"] == *world.namespace
    };
    let writes = allowed(world).into_iter().filter(has_written);
    let short = |event: Value| format!("{} {}", event["verb"], event["requestURI"]);
    writes.map(short).collect()
}

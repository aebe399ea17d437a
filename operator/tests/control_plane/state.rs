//! Everything in a namespace, without what differs from run to run: so that two runs can be
//! compared.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::{CronJob, Job},
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{Resource, ResourceExt as _, api::ListParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tile_proxy_operator::{controller::build::ServiceMonitor, crd::TileProxy};

use crate::{
    operator::POKE,
    world::{World, eventually},
};

/// Objects by kind and name.
pub(crate) type State = BTreeMap<String, Value>;

impl World {
    /// Everything in the namespace, comparable with that of another one.
    pub(crate) async fn state(&self) -> State {
        let mut state = State::new();
        self.add::<ConfigMap>(&mut state).await;
        self.add::<CronJob>(&mut state).await;
        self.add::<Deployment>(&mut state).await;
        self.add::<Job>(&mut state).await;
        self.add::<NetworkPolicy>(&mut state).await;
        self.add::<PersistentVolumeClaim>(&mut state).await;
        self.add::<Pod>(&mut state).await;
        self.add::<PodDisruptionBudget>(&mut state).await;
        self.add::<Secret>(&mut state).await;
        self.add::<Service>(&mut state).await;
        self.add::<ServiceAccount>(&mut state).await;
        self.add::<ServiceMonitor>(&mut state).await;
        self.add::<TileProxy>(&mut state).await;
        state
    }

    /// Waits until everything in the namespace is as in `want`; `what` says after what.
    pub(crate) async fn becomes(&self, want: &State, what: &str) {
        eventually(what, async || {
            let difference = difference(want, &self.state().await);
            if difference.is_empty() {
                Ok(())
            } else {
                Err(difference)
            }
        })
        .await;
    }

    /// The same, however often it was changed until then.
    pub(crate) async fn becomes_apart_from_history(&self, want: &State, what: &str) {
        eventually(what, async || {
            let difference = difference(want, &without_history(self.state().await));
            if difference.is_empty() {
                Ok(())
            } else {
                Err(difference)
            }
        })
        .await;
    }

    async fn add<K>(&self, state: &mut State)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let all = self.api::<K>().list(&ListParams::default()).await;
        for object in all.expect("a list").items {
            let key = format!("{} {}", K::kind(&()), object.name_any());
            let object = serde_json::to_value(&object).expect("plain data");
            let text = normal(&K::kind(&()), object).to_string();
            let text = text.replace(&self.namespace, "NAMESPACE");
            state.insert(key, serde_json::from_str(&text).expect("JSON as before"));
        }
    }
}

fn normal(kind: &str, mut object: Value) -> Value {
    let metadata = &mut object["metadata"];
    // A Deployment's generation tells how often its pod was replaced.
    let generation = metadata["generation"].clone();
    for key in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "managedFields",
        "generation",
    ] {
        remove(metadata, key);
    }
    let owners = metadata.get_mut("ownerReferences");
    for owner in owners.and_then(Value::as_array_mut).into_iter().flatten() {
        owner["uid"] = json!("UID");
    }
    if let Some(owner) = metadata.pointer_mut("/annotations/tiles.stella-ops.org~1owner-uid") {
        *owner = json!("UID");
    }
    if let Some(annotations) = metadata.get_mut("annotations") {
        remove(annotations, POKE);
        if *annotations == json!({}) {
            remove(metadata, "annotations");
        }
    }
    if kind == "Deployment" {
        metadata["generation"] = generation;
    } else {
        remove_in(&mut object, "status", "observedGeneration");
    }
    let conditions = object.pointer_mut("/status/conditions");
    for condition in conditions
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        remove(condition, "lastTransitionTime");
        remove(condition, "observedGeneration");
    }
    match kind {
        "Secret" => {
            for value in object["data"]
                .as_object_mut()
                .into_iter()
                .flat_map(|m| m.values_mut())
            {
                *value = json!(value.as_str().map_or(0, str::len));
            }
        }
        "Service" => {
            remove_in(&mut object, "spec", "clusterIP");
            remove_in(&mut object, "spec", "clusterIPs");
        }
        _ => {}
    }
    object
}

fn remove_in(object: &mut Value, section: &str, key: &str) {
    if let Some(section) = object.get_mut(section) {
        remove(section, key);
    }
}

fn remove(object: &mut Value, key: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(key);
    }
}

/// What differs between two states, for people; empty if nothing does.
pub(crate) fn difference(want: &State, have: &State) -> String {
    let mut lines = Vec::new();
    let keys: BTreeSet<&String> = want.keys().chain(have.keys()).collect();
    for key in keys {
        differ(key, want.get(key), have.get(key), &mut lines);
    }
    lines.join("\n")
}

fn differ(at: &str, want: Option<&Value>, have: Option<&Value>, lines: &mut Vec<String>) {
    match (want, have) {
        (Some(Value::Object(want)), Some(Value::Object(have))) => {
            let keys: BTreeSet<&String> = want.keys().chain(have.keys()).collect();
            for key in keys {
                let at = format!("{at}/{key}");
                differ(&at, want.get(key), have.get(key), lines);
            }
        }
        _ if want == have => {}
        _ => {
            let text = |v: Option<&Value>| v.map_or_else(|| "nothing".to_owned(), Value::to_string);
            lines.push(format!("{at}: wanted {}, is {}", text(want), text(have)));
        }
    }
}

/// `state` without the numbers that tell how often something was changed.
pub(crate) fn without_history(mut state: State) -> State {
    for (key, object) in &mut state {
        if key.starts_with("Deployment ") {
            remove_in(object, "metadata", "generation");
            remove_in(object, "status", "observedGeneration");
        }
    }
    state
}

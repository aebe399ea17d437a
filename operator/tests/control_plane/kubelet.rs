//! Plays the node and the provisioner of one namespace: Deployments become ready, claims get bound.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::PersistentVolumeClaim};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use tokio::{sync::Notify, task::JoinHandle};

/// What becomes of a Deployment's pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// It serves.
    Ready,
    /// It is still starting.
    Starting,
    /// It did not start in time.
    Stalled,
}

type Decision = Box<dyn Fn(&Deployment) -> Fate + Send>;

/// A node that runs every pod of its namespace; gone when dropped.
pub(crate) struct Kubelet {
    orders: Arc<Orders>,
    task: JoinHandle<()>,
}

struct Orders {
    fate: Mutex<Decision>,
    provisions: Mutex<bool>,
    changed: Notify,
}

impl Kubelet {
    /// Starts one whose pods all get ready, at once.
    pub(crate) fn start(client: Client, namespace: &str) -> Self {
        let orders = Arc::new(Orders {
            fate: Mutex::new(Box::new(|_| Fate::Ready)),
            provisions: Mutex::new(true),
            changed: Notify::new(),
        });
        let task = tokio::spawn(run(client, namespace.to_owned(), orders.clone()));
        Self { orders, task }
    }

    /// From now on `fate` decides, also about the pods there are.
    pub(crate) fn decide(&self, fate: impl Fn(&Deployment) -> Fate + Send + 'static) {
        *lock(&self.orders.fate) = Box::new(fate);
        self.orders.changed.notify_one();
    }

    /// Has it look at all pods again, because what `fate` goes by has changed.
    pub(crate) fn look(&self) {
        self.orders.changed.notify_one();
    }

    /// From now on claims stay as they are: nothing is bound, nothing grows.
    pub(crate) fn stop_provisioning(&self) {
        *lock(&self.orders.provisions) = false;
    }

    /// Binds and grows claims again.
    pub(crate) fn provision(&self) {
        *lock(&self.orders.provisions) = true;
        self.orders.changed.notify_one();
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(client: Client, namespace: String, orders: Arc<Orders>) {
    let deployments = Api::<Deployment>::namespaced(client.clone(), &namespace);
    let claims = Api::<PersistentVolumeClaim>::namespaced(client, &namespace);
    let mut pods = BTreeMap::new();
    let mut volumes = BTreeMap::new();
    let mut pod_events = events(deployments.clone());
    let mut volume_events = events(claims.clone());
    loop {
        tokio::select! {
            Some(event) = pod_events.next() => note(&mut pods, event),
            Some(event) = volume_events.next() => note(&mut volumes, event),
            () = orders.changed.notified() => {}
        }
        for pod in pods.values_mut() {
            let fate = lock(&orders.fate)(pod);
            write_status(&deployments, pod, pod_status(pod, fate)).await;
        }
        for volume in volumes.values_mut() {
            if *lock(&orders.provisions) {
                write_status(&claims, volume, volume_status(volume)).await;
            }
        }
    }
}

fn events<K>(api: Api<K>) -> impl Stream<Item = watcher::Event<K>> + Unpin
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let events = watcher(api, watcher::Config::default());
    // Interrupted watches are resumed.
    events
        .default_backoff()
        .filter_map(async |event| event.ok())
        .boxed()
}

fn note<K: kube::Resource>(known: &mut BTreeMap<String, K>, event: watcher::Event<K>) {
    match event {
        watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
            known.insert(object.name_any(), object);
        }
        watcher::Event::Delete(object) => {
            known.remove(&object.name_any());
        }
        watcher::Event::Init => known.clear(),
        watcher::Event::InitDone => {}
    }
}

/// Writes `status` where it is not what the object has, and remembers the answer.
async fn write_status<K>(api: &Api<K>, object: &mut K, status: Value)
where
    K: kube::Resource + Clone + serde::Serialize + serde::de::DeserializeOwned,
{
    let has = serde_json::to_value(&*object).unwrap_or_default();
    if agrees(&has["status"], &status) || !has["metadata"]["deletionTimestamp"].is_null() {
        return;
    }
    let patch = Patch::Merge(json!({"status": status}));
    let (name, params) = (object.name_any(), PatchParams::default());
    // Otherwise it was changed or deleted meanwhile, and the event is on its way.
    if let Ok(written) = api.patch_status(&name, &params, &patch).await {
        *object = written;
    }
}

/// Whether `has` says all that `wants` says; the API server leaves out what is zero.
fn agrees(has: &Value, wants: &Value) -> bool {
    let wants = wants.as_object();
    wants.is_none_or(|wants| {
        let same = |(key, want): (&String, &Value)| {
            has[key] == *want || *want == json!(0) && has[key].is_null()
        };
        wants.iter().all(same)
    })
}

fn pod_status(deployment: &Deployment, fate: Fate) -> Value {
    let ready = i32::from(fate == Fate::Ready);
    let (holds, reason, message) = match fate {
        Fate::Ready => ("True", "NewReplicaSetAvailable", "it has progressed"),
        Fate::Starting => ("True", "ReplicaSetUpdated", "it is progressing"),
        Fate::Stalled => ("False", "ProgressDeadlineExceeded", "it has timed out"),
    };
    json!({
        "observedGeneration": deployment.metadata.generation,
        "replicas": 1,
        "updatedReplicas": 1,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": 1 - ready,
        "conditions": [{
            "type": "Progressing",
            "status": holds,
            "reason": reason,
            "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "lastUpdateTime": "2026-01-01T00:00:00Z",
        }],
    })
}

fn volume_status(claim: &PersistentVolumeClaim) -> Value {
    let claim = serde_json::to_value(claim).unwrap_or_default();
    json!({
        "phase": "Bound",
        "accessModes": claim["spec"]["accessModes"],
        "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Where a test lives: a namespace of its own on the one control plane of the program.

use std::{
    fmt::Debug,
    future::Future,
    sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use k8s_openapi::{NamespaceResourceScope, api::core::v1::Namespace};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tile_proxy_operator::crd::TileProxy;
use tile_proxy_tests::{
    control_plane::{ControlPlane, PROMETHEUS_OPERATOR},
    paths,
    run::Run,
    wait::{self, Seen},
};

use crate::kubelet::Kubelet;

/// The namespace and the release of the chart.
pub(crate) const SYSTEM: &str = "tile-proxy-system";
pub(crate) const RELEASE: &str = "tile-proxy";

/// Far more than anything takes, on the busiest machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(300);

/// How soon a test looks at the world again, at first and at last: what takes long is not looked at
/// more often for it, because looking is what tests do most.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The key of a log; nobody has the private part.
pub(crate) const KEY: &str =
    "rome.example.net/2026h1+e920e5d1+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx";

/// A control plane with the CRD, and with the chart's ServiceAccount and roles.
pub(crate) struct Plane {
    control: RwLock<ControlPlane>,
    token: String,
}

impl Plane {
    /// The one that all tests share: it ends with the program. The Prometheus operator's kinds are
    /// there.
    pub(crate) fn shared() -> &'static Self {
        static PLANE: OnceLock<Plane> = OnceLock::new();
        PLANE.get_or_init(|| {
            let plane = Self::start(&[]);
            plane.install_prometheus_operator();
            plane
        })
    }

    /// One for a test that does to it what others could not bear, or needs `more` controllers.
    pub(crate) fn own(more: &[&str]) -> &'static Self {
        Box::leak(Box::new(Self::start(more)))
    }

    fn start(more: &[&str]) -> Self {
        // The garbage collector and those that let namespaces and claims go; nothing that acts on
        // Deployments, which is the test's part.
        let mut controllers = vec![
            "garbage-collector-controller",
            "namespace-controller",
            "persistentvolumeclaim-protection-controller",
        ];
        controllers.extend(more);
        let control = ControlPlane::start(&controllers).expect("a control plane");
        let crd = paths::checkout().join("crds/tileproxies.yaml");
        kubectl(
            &control,
            &["apply", "--server-side", "-f", &crd.to_string_lossy()],
        );
        let crd = "crd/tileproxies.tiles.stella-ops.org";
        kubectl(&control, &["wait", "--for=condition=Established", crd]);
        let classes = control.kubectl(["apply", "-f", "-"]).input(STORAGE_CLASSES);
        classes.and_then(Run::stdout).expect("storage classes");
        let chart = paths::checkout().join("charts/tile-proxy");
        let install = control.helm(["install", RELEASE]).arg(chart).args([
            "--namespace",
            SYSTEM,
            "--create-namespace",
            "--set=crds.enabled=false",
        ]);
        install.stdout().expect("the chart");
        let token = [
            "create",
            "token",
            RELEASE,
            "--namespace",
            SYSTEM,
            "--duration=24h",
        ];
        Self {
            token: kubectl(&control, &token).trim().to_owned(),
            control: RwLock::new(control),
        }
    }

    /// Brings the kinds that a cluster need not have.
    pub(crate) fn install_prometheus_operator(&self) {
        let control = self.control();
        let kinds = control
            .kubectl(["apply", "-f", "-"])
            .input(PROMETHEUS_OPERATOR);
        kinds.and_then(Run::stdout).expect("kinds of others");
        let kind = "crd/servicemonitors.monitoring.coreos.com";
        kubectl(&control, &["wait", "--for=condition=Established", kind]);
    }

    /// The programs, to use.
    pub(crate) fn control(&self) -> RwLockReadGuard<'_, ControlPlane> {
        self.control.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The programs, to stop and start.
    pub(crate) fn control_mut(&self) -> RwLockWriteGuard<'_, ControlPlane> {
        self.control.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the administrator connects.
    pub(crate) async fn admin(&self) -> Config {
        let file = Kubeconfig::read_from(self.control().kubeconfig()).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        config.expect("a valid kubeconfig")
    }

    /// How the operator connects: with the rights that the chart gives it.
    pub(crate) async fn operator(&self) -> Config {
        let user: AuthInfo =
            serde_json::from_value(json!({"token": self.token})).expect("a user of a kubeconfig");
        let mut config = self.admin().await;
        config.auth_info = user;
        config
    }

    /// The same as the text of a file.
    pub(crate) fn operator_kubeconfig(&self) -> String {
        let file = Kubeconfig::read_from(self.control().kubeconfig()).expect("a kubeconfig");
        let mut file = serde_json::to_value(file).expect("plain data");
        file["users"][0]["user"] = json!({"token": self.token});
        file.to_string()
    }
}

fn kubectl(control: &ControlPlane, args: &[&str]) -> String {
    // What was just created may not be served yet.
    let look = || {
        Ok(match control.kubectl(args).stdout() {
            Ok(said) => Seen::Ready(said),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    };
    wait::until(&format!("kubectl {args:?}"), DEADLINE, PAUSE, look).expect("kubectl")
}

/// A namespace with a node, and a client that may do everything.
pub(crate) struct World {
    /// The control plane it is on.
    pub(crate) plane: &'static Plane,
    /// Its name.
    pub(crate) namespace: String,
    /// A client that may do everything.
    pub(crate) client: Client,
    /// The node.
    pub(crate) kubelet: Kubelet,
}

impl World {
    /// The empty namespace `name`.
    pub(crate) async fn new(name: &str) -> Self {
        Self::on(Plane::shared(), name).await
    }

    /// The same, on a control plane of its own.
    pub(crate) async fn on(plane: &'static Plane, name: &str) -> Self {
        let client = Client::try_from(plane.admin().await).expect("a client");
        let namespace = json!({"metadata": {"name": name}});
        let namespace = serde_json::from_value(namespace).expect("a Namespace");
        let namespaces = Api::<Namespace>::all(client.clone());
        let created = namespaces.create(&PostParams::default(), &namespace).await;
        created.expect("a namespace of its own");
        Self {
            plane,
            kubelet: Kubelet::start(client.clone(), name),
            namespace: name.to_owned(),
            client,
        }
    }

    /// What `kubectl` answers in this namespace, as the administrator.
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        let control = self.plane.control();
        let run = control.kubectl(args);
        let said = run.args(["--namespace", &self.namespace]).stdout();
        said.unwrap_or_else(|error| panic!("kubectl {args:?}: {error:#}"))
    }

    /// Creates an object of any kind and shape as `kubectl create` would.
    pub(crate) fn create_any(&self, object: &Value) -> anyhow::Result<String> {
        let control = self.plane.control();
        let create = control.kubectl(["create", "--namespace", &self.namespace, "-f", "-"]);
        create.input(&object.to_string())?.stdout()
    }

    /// Deletes the TileProxy `name`, and waits until it and its children are gone.
    pub(crate) async fn delete(&self, name: &str) {
        let gone = self
            .api::<TileProxy>()
            .delete(name, &DeleteParams::foreground())
            .await;
        gone.expect("a TileProxy to delete");
        eventually("the TileProxy to go", async || {
            let left = self.names::<TileProxy>().await;
            if left.iter().any(|left| left == name) {
                Err(left)
            } else {
                Ok(())
            }
        })
        .await;
    }

    /// Objects of one kind.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates the TileProxy `name` with `replicas` and whatever else `spec` says.
    pub(crate) async fn create(&self, name: &str, replicas: u16, spec: Value) -> TileProxy {
        let proxy = serde_json::from_value(proxy(name, replicas, &spec));
        let proxy: TileProxy = proxy.expect("the shape of a TileProxy");
        let created = self.api().create(&PostParams::default(), &proxy).await;
        created.expect("a TileProxy the API server takes")
    }

    /// Changes the TileProxy `name` by a merge patch of its spec.
    pub(crate) async fn change(&self, name: &str, spec: Value) -> TileProxy {
        self.merge(name, &json!({"spec": spec})).await
    }

    /// Sends a merge patch as a person would.
    pub(crate) async fn merge<K>(&self, name: &str, patch: &Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let params = PatchParams {
            field_manager: Some("a-person".to_owned()),
            ..PatchParams::default()
        };
        let patched = self
            .api::<K>()
            .patch(name, &params, &Patch::Merge(patch))
            .await;
        patched.unwrap_or_else(|error| panic!("cannot patch {name} with {patch}: {error}"))
    }

    /// The object `name`, which is there.
    pub(crate) async fn get<K>(&self, name: &str) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let got = self.api::<K>().get(name).await;
        got.unwrap_or_else(|error| panic!("cannot read {} {name}: {error}", K::kind(&())))
    }

    /// Names of all objects of one kind.
    pub(crate) async fn names<K>(&self) -> Vec<String>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let all = self.api::<K>().list(&Default::default()).await;
        let all = all.unwrap_or_else(|error| panic!("cannot list {}: {error}", K::plural(&())));
        all.iter().map(ResourceExt::name_any).collect()
    }

    /// Waits until the operator has looked at the newest spec of `name` and says that `condition`
    /// has the status `status`.
    pub(crate) async fn awaits(&self, name: &str, condition: &str, status: &str) -> TileProxy {
        eventually(&format!("{condition}={status} of {name}"), async || {
            let proxy = self.get::<TileProxy>(name).await;
            let said = find(&proxy, condition);
            let current = proxy.metadata.generation;
            let is = said.is_some_and(|c| c.status == status && c.observed_generation == current);
            if is {
                Ok(proxy)
            } else {
                Err(format!("{:#?}", proxy.status))
            }
        })
        .await
    }

    /// Waits until `name` is ready and nothing is under way.
    pub(crate) async fn settles(&self, name: &str) -> TileProxy {
        self.awaits(name, "Ready", "True").await;
        self.awaits(name, "Progressing", "False").await
    }
}

/// The condition of that type.
pub(crate) fn find<'a>(
    proxy: &'a TileProxy,
    condition: &str,
) -> Option<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    let conditions = &proxy.status.as_ref()?.conditions;
    conditions.iter().find(|c| c.type_ == condition)
}

/// The reason of the condition of that type; empty if there is none.
pub(crate) fn reason<'a>(proxy: &'a TileProxy, condition: &str) -> &'a str {
    find(proxy, condition).map_or("", |c| &c.reason)
}

/// A TileProxy as a person writes it.
pub(crate) fn proxy(name: &str, replicas: u16, spec: &Value) -> Value {
    let mut proxy = json!({
        "apiVersion": "tiles.stella-ops.org/v1alpha1",
        "kind": "TileProxy",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "upstreams": [{"url": "https://rome.example.net/2026h1/"}],
            "publicKeys": [{"inline": KEY}],
            "cache": {"size": "1Gi"},
        },
    });
    overlay(&mut proxy["spec"], spec);
    proxy
}

fn overlay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                overlay(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Looks until `look` says `Ok`; at the deadline, fails with `what` and what it saw last.
pub(crate) async fn eventually<T, E: Debug>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let started = Instant::now();
    let mut pause = PAUSE;
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(last) if started.elapsed() > DEADLINE => {
                panic!("{what}: not yet; last seen: {last:#?}")
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Runs `works` a few at a time, which is what the machine bears.
pub(crate) async fn all_of<F: Future<Output = ()>>(works: impl IntoIterator<Item = F>) {
    use futures::StreamExt as _;
    futures::stream::iter(works)
        .for_each_concurrent(4, |work| work)
        .await;
}

/// The default class lets volumes grow; `fixed` does not.
const STORAGE_CLASSES: &str = "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: growing, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}
provisioner: example.net/nobody
allowVolumeExpansion: true
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: fixed}
provisioner: example.net/nobody
allowVolumeExpansion: false
";

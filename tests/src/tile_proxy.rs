//! A TileProxy in a cluster, as the people who look after it see it: its status, its replicas, and
//! what they answer.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::http::{self, Answer};
use crate::progress::Step;
use crate::tiles::index_path;
use crate::wait::{self, Seen};

/// A TileProxy by its name; whether it exists is another matter.
#[derive(Clone, Copy, Debug)]
pub struct TileProxy<'a> {
    /// Where it is.
    pub cluster: &'a Cluster,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name, which is also that of the Service for clients.
    pub name: &'a str,
}

/// A pod, as far as tests look.
#[derive(Clone, Debug, Deserialize)]
pub struct Pod {
    /// Name and UID.
    pub metadata: Named,
    /// What it runs, and where.
    pub spec: PodSpec,
    /// How it is.
    pub status: PodStatus,
}

/// Name and UID of an object.
#[derive(Clone, Debug, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// What a pod runs, and where.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node; none while it waits for one.
    pub node_name: Option<String>,
    /// Its containers; of a replica, one.
    pub containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, Deserialize)]
pub struct Container {
    /// The image it was told to run.
    pub image: String,
}

/// How a pod is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// How its containers are.
    #[serde(default)]
    pub container_statuses: Vec<ContainerStatus>,
}

/// How a container is.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Which run of it this is.
    #[serde(default, rename = "containerID")]
    pub container_id: String,
    /// Whether it serves.
    pub ready: bool,
    /// What it does.
    pub state: ContainerState,
}

/// What a container does.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ContainerState {
    /// Why it does not run yet, or no longer.
    pub waiting: Option<Waiting>,
}

/// Why a container does not run.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Waiting {
    /// A word for it.
    #[serde(default)]
    pub reason: String,
}

impl Pod {
    /// The node it is on.
    pub fn node(&self) -> Result<&str> {
        let node = self.spec.node_name.as_deref();
        node.with_context(|| format!("the pod {} is on no node", self.metadata.name))
    }

    /// Whether its containers serve.
    pub fn is_ready(&self) -> bool {
        let containers = &self.status.container_statuses;
        !containers.is_empty() && containers.iter().all(|container| container.ready)
    }

    /// Which run of its container this is; none before the first.
    pub fn run(&self) -> Option<&str> {
        let container = self.status.container_statuses.first();
        container.map(|container| container.container_id.as_str())
    }
}

/// A condition of the status.
#[derive(Clone, Debug, Deserialize)]
pub struct Condition {
    /// Which.
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// A fixed word.
    #[serde(default)]
    pub reason: String,
    /// A sentence.
    #[serde(default)]
    pub message: String,
}

impl TileProxy<'_> {
    /// Changes the number of replicas as an autoscaler would, and waits until they are ready.
    pub fn scale(&self, replicas: u16, step: &Step<'_>) -> Result<String> {
        self.cluster
            .kubectl(["scale", "tileproxy", self.name])
            .args(["--namespace", self.namespace])
            .arg(format!("--replicas={replicas}"))
            .stdout()?;
        self.await_ready(step)
    }

    /// Merges `change` into the resource.
    pub fn patch(&self, change: &str) -> Result<()> {
        self.cluster
            .kubectl(["patch", "tileproxy", self.name])
            .args(["--namespace", self.namespace, "--type=merge"])
            .args(["--patch", change])
            .stdout()
            .map(drop)
    }

    /// Deletes the resource, and waits until its replicas are gone.
    pub fn delete(&self) -> Result<()> {
        self.cluster
            .kubectl(["delete", "tileproxy", self.name])
            .args(["--namespace", self.namespace, "--timeout=60s"])
            .deadline(Duration::from_secs(70))
            .stdout()?;
        let what = format!("the replicas of {} to be gone", self.name);
        wait::until(&what, READY, PAUSE, || {
            let pods = self.pods()?;
            Ok(match pods.first() {
                None => Seen::Ready(()),
                Some(pod) => Seen::NotYet(format!("{} is there", pod.metadata.name)),
            })
        })
    }

    /// Waits for the condition `Ready` of the spec as it is now; shows the messages meanwhile.
    pub fn await_ready(&self, step: &Step<'_>) -> Result<String> {
        let ready = self.await_condition("Ready", step, |ready| ready.status == "True")?;
        Ok(ready.message)
    }

    /// Waits until the condition of this type, about the spec as it is now, is as `wanted`.
    pub fn await_condition(
        &self,
        r#type: &str,
        step: &Step<'_>,
        wanted: impl Fn(&Condition) -> bool,
    ) -> Result<Condition> {
        let what = format!("TileProxy {}: {type}", self.name);
        wait::until(&what, READY, PAUSE, || {
            let conditions = self.conditions()?;
            let Some(conditions) = conditions else {
                let seen = "the operator has not looked at it yet";
                step.note(seen);
                return Ok(Seen::NotYet(seen.to_owned()));
            };
            let mut conditions = conditions.into_iter();
            Ok(match conditions.find(|one| one.r#type == r#type) {
                Some(found) if wanted(&found) => Seen::Ready(found),
                Some(found) => {
                    step.note(&found.message);
                    Seen::NotYet(format!(
                        "{} ({}): {}",
                        found.status, found.reason, found.message
                    ))
                }
                None => Seen::NotYet("there is no such condition".to_owned()),
            })
        })
        .with_context(|| {
            self.cluster
                .diagnosis(&[self.namespace, OPERATOR_NAMESPACE])
        })
    }

    /// Waits until `status.logs` says of each log, of which there is one at least, that it is in this
    /// state.
    pub fn await_logs(&self, state: &str, step: &Step<'_>) -> Result<String> {
        #[derive(Deserialize)]
        struct Object {
            #[serde(default)]
            status: Status,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Status {
            logs: Vec<Log>,
        }
        #[derive(Deserialize)]
        struct Log {
            name: String,
            origin: String,
            state: String,
        }
        let of = ["tileproxy", self.name, "--namespace", self.namespace];
        let what = format!("TileProxy {}: its logs {state}", self.name);
        wait::until(&what, READY, PAUSE, || {
            let object = self.cluster.get::<Object>(&of)?;
            let logs = object.map(|object| object.status.logs).unwrap_or_default();
            let seen = logs.iter().map(|log| {
                let Log {
                    name,
                    origin,
                    state,
                } = log;
                format!("{name} ({origin}) is {state}")
            });
            let seen = seen.collect::<Vec<_>>().join(", ");
            step.note(&seen);
            let all = !logs.is_empty() && logs.iter().all(|log| log.state == state);
            Ok(if all {
                Seen::Ready(seen)
            } else {
                Seen::NotYet(format!("status.logs: {seen}"))
            })
        })
        .with_context(|| {
            self.cluster
                .diagnosis(&[self.namespace, OPERATOR_NAMESPACE])
        })
    }

    /// The conditions; none where they speak about an earlier spec.
    pub fn conditions(&self) -> Result<Option<Vec<Condition>>> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Metadata,
            #[serde(default)]
            status: Status,
        }
        #[derive(Deserialize)]
        struct Metadata {
            generation: i64,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Status {
            observed_generation: Option<i64>,
            conditions: Vec<Condition>,
        }
        let of = ["tileproxy", self.name, "--namespace", self.namespace];
        let object = self.cluster.get::<Object>(&of)?;
        let object = object.with_context(|| format!("the TileProxy {} is gone", self.name))?;
        let seen = object.status.observed_generation == Some(object.metadata.generation);
        Ok(seen.then_some(object.status.conditions))
    }

    /// The pods of all replicas.
    pub fn pods(&self) -> Result<Vec<Pod>> {
        #[derive(Deserialize)]
        struct List {
            items: Vec<Pod>,
        }
        let selector = format!(
            "app.kubernetes.io/instance={},app.kubernetes.io/component=replica",
            self.name
        );
        let of = [
            "pods",
            "--namespace",
            self.namespace,
            "--selector",
            &selector,
        ];
        let list = self.cluster.get::<List>(&of)?;
        Ok(list.map(|list| list.items).unwrap_or_default())
    }

    /// The only pod of a replica.
    pub fn pod(&self, ordinal: u16) -> Result<Pod> {
        let replica = format!("{}-", self.replica(ordinal));
        let pods = self.pods()?;
        let mut pods = pods
            .into_iter()
            .filter(|pod| pod.metadata.name.starts_with(&replica));
        let pod = pods.next();
        let pod = pod.with_context(|| format!("replica {ordinal} has no pod"))?;
        let other = pods.next();
        ensure!(other.is_none(), "replica {ordinal} has two pods");
        Ok(pod)
    }

    /// Deployment, Service and claim of a replica.
    pub fn replica(&self, ordinal: u16) -> String {
        format!("{}-replica-{ordinal}", self.name)
    }

    /// What clients get for `path`.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.ask(self.name, CLIENT_PORT, path)
    }

    /// What a replica answers clients for `path`.
    pub fn get_from(&self, ordinal: u16, path: &str) -> Result<Answer> {
        self.ask(&self.replica(ordinal), CLIENT_PORT, path)
    }

    /// As [`TileProxy::get`], of which the body of a success is wanted.
    pub fn body(&self, path: &str) -> Result<Vec<u8>> {
        success(self.get(path)?, path)
    }

    /// As [`TileProxy::get_from`], of which the body of a success is wanted.
    pub fn body_from(&self, ordinal: u16, path: &str) -> Result<Vec<u8>> {
        success(self.get_from(ordinal, path)?, path)
    }

    /// Has a replica serve full tiles of level 0, all of which it must have or get.
    pub fn read_tiles_from(&self, ordinal: u16, tiles: Range<u64>) -> Result<()> {
        let replica = self.replica(ordinal);
        let route = self.cluster.route(self.namespace, &replica, CLIENT_PORT)?;
        self.cluster.in_network(|| {
            let agent = http::agent();
            for index in tiles {
                let path = format!("tile/0/{}", index_path(index));
                let answer = http::fetch(&agent, &format!("{}/{path}", route.url()))?;
                success(answer, &path)?;
            }
            Ok(())
        })
    }

    /// Where a replica has full tiles of level 0 from, as their records say once they are stored.
    pub fn sources(&self, ordinal: u16, tiles: Range<u64>) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Record {
            upstream_url: Option<String>,
        }
        let replica = self.replica(ordinal);
        let route = self.cluster.route(self.namespace, &replica, ADMIN_PORT)?;
        self.cluster.in_network(|| {
            let agent = http::agent();
            let source = |index: u64| {
                let path = format!("_admin/cache/tiles/0/{index}");
                wait::until("the record of a tile", STORED, PAUSE, || {
                    let answer = http::fetch(&agent, &format!("{}/{path}", route.url()))?;
                    if answer.status != 200 {
                        return Ok(Seen::NotYet(answer.text()));
                    }
                    let record: Record = serde_json::from_slice(&answer.body)
                        .with_context(|| format!("{path} answers {}", answer.text()))?;
                    Ok(Seen::Ready(record.upstream_url.unwrap_or_default()))
                })
            };
            tiles.map(source).collect()
        })
    }

    fn ask(&self, service: &str, port: u16, path: &str) -> Result<Answer> {
        let route = self.cluster.route(self.namespace, service, port)?;
        http::get(self.cluster, &format!("{}/{path}", route.url()))
    }
}

fn success(answer: Answer, path: &str) -> Result<Vec<u8>> {
    ensure!(
        answer.status == 200,
        "{path}: status {}: {}",
        answer.status,
        answer.text()
    );
    Ok(answer.body)
}

/// Where the chain installs the operator.
pub const OPERATOR_NAMESPACE: &str = "tile-proxy-system";
/// The port for clients.
pub const CLIENT_PORT: u16 = 8080;
/// The port for probes, metrics, syncs and peers.
pub const ADMIN_PORT: u16 = 8081;

/// Between two looks.
pub const PAUSE: Duration = Duration::from_millis(500);
/// Three replicas are changed one after the other, each with a pause to stop and a new volume
/// perhaps; a loaded machine takes its time.
const READY: Duration = Duration::from_secs(240);
/// Tiles are stored within a second or so.
const STORED: Duration = Duration::from_secs(30);

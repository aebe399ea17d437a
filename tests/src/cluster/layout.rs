//! Addresses and places of the nodes: decided once, used by every configuration file.

use std::env;
use std::path::{Path, PathBuf};

/// The address of the first node, where the control plane listens.
pub const FIRST_NODE_IP: &str = "10.250.0.1";
/// Where the API server listens.
pub const API_SERVER: &str = "https://10.250.0.1:6443";
/// Addresses of pods.
pub const POD_CIDR: &str = "10.88.0.0/16";
/// Addresses of Services.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The Service `kubernetes`: the first address of [`SERVICE_CIDR`].
pub const KUBERNETES_SERVICE_IP: &str = "10.96.0.1";
/// The Service `kube-dns`.
pub const DNS_SERVICE_IP: &str = "10.96.0.10";

/// Nodes a cluster can have: more show nothing that two do not, and each takes half a gigabyte.
pub const MAX_NODES: u8 = 3;

/// Where the tools of the cache appear inside a node.
pub const TOOLS: &str = "/opt";
/// Certificates, kubeconfigs and configuration files, inside a node.
pub const CONFIG: &str = "/var/lib/kubernetes";

/// The cluster's folder on the host: `$TILE_PROXY_STATE`, else [`DEFAULT_STATE`].
#[derive(Clone, Debug)]
pub struct State(PathBuf);

impl State {
    /// The folder this environment asks for.
    pub fn from_env() -> Self {
        let set = env::var_os("TILE_PROXY_STATE").filter(|value| !value.is_empty());
        Self(set.map_or_else(|| PathBuf::from(DEFAULT_STATE), PathBuf::from))
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// The kubeconfig for people.
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("admin.kubeconfig")
    }

    /// Written when `up` is through; it names the versions that run.
    pub fn complete(&self) -> PathBuf {
        self.0.join("complete")
    }

    /// The first node, which also has the control plane and the way in.
    pub fn first(&self) -> Node {
        self.node(1)
    }

    /// Every node that could be; the first one first.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = Node> {
        (1..=MAX_NODES).map(|ordinal| self.node(ordinal))
    }

    fn node(&self, ordinal: u8) -> Node {
        let name = match ordinal {
            1 => FIRST_NODE.to_owned(),
            _ => format!("{FIRST_NODE}-{ordinal}"),
        };
        let dir = match ordinal {
            1 => self.0.clone(),
            _ => self.0.join(&name),
        };
        Node { ordinal, name, dir }
    }
}

/// One node, running or not.
#[derive(Clone, Debug)]
pub struct Node {
    ordinal: u8, // from 1
    name: String,
    dir: PathBuf,
}

impl Node {
    /// Its name in Kubernetes; also that of its network namespace, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, from 1.
    pub fn ordinal(&self) -> u8 {
        self.ordinal
    }

    /// Whether the control plane runs here.
    pub fn is_first(&self) -> bool {
        self.ordinal == 1
    }

    /// Its folder on the host. That of the first node holds those of the others.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its address; it exists inside the namespaces only, so it collides with nothing outside.
    pub fn ip(&self) -> String {
        format!("10.250.0.{}", self.ordinal)
    }

    /// Addresses of its pods: a part of [`POD_CIDR`].
    pub fn pods(&self) -> String {
        format!("10.88.{}.0/24", self.ordinal)
    }

    /// Its network namespace, as `nsenter --net` takes it.
    pub fn network(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// What the node sees as `/var`.
    pub fn var(&self) -> PathBuf {
        self.dir.join("var")
    }

    /// Where the host sees the file the node knows as `CONFIG/name`.
    pub fn config(&self, name: &str) -> PathBuf {
        self.dir.join("var/lib/kubernetes").join(name)
    }

    /// The log of the daemon `name`.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("var/log").join(format!("{name}.log"))
    }

    /// The record of the running daemon `name`.
    pub fn record(&self, name: &str) -> PathBuf {
        self.dir.join("daemons").join(format!("{name}.json"))
    }

    /// The environment entry by which every daemon of this node is known.
    pub fn marker(&self) -> String {
        format!("{MARKER}={}", self.dir.display())
    }
}

/// The variable of [`Node::marker`].
pub const MARKER: &str = "TILE_PROXY_NODE";

/// Where the nodes live unless told otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/tile-proxy-cluster";

/// The name of the first node; the others have a number besides.
const FIRST_NODE: &str = "tile-proxy";

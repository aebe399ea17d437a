//! Addresses and places of the node: decided once, used by every configuration file.

use std::env;
use std::path::{Path, PathBuf};

/// The node's network namespace, as `ip netns` and `nsenter --net` name it.
pub const NETNS: &str = "/run/netns/tile-proxy";
/// The node's name in Kubernetes, and that of its cgroup.
pub const NODE_NAME: &str = "tile-proxy";
/// The node's address; it exists inside the namespace only, so it collides with nothing outside.
pub const NODE_IP: &str = "10.250.0.1";
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

/// Where the tools of the cache appear inside the node.
pub const TOOLS: &str = "/opt";
/// Certificates, kubeconfigs and configuration files, inside the node.
pub const CONFIG: &str = "/var/lib/kubernetes";

/// The node's folder on the host: `$TILE_PROXY_STATE`, else [`DEFAULT_STATE`].
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

    /// What the node sees as `/var`.
    pub fn var(&self) -> PathBuf {
        self.0.join("var")
    }

    /// Where the host sees the file the node knows as `CONFIG/name`.
    pub fn config(&self, name: &str) -> PathBuf {
        self.0.join("var/lib/kubernetes").join(name)
    }

    /// The log of the daemon `name`.
    pub fn log(&self, name: &str) -> PathBuf {
        self.0.join("var/log").join(format!("{name}.log"))
    }

    /// The kubeconfig for people.
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("admin.kubeconfig")
    }

    /// The record of the running daemon `name`.
    pub fn record(&self, name: &str) -> PathBuf {
        self.0.join("daemons").join(format!("{name}.json"))
    }

    /// Written when `up` is through; it names the versions that run.
    pub fn complete(&self) -> PathBuf {
        self.0.join("complete")
    }

    /// The environment entry by which every daemon of this node is known.
    pub fn marker(&self) -> String {
        format!("{MARKER}={}", self.0.display())
    }
}

/// The variable of [`State::marker`].
pub const MARKER: &str = "TILE_PROXY_NODE";

/// Where the node lives unless told otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/tile-proxy-cluster";

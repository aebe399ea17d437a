//! A real Kubernetes cluster of one node or a few: `up`, `down`, `status`, and ways in.
//!
//! Without Docker nodes are made here: every component in namespaces of its own, with its state
//! in one folder, thrown away by `down`. With `--kind` the same interface stands over kind. Start
//! reading at [`Cluster::up`].

mod addons;
mod builtin;
mod control_plane;
mod daemon;
pub mod diagnosis;
mod kind;
pub mod layout;
mod members;
mod network;
mod node;
pub(crate) mod pki;
pub mod proc;
mod route;
mod worker;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

pub use self::builtin::ComponentStatus;
use self::layout::State;
pub use self::route::Route;
use crate::progress::Progress;
use crate::run::Run;
use crate::toolchain::{HELM, KUBECTL, Toolchain};
use crate::{interrupt, prerequisites};

/// A cluster, running or not.
#[derive(Clone, Debug)]
pub struct Cluster {
    provider: Provider,
    toolchain: Toolchain,
}

/// Where nodes come from.
#[derive(Clone, Debug)]
enum Provider {
    /// Namespaces of this machine.
    Builtin(State),
    /// A container of the Docker engine.
    Kind,
}

impl Cluster {
    /// The cluster made of namespaces of this machine.
    pub fn builtin() -> Result<Self> {
        Ok(Self {
            provider: Provider::Builtin(State::from_env()),
            toolchain: Toolchain::open()?,
        })
    }

    /// The cluster kind runs in Docker.
    pub fn kind() -> Result<Self> {
        Ok(Self {
            provider: Provider::Kind,
            toolchain: Toolchain::open()?,
        })
    }

    /// The one that `TILE_PROXY_CLUSTER` names: `builtin`, which is the default, or `kind`.
    pub fn from_env() -> Result<Self> {
        match std::env::var("TILE_PROXY_CLUSTER").as_deref() {
            Err(_) | Ok("" | "builtin") => Self::builtin(),
            Ok("kind") => Self::kind(),
            Ok(other) => bail!("TILE_PROXY_CLUSTER is {other}; it can be builtin or kind"),
        }
    }

    /// The tools that belong to the cluster.
    pub fn toolchain(&self) -> &Toolchain {
        &self.toolchain
    }

    /// Brings the cluster up, from whatever state an earlier run left it in.
    ///
    /// A healthy cluster is kept as it is, and gets nodes until there are `nodes` of them. Half a
    /// cluster is removed and made anew: all of it is cheap to make, and nothing in it is worth
    /// repairing. Two runs at once take turns.
    ///
    /// With kind there are always two nodes.
    pub fn up(&self, nodes: u8, progress: &Progress) -> Result<()> {
        match &self.provider {
            Provider::Builtin(state) => builtin::up(self, state, nodes, progress),
            Provider::Kind => {
                prerequisites::ensure_kind()?;
                self.toolchain.build(&crate::toolchain::CLIENTS, progress)?;
                kind::up(self, progress)
            }
        }
    }

    /// Stops the cluster and removes everything it left on the machine. Doing it twice is harmless.
    pub fn down(&self, progress: &Progress) -> Result<()> {
        match &self.provider {
            Provider::Builtin(state) => builtin::down(state, progress),
            Provider::Kind => kind::down(progress),
        }
    }

    /// Every component of every node and how it is; none where there is no node.
    pub fn components(&self) -> Option<Vec<ComponentStatus>> {
        match &self.provider {
            Provider::Builtin(state) => builtin::components(state),
            Provider::Kind => kind::exists().then(Vec::new),
        }
    }

    /// Gives every node an image, from an OCI archive.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        match &self.provider {
            Provider::Builtin(state) => builtin::load_image(state, archive),
            Provider::Kind => kind::load_image(archive),
        }
        .with_context(|| format!("cannot load the image {}", archive.display()))
    }

    /// A command in the cluster's network, with `KUBECONFIG` set, that otherwise sees the host.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = match &self.provider {
            Provider::Builtin(state) => network::inside(&state.first(), program),
            Provider::Kind => Command::new(program.as_ref()),
        };
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// The file that lets the bearer do everything in the cluster; only its owner may read it.
    pub fn kubeconfig(&self) -> PathBuf {
        match &self.provider {
            Provider::Builtin(state) => state.kubeconfig(),
            Provider::Kind => self.toolchain.derived("kind.kubeconfig"),
        }
    }

    /// `kubectl` with `args`.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run<'_> {
        let kubectl = self.toolchain.path(KUBECTL);
        Run::from_command(self.command(kubectl))
            .named("kubectl")
            .args(args)
    }

    /// `helm` with `args`.
    pub fn helm<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run<'_> {
        let helm = self.toolchain.path(HELM);
        Run::from_command(self.command(helm))
            .named("helm")
            .args(args)
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.kubectl(["apply", "--server-side", "--force-conflicts", "-f", "-"])
            .input(manifest)?
            .stdout()
            .map(drop)
    }

    /// Reads an object, or a list of them, such as `["pods", "--namespace", "logs"]`; none where
    /// the object does not exist.
    pub fn get<T: DeserializeOwned>(&self, args: &[&str]) -> Result<Option<T>> {
        let text = self
            .kubectl(["get", "--ignore-not-found", "--output", "json"])
            .args(args)
            .deadline(Duration::from_secs(20))
            .stdout()?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let object = serde_json::from_str(&text);
        object
            .map(Some)
            .with_context(|| format!("unexpected answer to kubectl get {args:?}"))
    }

    /// Waits for the Deployment `name` to have all its pods of the newest template available.
    pub fn await_deployment(&self, namespace: &str, name: &str, deadline: Duration) -> Result<()> {
        interrupt::check()?;
        self.kubectl(["rollout", "status", "--namespace", namespace])
            .arg(format!("deployment/{name}"))
            .arg(format!("--timeout={}s", deadline.as_secs()))
            // kubectl itself should notice first, and say what it saw.
            .deadline(deadline + Duration::from_secs(10))
            .stdout()
            .map(drop)
            .with_context(|| format!("Deployment {name} in {namespace} is not available"))
            .with_context(|| self.diagnosis(&[namespace]))
    }

    /// Runs `work` where Service addresses answer: on a thread inside the node's network, or here
    /// where the way leads through [`Route`]s.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.provider {
            Provider::Builtin(state) => network::run_inside(&state.first(), work),
            Provider::Kind => work(),
        }
    }

    /// Moves the calling thread, and those it starts from now on, into the network where Service
    /// addresses answer. There is no way back, so this is for threads made for the purpose.
    pub fn enter_network(&self) -> Result<()> {
        match &self.provider {
            Provider::Builtin(state) => network::enter(&state.first()),
            Provider::Kind => Ok(()),
        }
    }

    /// The names of the nodes that accidents may befall: all but the one with the control plane.
    /// Empty where there is none, or where nodes are not ours to break.
    pub fn other_nodes(&self) -> Vec<String> {
        match &self.provider {
            Provider::Builtin(state) => {
                let nodes = state.nodes().filter(|node| !node.is_first());
                let nodes = nodes.filter(node::exists);
                nodes.map(|node| node.name().to_owned()).collect()
            }
            Provider::Kind => Vec::new(),
        }
    }

    /// Why accidents of nodes cannot be caused here; none where they can.
    pub fn nodes_are_not_ours(&self) -> Option<&'static str> {
        match &self.provider {
            Provider::Builtin(_) => None,
            Provider::Kind => Some("kind's nodes are containers of the Docker engine"),
        }
    }

    /// Takes the node off the network, as if its cable were pulled. It runs on, for itself.
    pub fn cut_off(&self, node: &str) -> Result<()> {
        members::cut_off(self.ours()?, node)
    }

    /// Puts a node that was cut off back on the network.
    pub fn reconnect(&self, node: &str) -> Result<()> {
        members::reconnect(self.ours()?, node)
    }

    /// Ends everything on the node at once, as a power loss would. Its disk stays.
    pub fn end_node(&self, node: &str) -> Result<()> {
        members::end(self.ours()?, node)
    }

    /// Starts a node after [`Cluster::end_node`], and waits until it is Ready. If Kubernetes has not
    /// missed it yet, that is at once.
    pub fn start_node(&self, node: &str) -> Result<()> {
        members::start(self, self.ours()?, node)
    }

    /// Kills (`kill -9`) what watches over the containers of a pod for containerd.
    pub fn kill_shim(&self, pod_uid: &str) -> Result<()> {
        members::kill_shim(self.ours()?, pod_uid)
    }

    fn ours(&self) -> Result<&State> {
        match &self.provider {
            Provider::Builtin(state) => Ok(state),
            Provider::Kind => bail!("accidents of nodes need the built-in cluster"),
        }
    }

    /// A way to `port` of the Service `name`; open as long as the value lives.
    pub fn route(&self, namespace: &str, name: &str, port: u16) -> Result<Route> {
        match &self.provider {
            Provider::Builtin(_) => route::to_cluster_ip(self, namespace, name, port),
            Provider::Kind => route::by_port_forward(self, namespace, name, port),
        }
    }

    /// What explains a failure: components that ended, pods that are not ready, their last words,
    /// and warnings of the last minutes. `namespaces` are looked at closely.
    pub fn diagnosis(&self, namespaces: &[&str]) -> String {
        diagnosis::explain(self, namespaces)
    }
}

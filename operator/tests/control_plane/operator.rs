//! The operator itself, in the test's process, with faults in its client.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Service},
};
use kube::{Client, Resource, client::ClientBuilder, client::retry::RetryPolicy};
use serde::de::DeserializeOwned;
use serde_json::json;
use tile_proxy_operator::{
    admin::Metrics,
    controller::{self, AdminUrl, Context, Defaults, Polling, Watched},
};
use tokio::task::JoinHandle;
use tower::{buffer::BufferLayer, retry::RetryLayer};

use crate::{
    faults::Faults,
    world::{World, eventually},
};

/// The image of replicas whose TileProxy does not name one.
pub(crate) const IMAGE: &str = "mirror.example.net:5000/tile-proxy:7.1";

/// Annotation of a child by which a test makes the operator look.
pub(crate) const POKE: &str = "example.net/poke";

/// How the operator is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// How often it looks at what is settled.
    pub(crate) resync: Duration,
    /// Whether the client repeats calls, as the shipped one does. Without, every fault reaches the
    /// controller.
    pub(crate) retries: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            resync: Duration::from_secs(600),
            retries: false,
        }
    }
}

/// A running operator. When dropped it ends as a crash would, and has done no harm until then.
pub(crate) struct Operator {
    /// What is to go wrong, and what it did.
    pub(crate) faults: Faults,
    task: JoinHandle<()>,
    may_delete_volumes: AtomicBool,
}

impl Operator {
    /// One that looks after the namespace of `world`, and whose calls go well.
    pub(crate) async fn start(world: &World) -> Self {
        Self::with(world, Faults::none(), Setup::default()).await
    }

    /// The same, with `faults` and another setup.
    pub(crate) async fn with(world: &World, faults: Faults, setup: Setup) -> Self {
        // Nobody is there, and nobody is waited for.
        let polling = Polling {
            patience: Duration::ZERO,
            admin_url: Box::new(|_, _| "http://127.0.0.1:9".to_owned()),
            ..Polling::default()
        };
        Self::polling(world, faults, setup, polling).await
    }

    /// One that asks replicas at `admin_url`, all the time.
    pub(crate) async fn asking(world: &World, admin_url: AdminUrl) -> Self {
        let often = Duration::from_millis(200);
        let polling = Polling {
            interval: often,
            rollout_interval: often,
            patience: Duration::from_secs(3_600),
            admin_url,
        };
        Self::polling(world, Faults::none(), Setup::default(), polling).await
    }

    async fn polling(world: &World, faults: Faults, setup: Setup, polling: Polling) -> Self {
        let mut config = world.plane.operator().await;
        config.default_retry = false;
        let builder = ClientBuilder::try_from(config)
            .expect("a client")
            .with_layer(&faults);
        let client: Client = if setup.retries {
            builder
                .with_layer(&BufferLayer::new(1024))
                .with_layer(&RetryLayer::new(RetryPolicy::server_retry()))
                .build()
        } else {
            builder.build()
        };
        let defaults = Defaults {
            operand_image: IMAGE.to_owned(),
            ..Defaults::default()
        };
        let metrics = Metrics::new().expect("metrics");
        let context = Context::new(client, defaults, metrics, setup.resync).polling(polling);
        let watched = Watched::Namespaces(vec![world.namespace.clone()]);
        let forever = std::future::pending();
        let run = controller::run(Arc::new(context), watched, forever, || {});
        Self {
            faults,
            task: tokio::spawn(run),
            may_delete_volumes: AtomicBool::new(false),
        }
    }

    /// Ends it between two calls, as a crash would; waits until it has.
    pub(crate) async fn crash(mut self) {
        self.task.abort();
        let ended = (&mut self.task).await;
        let aborted = ended.is_err_and(|error| error.is_cancelled());
        assert!(aborted, "the operator ended by itself");
    }

    /// Fails if it has ended by itself, as by a panic.
    pub(crate) fn expect_running(&self) {
        assert!(!self.task.is_finished(), "the operator ended by itself");
    }

    /// Waits until it has asked for nothing for a while. One in a loop never does; one that repeats
    /// what failed pauses longer each time, the shortest pause being twice this while.
    pub(crate) async fn rests(&self) {
        const A_WHILE: Duration = Duration::from_millis(500);
        eventually("an operator at rest", async || {
            self.expect_running();
            match self.faults.last_asked() {
                Some(call) if call.at.elapsed() < A_WHILE => Err(call.to_string()),
                _ => Ok(()),
            }
        })
        .await;
    }

    /// Waits until `times` more reconciles of the TileProxy `name` have begun.
    pub(crate) async fn looks_again(&self, name: &str, times: usize) {
        let wanted = self.faults.reconciles(name) + times;
        eventually("reconciles", async || {
            let looks = self.faults.reconciles(name);
            if looks >= wanted { Ok(()) } else { Err(looks) }
        })
        .await;
    }

    /// As [`pokes`](Self::pokes), through a Service that the operator has made.
    pub(crate) async fn pokes_any(&self, world: &World, name: &str) {
        self.pokes_by::<Service>(world, name, "rome-replica-1")
            .await;
    }

    /// Touches a child, so that the operator looks at the TileProxy `name`, and waits until it is
    /// done with that.
    pub(crate) async fn pokes(&self, world: &World, name: &str) {
        let config = format!("{name}-config");
        self.pokes_by::<ConfigMap>(world, name, &config).await;
    }

    async fn pokes_by<K>(&self, world: &World, name: &str, child: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        // The second one begins only after the first has ended.
        for _ in 0..2 {
            let poke = format!("{:?}", std::time::Instant::now());
            let patch = json!({"metadata": {"annotations": {POKE: poke}}});
            let before = self.faults.reconciles(name);
            world.merge::<K>(child, &patch).await;
            eventually("a reconcile after a poke", async || {
                let looks = self.faults.reconciles(name);
                if looks > before { Ok(()) } else { Err(looks) }
            })
            .await;
        }
    }

    /// The policy of a TileProxy of this test asks for it.
    pub(crate) fn may_delete_volumes(&self) {
        self.may_delete_volumes.store(true, Ordering::Relaxed);
    }

    /// Fails if a volume was deleted that no policy gives away, or a right was missing.
    fn expect_harmless(&self) {
        let may_delete = self.may_delete_volumes.load(Ordering::Relaxed);
        for call in self.faults.calls() {
            assert!(
                !call.is("delete", "persistentvolumeclaims") || may_delete,
                "a volume was deleted: {call}"
            );
            assert!(!call.lacks_right, "the chart's role lacks a right: {call}");
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
        // A second panic would hide the first.
        if !std::thread::panicking() {
            self.expect_harmless();
        }
    }
}

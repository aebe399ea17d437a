//! The watches and polls that cause reconciles, and how they start and stop.

use std::{future::Future, sync::Arc, time::Duration};

use futures::{
    FutureExt as _, Stream, StreamExt as _, TryStreamExt as _,
    channel::mpsc::{UnboundedReceiver, unbounded},
    future,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::CronJob,
    core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, ResourceExt as _,
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        Controller, PredicateConfig, WatchStreamExt as _,
        controller::{self, Config},
        predicates,
        reflector::{self, ObjectRef},
        utils::Backoff,
        watcher,
    },
};
use tracing::{debug, warn};

use super::{
    Context, build::ServiceMonitor, child::Child, error_policy, names::MANAGER,
    observe::is_unknown_kind, reconcile,
};
use crate::crd::TileProxy;

/// Reconciles under way at once: enough that one slow API call holds nobody up, few enough to be
/// gentle to the API server.
const CONCURRENCY: u16 = 8;

/// Which namespaces are watched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Watched {
    /// All of them.
    Cluster,
    /// These.
    Namespaces(Vec<String>),
}

/// Watches and reconciles until `stop`; then ends once the reconciles under way have ended. Calls
/// `ready` when every watch has its first list.
pub async fn run(
    ctx: Arc<Context>,
    watched: Watched,
    stop: impl Future<Output = ()> + Send + 'static,
    ready: impl FnOnce() + Send,
) {
    let stop = stop.boxed().shared();
    let namespaces: Vec<Option<String>> = match watched {
        Watched::Cluster => vec![None],
        Watched::Namespaces(names) => names.into_iter().map(Some).collect(),
    };
    // Of each controller: which TileProxies it looks after, and how to have it look.
    let mut look = Vec::new();
    let (stores, runs): (Vec<_>, Vec<_>) = namespaces
        .into_iter()
        .map(|namespace| {
            let (news, heard) = unbounded();
            let started = start(&ctx, namespace.as_deref(), heard, stop.clone());
            look.push((namespace, news));
            started
        })
        .unzip();
    let poll = ctx.polls.run(&ctx.metrics, |(namespace, name)| {
        // One that does not look after it would take it for gone.
        let looks_after = |own: &Option<String>| own.as_ref().is_none_or(|own| own == namespace);
        for (_, news) in look.iter().filter(|(own, _)| looks_after(own)) {
            // A controller that has ended needs no news.
            let _ = news.unbounded_send(ObjectRef::new(name).within(namespace));
        }
    });
    let poll = future::select(Box::pin(poll), stop.clone());
    let announce = async {
        let lists = stores.iter().map(reflector::Store::wait_until_ready);
        if future::try_join_all(lists).await.is_ok() {
            ready();
        }
    };
    future::join3(
        future::join_all(runs),
        poll,
        future::select(Box::pin(announce), stop),
    )
    .await;
}

type Root = DeserializeGuard<TileProxy>;
type Stop = future::Shared<future::BoxFuture<'static, ()>>;

/// One controller: everything, or one namespace.
fn start(
    ctx: &Arc<Context>,
    namespace: Option<&str>,
    news: UnboundedReceiver<ObjectRef<Root>>,
    stop: Stop,
) -> (reflector::Store<Root>, impl Future<Output = ()> + use<>) {
    let client = &ctx.client;
    let (store, writer) = reflector::store();
    let forgetful = ctx.clone();
    let proxies = watcher(api::<Root>(client, namespace), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .inspect_ok(move |event| {
            if let watcher::Event::Delete(proxy) = event {
                forgetful.forget(&proxy.namespace().unwrap_or_default(), &proxy.name_any());
            }
        })
        .applied_objects()
        // Our own status updates are no reason to look again.
        .predicate_filter(predicates::generation, PredicateConfig::default());
    let context = ctx.clone();
    let run = Controller::for_stream(proxies, store.clone())
        .trigger_backoff(NoBackoff)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .owns_stream(children::<ConfigMap>(client, namespace))
        .owns_stream(children::<CronJob>(client, namespace))
        .owns_stream(children::<Deployment>(client, namespace))
        .owns_stream(children::<NetworkPolicy>(client, namespace))
        .owns_stream(children::<PodDisruptionBudget>(client, namespace))
        .owns_stream(children::<Service>(client, namespace))
        .owns_stream(children::<ServiceAccount>(client, namespace))
        .owns_stream(children_if_known::<ServiceMonitor>(client, namespace))
        .watches_stream(
            children::<PersistentVolumeClaim>(client, namespace),
            by_label,
        )
        .reconcile_on(news)
        .graceful_shutdown_on(stop)
        .run(reconcile, error_policy, ctx.clone())
        .for_each(move |result| {
            match result {
                Ok((proxy, _)) => debug!(%proxy, "reconciled"),
                // Triggered by a child of a TileProxy that is gone, whose end a watch may have missed.
                Err(controller::Error::ObjectNotFound(proxy)) => {
                    context.forget(proxy.namespace.as_deref().unwrap_or_default(), &proxy.name);
                    debug!(%proxy, "gone");
                }
                Err(controller::Error::QueueError(error)) => interrupted(&error),
                Err(_) => {} // logged with its pause by the error policy
            }
            future::ready(())
        });
    (store, run)
}

/// Says why a watch was interrupted. It is resumed in any case.
fn interrupted(error: &watcher::Error) {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.is_not_found() => {
            warn!(%error, "nothing to watch; install the CRD: `tile-proxy-operator crd` prints it");
        }
        // The API server was restarted or forgot old versions: everything is listed anew.
        watcher::Error::WatchError(status) if status.code == 410 => debug!(%error, "watch expired"),
        _ => warn!(%error, "watch interrupted"),
    }
}

/// Changes of one kind of child, deletions included.
fn children<K: Child>(
    client: &Client,
    namespace: Option<&str>,
) -> impl Stream<Item = Result<K, watcher::Error>> + Send + 'static + use<K> {
    let ours =
        watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGER}"));
    watcher(api::<K>(client, namespace), ours)
        .default_backoff()
        .touched_objects()
}

/// As [`children`], of a kind that the cluster may not know. It is looked for again with the pauses of
/// any other watch, and nothing is said meanwhile.
fn children_if_known<K: Child>(
    client: &Client,
    namespace: Option<&str>,
) -> impl Stream<Item = Result<K, watcher::Error>> + Send + 'static + use<K> {
    children(client, namespace).filter(|change| {
        let unknown = matches!(
            change,
            Err(watcher::Error::InitialListFailed(error)) if is_unknown_kind(error)
        );
        future::ready(!unknown)
    })
}

/// No pause in addition to that of each watch.
///
/// The controller's own would be shared by all watches: after a restart of the API server they fail
/// one after another, and each would wait for the pauses of those before it, for minutes in sum.
struct NoBackoff;

impl Iterator for NoBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

impl Backoff for NoBackoff {
    fn reset(&mut self) {}
}

/// Claims have no owner reference; their labels say whose they are.
fn by_label(claim: PersistentVolumeClaim) -> Option<ObjectRef<Root>> {
    let instance = claim.labels().get("app.kubernetes.io/instance")?;
    Some(ObjectRef::new(instance).within(&claim.namespace()?))
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

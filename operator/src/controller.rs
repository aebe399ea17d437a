//! One reconcile, and the watches that cause it.
//!
//! [`reconcile`] is the whole operator in one function: observe → validate → build → rollout →
//! apply → status, each a module of its own. It is level-triggered: it is not told why it runs, and
//! decides everything from what it reads then.

pub mod apply;
pub mod build;
mod child;
#[cfg(test)]
mod effects;
mod events;
#[cfg(test)]
mod fixture;
pub mod logs;
pub mod names;
pub mod observe;
mod poll;
pub mod rollout;
mod schedule;
pub mod status;
pub mod validate;
mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::{api::networking::v1::NetworkPolicyPeer, jiff::Timestamp};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::{DeserializeGuard, error_boundary::InvalidObject},
    runtime::{controller::Action, events::Recorder},
};
use serde_json::json;
use tracing::{info, warn};

use self::{
    apply::{ApplyError, Memory, apply, create_admin_secret, leave},
    build::build,
    logs::Trial,
    names::{MANAGER, Names},
    observe::{missing_references, observe},
    poll::Polls,
    rollout::next_step,
    status::Heard,
    validate::{ValidProxy, validate},
};
use crate::{
    admin::Metrics,
    condition,
    crd::{TileProxy, TileProxyStatus},
};

pub use self::{
    poll::{AdminUrl, Polling},
    watch::{Watched, run},
};

/// Longest reconcile. The client repeats failed calls by itself, for minutes in the worst case.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(90);

/// How soon to look again while replicas are not ready: watches tell sooner of everything but what
/// others bring, such as Secrets, which the operator may not see.
const UNSETTLED_INTERVAL: Duration = Duration::from_secs(20);

/// Shortest and longest pause after a failed reconcile; it doubles in between.
const BACKOFF: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(300);

/// What the operator brings to every TileProxy.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// The image replicas run where the spec does not say.
    pub operand_image: String,
    /// The operator's own pods, which have to reach replicas; `None` outside of a cluster.
    pub operator_pods: Option<NetworkPolicyPeer>,
}

/// What every reconcile shares. Everything in it may be forgotten at any time: it saves work and
/// spaces out repeats, and decides nothing.
pub struct Context {
    client: Client,
    defaults: Defaults,
    metrics: Metrics,
    resync: Duration,
    memory: Memory,
    failures: Mutex<HashMap<String, u32>>,
    secrets: Mutex<HashMap<String, Instant>>,
    events: Recorder,
    polls: Polls,
}

impl Context {
    /// A context that remembers nothing yet. `resync` is how often a settled TileProxy is looked at.
    pub fn new(client: Client, defaults: Defaults, metrics: Metrics, resync: Duration) -> Self {
        Self {
            events: events::recorder(client.clone()),
            client,
            defaults,
            metrics,
            resync,
            memory: Memory::default(),
            failures: Mutex::default(),
            secrets: Mutex::default(),
            polls: Polls::new(Polling::default()),
        }
    }

    /// The same, where replicas are asked as `polling` says.
    #[must_use]
    pub fn polling(mut self, polling: Polling) -> Self {
        self.polls = Polls::new(polling);
        self
    }

    /// The TileProxy `name` is gone: it is not ready any more, and one of the same name starts anew.
    fn forget(&self, namespace: &str, name: &str) {
        self.metrics.forget(namespace, name);
        self.polls.forget(namespace, name);
        self.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&format!("{namespace}/{name}"));
    }
}

/// Why a reconcile did not come to its end. All of them are worth a repeat.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A child could not be written; the status says so too.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The TileProxy or its children could not be read.
    #[error("cannot read the TileProxy or its children: {}", answer(.0))]
    Observe(#[source] kube::Error),
    /// The status could not be written.
    #[error("cannot write the status: {}", answer(.0))]
    Status(#[source] kube::Error),
    /// It took longer than [`RECONCILE_TIMEOUT`].
    #[error("gave up after {} s", RECONCILE_TIMEOUT.as_secs())]
    Timeout,
}

impl Error {
    /// The fixed word for metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Apply(_) => "apply",
            Self::Observe(_) => "observe",
            Self::Status(_) => "status",
            Self::Timeout => "timeout",
        }
    }
}

/// Brings one TileProxy a step closer to its spec.
///
/// # Errors
/// See [`Error`]. What was written stays; the next reconcile starts from what it finds.
pub async fn reconcile(
    proxy: Arc<DeserializeGuard<TileProxy>>,
    ctx: Arc<Context>,
) -> Result<Action, Error> {
    let started = Instant::now();
    let result = tokio::time::timeout(RECONCILE_TIMEOUT, async {
        match &proxy.0 {
            Ok(proxy) => step(proxy, &ctx).await,
            Err(invalid) => refuse_unreadable(invalid, &ctx).await,
        }
    })
    .await
    .unwrap_or(Err(Error::Timeout));
    ctx.metrics
        .reconciled(started.elapsed(), result.as_ref().err().map(Error::reason));
    if result.is_ok() {
        ctx.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key(&*proxy));
    }
    result
}

async fn step(proxy: &TileProxy, ctx: &Context) -> Result<Action, Error> {
    let (namespace, name) = (proxy.namespace().unwrap_or_default(), proxy.name_any());
    let observed = match observe(&ctx.client, &namespace, &name).await {
        Ok(observed) => observed,
        Err(error) => {
            tell_forbidden(ctx, &namespace, &name, &error).await;
            return Err(Error::Observe(error));
        }
    };
    let Some(observed) = observed else {
        ctx.forget(&namespace, &name);
        return Ok(Action::await_change()); // the garbage collector removes its children
    };
    let proxy = &observed.proxy;
    let names = Names { name, namespace };
    let valid = match validate(proxy, &ctx.defaults) {
        Ok(valid) => valid,
        Err(invalid) => {
            let replicas = &observed.children.deployments;
            let reports = ctx.polls.reports(&names);
            let status = status::refused(proxy, &invalid, (replicas, &reports), now());
            update_status(ctx, proxy, status).await?;
            return Ok(Action::await_change()); // only another spec helps
        }
    };
    ctx.polls.follow(&valid.names, 0..valid.replicas);
    let desired = build(&valid);
    let heard = Heard {
        trials: ctx.polls.trials(
            &valid.names,
            &desired.deployments,
            &observed.children.deployments,
        ),
        reports: ctx.polls.reports(&valid.names),
        at: Instant::now(),
    };
    let step = next_step(desired, &observed.children, &heard.trials);
    let mut outcome = if valid.paused {
        leave(&valid, step, observed.children)
    } else {
        let children = &observed.children;
        let applied = apply(
            &ctx.client,
            &ctx.memory,
            &ctx.metrics,
            &valid,
            step,
            children,
        );
        let mut outcome = applied.await;
        if outcome.failure.as_ref().is_none_or(ApplyError::is_refusal) {
            let settled = outcome.is_settled(valid.replicas);
            let secret = keep_admin_secret(ctx, proxy, &valid, settled).await;
            outcome.failure = outcome.failure.or_else(|| secret.err());
        }
        outcome
    };
    if outcome
        .failure
        .as_ref()
        .is_some_and(ApplyError::namespace_is_terminating)
    {
        return Ok(Action::await_change());
    }
    match missing_references(&ctx.client, &valid).await {
        Ok(missing) => outcome.missing = missing,
        Err(error) => drop(outcome.failure.get_or_insert(error)),
    }
    // Also after a failure: what did go through is there, and the rest is what it is about.
    update_status(
        ctx,
        proxy,
        status::applied(proxy, &valid, &outcome, &heard, now()),
    )
    .await?;
    let settled = outcome.is_settled(valid.replicas)
        && outcome.conflicts.is_empty()
        && outcome.missing.is_empty()
        && outcome.unknown_kinds.is_empty();
    if let Some(failure) = outcome.failure {
        return Err(failure.into());
    }
    let is_unheard = |trial: &Trial| *trial == Trial::Unheard;
    Ok(Action::requeue(if settled {
        ctx.resync
    } else if heard.trials.values().any(is_unheard) {
        // That it has said the same as before is no news, and lets the rollout go on.
        ctx.polls.polling.rollout_interval
    } else {
        UNSETTLED_INTERVAL
    }))
}

/// Says so in the status, if the children could not be read for lack of a right. Whatever else keeps
/// them from being read passes, or keeps the status from being written as well.
async fn tell_forbidden(ctx: &Context, namespace: &str, name: &str, error: &kube::Error) {
    if !matches!(error, kube::Error::Api(status) if status.is_forbidden()) {
        return;
    }
    let api = Api::<TileProxy>::namespaced(ctx.client.clone(), namespace);
    let Ok(Some(proxy)) = api.get_opt(name).await else {
        return; // this one is what may not be read
    };
    let status = status::unobserved(&proxy, answer(error), now());
    if let Err(error) = update_status(ctx, &proxy, status).await {
        warn!(namespace, name, %error, "a missing right is not told");
    }
}

/// Creates the admin Secret where it may be missing: for a TileProxy not seen before, for one that
/// does not get ready, and otherwise once per resync.
async fn keep_admin_secret(
    ctx: &Context,
    proxy: &TileProxy,
    valid: &ValidProxy,
    settled: bool,
) -> Result<(), ApplyError> {
    let uid = proxy.uid().unwrap_or_default();
    let seen = ctx
        .secrets
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&uid)
        .copied();
    let due = if settled {
        ctx.resync
    } else {
        UNSETTLED_INTERVAL
    };
    if seen.is_some_and(|seen| seen.elapsed() < due) {
        return Ok(());
    }
    create_admin_secret(&ctx.client, &ctx.metrics, valid).await?;
    ctx.secrets
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(uid, Instant::now());
    Ok(())
}

/// Writes `status` unless it is what `proxy` has.
async fn update_status(
    ctx: &Context,
    proxy: &TileProxy,
    status: TileProxyStatus,
) -> Result<(), Error> {
    let (namespace, name) = (proxy.namespace().unwrap_or_default(), proxy.name_any());
    ctx.metrics.ready(&namespace, &name, is_ready(&status));
    let old = proxy.status.clone().map(without_others);
    if old.as_ref() == Some(&status) {
        return Ok(());
    }
    if old.is_none_or(|old| is_ready(&old) != is_ready(&status)) {
        info!(
            namespace,
            name,
            ready = is_ready(&status),
            replicas = status.ready,
            "readiness changed"
        );
    }
    write_status(ctx, &namespace, &name, &status).await?;
    let before = proxy.status.as_ref().map_or(&[][..], |old| &old.conditions);
    events::publish(
        &ctx.events,
        &proxy.object_ref(&()),
        before,
        &status.conditions,
    )
    .await;
    Ok(())
}

/// A resource that does not have the shape of a TileProxy, which the API server lets in only with
/// another CRD, gets a status as well and disturbs no other.
async fn refuse_unreadable(object: &InvalidObject, ctx: &Context) -> Result<Action, Error> {
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    let Some(current) = of_any_shape(&ctx.client, &namespace)
        .get_opt(&name)
        .await
        .map_err(Error::Observe)?
    else {
        return Ok(Action::await_change());
    };
    let old = serde_json::from_value(current.data["status"].clone()).unwrap_or_default();
    let old = without_others(old);
    let status = status::unreadable(old.clone(), object, now());
    if status != old {
        warn!(
            namespace,
            name,
            error = object.error,
            "TileProxy cannot be read"
        );
        write_status(ctx, &namespace, &name, &status).await?;
        let about = current.object_ref(&ApiResource::erase::<TileProxy>(&()));
        events::publish(&ctx.events, &about, &old.conditions, &status.conditions).await;
    }
    Ok(Action::await_change())
}

async fn write_status(
    ctx: &Context,
    namespace: &str,
    name: &str,
    status: &TileProxyStatus,
) -> Result<(), Error> {
    // The answer is the whole resource, which may be one that cannot be read.
    let api = of_any_shape(&ctx.client, namespace);
    let patch = json!({
        "apiVersion": <TileProxy as kube::Resource>::api_version(&()),
        "kind": <TileProxy as kube::Resource>::kind(&()),
        "metadata": {"name": name},
        "status": status,
    });
    // Applied, so that a time that is gone is removed; conditions of others stay.
    let params = PatchParams::apply(MANAGER).force();
    match api.patch_status(name, &params, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()), // deleted meanwhile
        Err(source) => Err(Error::Status(source)),
    }
}

/// What the API server said, without the structure around it; or why it said nothing.
fn answer(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// TileProxies, whatever their spec looks like.
fn of_any_shape(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<TileProxy>(&());
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// How long to wait after `error`: longer each time in a row, and not the same for all.
pub fn error_policy(
    proxy: Arc<DeserializeGuard<TileProxy>>,
    error: &Error,
    ctx: Arc<Context>,
) -> Action {
    let key = key(&*proxy);
    let failures = {
        let mut failures = ctx.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.clone()).or_default();
        *count += 1;
        *count
    };
    let pause = backoff(failures);
    warn!(proxy = key, %error, failures, retry_in = ?pause, "reconcile failed");
    Action::requeue(pause.mul_f64(rand::random_range(1.0..1.2)))
}

/// The pause after this many failures in a row.
fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (*BACKOFF.start() * 2_u32.pow(doublings)).min(*BACKOFF.end())
}

/// `status` as we would write it: without the conditions of others, which are no reason to write.
fn without_others(status: TileProxyStatus) -> TileProxyStatus {
    TileProxyStatus {
        conditions: condition::ours(status.conditions),
        ..status
    }
}

fn is_ready(status: &TileProxyStatus) -> bool {
    status
        .conditions
        .iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

fn key(proxy: &impl kube::Resource) -> String {
    let meta = proxy.meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", meta.name.as_deref().unwrap_or_default())
}

/// The time, in whole seconds as the API server keeps it.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_are_repeated_ever_more_slowly() {
        let seconds: Vec<u64> = (1..=11).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(backoff(u32::MAX).as_secs(), 300);
    }
}

//! Health, readiness and metrics of the operator itself.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{
    Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, core::Collector,
};
use tile_proxy::metrics::Catalogue;
use tokio::net::TcpListener;
use tracing::debug;

/// How long a client may take to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the operator counts. Cheap to clone; all clones count the same.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Catalogue>,
    /// `tile_proxy_operator_reconcile_total{result}`: reconciles that ended; `result` is `ok` or
    /// `error`. A settled operator adds one per TileProxy and resync.
    reconciles: IntCounterVec,
    /// `tile_proxy_operator_reconcile_errors_total{reason}`: `apply`, `observe`, `status` or
    /// `timeout`.
    errors: IntCounterVec,
    /// `tile_proxy_operator_reconcile_duration_seconds`.
    duration: Histogram,
    /// `tile_proxy_operator_apply_total{kind, op}`: writes to children; `op` is `apply`, `create`,
    /// `patch` or `delete`. Does not grow while everything is settled.
    writes: IntCounterVec,
    /// `tile_proxy_operator_polls_total{result}`: replicas asked about their logs; `result` is
    /// `answered`, `unreachable` or `unreadable`.
    polls: IntCounterVec,
    /// `tile_proxy_operator_resource_ready{namespace, name}`: 1 where Ready is True, otherwise 0.
    ready: IntGaugeVec,
    /// `tile_proxy_operator_leader`: 1 while this process holds the Lease, or works without one.
    leader: IntGauge,
}

impl Metrics {
    /// All of them at zero.
    ///
    /// # Errors
    /// When two have the same name, which a start of the operator shows at once.
    pub fn new() -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help).namespace(PREFIX), labels)
        };
        let metrics = Self {
            reconciles: counter(
                "reconcile_total",
                "Reconciles that ended, by result.",
                &["result"],
            )?,
            errors: counter(
                "reconcile_errors_total",
                "Reconciles that failed, by the step that failed.",
                &["reason"],
            )?,
            duration: Histogram::with_opts(
                HistogramOpts::new("reconcile_duration_seconds", "How long reconciles took.")
                    .namespace(PREFIX)
                    .buckets(vec![0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 90.0]),
            )?,
            writes: counter(
                "apply_total",
                "Writes to children, by kind and operation.",
                &["kind", "op"],
            )?,
            polls: counter(
                "polls_total",
                "Replicas asked how their logs are, by result.",
                &["result"],
            )?,
            leader: IntGauge::with_opts(
                Opts::new("leader", "Whether this operator is the one that works.")
                    .namespace(PREFIX),
            )?,
            ready: IntGaugeVec::new(
                Opts::new("resource_ready", "Whether a TileProxy is Ready.").namespace(PREFIX),
                &["namespace", "name"],
            )?,
            registry: Arc::default(),
        };
        // No `..`: a new metric does not compile until it is registered.
        let Self {
            registry,
            reconciles,
            errors,
            duration,
            writes,
            polls,
            ready,
            leader,
        } = &metrics;
        let all: [Box<dyn Collector>; 7] = [
            Box::new(reconciles.clone()),
            Box::new(errors.clone()),
            Box::new(duration.clone()),
            Box::new(writes.clone()),
            Box::new(polls.clone()),
            Box::new(ready.clone()),
            Box::new(leader.clone()),
        ];
        all.into_iter()
            .try_for_each(|metric| registry.register(metric))?;
        Ok(metrics)
    }

    /// A reconcile ended after `duration`, with the reason of its error if it had one.
    pub fn reconciled(&self, duration: Duration, error: Option<&'static str>) {
        let result = if error.is_some() { "error" } else { "ok" };
        self.reconciles.with_label_values(&[result]).inc();
        if let Some(reason) = error {
            self.errors.with_label_values(&[reason]).inc();
        }
        self.duration.observe(duration.as_secs_f64());
    }

    /// A child was written.
    pub fn applied(&self, kind: &str, operation: &str) {
        self.writes.with_label_values(&[kind, operation]).inc();
    }

    /// A replica was asked how its logs are.
    pub fn polled(&self, result: &str) {
        self.polls.with_label_values(&[result]).inc();
    }

    /// A TileProxy is ready, or not.
    pub fn ready(&self, namespace: &str, name: &str, ready: bool) {
        self.ready
            .with_label_values(&[namespace, name])
            .set(i64::from(ready));
    }

    /// This operator works, or waits for its turn.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// A TileProxy is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        // An error says that it was never counted.
        let _ = self.ready.remove_label_values(&[namespace, name]);
    }
}

const PREFIX: &str = "tile_proxy_operator";

/// Opens the address of `/healthz`, `/readyz` and `/metrics`. The wildcard `[::]` falls back to
/// `0.0.0.0` on a machine without IPv6.
///
/// # Errors
/// Why the address cannot be opened.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], address.port()))).await
        }
        result => result,
    }
}

/// Answers on `listener` for ever. `/readyz` follows `ready`.
pub async fn serve(listener: TcpListener, metrics: Metrics, ready: Arc<AtomicBool>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "accept failed");
                // Out of file descriptors, for instance: others need a moment to give some back.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (metrics, ready) = (metrics.clone(), ready.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &metrics, ready.load(Ordering::Acquire));
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                debug!(%error, "connection ended");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, ready: bool) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if ready => text(StatusCode::OK, "ok\n"),
        "/readyz" => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "waiting for the first list of TileProxies\n",
        ),
        "/metrics" => text(StatusCode::OK, metrics.registry.render()),
        _ => text(StatusCode::NOT_FOUND, "try /healthz, /readyz or /metrics\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_lists_every_metric_and_no_other() {
        let page = include_str!("../../docs/operator.md");
        let metrics = Metrics::new().expect("registered");
        let wrong = metrics.registry.differences(page);
        assert!(wrong.is_empty(), "docs/operator.md: {wrong:#?}");
    }
}

//! Every metric of the proxy: name, help, labels, and the fixed values of the labels.

mod catalogue;

use std::time::Duration;

use http::StatusCode;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts,
};

pub use self::catalogue::{Catalogue, Described};
use crate::log::state::LogState;

/// Seconds: from a memory hit to the longest wait for an upstream.
const LATENCY_BUCKETS: [f64; 12] = [
    0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// The metrics of one process, and where they are registered.
#[derive(Debug)]
pub struct Metrics {
    registry: Catalogue,
    /// `tile_proxy_cache_hits_total{log}`: tiles and bundles served without asking anyone.
    pub hits: IntCounterVec,
    /// `tile_proxy_cache_misses_total{log}`: tiles and bundles that had to be fetched.
    pub misses: IntCounterVec,
    /// `tile_proxy_cache_size_bytes{log}`: bytes of the cache on the disk. `log` is empty for what
    /// belongs to no log of the configuration.
    pub size_bytes: GaugeVec,
    /// `tile_proxy_cache_store_refused_total{log}`: resources served but not stored, because the disk
    /// or its budget is full.
    pub store_refused: IntCounterVec,
    /// `tile_proxy_cache_evictions_total{log}`: bundles removed to stay within the budget.
    pub evictions: IntCounterVec,
    /// `tile_proxy_cache_corrupt_total{log}`: stored resources that had rotted or were torn; each
    /// was fetched again.
    pub corrupt: IntCounterVec,
    /// `tile_proxy_upstream_requests_total{log, upstream, status}`: requests to logs. `status` is
    /// an HTTP status code, or `error` without one.
    pub upstream_requests: IntCounterVec,
    /// `tile_proxy_upstream_duration_seconds{log, upstream}`.
    pub upstream_duration: HistogramVec,
    /// `tile_proxy_upstream_healthy{log, upstream}`: 1 if what it was last asked for was there and
    /// right, else 0; absent until it is asked.
    pub upstream_healthy: IntGaugeVec,
    /// `tile_proxy_peer_requests_total{log, peer, status}`: requests to other replicas. `status` is
    /// an HTTP status code, or `error` without one.
    pub peer_requests: IntCounterVec,
    /// `tile_proxy_peer_duration_seconds{log, peer}`.
    pub peer_duration: HistogramVec,
    /// `tile_proxy_peer_healthy{log, peer}`: 0 while it is left alone, because it failed several times
    /// in a row or lied; absent until it is asked.
    pub peer_healthy: IntGaugeVec,
    /// `tile_proxy_peer_fallbacks_total{log, peer, reason}`: resources asked of the log although
    /// another replica owns them. `reason` is `absent`, `breaker`, `failed`, `lied`, `slow` or
    /// `unreachable`.
    pub peer_fallbacks: IntCounterVec,
    /// `tile_proxy_request_duration_seconds{log, kind}`: time to answer a client. `kind` is
    /// `checkpoint`, `tile`, `bundle` or `entry`.
    pub request_duration: HistogramVec,
    /// `tile_proxy_responses_total{log, status}`: answers to clients. `status` is one of
    /// [`STATUSES`], or `other`.
    pub responses: IntCounterVec,
    /// `tile_proxy_connections`: connections that are open, administration included.
    pub connections: IntGauge,
    /// `tile_proxy_connections_refused_total`: connections closed at once, because
    /// `limits.connections` are open.
    pub connections_refused: IntCounter,
    /// `tile_proxy_connections_cut_total`: connections closed because nothing went on in them.
    pub connections_cut: IntCounter,
    /// `tile_proxy_tls_handshake_failures_total`: connections that ended before TLS was spoken.
    pub tls_failures: IntCounter,
    /// `tile_proxy_tls_certificate_expiry_timestamp`: when the certificate of `tls.cert` that
    /// expires first does, in seconds since 1970; 0 without TLS.
    pub tls_expiry: IntGauge,
    /// `tile_proxy_config_reloads_total{result}`: configurations read again. `result` is `applied`
    /// or `refused`.
    pub config_reloads: IntCounterVec,
    /// `tile_proxy_audit_lost_total`: events that are not in the audit log.
    pub audit_lost: IntCounter,
    /// `tile_proxy_coalesced_total{log}`: requests that waited for another one's fetch.
    pub coalesced: IntCounterVec,
    /// `tile_proxy_verify_failures_total{log, kind, upstream}`: responses that are not in the
    /// trusted tree. `kind` is `tile`, `edge`, `bundle`, `entry` or `checkpoint`. Any increase deserves
    /// a look.
    pub verify_failures: IntCounterVec,
    /// `tile_proxy_split_views_total{log}`: checkpoints that contradict the trusted one. Look at
    /// the evidence.
    pub split_views: IntCounterVec,
    /// `tile_proxy_checkpoint_size{log}`: entries in the tree served.
    pub checkpoint_size: IntGaugeVec,
    /// `tile_proxy_checkpoint_age_seconds{log}`: time since the log last confirmed it.
    pub checkpoint_age: GaugeVec,
    /// `tile_proxy_log_state{log, state}`: 1 for how it goes with following the log, one of
    /// [`LogState`]; the others are 0.
    pub log_state: IntGaugeVec,
    /// `tile_proxy_sync_last_success_timestamp{log}`: when a sync last ended well, in seconds since
    /// 1970.
    pub sync_last_success: GaugeVec,
    /// `tile_proxy_tuf_state{state}`: 1 for how trust from TUF stands: `fresh`, `stale`, `offline` or
    /// `failed`; the others are 0.
    pub tuf_state: IntGaugeVec,
    /// `tile_proxy_tuf_version{role}`: versions of the metadata that is trusted.
    pub tuf_version: IntGaugeVec,
    /// `tile_proxy_tuf_expiry_timestamp{role}`: when it expires, in seconds since 1970.
    pub tuf_expiry: IntGaugeVec,
    /// `tile_proxy_tuf_last_success_timestamp`: when a refresh last came to its end, in seconds since
    /// 1970; absent before.
    pub tuf_last_success: IntGaugeVec,
    /// `tile_proxy_tuf_failures_total{reason}`: refreshes that failed. `reason` is one of
    /// [`REASONS`](crate::tuf::REASONS).
    pub tuf_failures: IntCounterVec,
}

impl Metrics {
    /// Registers everything once.
    ///
    /// # Errors
    /// Only a programming error: a name used twice, or one that is not a metric's.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Catalogue::default();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = GaugeVec::new(Opts::new(name, help), &["log"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS.to_vec());
            let histogram = HistogramVec::new(options, labels)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let connections = IntGauge::new(
            "tile_proxy_connections",
            "Connections that are open, those of administration included.",
        )?;
        registry.register(Box::new(connections.clone()))?;
        let plain_counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let connections_refused = plain_counter(
            "tile_proxy_connections_refused_total",
            "Connections closed at once: `limits.connections` are open.",
        )?;
        let connections_cut = plain_counter(
            "tile_proxy_connections_cut_total",
            "Connections closed because nothing went on in them.",
        )?;
        let tls_failures = plain_counter(
            "tile_proxy_tls_handshake_failures_total",
            "Connections that ended before TLS was spoken.",
        )?;
        let tls_expiry = IntGauge::new(
            "tile_proxy_tls_certificate_expiry_timestamp",
            "When the first certificate of `tls.cert` expires, in seconds since 1970; 0 without TLS.",
        )?;
        registry.register(Box::new(tls_expiry.clone()))?;
        let audit_lost = plain_counter(
            "tile_proxy_audit_lost_total",
            "Events that are not in the audit log: it could not be written.",
        )?;
        let checkpoint_size = IntGaugeVec::new(
            Opts::new(
                "tile_proxy_checkpoint_size",
                "Entries in the tree served, by log.",
            ),
            &["log"],
        )?;
        registry.register(Box::new(checkpoint_size.clone()))?;
        let upstream_healthy = IntGaugeVec::new(
            Opts::new(
                "tile_proxy_upstream_healthy",
                "1 if what the upstream was last asked for was there and right, by log and upstream.",
            ),
            &["log", "upstream"],
        )?;
        registry.register(Box::new(upstream_healthy.clone()))?;
        let peer_healthy = IntGaugeVec::new(
            Opts::new(
                "tile_proxy_peer_healthy",
                "0 while another replica is left alone because it failed or lied, by log and peer.",
            ),
            &["log", "peer"],
        )?;
        registry.register(Box::new(peer_healthy.clone()))?;
        let int_gauge = |name: &str, help: &str, labels: &[&str]| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            tuf_state: int_gauge(
                "tile_proxy_tuf_state",
                "1 for how trust from TUF stands, else 0, by state.",
                &["state"],
            )?,
            tuf_version: int_gauge(
                "tile_proxy_tuf_version",
                "Version of the TUF metadata that is trusted, by role.",
                &["role"],
            )?,
            tuf_expiry: int_gauge(
                "tile_proxy_tuf_expiry_timestamp",
                "When the TUF metadata that is trusted expires, in seconds since 1970, by role.",
                &["role"],
            )?,
            tuf_last_success: int_gauge(
                "tile_proxy_tuf_last_success_timestamp",
                "When TUF metadata was last refreshed to its end, in seconds since 1970.",
                &[],
            )?,
            tuf_failures: counter(
                "tile_proxy_tuf_failures_total",
                "Refreshes of TUF metadata that failed, by reason.",
                &["reason"],
            )?,
            hits: counter(
                "tile_proxy_cache_hits_total",
                "Tiles and bundles served without asking anyone, by log.",
                &["log"],
            )?,
            misses: counter(
                "tile_proxy_cache_misses_total",
                "Tiles and bundles that had to be fetched, by log.",
                &["log"],
            )?,
            size_bytes: gauge(
                "tile_proxy_cache_size_bytes",
                "Bytes of the cache on the disk, by log.",
            )?,
            store_refused: counter(
                "tile_proxy_cache_store_refused_total",
                "Resources served but not stored, by log: the disk or its budget is full.",
                &["log"],
            )?,
            evictions: counter(
                "tile_proxy_cache_evictions_total",
                "Entry bundles removed to stay within the disk budget, by log.",
                &["log"],
            )?,
            corrupt: counter(
                "tile_proxy_cache_corrupt_total",
                "Stored resources that had rotted or were torn, by log.",
                &["log"],
            )?,
            upstream_requests: counter(
                "tile_proxy_upstream_requests_total",
                "Requests to logs, by log, upstream and response code.",
                &["log", "upstream", "status"],
            )?,
            upstream_duration: histogram(
                "tile_proxy_upstream_duration_seconds",
                "Time to a whole response of a log, by log and upstream.",
                &["log", "upstream"],
            )?,
            upstream_healthy,
            peer_requests: counter(
                "tile_proxy_peer_requests_total",
                "Requests to other replicas, by log, peer and response code.",
                &["log", "peer", "status"],
            )?,
            peer_duration: histogram(
                "tile_proxy_peer_duration_seconds",
                "Time to a whole response of another replica, by log and peer.",
                &["log", "peer"],
            )?,
            peer_healthy,
            peer_fallbacks: counter(
                "tile_proxy_peer_fallbacks_total",
                "Resources asked of the log although another replica owns them, by log, peer and reason.",
                &["log", "peer", "reason"],
            )?,
            request_duration: histogram(
                "tile_proxy_request_duration_seconds",
                "Time to answer a client, by log and kind of resource.",
                &["log", "kind"],
            )?,
            responses: counter(
                "tile_proxy_responses_total",
                "Answers to clients, by log and response code.",
                &["log", "status"],
            )?,
            tls_failures,
            tls_expiry,
            config_reloads: counter(
                "tile_proxy_config_reloads_total",
                "Configurations read again, by result.",
                &["result"],
            )?,
            audit_lost,
            connections,
            connections_refused,
            connections_cut,
            coalesced: counter(
                "tile_proxy_coalesced_total",
                "Requests that waited for another one's fetch, by log.",
                &["log"],
            )?,
            verify_failures: counter(
                "tile_proxy_verify_failures_total",
                "Responses that are not in the trusted tree, by log, kind and upstream.",
                &["log", "kind", "upstream"],
            )?,
            split_views: counter(
                "tile_proxy_split_views_total",
                "Checkpoints that contradict the trusted one, by log.",
                &["log"],
            )?,
            checkpoint_size,
            checkpoint_age: gauge(
                "tile_proxy_checkpoint_age_seconds",
                "Time since the log last confirmed the checkpoint served, by log.",
            )?,
            log_state: int_gauge(
                "tile_proxy_log_state",
                "1 for how it goes with following the log, else 0, by log and state.",
                &["log", "state"],
            )?,
            sync_last_success: gauge(
                "tile_proxy_sync_last_success_timestamp",
                "When a sync last ended well, in seconds since 1970, by log.",
            )?,
            registry,
        })
    }

    /// What is counted for every request of one log.
    pub fn of_log(&self, log: &str) -> LogMetrics {
        let duration = |kind| self.request_duration.with_label_values(&[log, kind]);
        let status = |status: &str| self.responses.with_label_values(&[log, status]);
        LogMetrics {
            hits: self.hits.with_label_values(&[log]),
            misses: self.misses.with_label_values(&[log]),
            coalesced: self.coalesced.with_label_values(&[log]),
            checkpoint_duration: duration("checkpoint"),
            tile_duration: duration("tile"),
            bundle_duration: duration("bundle"),
            entry_duration: duration("entry"),
            responses: STATUSES.map(|code| status(&code.to_string())),
            other_responses: status("other"),
        }
    }

    /// Shows nothing of a log's state any more. What was counted of it stays counted.
    pub fn forget_log(&self, log: &str, upstreams: &[&str]) {
        // Whatever was never shown need not be taken back.
        for gauge in [
            &self.size_bytes,
            &self.checkpoint_age,
            &self.sync_last_success,
        ] {
            let _ = gauge.remove_label_values(&[log]);
        }
        let _ = self.checkpoint_size.remove_label_values(&[log]);
        for state in LogState::ALL {
            let _ = self.log_state.remove_label_values(&[log, state.as_str()]);
        }
        for upstream in upstreams {
            let _ = self.upstream_healthy.remove_label_values(&[log, upstream]);
        }
    }

    /// Says how it goes with following a log.
    pub fn log_is(&self, log: &str, is: LogState) {
        for state in LogState::ALL {
            let gauge = self.log_state.with_label_values(&[log, state.as_str()]);
            gauge.set(i64::from(state == is));
        }
    }

    /// Everything that is registered, in that order.
    pub fn described(&self) -> Vec<Described> {
        self.registry.described()
    }

    /// The metrics of one upstream of one log.
    pub fn upstream(&self, log: &str, upstream: &str) -> UpstreamMetrics {
        UpstreamMetrics {
            requests: self.upstream_requests.clone(),
            duration: self.upstream_duration.with_label_values(&[log, upstream]),
            healthy: self.upstream_healthy.clone(),
            log: log.to_owned(),
            upstream: upstream.to_owned(),
        }
    }

    /// The metrics of one other replica, for one log.
    pub fn peer(&self, log: &str, peer: &str) -> UpstreamMetrics {
        UpstreamMetrics {
            requests: self.peer_requests.clone(),
            duration: self.peer_duration.with_label_values(&[log, peer]),
            healthy: self.peer_healthy.clone(),
            log: log.to_owned(),
            upstream: peer.to_owned(),
        }
    }

    /// All of them in the Prometheus text format.
    pub fn render(&self) -> Vec<u8> {
        self.registry.render()
    }
}

/// Response codes that answers to clients have, in the order of [`LogMetrics`]'s counters.
pub const STATUSES: [u16; 11] = [200, 204, 304, 400, 404, 405, 429, 500, 502, 503, 504];

/// What is counted for every request of one log, looked up once: on the hot path, finding a counter
/// by its labels would cost more than counting.
#[derive(Debug)]
pub struct LogMetrics {
    /// See [`Metrics::hits`].
    pub hits: IntCounter,
    /// See [`Metrics::misses`].
    pub misses: IntCounter,
    /// See [`Metrics::coalesced`].
    pub coalesced: IntCounter,
    /// See [`Metrics::request_duration`], `kind` `checkpoint`.
    pub checkpoint_duration: Histogram,
    /// See [`Metrics::request_duration`], `kind` `tile`.
    pub tile_duration: Histogram,
    /// See [`Metrics::request_duration`], `kind` `bundle`.
    pub bundle_duration: Histogram,
    /// Time to answer with a Rekor v1 entry.
    pub entry_duration: Histogram,
    responses: [IntCounter; STATUSES.len()],
    other_responses: IntCounter,
}

impl LogMetrics {
    /// Counts an answer.
    pub fn answered(&self, status: StatusCode) {
        let known = STATUSES.iter().position(|known| *known == status.as_u16());
        known
            .and_then(|at| self.responses.get(at))
            .unwrap_or(&self.other_responses)
            .inc();
    }
}

/// The metrics of one upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    requests: IntCounterVec,
    duration: Histogram,
    healthy: IntGaugeVec,
    log: String,
    upstream: String,
}

impl UpstreamMetrics {
    /// Counts one request; `status` is a code, or `error`.
    pub fn observe(&self, status: &str, took: Duration) {
        self.requests
            .with_label_values(&[&self.log, &self.upstream, &status.to_owned()])
            .inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Says how it is now.
    pub fn healthy(&self, healthy: bool) {
        self.healthy
            .with_label_values(&[&self.log, &self.upstream])
            .set(healthy.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_six_names_of_the_design_are_there() {
        let metrics = Metrics::new().expect("registered");
        metrics.hits.with_label_values(&["rome"]).inc();
        metrics.misses.with_label_values(&["rome"]).inc();
        metrics.size_bytes.with_label_values(&["rome"]).set(7.0);
        metrics
            .upstream("rome", "cdn")
            .observe("200", Duration::from_millis(3));
        metrics
            .request_duration
            .with_label_values(&["rome", "tile"])
            .observe(0.001);
        metrics
            .sync_last_success
            .with_label_values(&["rome"])
            .set(1.0);
        let text = String::from_utf8(metrics.render()).expect("UTF-8");
        for line in [
            "tile_proxy_cache_hits_total{log=\"rome\"} 1",
            "tile_proxy_cache_misses_total{log=\"rome\"} 1",
            "tile_proxy_cache_size_bytes{log=\"rome\"} 7",
            "tile_proxy_upstream_requests_total{log=\"rome\",status=\"200\",upstream=\"cdn\"} 1",
            "tile_proxy_request_duration_seconds_count{kind=\"tile\",log=\"rome\"} 1",
            "tile_proxy_sync_last_success_timestamp{log=\"rome\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing from\n{text}");
        }
    }

    #[test]
    fn the_page_lists_every_metric_and_no_other() {
        let page = include_str!("../../docs/metrics.md");
        let metrics = Metrics::new().expect("registered");
        let wrong = metrics.registry.differences(page);
        assert!(wrong.is_empty(), "docs/metrics.md: {wrong:#?}");
    }
}

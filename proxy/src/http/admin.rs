//! Administration: probes, metrics, statistics, sync, prune and refresh.
//!
//! Reads are open; who may change something, [`authorize`] says.

mod authorize;
mod page;
mod prune;
mod stats;
mod which;

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use futures::future::join_all;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Serialize;

use self::{
    authorize::refusal,
    page::page,
    prune::prune,
    stats::stats,
    which::{log_of, logs, named},
};
use super::{
    Rules, Service, Site,
    respond::{Reply, json, reply, uncached, whole_seconds, with},
};
use crate::{
    audit::Event,
    cache::slots::Slot,
    logs::Followed,
    sync::SyncRequest,
    tlog::{
        path::{PathError, Resource, parse_lenient},
        tile::width_in,
    },
};

/// Largest body of an administrative call; all of them are a few words.
const MAX_BODY_BYTES: usize = 4_096;

/// Longest wait for such a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers a request for something under `/_admin`.
pub(super) async fn route(site: &Site, peer: SocketAddr, request: Request<Incoming>) -> Reply {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer(site, peer, request).await;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let reply = answer(site, peer, request).await;
    let (method, path) = (method.as_str(), path.as_str());
    let refused = |reason| Event::AuthFailure {
        peer,
        method,
        path,
        reason,
    };
    site.audit.record(&match reply.status() {
        StatusCode::METHOD_NOT_ALLOWED => return reply, // nothing was asked for
        StatusCode::UNAUTHORIZED => refused("no token"),
        StatusCode::FORBIDDEN => refused("a wrong token, or not a caller on this machine"),
        status => Event::Admin {
            peer,
            method,
            path,
            status: status.as_u16(),
        },
    });
    reply
}

async fn answer(site: &Site, peer: SocketAddr, request: Request<Incoming>) -> Reply {
    let method = request.method().clone();
    let reading = matches!(method, Method::GET | Method::HEAD);
    let path = request.uri().path().to_owned();
    let path = path.strip_prefix("/_admin").unwrap_or(&path);
    let path = path.strip_prefix('/').unwrap_or(path);
    let rules = site.rules.load_full();
    let not_allowed = |allow: &'static str| {
        let message = format!("this takes {allow}");
        let reply = json::error(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            &message,
        );
        with(reply, header::ALLOW, HeaderValue::from_static(allow))
    };
    match path {
        "health" if reading => return json::ok(&serde_json::json!({"status": "alive"})),
        "metrics" if reading => return metrics(site).await,
        "health" | "metrics" => return not_allowed("GET, HEAD"),
        _ => {}
    }
    let Some(service) = site.service.get() else {
        let message = "waiting for another process to leave the cache";
        return json::error(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message);
    };
    let refused = || refusal(&rules.admin, peer, request.headers());
    match path {
        "" if reading => page(
            &stats(site, service).await,
            service.syncs.progress().as_ref(),
        ),
        "ready" if reading => ready(site, service),
        "cache/stats" if reading => json::ok(&stats(site, service).await),
        "cache/sync" if reading => match service.syncs.progress() {
            Some(progress) => json::ok(&progress),
            None => json::error(
                StatusCode::NOT_FOUND,
                "no_sync",
                "no sync since the start; POST starts one",
            ),
        },
        "cache/sync" if method == Method::POST => match refused() {
            None => start_sync(&rules, service, request).await,
            Some(refusal) => refusal,
        },
        "refresh" if method == Method::POST => match refused() {
            None => refresh(service, request.uri().query().unwrap_or_default()).await,
            Some(refusal) => refusal,
        },
        "cache/prune" if method == Method::DELETE => match refused() {
            None => prune(service, request.uri().query().unwrap_or_default()).await,
            Some(refusal) => refusal,
        },
        "cache/prune" => not_allowed("DELETE"),
        "" | "ready" | "cache/stats" => not_allowed("GET, HEAD"),
        "cache/sync" => not_allowed("GET, HEAD, POST"),
        "refresh" => not_allowed("POST"),
        path if reading && path.starts_with("cache/tiles/") => {
            let query = request.uri().query().unwrap_or_default();
            tile(service, path.trim_start_matches("cache/"), query).await
        }
        path if path.starts_with("cache/tiles/") => not_allowed("GET, HEAD"),
        _ => json::error(
            StatusCode::NOT_FOUND,
            "not_found",
            "under /_admin are health, ready, metrics, refresh, cache/stats, cache/sync, cache/prune, cache/tiles",
        ),
    }
}

/// Whether a path is for whoever watches the process rather than for whoever uses it.
pub(super) fn is_probe(path: &str) -> bool {
    matches!(path, "/_admin/health" | "/_admin/metrics" | "/_admin/ready")
}

/// The answer to a client that asks too often.
pub(super) fn too_many(wait: Duration) -> Reply {
    let message = format!("too many requests; wait {wait:.1?}");
    let reply = json::error(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", &message);
    with(reply, header::RETRY_AFTER, whole_seconds(wait))
}

/// Ready means: the configuration is loaded, the cache is ours, and if there is a history of a log,
/// it can be served. Keys that did not sign it make a new process unready, so that a rollout
/// stops at the first replica; an absent log makes none unready. Once ready, always ready: what
/// happens to keys and disks later must not take every replica out of service at once.
fn ready(site: &Site, service: &Service) -> Reply {
    let logs = service.logs.all();
    let is_barred = |followed: &&Followed| match followed.as_rekor_v1() {
        Some(rekor) => rekor.is_barred(),
        None => followed.log.is_barred(),
    };
    let barred = logs.iter().find(is_barred);
    if let Some(barred) = barred.filter(|_| !site.was_ready.load(Ordering::Relaxed)) {
        let message = format!(
            "log `{}`: no configured key signed the checkpoint in the cache, or its tiles are damaged",
            barred.log.name()
        );
        return json::error(StatusCode::SERVICE_UNAVAILABLE, "not_ready", &message);
    }
    // Likewise a new process that has no trust at all, as long as the others have.
    let without = service.logs.tuf().filter(|tuf| tuf.material().is_none());
    if let Some(tuf) = without.filter(|_| !site.was_ready.load(Ordering::Relaxed)) {
        return json::error(StatusCode::SERVICE_UNAVAILABLE, "no_trust", &tuf.why_not());
    }
    site.was_ready.store(true, Ordering::Relaxed);
    json::ok(&serde_json::json!({"status": "ready"}))
}

async fn metrics(site: &Site) -> Reply {
    if let Some(service) = site.service.get() {
        if let Some(tuf) = service.logs.tuf() {
            tuf.measure();
        }
        let size = |log: &str, bytes: u64| {
            let gauge = site.metrics.size_bytes.with_label_values(&[log]);
            gauge.set(bytes as f64);
        };
        let mut rest = service.cache.usage().bytes();
        let checkpoint_ttl = site.rules.load().checkpoint_ttl;
        for (followed, state) in service.logs.states(checkpoint_ttl).await {
            site.metrics.log_is(followed.log.name(), state);
            let (log, rekor) = (&followed.log, followed.as_rekor_v1());
            let bytes = match rekor {
                Some(rekor) => {
                    let shards = rekor.shards();
                    let bytes = shards.iter().map(|shard| shard.store().usage.bytes.get());
                    bytes.sum()
                }
                None => log.store().map_or(0, |store| store.usage.bytes.get()),
            };
            rest = rest.saturating_sub(bytes);
            size(log.name(), bytes);
            let age = rekor.map_or_else(|| log.served_age(), |rekor| rekor.served_age());
            if let Some(age) = age {
                let gauge = &site.metrics.checkpoint_age;
                let gauge = gauge.with_label_values(&[log.name()]);
                gauge.set(age.as_secs_f64());
            }
        }
        size("", rest); // of logs that are not followed, and of none
    }
    uncached(reply(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        site.metrics.render(),
    ))
}

/// `GET /_admin/cache/tiles/{L}/{N}`: a stored tile's record.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TileRecord {
    cached_at: String,
    tree_size: u64,
    is_partial: bool,
    content_hash: String,
    upstream_url: Option<String>,
}

async fn tile(service: &Service, path: &str, query: &str) -> Reply {
    let log = match log_of(query) {
        Ok(Some(name)) => named(service, &name),
        Ok(None) => service
            .logs
            .default_log()
            .ok_or_else(|| service.logs.no_such_log().into()),
        Err(unclear) => Err(unclear),
    };
    let log = match log {
        Ok(log) => log,
        Err(unclear) => return unclear.reply(),
    };
    let absent = |message: &str| json::error(StatusCode::NOT_FOUND, "not_cached", message);
    // The same paths as clients use, below `tiles/`.
    let path = path.replacen("tiles/", "tile/", 1);
    let tile = match parse_lenient(&path) {
        Ok(Resource::Tile(tile)) => tile,
        Err(error @ PathError::OutOfReach) => return absent(&error.to_string()),
        Ok(Resource::Bundle(_)) | Err(_) => {
            let message = "give a tile as {level}/{index}";
            return json::error(StatusCode::BAD_REQUEST, "malformed", message);
        }
    };
    let (Some(store), Some(trusted)) = (log.store().cloned(), log.trusted()) else {
        return absent("the log has no trusted checkpoint yet");
    };
    let (level, index) = (tile.level(), tile.index());
    if width_in(level, index, trusted.checkpoint.size) < 256 {
        return absent(
            "only full tiles have a record; this one is part of the tree's edge, or outside",
        );
    }
    let read = tokio::task::spawn_blocking(move || {
        store
            .groups
            .find(level, index)?
            .map(|(group, slot)| group.read(slot))
            .transpose()
    });
    let record = match read.await {
        Ok(Ok(Some(Slot::Stored { record, .. }))) => record,
        Ok(Ok(Some(Slot::Corrupt))) => return absent("its stored copy is damaged"),
        Ok(Ok(Some(Slot::Vacant) | None)) => {
            return absent("not stored; a client's request stores it");
        }
        Ok(Err(error)) => {
            return json::error(StatusCode::INTERNAL_SERVER_ERROR, "io", &error.to_string());
        }
        Err(error) => {
            return json::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                &error.to_string(),
            );
        }
    };
    let cached_at = i64::try_from(record.cached_at)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .unwrap_or_default();
    json::ok(&TileRecord {
        cached_at: cached_at.to_string(),
        tree_size: record.tree_size,
        is_partial: false,
        content_hash: hex::encode(record.digest.0),
        upstream_url: service.cache.upstream_url(record.upstream).ok().flatten(),
    })
}

async fn start_sync(rules: &Rules, service: &Service, request: Request<Incoming>) -> Reply {
    let malformed = |message: &str| json::error(StatusCode::BAD_REQUEST, "malformed", message);
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return malformed(&format!("the body cannot be read: {error}")),
        Err(_) => return malformed("the body did not come"),
    };
    let wanted = if body.is_empty() {
        SyncRequest::default()
    } else {
        match serde_json::from_slice::<SyncRequest>(&body) {
            Ok(wanted) => wanted,
            Err(error) => {
                return malformed(&format!(
                    "the body is not {{\"log\":…,\"depth\":…}}: {error}"
                ));
            }
        }
    };
    let logs = match logs(service, wanted.log) {
        Ok(logs) => logs,
        Err(unclear) => return unclear.reply(),
    };
    let depth = wanted.depth.unwrap_or(rules.sync_depth);
    if depth == 0 {
        return malformed("`depth` must be at least 1");
    }
    // Of a log without tiles there is nothing to fetch ahead.
    let logs = logs.iter().filter_map(Followed::with_tiles).cloned();
    let started = service.syncs.start(logs.collect(), depth);
    json::of(StatusCode::ACCEPTED, &started)
}

/// How a refresh of one log ended.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Refreshed {
    name: String,
    size: Option<u64>,
    error: Option<String>,
}

/// Has logs asked for their checkpoint now, and forgets which upstreams have failed: all logs, or the
/// one that the query names.
async fn refresh(service: &Service, query: &str) -> Reply {
    let logs = match log_of(query).and_then(|name| logs(service, name)) {
        Ok(logs) => logs,
        Err(unclear) => return unclear.reply(),
    };
    if let Some(tuf) = service.logs.tuf() {
        // Before the logs, which read their keys anew. Why it failed stands in the statistics, and is
        // the logs' trouble only if they cannot be refreshed for it.
        let _ = tuf.refresh().await;
    }
    let refreshed = join_all(logs.into_iter().map(refresh_one)).await;
    let worst = refreshed.iter().filter_map(|(status, _)| *status).max();
    match (worst, refreshed.as_slice()) {
        (None, [(_, only)]) => json::ok(&serde_json::json!({"size": only.size})),
        (Some(status), [(_, only)]) => {
            let message = only.error.as_deref().unwrap_or_default();
            json::error(status, "not_refreshed", message)
        }
        (worst, _) => {
            let logs: Vec<&Refreshed> = refreshed.iter().map(|(_, log)| log).collect();
            json::of(
                worst.unwrap_or(StatusCode::OK),
                &serde_json::json!({"logs": logs}),
            )
        }
    }
}

async fn refresh_one(log: Followed) -> (Option<StatusCode>, Refreshed) {
    // A task of its own: a caller that leaves does not end it half-way.
    let refreshing = log.clone();
    let refreshed = tokio::spawn(async move { refreshing.refresh().await }).await;
    let (status, error) = match refreshed {
        Ok(Ok(())) => (None, None),
        Ok(Err(error)) if error.is_refusal() => {
            (Some(StatusCode::BAD_GATEWAY), Some(error.to_string()))
        }
        Ok(Err(error)) => (
            Some(StatusCode::SERVICE_UNAVAILABLE),
            Some(error.to_string()),
        ),
        Err(error) => (
            Some(StatusCode::INTERNAL_SERVER_ERROR),
            Some(error.to_string()),
        ),
    };
    let size = log.size();
    let name = log.settings.name.clone();
    (status, Refreshed { name, size, error })
}

//! Administration: probes, metrics, statistics, sync and refresh.
//!
//! Reads are open. What changes something needs the token, or, without one, a caller that is on
//! this machine and is neither a browser nor a proxy that speaks for somebody else.

use std::{net::SocketAddr, sync::atomic::Ordering};

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Serialize;

use super::{
    Service, Site,
    respond::{Reply, json, reply, with},
};
use crate::{
    cache::slots::Slot,
    sync::SyncRequest,
    tlog::{
        path::{PathError, Resource, parse_lenient},
        tile::width_in,
    },
};

/// Largest body of an administrative call; all of them are a few words.
const MAX_BODY_BYTES: usize = 4_096;

/// Answers a request for something under `/_admin`.
pub(super) async fn route(
    site: &Site,
    peer: SocketAddr,
    request: Request<Incoming>,
    path: &str,
) -> Reply {
    let method = request.method().clone();
    let reading = matches!(method, Method::GET | Method::HEAD);
    let path = path.trim_start_matches("/_admin").trim_start_matches('/');
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
        "metrics" if reading => return metrics(site),
        "health" | "metrics" => return not_allowed("GET, HEAD"),
        _ => {}
    }
    let Some(service) = site.service.get() else {
        let message = "waiting for another process to leave the cache";
        return json::error(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message);
    };
    let refused = || refusal(site, peer, request.headers());
    match path {
        "ready" if reading => json::ok(&serde_json::json!({"status": "ready"})),
        "cache/stats" if reading => json::ok(&stats(site, service)),
        "cache/sync" if reading => match service.syncs.progress() {
            Some(progress) => json::ok(&progress),
            None => json::error(
                StatusCode::NOT_FOUND,
                "no_sync",
                "no sync since the start; POST starts one",
            ),
        },
        "cache/sync" if method == Method::POST => match refused() {
            None => start_sync(site, service, request).await,
            Some(refusal) => refusal,
        },
        "refresh" if method == Method::POST => match refused() {
            None => refresh(service).await,
            Some(refusal) => refusal,
        },
        "cache/prune" => {
            let message = "pruning is not built yet in this version";
            json::error(StatusCode::NOT_IMPLEMENTED, "not_built", message)
        }
        "ready" | "cache/stats" => not_allowed("GET, HEAD"),
        "cache/sync" => not_allowed("GET, HEAD, POST"),
        "refresh" => not_allowed("POST"),
        path if reading && path.starts_with("cache/tiles/") => {
            tile(service, path.trim_start_matches("cache/")).await
        }
        _ => json::error(
            StatusCode::NOT_FOUND,
            "not_found",
            "under /_admin are health, ready, metrics, refresh, cache/stats, cache/sync, cache/tiles",
        ),
    }
}

/// Why this call may not change anything; `None` if it may.
fn refusal(site: &Site, peer: SocketAddr, headers: &HeaderMap) -> Option<Reply> {
    let forbidden = |message: &str| Some(json::error(StatusCode::FORBIDDEN, "forbidden", message));
    let Some(token) = &site.admin.token else {
        if !site.admin.loopback {
            return forbidden("no `admin.token` is configured and `admin.loopback` is off");
        }
        if !is_local(peer, headers) {
            return forbidden(
                "without `admin.token`, only a caller on this machine may do this, \
                 under a loopback host name and through no proxy or browser",
            );
        }
        return None;
    };
    let token = match token.read() {
        Ok(token) if !token.is_empty() => token,
        Ok(_) => return forbidden("the configured `admin.token` is empty"),
        Err(error) => {
            tracing::warn!(error, "admin token not readable");
            return forbidden("the configured `admin.token` is not readable");
        }
    };
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    match given {
        // Compared by digest: how long it takes says nothing about the token.
        Some(given) if digest(given) == digest(&token) => None,
        Some(_) => forbidden("not the configured `admin.token`"),
        None => {
            let message = "send `Authorization: Bearer <admin.token>`";
            let reply = json::error(StatusCode::UNAUTHORIZED, "unauthorized", message);
            Some(with(
                reply,
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer"),
            ))
        }
    }
}

fn digest(text: &str) -> crate::tlog::Hash {
    crate::tlog::Hash::of(text.as_bytes())
}

/// A caller on this machine that speaks for itself. A local reverse proxy, a mesh sidecar and a
/// browser all come from loopback too; their headers give them away.
fn is_local(peer: SocketAddr, headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let host = host.parse::<http::uri::Authority>().map_or_else(
        |_| String::new(),
        |authority| authority.host().trim_matches(['[', ']']).to_owned(),
    );
    let local_name = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    let speaks_for_another = headers.keys().any(|name| {
        let name = name.as_str();
        name == "origin"
            || name == "forwarded"
            || name == "via"
            || name.starts_with("sec-fetch-")
            || name.starts_with("x-forwarded-")
    });
    peer.ip().to_canonical().is_loopback() && local_name && !speaks_for_another
}

fn metrics(site: &Site) -> Reply {
    if let Some(service) = site.service.get() {
        let bytes = service.cache.usage().bytes.load(Ordering::Relaxed);
        site.metrics.size_bytes.set(bytes as f64);
        if let Some(age) = service.log.served_age() {
            let gauge = site
                .metrics
                .checkpoint_age
                .with_label_values(&[service.log.name()]);
            gauge.set(age.as_secs_f64());
        }
    }
    reply(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        site.metrics.render(),
    )
}

/// `GET /_admin/cache/stats`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    version: u32,
    bytes: u64,
    budget_bytes: u64,
    logs: Vec<LogStats>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LogStats {
    name: String,
    origin: Option<String>,
    size: Option<u64>,
    root: Option<String>,
    checkpoint_age_seconds: Option<u64>,
    hits: u64,
    misses: u64,
    hit_ratio: f64,
    tiles: u64,
    upstreams: Vec<UpstreamStats>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct UpstreamStats {
    name: String,
    url: String,
    healthy: bool,
    last_error: Option<String>,
}

fn stats(site: &Site, service: &Service) -> Stats {
    let (log, usage) = (&service.log, service.cache.usage());
    let hits = site.metrics.hits.with_label_values(&[log.name()]).get();
    let misses = site.metrics.misses.with_label_values(&[log.name()]).get();
    let trusted = log.trusted();
    let last_error = log
        .last_refresh()
        .and_then(Result::err)
        .map(|error| error.to_string());
    Stats {
        version: 1,
        bytes: usage.bytes.load(Ordering::Relaxed),
        budget_bytes: usage.budget,
        logs: vec![LogStats {
            name: log.name().to_owned(),
            origin: log.store().map(|store| store.origin().to_owned()),
            size: trusted.as_ref().map(|trusted| trusted.checkpoint.size),
            root: trusted
                .as_ref()
                .map(|trusted| trusted.checkpoint.root.to_string()),
            checkpoint_age_seconds: log.served_age().map(|age| age.as_secs()),
            hits,
            misses,
            hit_ratio: if hits + misses == 0 {
                0.0
            } else {
                hits as f64 / (hits + misses) as f64
            },
            tiles: log
                .store()
                .map_or(0, |store| store.tiles.load(Ordering::Relaxed)),
            upstreams: log
                .upstream()
                .map(|upstream| UpstreamStats {
                    name: upstream.name().to_owned(),
                    url: upstream.url().to_string(),
                    healthy: log.last_refresh().is_some_and(|outcome| outcome.is_ok()),
                    last_error: last_error.clone(),
                })
                .into_iter()
                .collect(),
        }],
    }
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

async fn tile(service: &Service, path: &str) -> Reply {
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
    let (Some(store), Some(trusted)) = (service.log.store().cloned(), service.log.trusted()) else {
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

async fn start_sync(site: &Site, service: &Service, request: Request<Incoming>) -> Reply {
    let malformed = |message: &str| json::error(StatusCode::BAD_REQUEST, "malformed", message);
    let body = match Limited::new(request.into_body(), MAX_BODY_BYTES)
        .collect()
        .await
    {
        Ok(body) => body.to_bytes(),
        Err(error) => return malformed(&format!("the body cannot be read: {error}")),
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
    if let Some(log) = wanted.log.filter(|log| log != service.log.name()) {
        let message = format!(
            "no log is called `{log}`; there is `{}`",
            service.log.name()
        );
        return json::error(StatusCode::NOT_FOUND, "no_such_log", &message);
    }
    let depth = wanted.depth.unwrap_or(site.sync_depth);
    if depth == 0 {
        return malformed("`depth` must be at least 1");
    }
    json::of(StatusCode::ACCEPTED, &service.syncs.start(depth))
}

async fn refresh(service: &Service) -> Reply {
    let log = std::sync::Arc::clone(&service.log);
    if let Some(upstream) = log.upstream() {
        upstream.forget_quiet();
    }
    // A task of its own: a caller that leaves does not end it half-way.
    let refreshed = tokio::spawn(async move { log.refresh().await }).await;
    let (status, message) = match refreshed {
        Ok(Ok(())) => {
            let size = service.log.trusted().map(|trusted| trusted.checkpoint.size);
            return json::ok(&serde_json::json!({"size": size}));
        }
        Ok(Err(error)) if error.is_refusal() => (StatusCode::BAD_GATEWAY, error.to_string()),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    json::error(status, "not_refreshed", &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    name.parse().expect("a name"),
                    value.parse().expect("a value"),
                )
            })
            .collect()
    }

    #[test]
    fn only_a_local_caller_that_speaks_for_itself_is_local() {
        let loopback = "127.0.0.1:5000";
        for (peer, pairs, want) in [
            (loopback, vec![("host", "localhost:8080")], true),
            (loopback, vec![("host", "127.0.0.1:8080")], true),
            ("[::1]:5000", vec![("host", "[::1]:8080")], true),
            ("[::ffff:127.0.0.1]:5000", vec![("host", "localhost")], true), // IPv4 on a v6 socket
            ("192.0.2.7:5000", vec![("host", "localhost:8080")], false),
            (loopback, vec![("host", "tiles.example")], false), // DNS rebinding
            (loopback, vec![("host", "localhost.example")], false),
            (loopback, vec![], false),
            (
                loopback,
                vec![("host", "localhost"), ("origin", "null")],
                false,
            ),
            (
                loopback,
                vec![("host", "localhost"), ("sec-fetch-site", "none")],
                false,
            ),
            (
                loopback,
                vec![("host", "localhost"), ("forwarded", "for=192.0.2.7")],
                false,
            ),
            (
                loopback,
                vec![("host", "localhost"), ("x-forwarded-for", "192.0.2.7")],
                false,
            ),
            (
                loopback,
                vec![("host", "localhost"), ("via", "1.1 mesh")],
                false,
            ),
        ] {
            let peer: SocketAddr = peer.parse().expect("an address");
            assert_eq!(is_local(peer, &headers(&pairs)), want, "{peer} {pairs:?}");
        }
    }
}

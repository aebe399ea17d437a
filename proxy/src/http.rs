//! The HTTP interface: routes and limits, in one place.
//!
//! The same router serves clients and administration; a listener says which of the two it is for.
//! Heads are bounded in size and time; bodies are only read where one is expected, and are small.

pub mod admin;
mod coding;
mod connection;
mod rate;
mod rekor_v1;
mod respond;
mod server;
mod tiles;
mod tls;

use std::{
    sync::{Arc, Mutex, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use serde::Serialize;
use tokio::sync::Notify;

pub use self::{
    coding::CodedBundles,
    connection::Gate,
    rate::{RateLimit, RateSettings},
    server::{Listener, Server},
    tls::TlsServer,
};
use self::{
    connection::Session,
    respond::{Reply, plain},
};
use crate::{
    audit::Audit, cache::Cache, config::Source, log::Asker, logs::Logs, metrics::Metrics,
    rekor_v1::RekorV1, sync::Syncs,
};

/// What a listener is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Administration, metrics and probes.
    Admin,
    /// Logs.
    Clients,
    /// Both, when there is one port.
    Everything,
}

/// What requests are answered from.
pub struct Site {
    /// Set once the cache is open; until then the process is alive and not ready.
    pub service: OnceLock<Service>,
    /// Set once the process was ready: it stays so until it ends.
    pub was_ready: AtomicBool,
    /// For everybody.
    pub metrics: Arc<Metrics>,
    /// What the configuration says about answers; replaced as a whole.
    pub rules: ArcSwap<Rules>,
    /// Told when they were.
    pub rules_replaced: Notify,
    /// How reading the configuration again went.
    pub reloads: Mutex<Reloads>,
    /// Where changes are recorded.
    pub audit: Audit,
}

/// How reading the configuration again went.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reloads {
    /// Why the newest configuration was refused, if it was.
    pub error: Option<String>,
    /// Keys that have changed and wait for a restart.
    pub needs_restart: Vec<String>,
}

/// What the configuration says about answers. A request holds one version from begin to end.
#[derive(Debug)]
pub struct Rules {
    /// Who may change things.
    pub admin: AdminPolicy,
    /// Age from which a checkpoint carries a warning.
    pub checkpoint_ttl: Duration,
    /// How many entries a sync prefetches if it is not told.
    pub sync_depth: u64,
    /// When to sync by itself, if it does.
    pub sync_schedule: Option<croner::Cron>,
    /// How many requests one client may make; `None` is as many as it likes.
    pub rate_limit: Option<Arc<RateLimit>>,
}

/// What exists once the cache is open.
pub struct Service {
    /// The logs that are followed.
    pub logs: Logs,
    /// What they are kept in.
    pub cache: Arc<Cache>,
    /// Their syncs.
    pub syncs: Syncs,
    /// Their bundles, compressed.
    pub coded: CodedBundles,
}

/// Who may make mutating calls.
#[derive(Debug)]
pub struct AdminPolicy {
    /// Read for every call, so that it can be changed.
    pub token: Option<Source>,
    /// Whether, without a token, callers on this machine may.
    pub loopback: bool,
}

/// Answers one request. Never fails: what goes wrong is an answer too.
async fn answer(session: &Session, request: Request<Incoming>) -> Reply {
    let without_body = request.method() == Method::HEAD;
    let reply = match malformed(&request) {
        Some(problem) => plain::refused(problem),
        None => route(session, request).await,
    };
    if without_body {
        return headed(reply);
    }
    reply
}

/// Why a request is not answered at all. What a proxy in front of this one might read otherwise is
/// refused, and its connection is closed, so that the two cannot disagree where a request ends.
fn malformed(request: &Request<Incoming>) -> Option<&'static str> {
    let headers = request.headers();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Some("give the body's length: no transfer coding is taken");
    }
    if request.version() == Version::HTTP_11 {
        let mut hosts = headers.get_all(header::HOST).iter();
        if hosts.next().is_none() || hosts.next().is_some() {
            return Some("give one `Host`"); // RFC 9112, section 3.2
        }
    }
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    let has_body = || {
        headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length != "0")
    };
    (reads && has_body()).then_some("a request that reads has no body")
}

async fn route(session: &Session, request: Request<Incoming>) -> Reply {
    let (site, role) = (&session.site, session.role);
    let path = request.uri().path();
    if path == "/_admin" || path.starts_with("/_admin/") {
        return match role {
            Role::Admin => admin::route(site, session.peer, request).await,
            // Probes and whoever scrapes are not limited; whoever guesses tokens is.
            Role::Everything if !admin::is_probe(path) => match too_many(session, &request) {
                Some(wait) => admin::too_many(wait),
                None => admin::route(site, session.peer, request).await,
            },
            Role::Everything => admin::route(site, session.peer, request).await,
            Role::Clients => plain::not_found("administration is on another port"),
        };
    }
    let asker = asker(site, &request);
    let limited = match (role, asker) {
        (_, Asker::Peer) => None, // it asks for many clients, and has shown who it is
        (Role::Admin, Asker::Client) => {
            return plain::not_found("only administration and peers are on this port");
        }
        (Role::Clients | Role::Everything, Asker::Client) => too_many(session, &request),
    };
    let Some(service) = site.service.get() else {
        return plain::unavailable("the proxy is starting: another process still has its cache");
    };
    // Its own: the request goes on with its body.
    let path = path.to_owned();
    let found = service.logs.of_path(&path);
    if let Ok((followed, path)) = &found
        && let Some(log) = followed.as_rekor_v1()
    {
        let reply = of_rekor_v1(site, log, request, path, limited).await;
        log.counts().answered(reply.status());
        return reply;
    }
    let reply = match (limited, request.method()) {
        (Some(wait), _) => plain::too_many(wait),
        (None, &Method::GET | &Method::HEAD) => match &found {
            Ok((followed, path)) => {
                let headers = request.headers();
                tiles::route(site, service, &followed.log, headers, path, asker).await
            }
            Err(error) => plain::not_found(&error.to_string()),
        },
        (None, &Method::OPTIONS) => plain::preflight(request.headers()),
        _ => plain::method_not_allowed("GET, HEAD, OPTIONS"),
    };
    // What names no log is nobody's.
    if let Ok((followed, _)) = found {
        followed.log.counts().answered(reply.status());
    }
    reply
}

/// Answers what is asked of a log without tiles.
async fn of_rekor_v1(
    site: &Site,
    log: &Arc<RekorV1>,
    request: Request<Incoming>,
    path: &str,
    limited: Option<Duration>,
) -> Reply {
    let is_api = path.starts_with(rekor_v1::API);
    match (limited, request.method()) {
        (Some(wait), _) if is_api => rekor_v1::too_many(wait),
        (Some(wait), _) => plain::too_many(wait),
        (None, &Method::OPTIONS) => plain::preflight(request.headers()),
        (None, _) if is_api => rekor_v1::answer(site, log, request, path).await,
        (None, &Method::GET | &Method::HEAD) => match path {
            "checkpoint" => rekor_v1::checkpoint(site, log).await,
            path if path.starts_with("tile/") => plain::not_found(rekor_v1::NO_TILES),
            _ => plain::not_found("a Rekor v1 log has `checkpoint` and `api/v1/log/…`"),
        },
        (None, _) => plain::method_not_allowed("GET, HEAD, OPTIONS"),
    }
}

/// Whether another replica asks. Whoever only says so is a client like any other.
fn asker(site: &Site, request: &Request<Incoming>) -> Asker {
    let peers = site.service.get().and_then(|service| service.logs.peers());
    match peers {
        Some(peers) if peers.admits(request.headers()) => Asker::Peer,
        Some(_) | None => Asker::Client,
    }
}

/// How long this client must wait; `None` if it need not.
fn too_many(session: &Session, request: &Request<Incoming>) -> Option<Duration> {
    let rules = session.site.rules.load();
    let limit = rules.rate_limit.as_ref()?;
    limit.take(session.peer.ip(), request.headers()).err()
}

/// The same answer without its body, as `HEAD` gets it, whatever protocol it is sent in.
fn headed(reply: Reply) -> Reply {
    let (mut parts, body) = reply.into_parts();
    if parts.status != StatusCode::NOT_MODIFIED && parts.status != StatusCode::NO_CONTENT {
        let length = body.size_hint().exact().map(HeaderValue::from);
        parts
            .headers
            .extend(length.map(|length| (header::CONTENT_LENGTH, length)));
    }
    Reply::from_parts(parts, Default::default())
}

//! The HTTP interface: routes and limits, in one place.
//!
//! The same router serves clients and administration; a listener says which of the two it is for.
//! Heads are bounded in size and time; bodies are only read where one is expected, and are small.

pub mod admin;
mod respond;
mod server;
mod tiles;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use http::{Method, Request};
use hyper::body::Incoming;

use self::respond::{Reply, plain};
pub use self::server::{Listener, Server};
use crate::{cache::Cache, config::Source, log::Log, metrics::Metrics, sync::Syncs};

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
    /// Who may change things.
    pub admin: AdminPolicy,
    /// Age from which a checkpoint carries a warning.
    pub checkpoint_ttl: Duration,
    /// How many entries a sync prefetches if it is not told.
    pub sync_depth: u64,
}

/// What exists once the cache is open.
pub struct Service {
    /// The log that is followed.
    pub log: Arc<Log>,
    /// What it is kept in.
    pub cache: Arc<Cache>,
    /// Its syncs.
    pub syncs: Syncs,
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
async fn route(site: &Site, role: Role, peer: SocketAddr, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_owned();
    if path == "/_admin" || path.starts_with("/_admin/") {
        return match role {
            Role::Admin | Role::Everything => admin::route(site, peer, request, &path).await,
            Role::Clients => plain::not_found("administration is on another port"),
        };
    }
    if role == Role::Admin {
        return plain::not_found("only administration is on this port");
    }
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return plain::preflight(),
        _ => return plain::method_not_allowed("GET, HEAD, OPTIONS"),
    }
    match site.service.get() {
        Some(service) => {
            let reply = tiles::route(site, service, request.headers(), &path).await;
            service.log.counts().answered(reply.status());
            reply
        }
        None => plain::unavailable("the proxy is starting: another process still has its cache"),
    }
}

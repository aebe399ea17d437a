//! Accepts connections, within limits, until told to stop; then lets requests end.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Role, Site, route};
use crate::config::{Limits, Listen};

/// Pause after an accept failed, as when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections of administration: probes, metrics, a person or two. Their own, so that clients who
/// take all of theirs do not make the process look dead.
const ADMIN_CONNECTIONS: usize = 64;

/// Requests under way at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;

/// An address that is listened on.
pub struct Listener {
    listener: TcpListener,
    role: Role,
}

impl Listener {
    /// Listens on an address; on the IPv4 wildcard instead of the IPv6 one on a machine without
    /// IPv6.
    ///
    /// # Errors
    /// A message that names the address and why it cannot be had.
    pub async fn bind(listen: Listen, role: Role) -> Result<Self, String> {
        let bound = match TcpListener::bind(listen.0).await {
            Err(error) if no_ipv6(&error) && listen.without_ipv6().is_some() => {
                let fallback = listen.without_ipv6().unwrap_or(listen.0);
                info!(wanted = %listen, used = %fallback, "no IPv6 on this machine");
                TcpListener::bind(fallback).await
            }
            outcome => outcome,
        };
        let listener = bound.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
        Ok(Self { listener, role })
    }

    /// Where it really listens: the port is known even if it was given as 0.
    ///
    /// # Errors
    /// When the socket has gone.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// IPv6 is compiled out (`EAFNOSUPPORT`), or switched off (`EADDRNOTAVAIL`).
fn no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// The server of a process: all listeners, one site.
pub struct Server {
    site: Arc<Site>,
    connections: Arc<Semaphore>,
    admin_connections: Arc<Semaphore>,
    first_request: Duration,
    builder: auto::Builder<TokioExecutor>,
}

impl Server {
    /// A server with these limits.
    pub fn new(site: Arc<Site>, limits: &Limits) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout.0)
            .max_buf_size(limits.header_bytes);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(limits.header_timeout.0);
        Self {
            site,
            connections: Arc::new(Semaphore::new(limits.connections)),
            admin_connections: Arc::new(Semaphore::new(ADMIN_CONNECTIONS)),
            first_request: limits.header_timeout.0,
            builder,
        }
    }

    /// Serves until `stop`; then accepts no more, and gives requests under way until `drain` is
    /// over.
    pub async fn run(self, listeners: Vec<Listener>, stop: CancellationToken, drain: Duration) {
        let server = Arc::new(self);
        let graceful = GracefulShutdown::new();
        let accepting = listeners
            .into_iter()
            .map(|listener| accept(Arc::clone(&server), listener, &graceful, &stop));
        futures::future::join_all(accepting).await;
        let open = graceful.count();
        info!(open, "draining connections");
        if tokio::time::timeout(drain, graceful.shutdown())
            .await
            .is_err()
        {
            warn!(?drain, "connections still open; cutting them off");
        }
    }
}

async fn accept(
    server: Arc<Server>,
    listener: Listener,
    graceful: &GracefulShutdown,
    stop: &CancellationToken,
) {
    let Listener { listener, role } = listener;
    let full = AtomicBool::new(false);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // A connection that was reset before it was taken, or no descriptors left.
                debug!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Above the limit a connection is closed at once: waiting would only move the queue into
        // the kernel, where nobody is told.
        let slots = match role {
            Role::Admin => &server.admin_connections,
            Role::Clients | Role::Everything => &server.connections,
        };
        let Ok(permit) = Arc::clone(slots).try_acquire_owned() else {
            if !full.swap(true, Ordering::Relaxed) {
                warn!("connection limit reached; refusing new ones");
            }
            server.site.metrics.connections_refused.inc();
            continue;
        };
        full.store(false, Ordering::Relaxed);
        let asked = Arc::new(AtomicBool::new(false));
        let connection = serve(Arc::clone(&server), stream, peer, role, Arc::clone(&asked));
        let connection = graceful.watch(connection);
        let first_request = server.first_request;
        let metrics = Arc::clone(&server.site.metrics);
        tokio::spawn(async move {
            metrics.connections.inc();
            // hyper bounds the time for each head once it knows the protocol; this bounds the time
            // until then.
            let silent = async {
                tokio::time::sleep(first_request).await;
                if asked.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        debug!(%peer, %error, "connection ended");
                    }
                }
                () = silent => {
                    metrics.connections_cut.inc();
                    debug!(%peer, "connection without a request closed");
                }
            }
            metrics.connections.dec();
            drop(permit);
        });
    }
}

fn serve(
    server: Arc<Server>,
    stream: TcpStream,
    peer: SocketAddr,
    role: Role,
    asked: Arc<AtomicBool>,
) -> impl hyper_util::server::graceful::GracefulConnection<
    Error = Box<dyn std::error::Error + Send + Sync>,
> + Send
+ 'static {
    // A tile is one write: waiting for more to send would only delay it.
    let _ = stream.set_nodelay(true);
    let site = Arc::clone(&server.site);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(route(&site, role, peer, request).await) }
    });
    server
        .builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned()
}

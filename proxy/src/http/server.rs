//! Accepts connections, within limits, until told to stop; then lets requests end.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    Role, Site,
    connection::{self, Gate},
};
use crate::config::Listen;

/// Pause after an accept failed, as when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections of administration: fifteen peers that each ask for 64 things at once, and another 64
/// for probes, metrics, a person or two. Their own, so that clients who take all of theirs do not make
/// the process look dead.
const ADMIN_CONNECTIONS: usize = 15 * 64 + 64;

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
    /// What new connections go through; those that are open keep theirs.
    gate: ArcSwap<Gate>,
    clients: Slots,
    admin: Slots,
}

/// Connections that are open.
#[derive(Default)]
struct Slots {
    taken: AtomicUsize,
    /// Whether it was said that there is no more room.
    told: AtomicBool,
}

/// A connection's place; free again when dropped.
struct Slot {
    server: Arc<Server>,
    role: Role,
}

impl Server {
    /// A server whose connections go through `gate`.
    pub fn new(site: Arc<Site>, gate: Gate) -> Self {
        Self {
            site,
            gate: ArcSwap::from_pointee(gate),
            clients: Slots::default(),
            admin: Slots::default(),
        }
    }

    /// Lets new connections through another gate.
    pub fn replace_gate(&self, gate: Gate) {
        self.gate.store(Arc::new(gate));
    }

    /// Serves until `stop`; then accepts no more, and gives requests under way the time to drain
    /// that its gate has by then.
    pub async fn run(self: Arc<Self>, listeners: Vec<Listener>, stop: CancellationToken) {
        let open = TaskTracker::new();
        let accepting = listeners
            .into_iter()
            .map(|listener| self.accept(listener, &open, &stop));
        futures::future::join_all(accepting).await;
        open.close();
        let drain = self.gate.load().drain();
        info!(open = open.len(), "draining connections");
        if tokio::time::timeout(drain, open.wait()).await.is_err() {
            warn!(
                open = open.len(),
                ?drain,
                "connections still open; cutting them off"
            );
        }
    }

    async fn accept(
        self: &Arc<Self>,
        listener: Listener,
        open: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let Listener { listener, role } = listener;
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
            let gate = self.gate.load_full();
            // Above the limit a connection is closed at once: waiting would only move the queue
            // into the kernel, where nobody is told.
            let Some(slot) = self.slot(role, &gate) else {
                continue;
            };
            let (site, stop) = (Arc::clone(&self.site), stop.clone());
            open.spawn(async move {
                connection::run(site, gate, stream, peer, role, stop).await;
                drop(slot);
            });
        }
    }

    /// A place for one more connection; `None` if all are taken.
    fn slot(self: &Arc<Self>, role: Role, gate: &Gate) -> Option<Slot> {
        let (slots, most) = match role {
            Role::Admin => (&self.admin, ADMIN_CONNECTIONS),
            Role::Clients | Role::Everything => (&self.clients, gate.connections()),
        };
        let slot = Slot {
            server: Arc::clone(self),
            role,
        };
        if slots.taken.fetch_add(1, Ordering::Relaxed) >= most {
            if !slots.told.swap(true, Ordering::Relaxed) {
                warn!(most, "connection limit reached; refusing new ones");
            }
            self.site.metrics.connections_refused.inc();
            return None; // and `slot` is given back
        }
        slots.told.store(false, Ordering::Relaxed);
        Some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let slots = match self.role {
            Role::Admin => &self.server.admin,
            Role::Clients | Role::Everything => &self.server.clients,
        };
        slots.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

//! One connection: served as long as something goes on in it.
//!
//! A client may be slow, but not for ever: [`Pulse`] counts requests and bytes, and a connection in
//! which nothing has happened for a while is closed. This one rule bounds a client that connects and
//! says nothing, one that idles after a request, one that reads a byte a second, and, in HTTP/2, one
//! that never opens its window; whatever it does with pings.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Role, Site, answer, tls::TlsServer};
use crate::config::Limits;

/// Requests under way at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;

/// Bytes a second that a client takes of an answer at the least. A full tile takes eight seconds at
/// this rate; the answers to pings are far below it.
const SLOWEST_CLIENT: u64 = 1_024;

/// Time for an HTTP/2 client to hear that its connection is closed.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a connection goes through, and the limits it has then.
pub struct Gate {
    builder: auto::Builder<TokioExecutor>,
    connections: usize,
    header_timeout: Duration,
    idle_timeout: Duration,
    drain: Duration,
    tls: Option<TlsServer>,
}

impl Gate {
    /// A gate with these limits, which speaks TLS if it is given what that takes.
    pub fn new(limits: &Limits, drain: Duration, tls: Option<TlsServer>) -> Self {
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
            builder,
            connections: limits.connections,
            header_timeout: limits.header_timeout.0,
            idle_timeout: limits.idle_timeout.0,
            drain,
            tls,
        }
    }

    /// How long requests under way may go on after a stop.
    pub(super) fn drain(&self) -> Duration {
        self.drain
    }

    /// Most connections of clients at once.
    pub(super) fn connections(&self) -> usize {
        self.connections
    }
}

/// What all requests of a connection share.
pub(super) struct Session {
    pub(super) site: Arc<Site>,
    pub(super) role: Role,
    pub(super) peer: SocketAddr,
    pulse: Pulse,
}

/// What has happened in a connection. Counted by the connection, read by its watchdog; no order
/// between the counters is needed.
#[derive(Default)]
struct Pulse {
    begun: AtomicU64,
    ended: AtomicU64,
    written: AtomicU64,
}

/// Serves one connection until it ends, is idle for too long, or `stop` is told and what is under
/// way has ended.
pub(super) async fn run(
    site: Arc<Site>,
    gate: Arc<Gate>,
    stream: TcpStream,
    peer: SocketAddr,
    role: Role,
    stop: CancellationToken,
) {
    // A tile is one write: waiting for more to send would only delay it.
    let _ = stream.set_nodelay(true);
    let open = &Arc::clone(&site).metrics.connections;
    open.inc();
    let session = Arc::new(Session {
        site,
        role,
        peer,
        pulse: Pulse::default(),
    });
    let tls = gate.tls.as_ref();
    match tls.filter(|tls| role != Role::Admin || tls.admin) {
        None => serve(session, &gate, stream, &stop).await,
        Some(tls) => {
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(gate.header_timeout, tls.acceptor.accept(stream)) => {
                    shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                }
                () = stop.cancelled() => Err(io::ErrorKind::Interrupted.into()),
            };
            match shaken {
                Ok(stream) => serve(Arc::clone(&session), &gate, stream, &stop).await,
                Err(error) => {
                    session.site.metrics.tls_failures.inc();
                    debug!(%peer, %error, "no TLS spoken");
                }
            }
        }
    }
    open.dec();
}

async fn serve<S>(session: Arc<Session>, gate: &Gate, stream: S, stop: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = Counted {
        stream,
        session: Arc::clone(&session),
    };
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let session = Arc::clone(&session);
        session.pulse.begun.fetch_add(1, Ordering::Relaxed);
        async move {
            let _ended = Ended(&session.pulse);
            Ok::<_, Infallible>(answer(&session, request).await)
        }
    });
    let mut connection = pin!(gate.builder.serve_connection(TokioIo::new(io), service));
    let mut lifeless = pin!(session.pulse.stops(gate));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = lifeless => Ok(()),
            }
        }
        () = &mut lifeless => {
            session.site.metrics.connections_cut.inc();
            debug!(peer = %session.peer, "connection without progress closed");
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(peer = %session.peer, %error, "connection ended");
    }
}

impl Pulse {
    /// Ends when nothing has happened for too long: no first request within the time for a head, or
    /// later neither a request nor enough bytes taken within the idle time.
    async fn stops(&self, gate: &Gate) {
        tokio::time::sleep(gate.header_timeout).await;
        if self.begun.load(Ordering::Relaxed) == 0 {
            return;
        }
        let enough = gate.idle_timeout.as_secs().max(1) * SLOWEST_CLIENT;
        loop {
            let (begun, written) = self.counts();
            tokio::time::sleep(gate.idle_timeout).await;
            let (begun_by_now, written_by_now) = self.counts();
            // The handler waits for the disk or the log, which have limits of their own.
            let answering = self.ended.load(Ordering::Relaxed) != begun_by_now;
            if begun_by_now == begun && !answering && written_by_now - written < enough {
                return;
            }
        }
    }

    fn counts(&self) -> (u64, u64) {
        let begun = self.begun.load(Ordering::Relaxed);
        (begun, self.written.load(Ordering::Relaxed))
    }
}

/// Counts a request as ended, also when its client has left.
struct Ended<'a>(&'a Pulse);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A stream that counts what is written to it.
struct Counted<S> {
    stream: S,
    session: Arc<Session>,
}

impl<S> Counted<S> {
    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            let counter = &self.session.pulse.written;
            counter.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

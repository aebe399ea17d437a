//! The log's server: everything from memory, without delay unless told, and counting.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::log::BenchLog;

/// A running upstream. It ends with the process.
pub(crate) struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    log: BenchLog,
    requests: AtomicU64,
    behaviour: Mutex<Behaviour>,
}

/// How requests for tiles are answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    /// Time before the answer.
    pub(crate) delay: Duration,
    /// Whether the answer is the tile; a 500 otherwise.
    pub(crate) succeeds: bool,
}

/// At once, and the truth.
pub(crate) const PROMPT: Behaviour = Behaviour {
    delay: Duration::ZERO,
    succeeds: true,
};

impl Upstream {
    /// Serves `log` on a port of its own.
    pub(crate) async fn start(log: BenchLog) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            log,
            requests: AtomicU64::new(0),
            behaviour: Mutex::new(PROMPT),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let state = Arc::clone(&shared);
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let state = Arc::clone(&state);
                    async move { Ok::<_, Infallible>(answer(&state, request.uri().path()).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Ok(Self { address, state })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn vkey(&self) -> String {
        self.state.log.vkey()
    }

    /// From now on, tiles are answered so.
    pub(crate) fn behaves(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().expect("nobody panics with it") = behaviour;
    }

    /// Requests for tiles so far.
    pub(crate) fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }
}

async fn answer(state: &State, path: &str) -> Response<Full<Bytes>> {
    let path = path.trim_start_matches('/');
    let mut succeeds = true;
    if path != "checkpoint" {
        state.requests.fetch_add(1, Ordering::Relaxed);
        let behaviour = *state.behaviour.lock().expect("nobody panics with it");
        if !behaviour.delay.is_zero() {
            tokio::time::sleep(behaviour.delay).await;
        }
        succeeds = behaviour.succeeds;
    }
    let (status, body, caching) = match state.log.get(path) {
        _ if !succeeds => (StatusCode::INTERNAL_SERVER_ERROR, Bytes::new(), "no-store"),
        Some(body) if path == "checkpoint" => (StatusCode::OK, body, "no-cache"),
        Some(body) => (StatusCode::OK, body, "public, max-age=604800, immutable"),
        None => (StatusCode::NOT_FOUND, Bytes::new(), "no-store"),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        http::HeaderValue::from_static(caching),
    );
    response
}

//! A server that speaks TLS, and a proxy of the way there, so that any name can lead to it.

use std::{
    convert::Infallible,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};

use super::FixtureLog;

/// What there is at a path with its query; `None` if nothing is.
type Get = dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync;

/// A log's server that speaks TLS, and HTTP/2 if it may.
pub(crate) struct Https {
    pub(crate) address: SocketAddr,
    /// The authority that vouches for it, PEM.
    pub(crate) authority: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A request that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) version: Version,
    pub(crate) authorization: Option<String>,
}

impl Https {
    /// The whole of `log`, under this name and that of the loopback.
    pub(crate) fn serving(name: &str, log: &Arc<FixtureLog>, protocols: &[&[u8]]) -> Self {
        let log = Arc::clone(log);
        let get = move |path: &str| log.get(path, log.size(), false);
        Self::of(name, Arc::new(get), protocols)
    }

    /// Whatever `get` has, under this name and that of the loopback.
    pub(crate) fn of(name: &str, get: Arc<Get>, protocols: &[&[u8]]) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("signed");
        let names = vec![name.to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("names");
        let cert = params.signed_by(&key, &authority).expect("signed");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let secret = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], secret.expect("a key"))
            .expect("they go together");
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("set");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&seen);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("listening");
                loop {
                    let (stream, _) = listener.accept().await.expect("accepted");
                    let (acceptor, get) = (acceptor.clone(), Arc::clone(&get));
                    let requests = Arc::clone(&requests);
                    tokio::spawn(async move {
                        // Whoever does not trust us goes away.
                        let Ok(stream) = acceptor.accept(stream).await else {
                            return;
                        };
                        let service = service_fn(|request| {
                            let answer = answer(&*get, &requests, &request);
                            async move { Ok::<_, Infallible>(answer) }
                        });
                        let _ = auto::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    });
                }
            });
        });
        Self {
            address,
            authority: authority.pem(),
            seen,
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }
}

fn answer(
    get: &Get,
    seen: &Mutex<Vec<Seen>>,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let value = request.headers().get("authorization");
    let path = request.uri().path_and_query();
    let path = path.map_or("", |path| path.as_str());
    let path = path.trim_start_matches('/');
    seen.lock().expect("no panic").push(Seen {
        path: path.to_owned(),
        version: request.version(),
        authorization: value.map(|value| value.to_str().expect("ASCII").to_owned()),
    });
    let body = get(path);
    let status = if body.is_some() { 200 } else { 404 };
    let body = Full::new(Bytes::from(body.unwrap_or_default()));
    let response = Response::builder().status(status).body(body);
    response.expect("well-formed")
}

/// A proxy of the way there (`CONNECT`): whatever name it is asked for, it connects to `target`.
/// Gives its address, and what it was asked for.
pub(crate) fn connect_proxy(target: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let names = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let names = Arc::clone(&names);
            thread::spawn(move || tunnel(stream, target, &names).ok());
        }
    });
    (address, asked)
}

fn tunnel(
    client: TcpStream,
    target: SocketAddr,
    names: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let name = head.split(' ').take(2).collect::<Vec<_>>().join(" ");
    names.lock().expect("no panic").push(name);
    let server = TcpStream::connect(target)?;
    let mut there = server.try_clone()?;
    (&client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    thread::spawn(move || std::io::copy(&mut reader, &mut there));
    std::io::copy(&mut &server, &mut &client).map(drop)
}

//! Upstreams over TLS: whom they are vouched for by, what they are shown, and the way there.

use std::{
    convert::Infallible,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
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

use crate::world::{FixtureLog, Proxy, cache_directory, eventually};

/// The only name that a certificate is for; nobody can resolve it.
const NAME: &str = "log.rome.invalid";

/// A log's server that speaks TLS, and HTTP/2 if it may.
struct Https {
    address: SocketAddr,
    /// The authority that vouches for it, PEM.
    authority: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A request that was answered.
#[derive(Clone, Debug)]
struct Seen {
    version: Version,
    authorization: Option<String>,
}

impl Https {
    fn serving(log: &Arc<FixtureLog>, protocols: &[&[u8]]) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("signed");
        let names = vec![NAME.to_owned(), "127.0.0.1".to_owned()];
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
        let (log, requests) = (Arc::clone(log), Arc::clone(&seen));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("listening");
                loop {
                    let (stream, _) = listener.accept().await.expect("accepted");
                    let (acceptor, log) = (acceptor.clone(), Arc::clone(&log));
                    let requests = Arc::clone(&requests);
                    tokio::spawn(async move {
                        // Whoever does not trust us goes away.
                        let Ok(stream) = acceptor.accept(stream).await else {
                            return;
                        };
                        let service = service_fn(|request| {
                            let answer = answer(&log, &requests, &request);
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

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }
}

fn answer(
    log: &FixtureLog,
    seen: &Mutex<Vec<Seen>>,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let value = request.headers().get("authorization");
    seen.lock().expect("no panic").push(Seen {
        version: request.version(),
        authorization: value.map(|value| value.to_str().expect("ASCII").to_owned()),
    });
    let path = request.uri().path().trim_start_matches('/');
    let body = log.get(path, log.size(), false);
    let status = if body.is_some() { 200 } else { 404 };
    let body = Full::new(Bytes::from(body.unwrap_or_default()));
    let response = Response::builder().status(status).body(body);
    response.expect("well-formed")
}

/// A proxy of the way there (`CONNECT`): whatever name it is asked for, it connects to `target`.
/// Gives its address, and what it was asked for.
fn connect_proxy(target: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
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

/// A proxy whose upstream has files beside the cache.
fn start(environment: &[(&str, &str)], log: &FixtureLog, directory: &Path, url: &str) -> Proxy {
    let at = directory.display();
    let more = format!(
        "  upstreams: [{{name: rome, url: \"{url}\", ca: \"file:{at}/ca.pem\", \
         authorization: \"file:{at}/token\"}}]\n"
    );
    Proxy::start_in(environment, &log.vkey(), directory, &more)
}

#[test]
fn both_versions_of_http_are_spoken_and_the_credential_is_shown() {
    let log = Arc::new(FixtureLog::with_entries(70_000));
    for (protocols, version) in [
        (&[&b"h2"[..], &b"http/1.1"[..]][..], Version::HTTP_2),
        (&[&b"http/1.1"[..]], Version::HTTP_11),
    ] {
        let server = Https::serving(&log, protocols);
        let world = cache_directory();
        std::fs::write(world.path().join("ca.pem"), &server.authority).expect("written");
        std::fs::write(world.path().join("token"), "Bearer hunter2\n").expect("written");
        let url = format!("https://{}/", server.address);
        let proxy = start(&[], &log, world.path(), &url);
        eventually("it is followed", || proxy.get("/checkpoint").status == 200);
        assert_eq!(proxy.get("/tile/0/001").status, 200);
        for seen in server.seen() {
            assert_eq!(seen.version, version);
            assert_eq!(seen.authorization.as_deref(), Some("Bearer hunter2"));
        }
        // Replaced, and read again.
        std::fs::write(world.path().join("token"), "Bearer hunter3\n").expect("written");
        eventually("the new one is shown", || {
            let last = server.seen().pop().expect("asked");
            last.authorization.as_deref() == Some("Bearer hunter3")
        });
        assert!(proxy.printed("hunter").is_empty());
        let stats = proxy.get("/_admin/cache/stats").text();
        assert!(!stats.contains("hunter"), "{stats}");
    }
}

#[test]
fn an_authority_that_is_not_the_configured_one_vouches_for_nothing() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let server = Https::serving(&log, &[b"h2"]);
    let other = Https::serving(&log, &[b"h2"]);
    let world = cache_directory();
    std::fs::write(world.path().join("ca.pem"), &other.authority).expect("written");
    std::fs::write(world.path().join("token"), "Bearer hunter2").expect("written");
    let url = format!("https://{}/", server.address);
    let proxy = start(&[], &log, world.path(), &url);
    eventually("the certificate is refused", || {
        let response = proxy.get("/checkpoint");
        response.status == 503 && response.text().contains("certificate")
    });
    assert!(server.seen().is_empty(), "nothing was sent to it");
    // What cannot be used changes nothing; the right one is taken up without a restart.
    std::fs::write(world.path().join("ca.pem"), "half a file").expect("written");
    eventually("it is said", || proxy.printed("not read again").len() == 1);
    std::fs::write(world.path().join("ca.pem"), &server.authority).expect("written");
    eventually("it is followed", || proxy.get("/checkpoint").status == 200);
}

#[test]
fn further_authorities_stand_beside_those_of_the_system() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let public = Https::serving(&log, &[b"h2"]);
    let private = Https::serving(&log, &[b"h2"]);
    let world = cache_directory();
    let file = |name: &str| world.path().join(name).display().to_string();
    let (system, further) = (file("system.pem"), file("further.pem"));
    std::fs::write(&system, &public.authority).expect("written");
    std::fs::write(&further, &public.authority).expect("written");
    let more = format!(
        "  trusted_ca: \"file:{further}\"\n  upstreams: [{{url: \"https://{}/\", \
         tile_base_url: \"https://{}/\"}}]\n",
        public.address, private.address
    );
    let environment = [("SSL_CERT_FILE", &*system)];
    let proxy = Proxy::start_in(&environment, &log.vkey(), world.path(), &more);
    eventually("the checkpoint comes, and the tiles do not", || {
        proxy.get("/checkpoint").text().contains("certificate")
    });
    assert!(!public.seen().is_empty() && private.seen().is_empty());
    // Added to, under the running process.
    let both = format!("{}{}", public.authority, private.authority);
    std::fs::write(&further, &private.authority).expect("written");
    eventually("it is followed", || proxy.get("/checkpoint").status == 200);
    assert_eq!(proxy.get("/tile/0/001.p/44").status, 200);
    assert_eq!(proxy.stop(), Some(0));

    // An upstream's own authorities are the only ones for it.
    std::fs::write(&further, &both).expect("written");
    let more = format!(
        "  trusted_ca: \"file:{further}\"\n  upstreams: [{{url: \"https://{}/\", ca: \"file:{system}\"}}]\n",
        private.address
    );
    let cache = cache_directory();
    let proxy = Proxy::start_in(&[], &log.vkey(), cache.path(), &more);
    eventually("the certificate is refused", || {
        proxy.get("/checkpoint").text().contains("certificate")
    });
}

#[test]
fn the_way_there_may_lead_through_a_proxy() {
    let log = Arc::new(FixtureLog::with_entries(300));
    let server = Https::serving(&log, &[b"h2", b"http/1.1"]);
    let (address, asked) = connect_proxy(server.address);
    let through = format!("http://{address}");
    let world = cache_directory();
    std::fs::write(world.path().join("ca.pem"), &server.authority).expect("written");
    std::fs::write(world.path().join("token"), "Bearer hunter2").expect("written");
    let environment = [("HTTPS_PROXY", &*through), ("NO_PROXY", "127.0.0.1")];
    // Only the proxy can find this name.
    let url = format!("https://{NAME}/");
    let proxy = start(&environment, &log, world.path(), &url);
    eventually("it is followed", || proxy.get("/checkpoint").status == 200);
    let names = asked.lock().expect("no panic").clone();
    assert!(
        names
            .iter()
            .all(|name| name == &format!("CONNECT {NAME}:443"))
    );
    assert_eq!(proxy.stop(), Some(0));

    // And not where it is said not to.
    let cache = cache_directory();
    for file in ["ca.pem", "token"] {
        std::fs::copy(world.path().join(file), cache.path().join(file)).expect("copied");
    }
    let url = format!("https://{}/", server.address);
    let proxy = start(&environment, &log, cache.path(), &url);
    eventually("it is followed", || proxy.get("/checkpoint").status == 200);
    assert_eq!(asked.lock().expect("no panic").len(), names.len());
}

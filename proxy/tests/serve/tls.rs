//! TLS and client certificates, and both replaced under a running process.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::{
    honest_with,
    world::{Proxy, eventually, raw::Raw, request},
};

/// An authority of certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
struct Identity {
    cert: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `name`, good until the begin of `year`.
    fn issue(&self, name: &str, year: i32) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("signed");
        Identity {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Identity {
    /// Puts it where the proxy reads it, one file after the other.
    fn install(&self, directory: &Path) {
        std::fs::write(directory.join("tls.crt"), &self.cert).expect("written");
        std::fs::write(directory.join("tls.key"), &self.key).expect("written");
    }
}

/// Gets a path over TLS as somebody who trusts `authority` and shows `identity`. Gives the status,
/// or why there is none.
fn get(
    address: SocketAddr,
    path: &str,
    authority: &Authority,
    identity: Option<&Identity>,
) -> Result<u16, String> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("a certificate");
    roots.add(root).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { cert, key }) => {
            let cert = CertificateDer::from_pem_slice(cert.as_bytes()).expect("a certificate");
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            builder
                .with_client_auth_cert(vec![cert], key)
                .expect("they go together")
        }
    };
    let name = "tiles.example".try_into().expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let stream = TcpStream::connect(address).expect("it listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("set");
    let mut stream = StreamOwned::new(connection, stream);
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: tiles.example\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    // The end may come without a word, once the answer is there.
    let ended = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
    {
        Some(status) => Ok(status),
        None => Err(format!("{ended:?}")),
    }
}

/// A proxy with the identity of `tls.crt` and `tls.key` in `directory`, and a plain port for
/// administration.
fn world(directory: &Path, more_tls: &str) -> (impl Drop, tempfile::TempDir, Proxy) {
    let (_log, upstream, cache, proxy) = honest_with(
        300,
        &format!(
            "  admin_listen: 127.0.0.1:0\n  limits: {{header_timeout: 3s}}\n  \
             tls: {{cert: \"file:{0}/tls.crt\", key: \"file:{0}/tls.key\"{more_tls}}}\n",
            directory.display()
        ),
    );
    struct Kept<T>(#[allow(dead_code, reason = "held for its life")] T);
    impl<T> Drop for Kept<T> {
        fn drop(&mut self) {}
    }
    (Kept(upstream), cache, proxy)
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not() {
    let directory = crate::world::cache_directory();
    let (rome, oslo) = (Authority::new("rome"), Authority::new("oslo"));
    rome.issue("tiles.example", 2090).install(directory.path());
    let (_upstream, _cache, proxy) = world(directory.path(), "");
    let seen_by = |authority| get(proxy.address(), "/checkpoint", authority, None);
    assert_eq!(seen_by(&rome), Ok(200));
    assert!(seen_by(&oslo).is_err());
    let expiry = "tile_proxy_tls_certificate_expiry_timestamp";
    assert_eq!(proxy.metric(expiry), 3_786_912_000.0); // 2090-01-01

    oslo.issue("tiles.example", 2091).install(directory.path());
    eventually("the new certificate is shown", || seen_by(&oslo) == Ok(200));
    assert_eq!(proxy.metric(expiry), 3_818_448_000.0); // 2091-01-01
    let refused = proxy.printed("new configuration refused").len();
    assert!(refused <= 1, "at most between its two files");

    for (file, text, says) in [
        (
            "tls.crt",
            "not a certificate".to_owned(),
            "holds no certificate in PEM",
        ),
        (
            "tls.crt",
            rome.issue("tiles.example", 2090).cert,
            "does not go with `tls.cert`",
        ),
    ] {
        let before = std::fs::read(directory.path().join(file)).expect("readable");
        std::fs::write(directory.path().join(file), text).expect("written");
        eventually(says, || {
            proxy
                .printed("refused")
                .iter()
                .any(|line| line.contains(says))
        });
        assert_eq!(seen_by(&oslo), Ok(200), "{says}");
        std::fs::write(directory.path().join(file), before).expect("written");
    }
    // What is not TLS gets nothing, a silent client does not stay, and others are served.
    let mut plain = Raw::open(proxy.address());
    plain.send(b"GET /checkpoint HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(!plain.until_closed().starts_with(b"HTTP"));
    assert!(Raw::open(proxy.address()).until_closed().is_empty());
    assert!(proxy.metric("tile_proxy_tls_handshake_failures_total") >= 2.0);
    assert_eq!(seen_by(&oslo), Ok(200));
    // Administration has its own port, which is plain unless it is told otherwise.
    assert_eq!(
        request(proxy.admin_address(), "GET", "/_admin/health", "").status,
        200
    );
}

#[test]
fn a_client_certificate_is_asked_for_and_its_authority_can_be_replaced() {
    let directory = crate::world::cache_directory();
    let (rome, readers, strangers) = (
        Authority::new("rome"),
        Authority::new("readers"),
        Authority::new("strangers"),
    );
    rome.issue("tiles.example", 2090).install(directory.path());
    let ca = directory.path().join("ca.crt");
    std::fs::write(&ca, readers.pem()).expect("written");
    let required = format!(
        ", client_ca: \"file:{}\", require_client_cert: true",
        ca.display()
    );
    let (_upstream, cache, proxy) = world(directory.path(), &required);
    let (reader, stranger) = (
        readers.issue("reader", 2090),
        strangers.issue("stranger", 2090),
    );
    let expired = readers.issue("reader", 2000);
    let shows = |identity| get(proxy.address(), "/checkpoint", &rome, identity);
    assert_eq!(shows(Some(&reader)), Ok(200));
    for (case, identity) in [
        ("none", None),
        ("another authority's", Some(&stranger)),
        ("an expired one", Some(&expired)),
    ] {
        assert!(shows(identity).is_err(), "{case}");
    }
    assert!(proxy.metric("tile_proxy_tls_handshake_failures_total") >= 3.0);

    std::fs::write(&ca, strangers.pem()).expect("written");
    eventually("the other authority counts", || {
        shows(Some(&stranger)) == Ok(200)
    });
    assert!(shows(Some(&reader)).is_err(), "and the first one no longer");

    let file = cache.path().join("config.yaml");
    let text = std::fs::read_to_string(&file).expect("readable");
    let text = text.replace("require_client_cert: true", "require_client_cert: false");
    std::fs::write(&file, text).expect("written");
    eventually("without one is fine", || shows(None) == Ok(200));
    assert!(shows(Some(&reader)).is_err(), "a wrong one is still wrong");
}

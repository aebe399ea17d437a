//! TLS of a listener: certificate, key and client authorities, read from where the configuration says.
//!
//! No renegotiation of trust under way: a connection keeps what it was accepted with, the next one
//! gets what was read last.

use std::{fmt, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::{Source, Tls};

/// What a listener speaks TLS with.
#[derive(Clone)]
pub struct TlsServer {
    pub(super) acceptor: TlsAcceptor,
    /// When the first certificate of the chain to expire does: seconds since 1970.
    pub expires: i64,
    /// Whether administration on a port of its own speaks TLS too.
    pub(super) admin: bool,
    texts: Texts,
}

/// What was read; two servers of the same texts are the same.
#[derive(Clone, Eq, PartialEq)]
struct Texts {
    cert: String,
    key: String,
    client_ca: Option<String>,
    require_client_cert: bool,
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer")
            .field("expires", &self.expires)
            .finish_non_exhaustive() // the rest holds the key
    }
}

impl PartialEq for TlsServer {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts && self.admin == other.admin
    }
}

impl TlsServer {
    /// Reads what the configuration names; `None` if it names no certificate.
    ///
    /// # Errors
    /// Which key of the configuration names something that cannot be used, and why.
    pub fn read(tls: &Tls) -> Result<Option<Self>, String> {
        let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else {
            return Ok(None); // `check` saw that they come together
        };
        let at = |key: &'static str| move |error| format!("tile_proxy.tls.{key}: {error}");
        let client_ca = tls.client_ca.as_ref().map(Source::read).transpose();
        let texts = Texts {
            cert: cert.read().map_err(at("cert"))?,
            key: key.read().map_err(at("key"))?,
            client_ca: client_ca.map_err(at("client_ca"))?,
            require_client_cert: tls.require_client_cert,
        };
        let chain = certificates(&texts.cert).map_err(at("cert"))?;
        let expires = chain.iter().map(expiry).collect::<Result<Vec<_>, _>>();
        let expires = expires.map_err(at("cert"))?.into_iter().min().unwrap_or(0);
        let private = PrivateKeyDer::from_pem_slice(texts.key.as_bytes())
            .map_err(|_| "is not a private key in PEM".to_owned())
            .map_err(at("key"))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| at("cert")(error.to_string()))?;
        let builder = match &texts.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let verifier = verifier(ca, tls.require_client_cert).map_err(at("client_ca"))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut server = builder
            .with_single_cert(chain, private)
            .map_err(|error| at("key")(format!("does not go with `tls.cert`: {error}")))?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Some(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            expires,
            admin: tls.admin,
            texts,
        }))
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err("holds no certificate in PEM".to_owned()),
    }
}

fn expiry(certificate: &CertificateDer<'static>) -> Result<i64, String> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("holds a certificate that cannot be read: {error}"))?;
    Ok(parsed.validity().not_after.timestamp())
}

/// Takes certificates of these authorities; without one, refuses or lets pass.
fn verifier(pem: &str, required: bool) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(pem)? {
        let added = roots.add(authority);
        added.map_err(|error| format!("holds a certificate that is no authority: {error}"))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match required {
        true => builder,
        false => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| error.to_string())
}

//! Certificates of the components: one authority, made anew for every cluster.
//!
//! Every connection is authenticated both ways as in a production cluster, so nothing that works
//! here works because a check was switched off.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::layout::{API_SERVER, CONFIG, FIRST_NODE_IP, KUBERNETES_SERVICE_IP, Node, State};

/// Writes all keys, certificates and kubeconfigs of a new cluster.
///
/// Those of nodes that may be added later, too: the authority's own key is not kept.
pub(super) fn write(state: &State) -> Result<()> {
    let authority = Authority::new()?;
    for node in state.nodes() {
        let dir = node.config("");
        fs::create_dir_all(&dir)?;
        authority.write(&dir)?;
        authority.worker(&node, &dir)?;
    }
    authority.control_plane(&state.first().config(""))?;

    // People get one file they can copy.
    let kubeconfig = authority.kubeconfig(API_SERVER, "kubernetes-admin", Some(MASTERS))?;
    write_secret(&state.kubeconfig(), &kubeconfig)
}

/// Writes the keys that sign the tokens of ServiceAccounts; no certificate belongs to them.
pub(crate) fn write_token_keys(dir: &Path) -> Result<()> {
    let tokens = KeyPair::generate()?;
    write_secret(&dir.join("service-account.key"), &tokens.serialize_pem())?;
    write_secret(&dir.join("service-account.pub"), &tokens.public_key_pem())
}

/// The cluster's certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::new([])?;
        params
            .distinguished_name
            .push(DnType::CommonName, "tile-proxy cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().context("cannot generate a key")?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// Writes what only the control plane has.
    fn control_plane(&self, dir: &Path) -> Result<()> {
        self.server("kube-apiserver", &API_SERVER_NAMES)?
            .write(dir, "apiserver")?;
        // The API server calls the kubelet for logs, exec and port-forward.
        self.client("kube-apiserver-kubelet-client", Some(MASTERS))?
            .write(dir, "apiserver-kubelet")?;
        write_token_keys(dir)?;
        for component in ["kube-controller-manager", "kube-scheduler"] {
            self.component(dir, component, &format!("system:{component}"), None)?;
        }
        Ok(())
    }

    /// Writes what every node has.
    fn worker(&self, node: &Node, dir: &Path) -> Result<()> {
        self.server(node.name(), &[&node.ip(), node.name()])?
            .write(dir, "kubelet-server")?;
        let user = format!("system:node:{}", node.name());
        self.component(dir, "kubelet", &user, Some("system:nodes"))?;
        self.component(dir, "kube-proxy", "system:kube-proxy", None)
    }

    /// Writes certificate, key and kubeconfig of a component that calls the API server.
    fn component(&self, dir: &Path, file: &str, user: &str, group: Option<&str>) -> Result<()> {
        self.client(user, group)?.write(dir, file)?;
        let kubeconfig = kubeconfig(
            API_SERVER,
            &format!("certificate-authority: {CONFIG}/ca.crt"),
            &format!("client-certificate: {CONFIG}/{file}.crt"),
            &format!("client-key: {CONFIG}/{file}.key"),
        );
        write_secret(&dir.join(format!("{file}.kubeconfig")), &kubeconfig)
    }

    /// A certificate for whoever listens under one of `names`.
    pub(crate) fn server(&self, common_name: &str, names: &[&str]) -> Result<Identity> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// A certificate for the Kubernetes user `user`, member of `group`.
    fn client(&self, user: &str, group: Option<&str>) -> Result<Identity> {
        let mut params = CertificateParams::new([])?;
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// A kubeconfig of `user`, member of `group`, that holds all it needs.
    pub(crate) fn kubeconfig(
        &self,
        server: &str,
        user: &str,
        group: Option<&str>,
    ) -> Result<String> {
        let client = self.client(user, group)?;
        Ok(kubeconfig(
            server,
            &format!("certificate-authority-data: {}", base64(&self.certificate)),
            &format!("client-certificate-data: {}", base64(&client.certificate)),
            &format!("client-key-data: {}", base64(&client.key)),
        ))
    }

    /// Its own certificate, PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Writes the certificate by which all others are known.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        write_secret(&dir.join("ca.crt"), &self.certificate)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("cannot generate a key")?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity {
            certificate,
            key: key.serialize_pem(),
        })
    }
}

/// A certificate and its key, both PEM.
pub(crate) struct Identity {
    certificate: String,
    key: String,
}

impl Identity {
    /// The certificate, PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its key, PEM.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Writes `{file}.crt` and `{file}.key`.
    pub(crate) fn write(&self, dir: &Path, file: &str) -> Result<()> {
        write_secret(&dir.join(format!("{file}.crt")), &self.certificate)?;
        write_secret(&dir.join(format!("{file}.key")), &self.key)
    }
}

fn kubeconfig(server: &str, authority: &str, certificate: &str, key: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: tile-proxy\n\
         \x20 cluster:\n\
         \x20   server: {server}\n\
         \x20   {authority}\n\
         users:\n\
         - name: tile-proxy\n\
         \x20 user:\n\
         \x20   {certificate}\n\
         \x20   {key}\n\
         contexts:\n\
         - name: tile-proxy\n\
         \x20 context: {{cluster: tile-proxy, user: tile-proxy}}\n\
         current-context: tile-proxy\n"
    )
}

/// Writes a file only its owner may read.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

const API_SERVER_NAMES: [&str; 6] = [
    FIRST_NODE_IP,
    KUBERNETES_SERVICE_IP,
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// The group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";

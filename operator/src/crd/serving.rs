//! `spec.tls`, `spec.rateLimit`, `spec.audit` and `spec.log`: how clients are served, and what is
//! said about it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::KeyRef;

/// TLS for clients. Administration, probes and metrics stay plain, on a port of their own.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("!self.requireClientCert || has(self.clientCASecretRef)").message(CLIENT_CA_RULE)
)]
pub struct Tls {
    /// A Secret of type `kubernetes.io/tls`: certificate chain and private key, as cert-manager writes
    /// it. Mounted and read again when it changes, so that a renewal restarts nothing.
    pub secret_ref: SecretRef,

    /// Certificates, PEM, of authorities that may vouch for clients: an entry of a Secret. A
    /// certificate that a client shows must be of one of them. Left out: clients show none.
    #[serde(
        default,
        rename = "clientCASecretRef",
        skip_serializing_if = "Option::is_none"
    )]
    pub client_ca_secret_ref: Option<KeyRef>,

    /// Whether clients that show no certificate are refused. Needs `clientCASecretRef`. Defaults to
    /// false.
    #[serde(default)]
    pub require_client_cert: bool,
}

/// What is said about certificates that nobody could check.
pub(crate) const CLIENT_CA_RULE: &str = "requireClientCert needs clientCASecretRef beside it";

/// A Secret in the namespace of the TileProxy.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// Highest rate and burst the proxy takes.
pub const MAX_RATE: u32 = 1_000_000;

/// How much one client may ask of each replica. Probes, metrics and syncs do not count.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("self.perIPPerSecond > 0 || (self.burst == 0 && size(self.trustedProxies) == 0)")
        .message(RATE_RULE)
)]
pub struct RateLimit {
    /// Requests a second that one address (in IPv6, one /64) may make, 0 to 1,000,000. Defaults to 0,
    /// which is no limit. What a load balancer or node forwards may come from its address.
    #[serde(default, rename = "perIPPerSecond")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub per_ip_per_second: u32,

    /// Requests above a second's worth that may come at once, 0 to 1,000,000. Defaults to 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub burst: u32,

    /// Addresses and networks (`10.0.0.0/8`) whose `X-Forwarded-For` is believed, such as those of an
    /// ingress; at most 32. The client is the right-most address in it that is none of them.
    #[serde(default)]
    #[schemars(
        length(max = 32),
        inner(
            length(min = 2, max = 43),
            regex(pattern = r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$")
        )
    )]
    pub trusted_proxies: Vec<String>,
}

/// What is said about a limit that limits nothing.
pub(crate) const RATE_RULE: &str =
    "burst and trustedProxies have no effect without perIPPerSecond; set it, or remove them";

/// The record of what was changed and what became trusted.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// Whether each replica prints a JSON line to its log for every event that docs/audit.md lists.
    /// Defaults to false.
    #[serde(default)]
    pub enabled: bool,
}

/// What replicas print, and how.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or a filter such as
    /// `info,tile_proxy=debug`. At most 256 characters. Defaults to info.
    #[serde(default = "defaults::level")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[a-zA-Z0-9_:=,]+$"))]
    pub level: String,

    /// `Json` is an object a line, `Text` is for people. Defaults to Json.
    #[serde(default)]
    pub format: LogFormat,
}

// A derived `Default` would put the empty string into the CRD, not the default of the field.
impl Default for Log {
    fn default() -> Self {
        Self {
            level: defaults::level(),
            format: LogFormat::default(),
        }
    }
}

/// How lines are printed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Text for people.
    Text,
}

mod defaults {
    pub(super) fn level() -> String {
        "info".to_owned()
    }
}

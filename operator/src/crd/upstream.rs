//! `spec.upstreams`: where the log is read.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::KeyRef;

/// Most upstreams of one log.
pub const MAX_UPSTREAMS: usize = 16;

/// One place that serves the log.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("!has(self.caConfigMapKeyRef) || self.url.startsWith('https://')").message(CA_RULE)
)]
pub struct Upstream {
    /// Name in metrics and records, at most 63 characters. No two have the same. Empty: the host of
    /// `url`.
    #[serde(default)]
    #[schemars(
        length(max = 63),
        regex(pattern = r"^([a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?)?$")
    )]
    pub name: String,

    /// Base URL of the log: `checkpoint` and `tile/` are below it, or the API of Rekor v1. At most 2048 characters.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')").message(URL_RULE))]
    pub url: String,

    /// Lower is asked first, 0 to 1000; upstreams of one priority are asked in the order of the list.
    /// Defaults to 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: u32,

    /// How long one request to the log may take, 1s to 10m, such as `30s`. Defaults to 30s.
    #[serde(default = "defaults::timeout")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('10m')")
        .message("must be a duration between 1s and 10m, such as 30s"))]
    pub timeout: String,

    /// Where the tiles are, if not below `url`; a final `tile/` is cut off. At most 2048
    /// characters. Empty: below `url`.
    #[serde(default, rename = "tileBaseURL")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self == '' || self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')").message(URL_RULE))]
    pub tile_base_url: String,

    /// Where writes go that `spec.passthrough` hands on, if not to `url`; without the credential of
    /// `authSecretRef`, if that is another host. For Rekor v1. At most 2048 characters. Empty: to `url`.
    #[serde(default, rename = "writeURL")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self == '' || self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')").message(URL_RULE))]
    pub write_url: String,

    /// Certificates, PEM, of the only authorities that may vouch for this upstream: an entry of a
    /// ConfigMap, mounted and read again when it changes. Left out: those the image trusts, and
    /// `trustedCA`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_key_ref: Option<KeyRef>,

    /// The value of the `Authorization` header, such as `Bearer …`: an entry of a Secret, mounted and
    /// read again when it changes, never read by the operator. Sent to scheme, host and port of `url`
    /// and nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_secret_ref: Option<KeyRef>,
}

/// No two names of a list are the same.
pub(super) const NAMES_CEL: &str =
    "self.all(u, u.name == '' || self.exists_one(v, v.name == u.name))";

/// What is said about upstreams that metrics could not tell apart.
pub(crate) const NAMES_RULE: &str =
    "two upstreams have the same name, and metrics could not tell them apart";

/// What is said about a URL that is refused.
pub(crate) const URL_RULE: &str = "must be an http:// or https:// URL without user, query or fragment, such as https://log.example.com/";

/// What is said about authorities without certificates to vouch for.
pub(crate) const CA_RULE: &str =
    "caConfigMapKeyRef vouches for certificates: url must start with https://";

mod defaults {
    pub(super) fn timeout() -> String {
        "30s".to_owned()
    }
}

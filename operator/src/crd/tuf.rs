//! `spec.tuf`: a TUF repository that says which logs there are, and who signs for them.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{CA_RULE, KeyRef, URL_RULE};

/// A TUF repository. Logs without `publicKeys` have their keys from it; with no log in the spec at all,
/// those it names are served. A change restarts the replicas, but not one of what is referred to.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("has(self.rootConfigMapKeyRef) || has(self.rootSecretKeyRef) || self.url.matches('^https://(tuf-repo-cdn[.]sigstore[.]dev|sigstore[.]github[.]io)(/|$)')").message(ROOT_RULE),
    validation = Rule::new("!has(self.rootConfigMapKeyRef) || !has(self.rootSecretKeyRef)").message(ONE_ROOT_RULE),
    validation = Rule::new("!has(self.caConfigMapKeyRef) || self.url.startsWith('https://')").message(CA_RULE)
)]
pub struct TufSpec {
    /// Base URL of the repository, such as `https://tuf-repo-cdn.sigstore.dev`: metadata is below it,
    /// targets below `targets/`. At most 2048 characters. Empty only if `spec.mode` is Offline.
    #[serde(default)]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self == '' || self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')").message(URL_RULE))]
    pub url: String,

    /// The repository's `root.json`, from which all that it serves is verified: an entry of a
    /// ConfigMap, mounted and read again when it changes. Get it by a way that you trust, not from the
    /// repository. Left out, with `rootSecretKeyRef`, for Sigstore's public one, whose root ships with
    /// the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_config_map_key_ref: Option<KeyRef>,

    /// The same, as an entry of a Secret, which the operator does not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_secret_key_ref: Option<KeyRef>,

    /// Certificates, PEM, of the only authorities that may vouch for the repository's server: an entry
    /// of a ConfigMap, mounted and read again when it changes. Left out: those the image trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_key_ref: Option<KeyRef>,

    /// Whose `overrides` in the service map count, such as `staging`. At most 253 characters. Empty:
    /// nobody's.
    #[serde(default)]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("!self.matches('[[:cntrl:]]|^[[:space:]]|[[:space:]]$')").message(ENVIRONMENT_RULE))]
    pub environment: String,

    /// The target that says where services are, with or without `.json`. Defaults to
    /// `sigstore-services-v1`.
    #[serde(default = "defaults::service_map")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^[a-zA-Z0-9_][-._a-zA-Z0-9]*$")
    )]
    pub service_map: String,

    /// Whether the service map may name a log at `http://`, as in a cluster of one's own. What it
    /// serves is proven all the same; what is asked for is for everybody on the way to see. Defaults to
    /// false.
    #[serde(default, rename = "allowHTTP")]
    pub allow_http: bool,

    /// How often the repository is asked, 1s to 24h, such as `1h`. It is also asked when a checkpoint
    /// is signed by an unknown key. Defaults to 1h.
    #[serde(default = "defaults::refresh_interval")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('24h')")
        .message("must be a duration between 1s and 24h, such as 1h"))]
    pub refresh_interval: String,

    /// How long expired metadata is still followed, 0s to 8760h, such as `72h`: as long as the
    /// repository may be out of reach. After that, what was proven is served on, and nothing new is
    /// believed. Defaults to 0s.
    #[serde(default = "defaults::expiry_grace")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(ms|s|m|h))+$') && duration(self) <= duration('8760h')")
        .message("must be a duration of at most 8760h, such as 72h"))]
    pub expiry_grace: String,

    /// Whether checkpoints must be signed. False serves what nobody signed, and needs
    /// `spec.dangerAcceptUnsigned`, too. Defaults to true.
    #[serde(default = "defaults::validate_checkpoint_signature")]
    pub validate_checkpoint_signature: bool,
}

/// What is said about a repository that nothing is verified from.
pub(crate) const ROOT_RULE: &str = "set rootConfigMapKeyRef or rootSecretKeyRef to the repository's root.json: what it serves is verified from that. Only the root of https://tuf-repo-cdn.sigstore.dev ships with the proxy";

/// What is said about two roots.
pub(crate) const ONE_ROOT_RULE: &str =
    "set only one of rootConfigMapKeyRef and rootSecretKeyRef: a repository has one root";

/// What is said about an environment that no service map has.
pub(crate) const ENVIRONMENT_RULE: &str =
    "must be one line without spaces around it, exactly as in the service map";

mod defaults {
    pub(super) fn service_map() -> String {
        "sigstore-services-v1".to_owned()
    }

    pub(super) fn refresh_interval() -> String {
        "1h".to_owned()
    }

    pub(super) fn expiry_grace() -> String {
        "0s".to_owned()
    }

    pub(super) fn validate_checkpoint_signature() -> bool {
        true
    }
}

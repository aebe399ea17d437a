//! `spec.publicKeys` and `spec.trustedCA`: which keys may sign the log's checkpoints, and who may vouch
//! for the servers they are read from.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// One key that may sign the log's checkpoints: exactly one of the fields is set.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("(has(self.inline) ? 1 : 0) + (has(self.secretKeyRef) ? 1 : 0) + (has(self.configMapKeyRef) ? 1 : 0) == 1")
        .message("set exactly one of inline, secretKeyRef and configMapKeyRef")
)]
pub struct PublicKey {
    /// The key itself, Ed25519 or ECDSA: a verifier key such as
    /// `example.com/log+33d7b496+AeHTu4Q3hEIM…`, one a line, or a PEM block of a public key; several
    /// during a rotation. At most 4096 characters. A public key is no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub inline: Option<String>,

    /// A key in a Secret of the same namespace. It is mounted into the replicas, never read or
    /// copied by the operator, and read again by the proxy when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,

    /// A key in a ConfigMap of the same namespace. It is mounted into the replicas, and read again
    /// by the proxy when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// Certificates of further authorities: exactly one of the fields is set.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)").message(TRUSTED_CA_RULE)
)]
pub struct TrustedCa {
    /// An entry of a ConfigMap of the same namespace, such as one that trust-manager or OpenShift
    /// fills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,

    /// An entry of a Secret of the same namespace. It is mounted, never read by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
}

/// What is said about authorities from nowhere, or from two places.
pub(crate) const TRUSTED_CA_RULE: &str = "set exactly one of configMapKeyRef and secretKeyRef";

/// One entry of a Secret or ConfigMap in the namespace of the TileProxy.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the Secret or ConfigMap.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,

    /// The entry of its `data`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

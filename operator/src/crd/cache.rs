//! `spec.cache`: what each replica keeps, and where.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What each replica keeps, and where.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
pub struct Cache {
    /// Size of each replica's volume, such as `10Gi`; at least 64Mi. The cache uses 90 % of it:
    /// 10Gi hold about 1.1 million full tiles. It can grow if the storage class allows expansion;
    /// it is never shrunk. Defaults to 10Gi.
    #[serde(default = "defaults::size")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?$') && quantity(self).compareTo(quantity('64Mi')) >= 0").message("must be a size of at least 64Mi, such as 10Gi"))]
    pub size: String,

    /// Verified bytes each replica keeps in memory, such as `128Mi`; 1Mi to 64Gi. Defaults to
    /// 128Mi, about 16,000 full tiles.
    #[serde(default = "defaults::memory")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?$') && quantity(self).compareTo(quantity('1Mi')) >= 0 && quantity(self).compareTo(quantity('64Gi')) <= 0")
        .message("must be a size between 1Mi and 64Gi, such as 128Mi"))]
    pub memory: String,

    /// StorageClass of the volumes. Cannot be changed: a volume does not move between classes.
    /// Empty: the cluster's default class.
    #[serde(default)]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = Rule::new("self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')")
            .message(CLASS_RULE),
        validation = Rule::new("self == oldSelf")
            .message("cannot be changed, because volumes do not move between classes; create another TileProxy")
    )]
    pub storage_class_name: String,

    /// Access modes of the volumes. Cannot be changed. One replica uses each volume, so
    /// ReadWriteOncePod is the strictest that works, where the storage supports it. Defaults to
    /// ReadWriteOnce.
    #[serde(default = "defaults::access_modes")]
    #[schemars(length(min = 1, max = 3))]
    #[x_kube(
        validation = Rule::new("size(self) == 1 || !('ReadWriteOncePod' in self)").message(ALONE_RULE),
        validation = Rule::new("self == oldSelf")
            .message("cannot be changed, because the volumes exist; create another TileProxy")
    )]
    pub access_modes: Vec<AccessMode>,

    /// Whether each replica keeps its cache in its pod, on the node's disk (an emptyDir limited to
    /// `size`), in place of a volume: a pod that is replaced begins empty, and asks the other replicas
    /// and the log for everything again. What is said of volumes has no effect then; those there are
    /// stay, and are used again once this is false. Defaults to false.
    #[serde(default)]
    pub ephemeral: bool,

    /// Age from which a served checkpoint carries a `Warning` header, in whole minutes, 1m to
    /// 168h, such as `5m`. Defaults to 5m.
    #[serde(default = "defaults::checkpoint_ttl", rename = "checkpointTTL")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(ms|s|m|h))+$') && duration(self) >= duration('1m') && duration(self) <= duration('168h') && duration(self).getSeconds() % 60 == 0")
        .message("must be whole minutes between 1m and 168h, such as 5m"))]
    pub checkpoint_ttl: String,

    /// What becomes of volumes that are no longer used. Both halves default to Retain.
    #[serde(default)]
    pub retention: Retention,
}

// A derived `Default` would put empty strings into the CRD, not the defaults of the fields.
impl Default for Cache {
    fn default() -> Self {
        Self {
            size: defaults::size(),
            memory: defaults::memory(),
            storage_class_name: String::new(),
            access_modes: defaults::access_modes(),
            ephemeral: false,
            checkpoint_ttl: defaults::checkpoint_ttl(),
            retention: Retention::default(),
        }
    }
}

/// What becomes of volumes that are no longer used. A volume is only ever deleted by one of these;
/// a cache can be fetched again, but not while the log is away.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// When the TileProxy is deleted. `Retain` keeps every volume; a TileProxy of the same name takes
    /// them up again. `Delete` lets them go with it, those of removed replicas included. Defaults to
    /// Retain.
    #[serde(default)]
    pub when_deleted: RetentionPolicy,

    /// When `spec.replicas` is lowered. `Retain` keeps the volumes of removed replicas until they are
    /// wanted again. `Delete` deletes each once its replica is gone; at 0 replicas that is all of
    /// them. Volumes that an earlier TileProxy of this name left are kept. Defaults to Retain.
    #[serde(default)]
    pub when_scaled: RetentionPolicy,
}

/// Whether a volume outlives its use.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum RetentionPolicy {
    /// It is deleted, and what it held is gone.
    Delete,
    /// It is kept until someone deletes it by hand.
    #[default]
    Retain,
}

/// What is said about a StorageClass that cannot exist.
pub(crate) const CLASS_RULE: &str = "must be the name of a StorageClass: a-z, 0-9, '-' and '.', with a letter or digit at both ends";

/// What is said about a mode that suffers no other.
pub(crate) const ALONE_RULE: &str = "ReadWriteOncePod must stand alone";

/// How a volume may be mounted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum AccessMode {
    /// By the pods of one node.
    ReadWriteOnce,
    /// By one pod.
    ReadWriteOncePod,
    /// By the pods of many nodes. Still one replica uses it.
    ReadWriteMany,
}

impl AccessMode {
    /// The name Kubernetes knows it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWriteMany => "ReadWriteMany",
            Self::ReadWriteOnce => "ReadWriteOnce",
            Self::ReadWriteOncePod => "ReadWriteOncePod",
        }
    }
}

mod defaults {
    use super::AccessMode;

    pub(super) fn size() -> String {
        "10Gi".to_owned()
    }

    pub(super) fn memory() -> String {
        "128Mi".to_owned()
    }

    pub(super) fn access_modes() -> Vec<AccessMode> {
        vec![AccessMode::ReadWriteOnce]
    }

    pub(super) fn checkpoint_ttl() -> String {
        "5m".to_owned()
    }
}

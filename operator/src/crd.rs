//! The `TileProxy` resource: every field with its unit, range, default and reason.
//!
//! These types are the only source of the CRD: `tile-proxy-operator crd` prints it, and the
//! committed `crds/tileproxies.yaml` is checked against it. A field exists once the proxy honours
//! it, and never changes its meaning afterwards; there is no webhook to convert old resources.
//!
//! What the schema and its rules cannot say is said by [`validate`](mod@crate::controller::validate),
//! which also repeats the rules, because a cluster may still hold an older CRD.

// The derive of `KubeSchema` repeats each type inside a function, where `pub` reaches nobody.
#![allow(unreachable_pub)]

mod cache;
mod follow;
mod keys;
mod log;
mod network;
mod placement;
mod pod;
#[cfg(test)]
mod rules;
mod schema;
mod serving;
mod spec;
mod status;
mod sync;
mod tuf;
mod upstream;

pub use self::{
    cache::{AccessMode, Cache, Retention, RetentionPolicy},
    follow::{CheckpointSpec, Mode, Peering},
    keys::{KeyRef, PublicKey, TrustedCa},
    log::{LogKind, LogSpec, MAX_LOGS},
    network::{Monitoring, NetworkPolicySpec, ServiceMonitorOptions},
    placement::{
        DisruptionBudgetSpec, EgressProxy, MIN_GRACE_SECONDS, PodSecurity, UpdateStrategy,
    },
    pod::{ClientService, Image, PullPolicy, PullSecret, ServiceType, TrafficDistribution},
    schema::{crd, crd_yaml},
    serving::{Audit, Log, LogFormat, MAX_RATE, RateLimit, SecretRef, Tls},
    spec::{TileProxy, TileProxySpec},
    status::{InstanceStatus, LogStatus, TileProxyStatus, VolumeStatus},
    sync::SyncSpec,
    tuf::TufSpec,
    upstream::{MAX_UPSTREAMS, Upstream},
};

pub(crate) use self::{
    cache::{ALONE_RULE, CLASS_RULE},
    keys::TRUSTED_CA_RULE,
    log::{DEFAULT_RULE, ORIGIN_RULE, ORIGINS_RULE, RESERVED_RULE, TILES_RULE, WRITES_RULE},
    placement::{
        CAPABILITY_RULE, CONFINED_RULE, PRIVILEGE_RULE, PROXY_RULE, ROOT_RULE, SELINUX_RULE,
        SELINUX_TYPES, WINDOWS_RULE,
    },
    serving::{CLIENT_CA_RULE, RATE_RULE},
    spec::{
        DANGER_RULE, KEYS_RULE, LOG_KEYS_RULE, LOG_UPSTREAMS_RULE, LOGS_RULE, PASSTHROUGH_RULE,
        REKOR_V1_KEYS_RULE, SOME_LOG_RULE, TUF_URL_RULE, UNSIGNED_LOG_RULE, VALIDATE_RULE,
        WHOSE_RULE,
    },
    tuf::{ENVIRONMENT_RULE, ONE_ROOT_RULE, ROOT_RULE as TUF_ROOT_RULE},
    upstream::{CA_RULE, NAMES_RULE, URL_RULE},
};

/// The API group of every resource and annotation of this operator.
pub const GROUP: &str = "tiles.stella-ops.org";

/// Longest name of a TileProxy. Children add at most `-replica-15` and a CronJob allows 52
/// characters, so 40 leaves room for both.
pub const MAX_NAME: usize = 40;

/// Most replicas of one TileProxy. Each holds the whole cache, so more add load on the log but
/// hardly any speed.
pub const MAX_REPLICAS: i32 = 16;

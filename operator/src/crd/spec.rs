//! `TileProxy` itself: every field of its `spec`, and the rules over several of them.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{
    Audit, Cache, CheckpointSpec, ClientService, DisruptionBudgetSpec, EgressProxy, Image, Log,
    LogKind, LogSpec, Mode, Monitoring, NetworkPolicySpec, Peering, PodSecurity, PublicKey,
    PullSecret, RateLimit, SyncSpec, TileProxyStatus, Tls, TrustedCa, TufSpec, UpdateStrategy,
    Upstream,
    log::{
        DEFAULT_CEL, DEFAULT_RULE, ORIGIN_RULE, ORIGINS_CEL, ORIGINS_RULE, TILES_CEL, TILES_RULE,
        WRITES_CEL, WRITES_RULE,
    },
    placement::{
        CAPABILITY_RULE, CONFINED_RULE, PRIVILEGE_RULE, ROOT_RULE, SELINUX_RULE, WINDOWS_RULE,
    },
    upstream::{NAMES_CEL, NAMES_RULE},
};

/// What the proxies of one or several transparency logs look like.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "tiles.stella-ops.org",
    version = "v1alpha1",
    kind = "TileProxy",
    plural = "tileproxies",
    shortname = "tp",
    category = "tiles",
    namespaced,
    cel,
    derive = "PartialEq",
    status = "TileProxyStatus",
    doc = "A TileProxy runs replicas of a verifying, caching reverse proxy for transparency logs: one, several, or those that a TUF repository names. Every replica proves each tile against a signed checkpoint, keeps it on a volume of its own, and goes on serving it while the log is away.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        description = "Whether every replica is ready, of this generation, and reachable.",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "string",
        description = "Ready replicas out of those asked for.",
        json_path = ".status.ready"
    ),
    printcolumn(
        name = "Upstream",
        type_ = "string",
        description = "The log, if it is a single one.",
        json_path = ".spec.upstreams[0].url"
    ),
    printcolumn(
        name = "Last Sync",
        type_ = "date",
        description = "When the last sync of all replicas succeeded.",
        json_path = ".status.lastSuccessfulSyncTime"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        description = "Why Ready is what it is.",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(
        name = "Cache",
        type_ = "string",
        description = "Size of each replica's volume.",
        json_path = ".spec.cache.size",
        priority = 1
    ),
    printcolumn(
        name = "URL",
        type_ = "string",
        description = "Where clients in the cluster connect.",
        json_path = ".status.url",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("the name must have at most 40 characters: children append to it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name must start with a letter and hold only a-z, 0-9 and '-': it names Services"),
    validation = Rule::new("!self.metadata.name.matches('-replica-[0-9]+$')")
        .message("the name must not end in -replica-<number>: a replica of another TileProxy may have it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("size(self.logs) == 0 || (size(self.upstreams) == 0 && self.origin == '' && self.kind == 'Auto' && size(self.publicKeys) == 0)").message(LOGS_RULE),
    validation = Rule::new("size(self.upstreams) > 0 || size(self.logs) > 0 || has(self.tuf)").message(SOME_LOG_RULE),
    validation = Rule::new("size(self.upstreams) > 0 || size(self.logs) > 0 || (self.origin == '' && self.kind == 'Auto' && size(self.publicKeys) == 0 && !self.dangerAcceptUnsigned)").message(WHOSE_RULE),
    // Which of Sigstore's hosts have a log whose key ships with the proxy is looked at by the operator.
    validation = Rule::new("size(self.publicKeys) > 0 || self.dangerAcceptUnsigned || has(self.tuf) || size(self.logs) > 0 || (size(self.upstreams) > 0 && self.upstreams.all(u, u.url.contains('.sigstore.dev')))").message(KEYS_RULE),
    validation = Rule::new("self.dangerAcceptUnsigned || has(self.tuf) || self.logs.all(l, size(l.publicKeys) > 0 || (size(l.upstreams) > 0 && l.upstreams.all(u, u.url.contains('.sigstore.dev'))))").message(LOG_KEYS_RULE),
    validation = Rule::new("!self.dangerAcceptUnsigned || ((has(self.tuf) ? !self.tuf.validateCheckpointSignature : size(self.publicKeys) == 0) && (size(self.logs) == 0 || self.logs.exists(l, size(l.publicKeys) == 0)))").message(DANGER_RULE),
    validation = Rule::new("!has(self.tuf) || self.tuf.validateCheckpointSignature || self.dangerAcceptUnsigned").message(VALIDATE_RULE),
    validation = Rule::new("!self.dangerAcceptUnsigned || self.kind != 'RekorV1'").message(REKOR_V1_KEYS_RULE),
    validation = Rule::new("!self.dangerAcceptUnsigned || self.logs.all(l, size(l.publicKeys) > 0 || (l.origin != '' && l.kind != 'RekorV1'))").message(UNSIGNED_LOG_RULE),
    validation = Rule::new("self.mode == 'Offline' || self.logs.all(l, size(l.upstreams) > 0)").message(LOG_UPSTREAMS_RULE),
    validation = Rule::new("self.passthrough || (self.upstreams.all(u, u.writeURL == '') && self.logs.all(l, l.upstreams.all(u, u.writeURL == '')))").message(PASSTHROUGH_RULE),
    validation = Rule::new("!has(self.tuf) || self.tuf.url != '' || self.mode == 'Offline'").message(TUF_URL_RULE),
    validation = Rule::new(TILES_CEL).message(TILES_RULE),
    validation = Rule::new(WRITES_CEL).message(WRITES_RULE)
)]
pub struct TileProxySpec {
    /// How many replicas run, 0 to 16; also set by `kubectl scale`. Each has its own volume with
    /// the whole cache, so two are enough to survive a node. Volumes of removed replicas are kept,
    /// unless `cache.retention` says otherwise. Defaults to 1.
    #[serde(default = "defaults::replicas")]
    #[schemars(range(min = 0, max = 16))]
    pub replicas: i32,

    /// Stops the operator from changing anything that belongs to this resource; its status is
    /// still kept up to date, and running replicas go on serving. Defaults to false.
    #[serde(default)]
    pub paused: bool,

    /// The image of the proxy. Every part left empty is taken from the operator's own image, so
    /// that an upgrade of the operator brings the proxies along.
    #[serde(default)]
    pub image: Image,

    /// Secrets of type `kubernetes.io/dockerconfigjson` with which the image is pulled, at most 8.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<PullSecret>,

    /// Where the log is read, at most 16 places. Every one of them serves the same log; the next is
    /// asked while one fails, lags or lies. Left out for `logs`, and for logs that `tuf` names.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new(NAMES_CEL).message(NAMES_RULE))]
    pub upstreams: Vec<Upstream>,

    /// The first line of the log's checkpoints, which is its identity, such as
    /// `log2025-1.rekor.sigstore.dev`. At most 255 characters. Empty: learned from the first
    /// checkpoint that one of the public keys verifies.
    #[serde(default)]
    #[schemars(length(max = 255))]
    #[x_kube(validation = Rule::new("!self.matches('[[:cntrl:]]|^[[:space:]]|[[:space:]]$')").message(ORIGIN_RULE))]
    pub origin: String,

    /// What protocol the log speaks: `TlogTiles`, `RekorV2`, `RekorV1`, or `Auto`, which finds out from
    /// its answers. Defaults to Auto.
    #[serde(default)]
    pub kind: LogKind,

    /// The keys that may sign the log's checkpoints, at most 16. Several of them let a log rotate its
    /// key: a checkpoint needs the signature of one. None for Sigstore's public logs, whose keys ship
    /// with the proxy, and for logs with keys from `tuf`; keys given here always win.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub public_keys: Vec<PublicKey>,

    /// Several logs, at most 64, in place of `upstreams`, `origin`, `kind` and `publicKeys`. Each is
    /// read under its name (`/rome/checkpoint`), with upstreams, keys and a part of the cache of its
    /// own; the trouble of one is not that of another. Their order does not matter.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new(DEFAULT_CEL).message(DEFAULT_RULE),
        validation = Rule::new(ORIGINS_CEL).message(ORIGINS_RULE)
    )]
    pub logs: Vec<LogSpec>,

    /// A TUF repository that has the keys of logs without `publicKeys` and, if no log is named here,
    /// says which logs there are. Left out: keys come from this spec alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuf: Option<TufSpec>,

    /// Believes a log that has no key, in place of `publicKeys`: whoever answers first says what the
    /// log is. Its tiles are still proven against its checkpoint, and its history against what was
    /// served before. Of several logs, those without `publicKeys`. Defaults to false.
    #[serde(default)]
    pub danger_accept_unsigned: bool,

    /// Whether what is not answered of a Rekor v1 log is handed on to it: searches, consistency proofs,
    /// and writes. Defaults to false.
    #[serde(default)]
    pub passthrough: bool,

    /// `Online` asks the upstream for what is missing. `Offline` never does: everything is served
    /// from the cache, as behind an air gap. Defaults to Online.
    #[serde(default)]
    pub mode: Mode,

    /// How checkpoints are followed.
    #[serde(default)]
    pub checkpoint: CheckpointSpec,

    /// What each replica keeps, and where.
    #[serde(default)]
    pub cache: Cache,

    /// The scheduled prefetch of the newest entries into every replica.
    #[serde(default)]
    pub sync: SyncSpec,

    /// Whether replicas ask each other for what they lack.
    #[serde(default)]
    pub peering: Peering,

    /// The Service clients connect to. It has the name of this resource.
    #[serde(default)]
    pub service: ClientService,

    /// TLS for clients. Left out: plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// How much one client may ask of each replica.
    #[serde(default)]
    pub rate_limit: RateLimit,

    /// The record of what was changed and what became trusted.
    #[serde(default)]
    pub audit: Audit,

    /// What replicas print, and how.
    #[serde(default)]
    pub log: Log,

    /// A NetworkPolicy for the replicas.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,

    /// How the replicas are watched.
    #[serde(default)]
    pub monitoring: Monitoring,

    /// Whether a drain of nodes waits for replicas.
    #[serde(default)]
    pub pod_disruption_budget: DisruptionBudgetSpec,

    /// How replicas are brought to a new spec.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,

    /// Certificates, PEM, of authorities that may vouch for upstreams, for the TUF repository and for the
    /// forward proxy, beside those the image trusts: of a company's own, for instance. Mounted and read
    /// again when they change. What has a `caConfigMapKeyRef` is vouched for by that alone.
    #[serde(default, rename = "trustedCA", skip_serializing_if = "Option::is_none")]
    pub trusted_ca: Option<TrustedCa>,

    /// A forward proxy through which replicas reach upstreams.
    #[serde(default)]
    pub proxy: EgressProxy,

    /// CPU and memory of each replica. Defaults to requests of 100m CPU and of `cache.memory` plus
    /// 128Mi memory, without limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<k8s_openapi::api::core::v1::ResourceRequirements>,

    /// Labels a node must have to run replicas and sync Jobs.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: std::collections::BTreeMap<String, String>,

    /// Taints of nodes that replicas and sync Jobs tolerate, at most 32.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<k8s_openapi::api::core::v1::Toleration>,

    /// Scheduling constraints of the replicas. Defaults to a preference for different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<k8s_openapi::api::core::v1::Affinity>,

    /// How replicas are spread over nodes and zones, at most 8 constraints. A selector that is left out
    /// selects the replicas of this TileProxy.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub topology_spread_constraints: Vec<k8s_openapi::api::core::v1::TopologySpreadConstraint>,

    /// PriorityClass of replicas and sync Jobs. Empty: the cluster's default.
    #[serde(default)]
    #[schemars(
        length(max = 253),
        regex(pattern = r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?$")
    )]
    pub priority_class_name: String,

    /// Annotations of the pods of replicas and sync Jobs. A change restarts the replicas.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub pod_annotations: std::collections::BTreeMap<String, String>,

    /// Labels of the pods of replicas and sync Jobs, beside those the operator sets itself. A
    /// change restarts the replicas.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub pod_labels: std::collections::BTreeMap<String, String>,

    /// As whom pods run. Left out: as user and group 65532, to whom the volume is given, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_security_context: Option<PodSecurity>,

    /// What the containers of replicas and sync Jobs may do, as in a pod, over what the operator sets:
    /// no privilege, no capability, a root filesystem that is only read. Whatever would leave the
    /// *restricted* Pod Security Standard is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("!(has(self.privileged) && self.privileged) && !(has(self.allowPrivilegeEscalation) && self.allowPrivilegeEscalation)").message(PRIVILEGE_RULE),
        validation = Rule::new("!(has(self.runAsUser) && self.runAsUser == 0) && !(has(self.runAsNonRoot) && !self.runAsNonRoot)").message(ROOT_RULE),
        validation = Rule::new("!has(self.capabilities) || !has(self.capabilities.add) || size(self.capabilities.add) == 0 || (size(self.capabilities.add) == 1 && self.capabilities.add[0] == 'NET_BIND_SERVICE')").message(CAPABILITY_RULE),
        validation = Rule::new("!(has(self.seccompProfile) && self.seccompProfile.type == 'Unconfined') && !(has(self.appArmorProfile) && self.appArmorProfile.type == 'Unconfined') && !(has(self.procMount) && self.procMount != 'Default')").message(CONFINED_RULE),
        validation = Rule::new("!has(self.seLinuxOptions) || ((!has(self.seLinuxOptions.user) || self.seLinuxOptions.user == '') && (!has(self.seLinuxOptions.role) || self.seLinuxOptions.role == '') && (!has(self.seLinuxOptions.type) || self.seLinuxOptions.type in ['', 'container_t', 'container_init_t', 'container_kvm_t', 'container_engine_t']))").message(SELINUX_RULE),
        validation = Rule::new("!has(self.windowsOptions)").message(WINDOWS_RULE)
    )]
    pub security_context: Option<k8s_openapi::api::core::v1::SecurityContext>,

    /// ServiceAccount of the pods, for instance one with rights to pull images. It gets no token
    /// mounted. Empty: one the operator makes.
    #[serde(default)]
    #[schemars(
        length(max = 253),
        regex(pattern = r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?$")
    )]
    pub service_account_name: String,

    /// How long a replica may take to stop, in seconds, 30 to 3600. All but 15 of them are for requests
    /// under way. Defaults to 35.
    #[serde(default = "defaults::grace_seconds")]
    #[schemars(range(min = 30, max = 3600))]
    pub termination_grace_period_seconds: i64,

    /// Environment variables of the replicas, at most 64; values may come from Secrets and ConfigMaps.
    /// `TILE_PROXY__…`, which is configuration, is set by the fields of this resource alone.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub extra_env: Vec<k8s_openapi::api::core::v1::EnvVar>,
}

/// What is said about one log beside several.
pub(crate) const LOGS_RULE: &str = "upstreams, origin, kind and publicKeys are of a single log: with logs, give them to each of those";

/// What is said where there is no log.
pub(crate) const SOME_LOG_RULE: &str =
    "set upstreams for one log, logs for several, or tuf for those that a TUF repository names";

/// What is said about what belongs to a log that is not there.
pub(crate) const WHOSE_RULE: &str = "origin, kind, publicKeys and dangerAcceptUnsigned are of the log that upstreams has: set that, too";

/// What is said about a log without keys.
pub(crate) const KEYS_RULE: &str = "publicKeys must hold at least one key: without it nothing the log says can be proven. Only Sigstore's public logs, and logs with keys from tuf, need none; dangerAcceptUnsigned is for logs that have none";

/// What is said about keys that would not matter.
pub(crate) const DANGER_RULE: &str = "dangerAcceptUnsigned is for logs that have no key: it is never beside a key, and beside tuf only with validateCheckpointSignature: false";

/// What is said about signatures that are not asked for.
pub(crate) const VALIDATE_RULE: &str = "tuf.validateCheckpointSignature: false serves what nobody signed; if that is meant, set dangerAcceptUnsigned, too";

/// What is said about unsigned entries of Rekor v1.
pub(crate) const REKOR_V1_KEYS_RULE: &str = "kind RekorV1 needs a key, never dangerAcceptUnsigned: nothing else vouches for when and where an entry was logged";

/// What is said about one of several logs that is nowhere.
pub(crate) const LOG_UPSTREAMS_RULE: &str =
    "each of the logs needs at least one of upstreams, unless mode is Offline";

/// What is said about one of several logs without keys.
pub(crate) const LOG_KEYS_RULE: &str = "each of the logs needs publicKeys: without a key nothing it says can be proven. Only Sigstore's public logs, and logs with keys from tuf, need none; dangerAcceptUnsigned is for logs that have none";

/// What is said about one of several logs that nothing tells from others.
pub(crate) const UNSIGNED_LOG_RULE: &str = "of the logs, one without publicKeys needs its origin beside dangerAcceptUnsigned: nothing else says which of what is stored is this log's. And it cannot be of kind RekorV1";

/// What is said about writes that nobody hands on.
pub(crate) const PASSTHROUGH_RULE: &str =
    "writeURL is for what passthrough hands on: set that, or remove writeURL";

/// What is said about a repository that is nowhere.
pub(crate) const TUF_URL_RULE: &str = "tuf.url is needed, unless mode is Offline";

mod defaults {
    pub(super) fn replicas() -> i32 {
        1
    }

    pub(super) fn grace_seconds() -> i64 {
        35
    }
}

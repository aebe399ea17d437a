//! `spec.podDisruptionBudget`, `spec.updateStrategy`, `spec.proxy` and `spec.podSecurityContext`: how
//! pods come, go and reach the world.

use k8s_openapi::api::core::v1::SELinuxOptions;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Shortest `terminationGracePeriodSeconds`: the parts of it that are not for requests under way, and
/// as much again for them.
pub const MIN_GRACE_SECONDS: i64 = 30;

/// Whether a drain of nodes waits for replicas.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionBudgetSpec {
    /// Whether, with two replicas or more, a PodDisruptionBudget lets one be evicted at a time.
    /// Defaults to true.
    #[serde(default = "defaults::yes")]
    pub enabled: bool,
}

impl Default for DisruptionBudgetSpec {
    fn default() -> Self {
        Self {
            enabled: defaults::yes(),
        }
    }
}

/// How replicas are brought to a new spec. It is always one at a time.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// How long a replica must have been ready before it counts as such and the next one is changed,
    /// in seconds, 0 to 3600: time for its cache to warm. Defaults to 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3600))]
    pub delay_seconds: i32,
}

/// A forward proxy through which replicas reach upstreams. A URL with a password belongs into a
/// Secret: give `HTTPS_PROXY` in `extraEnv` then.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
pub struct EgressProxy {
    /// Its URL, for upstreams with `https://`. At most 2048 characters. Empty: none.
    #[serde(default)]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self == '' || self.matches('^https?://[^/?#@ ]+/?$')").message(PROXY_RULE))]
    pub https_proxy: String,

    /// Hosts, domains and networks that are reached without it, separated by commas. At most 2048
    /// characters.
    #[serde(default)]
    #[schemars(length(max = 2048), regex(pattern = r"^[-A-Za-z0-9.,:*/_ \[\]]*$"))]
    pub no_proxy: String,
}

/// What is said about a forward proxy that is refused.
pub(crate) const PROXY_RULE: &str = "must be an http:// or https:// URL without user and path, such as http://proxy.example.com:3128";

/// What is said about a privilege.
pub(crate) const PRIVILEGE_RULE: &str = "privileged and allowPrivilegeEscalation must not be true: pods meet the restricted Pod Security Standard";

/// What is said about root.
pub(crate) const ROOT_RULE: &str = "runAsUser must not be 0, nor runAsNonRoot false: pods meet the restricted Pod Security Standard";

/// What is said about capabilities. All others are dropped, whatever is dropped by name.
pub(crate) const CAPABILITY_RULE: &str = "capabilities.add must hold nothing but NET_BIND_SERVICE: pods meet the restricted Pod Security Standard";

/// What is said about profiles that confine nothing.
pub(crate) const CONFINED_RULE: &str = "seccompProfile and appArmorProfile must not be Unconfined, nor procMount Unmasked: pods meet the restricted Pod Security Standard";

/// What is said about an SELinux label that is not a container's.
pub(crate) const SELINUX_RULE: &str = "seLinuxOptions must not set user or role, nor a type other than container_t, container_init_t, container_kvm_t and container_engine_t: pods meet the restricted Pod Security Standard";

/// What is said about options of another system.
pub(crate) const WINDOWS_RULE: &str = "windowsOptions must not be set: the image is for Linux";

/// The SELinux types that the standard allows.
pub(crate) const SELINUX_TYPES: [&str; 5] = [
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
];

/// As whom pods run, within the *restricted* Pod Security Standard, whose other settings stay. If this
/// is given, it is the whole of it: what is left out is left to the cluster, as OpenShift wants it.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
pub struct PodSecurity {
    /// User of the processes; never 0, which is root. Left out: that of the image or the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647_i64))]
    pub run_as_user: Option<i64>,

    /// Group of the processes. Left out: that of the image or the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647_i64))]
    pub run_as_group: Option<i64>,

    /// Group that the volume is given to. Left out: nobody, or as the cluster decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647_i64))]
    pub fs_group: Option<i64>,

    /// Further groups of the processes, at most 16.
    #[serde(default)]
    #[schemars(length(max = 16), inner(range(min = 1, max = 2_147_483_647_i64)))]
    pub supplemental_groups: Vec<i64>,

    /// SELinux label of the processes. Left out: as the cluster decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("(!has(self.user) || self.user == '') && (!has(self.role) || self.role == '') && (!has(self.type) || self.type in ['', 'container_t', 'container_init_t', 'container_kvm_t', 'container_engine_t'])").message(SELINUX_RULE))]
    pub se_linux_options: Option<SELinuxOptions>,
}

mod defaults {
    pub(super) fn yes() -> bool {
        true
    }
}

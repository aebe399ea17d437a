//! The name of every child, and the labels by which children are found: the only place that knows
//! either.
//!
//! Two TileProxies of one namespace never share a child's name: no TileProxy may be called like
//! another's replica, and every other suffix belongs to a kind of its own.

use std::collections::BTreeMap;

/// Value of `app.kubernetes.io/managed-by`, and the field manager of everything we apply.
pub const MANAGER: &str = "tile-proxy-operator";

/// The pod that this process is in, if it is in one.
pub fn own_pod() -> Option<String> {
    std::env::var("HOSTNAME").ok()
}

/// Label with the ordinal of a replica.
pub const ORDINAL_LABEL: &str = "tiles.stella-ops.org/ordinal";

/// Annotation of a Deployment: digest of its pod template as built, to tell replicas that run the
/// spec from those that do not yet.
pub const TEMPLATE_ANNOTATION: &str = "tiles.stella-ops.org/template";

/// Annotation of a pod: digest of the configuration it was started with.
pub const CONFIG_ANNOTATION: &str = "tiles.stella-ops.org/config";

/// Annotation of a claim: uid of the TileProxy that created or adopted it.
pub const OWNER_ANNOTATION: &str = "tiles.stella-ops.org/owner-uid";

/// Labels that users may not set on pods, because selectors rely on them.
pub const RESERVED_PREFIXES: [&str; 2] = ["app.kubernetes.io/", "tiles.stella-ops.org/"];

/// What a pod of ours does, as `app.kubernetes.io/component`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Component {
    /// Serves clients.
    Replica,
    /// Asks the replicas to sync.
    Sync,
}

impl Component {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Replica => "replica",
            Self::Sync => "sync",
        }
    }
}

/// The names of one TileProxy's children.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Names {
    /// Name of the TileProxy.
    pub name: String,
    /// Its namespace, and that of every child.
    pub namespace: String,
}

impl Names {
    /// The Service clients connect to.
    pub fn client_service(&self) -> String {
        self.name.clone()
    }

    /// The ConfigMap with the proxy's configuration.
    pub fn config_map(&self) -> String {
        format!("{}-config", self.name)
    }

    /// The ConfigMap with the list of replicas.
    pub fn peers(&self) -> String {
        format!("{}-peers", self.name)
    }

    /// The Secret with the token of mutating admin calls.
    pub fn admin_secret(&self) -> String {
        format!("{}-admin", self.name)
    }

    /// The ServiceAccount of replicas and sync Jobs.
    pub fn service_account(&self) -> String {
        format!("{}-tile-proxy", self.name)
    }

    /// The Deployment, Service and claim of one replica.
    pub fn replica(&self, ordinal: u16) -> String {
        format!("{}-replica-{ordinal}", self.name)
    }

    /// The CronJob that asks the replicas to sync.
    pub fn sync(&self) -> String {
        format!("{}-sync", self.name)
    }

    /// The NetworkPolicy of the replicas.
    pub fn network_policy(&self) -> String {
        self.name.clone()
    }

    /// The ServiceMonitor of the replicas.
    pub fn service_monitor(&self) -> String {
        self.name.clone()
    }

    /// The PodDisruptionBudget of the replicas.
    pub fn disruption_budget(&self) -> String {
        self.name.clone()
    }

    /// Where clients in the cluster connect.
    pub fn client_url(&self, tls: bool, port: i32) -> String {
        format!(
            "{}://{}.{}.svc:{port}",
            if tls { "https" } else { "http" },
            self.client_service(),
            self.namespace
        )
    }

    /// Where the operator's Jobs reach one replica.
    pub fn admin_url(&self, ordinal: u16) -> String {
        format!(
            "http://{}.{}.svc:8081",
            self.replica(ordinal),
            self.namespace
        )
    }

    /// What selects every child.
    pub fn selector(&self) -> BTreeMap<String, String> {
        labels([
            ("app.kubernetes.io/instance", self.name.as_str()),
            ("app.kubernetes.io/managed-by", MANAGER),
            ("app.kubernetes.io/name", "tile-proxy"),
        ])
    }

    /// What selects the pods of one component. Frozen: a Deployment's selector cannot change.
    pub fn component(&self, component: Component) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.insert(
            "app.kubernetes.io/component".to_owned(),
            component.as_str().to_owned(),
        );
        labels
    }

    /// What selects the pods of one replica. Frozen, as above.
    pub fn ordinal(&self, ordinal: u16) -> BTreeMap<String, String> {
        let mut labels = self.component(Component::Replica);
        labels.insert(ORDINAL_LABEL.to_owned(), ordinal.to_string());
        labels
    }
}

/// A label selector as the API server takes it in a query.
pub fn query(labels: &BTreeMap<String, String>) -> String {
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{MAX_NAME, MAX_REPLICAS};

    #[test]
    fn the_longest_name_leaves_every_child_a_valid_one() {
        let names = Names {
            name: "a".repeat(MAX_NAME),
            namespace: "logs".to_owned(),
        };
        let last = u16::try_from(MAX_REPLICAS - 1).expect("small");
        assert!(
            names.replica(last).len() <= 63,
            "a Service name and a label value"
        );
        assert!(
            names.sync().len() <= 52,
            "a CronJob leaves 11 characters to its Jobs"
        );
        assert!(names.service_account().len() <= 63);
    }
}

//! P27: which pods an upgrade of the operator restarts.

use super::*;
use crate::controller::fixture::valid;

/// The pod template of a replica, as it was when somebody last meant to change it.
const POD: &str = include_str!("pod.yaml");

#[test]
fn an_upgrade_restarts_no_pod_unless_that_is_meant() {
    let proxy = valid(|_| {});
    let template = &build(&proxy).deployments[0].spec.template;
    let now = serde_saphyr::to_string(template).expect("YAML");
    assert!(
        now.trim_end() == POD.trim_end(),
        "replicas would be restarted by an upgrade of the operator; if that is meant, say so in \
         CHANGELOG.md and write this to operator/src/controller/build/pod.yaml:\n{now}"
    );
}

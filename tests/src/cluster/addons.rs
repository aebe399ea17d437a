//! What every cluster has besides its components: names, and volumes.

use std::time::Duration;

use anyhow::Result;

use super::Cluster;
use super::layout::{DNS_SERVICE_IP, Node};
use crate::image::helpers;
use crate::progress::Progress;

/// Installs CoreDNS and the volume provisioner on the node `first` and waits for both.
pub(super) fn install(cluster: &Cluster, first: &Node, progress: &Progress) -> Result<()> {
    let toolchain = cluster.toolchain();
    let dns = progress.step("CoreDNS");
    let coredns = helpers::coredns(toolchain)?;
    cluster.apply(
        &include_str!("addons/coredns.yaml")
            .replace("@FIRST_NODE@", first.name())
            .replace("@COREDNS@", &coredns.reference)
            .replace("@DNS_SERVICE_IP@", DNS_SERVICE_IP),
    )?;

    let volumes = progress.step("volumes");
    let provisioner = helpers::local_path_provisioner(toolchain)?;
    cluster.apply(
        &include_str!("addons/local-path-provisioner.yaml")
            .replace("@FIRST_NODE@", first.name())
            .replace("@LOCAL_PATH_PROVISIONER@", &provisioner.reference)
            .replace("@BUSYBOX@", &helpers::busybox(toolchain)?.reference),
    )?;

    cluster.await_deployment("kube-system", "coredns", READY)?;
    dns.done(DNS_SERVICE_IP);
    cluster.await_deployment("local-path-storage", "local-path-provisioner", READY)?;
    volumes.done("StorageClass standard");
    Ok(())
}

const READY: Duration = Duration::from_secs(90);

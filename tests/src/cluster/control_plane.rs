//! The control plane: etcd, API server, controllers, scheduler.

use super::daemon::Daemon;
use super::layout::{CONFIG, FIRST_NODE_IP, POD_CIDR, SERVICE_CIDR, TOOLS};
use crate::toolchain::{ETCD, KUBE_APISERVER, KUBE_CONTROLLER_MANAGER, KUBE_SCHEDULER, Tool};

/// The store. A cluster does not outlive its node, so its writes need not reach the disk.
pub(super) fn etcd() -> Daemon {
    daemon(
        ETCD,
        [
            "--name=tile-proxy",
            "--data-dir=/var/lib/etcd",
            &format!("--listen-client-urls={ETCD_URL}"),
            &format!("--advertise-client-urls={ETCD_URL}"),
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
    )
}

/// The API server; it needs the store.
pub(super) fn api_server() -> Daemon {
    daemon(
        KUBE_APISERVER,
        [
            &format!("--etcd-servers={ETCD_URL}"),
            &format!("--bind-address={FIRST_NODE_IP}"),
            &format!("--advertise-address={FIRST_NODE_IP}"),
            "--secure-port=6443",
            &format!("--service-cluster-ip-range={SERVICE_CIDR}"),
            &format!("--tls-cert-file={CONFIG}/apiserver.crt"),
            &format!("--tls-private-key-file={CONFIG}/apiserver.key"),
            &format!("--client-ca-file={CONFIG}/ca.crt"),
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            &format!("--service-account-key-file={CONFIG}/service-account.pub"),
            &format!("--service-account-signing-key-file={CONFIG}/service-account.key"),
            &format!("--kubelet-certificate-authority={CONFIG}/ca.crt"),
            &format!("--kubelet-client-certificate={CONFIG}/apiserver-kubelet.crt"),
            &format!("--kubelet-client-key={CONFIG}/apiserver-kubelet.key"),
            // The node's name resolves nowhere; logs, exec and port-forward go to its address.
            "--kubelet-preferred-address-types=InternalIP",
            // People wait for what a lost node causes; the default is five minutes.
            "--default-not-ready-toleration-seconds=15",
            "--default-unreachable-toleration-seconds=15",
        ],
    )
}

/// The controllers. Alone on its node, it elects nobody.
pub(super) fn controller_manager() -> Daemon {
    daemon(
        KUBE_CONTROLLER_MANAGER,
        [
            &format!("--kubeconfig={CONFIG}/kube-controller-manager.kubeconfig"),
            &format!("--root-ca-file={CONFIG}/ca.crt"),
            &format!("--service-account-private-key-file={CONFIG}/service-account.key"),
            "--use-service-account-credentials",
            &format!("--cluster-cidr={POD_CIDR}"),
            // Each node's part is written into its configuration.
            "--allocate-node-cidrs=false",
            // A silent node is lost after this long; see the kubelet's lease. A machine under load
            // may starve a kubelet for some seconds.
            "--node-monitor-period=1s",
            "--node-monitor-grace-period=20s",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        ],
    )
}

/// The scheduler.
pub(super) fn scheduler() -> Daemon {
    daemon(
        KUBE_SCHEDULER,
        [
            &format!("--kubeconfig={CONFIG}/kube-scheduler.kubeconfig"),
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        ],
    )
}

/// A daemon that runs a tool of the toolchain.
pub(super) fn daemon<const N: usize>(tool: Tool, args: [&str; N]) -> Daemon {
    Daemon {
        name: tool.name,
        program: format!("{TOOLS}/{}/{}", tool.folder(), tool.name),
        args: args.into_iter().map(str::to_owned).collect(),
    }
}

/// Inside the node's own loopback nobody else can connect.
const ETCD_URL: &str = "http://127.0.0.1:2379";

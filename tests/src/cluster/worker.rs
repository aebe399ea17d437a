//! What makes a node of the machine: containerd, kubelet, kube-proxy, and their configuration.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::control_plane::daemon;
use super::daemon::Daemon;
use super::layout::{CONFIG, DNS_SERVICE_IP, Node, POD_CIDR};
use crate::prerequisites;
use crate::toolchain::{KUBE_PROXY, KUBELET};

/// Writes the configuration files of all three; `pause_image` is what pods are held open with.
pub(super) fn configure(node: &Node, pause_image: &str) -> Result<()> {
    let plugins = prerequisites::cni_plugins().context("the CNI plugins are not installed")?;
    for (name, text) in [
        ("containerd.toml", containerd_config(plugins, pause_image)),
        ("kubelet.yaml", kubelet_config(node)),
        ("kube-proxy.yaml", kube_proxy_config(node)),
        ("cni/10-tile-proxy.conflist", cni_config(node)),
    ] {
        let path = node.config(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // libcni keeps its results here and does not create the folder's parent.
    fs::create_dir_all(node.var().join("lib/cni"))?;
    Ok(())
}

/// The container runtime, from the distribution.
pub(super) fn containerd() -> Daemon {
    Daemon {
        name: "containerd",
        program: "containerd".to_owned(),
        args: vec![format!("--config={CONFIG}/containerd.toml")],
    }
}

/// The kubelet. It exits if the socket of containerd is not there yet.
pub(super) fn kubelet(node: &Node) -> Daemon {
    daemon(
        KUBELET,
        [
            &format!("--config={CONFIG}/kubelet.yaml"),
            &format!("--kubeconfig={CONFIG}/kubelet.kubeconfig"),
            &format!("--hostname-override={}", node.name()),
            &format!("--node-ip={}", node.ip()),
        ],
    )
}

/// The Service addresses, as iptables rules of the node's namespace.
pub(super) fn kube_proxy() -> Daemon {
    daemon(KUBE_PROXY, [&format!("--config={CONFIG}/kube-proxy.yaml")])
}

fn containerd_config(plugins: &Path, pause_image: &str) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  # Without CAP_SYS_RESOURCE runc may not lower a container's OOM score, and fails.
  restrict_oom_score_adj = true
  # Would load a profile into the kernel of the host, where it stays.
  disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".containerd]
  # Plain copies: works on any file system, an overlay of a container included.
  snapshotter = "native"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{}"
  conf_dir = "{CONFIG}/cni"
"#,
        plugins.display()
    )
}

/// Pods hang on routed veth pairs (`ptp`), not on a bridge: what one pod sends another then always
/// passes the node's iptables, whether or not the kernel has `br_netfilter`.
fn cni_config(node: &Node) -> String {
    format!(
        r#"{{
  "cniVersion": "0.4.0",
  "name": "tile-proxy",
  "plugins": [
    {{
      "type": "ptp",
      "ipMasq": false,
      "ipam": {{
        "type": "host-local",
        "dataDir": "/run/cni-addresses",
        "ranges": [[{{"subnet": "{}"}}]],
        "routes": [{{"dst": "0.0.0.0/0"}}]
      }}
    }}
  ]
}}
"#,
        node.pods()
    )
}

fn kubelet_config(node: &Node) -> String {
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {}
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {CONFIG}/ca.crt}}
authorization: {{mode: Webhook}}
tlsCertFile: {CONFIG}/kubelet-server.crt
tlsPrivateKeyFile: {CONFIG}/kubelet-server.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDomain: cluster.local
clusterDNS: [{DNS_SERVICE_IP}]
# The host's resolvers are out of reach inside the namespace.
resolvConf: ""
# Pods side by side in one cgroup: this also works with cgroups v1 and inside containers, where the
# kubelet may not build its hierarchy of service classes.
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
# A full disk of the developer's machine is no reason to evict a test.
evictionHard: {{memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}}
imageGCHighThresholdPercent: 100
# Short periods: people wait for this node.
nodeStatusUpdateFrequency: 4s
nodeLeaseDurationSeconds: 8
syncFrequency: 10s
"#,
        node.ip()
    )
}

fn kube_proxy_config(node: &Node) -> String {
    format!(
        r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {CONFIG}/kube-proxy.kubeconfig}}
hostnameOverride: {}
mode: iptables
clusterCIDR: {POD_CIDR}
# Zero leaves the connection tracking limits of the host alone.
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
iptables: {{minSyncPeriod: 100ms}}
"#,
        node.name()
    )
}

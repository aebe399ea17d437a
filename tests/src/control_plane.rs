//! A Kubernetes API without a node: real etcd, API server and some controllers, on loopback.
//!
//! For tests of what talks to the API server only. There is no scheduler and no kubelet, so no pod
//! ever runs; whoever needs their part plays it. Starts in seconds, needs no root, and ends with
//! the process that started it, whatever that dies of.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::pki::{self, Authority, MASTERS, write_secret};
use crate::local::daemon::Daemon;
use crate::local::free_port;
use crate::progress::Progress;
use crate::run::Run;
use crate::toolchain::{
    CONTROL_PLANE, ETCD, HELM, KUBE_APISERVER, KUBE_CONTROLLER_MANAGER, KUBECTL, Tool, Toolchain,
};
use crate::wait::{self, Seen};
use crate::{http, paths};

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    directory: PathBuf,
    programs: Programs,
    port: u16,
    etcd: Daemon,
    etcd_url: String,
    api_server: Option<Daemon>,
    controllers: Option<Daemon>,
}

impl ControlPlane {
    /// Starts one that runs `controllers` of the kube-controller-manager, and waits until the API
    /// answers. Builds the programs first if neither the cache nor `KUBEBUILDER_ASSETS` has them.
    pub fn start(controllers: &[&str]) -> Result<Self> {
        let programs = Programs::find()?;
        let directory = new_directory()?;
        let port = free_port()?;
        let authority = Authority::new()?;
        authority.write(&directory)?;
        authority
            .server("kube-apiserver", &["127.0.0.1", "localhost"])?
            .write(&directory, "apiserver")?;
        pki::write_token_keys(&directory)?;
        write_secret(&directory.join("audit-policy.yaml"), AUDIT_POLICY)?;
        let server = format!("https://127.0.0.1:{port}");
        for (file, user, group) in [
            ("admin.kubeconfig", "kubernetes-admin", Some(MASTERS)),
            (
                "controllers.kubeconfig",
                "system:kube-controller-manager",
                None,
            ),
        ] {
            let text = authority.kubeconfig(&server, user, group)?;
            write_secret(&directory.join(file), &text)?;
        }

        let (etcd, etcd_url) = start_etcd(&programs, &directory)?;
        let mut plane = Self {
            controllers: None,
            directory,
            programs,
            port,
            etcd,
            etcd_url,
            api_server: None,
        };
        plane.start_api_server()?;
        // They end if there is no API server within ten seconds, which a loaded machine takes.
        let controllers = start_controllers(&plane.programs, &plane.directory, controllers)?;
        plane.controllers = Some(controllers);
        Ok(plane)
    }

    /// The file that lets the bearer do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }

    /// A place for a file of the test's own, next to the others.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What the API server has written about the requests of ServiceAccounts outside of kube-system,
    /// one JSON object a line.
    pub fn audit_log(&self) -> PathBuf {
        self.directory.join("audit.log")
    }

    /// Ends the API server as a crash would. Requests fail until [`start_api_server`].
    ///
    /// [`start_api_server`]: Self::start_api_server
    pub fn kill_api_server(&mut self) -> Result<()> {
        match self.api_server.take() {
            Some(daemon) => daemon.kill(),
            None => Ok(()),
        }
    }

    /// Starts the API server where it does not run, on the port it had, and waits until it is ready.
    pub fn start_api_server(&mut self) -> Result<()> {
        if self.api_server.is_none() {
            let command = self.api_server_command();
            let log = self.log(KUBE_APISERVER);
            self.api_server = Some(Daemon::leashed(&command, KUBE_APISERVER.name, &log)?);
        }
        wait::until("the API server to be ready", START, PAUSE, || {
            self.etcd.expect_running()?;
            for daemon in [&mut self.controllers, &mut self.api_server] {
                daemon.as_mut().map_or(Ok(()), Daemon::expect_running)?;
            }
            let asked = self.kubectl(["get", "--raw", "/readyz"]);
            Ok(match asked.deadline(ANSWER).stdout() {
                Ok(_) => Seen::Ready(()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
    }

    /// Forgets every version of every object but the newest, so that whoever resumes an older watch
    /// is told 410 Gone.
    pub fn forget_history(&self, revision: i64) -> Result<()> {
        let body = format!(r#"{{"revision":"{revision}"}}"#);
        let url = format!("{}/v3/kv/compaction", self.etcd_url);
        let answer = http::post(&http::agent(), &url, &body)?;
        ensure!(answer.status == 200, "etcd: {}", answer.text());
        Ok(())
    }

    /// `kubectl` with `args`, as the administrator.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run<'_> {
        Run::new(&self.programs.kubectl)
            .args(args)
            .env("KUBECONFIG", self.kubeconfig())
    }

    /// `helm` with `args`, as the administrator.
    pub fn helm<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run<'_> {
        Run::new(&self.programs.helm)
            .args(args)
            .env("KUBECONFIG", self.kubeconfig())
    }

    fn log(&self, tool: Tool) -> PathBuf {
        self.directory.join(format!("{}.log", tool.name))
    }

    fn api_server_command(&self) -> Command {
        let file = |name| self.directory.join(name);
        let mut command = Command::new(&self.programs.api_server);
        command
            .arg(format!("--etcd-servers={}", self.etcd_url))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .arg(format!("--secure-port={}", self.port))
            // Addresses for the Services of all tests at once.
            .arg("--service-cluster-ip-range=10.96.0.0/16")
            .arg("--endpoint-reconciler-type=none")
            .arg("--authorization-mode=RBAC")
            // Asks for the right to block an owner's deletion, which some clusters do.
            .arg("--enable-admission-plugins=OwnerReferencesPermissionEnforcement")
            .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
            .arg(option("--cert-dir", &self.directory))
            .arg(option("--tls-cert-file", &file("apiserver.crt")))
            .arg(option("--tls-private-key-file", &file("apiserver.key")))
            .arg(option("--client-ca-file", &file("ca.crt")))
            .arg(option(
                "--service-account-key-file",
                &file("service-account.pub"),
            ))
            .arg(option(
                "--service-account-signing-key-file",
                &file("service-account.key"),
            ))
            .arg(option("--audit-policy-file", &file("audit-policy.yaml")))
            .arg(option("--audit-log-path", &self.audit_log()));
        command
    }
}

/// Where the programs are.
#[derive(Debug)]
struct Programs {
    api_server: PathBuf,
    controllers: PathBuf,
    etcd: PathBuf,
    helm: PathBuf,
    kubectl: PathBuf,
}

impl Programs {
    /// Those of the folder `KUBEBUILDER_ASSETS` names, and the others from the cache.
    fn find() -> Result<Self> {
        let toolchain = Toolchain::open()?;
        let assets = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let given = |tool: Tool| {
            let program = assets.as_ref()?.join(tool.name);
            program.is_file().then_some(program)
        };
        let missing: Vec<Tool> = CONTROL_PLANE
            .into_iter()
            .filter(|tool| given(*tool).is_none())
            .collect();
        toolchain.build(&missing, &Progress::new())?;
        let path = |tool| given(tool).unwrap_or_else(|| toolchain.path(tool));
        Ok(Self {
            api_server: path(KUBE_APISERVER),
            controllers: path(KUBE_CONTROLLER_MANAGER),
            etcd: path(ETCD),
            helm: path(HELM),
            kubectl: path(KUBECTL),
        })
    }
}

/// The store, without fsync: it does not outlive the machine's memory anyway.
fn start_etcd(programs: &Programs, directory: &Path) -> Result<(Daemon, String)> {
    let client = format!("http://127.0.0.1:{}", free_port()?);
    let peer = format!("http://127.0.0.1:{}", free_port()?);
    let mut command = Command::new(&programs.etcd);
    command
        .arg(option("--data-dir", &directory.join("etcd")))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .args(["--unsafe-no-fsync", "--log-level=warn"]);
    let log = directory.join("etcd.log");
    Ok((Daemon::leashed(&command, ETCD.name, &log)?, client))
}

/// The controllers. A restart of the API server does not end them.
fn start_controllers(
    programs: &Programs,
    directory: &Path,
    controllers: &[&str],
) -> Result<Daemon> {
    let mut command = Command::new(&programs.controllers);
    command
        .arg(option(
            "--kubeconfig",
            &directory.join("controllers.kubeconfig"),
        ))
        .arg(format!("--controllers={}", controllers.join(",")))
        .arg(option(
            "--service-account-private-key-file",
            &directory.join("service-account.key"),
        ))
        .args([
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            // No port that another run may have taken.
            "--secure-port=0",
        ]);
    let log = directory.join("kube-controller-manager.log");
    Daemon::leashed(&command, KUBE_CONTROLLER_MANAGER.name, &log)
}

/// A folder of its own below `target/control-plane`. Those of processes that are gone, kept until
/// now for their logs, are removed.
fn new_directory() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let parent = paths::target().join("control-plane");
    fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
    for entry in fs::read_dir(&parent)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(pid).exists() {
            // Another run may remove it at the same time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = parent.join(format!("{}-{number}", std::process::id()));
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(format!("{name}="));
    option.push(path);
    option
}

/// The kinds of the Prometheus operator, without its checks: only that such an object is one.
pub const PROMETHEUS_OPERATOR: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicemonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: ServiceMonitor, plural: servicemonitors}
  scope: Namespaced
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: prometheusrules.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: PrometheusRule, plural: prometheusrules}
  scope: Namespaced
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
";

/// Who did what, for ServiceAccounts that are not the cluster's own.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: None
  userGroups: ['system:serviceaccounts:kube-system']
- level: Metadata
  userGroups: ['system:serviceaccounts']
";

/// An API server is ready in three seconds; a loaded machine takes longer.
const START: Duration = Duration::from_secs(180);
const ANSWER: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leashed_daemon_is_the_program_itself_and_ends_with_its_value() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let output = directory.path().join("out");
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$; exec sleep 600"]);
        let mut daemon = Daemon::leashed(&command, "sleeper", &output)?;
        let pid = wait::until("its number", START, PAUSE, || {
            let said = daemon.output()?;
            Ok(match said.strip_suffix('\n') {
                Some(pid) => Seen::Ready(pid.to_owned()),
                None => Seen::NotYet(said),
            })
        })?;
        daemon.expect_running()?;
        assert!(Path::new("/proc").join(&pid).exists());
        drop(daemon);
        assert!(!Path::new("/proc").join(&pid).exists());
        Ok(())
    }
}

//! What the machine must have: found, or installed where we may, or named with the command that
//! installs it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::progress::{Progress, Step};
use crate::run::Run;
use crate::{elf, paths};

/// Makes sure a node can run on this machine, installing Debian packages where that is possible.
pub fn ensure_node(progress: &Progress) -> Result<()> {
    ensure_root()?;
    ensure(progress, missing_for_node)
}

/// Makes sure that the servers and the client of the benchmark are there: nginx as Debian ships it,
/// wrk, and what keeps their files in memory and their processes on a core.
pub fn ensure_bench(progress: &Progress) -> Result<()> {
    ensure(progress, || missing(&BENCH_PROGRAMS))
}

/// Installs the Debian packages that `missing` names, until it names none.
fn ensure(progress: &Progress, missing: impl Fn() -> Vec<&'static str>) -> Result<()> {
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(" ");
    let Some(apt_get) = paths::program("apt-get") else {
        bail!(
            "this machine lacks what these packages of Debian provide: {names}; install the like \
             of them with the package manager of this system and try again"
        );
    };
    let step = progress.step("system packages");
    step.note(&names);
    install(&apt_get, &packages, &step)
        .with_context(|| format!("cannot install packages; try: apt-get install {names}"))?;
    let packages = missing();
    if !packages.is_empty() {
        bail!(
            "apt-get succeeded, but these still seem to be missing: {}",
            packages.join(" ")
        );
    }
    step.done(names);
    Ok(())
}

/// Fails unless this process may make and remove a node.
pub fn ensure_root() -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!("the cluster needs Linux; with Docker, use --kind");
    }
    if !geteuid().is_root() {
        bail!(
            "the cluster needs root, for namespaces and mounts; run `sudo -E env \"PATH=$PATH\" cargo \
             xtask …`, or use --kind with Docker"
        );
    }
    Ok(())
}

/// Fails unless this process may make namespaces, as in a container without privileges.
pub fn ensure_namespaces() -> Result<()> {
    Run::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "true"])
        .stdout()
        .map(drop)
        .context(
            "the cluster needs network, mount and process namespaces, which may not be made here",
        )
}

/// Makes sure there is a Python that can make virtual environments, and says where it is.
pub fn ensure_python(progress: &Progress) -> Result<PathBuf> {
    if let Some(python) = python() {
        return Ok(python);
    }
    let packages = "python3 python3-venv";
    let apt_get = paths::program("apt-get").filter(|_| geteuid().is_root());
    let Some(apt_get) = apt_get else {
        bail!(
            "clients written in Python need Python 3.11 with venv and ensurepip, which Debian has in \
             {packages}; install them and try again"
        );
    };
    let step = progress.step("system packages");
    step.note(packages);
    install(&apt_get, &["python3", "python3-venv"], &step)
        .with_context(|| format!("cannot install packages; try: apt-get install {packages}"))?;
    let python = python()
        .with_context(|| format!("{packages} are installed, but are not a Python 3.11 or newer"))?;
    step.done(packages);
    Ok(python)
}

fn python() -> Option<PathBuf> {
    let python = paths::program("python3")?;
    let probe = "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))";
    let able = Run::new(&python).args(["-c", probe]).stdout().is_ok();
    able.then_some(python)
}

/// Makes sure that there is a PostgreSQL server, and says where its programs are.
pub fn ensure_postgresql(progress: &Progress) -> Result<PathBuf> {
    if postgresql().is_none() {
        if !geteuid().is_root() {
            bail!(
                "Rekor v1 keeps its trees in PostgreSQL, which Debian has in `postgresql`; install it \
                 and try again"
            );
        }
        ensure(progress, || match postgresql() {
            Some(_) => Vec::new(),
            None => vec!["postgresql"],
        })?;
    }
    postgresql().context("PostgreSQL is installed, and initdb is not where it should be")
}

/// Where `initdb` and `postgres` are: Debian has a folder for each version, out of everybody's path.
fn postgresql() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut folders: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .collect();
    folders.sort();
    folders.extend(paths::program("initdb").and_then(|initdb| Some(initdb.parent()?.to_owned())));
    let has = |folder: &&PathBuf, name| folder.join(name).is_file();
    let mut folders = folders.iter().rev();
    folders
        .find(|folder| has(folder, "initdb") && has(folder, "postgres"))
        .cloned()
}

/// Makes sure there is a Docker engine and kind.
pub fn ensure_kind() -> Result<()> {
    for (name, install) in [
        ("docker", "https://docs.docker.com/engine/install/"),
        (
            "kind",
            "go install sigs.k8s.io/kind@latest (or https://kind.sigs.k8s.io)",
        ),
    ] {
        if paths::program(name).is_none() {
            bail!("--kind needs {name}, which is not installed; install it: {install}");
        }
    }
    Run::new("docker")
        .args(["info", "--format", "{{.ServerVersion}}"])
        .deadline(Duration::from_secs(20))
        .stdout()
        .map(drop)
        .context(
            "--kind needs a running Docker engine, and docker cannot reach one; start it \
                  (systemctl start docker), or leave --kind out to use the built-in node",
        )
}

/// The folder of the CNI plugins: Debian's, or the one everybody else uses.
pub fn cni_plugins() -> Option<&'static Path> {
    ["/usr/lib/cni", "/opt/cni/bin"]
        .into_iter()
        .map(Path::new)
        .find(|dir| dir.join("ptp").is_file())
}

/// The Debian packages whose programs are not there. Programs count, not packages: containerd may
/// as well come from Docker's own repository.
fn missing(programs: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    let mut missing: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| paths::program(program).is_none())
        .map(|&(_, package)| package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

/// As [`missing`], with what is no program in the path.
fn missing_for_node() -> Vec<&'static str> {
    let mut missing = missing(&PROGRAMS);
    if cni_plugins().is_none() {
        missing.push("containernetworking-plugins");
    }
    if paths::program("busybox").is_none_or(|busybox| elf::require_static(&busybox).is_err()) {
        missing.push("busybox-static");
    }
    if !Path::new("/etc/ssl/certs/ca-certificates.crt").is_file() {
        missing.push("ca-certificates");
    }
    missing.sort_unstable();
    missing.dedup();
    missing
}

fn install(apt_get: &Path, packages: &[&str], step: &Step<'_>) -> Result<()> {
    let apt = |args: &[&str]| {
        Run::new(apt_get)
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .deadline(INSTALL_DEADLINE)
            .live(step)
            .stdout()
    };
    let mut args = vec!["install", "--yes", "--no-install-recommends"];
    // Another apt (unattended upgrades) may hold the lock for a while.
    args.extend(["-o", "DPkg::Lock::Timeout=120"]);
    args.extend(packages);
    // The lists of a fresh machine are empty or old; only then is an update needed.
    if apt(&args).is_err() {
        apt(&["update", "-o", "DPkg::Lock::Timeout=120"])?;
        apt(&args)?;
    }
    // These packages start a service of the host. The node and the benchmark bring their own.
    if Path::new("/run/systemd/system").is_dir() {
        for (package, service) in SERVICES {
            if packages.contains(&package) {
                Run::new("systemctl")
                    .args(["disable", "--now", service])
                    .stdout()?;
            }
        }
    }
    Ok(())
}

/// Packages that start a service when they are installed, and its name.
const SERVICES: [(&str, &str); 3] = [
    ("containerd", "containerd"),
    ("nginx-light", "nginx"),
    ("postgresql", "postgresql"),
];

/// Programs of the node that come from the distribution, and Debian's package for each.
const PROGRAMS: [(&str, &str); 11] = [
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("iptables-restore", "iptables"),
    ("ip", "iproute2"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
];

/// Programs of the benchmark, and Debian's package for each.
const BENCH_PROGRAMS: [(&str, &str); 4] = [
    ("nginx", "nginx-light"),
    ("taskset", "util-linux"),
    ("vmtouch", "vmtouch"),
    ("wrk", "wrk"),
];

/// Some 80 MB over a slow network.
const INSTALL_DEADLINE: Duration = Duration::from_secs(10 * 60);

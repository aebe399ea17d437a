//! The Go programs that clusters and logs are made of, built from Go modules at pinned tags.
//!
//! Each tool lands in its own folder of the cache, named after its version, so an upgrade is a
//! rebuild and nothing is ever overwritten: `tools/kube-apiserver-v1.36.3/kube-apiserver`. The
//! go command checks every module against the Go checksum database as usual.

mod module;
mod python;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use self::python::{AICS_TLOG, TLOG_SCALES};
use crate::lock::Lock;
use crate::progress::{Progress, Step};
use crate::run::Run;
use crate::{lock, paths};

/// One program: what it is called, and what it is built from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tool {
    /// The file name of the program.
    pub name: &'static str,
    /// The tag of the module it is built from; part of the key in the cache.
    pub version: &'static str,
    source: Source,
}

/// What a tool is built from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Source {
    /// A command of Kubernetes, whose module needs its staging modules replaced.
    Kubernetes,
    /// The package `package` of the module `module`.
    Module {
        module: &'static str,
        package: &'static str,
    },
    /// A file of ours.
    Own(&'static str),
}

/// The API server.
pub const KUBE_APISERVER: Tool = Tool::kubernetes("kube-apiserver");
/// The controllers of Deployments, Jobs, volumes and the rest.
pub const KUBE_CONTROLLER_MANAGER: Tool = Tool::kubernetes("kube-controller-manager");
/// Puts pods on the node.
pub const KUBE_SCHEDULER: Tool = Tool::kubernetes("kube-scheduler");
/// Runs pods on the node.
pub const KUBELET: Tool = Tool::kubernetes("kubelet");
/// Makes Service addresses work.
pub const KUBE_PROXY: Tool = Tool::kubernetes("kube-proxy");
/// The client everyone knows.
pub const KUBECTL: Tool = Tool::kubernetes("kubectl");
/// The store of the API server.
pub const ETCD: Tool = Tool::module("etcd", "v3.6.7", "go.etcd.io/etcd/server/v3", "");
/// Names of Services.
pub const COREDNS: Tool = Tool::module("coredns", "v1.15.0", "github.com/coredns/coredns", "");
/// Installs charts.
pub const HELM: Tool = Tool::module("helm", "v4.3.1", "helm.sh/helm/v4", "/cmd/helm");
/// Volumes as folders of the node; what kind ships, and the newest tag that resolves as a module.
pub const LOCAL_PATH_PROVISIONER: Tool = Tool::module(
    "local-path-provisioner",
    "v0.0.30",
    "github.com/rancher/local-path-provisioner",
    "",
);
/// A log to follow: Tessera's conformance server on POSIX files.
pub const TESSERA_LOG: Tool = Tool::module(
    "posix",
    "v1.0.4",
    "github.com/transparency-dev/tessera",
    "/cmd/conformance/posix",
);
/// Reads a whole log and proves every byte of it; the judge that is not our code.
pub const TESSERA_FSCK: Tool = Tool::module(
    "fsck",
    "v1.0.4",
    "github.com/transparency-dev/tessera",
    "/cmd/fsck",
);
/// Reads a log from many sides at once while it writes to it, and dies on two histories.
pub const TESSERA_HAMMER: Tool = Tool::module(
    "hammer",
    "v1.0.4",
    "github.com/transparency-dev/tessera",
    "/internal/hammer",
);
/// Sigstore's log of signatures, on POSIX files; the newest tag that builds with our Go.
pub const REKOR_SERVER: Tool = Tool::module(
    "rekor-server",
    "v2.3.0",
    "github.com/sigstore/rekor-tiles/v2",
    "/cmd/rekor-server/posix",
);
/// Sigstore's first log of signatures, which has no tiles. It keeps them in Trillian.
pub const REKOR_V1_SERVER: Tool = Tool::module(
    "rekor-server",
    "v1.5.4",
    "github.com/sigstore/rekor",
    "/cmd/rekor-server",
);
/// Its client.
pub const REKOR_CLI: Tool = Tool::module(
    "rekor-cli",
    "v1.5.4",
    "github.com/sigstore/rekor",
    "/cmd/rekor-cli",
);
/// Answers for trees that are kept in a database.
pub const TRILLIAN_SERVER: Tool = Tool::module(
    "trillian_log_server",
    "v1.7.3",
    "github.com/google/trillian",
    "/cmd/trillian_log_server",
);
/// Makes new entries part of them.
pub const TRILLIAN_SIGNER: Tool = Tool::module(
    "trillian_log_signer",
    "v1.7.3",
    "github.com/google/trillian",
    "/cmd/trillian_log_signer",
);
/// Holds namespaces open: of every pod, and of the node itself.
pub const PAUSE: Tool = Tool {
    name: "pause",
    version: "v1",
    source: Source::Own(include_str!("toolchain/pause.go")),
};

/// Asks a log for the same few resources over and over.
pub const CLIENT: Tool = Tool {
    name: "client",
    version: "v1",
    source: Source::Own(include_str!("toolchain/client.go")),
};

/// Everything a demonstration needs, the longest build first.
pub const ALL: [Tool; 14] = [
    KUBE_APISERVER,
    KUBE_CONTROLLER_MANAGER,
    KUBE_SCHEDULER,
    KUBELET,
    KUBE_PROXY,
    KUBECTL,
    ETCD,
    COREDNS,
    LOCAL_PATH_PROVISIONER,
    HELM,
    TESSERA_LOG,
    TESSERA_FSCK,
    PAUSE,
    CLIENT,
];

/// What is needed where the cluster itself comes from elsewhere (kind).
pub const CLIENTS: [Tool; 5] = [KUBECTL, HELM, TESSERA_LOG, TESSERA_FSCK, CLIENT];

/// What a Kubernetes API without a node needs.
pub const CONTROL_PLANE: [Tool; 5] = [KUBE_APISERVER, KUBE_CONTROLLER_MANAGER, ETCD, KUBECTL, HELM];

/// What the tests of real logs run, without any cluster.
pub const LOGS: [Tool; 8] = [
    TESSERA_LOG,
    TESSERA_FSCK,
    TESSERA_HAMMER,
    REKOR_SERVER,
    REKOR_V1_SERVER,
    REKOR_CLI,
    TRILLIAN_SERVER,
    TRILLIAN_SIGNER,
];

impl Tool {
    const fn kubernetes(name: &'static str) -> Self {
        Self {
            name,
            version: "v1.36.3",
            source: Source::Kubernetes,
        }
    }

    const fn module(
        name: &'static str,
        version: &'static str,
        module: &'static str,
        package: &'static str,
    ) -> Self {
        Self {
            name,
            version,
            source: Source::Module { module, package },
        }
    }

    /// The folder of the tool below the cache's `tools/`.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }
}

/// The tools in the cache.
#[derive(Clone, Debug)]
pub struct Toolchain {
    cache: PathBuf,
}

impl Toolchain {
    /// The toolchain of this user's cache; builds nothing.
    pub fn open() -> Result<Self> {
        Ok(Self {
            cache: paths::cache()?,
        })
    }

    /// The folder that holds a folder per tool.
    pub fn tools(&self) -> PathBuf {
        self.cache.join("tools")
    }

    /// Where `tool` is, built or not.
    pub fn path(&self, tool: Tool) -> PathBuf {
        self.tools().join(tool.folder()).join(tool.name)
    }

    /// A folder of the cache for files derived from the tools.
    pub fn derived(&self, name: &str) -> PathBuf {
        self.cache.join(name)
    }

    /// Builds those of `tools` that are missing, one after the other.
    ///
    /// Each tool is built beside its place and renamed into it, so a run that is killed leaves
    /// complete tools only, and the next goes on where it stopped. Two runs take turns.
    pub fn build(&self, tools: &[Tool], progress: &Progress) -> Result<()> {
        let missing = |tool: &&Tool| !self.path(**tool).is_file();
        if !tools.iter().any(|tool| missing(&tool)) {
            return Ok(());
        }
        let step = progress.step("Go");
        let go = Go::find()?;
        let _lock = self.lock(&step)?;
        step.done(&go.version);

        for tool in tools.iter().filter(missing) {
            let step = progress.step(format!("{} {}", tool.name, tool.version));
            step.note("resolving modules");
            let module = module::prepare(&go, &self.cache.join("modules"), tool)?;
            // Not the final folder: an interrupted link must not leave half a program in place.
            let building = self.tools().join(format!(".{}.building", tool.folder()));
            fs::create_dir_all(&building)?;
            go.command(&module.dir)
                .args([
                    "build",
                    "-v",
                    "-mod=mod",
                    "-trimpath",
                    "-ldflags",
                    &module.linker_flags,
                ])
                .arg("-o")
                .arg(building.join(tool.name))
                .arg(&module.package)
                .named(format!("go build {}", module.package))
                .deadline(BUILD_DEADLINE)
                .live(&step)
                .stdout()
                .with_context(|| format!("cannot build {} {}", tool.name, tool.version))?;
            fs::rename(&building, self.tools().join(tool.folder()))
                .with_context(|| format!("cannot move {} into place", tool.name))?;
            step.done("built");
        }
        Ok(())
    }

    /// A file of the module that a tool is built from, copied into the cache the first time.
    pub fn source_file(&self, tool: Tool, path: &str) -> Result<PathBuf> {
        let name = Path::new(path).file_name().context("not a file")?;
        let copy = self.derived("sources").join(tool.folder()).join(name);
        if !copy.is_file() {
            let source = module::source(&Go::find()?, &self.cache.join("modules"), &tool)?;
            let text = fs::read(source.join(path))
                .with_context(|| format!("{} has no {path}", source.display()))?;
            fs::create_dir_all(self.derived("sources").join(tool.folder()))?;
            fs::write(&copy, text).with_context(|| format!("cannot write {}", copy.display()))?;
        }
        Ok(copy)
    }

    /// Keeps other runs from building, and removes what killed ones left.
    fn lock(&self, step: &Step<'_>) -> Result<Lock> {
        let path = self.tools().join(".lock");
        let lock = lock::take(
            &path,
            "the lock of the tool cache",
            OTHER_RUN_DEADLINE,
            step,
        )?;
        self.sweep()?;
        Ok(lock)
    }

    /// Removes what killed runs left; the caller holds the lock.
    fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(self.tools())? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "building")
            {
                fs::remove_dir_all(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// The go command.
#[derive(Debug)]
struct Go {
    program: PathBuf,
    version: String,
}

impl Go {
    /// Finds a Go that can build every tool.
    fn find() -> Result<Self> {
        let Some(program) = paths::program("go") else {
            bail!("Go is not installed, and clusters and logs are built with it; {INSTALL_GO}");
        };
        let version = Run::new(&program)
            .args(["env", "GOVERSION"])
            .env("GOTOOLCHAIN", "local")
            .stdout()?
            .trim()
            .to_owned();
        if minor_version(&version).is_none_or(|minor| minor < MINIMUM_GO_MINOR) {
            bail!(
                "{} is {version}, too old for the modules of clusters and logs; {INSTALL_GO}",
                program.display()
            );
        }
        Ok(Self { program, version })
    }

    /// The go command in the module at `dir`.
    fn command(&self, dir: &Path) -> Run<'_> {
        Run::new(&self.program)
            .current_dir(dir)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "")
            // Never fetch another toolchain behind the user's back.
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off")
    }
}

/// The 26 of `go1.26.8`, `go1.26rc1` or `go1.26-custom`.
fn minor_version(version: &str) -> Option<u32> {
    let minor = version.strip_prefix("go1.")?;
    let end = minor
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(minor.len());
    minor[..end].parse().ok()
}

/// Kubernetes v1.36 and Helm v4.3 say `go 1.26.0` in their go.mod.
const MINIMUM_GO_MINOR: u32 = 26;

const INSTALL_GO: &str = "install Go 1.26 or newer from https://go.dev/dl/ (unpack it to \
    /usr/local/go) and try again";

/// The slowest build takes three minutes on two cores; a slow network and a slow disk take more.
const BUILD_DEADLINE: Duration = Duration::from_secs(40 * 60);

/// How long another run may hold the cache: all builds, slowly.
const OTHER_RUN_DEADLINE: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_read_as_the_go_command_prints_them() {
        for (version, want) in [
            ("go1.26.8", Some(26)),
            ("go1.27", Some(27)),
            ("go1.26rc1", Some(26)),
            ("devel go1.28-abc", None), // built from a checkout: no promise of what it has
        ] {
            assert_eq!(minor_version(version), want, "{version}");
        }
    }

    #[test]
    fn no_two_tools_share_a_folder() {
        // The two lists overlap, so that many are left.
        let tools = ALL
            .iter()
            .chain(LOGS.iter().filter(|tool| !ALL.contains(tool)));
        let mut folders: Vec<String> = tools.map(Tool::folder).collect();
        let count = folders.len();
        folders.sort_unstable();
        folders.dedup();
        assert_eq!(folders.len(), count);
    }
}

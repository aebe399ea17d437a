//! Real logs, the proxy and real clients as plain processes on loopback: no cluster, no root.
//!
//! Everything that is started here is killed when its value is dropped, whatever the outcome of the
//! test; what it printed is kept until the test has passed.
//!
//! - [`World`] is where a test lives: a directory, the tools, the proxy's program.
//! - [`tessera`], [`rekor`] and [`rekor_v1`] are the logs, [`proxy`] is what is tested.
//! - [`python_tuf`] is a TUF repository, and a client of such.
//! - [`front`] stands before a log: it counts every request, and can lie.
//! - [`hammer`] reads from many sides while it writes.

pub mod daemon;
pub mod front;
pub mod hammer;
pub mod postgres;
pub mod proxy;
pub mod python_tuf;
pub mod rekor;
pub mod rekor_v1;
pub mod tessera;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::progress::Progress;
use crate::toolchain::{TESSERA_FSCK, Tool, Toolchain};
use crate::{fsck, paths};

/// Where one test lives.
#[derive(Debug)]
pub struct World {
    directory: PathBuf,
    toolchain: Toolchain,
    proxy: PathBuf,
    progress: Progress,
}

impl World {
    /// An empty directory of that name below `target/real-logs`, with `tools` and the proxy built.
    pub fn new(name: &str, tools: &[Tool]) -> Result<Self> {
        let progress = Progress::new();
        let toolchain = Toolchain::open()?;
        toolchain.build(tools, &progress)?;
        let proxy = proxy::build(&progress)?;
        let directory = paths::target().join("real-logs").join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self {
            directory,
            toolchain,
            proxy,
            progress,
        })
    }

    /// Ends a test that held: stops what is still `running`, which may write until then, and removes
    /// what was kept to explain a failure.
    pub fn end<T>(self, running: T) -> Result<()> {
        drop(running);
        fs::remove_dir_all(&self.directory)
            .with_context(|| format!("cannot remove {}", self.directory.display()))
    }

    /// A place in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a file in the directory, and says where it is.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Where the test says what it does.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The tools.
    pub fn toolchain(&self) -> &Toolchain {
        &self.toolchain
    }

    /// A proxy of its own directory, `name`, for `log`.
    pub fn proxy(&self, name: &str, log: &proxy::Followed<'_>) -> Result<proxy::Proxy> {
        proxy::Proxy::start(&self.proxy, &self.path(name), log)
    }

    /// As [`World::proxy`], for what `lines` of its configuration say: each indented by two spaces and
    /// with its end of line.
    pub fn proxy_by(&self, name: &str, lines: &str) -> Result<proxy::Proxy> {
        proxy::Proxy::start_by(&self.proxy, &self.path(name), lines)
    }

    /// Has `fsck` read everything below `url` and prove it against `key`; its origin is the key's
    /// name unless `origin` says otherwise.
    pub fn fsck(&self, url: &str, key: &str, origin: Option<&str>) -> Result<()> {
        let step = self.progress.step(format!("fsck {url}"));
        let key = self.file("log.vkey", format!("{key}\n"))?;
        let program = Command::new(self.toolchain.path(TESSERA_FSCK));
        let verdict = fsck::prove(program, url, &key, origin, &step)?;
        step.done(verdict);
        Ok(())
    }
}

/// Whether sweeps are to be run whole.
pub fn full() -> bool {
    env::var_os("TILE_PROXY_TEST_FULL").is_some()
}

/// A port of loopback that nobody listens on.
///
/// Below the ports that the kernel hands out, so that no client's end of a connection takes it
/// while its owner is down.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two test programs at once begin at different places.
    let first = (std::process::id() % u32::from(PORTS)) as u16;
    for _ in 0..PORTS {
        let offset = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let port = FIRST_PORT + offset;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!(
        "no port of loopback is free between {FIRST_PORT} and {}",
        FIRST_PORT + PORTS
    )
}

/// Creates the directory `path`.
fn create_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

const FIRST_PORT: u16 = 20_000;
/// Linux hands out ports from 32,768 on.
const PORTS: u16 = 12_000;

/// How long a process may take to answer; far more than it takes.
const START: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

//! The servers that are compared: our binary and Debian's nginx, each in the set-ups that matter.

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::cpu;

/// One server in one set-up: a row of a table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Contender {
    /// nginx as most people run it: no `open_file_cache`, `sendfile on`.
    Nginx,
    /// nginx with the descriptors of all cached files kept open, and without `sendfile`: the best it
    /// has for 8 KiB files, as long as there are few enough of them.
    NginxBest,
    /// nginx with the descriptors of all cached files kept open, `sendfile on`.
    NginxOpenFiles,
    /// tile-proxy with room in memory for what is asked for.
    TileProxy,
    /// tile-proxy with next to no memory set, so that every hit is read from the disk's files.
    TileProxyDisk,
}

impl Contender {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx cache",
            Self::NginxBest => "nginx cache, open_file_cache, sendfile off",
            Self::NginxOpenFiles => "nginx cache, open_file_cache",
            Self::TileProxy => "tile-proxy",
            Self::TileProxyDisk => "tile-proxy, from the disk",
        }
    }

    fn is_ours(self) -> bool {
        matches!(self, Self::TileProxy | Self::TileProxyDisk)
    }
}

/// Which processors a server may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cores {
    /// The first one only, with one worker: for costs.
    First,
    /// All of them, with a worker each: for throughput.
    All,
}

/// A running server with a cache of its own; both go when it is dropped.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Server {
    /// Starts a server with an empty cache, and waits until it answers.
    pub(crate) fn start(
        contender: Contender,
        cores: Cores,
        upstream: SocketAddr,
        vkey: &str,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("tile-proxy-bench-")
            .tempdir()?;
        let address = free_address()?;
        let program = if contender.is_ours() {
            let memory = if contender == Contender::TileProxy {
                512
            } else {
                1
            };
            let config = directory.path().join("tile-proxy.yaml");
            fs::write(
                &config,
                ours(address, upstream, vkey, directory.path(), memory),
            )?;
            vec![
                env!("CARGO_BIN_EXE_tile-proxy").to_owned(),
                "serve".to_owned(),
                "--config".to_owned(),
                config.display().to_string(),
            ]
        } else {
            let config = directory.path().join("nginx.conf");
            fs::write(
                &config,
                nginx(contender, cores, address, upstream, directory.path()),
            )?;
            // The workers run as another user, who must get to the cache.
            fs::set_permissions(
                directory.path(),
                std::os::unix::fs::PermissionsExt::from_mode(0o755),
            )?;
            vec![
                "nginx".to_owned(),
                "-p".to_owned(),
                directory.path().display().to_string(),
                "-c".to_owned(),
                config.display().to_string(),
            ]
        };
        let mut command = match cores {
            Cores::All => Command::new(&program[0]),
            Cores::First => {
                let mut command = Command::new("taskset");
                command.args(["-c", "0"]).arg(&program[0]);
                command
            }
        };
        let output = fs::File::create(directory.path().join("output"))?;
        let child = command
            .args(&program[1..])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program[0]))?;
        let mut server = Self {
            child,
            address,
            directory,
        };
        server.await_answer()?;
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its cache's directory.
    pub(crate) fn cache(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    /// Processor time that it and its workers have used so far.
    pub(crate) fn cpu(&self) -> Duration {
        cpu::of_tree(self.child.id())
    }

    /// Waits until all of `tiles` are on the disk, where the server says so.
    pub(crate) fn await_stored(&self, contender: Contender, tiles: u64) -> Result<()> {
        let begin = Instant::now();
        while contender.is_ours() {
            let stats = get(self.address, "/_admin/cache/stats")
                .context("no statistics")?
                .1;
            let stats: serde_json::Value = serde_json::from_slice(&stats)?;
            if stats["logs"][0]["tiles"].as_u64() >= Some(tiles) {
                break;
            }
            ensure!(
                begin.elapsed() < Duration::from_secs(30),
                "not all tiles were stored: {stats}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn await_answer(&mut self) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(30) {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}: {}", self.last_words());
            }
            if get(self.address, "/checkpoint").is_some_and(|(status, _)| status == 200) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("it does not answer: {}", self.last_words())
    }

    fn last_words(&self) -> String {
        fs::read_to_string(self.directory.path().join("output")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The master takes its workers along on SIGTERM; SIGKILL would leave them.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status and the body of one request; `None` if there is no answer.
fn get(address: SocketAddr, path: &str) -> Option<(u16, Vec<u8>)> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|at| at == b"\r\n\r\n")?;
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).ok()?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body))
}

/// A port that nobody has at this moment.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn ours(
    address: SocketAddr,
    upstream: SocketAddr,
    vkey: &str,
    directory: &Path,
    memory: u64,
) -> String {
    format!(
        "tile_proxy:\n  listen: {address}\n  upstream_url: http://{upstream}/\n  \
         public_keys: [\"{vkey}\"]\n  sync: {{enabled: false}}\n  log: {{level: warn}}\n  \
         failover: {{retry_count: 0}}\n  \
         cache: {{base_path: {}, memory_mb: {memory}}}\n",
        directory.join("cache").display()
    )
}

/// nginx as a cache for tiles, with everything on that makes it a fair peer: one fetch for all who
/// ask, stale answers while it is renewed, kept upstream connections.
fn nginx(
    contender: Contender,
    cores: Cores,
    address: SocketAddr,
    upstream: SocketAddr,
    directory: &Path,
) -> String {
    let workers = match cores {
        Cores::First => 1,
        Cores::All => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let directory = directory.display();
    let mut files = String::new();
    if contender != Contender::Nginx {
        // More files than are asked for, and fewer than the process may open: else it answers 500.
        let _ = writeln!(files, "open_file_cache max=60000 inactive=600s;");
        let _ = writeln!(
            files,
            "open_file_cache_valid 600s; open_file_cache_min_uses 1;"
        );
    }
    let sendfile = if contender == Contender::NginxBest {
        "off"
    } else {
        "on"
    };
    format!(
        "daemon off;
pid {directory}/pid;
error_log {directory}/error.log crit;
worker_processes {workers};
worker_rlimit_nofile 100000;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile {sendfile}; tcp_nopush on; tcp_nodelay on;
    keepalive_timeout 600s; keepalive_requests 100000000;
    proxy_temp_path {directory}/temp;
    client_body_temp_path {directory}/body;
    {files}
    proxy_cache_path {directory}/cache levels=1:2 keys_zone=tiles:64m max_size=20g inactive=7d use_temp_path=off;
    upstream log {{ server {upstream}; keepalive 128; keepalive_requests 100000000; }}
    server {{
        listen {address} backlog=4096;
        location / {{
            proxy_pass http://log;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_cache tiles;
            proxy_cache_lock on;
            proxy_cache_use_stale error timeout updating http_500 http_502 http_503 http_504;
            proxy_cache_background_update on;
            proxy_cache_valid 200 7d;
        }}
    }}
}}
"
    )
}

/// Keeps all files below `directory` in memory until the guard is dropped: kernels that reclaim
/// idle page cache would otherwise make a cache that relies on it look slow.
pub(crate) struct Locked(Child);

impl Locked {
    pub(crate) fn files_below(directory: &Path) -> Result<Self> {
        let mut child = Command::new("vmtouch")
            .args(["-q", "-l", "-f"])
            .arg(directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start vmtouch")?;
        // It locks, then waits for ever; how far it is, its resident memory tells.
        let begin = Instant::now();
        let mut last = 0;
        loop {
            ensure!(
                child.try_wait()?.is_none(),
                "vmtouch cannot lock the cache in memory"
            );
            let locked = cpu::locked_kib(child.id());
            if locked > 0 && locked == last {
                return Ok(Self(child));
            }
            ensure!(
                begin.elapsed() < Duration::from_secs(60),
                "vmtouch locks nothing"
            );
            last = locked;
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

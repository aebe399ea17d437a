//! The proxy's own program, following one log or several.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use super::daemon::Daemon;
use super::{PAUSE, START, create_directory, free_port};
use crate::http::{self, Answer};
use crate::progress::Progress;
use crate::run::Run;
use crate::wait::{self, Seen};
use crate::{paths, real_log};

/// What a proxy follows.
#[derive(Clone, Copy, Debug)]
pub struct Followed<'a> {
    /// Where the log is.
    pub url: &'a str,
    /// Where its tiles are, if not there.
    pub tiles: Option<&'a str>,
    /// The key that signs its checkpoints: a verifier key, or `file:PATH`.
    pub key: &'a str,
    /// Further lines of its configuration, each indented by two spaces and with its end of line.
    pub more: &'a str,
}

/// A proxy with its cache; killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    daemon: Option<Daemon>,
}

/// The program to test: `$TILE_PROXY_BINARY`, else what cargo makes of the checkout.
pub(super) fn build(progress: &Progress) -> Result<PathBuf> {
    if let Some(program) = env::var_os("TILE_PROXY_BINARY") {
        return Ok(PathBuf::from(program));
    }
    let step = progress.step("build tile-proxy");
    Run::new(env!("CARGO"))
        .current_dir(paths::checkout())
        .args(["build", "--locked", "--package", "tile-proxy"])
        .named("cargo build --package tile-proxy")
        .deadline(BUILD)
        .live(&step)
        .stdout()?;
    step.done("");
    Ok(paths::target().join("debug/tile-proxy"))
}

impl Proxy {
    /// Starts `program` in `directory` for one log, and waits until it is ready.
    pub(super) fn start(program: &Path, directory: &Path, log: &Followed<'_>) -> Result<Self> {
        let tiles = log.tiles.map(|url| format!("  tile_base_url: {url}\n"));
        let lines = format!(
            "  upstream_url: {}\n{}  public_keys: [\"{}\"]\n{}",
            log.url,
            tiles.unwrap_or_default(),
            log.key,
            log.more,
        );
        Self::start_by(program, directory, &lines)
    }

    /// As [`Proxy::start`], for what these lines of its configuration say.
    pub(super) fn start_by(program: &Path, directory: &Path, lines: &str) -> Result<Self> {
        create_directory(directory)?;
        let port = free_port()?;
        let config = format!(
            "tile_proxy:\n  listen: 127.0.0.1:{port}\n  \
             checkpoint: {{refresh_interval: 1s}}\n  \
             sync: {{enabled: false}}\n  cache: {{base_path: {}}}\n{lines}",
            directory.join("cache").display(),
        );
        fs::write(directory.join("config.yaml"), config).context("cannot write a configuration")?;
        let mut proxy = Self {
            program: program.to_path_buf(),
            directory: directory.to_path_buf(),
            port,
            daemon: None,
        };
        proxy.restart()?;
        Ok(proxy)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("it does not run")?.kill()
    }

    /// Asks it to stop, and expects that it does so in order.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.daemon.take().context("it does not run")?.stop()?;
        ensure!(status.success(), "a proxy that was asked to stop: {status}");
        Ok(())
    }

    /// Starts it after [`Proxy::kill`] or [`Proxy::stop`], with the same port and cache.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command
            .args(["serve", "--config"])
            .arg(self.directory.join("config.yaml"))
            // A proxy of the machine has no way to loopback.
            .env("NO_PROXY", "127.0.0.1");
        let output = self.directory.join("output");
        let mut daemon = Daemon::start(command, "tile-proxy", &output)?;
        wait::until("the proxy to be ready", START, PAUSE, || {
            daemon.expect_running()?;
            Ok(match self.get("_admin/ready") {
                Ok(answer) if answer.status == 200 => Seen::Ready(()),
                Ok(answer) => Seen::NotYet(answer.text()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where it keeps what it has proven.
    pub fn cache(&self) -> PathBuf {
        self.directory.join("cache")
    }

    /// `GET` of a path such as `tile/0/000`.
    pub fn get(&self, path: &str) -> Result<Answer> {
        http::fetch(&http::agent(), &format!("{}/{path}", self.url()))
    }

    /// `GET` of a path that must be there.
    pub fn body(&self, path: &str) -> Result<Vec<u8>> {
        let answer = self.get(path)?;
        let status = answer.status;
        ensure!(status == 200, "{path}: {status} {}", answer.text());
        Ok(answer.body)
    }

    /// Waits until it serves what is at `path`: an error is remembered for a moment.
    pub fn recovers(&self, path: &str) -> Result<()> {
        wait::until(path, START, PAUSE, || {
            let answer = self.get(path)?;
            Ok(match answer.status {
                200 => Seen::Ready(()),
                status => Seen::NotYet(format!("{status} {}", answer.text())),
            })
        })
    }

    /// The size of the tree it serves.
    pub fn size(&self) -> Result<u64> {
        real_log::tree_size(&String::from_utf8_lossy(&self.body("checkpoint")?))
    }

    /// Waits until it serves a tree of at least `size` entries.
    pub fn follows_to(&self, size: u64) -> Result<()> {
        self.waits_for("the proxy to follow its log", || {
            let served = self.size()?;
            ensure!(served >= size, "size {served}, wanted {size}");
            Ok(())
        })
    }

    /// Waits until `holds` says so; its error is why not yet.
    pub fn waits_for(&self, what: &str, holds: impl Fn() -> Result<()>) -> Result<()> {
        wait::until(what, START, PAUSE, || {
            Ok(match holds() {
                Ok(()) => Seen::Ready(()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
    }

    /// The sum of the metric `name` over all its labels.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = String::from_utf8_lossy(&self.body("_admin/metrics")?).into_owned();
        let mut sum = 0.0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let series = line.strip_prefix(name);
            if let Some(series) = series.filter(|rest| rest.starts_with(['{', ' '])) {
                let value = series.rsplit(' ').next().unwrap_or_default();
                sum += value
                    .parse::<f64>()
                    .with_context(|| format!("not a metric: {line}"))?;
            }
        }
        Ok(sum)
    }

    /// Fails unless everything it was ever sent was true.
    pub fn expect_nothing_false(&self) -> Result<()> {
        for name in [
            "tile_proxy_verify_failures_total",
            "tile_proxy_split_views_total",
            "tile_proxy_cache_corrupt_total",
        ] {
            let count = self.metric(name)?;
            ensure!(
                count == 0.0,
                "{name} is {count}, of a log that does not lie"
            );
        }
        Ok(())
    }

    /// Runs `tile-proxy fsck` on its cache, and fails if anything in there is damaged. Gives what it printed.
    pub fn fsck(&self) -> Result<String> {
        Run::new(&self.program)
            .args(["fsck", "--config"])
            .arg(self.directory.join("config.yaml"))
            .named("tile-proxy fsck")
            .deadline(SYNC)
            .stdout()
    }

    /// Runs `tile-proxy sync` for the newest `depth` entries.
    pub fn sync(&self, depth: u64) -> Result<()> {
        Run::new(&self.program)
            .args(["sync", "--replica", &self.url(), "--depth"])
            .arg(depth.to_string())
            .named("tile-proxy sync")
            .deadline(SYNC)
            .stdout()
            .map(drop)
    }
}

const BUILD: Duration = Duration::from_secs(30 * 60);
const SYNC: Duration = Duration::from_secs(5 * 60);

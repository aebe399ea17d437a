//! Tessera's conformance server on a directory of its own.

use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::daemon::Daemon;
use super::{PAUSE, START, World, create_directory, free_port};
use crate::http::{self, Answer};
use crate::real_log::{self, PRIVATE_KEY};
use crate::toolchain::TESSERA_LOG;
use crate::wait::{self, Seen};

/// A log; killed when dropped.
#[derive(Debug)]
pub struct TesseraLog {
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    key: String,
    daemon: Option<Daemon>,
}

impl TesseraLog {
    /// An empty log that runs. Its tools must be built: see [`TESSERA_LOG`].
    pub fn start(world: &World) -> Result<Self> {
        let directory = world.path("tessera");
        create_directory(&directory)?;
        let mut log = Self {
            program: world.toolchain().path(TESSERA_LOG),
            directory,
            port: free_port()?,
            key: PRIVATE_KEY.to_owned(),
            daemon: None,
        };
        log.restart()?;
        Ok(log)
    }

    /// Starts it after [`TesseraLog::stop`]; it goes on where it stopped.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command
            .arg(format!(
                "--storage_dir={}",
                self.directory.join("log").display()
            ))
            .arg(format!("--listen=127.0.0.1:{}", self.port))
            .env("LOG_PRIVATE_KEY", &self.key);
        let mut daemon = Daemon::start(command, "the log", &self.directory.join("output"))?;
        wait::until("the log to answer", START, PAUSE, || {
            daemon.expect_running()?;
            Ok(match self.get("checkpoint") {
                // An empty log has published nothing yet.
                Ok(answer) if matches!(answer.status, 200 | 404) => Seen::Ready(()),
                Ok(answer) => Seen::NotYet(format!("status {}", answer.status)),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Signs with another key from now on, of the same name, and in the form of [`PRIVATE_KEY`].
    pub fn rotate(&mut self, key: &str) -> Result<()> {
        key.clone_into(&mut self.key);
        self.stop()?;
        self.restart()
    }

    /// Stops it: whoever asks is refused a connection.
    pub fn stop(&mut self) -> Result<()> {
        // It has no orderly end: what it has published is on the disk.
        self.daemon.take().context("the log does not run")?.kill()
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `GET` of a path such as `tile/0/000`.
    pub fn get(&self, path: &str) -> Result<Answer> {
        http::fetch(&http::agent(), &format!("{}/{path}", self.url()))
    }

    /// The number of entries its checkpoint vouches for; 0 before the first.
    pub fn size(&self) -> Result<u64> {
        match self.get("checkpoint")? {
            answer if answer.status == 200 => real_log::tree_size(&answer.text()),
            _ => Ok(0),
        }
    }

    /// Waits until it has stopped growing: entries of a writer that is gone may still be on their
    /// way into the tree.
    pub fn settles(&self) -> Result<u64> {
        let (mut last, mut since) = (self.size()?, Instant::now());
        wait::until("the log to stop growing", START, PAUSE, || {
            let size = self.size()?;
            if size != last {
                (last, since) = (size, Instant::now());
            }
            Ok(if since.elapsed() >= SETTLED {
                Seen::Ready(size)
            } else {
                Seen::NotYet(format!("size {size}"))
            })
        })
    }

    /// Adds the entries `entry N` of all numbers in `entries`, and waits until the log vouches for
    /// that many more.
    pub fn add(&self, entries: Range<u64>, world: &World) -> Result<u64> {
        let step = world.progress().step("add entries");
        let wanted = self.size()? + (entries.end - entries.start);
        real_log::add_entries(&self.url(), &entries, &|| Ok(()), &step)?;
        let size = wait::until("the log's checkpoint", START, PAUSE, || {
            let size = self.size()?;
            Ok(if size >= wanted {
                Seen::Ready(size)
            } else {
                Seen::NotYet(format!("size {size}, wanted {wanted}"))
            })
        })?;
        step.done(format_args!("size {size}"));
        Ok(size)
    }
}

/// Three of the intervals in which it integrates a batch and publishes a checkpoint.
const SETTLED: Duration = Duration::from_secs(3);

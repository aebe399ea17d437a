//! Long-lived programs of a node: started in a session of their own, recorded, watched.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::layout::Node;
use super::node;
use super::proc::{self, Process};
use crate::wait::{self, Seen};
use crate::{lock, run};

/// A program a node runs until it is stopped.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    /// Its name in progress lines, records and logs.
    pub(super) name: &'static str,
    /// The program, as the node sees it.
    pub(super) program: String,
    /// Its arguments.
    pub(super) args: Vec<String>,
}

impl Daemon {
    /// Starts it inside the node `on`.
    ///
    /// `setsid --fork` leaves it to the node's first process, which reaps it whenever it ends; and
    /// a session of its own keeps Ctrl-C and the end of the terminal away from it.
    pub(super) fn start(&self, on: &Node) -> Result<()> {
        let log = on.log(self.name);
        // Names the node too, so that nothing but this daemon of this node can carry it.
        let identity = on.record(self.name);
        let marker = format!("{DAEMON}={}", identity.display());
        let starter = node::inside(on, "setsid")?
            .arg("--fork")
            .arg(&self.program)
            .args(&self.args)
            .env(DAEMON, &identity)
            .stdin(Stdio::null())
            .stdout(open_log(&log)?)
            .stderr(open_log(&log)?)
            .status()
            .with_context(|| format!("cannot run {}", self.program))?;
        if !starter.success() {
            bail!(
                "{} could not be started:\n{}",
                self.name,
                run::last_lines_of(&log, LAST_WORDS)
            );
        }
        // Its children will inherit the marker, but at this moment it has none. While it becomes
        // its program its environment cannot be read, hence the second looks.
        let process = wait::until(self.name, START, PAUSE / 10, || {
            let found = proc::members(None, &marker).first().copied();
            Ok(match found.and_then(|pid| Process::with_pid(pid).ok()) {
                Some(process) => Seen::Ready(process),
                None => Seen::NotYet("no process".to_owned()),
            })
        })
        .with_context(|| format!("its last words:\n{}", run::last_lines_of(&log, LAST_WORDS)))?;
        record(on, self.name, process)
    }
}

/// Opens a log for appending.
pub(super) fn open_log(path: &Path) -> Result<Stdio> {
    let file = File::options().create(true).append(true).open(path);
    Ok(file
        .with_context(|| format!("cannot open {}", path.display()))?
        .into())
}

/// Fails with the last words of the daemon `name` of the node `on` if it no longer runs.
pub(super) fn check(on: &Node, name: &str) -> Result<()> {
    if recorded(on, name).is_none_or(|process| !process.is_alive()) {
        let log = on.log(name);
        bail!(
            "{name} does not run; its last words (all of them: {}):\n{}",
            log.display(),
            run::last_lines_of(&log, LAST_WORDS)
        );
    }
    Ok(())
}

/// Remembers `process` as the daemon `name` of the node `on`.
pub(super) fn record(on: &Node, name: &str, process: Process) -> Result<()> {
    let path = on.record(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    lock::write_atomically(&path, &serde_json::to_vec(&process)?)
}

/// The process remembered as the daemon `name` of the node `on`, whether or not it still runs.
pub(super) fn recorded(on: &Node, name: &str) -> Option<Process> {
    read(&on.record(name))
}

fn read(path: &Path) -> Option<Process> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Tells the daemons of the node apart, in their environment.
const DAEMON: &str = "TILE_PROXY_DAEMON";

/// Between two looks at something that takes moments.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// A program that is gone sooner could not start.
const START: Duration = Duration::from_secs(2);

/// Lines of a log that explain an end.
const LAST_WORDS: usize = 12;

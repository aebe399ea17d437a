//! Long-lived programs of the node: started in a session of their own, recorded, watched.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::layout::{MARKER, State};
use super::node;
use super::proc::Process;
use crate::{lock, run};

/// A program the node runs until it is stopped.
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
    /// Starts it inside the node.
    pub(super) fn start(&self, state: &State) -> Result<()> {
        // A session of its own: closing the terminal or Ctrl-C must not reach it.
        let inside = node::inside(state, &self.program)?;
        let mut command = Command::new("setsid");
        command
            .arg(inside.get_program())
            .args(inside.get_args())
            .args(&self.args);
        command.current_dir("/").env_clear();
        command.envs(
            inside
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        );
        let process = spawn(&mut command, state, self.name)?;
        record(state, self.name, process)
    }
}

/// Starts `command` with its output in the log of `name`. It must become the daemon by `exec`, so
/// that the process returned is the one that lives.
pub(super) fn spawn(command: &mut Command, state: &State, name: &str) -> Result<Process> {
    let log = state.log(name);
    let child = command
        .env(MARKER, state.dir())
        .stdin(Stdio::null())
        .stdout(node::open_log(&log)?)
        .stderr(node::open_log(&log)?)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    Process::with_pid(child.id().cast_signed())
}

/// Fails with the last words of the daemon `name` if it no longer runs.
pub(super) fn check(state: &State, name: &str) -> Result<()> {
    if recorded(state, name).is_none_or(|process| !process.is_alive()) {
        let log = state.log(name);
        bail!(
            "{name} does not run; its last words (all of them: {}):\n{}",
            log.display(),
            run::last_lines_of(&log, LAST_WORDS)
        );
    }
    Ok(())
}

/// Remembers `process` as the daemon `name`.
pub(super) fn record(state: &State, name: &str, process: Process) -> Result<()> {
    let path = state.record(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    lock::write_atomically(&path, &serde_json::to_vec(&process)?)
}

/// The process remembered as the daemon `name`, whether or not it still runs.
pub(super) fn recorded(state: &State, name: &str) -> Option<Process> {
    read(&state.record(name))
}

fn read(path: &Path) -> Option<Process> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Between two looks at something that takes moments.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// Lines of a log that explain an end.
const LAST_WORDS: usize = 12;

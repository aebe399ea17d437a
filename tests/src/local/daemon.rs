//! A process that runs until it is stopped or dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PAUSE;
use crate::run;
use crate::wait::{self, Seen};

/// A running process; killed when dropped.
///
/// It stays in our process group, so that Ctrl-C on the tests reaches it, too.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    leash: Option<ChildStdin>,
    name: String,
    output: PathBuf,
}

impl Daemon {
    /// Runs `command`; both its streams are appended to the file `output`.
    pub fn start(mut command: Command, name: &str, output: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(output)
            .with_context(|| format!("cannot open {}", output.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        Ok(Self {
            child,
            leash: None,
            name: name.to_owned(),
            output: output.to_path_buf(),
        })
    }

    /// As [`start`](Self::start), and it is killed when this process ends, however that comes about:
    /// for a value that nobody drops, such as a static one.
    ///
    /// The kernel closes our end of a pipe with us; who reads the other end then kills it. The shell
    /// becomes the program, so the process is its own.
    pub fn leashed(command: &Command, name: &str, output: &Path) -> Result<Self> {
        // What ends our whole group, such as Ctrl-C, must not end the one who kills before its turn: an
        // API server without its store takes for ever to stop.
        const LEASH: &str = r#"exec 3<&0
(trap '' HUP INT TERM; read -r _ <&3; kill -KILL $$ 2>/dev/null) &
exec "$@" 3<&- </dev/null"#;
        let file = File::options()
            .create(true)
            .append(true)
            .open(output)
            .with_context(|| format!("cannot open {}", output.display()))?;
        let mut shell = Command::new("sh");
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        let mut child = shell
            .args(["-c", LEASH, name])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        Ok(Self {
            leash: child.stdin.take(),
            child,
            name: name.to_owned(),
            output: output.to_path_buf(),
        })
    }

    /// Its number, as long as it runs.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended.
    pub fn expect_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}\n{}", self.name, self.last_words()),
        }
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let words = || format!("it runs\n{}", run::last_lines_of(&self.output, LAST_WORDS));
        wait::until(&what, deadline, PAUSE, || {
            Ok(match self.child.try_wait()? {
                Some(status) => Seen::Ready(status),
                None => Seen::NotYet(words()),
            })
        })
    }

    /// Asks it to stop (SIGTERM), and waits until it has.
    pub fn stop(mut self) -> Result<ExitStatus> {
        // Ours until we wait for it, so the number is nobody else's.
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).with_context(|| format!("cannot stop {}", self.name))?;
        self.wait(STOP)
    }

    /// Ends it as a crash would (SIGKILL).
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Everything it has printed.
    pub fn output(&self) -> Result<String> {
        let bytes = fs::read(&self.output)
            .with_context(|| format!("cannot read {}", self.output.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its last lines, and where the others are.
    pub fn last_words(&self) -> String {
        let words = run::last_lines_of(&self.output, LAST_WORDS);
        format!("{words}\n  (all of it: {})", self.output.display())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already gone after `stop` and `kill`.
        let _ = self.child.kill();
        drop(self.leash.take());
        let _ = self.child.wait();
    }
}

const LAST_WORDS: usize = 15;
/// Longer than a proxy drains.
const STOP: Duration = Duration::from_secs(60);

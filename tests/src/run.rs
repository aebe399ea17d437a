//! Programs that run to their end: under a deadline, with their output kept, and with the lines
//! that explain a failure in its error.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::interrupt;
use crate::progress::{Step, Time};

/// One run of a program.
///
/// Output goes to files, not pipes: a daemon left behind by the program can then neither block it
/// nor keep us reading.
#[derive(Debug)]
pub struct Run<'a> {
    command: Command,
    name: String,
    deadline: Duration,
    stdin: Stdio,
    log: Option<PathBuf>,
    step: Option<&'a Step<'a>>,
}

impl<'a> Run<'a> {
    /// A run of `program` with nothing on its standard input and [`DEFAULT_DEADLINE`].
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self::from_command(Command::new(program.as_ref()))
    }

    /// A run of a command prepared elsewhere; its standard streams are replaced.
    pub fn from_command(command: Command) -> Self {
        let program = Path::new(command.get_program());
        let name = program.file_name().unwrap_or(program.as_os_str());
        Self {
            name: name.to_string_lossy().into_owned(),
            command,
            deadline: DEFAULT_DEADLINE,
            stdin: Stdio::null(),
            log: None,
            step: None,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs in `dir`.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// The name errors use, where that of the program says too little.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long the program may take; then it and its children are killed.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Gives the program `text` to read.
    pub fn input(self, text: &str) -> Result<Self> {
        let mut file = tempfile::tempfile().context("temporary file for standard input")?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.rewind()?;
        Ok(self.input_file(file))
    }

    /// Gives the program `file` to read.
    pub fn input_file(mut self, file: File) -> Self {
        self.stdin = Stdio::from(file);
        self
    }

    /// Keeps both output streams in the file `log`, which is replaced.
    pub fn log(mut self, log: impl Into<PathBuf>) -> Self {
        self.log = Some(log.into());
        self
    }

    /// Shows the newest line of output as the note of `step`.
    pub fn live(mut self, step: &'a Step<'a>) -> Self {
        self.step = Some(step);
        self
    }

    /// Runs the program; its standard output if it succeeded, else an error with its last words.
    pub fn stdout(self) -> Result<String> {
        let name = self.name.clone();
        let log = self.log.clone();
        let ended = self.ended()?;
        if !ended.status.success() {
            let words = last_lines(&format!("{}{}", ended.stdout, ended.stderr), ERROR_LINES);
            let log = log.map(|log| format!("\n  (all of it: {})", log.display()));
            bail!(
                "{name}: {}\n{words}{}",
                ended.status,
                log.unwrap_or_default()
            );
        }
        Ok(ended.stdout)
    }

    /// Runs the program and fails only where it could not run or did not end in time.
    pub fn ended(mut self) -> Result<Ended> {
        let (mut out, mut err) = match &self.log {
            Some(log) => {
                let file = create(log)?;
                (file.try_clone()?, file)
            }
            None => (tempfile::tempfile()?, tempfile::tempfile()?),
        };
        let mut child = self
            .command
            .stdin(self.stdin)
            .stdout(out.try_clone()?)
            .stderr(err.try_clone()?)
            // Its own group, so that a deadline or Ctrl-C reaches its children too.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", self.command.get_program().display()))?;
        let status = wait(&mut child, &self.name, self.deadline, || {
            if let Some(step) = self.step
                && let Some(line) = newest_line(&err).or_else(|| newest_line(&out))
            {
                step.note(line);
            }
        })?;
        let mut ended = Ended {
            status,
            stdout: contents(&mut out)?,
            stderr: String::new(),
        };
        if self.log.is_none() {
            ended.stderr = contents(&mut err)?;
        }
        Ok(ended)
    }
}

/// A program that ran to its end.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output; with [`Run::log`], to both streams.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// The last `count` lines of `text`, indented to stand under an error.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let start = lines.len().saturating_sub(count);
    lines[start..]
        .iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The last `count` lines of the file `path`; a note in their place where it cannot be read.
pub fn last_lines_of(path: &Path, count: usize) -> String {
    // The last lines of a log of any length fit into this.
    const TAIL_BYTES: u64 = 64 * 1024;
    let tail = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match tail() {
        Ok(text) => last_lines(&text, count),
        Err(error) => format!("    ({}: {error})", path.display()),
    }
}

/// Creates (or empties) the file `path` and the directories above it.
pub fn create(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))
}

/// Waits for `child`; kills its group at the deadline or when the user interrupts.
fn wait(
    child: &mut Child,
    name: &str,
    deadline: Duration,
    mut tick: impl FnMut(),
) -> Result<ExitStatus> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let late = started.elapsed() >= deadline;
        if late || interrupt::raised() {
            // The pid is also the group's id (`process_group(0)`) and is ours until we wait for it.
            if let Ok(pid) = i32::try_from(child.id()) {
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            }
            child.wait()?;
            interrupt::check()?;
            bail!("{name}: did not end within {}", Time(deadline));
        }
        tick();
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

fn contents(file: &mut File) -> Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last complete line of a file another process is writing through its own handle of the same
/// open file: the offset is shared, so it is left at the end.
fn newest_line(file: &File) -> Option<String> {
    const WINDOW: u64 = 2 * 1024;
    let len = file.metadata().ok()?.len();
    let mut bytes = vec![0; usize::try_from(len.min(WINDOW)).ok()?];
    // `read_at` leaves the shared offset alone.
    std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, len.saturating_sub(WINDOW)).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines()
        .rfind(|line| !line.trim().is_empty())
        .map(|line| line.trim().to_owned())
}

/// How long a program may take that was given no deadline of its own.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);

/// Lines of output an error carries.
const ERROR_LINES: usize = 25;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_its_last_words() {
        let error = Run::new("sh")
            .args(["-c", "echo one; echo two >&2; exit 3"])
            .stdout()
            .unwrap_err();
        assert_eq!(error.to_string(), "sh: exit status: 3\n    one\n    two");
    }

    #[test]
    fn a_deadline_reaches_the_children() {
        let started = Instant::now();
        let error = Run::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .deadline(Duration::from_millis(50))
            .stdout()
            .unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}

//! The audit log: one JSON line for each event that somebody may have to account for.
//!
//! `docs/audit.md` lists the events. Recording never waits: lines go through a bounded queue to a
//! thread that writes them. What does not fit, or cannot be written because the disk is full, is
//! counted and said in the log itself as soon as it can be written again.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use prometheus::IntCounter;
use serde::Serialize;
use tracing::{info, warn};

/// Lines that wait to be written; at some 300 bytes each, 300 kB.
const QUEUE_LINES: usize = 1_024;

/// Longest wait for the last lines when the process ends.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The path that means standard output.
const STANDARD_OUTPUT: &str = "-";

/// Where events are recorded; clones record in the same place. Costs one load while it is off.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    on: AtomicBool,
    queue: SyncSender<Message>,
    /// Where lines go. Held by the writer while it writes, and by whoever changes it.
    target: Mutex<Target>,
    /// Lines lost since the last one that was written.
    lost: AtomicU64,
    lost_total: IntCounter,
}

#[derive(Debug, Default)]
struct Target {
    path: String,
    output: Option<Output>,
    /// Whether the last line may have been written in part.
    torn: bool,
    /// Whether it was said that lines are lost.
    told: bool,
}

#[derive(Debug)]
enum Output {
    File(File),
    Standard,
}

enum Message {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// What is recorded. Never holds a token, nor who read what.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event<'a> {
    /// A call that may change something, and what came of it.
    Admin {
        /// Who called.
        peer: SocketAddr,
        /// How.
        method: &'a str,
        /// What.
        path: &'a str,
        /// The answer's status.
        status: u16,
    },
    /// A call that was not allowed.
    AuthFailure {
        /// Who called.
        peer: SocketAddr,
        /// How.
        method: &'a str,
        /// What.
        path: &'a str,
        /// Why it was refused.
        reason: &'a str,
    },
    /// A checkpoint is trusted and served from now on.
    CheckpointTrusted {
        /// Name of the log.
        log: &'a str,
        /// Its origin.
        origin: &'a str,
        /// Tree size.
        size: u64,
        /// Root hash.
        root: String,
    },
    /// Other keys may sign a log's checkpoints from now on.
    KeysChanged {
        /// Name of the log.
        log: &'a str,
        /// Name and ID of each.
        keys: Vec<String>,
    },
    /// Events before this one that are missing.
    Lost {
        /// How many.
        count: u64,
    },
    /// A new configuration took effect, or was refused.
    Reload {
        /// Why it was refused.
        error: Option<&'a str>,
        /// Keys that have changed and need a restart.
        needs_restart: &'a [String],
    },
    /// A log shows two histories.
    SplitView {
        /// Name of the log.
        log: &'a str,
        /// Size of the tree that stays served.
        trusted: u64,
        /// Size of the tree that contradicts it.
        offered: u64,
        /// Where both notes are kept.
        evidence: &'a str,
    },
    /// The process began.
    Start {
        /// Its version.
        version: &'a str,
        /// Where it listens.
        listen: Vec<String>,
    },
    /// The process ends.
    Stop,
    /// Something that was fetched is not what the log signed.
    VerifyFailure {
        /// Name of the log.
        log: &'a str,
        /// `tile`, `edge`, `bundle`, `entry` or `checkpoint`.
        kind: &'a str,
        /// Who sent it.
        upstream: &'a str,
        /// What is wrong.
        error: &'a str,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

impl Audit {
    /// An audit log that is off.
    pub fn new(lost_total: IntCounter) -> Self {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let audit = Self(Arc::new(Shared {
            on: AtomicBool::new(false),
            queue,
            target: Mutex::default(),
            lost: AtomicU64::new(0),
            lost_total,
        }));
        let writer = audit.clone();
        // Ends with the process: it waits for lines that any clone may still record.
        thread::spawn(move || writer.write_all(&lines));
        audit
    }

    /// Records at `path` from now on; off if it is empty.
    ///
    /// # Errors
    /// When it cannot be opened. Then everything stays as it was.
    pub fn record_at(&self, path: &str) -> Result<(), String> {
        let output = if path.is_empty() {
            None
        } else {
            Some(open(path)?)
        };
        let mut target = self.target();
        self.0.on.store(output.is_some(), Ordering::Relaxed);
        *target = Target {
            path: path.to_owned(),
            output,
            torn: false,
            told: false,
        };
        Ok(())
    }

    /// Opens the file again, as after it was renamed by a rotation.
    pub fn reopen(&self) {
        let path = self.target().path.clone();
        if let Err(error) = self.record_at(&path) {
            warn!(error, "audit log not reopened; writing on where it was");
        }
    }

    /// Records an event, if anybody wants to know.
    pub fn record(&self, event: &Event<'_>) {
        if self.0.on.load(Ordering::Relaxed)
            && self.0.queue.try_send(Message::Line(line(event))).is_err()
        {
            self.lose();
        }
    }

    /// Waits, not for ever, until everything is written. Blocks the thread.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.0.on.load(Ordering::Relaxed) && self.0.queue.try_send(Message::Flush(done)).is_ok()
        {
            let _ = written.recv_timeout(LAST_LINES);
        }
    }

    fn write_all(&self, lines: &Receiver<Message>) {
        for message in lines {
            match message {
                Message::Line(line) => self.write(&line),
                Message::Flush(done) => {
                    let _ = done.try_send(()); // nobody waits any more
                }
            }
        }
    }

    /// Writes one line, and before it how many are missing.
    fn write(&self, line: &[u8]) {
        let mut target = self.target();
        let lost = self.0.lost.load(Ordering::Relaxed);
        let mut bytes = Vec::new();
        if target.torn {
            bytes.push(b'\n');
        }
        if lost > 0 {
            bytes.extend(self::line(&Event::Lost { count: lost }));
        }
        bytes.extend(line);
        let written = match &mut target.output {
            None => return, // switched off meanwhile
            Some(Output::File(file)) => file.write_all(&bytes),
            Some(Output::Standard) => io::stdout().lock().write_all(&bytes),
        };
        match written {
            Ok(()) => {
                target.torn = false;
                self.0.lost.fetch_sub(lost, Ordering::Relaxed);
                if std::mem::take(&mut target.told) {
                    info!(lost, "audit log is written again");
                }
            }
            Err(error) => {
                target.torn = true;
                self.lose();
                if !std::mem::replace(&mut target.told, true) {
                    warn!(path = target.path, %error, "audit log cannot be written; events are lost");
                }
            }
        }
    }

    fn lose(&self) {
        self.0.lost.fetch_add(1, Ordering::Relaxed);
        self.0.lost_total.inc();
    }

    fn target(&self) -> std::sync::MutexGuard<'_, Target> {
        // Each change replaces whole fields, so a poisoned target is still a sound one.
        self.0.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &str) -> Result<Output, String> {
    if path == STANDARD_OUTPUT {
        return Ok(Output::Standard);
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640) // for the group that collects logs, and nobody else
        .open(Path::new(path));
    file.map(Output::File)
        .map_err(|error| format!("tile_proxy.audit.path: cannot open {path}: {error}"))
}

fn line(event: &Event<'_>) -> Vec<u8> {
    let time = jiff::Timestamp::now().to_string();
    // A tree of text and numbers always has a JSON form.
    let mut line = serde_json::to_vec(&Line { time, event }).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit() -> (Audit, IntCounter) {
        let lost = IntCounter::new("lost", "Lines lost.").expect("a name");
        (Audit::new(lost.clone()), lost)
    }

    fn events(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).expect("readable");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into()))
            .collect()
    }

    #[test]
    fn events_are_appended_and_a_rotated_file_is_begun_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, old) = (
            directory.path().join("audit"),
            directory.path().join("audit.1"),
        );
        std::fs::write(&path, "{\"event\":\"before\"}\n").expect("written");
        let (audit, lost) = audit();
        audit.record(&Event::Stop); // off: nowhere
        audit
            .record_at(path.to_str().expect("UTF-8"))
            .expect("opened");
        audit.record(&Event::SplitView {
            log: "rome",
            trusted: 300,
            offered: 200,
            evidence: "evidence/1",
        });
        audit.flush();
        std::fs::rename(&path, &old).expect("renamed");
        audit.record(&Event::Stop);
        audit.flush();
        audit.reopen();
        audit.record(&Event::Lost { count: 7 });
        audit.flush();
        let old: Vec<_> = events(&old)
            .iter()
            .map(|event| event["event"].clone())
            .collect();
        assert_eq!(old, ["before", "split_view", "stop"]);
        let new = events(&path);
        assert_eq!(new.len(), 1);
        assert_eq!(
            (&new[0]["event"], &new[0]["count"]),
            (&"lost".into(), &7.into())
        );
        let time = new[0]["time"].as_str().expect("a time");
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        assert_eq!(lost.get(), 0);
    }

    #[test]
    fn a_full_disk_costs_events_and_says_how_many() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit");
        let (audit, lost) = audit();
        // Takes nothing, as a full disk does.
        audit.record_at("/dev/full").expect("opened");
        for _ in 0..3 {
            audit.record(&Event::Stop);
        }
        audit.flush();
        assert_eq!(lost.get(), 3);
        audit
            .record_at(path.to_str().expect("UTF-8"))
            .expect("opened");
        audit.record(&Event::Stop);
        audit.flush();
        let events = events(&path);
        assert_eq!(
            (&events[0]["event"], &events[0]["count"]),
            (&"lost".into(), &3.into())
        );
        assert_eq!(events[1]["event"], "stop");
        assert!(audit.record_at("/nowhere/audit").is_err());
        audit.record(&Event::Stop);
        audit.flush();
        assert_eq!(self::events(&path).len(), 3, "it goes on where it was");
    }

    #[test]
    fn a_writer_that_hangs_delays_nobody() {
        let (audit, lost) = audit();
        audit.record_at("/dev/null").expect("opened");
        let hanging = audit.target(); // the writer waits for it
        for _ in 0..QUEUE_LINES + 100 {
            audit.record(&Event::Stop);
        }
        // One line is in the writer's hands, or none yet.
        assert!((99..=100).contains(&lost.get()), "{}", lost.get());
        drop(hanging);
    }
}

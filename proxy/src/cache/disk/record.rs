//! Records, for tests, what the cache does to the disk below one directory.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// One change, or one promise that changes before it are durable.
#[derive(Clone, Debug)]
pub(in crate::cache) enum Op {
    /// A directory exists from now on, and those above it.
    CreateDirectories(PathBuf),
    /// A file was opened under a number; created if it was not there, emptied if `truncate`.
    Open {
        handle: u64,
        path: PathBuf,
        truncate: bool,
    },
    /// Something of the test's own happened, such as a checkpoint being published.
    Mark(String),
    /// A range was given back.
    Punch {
        handle: u64,
        offset: u64,
        length: u64,
    },
    /// A file or an empty directory lost its name.
    Remove(PathBuf),
    /// A file changed its name.
    Rename(PathBuf, PathBuf),
    /// A file changed its length.
    SetLen { handle: u64, length: u64 },
    /// Bytes and length of a file are durable.
    SyncData { handle: u64 },
    /// Names in a directory are durable.
    SyncDirectory(PathBuf),
    /// Bytes were written.
    Write {
        handle: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
}

impl Op {
    /// Whether something is durable after this that was not before.
    pub(in crate::cache) fn is_sync(&self) -> bool {
        matches!(self, Self::SyncData { .. } | Self::SyncDirectory(_))
    }
}

type Ops = Arc<Mutex<Vec<Op>>>;

/// What is being recorded, by directory: tests run beside each other in one process.
static RECORDINGS: Mutex<Vec<(PathBuf, Ops)>> = Mutex::new(Vec::new());

static HANDLES: AtomicU64 = AtomicU64::new(0);

/// Records everything below a directory until it is dropped.
pub(in crate::cache) struct Recording {
    base: PathBuf,
    ops: Ops,
}

impl Recording {
    pub(in crate::cache) fn below(base: &Path) -> Self {
        let ops = Ops::default();
        recordings().push((base.to_owned(), Arc::clone(&ops)));
        Self {
            base: base.to_owned(),
            ops,
        }
    }

    pub(in crate::cache) fn mark(&self, what: String) {
        push(&self.ops, Op::Mark(what));
    }

    pub(in crate::cache) fn ops(&self) -> Vec<Op> {
        self.ops
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        recordings().retain(|(base, _)| *base != self.base);
    }
}

fn recordings() -> std::sync::MutexGuard<'static, Vec<(PathBuf, Ops)>> {
    RECORDINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn push(ops: &Ops, op: Op) {
    ops.lock().unwrap_or_else(PoisonError::into_inner).push(op);
}

fn record(path: &Path, op: impl FnOnce() -> Op) {
    if let Some((_, ops)) = recordings().iter().find(|(base, _)| path.starts_with(base)) {
        push(ops, op());
    }
}

/// An open file.
#[derive(Debug)]
pub(in crate::cache) struct Handle {
    number: u64,
    path: PathBuf,
}

pub(super) fn opened(path: &Path, truncate: bool) -> Handle {
    let handle = HANDLES.fetch_add(1, Ordering::Relaxed);
    record(path, || Op::Open {
        handle,
        path: path.to_owned(),
        truncate,
    });
    Handle {
        number: handle,
        path: path.to_owned(),
    }
}

impl Handle {
    pub(super) fn set_len(&self, length: u64) {
        let handle = self.number;
        record(&self.path, || Op::SetLen { handle, length });
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) {
        record(&self.path, || Op::Write {
            handle: self.number,
            offset,
            bytes: bytes.to_vec(),
        });
    }

    pub(super) fn punch(&self, offset: u64, length: u64) {
        record(&self.path, || Op::Punch {
            handle: self.number,
            offset,
            length,
        });
    }

    pub(super) fn sync_data(&self) {
        let handle = self.number;
        record(&self.path, || Op::SyncData { handle });
    }
}

pub(super) fn created_directories(path: &Path) {
    record(path, || Op::CreateDirectories(path.to_owned()));
}

pub(super) fn removed(path: &Path) {
    record(path, || Op::Remove(path.to_owned()));
}

pub(super) fn renamed(from: &Path, to: &Path) {
    record(from, || Op::Rename(from.to_owned(), to.to_owned()));
}

pub(super) fn synced_directory(path: &Path) {
    record(path, || Op::SyncDirectory(path.to_owned()));
}

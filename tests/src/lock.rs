//! One of our commands at a time: file locks that say what they wait for.
//!
//! The kernel drops a lock with the process that holds it, so a `kill -9` leaves none behind.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::progress::Step;
use crate::run;
use crate::wait::{self, Seen};

/// Held until dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "dropping it unlocks")] Flock<File>);

/// Takes the lock at `path`, waiting up to `deadline` for whoever holds it; `what` names it.
pub fn take(path: &Path, what: &str, deadline: Duration, step: &Step<'_>) -> Result<Lock> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    let mut file = Some(
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?,
    );
    wait::until(what, deadline, Duration::from_millis(200), || {
        let open = file
            .take()
            .ok_or_else(|| anyhow!("the lock file was not handed back"))?;
        match Flock::lock(open, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Seen::Ready(Lock(lock))),
            Err((open, Errno::EWOULDBLOCK)) => {
                file = Some(open);
                step.note("waiting for another run to finish");
                Ok(Seen::NotYet(format!(
                    "{} is held by another run",
                    path.display()
                )))
            }
            Err((_, errno)) => {
                Err(errno).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    })
}

/// Creates the file at `path` in one step: readers see nothing or all of it.
pub fn write_atomically(path: &Path, contents: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = run::create(&temporary)?;
    std::io::Write::write_all(&mut file, contents)
        .and_then(|()| std::fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

//! One process a cache, and one a directory of trust. The next one waits while a replaced pod drains.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tracing::info;

/// How long a second proxy waits, alive but not ready, before it gives up.
pub const LOCK_WAIT: Duration = Duration::from_secs(120);

/// How often it looks.
const LOCK_POLL: Duration = Duration::from_millis(250);

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process still has it after the wait.
    #[error("another process uses the cache: {path} was locked for {wait:?}")]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// How long this process waited.
        wait: Duration,
    },
    /// The file cannot be locked.
    #[error("cannot lock {path}: {source}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The lock; the kernel takes it back when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock, no longer than `wait`.
    ///
    /// # Errors
    /// See [`LockError`].
    pub async fn wait(path: &Path, wait: Duration) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let deadline = tokio::time::Instant::now() + wait;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < deadline => {}
                Err(TryLockError::WouldBlock) => {
                    let path = path.to_owned();
                    return Err(LockError::Busy { path, wait });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            if !told {
                info!(path = %path.display(), "waiting for another process to leave the cache");
                told = true;
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_second_process_waits_for_the_first_and_not_for_ever() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("LOCK");
        let first = Lock::wait(&path, LOCK_WAIT).await.expect("free");
        for wait in [Duration::ZERO, LOCK_WAIT] {
            let begin = tokio::time::Instant::now();
            let refused = Lock::wait(&path, wait).await;
            assert!(matches!(refused, Err(LockError::Busy { .. })));
            assert!(begin.elapsed() >= wait && begin.elapsed() <= wait + LOCK_POLL);
        }

        let leave = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(30)).await;
            drop(first);
        });
        assert!(Lock::wait(&path, LOCK_WAIT).await.is_ok());
        leave.await.expect("left");
    }
}

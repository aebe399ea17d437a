//! Ctrl-C as a value: every wait of the harness asks here, so that an interrupted command unwinds
//! through its own clean-up instead of dying in the middle of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

/// Records that the user wants to stop. Safe to call from a signal handling thread.
pub fn raise() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Forgets an interrupt, so that clean-up after one may wait again.
///
/// Returns whether there was one: a second Ctrl-C finds the flag set and may end the process.
pub fn clear() -> bool {
    INTERRUPTED.swap(false, Ordering::SeqCst)
}

/// Whether the user wants to stop.
pub fn raised() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Fails once the user wants to stop.
pub fn check() -> Result<()> {
    if raised() {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps for `pause`, or fails as soon as the user wants to stop.
pub fn sleep(pause: Duration) -> Result<()> {
    let mut left = pause;
    while !left.is_zero() {
        check()?;
        let slice = left.min(SLICE);
        thread::sleep(slice);
        left -= slice;
    }
    check()
}

/// How long a Ctrl-C may go unnoticed.
const SLICE: Duration = Duration::from_millis(50);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

//! Waiting for something to become true: always with a deadline, and never without saying what
//! was last seen.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

/// What one look at the world told a wait.
#[derive(Debug)]
pub enum Seen<T> {
    /// What was waited for is there.
    Ready(T),
    /// Not yet, and what it looks like meanwhile.
    NotYet(String),
}

/// Looks every `pause` until `look` says [`Seen::Ready`], for at most `deadline`.
///
/// `look` fails only where waiting longer cannot help; that error is returned at once. The error
/// after the deadline names `what` and the last thing seen.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    pause: Duration,
    mut look: impl FnMut() -> Result<Seen<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        interrupt::check()?;
        let last = match look()? {
            Seen::Ready(value) => return Ok(value),
            Seen::NotYet(last) => last,
        };
        if started.elapsed() >= deadline {
            bail!(
                "{what}: not within {} s; last seen: {last}",
                deadline.as_secs()
            );
        }
        interrupt::sleep(pause)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_ends_in_vain_says_what_it_saw() {
        let mut looks = 0;
        let error = until("node Ready", Duration::ZERO, Duration::ZERO, || {
            looks += 1;
            Ok(Seen::<()>::NotYet(format!("look {looks}: NotReady")))
        })
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "node Ready: not within 0 s; last seen: look 1: NotReady"
        );
    }
}

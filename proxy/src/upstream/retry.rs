//! When to ask an upstream again. No I/O and no clock: the caller brings the time.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822};

/// Pauses between attempts: the first is `delay`, each further one twice as long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    /// Repeats after the first attempt.
    pub retries: u32,
    /// Pause before the first repeat.
    pub delay: Duration,
}

impl Backoff {
    /// The pause before repeat `n`, counted from 0; `None` when there have been enough.
    pub fn pause(self, n: u32) -> Option<Duration> {
        let factor = 1_u32.checked_shl(n).unwrap_or(u32::MAX);
        (n < self.retries).then(|| self.delay.saturating_mul(factor))
    }
}

/// The time that a `Retry-After` header asks for, in either of its forms (RFC 9110, section
/// 10.2.3); `None` if it is in neither.
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    // Digits and nothing else; Rust would also read a plus sign.
    if value.bytes().all(|b| b.is_ascii_digit()) {
        return value
            .parse()
            .ok()
            .map(|s: u32| Duration::from_secs(s.into()));
    }
    let at = rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let backoff = Backoff {
            retries: 2,
            delay: Duration::from_secs(1),
        };
        let pauses: Vec<_> = (0..3).map(|n| backoff.pause(n)).collect();
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(pauses, [seconds(1), seconds(2), None]);
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let now: Timestamp = "1994-11-06T08:49:30Z".parse().expect("a time");
        for (value, want) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)), // over already
            ("4294967295", Some(4_294_967_295)),
            ("4294967296", None), // 136 years and a second
            ("-1", None),
            ("+1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(
                retry_after(value, now),
                want.map(Duration::from_secs),
                "{value:?}"
            );
        }
    }
}

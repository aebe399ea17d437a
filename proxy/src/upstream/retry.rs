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

/// Longest time that an upstream is left alone because it asked for that. A header must not silence
/// a log for a day.
const MAX_QUIET: Duration = Duration::from_secs(300);

/// Longest time that an upstream is left alone that only says "too many".
const MAX_UNSAID_QUIET: Duration = Duration::from_secs(60);

/// How long an upstream is left alone after its `nth` refusal in a row, counted from 0, which may
/// have said how long it wants that.
pub fn quiet_after(said: Option<Duration>, nth: u32) -> Duration {
    let factor = 1_u32.checked_shl(nth).unwrap_or(u32::MAX);
    let unsaid = || Duration::from_secs(1).saturating_mul(factor);
    said.map_or_else(
        || unsaid().min(MAX_UNSAID_QUIET),
        |said| said.min(MAX_QUIET),
    )
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
    #[test]
    fn who_does_not_say_how_long_is_left_alone_for_longer_each_time() {
        let seconds = Duration::from_secs;
        for (said, nth, want) in [
            (None, 0, 1),
            (None, 1, 2),
            (None, 5, 32),
            (None, 6, 60),
            (None, u32::MAX, 60),
            (Some(0), 3, 0),
            (Some(120), 0, 120),
            (Some(300), 0, 300),
            (Some(301), 0, 300), // nobody is silenced for a day
        ] {
            let quiet = quiet_after(said.map(seconds), nth);
            assert_eq!(quiet, seconds(want), "{said:?} {nth}");
        }
    }
}

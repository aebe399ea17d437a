//! Whether a peer is asked: not for a while after it failed several times in a row, or lied once.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which a peer is not asked.
const FAILURES: u32 = 3;

/// How long it is not asked then. Doubles each time in a row, up to the second.
const PAUSES: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30);

/// The breaker of one peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    /// Times in a row that it opened.
    opened: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    /// Whether the peer may be asked now. Once a pause is over one question is let through, and the
    /// next only when that one was answered, or another pause is over.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        match self.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                self.open_until = Some(now + *PAUSES.start());
                true
            }
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// It answered, whatever it said.
    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    /// It could not be reached, or did not answer in time.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            self.open(now);
        }
    }

    /// What it sent is not in the log.
    pub(super) fn lied(&mut self, now: Instant) {
        self.open(now);
    }

    fn open(&mut self, now: Instant) {
        let pause = *PAUSES.start() * 2_u32.pow(self.opened.min(16));
        self.open_until = Some(now + pause.min(*PAUSES.end()));
        self.opened = self.opened.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn the_third_failure_in_a_row_opens_and_an_answer_closes() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        breaker.failed(start);
        breaker.failed(start);
        breaker.answered();
        breaker.failed(start);
        breaker.failed(start);
        assert!(breaker.admits(start));
        breaker.failed(start);
        assert!(!breaker.admits(at(start, 999)));
        assert!(breaker.admits(at(start, 1_000)), "one is let through");
        assert!(!breaker.admits(at(start, 1_001)), "and no other with it");
        breaker.failed(at(start, 1_500));
        assert!(!breaker.admits(at(start, 3_499)), "twice as long");
        assert!(breaker.admits(at(start, 3_500)));
        breaker.answered();
        assert!(!breaker.is_open());
        assert!(breaker.admits(at(start, 3_501)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_lie_opens_and_pauses_end() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        breaker.lied(start);
        assert!(!breaker.admits(at(start, 999)));
        for _ in 0..40 {
            breaker.lied(start);
        }
        assert!(!breaker.admits(at(start, 29_999)));
        assert!(breaker.admits(at(start, 30_000)));
    }
}

//! Asks one after another, and beside each other when one is slow, until an answer is proven.
//!
//! Knows nothing of networks: it is handed a way to ask, and tells time by tokio's clock. What an
//! answer is worth is for whoever asks to say, so that a lie is passed over like a failure.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt as _},
};
use tokio::time::Instant;

use super::{error::FetchError, retry::Backoff};

/// Why somebody's answer was passed over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Passed<E> {
    /// There was none.
    Fetch(FetchError),
    /// It is wrong. Whoever says that has reported it.
    Wrong(E),
}

/// How long a race may go on.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The time that a client waits. What begins after it would be for nobody.
    pub patience: Duration,
    /// Repeats of each.
    pub backoff: Backoff,
}

impl Rules {
    /// How long one of them is waited for before the next is started beside it: a third of the
    /// time, or two thirds if it has begun to answer. So a third is left for the next.
    fn head_start(self, has_begun: bool) -> Duration {
        let third = self.patience / 3;
        if has_begun { 2 * third } else { third }
    }

    /// The pause before asking somebody again for the `nth` time, counted from 0; `None` if that
    /// cannot help, was done often enough, or would come too late.
    fn pause<E>(self, nth: u32, why: &Passed<E>, elapsed: Duration) -> Option<Duration> {
        let Passed::Fetch(error) = why else {
            return None;
        };
        let pause = self.backoff.pause(nth)?.max(error.repeat_after()?);
        (elapsed + pause < self.patience).then_some(pause)
    }
}

/// What somebody's answer comes to, as whoever asks judges it.
pub type Answer<'a, T, E> = BoxFuture<'a, Result<T, Passed<E>>>;

/// Set once a response has begun; what is asked sets it.
#[derive(Clone, Debug, Default)]
pub struct Begun(Arc<AtomicBool>);

impl Begun {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a race ended.
#[derive(Debug, Eq, PartialEq)]
pub struct Finish<T, E> {
    /// Who won and with what; `None` if nobody did.
    pub won: Option<(usize, T)>,
    /// Who was passed over before that, with the last reason of each, in the order of asking.
    pub passed: Vec<(usize, Passed<E>)>,
}

/// Asks each of `order` until one's answer is accepted, which ends the race for the others.
///
/// The next one is asked as soon as one has failed or is slow; one that failed is meanwhile asked
/// again, if that can help.
pub async fn race<'a, T: Send + 'a, E: Send + 'a>(
    order: &[usize],
    rules: Rules,
    ask: impl Fn(usize, Begun) -> Answer<'a, T, E>,
) -> Finish<T, E> {
    let attempt = |who: usize, nth: u32, pause: Duration, begun: Begun| {
        let answer = ask(who, begun); // asks nobody before it is polled
        let attempt: BoxFuture<'a, _> = Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            (who, nth, answer.await)
        });
        attempt
    };
    let begin = Instant::now();
    let mut rest = order.iter().copied().peekable();
    let mut passed: Vec<(usize, Passed<E>)> = Vec::new();
    let mut running = FuturesUnordered::new();
    let mut latest = (begin, Begun::default());
    let mut start_next = true;
    loop {
        if std::mem::take(&mut start_next)
            && let Some(who) = rest.next()
        {
            latest = (Instant::now(), Begun::default());
            running.push(attempt(who, 0, Duration::ZERO, latest.1.clone()));
        }
        let patience = |(since, begun): &(Instant, Begun)| {
            let head_start = rules.head_start(begun.is_set());
            *since + head_start
        };
        tokio::select! {
            biased;
            ended = running.next() => {
                let Some((who, nth, outcome)) = ended else {
                    return Finish { won: None, passed }; // all have failed for good
                };
                match outcome {
                    Ok(value) => return Finish { won: Some((who, value)), passed },
                    Err(why) => {
                        if let Some(pause) = rules.pause(nth, &why, begin.elapsed()) {
                            running.push(attempt(who, nth + 1, pause, Begun::default()));
                        }
                        match passed.iter_mut().find(|(other, _)| *other == who) {
                            Some((_, last)) => *last = why,
                            None => passed.push((who, why)),
                        }
                        start_next = true;
                    }
                }
            }
            () = tokio::time::sleep_until(patience(&latest)), if rest.peek().is_some() => {
                // It may have begun to answer meanwhile, which gives it another third.
                start_next = Instant::now() >= patience(&latest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// What one of them does each time it is asked; the last is what it keeps doing.
    #[derive(Clone, Copy)]
    enum Does {
        /// Answers right after so many milliseconds.
        Right(u64),
        /// Answers wrongly.
        Lies(u64),
        /// Begins at once, and is done after so many milliseconds.
        Drips(u64),
        /// Fails in a way that may pass.
        Fails(u64),
        /// Does not have it.
        Lacks,
        /// Asks to be left alone for so many milliseconds.
        Quiet(u64),
    }
    use Does::*;

    fn error(does: Does) -> FetchError {
        let upstream = "rome".to_owned();
        match does {
            Lacks => FetchError::NotFound { upstream },
            Quiet(left) => FetchError::Throttled {
                upstream,
                left: Duration::from_millis(left),
            },
            _ => FetchError::Network {
                upstream,
                message: "reset".to_owned(),
            },
        }
    }

    /// Runs a race of `patience` 6 s, with two repeats after 1 and 2 s. Gives who won, after how
    /// many milliseconds, and how often each was asked.
    async fn run(scripts: &[&[Does]]) -> (Option<usize>, u128, Vec<usize>) {
        let rules = Rules {
            patience: Duration::from_secs(6),
            backoff: Backoff {
                retries: 2,
                delay: Duration::from_secs(1),
            },
        };
        let asked: Vec<_> = scripts.iter().map(|_| AtomicUsize::new(0)).collect();
        let order: Vec<usize> = (0..scripts.len()).collect();
        let begin = Instant::now();
        let finish = race(&order, rules, |who, begun| {
            let (asked, script) = (&asked[who], scripts[who]);
            Box::pin(async move {
                let nth = asked.fetch_add(1, Ordering::Relaxed);
                let does = *script.get(nth).or_else(|| script.last()).expect("one");
                let sleep = |ms| tokio::time::sleep(Duration::from_millis(ms));
                match does {
                    Right(ms) => {
                        sleep(ms).await;
                        Ok(())
                    }
                    Drips(ms) => {
                        begun.set();
                        sleep(ms).await;
                        Ok(())
                    }
                    Lies(ms) => {
                        sleep(ms).await;
                        Err(Passed::Wrong("a lie"))
                    }
                    Fails(ms) => {
                        sleep(ms).await;
                        Err(Passed::Fetch(error(does)))
                    }
                    Lacks | Quiet(_) => Err(Passed::Fetch(error(does))),
                }
            })
        })
        .await;
        let won = finish.won.map(|(who, ())| who);
        let asked = asked
            .iter()
            .map(|asked| asked.load(Ordering::Relaxed))
            .collect();
        (won, begin.elapsed().as_millis(), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_asked_when_and_who_wins() {
        for (scripts, want) in [
            // One that works leaves the others in peace.
            (
                &[&[Right(10)][..], &[Right(0)]][..],
                (Some(0), 10, vec![1, 0]),
            ),
            // The next is asked at once when one has failed, lied, or lacks it …
            (&[&[Fails(10)], &[Right(10)]], (Some(1), 20, vec![1, 1])),
            (&[&[Lies(10)], &[Right(10)]], (Some(1), 20, vec![1, 1])),
            (&[&[Lacks], &[Right(10)]], (Some(1), 10, vec![1, 1])),
            (&[&[Quiet(9_000)], &[Right(10)]], (Some(1), 10, vec![1, 1])),
            // … and after a third of the time when one is silent, or two thirds when it drips.
            (
                &[&[Right(60_000)], &[Right(10)]],
                (Some(1), 2_010, vec![1, 1]),
            ),
            (
                &[&[Drips(60_000)], &[Right(10)]],
                (Some(1), 4_010, vec![1, 1]),
            ),
            // The slow one may still be the first to be right.
            (
                &[&[Right(2_500)], &[Right(9_000)]],
                (Some(0), 2_500, vec![1, 1]),
            ),
            (
                &[&[Right(2_500)], &[Lies(10)]],
                (Some(0), 2_500, vec![1, 1]),
            ),
            // A third one has a third of the time, too.
            (
                &[&[Right(60_000)], &[Right(60_000)], &[Right(10)]],
                (Some(2), 4_010, vec![1, 1, 1]),
            ),
            // What may pass is asked again: after 1 s and another 2 s.
            (&[&[Fails(0)]], (None, 3_000, vec![3])),
            (&[&[Fails(0), Right(0)]], (Some(0), 1_000, vec![2])),
            (
                &[&[Fails(0), Right(0)], &[Lies(0)]],
                (Some(0), 1_000, vec![2, 1]),
            ),
            // A lie or an absence does not pass.
            (&[&[Lies(0)]], (None, 0, vec![1])),
            (&[&[Lacks]], (None, 0, vec![1])),
            // Who asks to be left alone is, and asked again only if somebody still waits then.
            (&[&[Quiet(2_000), Right(0)]], (Some(0), 2_000, vec![2])),
            (&[&[Quiet(6_000), Right(0)]], (None, 0, vec![1])),
            // Nothing begins when nobody waits any more.
            (&[&[Fails(5_500)]], (None, 5_500, vec![1])),
            (&[], (None, 0, vec![])),
        ] {
            let case: Vec<usize> = scripts.iter().map(|script| script.len()).collect();
            assert_eq!(run(scripts).await, want, "{case:?} {want:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_passed_over_is_named_with_the_last_reason() {
        let rules = Rules {
            patience: Duration::from_secs(6),
            backoff: Backoff {
                retries: 1,
                delay: Duration::from_secs(1),
            },
        };
        let finish: Finish<(), _> = race(&[1, 0], rules, |who, _| {
            Box::pin(std::future::ready(Err(if who == 0 {
                Passed::Wrong("a lie")
            } else {
                Passed::Fetch(error(Fails(0)))
            })))
        })
        .await;
        assert_eq!(finish.won, None);
        let want = [
            (1, Passed::Fetch(error(Fails(0)))),
            (0, Passed::Wrong("a lie")),
        ];
        assert_eq!(finish.passed, want);
    }
}

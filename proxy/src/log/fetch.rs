//! One flight per resource, however many ask for it.
//!
//! A flight is a task of its own: a caller that leaves does not end it for the others. Its error is
//! shared, and answers those who come shortly after it, so that a failing log
//! is asked at a bounded rate.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

/// What is in flight, by key.
#[derive(Debug)]
pub struct Flights<K, V, E> {
    in_flight: Arc<Mutex<HashMap<K, Landing<V, E>>>>,
    max_wait: Duration,
    limit: Duration,
    error_ttl: Duration,
    shared: bool,
}

/// Where a flight's outcome appears; `None` while it is under way.
type Landing<V, E> = watch::Receiver<Option<Result<V, E>>>;

/// Why a flight gave no value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FlightError<E> {
    /// The flight's own error, shared by all who waited.
    Failed(E),
    /// Nobody waits longer than this.
    TimedOut,
}

/// The outcome for one caller.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Landed<V> {
    /// What the flight brought.
    pub value: V,
    /// Whether another caller had started it.
    pub shared: bool,
}

impl<K, V, E> Flights<K, V, E>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// Flights whose callers wait at most `max_wait`. A flight itself may take up to `limit`, so
    /// that what comes slowly is there for the next caller. Errors are remembered for `error_ttl`.
    pub fn new(max_wait: Duration, limit: Duration, error_ttl: Duration) -> Self {
        Self {
            in_flight: Arc::default(),
            max_wait,
            limit,
            error_ttl,
            shared: true,
        }
    }

    /// The same without sharing: each call is a flight of its own, and no error is remembered.
    pub fn not_shared(self) -> Self {
        Self {
            shared: false,
            ..self
        }
    }

    /// Joins the flight for `key`, or starts it with `task`.
    ///
    /// # Errors
    /// The flight's error, or [`FlightError::TimedOut`] after `max_wait`.
    pub async fn join<F>(
        &self,
        key: K,
        task: impl FnOnce() -> F,
    ) -> Result<Landed<V>, FlightError<E>>
    where
        F: Future<Output = Result<V, E>> + Send + 'static,
    {
        let (mut landing, shared) = self.board(key, task);
        let landed = tokio::time::timeout(self.max_wait, landing.wait_for(Option::is_some)).await;
        match landed.map(|outcome| outcome.map(|outcome| outcome.clone())) {
            Ok(Ok(Some(Ok(value)))) => Ok(Landed { value, shared }),
            Ok(Ok(Some(Err(error)))) => Err(FlightError::Failed(error)),
            // Still under way; or cut off at its limit, or panicked: the caller may come again.
            Ok(Ok(None) | Err(_)) | Err(_) => Err(FlightError::TimedOut),
        }
    }

    fn board<F>(&self, key: K, task: impl FnOnce() -> F) -> (Landing<V, E>, bool)
    where
        F: Future<Output = Result<V, E>> + Send + 'static,
    {
        let (sender, landing) = watch::channel(None);
        if !self.shared {
            let (task, limit) = (task(), self.limit);
            tokio::spawn(async move {
                if let Ok(outcome) = tokio::time::timeout(limit, task).await {
                    sender.send_replace(Some(outcome));
                }
            });
            return (landing, false);
        }
        let mut in_flight = self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(landing) = in_flight.get(&key) {
            return (landing.clone(), true);
        }
        in_flight.insert(key.clone(), landing.clone());
        drop(in_flight);

        // Created here and not in the spawned block, so that `task` itself need not be `Send`.
        let task = task();
        let cleared = Clear {
            map: Arc::clone(&self.in_flight),
            key,
        };
        let (limit, error_ttl) = (self.limit, self.error_ttl);
        tokio::spawn(async move {
            let cleared = cleared; // also when the task panics
            if let Ok(outcome) = tokio::time::timeout(limit, task).await {
                let failed = outcome.is_err();
                sender.send_replace(Some(outcome));
                if failed {
                    tokio::time::sleep(error_ttl).await;
                }
            }
            drop(cleared);
        });
        (landing, false)
    }
}

/// Takes a flight off the map when its task ends, however it ends.
struct Clear<K: Eq + Hash, V, E> {
    map: Arc<Mutex<HashMap<K, Landing<V, E>>>>,
    key: K,
}

impl<K: Eq + Hash, V, E> Drop for Clear<K, V, E> {
    fn drop(&mut self) {
        self.map
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    type TestFlights = Flights<&'static str, usize, &'static str>;

    fn flights() -> TestFlights {
        Flights::new(
            Duration::from_secs(5),
            Duration::from_secs(30),
            Duration::from_millis(500),
        )
    }

    /// A task that takes `seconds`, and counts its starts.
    async fn slow(
        starts: Arc<AtomicUsize>,
        seconds: u64,
        outcome: Result<(), &'static str>,
    ) -> Result<usize, &'static str> {
        let nth = starts.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        outcome.map(|()| nth)
    }

    #[tokio::test(start_paused = true)]
    async fn two_hundred_callers_share_one_flight() {
        let (flights, starts) = (flights(), Arc::new(AtomicUsize::new(0)));
        let calls = (0..200).map(|_| flights.join("a", || slow(Arc::clone(&starts), 1, Ok(()))));
        let landed = futures::future::join_all(calls).await;
        assert!(
            landed
                .iter()
                .all(|l| l.as_ref().is_ok_and(|l| l.value == 1))
        );
        assert_eq!(landed.iter().flatten().filter(|l| !l.shared).count(), 1);
        assert_eq!(starts.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_does_not_end_the_flight() {
        let (flights, starts) = (flights(), Arc::new(AtomicUsize::new(0)));
        let first = flights.join("a", || slow(Arc::clone(&starts), 2, Ok(())));
        assert!(
            tokio::time::timeout(Duration::from_secs(1), first)
                .await
                .is_err()
        );
        let second = flights
            .join("a", || slow(Arc::clone(&starts), 2, Ok(())))
            .await;
        assert_eq!(
            second,
            Ok(Landed {
                value: 1,
                shared: true
            })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_remembered_for_its_time_and_no_longer() {
        let (flights, starts) = (flights(), Arc::new(AtomicUsize::new(0)));
        let failing = || slow(Arc::clone(&starts), 0, Err("down"));
        assert_eq!(
            flights.join("a", failing).await,
            Err(FlightError::Failed("down"))
        );
        assert_eq!(
            flights.join("a", failing).await,
            Err(FlightError::Failed("down"))
        );
        assert_eq!(starts.load(Ordering::SeqCst), 1);
        tokio::time::sleep(Duration::from_millis(501)).await;
        assert_eq!(
            flights.join("a", failing).await,
            Err(FlightError::Failed("down"))
        );
        assert_eq!(starts.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_limit() {
        let (flights, starts) = (flights(), Arc::new(AtomicUsize::new(0)));
        let begin = tokio::time::Instant::now();
        let late = flights
            .join("a", || slow(Arc::clone(&starts), 60, Ok(())))
            .await;
        assert_eq!(late, Err(FlightError::TimedOut));
        assert_eq!(begin.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_late_is_there_for_the_next_caller() {
        let (flights, starts) = (flights(), Arc::new(AtomicUsize::new(0)));
        let slow = || slow(Arc::clone(&starts), 8, Ok(()));
        assert_eq!(flights.join("a", slow).await, Err(FlightError::TimedOut));
        let landed = flights.join("a", slow).await;
        assert_eq!(
            landed,
            Ok(Landed {
                value: 1,
                shared: true
            })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_sharing_each_caller_has_its_own_flight() {
        let (flights, starts) = (flights().not_shared(), Arc::new(AtomicUsize::new(0)));
        let calls = (0..5).map(|_| flights.join("a", || slow(Arc::clone(&starts), 1, Ok(()))));
        let landed = futures::future::join_all(calls).await;
        assert!(landed.iter().all(|l| l.as_ref().is_ok_and(|l| !l.shared)));
        assert_eq!(starts.load(Ordering::SeqCst), 5);
        // And waits no longer for it.
        let late = flights.join("a", || slow(Arc::clone(&starts), 60, Ok(())));
        assert_eq!(late.await, Err(FlightError::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_that_panics_leaves_the_way_free() {
        let flights = flights();
        let panicking = || async { panic!("a bug") };
        assert_eq!(
            flights.join("a", panicking).await,
            Err(FlightError::TimedOut)
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(
            flights.join("a", || async { Ok(7) }).await.map(|l| l.value),
            Ok(7)
        );
    }
}

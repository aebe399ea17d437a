//! All upstreams of a log, as one that is asked.

use std::{
    fmt::Display,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    FetchError, Question, Upstream,
    order::Order,
    race::{self, Answer, Finish, Rules, race},
    web::{Answered, How, Passed},
};

/// The upstreams of a log. None in offline mode.
#[derive(Debug)]
pub struct Upstreams {
    log: String,
    all: Vec<Arc<Upstream>>,
    order: Mutex<Order>,
    rules: Rules,
}

/// One upstream that is being asked.
#[derive(Clone, Debug)]
pub struct Asked {
    upstream: Arc<Upstream>,
    /// `None` for another replica, which stands in no order.
    place: Option<usize>,
    how: How,
}

impl Asked {
    /// Its name.
    pub fn name(&self) -> &str {
        self.upstream.name()
    }

    /// Another replica.
    pub(crate) fn peer(upstream: Arc<Upstream>) -> Self {
        Self {
            upstream,
            place: None,
            how: How::default(),
        }
    }

    /// The same, asked only for what it has.
    pub(crate) fn only_if_cached(mut self) -> Self {
        self.how.only_if_cached = true;
        self
    }

    /// Its place in the configuration; `None` for another replica.
    pub fn place(&self) -> Option<usize> {
        self.place
    }

    /// Its base URL.
    pub(crate) fn url(&self) -> &url::Url {
        self.upstream.url()
    }

    /// Fetches its checkpoint, unverified.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn checkpoint(&self, limit: usize) -> Result<Bytes, FetchError> {
        let got = self.upstream.checkpoint(limit, &self.how).await;
        got.map(|got| got.bytes)
    }

    /// As [`Asked::checkpoint`], with how long ago it says that the log has confirmed it.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub(crate) async fn aged_checkpoint(
        &self,
        limit: usize,
    ) -> Result<(Bytes, Option<Duration>), FetchError> {
        let got = self.upstream.checkpoint(limit, &self.how).await?;
        Ok((got.bytes, got.age))
    }

    /// Fetches what it has at `path`, such as `tile/0/000`, unverified.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn tile(&self, path: &str, limit: usize) -> Result<Bytes, FetchError> {
        self.upstream.tile(path, limit, &self.how).await
    }

    /// Fetches what its API has at `path`, such as `api/v1/log?stable=true`, unverified.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn api(&self, path: &str, limit: usize) -> Result<Bytes, FetchError> {
        self.upstream.api(path, limit, &self.how).await
    }
}

impl Upstreams {
    /// The upstreams of the log called `log`, in the order of the configuration. Without `failover`,
    /// only the first by priority is ever asked.
    pub fn new(log: &str, all: Vec<(u32, Upstream)>, failover: bool, rules: Rules) -> Self {
        let (priorities, all): (Vec<u32>, Vec<_>) = all
            .into_iter()
            .map(|(priority, upstream)| (priority, Arc::new(upstream)))
            .unzip();
        Self {
            log: log.to_owned(),
            order: Mutex::new(Order::new(&priorities, failover)),
            all,
            rules,
        }
    }

    /// Whether there is nobody to ask.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All of them, as configured.
    pub fn iter(&self) -> impl Iterator<Item = &Upstream> {
        self.all.iter().map(AsRef::as_ref)
    }

    /// The name of the one at this place.
    pub fn name(&self, place: usize) -> &str {
        self.all.get(place).map_or("nobody", |it| it.name())
    }

    /// Longest time for one request to any of them.
    pub fn timeout(&self) -> Duration {
        self.iter().map(Upstream::timeout).max().unwrap_or_default()
    }

    /// Asks for a tile or a bundle: first whoever had the last one.
    pub async fn tile<'a, T, E>(&'a self, ask: impl Fn(Asked) -> Answer<'a, T, E>) -> Finish<T, E>
    where
        T: Send + 'a,
        E: Display + Send + 'a,
    {
        self.content(Question::Tile, ask).await
    }

    /// Asks for an entry by itself: as for a tile, but that it does not exist speaks against nobody.
    pub async fn entry<'a, T, E>(&'a self, ask: impl Fn(Asked) -> Answer<'a, T, E>) -> Finish<T, E>
    where
        T: Send + 'a,
        E: Display + Send + 'a,
    {
        self.content(Question::Entry, ask).await
    }

    /// Asks for what an API proves of a tree: first whoever offered it.
    pub async fn proof<'a, T, E>(
        &'a self,
        offerer: usize,
        ask: impl Fn(Asked) -> Answer<'a, T, E>,
    ) -> Finish<T, E>
    where
        T: Send + 'a,
        E: Display + Send + 'a,
    {
        self.of_tree(offerer, Question::Entry, ask).await
    }

    /// Hands on a client's request. What reads may be asked of the next upstream when one cannot be
    /// reached; what writes goes to one place, once.
    ///
    /// # Errors
    /// That of the first one asked.
    pub async fn pass(&self, request: &Passed, limit: usize) -> Result<Answered, FetchError> {
        let mut order = self.order().for_tiles(|place| self.is_quiet(place));
        if request.writes {
            order = self.order().for_checkpoint();
            order.truncate(1);
        }
        let mut first_error = None;
        for upstream in order.iter().filter_map(|place| self.all.get(*place)) {
            match upstream.pass(request, limit).await {
                Ok(answered) => return Ok(answered),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| FetchError::Network {
            upstream: self.log.clone(),
            message: "there is no upstream".to_owned(),
        }))
    }

    /// Asks for tiles of a tree: first whoever offered it, as others may not have it yet.
    pub async fn tree<'a, T, E>(
        &'a self,
        offerer: usize,
        ask: impl Fn(Asked) -> Answer<'a, T, E>,
    ) -> Finish<T, E>
    where
        T: Send + 'a,
        E: Display + Send + 'a,
    {
        self.of_tree(offerer, Question::Tile, ask).await
    }

    /// Asks for a checkpoint: the first by priority, every time; and each once, because whoever
    /// wants a checkpoint asks again soon.
    pub async fn checkpoint<'a, T, E>(
        &'a self,
        ask: impl Fn(Asked) -> Answer<'a, T, E>,
    ) -> Finish<T, E>
    where
        T: Send + 'a,
        E: Display + Send + 'a,
    {
        let order = self.order().for_checkpoint();
        let mut rules = self.rules;
        rules.backoff.retries = 0;
        let finish = self.race(&order, rules, Question::Checkpoint, ask).await;
        let by = finish.won.as_ref().map(|(by, _)| *by);
        self.rearrange(|order| order.refreshed(by));
        finish
    }

    /// Begins anew with the configured order, and asks those again that wanted to be left alone.
    pub fn forget(&self) {
        self.rearrange(Order::reset);
        for upstream in &self.all {
            upstream.forget();
        }
    }

    /// Asks for what is the same whoever gives it: first whoever gave the last such thing.
    async fn content<'a, T, E>(
        &'a self,
        question: Question,
        ask: impl Fn(Asked) -> Answer<'a, T, E>,
    ) -> Finish<T, E>
    where
        T: Send + 'a,
        E: Display + Send + 'a,
    {
        let order = self.order().for_tiles(|place| self.is_quiet(place));
        let finish = self.race(&order, self.rules, question, ask).await;
        if let Some((by, _)) = &finish.won {
            self.rearrange(|order| order.tile_proven(*by));
        }
        finish
    }

    /// Asks for what belongs to one offered tree: first whoever offered it.
    async fn of_tree<'a, T, E>(
        &'a self,
        offerer: usize,
        question: Question,
        ask: impl Fn(Asked) -> Answer<'a, T, E>,
    ) -> Finish<T, E>
    where
        T: Send + 'a,
        E: Display + Send + 'a,
    {
        let order = self
            .order()
            .for_tree_of(offerer, |place| self.is_quiet(place));
        self.race(&order, self.rules, question, ask).await
    }

    async fn race<'a, T, E>(
        &'a self,
        order: &[usize],
        rules: Rules,
        question: Question,
        ask: impl Fn(Asked) -> Answer<'a, T, E>,
    ) -> Finish<T, E>
    where
        T: Send + 'a,
        E: Display + Send + 'a,
    {
        race(order, rules, |place, begun| {
            // Places in `order` are those of `all`.
            let Some(upstream) = self.all.get(place).cloned() else {
                return Box::pin(std::future::pending());
            };
            let asked = Asked {
                upstream,
                place: Some(place),
                how: How {
                    begun,
                    only_if_cached: false,
                },
            };
            let answer = ask(asked.clone());
            let slow_after = rules.patience / 3;
            Box::pin(self.watched(asked, question, slow_after, answer))
        })
        .await
    }

    /// Waits for an answer, and notes how the upstream did.
    async fn watched<T, E: Display>(
        &self,
        asked: Asked,
        question: Question,
        slow_after: Duration,
        answer: Answer<'_, T, E>,
    ) -> Result<T, race::Passed<E>> {
        let mut watch = Watch {
            asked,
            question,
            since: Instant::now(),
            slow_after,
            ended: false,
        };
        let outcome = answer.await;
        watch.ended = true;
        let noted = match &outcome {
            Ok(_) => Ok(()),
            Err(race::Passed::Fetch(FetchError::NotFound { .. }))
                if question == Question::Entry =>
            {
                Ok(())
            }
            Err(race::Passed::Fetch(error)) => Err(error.to_string()),
            Err(race::Passed::Wrong(error)) => Err(error.to_string()),
        };
        let upstream = &watch.asked.upstream;
        if let (Err(race::Passed::Fetch(error)), Err(_)) = (&outcome, &noted)
            && question != Question::Checkpoint
        {
            upstream.complain(&self.log, question, error);
        }
        if let Err(error) = &noted {
            debug!(
                log = self.log,
                upstream = upstream.name(),
                error,
                "passed over"
            );
        }
        upstream.note(question, noted);
        outcome
    }

    /// Changes the order, and says so if tiles come from somebody else now.
    fn rearrange(&self, change: impl FnOnce(&mut Order)) {
        let mut order = self.order();
        let first = |order: &Order| order.for_tiles(|_| false).first().copied();
        let before = first(&order);
        change(&mut order);
        let after = first(&order);
        let configured = order.for_checkpoint().first().copied();
        drop(order);
        let (Some(before), Some(after)) = (before, after) else {
            return;
        };
        if before == after {
            return;
        }
        let (log, upstream) = (&self.log, self.name(after));
        if Some(after) == configured {
            info!(log, upstream, "tiles are asked of the first upstream again");
        } else {
            let instead_of = self.name(before);
            let error = self.all.get(before).and_then(|it| it.last_error());
            let error = error.unwrap_or_else(|| "it is slower".to_owned());
            warn!(
                log,
                upstream, instead_of, error, "tiles are asked of another upstream"
            );
        }
    }

    fn is_quiet(&self, place: usize) -> bool {
        let upstream = self.all.get(place);
        upstream.is_some_and(|upstream| !upstream.quiet_for().is_zero())
    }

    fn order(&self) -> std::sync::MutexGuard<'_, Order> {
        // Any order is a sound one.
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes against an upstream that it did not answer before another one did, when it had its time.
struct Watch {
    asked: Asked,
    question: Question,
    since: Instant,
    slow_after: Duration,
    ended: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.ended && self.since.elapsed() >= self.slow_after {
            let error = format!("{} was slower than another upstream", self.asked.name());
            self.asked.upstream.note(self.question, Err(error));
        }
    }
}

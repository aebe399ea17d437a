//! Asks every replica for its statistics, beside the controller, and remembers what was said.
//!
//! Nothing is written here: what changes has the TileProxy reconciled, and what stays as it is costs the
//! API server nothing. Everything that is remembered may be forgotten at any time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use tokio::{net::TcpStream, sync::Notify};
use tracing::{debug, info, warn};

use super::{
    logs::{self, LogReport, Report, Reports, Trials, judge},
    names::Names,
    observe::find,
    rollout::{is_ready, same_template},
};
use crate::admin::Metrics;

/// How long a replica may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Replicas that are asked at once. One that a firewall swallows takes a place for five seconds.
const CONCURRENCY: usize = 32;

/// Longest statistics that are read, 4 MiB: a hundred logs with sixteen upstreams each, and the last
/// error of each of these.
const MAX_BODY_BYTES: usize = 4 << 20;

/// How soon a replica is asked again that had bad news, which are believed the second time: one that
/// has just started has not heard of its log yet.
const DOUBT_INTERVAL: Duration = Duration::from_secs(10);

/// Where a replica is asked.
pub type AdminUrl = Box<dyn Fn(&Names, u16) -> String + Send + Sync>;

/// How replicas are asked.
pub struct Polling {
    /// How often.
    pub interval: Duration,
    /// How often while a rollout waits for them.
    pub rollout_interval: Duration,
    /// For how long a rollout waits for the answer of a replica that is ready.
    pub patience: Duration,
    /// Where each of them is asked.
    pub admin_url: AdminUrl,
}

impl Default for Polling {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(60),
            rollout_interval: Duration::from_secs(3),
            patience: logs::PATIENCE,
            admin_url: Box::new(Names::admin_url),
        }
    }
}

/// Namespace and name of a TileProxy.
pub(super) type Key = (String, String);

/// What replicas have said.
pub(super) struct Polls {
    pub(super) polling: Polling,
    known: Mutex<BTreeMap<Key, Known>>,
    /// Told when somebody is to be asked sooner than it seemed.
    sooner: Notify,
}

/// What is known of one TileProxy.
#[derive(Default)]
struct Known {
    replicas: BTreeMap<String, Replica>,
    /// Whether a rollout waits.
    is_rolling: bool,
    /// Which generation of which Deployment runs the spec and is ready, and since when we know.
    ready_since: BTreeMap<String, (Generation, Instant)>,
}

type Generation = (Option<String>, Option<i64>);

fn generation(deployment: &Deployment) -> Generation {
    (deployment.uid(), deployment.metadata.generation)
}

#[derive(Default)]
struct Replica {
    url: String,
    report: Report,
    /// When it was last asked.
    asked: Option<Instant>,
    /// Whether that question is still under way.
    is_asked: bool,
    /// Whether it had bad news that nobody believes yet.
    is_doubted: bool,
    /// Whether it was told that it is silent.
    is_silent: bool,
}

impl Replica {
    /// When to ask it, at `now` if it never was; `None` while it is being asked.
    fn due(&self, now: Instant, polling: &Polling, is_rolling: bool) -> Option<Instant> {
        let mut interval = polling.interval;
        if self.is_doubted {
            interval = interval.min(DOUBT_INTERVAL);
        }
        if is_rolling {
            interval = interval.min(polling.rollout_interval);
        }
        match (self.is_asked, self.asked) {
            (true, _) => None,
            (false, Some(asked)) => Some(asked + interval),
            (false, None) => Some(now),
        }
    }

    /// Takes an answer to what was asked at `asked`. Says whether that is news.
    fn heard(&mut self, asked: Instant, answer: Option<Vec<LogReport>>, now: Instant) -> bool {
        let Some(logs) = answer else {
            self.report.silent_since.get_or_insert(asked);
            let is_silent = self.report.is_silent(now);
            return is_silent && !std::mem::replace(&mut self.is_silent, is_silent);
        };
        let before = self.report.logs.as_deref().unwrap_or_default();
        let has_bad_news = logs.iter().any(|log| is_worse(log, before));
        if has_bad_news && !std::mem::replace(&mut self.is_doubted, has_bad_news) {
            return false;
        }
        self.is_doubted = false;
        let is_news = self.report.logs.as_ref() != Some(&logs);
        self.report = Report {
            logs: Some(logs),
            asked: Some(asked),
            silent_since: None,
        };
        std::mem::take(&mut self.is_silent) || is_news
    }
}

/// Whether `log` is worse than what was said of it before, or than fresh if nothing was.
fn is_worse(log: &LogReport, before: &[LogReport]) -> bool {
    let before = before.iter().find(|other| other.name == log.name);
    let served = before.is_none_or(|before| before.serves);
    let state = before.map_or(Some(logs::LogState::Fresh), |before| before.state);
    served && !log.serves || log.state > state
}

/// A question to one replica.
struct Question {
    key: Key,
    name: String,
    url: String,
    asked: Instant,
}

impl Polls {
    pub(super) fn new(polling: Polling) -> Self {
        Self {
            polling,
            known: Mutex::default(),
            sooner: Notify::new(),
        }
    }

    /// From now on these `ordinals` are asked, and no others of this TileProxy.
    pub(super) fn follow(&self, names: &Names, ordinals: std::ops::Range<u16>) {
        let mut known = self.known();
        let known = known.entry(key(names)).or_default();
        let mut before = std::mem::take(&mut known.replicas);
        for ordinal in ordinals {
            let name = names.replica(ordinal);
            let replica = before.remove(&name).unwrap_or_else(|| Replica {
                url: (self.polling.admin_url)(names, ordinal),
                ..Replica::default()
            });
            if replica.asked.is_none() {
                self.sooner.notify_one();
            }
            known.replicas.insert(name, replica);
        }
    }

    /// What the replicas of this TileProxy have said.
    pub(super) fn reports(&self, names: &Names) -> Reports {
        let known = self.known();
        let replicas = known.get(&key(names)).map(|known| &known.replicas);
        let replicas = replicas.into_iter().flatten();
        replicas
            .map(|(name, replica)| (name.clone(), replica.report.clone()))
            .collect()
    }

    /// How each replica that runs `desired` and is ready stands the trial of a rollout; none if every
    /// replica runs it. While there are any, replicas are asked more often.
    pub(super) fn trials(
        &self,
        names: &Names,
        desired: &[Deployment],
        existing: &[Deployment],
    ) -> Trials {
        let (now, reports) = (Instant::now(), self.reports(names));
        let mut known = self.known();
        let known = known.entry(key(names)).or_default();
        let mut before = std::mem::take(&mut known.ready_since);
        let ready = existing.iter().filter(|deployment| is_ready(deployment));
        // Whatever they run: those that are asked for again when a spec is taken back have been tried.
        known.ready_since = ready
            .map(|deployment| {
                let (name, generation) = (deployment.name_any(), generation(deployment));
                let before = before.remove(&name);
                let same = before.filter(|(before, _)| *before == generation);
                (name, same.unwrap_or((generation, now)))
            })
            .collect();
        let (mut updated, mut is_outdated) = (Vec::new(), false);
        for desired in desired {
            match find(existing, &desired.name_any()) {
                Some(existing) if same_template(desired, existing) => updated.push(existing),
                Some(_) => is_outdated = true,
                None => {}
            }
        }
        let was_rolling = std::mem::replace(&mut known.is_rolling, is_outdated);
        if !is_outdated {
            return Trials::new();
        }
        if !was_rolling {
            self.sooner.notify_one();
        }
        let serving: BTreeSet<String> = known.ready_since.keys().cloned().collect();
        let tried = updated.iter().filter_map(|deployment| {
            let name = deployment.name_any();
            let (_, since) = known.ready_since.get(&name)?;
            let patience = self.polling.patience;
            let trial = judge(&name, (*since, now), patience, &reports, &serving);
            Some((name, trial))
        });
        tried.collect()
    }

    /// The TileProxy `name` is gone: its replicas are asked no more.
    pub(super) fn forget(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.known().remove(&key);
    }

    /// Asks for ever. Calls `changed` for each TileProxy of which a replica has news.
    pub(super) async fn run(&self, metrics: &Metrics, changed: impl Fn(&Key)) {
        let mut questions = FuturesUnordered::new();
        loop {
            let mut next = None;
            while questions.len() < CONCURRENCY {
                match self.next(Instant::now()) {
                    Ok(question) => questions.push(put(question)),
                    Err(due) => {
                        next = due;
                        break;
                    }
                }
            }
            let next = async {
                match next {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await, // until an answer or a replica comes
                }
            };
            tokio::select! {
                Some((question, answer)) = questions.next() => {
                    if self.take(metrics, &question, answer) {
                        changed(&question.key);
                    }
                }
                () = next => {}
                () = self.sooner.notified() => {}
            }
        }
    }

    /// The next question that is due; if there is none, when there will be.
    fn next(&self, now: Instant) -> Result<Question, Option<Instant>> {
        let mut known = self.known();
        let mut soonest = None;
        for (key, known) in known.iter_mut() {
            for (name, replica) in &mut known.replicas {
                match replica.due(now, &self.polling, known.is_rolling) {
                    Some(due) if due <= now => {
                        replica.is_asked = true;
                        replica.asked = Some(now);
                        return Ok(Question {
                            key: key.clone(),
                            name: name.clone(),
                            url: replica.url.clone(),
                            asked: now,
                        });
                    }
                    Some(due) if soonest.is_none_or(|soonest| due < soonest) => soonest = Some(due),
                    Some(_) | None => {}
                }
            }
        }
        Err(soonest)
    }

    /// Remembers an answer. Says whether it is news.
    fn take(
        &self,
        metrics: &Metrics,
        question: &Question,
        answer: Result<Vec<LogReport>, PollError>,
    ) -> bool {
        metrics.polled(answer.as_ref().err().map_or("answered", PollError::word));
        let mut known = self.known();
        let known = known.get_mut(&question.key);
        let Some(replica) = known.and_then(|known| known.replicas.get_mut(&question.name)) else {
            return false; // it is gone by now
        };
        replica.is_asked = false;
        let (now, name) = (Instant::now(), &question.name);
        let (namespace, _) = &question.key;
        let was_silent = replica.is_silent;
        let error = answer.as_ref().err().map(PollError::to_string);
        let is_news = replica.heard(question.asked, answer.ok(), now);
        match error {
            // Told once: it may be down, or a policy of the network in the way.
            Some(error) if is_news => {
                let url = &question.url;
                warn!(
                    namespace,
                    replica = name,
                    url,
                    error,
                    "replica does not say how its logs are"
                );
            }
            Some(error) => debug!(namespace, replica = name, error, "replica not asked"),
            None if was_silent && !replica.is_silent => info!(
                namespace,
                replica = name,
                "replica says again how its logs are"
            ),
            None => {}
        }
        is_news
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, Known>> {
        // Each change is complete when the lock is given back, or concerns one replica alone.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(names: &Names) -> Key {
    (names.namespace.clone(), names.name.clone())
}

/// Why a replica said nothing of use.
#[derive(Debug, thiserror::Error)]
enum PollError {
    /// It did not answer.
    #[error("{0:#}")]
    Unreachable(anyhow::Error),
    /// What it answered is not what was asked for.
    #[error("{0}")]
    Unreadable(String),
}

impl PollError {
    /// The fixed word for metrics.
    const fn word(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

/// Puts a question.
async fn put(question: Question) -> (Question, Result<Vec<LogReport>, PollError>) {
    let body = tokio::time::timeout(DEADLINE, read(&question.url)).await;
    let answer = match body {
        Ok(Ok(body)) => logs::parse(&body).map_err(PollError::Unreadable),
        Ok(Err(error)) => Err(PollError::Unreachable(error)),
        Err(_) => Err(PollError::Unreachable(anyhow::anyhow!(
            "no answer within {DEADLINE:?}"
        ))),
    };
    (question, answer)
}

/// Reads the statistics of the replica whose port of administration is at `url`: plain HTTP, without a
/// token, which reads do not need; no proxy is used and no redirect followed.
async fn read(url: &str) -> anyhow::Result<Bytes> {
    let url = format!("{}/_admin/cache/stats", url.trim_end_matches('/'));
    let url: Uri = url.parse()?;
    let authority = url.authority().context("the URL has no host")?;
    let port = authority.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((authority.host(), port))
        .await
        .context("cannot connect")?;
    let request = Request::get(url.path())
        .header(header::HOST, authority.as_str())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status != StatusCode::OK {
            bail!("{status}");
        }
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect();
        Ok(body.await.map_err(anyhow::Error::from_boxed)?.to_bytes())
    };
    // Nothing of the connection is left when this ends, or is given up.
    let (answer, _) = futures::future::join(exchange, connection).await;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::logs::LogState;

    fn log(state: LogState) -> Vec<LogReport> {
        vec![LogReport {
            name: "rome".to_owned(),
            origin: String::new(),
            state: Some(state),
            serves: state != LogState::Failing,
        }]
    }

    #[test]
    fn bad_news_are_believed_the_second_time() {
        use LogState::{Failing, Fresh, SplitView, Stale};
        let now = Instant::now();
        for (answers, news) in [
            // A replica that has just started, and one that is in trouble.
            (vec![Failing, Fresh], vec![false, true]),
            (vec![Failing, Failing, Failing], vec![false, true, false]),
            (vec![Fresh, Stale, Fresh], vec![true, false, false]),
            (vec![Fresh, Stale, SplitView], vec![true, false, true]),
            (vec![SplitView, SplitView, Stale], vec![false, true, true]),
        ] {
            let mut replica = Replica::default();
            let heard: Vec<bool> = answers
                .iter()
                .map(|state| replica.heard(now, Some(log(*state)), now))
                .collect();
            assert_eq!(heard, news, "{answers:?}");
        }
    }

    #[test]
    fn long_silence_is_news_once_and_so_is_its_end() {
        let begin = Instant::now();
        let mut replica = Replica::default();
        let mut at = |seconds, answer: Option<LogState>| {
            let asked = begin + Duration::from_secs(seconds);
            replica.heard(asked, answer.map(log), asked)
        };
        assert!(at(0, Some(LogState::Fresh)));
        let silent: Vec<u64> = (60..600)
            .step_by(60)
            .filter(|seconds| at(*seconds, None))
            .collect();
        assert_eq!(silent, [240]); // three minutes after the first question without an answer
        assert!(at(660, Some(LogState::Fresh)));
        assert!(!at(720, None));
    }

    #[test]
    fn a_replica_is_asked_as_often_as_somebody_waits_for_it() {
        let polling = Polling::default();
        let asked = Instant::now();
        for (is_doubted, is_rolling, seconds) in [
            (false, false, 60),
            (true, false, 10),
            (false, true, 3),
            (true, true, 3),
        ] {
            let mut replica = Replica {
                asked: Some(asked),
                is_doubted,
                ..Replica::default()
            };
            let due = asked + Duration::from_secs(seconds);
            assert_eq!(replica.due(asked, &polling, is_rolling), Some(due));
            replica.is_asked = true;
            assert_eq!(replica.due(asked, &polling, is_rolling), None);
        }
    }

    #[test]
    fn what_is_not_wanted_any_more_is_forgotten() {
        let polls = Polls::new(Polling::default());
        let names = Names {
            name: "rome".to_owned(),
            namespace: "verifiers".to_owned(),
        };
        polls.follow(&names, 0..3);
        assert_eq!(polls.reports(&names).len(), 3);
        let now = Instant::now(); // who was never asked is asked at once
        let first = polls.next(now).ok();
        let first = first.expect("one to ask");
        assert_eq!(first.url, "http://rome-replica-0.verifiers.svc:8081");
        polls.follow(&names, 1..2);
        let kept = polls.reports(&names);
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["rome-replica-1"]);
        let metrics = Metrics::new().expect("registered");
        let late = Ok(log(LogState::Fresh));
        assert!(!polls.take(&metrics, &first, late), "an answer too late");
        polls.forget("verifiers", "rome");
        assert!(polls.reports(&names).is_empty());
        assert!(polls.known().is_empty());
    }
}

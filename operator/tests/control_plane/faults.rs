//! A layer of the operator's client that records every call and breaks those it is told to.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture, stream};
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use kube::client::{Body, DynBody};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::{BoxError, Layer, Service};

use crate::calls::Call;

/// What happens to a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The API server does it, and the operator ends before it learns of that.
    Crash,
    /// The API server hears of it only after [`Faults::release`].
    Held,
    /// The API server never hears of it, and the connection breaks.
    LostRequest,
    /// The API server does it, and the connection breaks.
    LostAnswer,
    /// The API server never hears of it; this is the answer.
    Refused {
        /// The status code.
        code: u16,
        /// Seconds of `Retry-After`.
        retry_after: Option<u32>,
    },
    /// The API server never hears of it, and there is no answer at all.
    Silence,
}

/// What is to go wrong, and what has been seen. Clones share both.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    crashed: Notify,
    released: Notify,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    writes: usize, // calls that are writes, whatever became of them
    script: Option<Script>,
    stale: Option<Predicate>,
    old_answers: HashMap<Uri, (StatusCode, Bytes)>,
    lost_events: Option<EventPredicate>,
}

type Script = Box<dyn FnMut(&Call, usize) -> Option<Fault> + Send>;
type Predicate = Box<dyn Fn(&Call) -> bool + Send>;
type EventPredicate = Box<dyn FnMut(&Call, &Value) -> bool + Send>;

impl Faults {
    /// None yet.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// From now on `script` decides about every call; it is also told how many writes there were
    /// before it.
    pub(crate) fn script(
        &self,
        script: impl FnMut(&Call, usize) -> Option<Fault> + Send + 'static,
    ) {
        self.state().script = Some(Box::new(script));
    }

    /// The `nth` write, counted from 0, meets `fault`; no other call does.
    pub(crate) fn at_write(&self, nth: usize, fault: Fault) {
        self.script(move |call, writes| (call.is_write() && writes == nth).then_some(fault));
    }

    /// From now on all goes well.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.script = None;
        state.stale = None;
        state.lost_events = None;
    }

    /// From now on, reads that are `stale` get the answer they got last, however old.
    pub(crate) fn stale(&self, stale: impl Fn(&Call) -> bool + Send + 'static) {
        self.state().stale = Some(Box::new(stale));
    }

    /// From now on, watches do not deliver events that `lost` chooses.
    pub(crate) fn lose_events(&self, lost: impl FnMut(&Call, &Value) -> bool + Send + 'static) {
        self.state().lost_events = Some(Box::new(lost));
    }

    /// Waits for [`Fault::Crash`].
    pub(crate) async fn crash(&self) {
        self.0.crashed.notified().await;
    }

    /// Lets go of what is held, now or later.
    pub(crate) fn release(&self) {
        self.0.released.notify_one();
    }

    /// Every call so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The newest that is no watch, which begins anew by itself.
    pub(crate) fn last_asked(&self) -> Option<Call> {
        let state = self.state();
        state
            .calls
            .iter()
            .rfind(|call| call.verb != "watch")
            .cloned()
    }

    /// Those that changed something, or were meant to and were not refused.
    pub(crate) fn written(&self) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(Call::has_written);
        calls
    }

    /// How often a reconcile of the TileProxy `name` began.
    pub(crate) fn reconciles(&self, name: &str) -> usize {
        let calls = self.calls();
        calls.iter().filter(|c| c.begins_reconcile(name)).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let lock = self.0.state.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// Records `call`: its number, and what is to happen to it.
    fn record(&self, call: &Call) -> (usize, Option<Fault>) {
        let mut state = self.state();
        let writes = state.writes;
        let fault = state.script.as_mut().and_then(|s| s(call, writes));
        state.writes += usize::from(call.is_write());
        state.calls.push(call.clone());
        (state.calls.len() - 1, fault)
    }

    fn answered(&self, number: usize, code: StatusCode) {
        self.state().calls[number].answer = Some(code.as_u16());
    }

    /// The answer `uri` got before, if it is to be given again.
    fn old_answer(&self, call: &Call, uri: &Uri) -> Option<Answer> {
        let state = self.state();
        let stale = state.stale.as_ref()?;
        let (code, body) = state.old_answers.get(uri).filter(|_| stale(call))?;
        Some(answer(*code, None, body.clone()))
    }

    /// Passes `answer` on, and keeps a read's for [`stale`](Self::stale).
    async fn received(
        &self,
        number: usize,
        call: &Call,
        uri: Uri,
        answer: Answer,
    ) -> Result<Answer, BoxError> {
        match call.verb {
            "watch" if answer.status().is_success() => {
                let (head, body) = answer.into_parts();
                Ok(Response::from_parts(head, self.events(call.clone(), body)))
            }
            "get" | "list" if answer.status().is_success() => {
                let (head, body) = answer.into_parts();
                let body = body.collect().await?.to_bytes();
                let old = (head.status, body.clone());
                self.state().old_answers.insert(uri, old);
                Ok(Response::from_parts(head, whole(body)))
            }
            _ if answer.status() == StatusCode::FORBIDDEN => {
                let (head, body) = answer.into_parts();
                let body = body.collect().await?.to_bytes();
                // Admission forbids things, too: growth, or what a terminating namespace cannot hold.
                let said = String::from_utf8_lossy(&body).contains(" cannot ");
                self.state().calls[number].lacks_right = said;
                Ok(Response::from_parts(head, whole(body)))
            }
            _ => Ok(answer),
        }
    }

    /// The lines of a watch, but for those that are to be lost.
    fn events(&self, call: Call, body: Box<DynBody>) -> Box<DynBody> {
        let faults = self.clone();
        let chunks = body.into_data_stream();
        let kept = stream::unfold((chunks, Vec::new()), move |(mut chunks, mut rest)| {
            let (faults, call) = (faults.clone(), call.clone());
            async move {
                let chunk = match chunks.next().await? {
                    Ok(chunk) => chunk,
                    Err(error) => return Some((Err(error), (chunks, rest))),
                };
                rest.extend_from_slice(&chunk);
                let end = rest.iter().rposition(|byte| *byte == b'\n');
                let lines: Vec<u8> = rest.drain(..end.map_or(0, |end| end + 1)).collect();
                let kept = lines
                    .split_inclusive(|byte| *byte == b'\n')
                    .filter(|line| !faults.is_lost(&call, line))
                    .flatten()
                    .copied();
                let frame = Frame::data(kept.collect::<Vec<u8>>().into());
                Some((Ok(frame), (chunks, rest)))
            }
        });
        Box::new(StreamBody::new(kept.boxed()))
    }

    fn is_lost(&self, call: &Call, line: &[u8]) -> bool {
        let mut state = self.state();
        let event = serde_json::from_slice(line).unwrap_or_default();
        state
            .lost_events
            .as_mut()
            .is_some_and(|lost| lost(call, &event))
    }
}

type Answer = Response<Box<DynBody>>;

impl<S> Layer<S> for Faults {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty {
            inner,
            faults: self.clone(),
        }
    }
}

/// A client below which calls may go wrong.
pub(crate) struct Faulty<S> {
    inner: S,
    faults: Faults,
}

impl<S> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Response = Answer, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = Call::of(&request);
        let uri = request.uri().clone();
        let faults = self.faults.clone();
        let (number, fault) = faults.record(&call);
        match fault {
            Some(Fault::LostRequest) => return Box::pin(async { Err(broken()) }),
            Some(Fault::Silence) => return Box::pin(std::future::pending()),
            Some(Fault::Refused { code, retry_after }) => {
                let code = StatusCode::from_u16(code).unwrap_or_default();
                faults.answered(number, code);
                return Box::pin(async move { Ok(refusal(code, retry_after)) });
            }
            Some(Fault::Crash | Fault::Held | Fault::LostAnswer) | None => {}
        }
        if let Some(answer) = faults.old_answer(&call, &uri) {
            faults.answered(number, answer.status());
            return Box::pin(async { Ok(answer) });
        }
        // A call does nothing until it is awaited.
        let forwarded = self.inner.call(request);
        Box::pin(async move {
            if matches!(fault, Some(Fault::Held)) {
                faults.0.released.notified().await;
            }
            let answer = forwarded.await?;
            match fault {
                Some(Fault::Crash) => {
                    faults.0.crashed.notify_one();
                    std::future::pending().await
                }
                Some(Fault::LostAnswer) => Err(broken()),
                _ => {
                    faults.answered(number, answer.status());
                    faults.received(number, &call, uri, answer).await
                }
            }
        })
    }
}

fn broken() -> BoxError {
    let reset = io::Error::new(io::ErrorKind::ConnectionReset, "injected: connection reset");
    Box::new(reset)
}

fn refusal(code: StatusCode, retry_after: Option<u32>) -> Answer {
    let status = json!({
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": code.as_u16(),
        "reason": code.canonical_reason().unwrap_or_default().replace(' ', ""),
        "message": "injected: the API server has a bad day",
    });
    answer(code, retry_after, status.to_string().into())
}

fn answer(code: StatusCode, retry_after: Option<u32>, body: Bytes) -> Answer {
    let mut answer = Response::new(whole(body));
    *answer.status_mut() = code;
    if let Some(seconds) = retry_after {
        let headers = answer.headers_mut();
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}

fn whole(body: Bytes) -> Box<DynBody> {
    Box::new(Full::new(body).map_err(|never| match never {}))
}

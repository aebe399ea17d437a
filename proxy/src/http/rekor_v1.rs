//! What clients of a Rekor v1 log ask: proven entries, the trusted tree head, and what is handed on.
//!
//! Errors are in the form that Rekor's clients read, `{"code", "message"}`.

use std::{sync::Arc, time::Duration, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};

use super::{
    Site,
    respond::{CORS, RETRY_AFTER, Reply, reply, uncached, whole_seconds, with},
    tiles::{aged, is_known},
};
use crate::{
    cache::Body,
    rekor_v1::{
        EntryError, MAX_PASSED_BYTES, RekorV1, Wanted,
        api::TreeId,
        route::{NoRoute, Route, handed_back, handed_on, route, searched},
    },
    upstream::{
        Passed,
        trace::{Trace, scope},
    },
};

/// Where the API begins, below a log.
pub(super) const API: &str = "api/v1/";

/// Longest wait for the body of a request that is handed on.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Says that an answer was handed on, and that nothing of it is proven.
const PASSED_THROUGH: HeaderValue = HeaderValue::from_static("passed-through");

/// Answers a request for something below [`API`].
pub(super) async fn answer(
    site: &Site,
    log: &Arc<RekorV1>,
    request: Request<Incoming>,
    path: &str,
) -> Reply {
    let begin = Instant::now();
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default();
    let trace = Trace::of(&head.headers);
    let path = path.strip_prefix(API).unwrap_or(path);
    let answered = match route(&head.method, path, query) {
        Ok(Route::Entry(wanted)) => {
            let answered = scope(trace, entry(log, wanted, &head.headers)).await;
            let duration = &log.counts().entry_duration;
            duration.observe(begin.elapsed().as_secs_f64());
            answered
        }
        Ok(Route::Log) => {
            let answered = scope(trace, info(site, log)).await;
            let duration = &log.counts().checkpoint_duration;
            duration.observe(begin.elapsed().as_secs_f64());
            answered
        }
        Ok(Route::PublicKey(tree)) => scope(trace, public_key(log, tree)).await,
        Ok(Route::Search) => match read(body).await {
            Ok(body) => match searched(&body) {
                Some(wanted) => scope(trace, search(log, &wanted)).await,
                None => scope(trace, pass(log, &head, path, body, false)).await,
            },
            Err(refusal) => refusal,
        },
        Ok(Route::Pass { .. }) if !log.passes_through() => not_passed(),
        Ok(Route::Pass { writes }) => match read(body).await {
            Ok(body) => scope(trace, pass(log, &head, path, body, writes)).await,
            Err(refusal) => refusal,
        },
        Err(error) => match &error {
            NoRoute::Malformed(_) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
            NoRoute::Method(allow) => {
                let reply = refuse(StatusCode::METHOD_NOT_ALLOWED, &error.to_string());
                with(reply, header::ALLOW, HeaderValue::from_static(allow))
            }
            NoRoute::Unknown => refuse(StatusCode::NOT_FOUND, &error.to_string()),
        },
    };
    let (name, value) = CORS;
    with(answered, name, value)
}

/// The trusted tree head of the shard that grows, as a checkpoint: it is one.
pub(super) async fn checkpoint(site: &Site, log: &Arc<RekorV1>) -> Reply {
    match log.info().await {
        Ok(info) => {
            let note = info.active.signed_tree_head;
            let text = reply(StatusCode::OK, "text/plain; charset=utf-8", note);
            aged(text, site, log.served_age())
        }
        Err(error) => unfollowed(&error),
    }
}

/// What to say to whoever asks such a log for a tile.
pub(super) const NO_TILES: &str = "this is a Rekor v1 log, which has no tiles: ask for \
     `api/v1/log/entries/{UUID}` or `api/v1/log/entries?logIndex=`";

async fn entry(log: &Arc<RekorV1>, wanted: Wanted, headers: &HeaderMap) -> Reply {
    match log.entry(wanted).await {
        Ok(body) => found(body, headers),
        Err(error) => failed(&error),
    }
}

/// An entry, or word that the client has it already. Its proof may be another one tomorrow, so caches are
/// to ask again.
fn found(Body { bytes, etag }: Body, headers: &HeaderMap) -> Reply {
    let answer = if is_known(headers, &etag) {
        let mut reply = Response::new(Full::default());
        *reply.status_mut() = StatusCode::NOT_MODIFIED;
        reply
    } else {
        reply(StatusCode::OK, "application/json", bytes)
    };
    let no_cache = HeaderValue::from_static("no-cache");
    with(
        with(answer, header::CACHE_CONTROL, no_cache),
        header::ETAG,
        etag,
    )
}

/// Several entries, of which those that do not exist are left out, as Rekor does.
async fn search(log: &Arc<RekorV1>, wanted: &[Wanted]) -> Reply {
    let mut list = b"[".to_vec();
    for wanted in wanted {
        match log.entry(*wanted).await {
            Ok(body) => {
                if list.len() > 1 {
                    list.push(b',');
                }
                list.extend_from_slice(body.bytes.trim_ascii_end());
            }
            Err(EntryError::NotThere(_)) => {}
            Err(error) => return failed(&error),
        }
    }
    list.extend_from_slice(b"]\n");
    uncached(reply(StatusCode::OK, "application/json", list))
}

async fn info(site: &Site, log: &Arc<RekorV1>) -> Reply {
    match log.info().await {
        Ok(info) => {
            let json = reply(StatusCode::OK, "application/json", info.to_json());
            aged(json, site, log.served_age())
        }
        Err(error) => unfollowed(&error),
    }
}

/// The key that a tree head was verified with, and not what an upstream says it is.
async fn public_key(log: &Arc<RekorV1>, tree: Option<TreeId>) -> Reply {
    if let Err(error) = log.info().await {
        return unfollowed(&error);
    }
    match log.public_key(tree) {
        Some(pem) => uncached(reply(StatusCode::OK, "application/x-pem-file", pem + "\n")),
        None => refuse(
            StatusCode::NOT_FOUND,
            "no shard with this tree ID is followed",
        ),
    }
}

async fn pass(
    log: &Arc<RekorV1>,
    head: &http::request::Parts,
    path: &str,
    body: Bytes,
    writes: bool,
) -> Reply {
    if !log.passes_through() {
        return not_passed();
    }
    let query = head.uri.query().map(|query| format!("?{query}"));
    let request = Passed {
        method: match head.method {
            Method::HEAD => Method::GET,
            ref method => method.clone(),
        },
        path: format!("{API}{path}{}", query.unwrap_or_default()),
        headers: handed_on(&head.headers),
        body,
        writes,
    };
    let answered = match log.pass(&request).await {
        Ok(answered) if answered.status.is_redirection() => {
            let message = format!("the log answers {}, which is not followed", answered.status);
            return refuse(StatusCode::BAD_GATEWAY, &message);
        }
        Ok(answered) => answered,
        Err(error) => return unavailable(&format!("nobody to hand this on to: {error}")),
    };
    let mut reply = Response::new(Full::new(answered.body));
    *reply.status_mut() = answered.status;
    *reply.headers_mut() = handed_back(&answered.headers);
    with(uncached(reply), super::tiles::TRUST, PASSED_THROUGH)
}

/// The body of a request that may be handed on.
async fn read(body: Incoming) -> Result<Bytes, Reply> {
    let too_large = || {
        let message = format!("the body has more than {MAX_PASSED_BYTES} bytes");
        refuse(StatusCode::PAYLOAD_TOO_LARGE, &message)
    };
    if body.size_hint().lower() > MAX_PASSED_BYTES as u64 {
        return Err(too_large()); // it says so itself
    }
    let body = Limited::new(body, MAX_PASSED_BYTES).collect();
    match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(refuse(StatusCode::BAD_REQUEST, "the body cannot be read")),
        Err(_) => Err(refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come")),
    }
}

fn not_passed() -> Reply {
    let message = "not handed on: only proven entries, `log` and `log/publicKey` are answered, unless \
                   `passthrough: true` is configured";
    refuse(StatusCode::FORBIDDEN, message)
}

fn failed(error: &EntryError) -> Reply {
    let message = error.to_string();
    match error {
        EntryError::NotProven { .. } => refuse(StatusCode::BAD_GATEWAY, &message),
        EntryError::NotThere(_) => refuse(StatusCode::NOT_FOUND, &message),
        EntryError::TimedOut(_) => refuse(StatusCode::GATEWAY_TIMEOUT, &message),
        EntryError::Unavailable { .. } => unavailable(&message),
    }
}

fn unfollowed(error: &crate::log::FollowError) -> Reply {
    let message = format!("no trusted tree head: {error}");
    if error.is_refusal() {
        return refuse(StatusCode::BAD_GATEWAY, &message);
    }
    unavailable(&message)
}

fn unavailable(message: &str) -> Reply {
    let reply = refuse(StatusCode::SERVICE_UNAVAILABLE, message);
    with(reply, header::RETRY_AFTER, RETRY_AFTER)
}

/// Whoever asks too often.
pub(super) fn too_many(wait: Duration) -> Reply {
    let message = format!("too many requests; wait {wait:.1?}");
    let reply = refuse(StatusCode::TOO_MANY_REQUESTS, &message);
    with(reply, header::RETRY_AFTER, whole_seconds(wait))
}

fn refuse(status: StatusCode, message: &str) -> Reply {
    let body = serde_json::json!({"code": status.as_u16(), "message": message}).to_string();
    uncached(reply(status, "application/json", body + "\n"))
}

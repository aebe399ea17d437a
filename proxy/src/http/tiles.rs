//! What clients read: checkpoint, tiles and entry bundles, with the headers that let others cache
//! them, too.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use super::{
    Service, Site,
    coding::{Accepted, Coding, accepted},
    respond::{CORS, Reply, plain, reply, with},
};
use crate::{
    cache::Body,
    log::{Asker, Log, ReadError},
    tlog::path::{PathError, Resource, parse_lenient},
    upstream::{
        CHECKPOINT_AGE, ONLY_IF_CACHED,
        trace::{Trace, scope},
    },
};

/// What the checkpoint's signature is not worth, when it is not worth what it should be.
pub(super) const TRUST: HeaderName = HeaderName::from_static("tile-proxy-trust");

/// Nobody's key is known: `danger_accept_unsigned`.
const UNSIGNED: HeaderValue = HeaderValue::from_static("unsigned");

/// What the keys are known from has expired: nothing newer is believed.
const EXPIRED: HeaderValue = HeaderValue::from_static("expired");

/// Tiles never change: a week, as logs themselves say.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=604800, immutable");

/// What a response is when its age is above the limit (RFC 7234, section 5.5.1).
const STALE: HeaderValue = HeaderValue::from_static("110 tile-proxy \"Response is Stale\"");

/// Answers a `GET` or `HEAD` of a log's resource.
pub(super) async fn route(
    site: &Site,
    service: &Service,
    log: &Arc<Log>,
    headers: &HeaderMap,
    path: &str,
    asker: Asker,
) -> Reply {
    let begin = Instant::now();
    let counts = log.counts();
    let (duration, reply) = match path {
        "checkpoint" => {
            let answer = scope(Trace::of(headers), checkpoint(site, log)).await;
            (&counts.checkpoint_duration, answer)
        }
        path if path.starts_with("tile/") => match parse_lenient(path) {
            Ok(resource) => {
                let duration = match resource {
                    Resource::Bundle(_) => &counts.bundle_duration,
                    Resource::Tile(_) => &counts.tile_duration,
                };
                let answer = read(service, log, resource, headers, asker).await;
                (duration, answer)
            }
            Err(error @ PathError::OutOfReach) => {
                (&counts.tile_duration, plain::not_found(&error.to_string()))
            }
            Err(error) => (
                &counts.tile_duration,
                plain::bad_request(&error.to_string()),
            ),
        },
        _ => return plain::not_found("a log has `checkpoint`, `tile/…` and `tile/entries/…`"),
    };
    duration.observe(begin.elapsed().as_secs_f64());
    reply
}

async fn checkpoint(site: &Site, log: &Arc<Log>) -> Reply {
    let trusted = match log.newest().await {
        Ok(trusted) => trusted,
        Err(error) => return failed(&error),
    };
    let text = reply(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        trusted.note.clone(),
    );
    let mut text = aged(text, site, log.served_age());
    if log.accepts_unsigned() {
        text = with(text, TRUST, UNSIGNED);
    } else if log.trust_has_expired() {
        text = with(text, TRUST, EXPIRED);
    }
    text
}

/// What is true until the log grows, with how long ago it said so.
pub(super) fn aged(text: Reply, site: &Site, age: Option<Duration>) -> Reply {
    let no_cache = HeaderValue::from_static("no-cache");
    let text = with(text, header::CACHE_CONTROL, no_cache);
    let (name, value) = CORS;
    let mut text = with(text, name, value);
    text.headers_mut().insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("tile-proxy-checkpoint-age, tile-proxy-trust"),
    );
    if let Some(age) = age {
        text = with(text, CHECKPOINT_AGE, HeaderValue::from(age.as_secs()));
    }
    // An age that nobody knows is no reason to believe it is fresh.
    if age.is_none_or(|age| age > site.rules.load().checkpoint_ttl) {
        text = with(text, header::WARNING, STALE);
    }
    text
}

async fn read(
    service: &Service,
    log: &Arc<Log>,
    resource: Resource,
    headers: &HeaderMap,
    asker: Asker,
) -> Reply {
    let only_if_cached = headers.get(header::CACHE_CONTROL) == Some(&ONLY_IF_CACHED);
    if asker == Asker::Peer && only_if_cached {
        return match log.cached(resource) {
            Some(body) => immutable(body, None, headers),
            None => plain::gateway_timeout("not cached"), // RFC 9111, section 5.2.1.7
        };
    }
    let read = scope(Trace::of(headers), log.read(resource, asker));
    match (read.await, resource) {
        (Ok(body), Resource::Tile(_)) => immutable(body, None, headers),
        (Ok(body), Resource::Bundle(_)) => bundle(service, body, headers).await,
        (Err(error), _) => failed(&error),
    }
}

/// A bundle in the form that the client likes best.
async fn bundle(service: &Service, body: Body, headers: &HeaderMap) -> Reply {
    let Accepted { coding, only_coded } = accepted(headers);
    let coded = match coding {
        // It has this form already: there is nothing to compress.
        Some(coding) if is_known(headers, &coding.tag(&body.etag)) => {
            let (bytes, etag) = (Bytes::new(), coding.tag(&body.etag));
            Some((Body { bytes, etag }, coding))
        }
        Some(coding) => {
            let coded = match service.coded.get(&body, coding).await {
                None if only_coded => service.coded.get_anyway(&body, coding).await,
                coded => coded,
            };
            coded.map(|body| (body, coding))
        }
        None => None,
    };
    let reply = match coded {
        Some((body, coding)) => immutable(body, Some(coding), headers),
        None => immutable(body, None, headers),
    };
    with(
        reply,
        header::VARY,
        HeaderValue::from_static("Accept-Encoding"),
    )
}

/// A tile or bundle, or word that the client has it already.
fn immutable(body: Body, coding: Option<Coding>, headers: &HeaderMap) -> Reply {
    let Body { bytes, etag } = body;
    let answer = if is_known(headers, &etag) {
        let mut reply = Response::new(Full::default());
        *reply.status_mut() = StatusCode::NOT_MODIFIED;
        reply
    } else {
        let answer = reply(StatusCode::OK, "application/octet-stream", bytes);
        match coding {
            Some(coding) => {
                let name = HeaderValue::from_static(coding.name());
                with(answer, header::CONTENT_ENCODING, name)
            }
            None => answer,
        }
    };
    let (name, value) = CORS;
    let answer = with(answer, name, value);
    with(
        with(answer, header::CACHE_CONTROL, IMMUTABLE),
        header::ETAG,
        etag,
    )
}

/// Whether the client has what this tag names.
pub(super) fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH);
    lists.iter().any(|tags| names(tags, etag))
}

/// Whether a list of entity tags names this one (RFC 9110, section 13.1.2: weakly compared).
fn names(tags: &HeaderValue, etag: &HeaderValue) -> bool {
    let (Ok(tags), Ok(etag)) = (tags.to_str(), etag.to_str()) else {
        return false;
    };
    tags.split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

fn failed(error: &ReadError) -> Reply {
    let message = error.to_string();
    match error {
        ReadError::NotProven { .. } => plain::bad_gateway(&message),
        ReadError::OutsideTree { .. } => plain::not_found(&message),
        ReadError::TimedOut(_) => plain::gateway_timeout(&message),
        ReadError::Unavailable(_) => plain::unavailable(&message),
        ReadError::Untrusted(error) if error.is_refusal() => plain::bad_gateway(&message),
        ReadError::Untrusted(_) => plain::unavailable(&message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_tag_is_found_in_any_list() {
        let etag = HeaderValue::from_static("\"a1\"");
        for (tags, known) in [
            ("\"a1\"", true),
            ("W/\"a1\"", true), // a cache on the way may have weakened it
            ("\"b2\", \"a1\"", true),
            ("*", true),
            ("\"b2\"", false),
            ("a1", false),
            ("", false),
        ] {
            assert_eq!(
                names(&HeaderValue::from_static(tags), &etag),
                known,
                "{tags}"
            );
        }
    }
}

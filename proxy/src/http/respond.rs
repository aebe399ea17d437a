//! Answers, and the headers that each kind of answer always has.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

/// An answer.
pub(super) type Reply = Response<Full<Bytes>>;

/// Seconds after which a client may ask again for what is not to be had now.
pub(super) const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// Reads are for every page of every site.
pub(super) const CORS: (HeaderName, HeaderValue) = (
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    HeaderValue::from_static("*"),
);

/// An answer with a body and its type.
pub(super) fn reply(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// Adds a header to an answer.
pub(super) fn with(mut reply: Reply, name: HeaderName, value: HeaderValue) -> Reply {
    reply.headers_mut().insert(name, value);
    reply
}

/// For answers that are only true now.
pub(super) fn uncached(reply: Reply) -> Reply {
    with(
        reply,
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-store"),
    )
}

/// A wait as `Retry-After` says it: never too short.
pub(super) fn whole_seconds(wait: Duration) -> HeaderValue {
    HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}

/// Answers to clients that are not content: one plain line, never cached.
pub(super) mod plain {
    use super::*;

    fn error(status: StatusCode, message: &str) -> Reply {
        let line = format!("{message}\n");
        let reply = uncached(reply(status, "text/plain; charset=utf-8", line));
        let (name, value) = CORS;
        with(reply, name, value)
    }

    pub(in crate::http) fn bad_request(message: &str) -> Reply {
        error(StatusCode::BAD_REQUEST, message)
    }

    pub(in crate::http) fn not_found(message: &str) -> Reply {
        error(StatusCode::NOT_FOUND, message)
    }

    pub(in crate::http) fn method_not_allowed(allow: &'static str) -> Reply {
        let reply = error(StatusCode::METHOD_NOT_ALLOWED, "this can only be read");
        with(reply, header::ALLOW, HeaderValue::from_static(allow))
    }

    pub(in crate::http) fn bad_gateway(message: &str) -> Reply {
        error(StatusCode::BAD_GATEWAY, message)
    }

    pub(in crate::http) fn unavailable(message: &str) -> Reply {
        with(
            error(StatusCode::SERVICE_UNAVAILABLE, message),
            header::RETRY_AFTER,
            RETRY_AFTER,
        )
    }

    pub(in crate::http) fn too_many(wait: Duration) -> Reply {
        let message = format!("too many requests; wait {wait:.1?}");
        let reply = error(StatusCode::TOO_MANY_REQUESTS, &message);
        with(reply, header::RETRY_AFTER, whole_seconds(wait))
    }

    pub(in crate::http) fn gateway_timeout(message: &str) -> Reply {
        error(StatusCode::GATEWAY_TIMEOUT, message)
    }

    /// A request that is not answered, and the end of its connection.
    pub(in crate::http) fn refused(problem: &str) -> Reply {
        let reply = error(StatusCode::BAD_REQUEST, problem);
        with(reply, header::CONNECTION, HeaderValue::from_static("close"))
    }

    /// What a browser asks before it reads from another site. Whatever headers it wants to send
    /// are fine: none of them changes an answer to somebody else's harm.
    pub(in crate::http) fn preflight(headers: &HeaderMap) -> Reply {
        let mut reply = uncached(Response::new(Full::default()));
        *reply.status_mut() = StatusCode::NO_CONTENT;
        let (name, value) = CORS;
        let reply = with(reply, name, value);
        let methods = HeaderValue::from_static("GET, HEAD, OPTIONS");
        let reply = with(reply, header::ACCESS_CONTROL_ALLOW_METHODS, methods.clone());
        let reply = with(reply, header::ALLOW, methods);
        let day = HeaderValue::from_static("86400");
        let reply = with(reply, header::ACCESS_CONTROL_MAX_AGE, day);
        match headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            Some(wanted) => with(reply, header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone()),
            None => reply,
        }
    }
}

/// Answers under `/_admin`: JSON, never cached, for no other site.
pub(super) mod json {
    use super::*;
    use serde::Serialize;

    pub(in crate::http) fn ok(value: &impl Serialize) -> Reply {
        of(StatusCode::OK, value)
    }

    pub(in crate::http) fn of(status: StatusCode, value: &impl Serialize) -> Reply {
        match serde_json::to_vec_pretty(value) {
            Ok(mut body) => {
                body.push(b'\n');
                uncached(reply(status, "application/json", body))
            }
            Err(error) => self::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                &error.to_string(),
            ),
        }
    }

    /// `reason` is a fixed word; `message` says what happened and what to do.
    pub(in crate::http) fn error(status: StatusCode, reason: &str, message: &str) -> Reply {
        let body = serde_json::json!({"error": reason, "message": message}).to_string();
        let reply = uncached(reply(status, "application/json", format!("{body}\n")));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return with(reply, header::RETRY_AFTER, RETRY_AFTER);
        }
        reply
    }
}

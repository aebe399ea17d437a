//! Who may change something: whoever has the token; without one, a caller that is on this machine
//! and is neither a browser nor a proxy that speaks for somebody else.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::{
    bearer,
    http::{
        AdminPolicy,
        respond::{Reply, json, with},
    },
};

/// Why this call may not change anything; `None` if it may.
pub(super) fn refusal(
    policy: &AdminPolicy,
    peer: SocketAddr,
    headers: &HeaderMap,
) -> Option<Reply> {
    let forbidden = |message: &str| Some(json::error(StatusCode::FORBIDDEN, "forbidden", message));
    let Some(token) = &policy.token else {
        if !policy.loopback {
            return forbidden("no `admin.token` is configured and `admin.loopback` is off");
        }
        if !is_local(peer, headers) {
            return forbidden(
                "without `admin.token`, only a caller on this machine may do this, \
                 under a loopback host name and through no proxy or browser",
            );
        }
        return None;
    };
    let token = match token.read() {
        Ok(token) if !token.is_empty() => token,
        Ok(_) => return forbidden("the configured `admin.token` is empty"),
        Err(error) => {
            tracing::warn!(error, "admin token not readable");
            return forbidden("the configured `admin.token` is not readable");
        }
    };
    match bearer::given(headers) {
        Some(given) if bearer::is(given, &token) => None,
        Some(_) => forbidden("not the configured `admin.token`"),
        None => {
            let message = "send `Authorization: Bearer <admin.token>`";
            let reply = json::error(StatusCode::UNAUTHORIZED, "unauthorized", message);
            Some(with(
                reply,
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer"),
            ))
        }
    }
}

/// A caller on this machine that speaks for itself. A local reverse proxy, a mesh sidecar and a
/// browser all come from loopback too; their headers give them away.
fn is_local(peer: SocketAddr, headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let host = host.parse::<http::uri::Authority>().map_or_else(
        |_| String::new(),
        |authority| authority.host().trim_matches(['[', ']']).to_owned(),
    );
    let local_name = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    let speaks_for_another = headers.keys().any(|name| {
        let name = name.as_str();
        name == "origin"
            || name == "forwarded"
            || name == "via"
            || name.starts_with("sec-fetch-")
            || name.starts_with("x-forwarded-")
    });
    peer.ip().to_canonical().is_loopback() && local_name && !speaks_for_another
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    name.parse().expect("a name"),
                    value.parse().expect("a value"),
                )
            })
            .collect()
    }

    #[test]
    fn only_a_local_caller_that_speaks_for_itself_is_local() {
        let loopback = "127.0.0.1:5000";
        for (peer, pairs, want) in [
            (loopback, vec![("host", "localhost:8080")], true),
            (loopback, vec![("host", "127.0.0.1:8080")], true),
            ("[::1]:5000", vec![("host", "[::1]:8080")], true),
            ("[::ffff:127.0.0.1]:5000", vec![("host", "localhost")], true), // IPv4 on a v6 socket
            ("192.0.2.7:5000", vec![("host", "localhost:8080")], false),
            (loopback, vec![("host", "tiles.example")], false), // DNS rebinding
            (loopback, vec![("host", "localhost.example")], false),
            (loopback, vec![], false),
            (
                loopback,
                vec![("host", "localhost"), ("origin", "null")],
                false,
            ),
            (
                loopback,
                vec![("host", "localhost"), ("sec-fetch-site", "none")],
                false,
            ),
            (
                loopback,
                vec![("host", "localhost"), ("forwarded", "for=192.0.2.7")],
                false,
            ),
            (
                loopback,
                vec![("host", "localhost"), ("x-forwarded-for", "192.0.2.7")],
                false,
            ),
            (
                loopback,
                vec![("host", "localhost"), ("via", "1.1 mesh")],
                false,
            ),
        ] {
            let peer: SocketAddr = peer.parse().expect("an address");
            assert_eq!(is_local(peer, &headers(&pairs)), want, "{peer} {pairs:?}");
        }
    }
}

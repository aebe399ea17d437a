//! The token of `Authorization: Bearer …` (RFC 6750, section 2.1).

use http::{HeaderMap, header};

use crate::tlog::Hash;

/// What a request shows.
pub(crate) fn given(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?;
    value.to_str().ok()?.strip_prefix("Bearer ")
}

/// Whether that is the token. Compared by digest: how long it takes says nothing about the token.
pub(crate) fn is(given: &str, token: &str) -> bool {
    Hash::of(given.as_bytes()) == Hash::of(token.as_bytes())
}

//! The trace of the client that causes a fetch, handed on to the log (W3C Trace Context).
//!
//! The proxy makes no spans of its own, so what it passes on is what it was given, whole or not at
//! all: an identifier that is not well-formed could carry anything into somebody else's systems.

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Most members of a `tracestate` (W3C Trace Context, section 3.3.1.1).
const MAX_MEMBERS: usize = 32;

/// Longest `tracestate` that is handed on; the specification asks for at least this much.
const MAX_STATE_BYTES: usize = 512;

tokio::task_local! {
    /// Of the request that this task serves.
    static CURRENT: Trace;
}

/// A well-formed trace context.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trace {
    parent: HeaderValue,
    state: Option<HeaderValue>,
}

impl Trace {
    /// The trace of a request; `None` if it has none, or one that is not well-formed. A state that
    /// is not is left out.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let parent = parents.next().filter(|value| is_parent(value.as_bytes()))?;
        if parents.next().is_some() {
            return None;
        }
        // Several headers are one list; joined, because order counts and a client may not.
        let states: Vec<&[u8]> = headers
            .get_all(TRACESTATE)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let state = Some(states.join(&b","[..]))
            .filter(|state| is_state(state))
            .and_then(|state| HeaderValue::from_bytes(&state).ok());
        Some(Self {
            parent: parent.clone(),
            state,
        })
    }

    /// What the running task is for; `None` outside any [`scope`].
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Adds it to a request's headers.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, self.parent.clone());
        if let Some(state) = &self.state {
            headers.insert(TRACESTATE, state.clone());
        }
    }
}

/// Runs `work` as part of `trace`. A task that it spawns is not, unless that is scoped, too.
pub async fn scope<F: Future>(trace: Option<Trace>, work: F) -> F::Output {
    match trace {
        Some(trace) => CURRENT.scope(trace, work).await,
        None => work.await,
    }
}

/// Whether this is `version-trace_id-parent_id-flags` of a version that is known, or a later one
/// that begins like it (section 3.2).
fn is_parent(value: &[u8]) -> bool {
    let is_hex = |part: &[u8], len: usize| {
        part.len() == len && part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let some_id = |part: &[u8], len| is_hex(part, len) && part.iter().any(|b| *b != b'0');
    let mut parts = value.splitn(5, |b| *b == b'-');
    let mut part = || parts.next().unwrap_or_default();
    let (version, trace_id, parent_id, flags) = (part(), part(), part(), part());
    let more = parts.next();
    is_hex(version, 2)
        && version != b"ff"
        && some_id(trace_id, 32)
        && some_id(parent_id, 16)
        && is_hex(flags, 2)
        // Later versions may say more; how much of it to pass on is then not for us to bound.
        && more.is_none_or(|more| version != b"00" && more.len() <= 64)
}

/// Whether this is a list of `key=value` members (section 3.3.1).
fn is_state(value: &[u8]) -> bool {
    let trim = |member: &[u8]| member.trim_ascii().to_vec();
    let members: Vec<Vec<u8>> = value
        .split(|b| *b == b',')
        .map(trim)
        .filter(|member| !member.is_empty())
        .collect();
    value.len() <= MAX_STATE_BYTES
        && (1..=MAX_MEMBERS).contains(&members.len())
        && members.iter().all(|member| is_member(member))
}

fn is_member(member: &[u8]) -> bool {
    let Some(equals) = member.iter().position(|b| *b == b'=') else {
        return false;
    };
    let (key, value) = (&member[..equals], &member[equals + 1..]);
    let in_key = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let in_value = |b: &u8| matches!(b, b' '..=b'~') && !matches!(b, b',' | b'=');
    (1..=256).contains(&key.len())
        && key.first().is_some_and(u8::is_ascii_alphanumeric)
        && key.iter().all(in_key)
        && (1..=256).contains(&value.len())
        && value.iter().all(in_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn trace(headers: &[(&'static str, &str)]) -> Option<(String, Option<String>)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a header value"));
        }
        let text = |value: &HeaderValue| value.to_str().expect("ASCII").to_owned();
        Trace::of(&map).map(|trace| (text(&trace.parent), trace.state.as_ref().map(text)))
    }

    #[test]
    fn only_a_well_formed_parent_is_handed_on() {
        for (parent, good) in [
            (PARENT, true), // the example of the specification
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
                true,
            ),
            (
                "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later",
                true,
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
                false,
            ),
            (
                "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                false,
            ),
            (
                "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                false,
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                false,
            ),
            (
                "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                false,
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
                false,
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
                false,
            ),
            ("", false),
            ("x", false),
        ] {
            assert_eq!(
                trace(&[("traceparent", parent)]).is_some(),
                good,
                "{parent}"
            );
        }
        let twice = [("traceparent", PARENT), ("traceparent", PARENT)];
        assert_eq!(trace(&twice), None);
        assert_eq!(
            trace(&[("tracestate", "a=1")]),
            None,
            "nothing without a parent"
        );
    }

    #[test]
    fn a_state_that_is_not_well_formed_is_left_out() {
        let many = |n: usize| vec!["a=1"; n].join(",");
        for (state, want) in [
            ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", true),
            ("tenant@system=1", true),
            ("a= 1", true),
            ("a", false),
            ("=1", false),
            ("A=1", false),
            ("a=1=2", false),
            ("a=\u{1}", false),
            ("", false),
            (&many(32), true),
            (&many(33), false),
            (&format!("a={}", "1".repeat(256)), true),
            (&format!("a={}", "1".repeat(257)), false),
        ] {
            let mut map = HeaderMap::new();
            map.insert(TRACEPARENT, PARENT.parse().expect("a value"));
            if let Ok(value) = HeaderValue::from_bytes(state.as_bytes()) {
                map.insert(TRACESTATE, value);
            }
            let trace = Trace::of(&map).expect("a parent");
            assert_eq!(trace.state.is_some(), want, "{state}");
        }
        let split = [
            ("traceparent", PARENT),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ];
        let joined = trace(&split).and_then(|(_, state)| state);
        assert_eq!(joined.as_deref(), Some("a=1,b=2"));
    }

    #[tokio::test]
    async fn a_trace_belongs_to_one_piece_of_work() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, PARENT.parse().expect("a value"));
        let trace = Trace::of(&headers);
        assert_eq!(
            scope(trace.clone(), async { Trace::current() }).await,
            trace
        );
        assert_eq!(scope(None, async { Trace::current() }).await, None);
        assert_eq!(Trace::current(), None);
    }
}

//! What a request below `/api/v1/` is: answered here, handed on, or neither. No I/O.
//!
//! What is handed on is a list of exact paths. Whatever else a server has, or will have some day, stays
//! between the server and those who reach it directly.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    Wanted,
    api::{TreeId, Uuid},
};

/// Most entries of a search that is answered here, as many as Rekor takes.
pub const MAX_SEARCHED: usize = 10;

/// Largest index that an entry can have: see [`api`](super::api).
const MAX_INDEX: u64 = (1 << 53) - 1;

/// What is done about a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Route {
    /// A proven entry.
    Entry(Wanted),
    /// What is trusted of the log.
    Log,
    /// The key that signs for a shard, or for the one that grows.
    PublicKey(Option<TreeId>),
    /// A search: by UUID and index it is answered here, for anything else handed on.
    Search,
    /// Handed on, if that is allowed.
    Pass {
        /// Whether it writes.
        writes: bool,
    },
}

/// Why nothing is done about it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoRoute {
    /// Not a question that can be answered. Answer: 400.
    #[error("{0}")]
    Malformed(&'static str),
    /// The path is answered, and in another way. Answer: 405.
    #[error("this takes {0}")]
    Method(&'static str),
    /// Neither here nor handed on. Answer: 404.
    #[error(
        "not answered here and not handed on: a Rekor v1 log has `log`, `log/entries/{{UUID}}`, \
         `log/entries?logIndex=`, `log/entries/retrieve`, `log/proof`, `log/publicKey` and \
         `index/retrieve`"
    )]
    Unknown,
}

/// What a request is, by its method, its path below `api/v1/`, and its query.
///
/// # Errors
/// See [`NoRoute`].
pub fn route(method: &Method, path: &str, query: &str) -> Result<Route, NoRoute> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let posts = *method == Method::POST;
    let only = |allowed: bool, route: Route, allow: &'static str| {
        if allowed {
            Ok(route)
        } else {
            Err(NoRoute::Method(allow))
        }
    };
    const READS: &str = "GET, HEAD, OPTIONS";
    match path {
        "log" => only(reads, Route::Log, READS),
        "log/publicKey" if reads => {
            let tree = match parameter(query, "treeID") {
                None | Some("") => None,
                Some(tree) => {
                    let wrong = NoRoute::Malformed("`treeID` is not a positive decimal");
                    Some(TreeId::parse(tree).ok_or(wrong)?)
                }
            };
            Ok(Route::PublicKey(tree))
        }
        "log/publicKey" => Err(NoRoute::Method(READS)),
        "log/proof" => only(reads, Route::Pass { writes: false }, READS),
        "log/entries/retrieve" => only(posts, Route::Search, "POST, OPTIONS"),
        "index/retrieve" => only(posts, Route::Pass { writes: false }, "POST, OPTIONS"),
        "log/entries" if posts => Ok(Route::Pass { writes: true }),
        "log/entries" if reads => {
            let wrong = NoRoute::Malformed("`logIndex` is not a decimal up to 2^53 - 1");
            let index = parameter(query, "logIndex").and_then(|index| index.parse().ok());
            let index = index.filter(|index| *index <= MAX_INDEX).ok_or(wrong)?;
            Ok(Route::Entry(Wanted::Index(index)))
        }
        "log/entries" => Err(NoRoute::Method("GET, HEAD, POST, OPTIONS")),
        path => {
            let uuid = path.strip_prefix("log/entries/").ok_or(NoRoute::Unknown)?;
            let wrong = NoRoute::Malformed("a UUID is 64 hex digits, or 80 with the tree ID");
            let uuid = Uuid::parse(uuid).ok_or(wrong)?;
            only(reads, Route::Entry(Wanted::Uuid(uuid)), READS)
        }
    }
}

/// What a search asks for, if it asks for nothing but entries by UUID and by index; `None` if it is to be
/// handed on, whatever it is.
pub fn searched(body: &[u8]) -> Option<Vec<Wanted>> {
    // Clients write `null` for what they do not ask for.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Search {
        entries: Option<Vec<IgnoredAny>>,
        #[serde(rename = "entryUUIDs")]
        uuids: Option<Vec<String>>,
        #[serde(rename = "logIndexes")]
        indexes: Option<Vec<u64>>,
    }
    let search: Search = serde_json::from_slice(body).ok()?;
    let (uuids, indexes) = (
        search.uuids.unwrap_or_default(),
        search.indexes.unwrap_or_default(),
    );
    let by_content = search.entries.is_some_and(|entries| !entries.is_empty());
    let count = uuids.len() + indexes.len();
    if by_content || count == 0 || count > MAX_SEARCHED {
        return None;
    }
    let mut wanted = Vec::with_capacity(count);
    for uuid in &uuids {
        wanted.push(Wanted::Uuid(Uuid::parse(uuid)?));
    }
    for index in indexes {
        wanted.push(Wanted::Index(
            Some(index).filter(|index| *index <= MAX_INDEX)?,
        ));
    }
    Some(wanted)
}

/// Headers of a request that are handed on: what its body is, and in which form the answer is wanted. No
/// credential is, nor what is between a client and this proxy alone.
const HANDED_ON: [HeaderName; 2] = [header::ACCEPT, header::CONTENT_TYPE];

/// Headers of an answer that are handed back. `Location` only within the API.
const HANDED_BACK: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    header::ETAG,
    header::LOCATION,
    header::RETRY_AFTER,
];

/// What of a request's headers is handed on.
pub fn handed_on(headers: &HeaderMap) -> HeaderMap {
    chosen(headers, &HANDED_ON)
}

/// What of an answer's headers is handed back.
pub fn handed_back(headers: &HeaderMap) -> HeaderMap {
    let mut headers = chosen(headers, &HANDED_BACK);
    let leads_elsewhere = |to: &HeaderValue| !to.as_bytes().starts_with(b"/api/v1/log/entries/");
    if headers.get(header::LOCATION).is_some_and(leads_elsewhere) {
        headers.remove(header::LOCATION);
    }
    headers
}

fn chosen(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let chosen = names
        .iter()
        .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    chosen.collect()
}

/// A parameter of a query, as it stands there: none of ours needs an escape.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(key, value)| (key == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_answered_or_handed_on() {
        let leaf = "ab".repeat(32);
        let uuid = Wanted::Uuid(Uuid::parse(&leaf).expect("a UUID"));
        let unknown = || Err(NoRoute::Unknown);
        let (reads, writes) = (Route::Pass { writes: false }, Route::Pass { writes: true });
        for (request, want) in [
            ("GET log", Ok(Route::Log)),
            ("HEAD log", Ok(Route::Log)),
            ("GET log?stable=true", Ok(Route::Log)),
            (&format!("GET log/entries/{leaf}"), Ok(Route::Entry(uuid))),
            (
                "GET log/entries?logIndex=7",
                Ok(Route::Entry(Wanted::Index(7))),
            ),
            (
                "GET log/entries?x=1&logIndex=9007199254740991",
                Ok(Route::Entry(Wanted::Index(MAX_INDEX))),
            ),
            ("GET log/publicKey", Ok(Route::PublicKey(None))),
            ("GET log/publicKey?treeID=", Ok(Route::PublicKey(None))),
            (
                "GET log/publicKey?treeID=7",
                Ok(Route::PublicKey(Some(TreeId(7)))),
            ),
            ("POST log/entries/retrieve", Ok(Route::Search)),
            ("POST log/entries", Ok(writes)),
            ("GET log/proof?firstSize=1&lastSize=2", Ok(reads.clone())),
            ("POST index/retrieve", Ok(reads)),
            ("GET log/entries", Err(NoRoute::Malformed("`logIndex`"))),
            (
                "GET log/entries?logIndex=-1",
                Err(NoRoute::Malformed("`logIndex`")),
            ),
            (
                "GET log/entries?logIndex=9007199254740992",
                Err(NoRoute::Malformed("`logIndex`")),
            ),
            ("GET log/entries/1", Err(NoRoute::Malformed("a UUID"))),
            (
                "GET log/entries/../proof",
                Err(NoRoute::Malformed("a UUID")),
            ),
            ("GET log/entries/retrieve", Err(NoRoute::Method("POST"))),
            (
                "GET log/publicKey?treeID=x",
                Err(NoRoute::Malformed("`treeID`")),
            ),
            ("DELETE log/entries", Err(NoRoute::Method("GET"))),
            ("PUT log/publicKey", Err(NoRoute::Method("GET"))),
            ("POST log", Err(NoRoute::Method("GET"))),
            (
                &format!("POST log/entries/{leaf}"),
                Err(NoRoute::Method("GET")),
            ),
            ("GET log/", unknown()),
            ("GET logs", unknown()),
            ("GET log/proof/x", unknown()),
            ("GET log/timestamp", unknown()),
            ("GET version", unknown()),
            ("GET ../admin", unknown()),
            ("GET ", unknown()),
        ] {
            let (method, path) = request.split_once(' ').expect("both");
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let method = method.parse().expect("a method");
            match (route(&method, path, query), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{request}"),
                (Err(got), Err(want)) => {
                    let (got, want) = (got.to_string(), want.to_string());
                    assert!(got.starts_with(&want), "{request}: {got}, and not {want}");
                }
                (got, want) => panic!("{request}: {got:?}, and not {want:?}"),
            }
        }
    }

    #[test]
    fn a_search_by_uuid_and_index_needs_nobody_else() {
        let leaf = "ab".repeat(32);
        let uuid = Wanted::Uuid(Uuid::parse(&leaf).expect("a UUID"));
        let indexes = |count| {
            let all: Vec<u64> = (0..count).collect();
            serde_json::json!({"logIndexes": all}).to_string()
        };
        for (body, want) in [
            (format!(r#"{{"entryUUIDs":["{leaf}"]}}"#), Some(vec![uuid])),
            (
                format!(r#"{{"logIndexes":[7],"entryUUIDs":["{leaf}"]}}"#),
                Some(vec![uuid, Wanted::Index(7)]),
            ),
            (indexes(10), Some((0..10).map(Wanted::Index).collect())),
            (indexes(11), None), // the log says what it thinks of that
            (r#"{"entries":[{"kind":"hashedrekord"}]}"#.to_owned(), None),
            (
                format!(r#"{{"entryUUIDs":["{leaf}"],"entries":[{{}}]}}"#),
                None,
            ),
            (
                format!(r#"{{"entries":null,"entryUUIDs":["{leaf}"],"logIndexes":null}}"#),
                Some(vec![uuid]),
            ),
            (r#"{"entryUUIDs":["7"]}"#.to_owned(), None),
            (r#"{"logIndexes":[-7]}"#.to_owned(), None),
            ("{}".to_owned(), None),
            ("<html>".to_owned(), None),
        ] {
            assert_eq!(searched(body.as_bytes()), want, "{body}");
        }
    }

    #[test]
    fn no_credential_and_nothing_between_two_neighbours_is_handed_on() {
        let headers = |all: &[(&'static str, &'static str)]| -> HeaderMap {
            let pairs = all.iter().map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            });
            pairs.collect()
        };
        let request = headers(&[
            ("accept", "application/json"),
            ("authorization", "Bearer secret"),
            ("connection", "keep-alive, x-mine"),
            ("content-length", "2"),
            ("content-type", "application/json"),
            ("cookie", "secret"),
            ("expect", "100-continue"),
            ("forwarded", "for=1.2.3.4"),
            ("host", "proxy"),
            ("proxy-authorization", "secret"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-mine", "1"),
        ]);
        let mut names: Vec<String> = handed_on(&request)
            .keys()
            .map(ToString::to_string)
            .collect();
        names.sort();
        assert_eq!(names, ["accept", "content-type"]);
        let answer = |location| {
            headers(&[
                ("cache-control", "public, max-age=600"),
                ("content-encoding", "gzip"),
                ("content-type", "application/json"),
                ("etag", "\"7\""),
                ("location", location),
                ("retry-after", "3"),
                ("server", "rekor"),
                ("set-cookie", "secret"),
                ("access-control-allow-origin", "https://elsewhere.example"),
            ])
        };
        for (location, kept) in [
            ("/api/v1/log/entries/ab", true),
            ("https://elsewhere.example/", false),
            ("//elsewhere.example/api/v1/log/entries/ab", false),
            ("/_admin/", false),
        ] {
            let back = handed_back(&answer(location));
            assert_eq!(back.contains_key("location"), kept, "{location}");
            let mut names: Vec<&str> = back.keys().map(HeaderName::as_str).collect();
            names.retain(|name| *name != "location");
            names.sort_unstable();
            assert_eq!(names, ["content-type", "etag", "retry-after"]);
        }
    }
}

//! Which logs a call is about.

use std::{borrow::Cow, sync::Arc};

use http::StatusCode;
use url::form_urlencoded;

use crate::{
    http::{
        Service,
        respond::{Reply, json},
    },
    log::Log,
    logs::{Followed, NoSuchLog},
};

/// Why a call is about no log.
#[derive(Debug)]
pub(super) enum Unclear {
    /// No log has the name that was given, or none was given and there is no default.
    NoSuchLog(NoSuchLog),
    /// The query holds something else.
    Query,
}

impl From<NoSuchLog> for Unclear {
    fn from(error: NoSuchLog) -> Self {
        Self::NoSuchLog(error)
    }
}

impl Unclear {
    /// The answer to the call.
    pub(super) fn reply(&self) -> Reply {
        let (status, error, message) = match self {
            Self::NoSuchLog(NoSuchLog { names }) => {
                let message = format!("give the name of a log; there is {}", names.join(", "));
                (StatusCode::NOT_FOUND, "no_such_log", Cow::Owned(message))
            }
            Self::Query => {
                let message = Cow::Borrowed("the only parameter is `log=NAME`, once");
                (StatusCode::BAD_REQUEST, "malformed", message)
            }
        };
        json::error(status, error, &message)
    }
}

/// The name of a log in a query that may hold nothing else.
pub(super) fn log_of(query: &str) -> Result<Option<String>, Unclear> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    match (pairs.next(), pairs.next()) {
        (None, _) => Ok(None),
        (Some((key, name)), None) if key == "log" => Ok(Some(name.into_owned())),
        _ => Err(Unclear::Query),
    }
}

/// The log with this name, or all of them.
pub(super) fn logs(service: &Service, name: Option<String>) -> Result<Vec<Followed>, Unclear> {
    match name {
        Some(name) => {
            let found = service.logs.find_followed(&name);
            Ok(vec![found.ok_or_else(|| service.logs.no_such_log())?])
        }
        None => Ok(service.logs.all().to_vec()),
    }
}

/// The log with this name, or with this hash of its origin.
pub(super) fn named(service: &Service, name: &str) -> Result<Arc<Log>, Unclear> {
    let found = service.logs.find(name);
    found.ok_or_else(|| service.logs.no_such_log().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_one_log_or_none() {
        for (query, want) in [
            ("", Some(None)),
            ("log=rome", Some(Some("rome"))),
            ("log=a%2Fb", Some(Some("a/b"))),
            ("log=", Some(Some(""))), // no log has this name
            ("log=rome&log=oslo", None),
            ("LOG=rome", None),
            ("name=rome", None),
            ("log=rome&force=true", None),
        ] {
            let want = want.map(|name| name.map(str::to_owned));
            assert_eq!(log_of(query).ok(), want, "{query}");
        }
    }
}

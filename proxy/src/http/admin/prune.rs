//! `DELETE /_admin/cache/prune`: removes by age, size or log, and answers what it removed.

use std::{str::FromStr, sync::Arc};

use http::StatusCode;
use url::form_urlencoded;

use super::which::Unclear;
use crate::{
    cache::prune::Prune,
    config::{Interval, Size},
    http::{
        Service,
        respond::{Reply, json},
    },
};

/// What the query of a prune may hold, for whoever wrote something else.
const PARAMETERS: &str = "give at least one of `older_than=720h`, `max_size=5Gi` and `log=NAME`; and `dry_run=true` to \
     see what would go";

/// A prune as it was asked for.
#[derive(Debug, Default, Eq, PartialEq)]
struct Request {
    prune: Prune,
    /// Name of the log; all of them if it is not given.
    log: Option<String>,
}

/// Prunes as the query says.
pub(super) async fn prune(service: &Service, query: &str) -> Reply {
    let Request { prune, log } = match parse(query) {
        Ok(request) => request,
        Err(message) => {
            let message = format!("{message}; {PARAMETERS}");
            return json::error(StatusCode::BAD_REQUEST, "malformed", &message);
        }
    };
    let stores = match log.as_deref().map(|name| service.logs.stores_of(name)) {
        None => None,
        Some(None) => return Unclear::from(service.logs.no_such_log()).reply(),
        Some(Some(stores)) if stores.is_empty() => {
            let message = "the log has no trusted checkpoint yet, so nothing is stored for it";
            return json::error(StatusCode::NOT_FOUND, "not_cached", message);
        }
        Some(stores) => stores,
    };
    let cache = Arc::clone(&service.cache);
    // A task of its own: a caller that leaves does not end it half-way.
    let pruned = tokio::spawn(async move {
        match stores {
            Some(stores) => cache.prune_all_of(&stores, &prune).await,
            None => cache.prune(None, &prune).await,
        }
    });
    let pruned = pruned.await;
    match pruned {
        Ok(Ok(report)) => {
            let total = report.removed.total();
            tracing::info!(
                log = log.as_deref().unwrap_or("all"),
                dry_run = report.dry_run,
                resources = total.count,
                bytes = total.bytes,
                "pruned"
            );
            json::ok(&report)
        }
        Ok(Err(error)) => failed(&error.to_string()),
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(error: &str) -> Reply {
    let message = format!("not everything could be removed: {error}");
    json::error(StatusCode::INTERNAL_SERVER_ERROR, "io", &message)
}

/// The prune that a query asks for; a sentence about what is wrong with it otherwise.
fn parse(query: &str) -> Result<Request, String> {
    let mut request = Request::default();
    let mut seen = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if seen.contains(&name) {
            return Err(format!("`{name}` is given twice"));
        }
        match &*name {
            "older_than" => request.prune.older_than = Some(value_of::<Interval>(&name, &value)?.0),
            "max_size" => request.prune.max_size = Some(value_of::<Size>(&name, &value)?.0),
            "log" => request.log = Some(value.into_owned()),
            "dry_run" => {
                request.prune.dry_run = match &*value {
                    "true" => true,
                    "false" => false,
                    other => return Err(format!("`dry_run` is `true` or `false`, not `{other}`")),
                }
            }
            other => return Err(format!("`{other}` is no parameter of a prune")),
        }
        seen.push(name);
    }
    let Prune {
        older_than,
        max_size,
        dry_run: _,
    } = &request.prune;
    // Nobody means the whole cache by saying nothing.
    if older_than.is_none() && max_size.is_none() && request.log.is_none() {
        return Err("nothing says what to prune".to_owned());
    }
    Ok(request)
}

fn value_of<T: FromStr<Err = String>>(name: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|error| format!("`{name}` is wrong: {error}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_prune_says_what_it_means_and_nothing_else() {
        let prune = |older_than: Option<u64>, max_size, dry_run| Prune {
            older_than: older_than.map(Duration::from_secs),
            max_size,
            dry_run,
        };
        let month = Some(720 * 3_600);
        for (query, want) in [
            ("older_than=720h", Some((prune(month, None, false), None))),
            (
                "older_than=0s&dry_run=true",
                Some((prune(Some(0), None, true), None)),
            ),
            (
                "max_size=5Gi",
                Some((prune(None, Some(5 << 30), false), None)),
            ),
            ("max_size=0", Some((prune(None, Some(0), false), None))),
            ("log=rome", Some((prune(None, None, false), Some("rome")))),
            (
                "older_than=720h&max_size=1M&log=a%2Fb&dry_run=false",
                Some((prune(month, Some(1_000_000), false), Some("a/b"))),
            ),
            ("", None), // not the whole cache
            ("dry_run=true", None),
            ("older_than=720", None), // of what?
            ("older_than=-1h", None),
            ("older_than=", None),
            ("max_size=5GB", None),
            ("max_size=-1", None),
            ("dry_run=yes&log=rome", None),
            ("dry_run&log=rome", None),
            ("older=720h", None),
            ("OLDER_THAN=720h", None),
            ("log=rome&log=paris", None),
            ("log=rome&force=true", None), // a misspelt dry_run must not prune
        ] {
            let want = want.map(|(prune, log): (Prune, Option<&str>)| Request {
                prune,
                log: log.map(str::to_owned),
            });
            assert_eq!(parse(query).ok(), want, "{query}");
        }
    }
}

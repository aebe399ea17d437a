//! `GET /_admin/`: the statistics as a page for people. No scripts, nothing from elsewhere.

use std::{fmt::Write as _, sync::LazyLock};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest as _, Sha256};

use super::stats::Stats;
use crate::{
    http::respond::{Reply, reply, uncached, with},
    log::state::LogState,
    sync::SyncProgress,
    tuf::TufStatus,
};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;\
    padding:0 1rem}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:\
    collapse}th,td{text-align:left;padding:.2rem 1.5rem .2rem 0;vertical-align:top}th{font-weight:\
    normal;color:#666}td{overflow-wrap:anywhere}.bad{color:#b00}";

/// Only this page's own style; no script, no frame, no form, nothing from elsewhere.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let digest = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    // Base64 and the text above are visible ASCII.
    HeaderValue::from_str(&policy)
        .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
});

/// The page.
pub(super) fn page(stats: &Stats, sync: Option<&SyncProgress>) -> Reply {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>tile-proxy</title>\
         <style>{STYLE}</style></head><body>\n<h1>tile-proxy {}</h1>\n",
        env!("CARGO_PKG_VERSION")
    );
    table(
        &mut html,
        &[(
            "cache",
            format!("{} of {} MiB", stats.bytes >> 20, stats.budget_bytes >> 20),
        )],
    );
    let configuration = &stats.configuration;
    let mut waiting = Vec::new();
    waiting.extend(configuration.error.clone().map(|error| ("refused", error)));
    if !configuration.needs_restart.is_empty() {
        waiting.push(("needs a restart", configuration.needs_restart.join(", ")));
    }
    if !waiting.is_empty() {
        heading(&mut html, "New configuration");
        table(&mut html, &waiting);
    }
    if let Some(tuf) = &stats.tuf {
        heading(&mut html, "Trust");
        table(&mut html, &trust(tuf));
    }
    for log in &stats.logs {
        heading(&mut html, &format!("Log {}", log.name));
        let none = || "none yet".to_owned();
        let age = log.checkpoint_age_seconds;
        table(
            &mut html,
            &[
                ("state", meaning(log.state).to_owned()),
                ("origin", log.origin.clone().unwrap_or_else(none)),
                (
                    "entries",
                    log.size.map_or_else(none, |size| size.to_string()),
                ),
                ("root", log.root.clone().unwrap_or_else(none)),
                (
                    "confirmed",
                    age.map_or_else(none, |age| format!("{age} seconds ago")),
                ),
                ("tiles stored", log.tiles.to_string()),
                (
                    "hits",
                    format!(
                        "{} of {} ({:.1} %)",
                        log.hits,
                        log.hits + log.misses,
                        log.hit_ratio * 100.0
                    ),
                ),
            ],
        );
        for upstream in &log.upstreams {
            heading(&mut html, &format!("Upstream {}", upstream.name));
            let state = match &upstream.last_error {
                Some(error) => error.clone(),
                None if upstream.healthy == Some(true) => "healthy".to_owned(),
                None => "not asked yet".to_owned(),
            };
            table(
                &mut html,
                &[("URL", upstream.url.clone()), ("state", state)],
            );
        }
    }
    heading(&mut html, "Last sync");
    match sync {
        None => html.push_str("<p>none since the start</p>\n"),
        Some(sync) => {
            let state = format!("{:?}", sync.state).to_lowercase();
            let mut rows = vec![
                ("log", sync.log.clone().unwrap_or_else(|| "all".to_owned())),
                ("state", state),
                ("entries", format!("newest {}", sync.depth)),
                ("done", format!("{} of {}", sync.done, sync.total)),
            ];
            rows.extend(sync.error.clone().map(|error| ("error", error)));
            table(&mut html, &rows);
        }
    }
    html.push_str("</body></html>\n");
    let page = uncached(reply(StatusCode::OK, "text/html; charset=utf-8", html));
    let page = with(page, header::CONTENT_SECURITY_POLICY, POLICY.clone());
    let nosniff = HeaderValue::from_static("nosniff");
    let page = with(page, header::X_CONTENT_TYPE_OPTIONS, nosniff);
    let (name, value): (HeaderName, _) = (header::REFERRER_POLICY, "no-referrer");
    with(page, name, HeaderValue::from_static(value))
}

/// What a state means.
const fn meaning(state: LogState) -> &'static str {
    match state {
        LogState::Fresh => "fresh",
        LogState::Stale => "stale: the log has not confirmed for long what is served",
        LogState::SplitView => "split view: two histories were seen, and evidence of it is kept",
        LogState::Failing => "failing: nothing is trusted, so nothing is served",
    }
}

/// How trust from TUF stands.
fn trust(tuf: &TufStatus) -> Vec<(&str, String)> {
    let state = match tuf.expired {
        true => format!("{}: nothing new is believed", tuf.state.as_str()),
        false => tuf.state.as_str().to_owned(),
    };
    let none = || "not since the start".to_owned();
    let success = tuf.last_success.clone().unwrap_or_else(none);
    let mut rows = vec![("state", state), ("refreshed", success)];
    rows.extend(tuf.last_error.clone().map(|error| ("error", error)));
    rows.extend(tuf.roles.iter().map(|role| {
        let text = format!("version {}, expires {}", role.version, role.expires);
        (role.role.as_str(), text)
    }));
    rows
}

fn heading(html: &mut String, text: &str) {
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(html, "<h2>{}</h2>", Escaped(text));
}

fn table(html: &mut String, rows: &[(&str, String)]) {
    html.push_str("<table>\n");
    for (name, value) in rows {
        let _ = writeln!(
            html,
            "<tr><th>{}</th><td>{}</td></tr>",
            Escaped(name),
            Escaped(value)
        );
    }
    html.push_str("</table>\n");
}

/// Text in which nothing is markup: origins, names and errors come from elsewhere.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

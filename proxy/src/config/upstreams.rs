//! The upstreams of a log: from the short form or the list to [`UpstreamSettings`].

use std::time::Duration;

use url::Url;

use super::{
    Kind, Source, Upstream,
    check::{MIN_TIMEOUT, Problem},
    tuf::shipped,
};

/// One place that serves a log.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct UpstreamSettings {
    /// Name in metrics and records.
    pub name: String,
    /// What it is reached at, and the only place that `authorization` is for; ends with a slash.
    pub url: Url,
    /// `checkpoint` is relative to this; ends with a slash.
    pub checkpoint_base_url: Url,
    /// `tile/` is relative to this; ends with a slash.
    pub tile_base_url: Url,
    /// Lower is asked first.
    pub priority: u32,
    /// How long one request may take.
    pub timeout: Duration,
    /// Whether its answers may tell where below `url` its checkpoint and tiles are.
    pub learns: bool,
    /// The only authorities that may vouch for its certificate.
    pub ca: Option<Source>,
    /// Where `ca` is `None`, authorities that may do so beside the system's.
    pub trusted_ca: Option<Source>,
    /// Value of the `Authorization` header, for the host of `url` alone.
    pub authorization: Option<Source>,
    /// Where writes go, if not to `url`; ends with a slash.
    pub write_url: Option<Url>,
    /// Whether this is another replica, and `authorization` the token that peers share.
    pub peer: bool,
}

/// The default of an upstream's `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where Rekor v2 has everything that is read; its clients have it before every path.
pub(crate) const REKOR_V2_PREFIX: &str = "api/v2/";

/// What protocol the upstreams of a log speak, and who says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spoken {
    /// The protocol.
    pub(super) kind: Kind,
    /// Whether that follows from where they are: the configuration says `auto`.
    by_address: bool,
}

impl Spoken {
    /// As the configuration says, or, where it says `auto`, as is known of Sigstore's public logs.
    pub(super) fn of<'a>(written: Kind, urls: impl IntoIterator<Item = &'a Url>) -> Self {
        let known = match written {
            Kind::Auto => shipped(urls).filter(|log| log.kind != Kind::Auto),
            _ => None,
        };
        Self {
            kind: known.as_ref().map_or(written, |log| log.kind),
            by_address: known.is_some(),
        }
    }

    /// As is known in some other way.
    pub(super) fn told(kind: Kind) -> Self {
        let by_address = false;
        Self { kind, by_address }
    }
}

/// The upstreams in a list whose key in the configuration is `{prefix}upstreams`.
pub(super) fn upstreams(
    prefix: &str,
    written: &[Upstream],
    spoken: Spoken,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> Vec<UpstreamSettings> {
    let mut all: Vec<UpstreamSettings> = Vec::new();
    for (i, upstream) in written.iter().enumerate() {
        let place = Place::at(format!("{prefix}upstreams[{i}]."));
        let Some(settings) = place.settings(upstream, spoken, problems, warnings) else {
            continue;
        };
        if all.iter().any(|other| other.name == settings.name) {
            problems.push(Problem::new(
                &format!("{}name", place.prefix),
                format!(
                    "another upstream is called `{}` already, and metrics could not tell them apart; \
                     give this one a name",
                    settings.name
                ),
            ));
        }
        all.push(settings);
    }
    all
}

/// Where in the configuration an upstream stands.
pub(super) struct Place {
    /// Of its URL, and of its tiles' URL.
    keys: [String; 2],
    /// Of everything else.
    prefix: String,
}

impl Place {
    /// The short form: two keys beside those of the log.
    pub(super) fn short() -> Self {
        Self {
            keys: ["upstream_url".to_owned(), "tile_base_url".to_owned()],
            prefix: String::new(),
        }
    }

    /// An item of a list.
    fn at(prefix: String) -> Self {
        Self {
            keys: [format!("{prefix}url"), format!("{prefix}tile_base_url")],
            prefix,
        }
    }

    /// What an upstream is, written here; `None` if its URLs are wrong.
    pub(super) fn settings(
        &self,
        upstream: &Upstream,
        Spoken { kind, by_address }: Spoken,
        problems: &mut Vec<Problem>,
        warnings: &mut Vec<Problem>,
    ) -> Option<UpstreamSettings> {
        // Destructured without `..`: a new key does not compile until it has a meaning here.
        let Upstream {
            name,
            url,
            tile_base_url,
            priority,
            timeout,
            ca,
            authorization,
            write_url,
        } = upstream;
        let key = |key: &str| format!("{}{key}", self.prefix);
        let [url_key, tiles_key] = &self.keys;
        let Some(url) = url.clone() else {
            problems.push(Problem::new(url_key, "is missing; give the log's base URL"));
            return None;
        };
        let write_key = &key("write_url");
        let wrong = [
            (url_key, Some(&url)),
            (tiles_key, tile_base_url.as_ref()),
            (write_key, write_url.as_ref()),
        ]
        .into_iter()
        .find_map(|(key, url)| wrong_url(key, url?));
        if let Some(problem) = wrong {
            problems.push(problem);
            return None;
        }
        if kind == Kind::RekorV1 {
            if url.scheme() == "file" {
                let message = "is of a Rekor v1 log, which is a server: give its `https://` URL";
                problems.push(Problem::new(url_key, message));
            }
            match (tile_base_url, by_address) {
                (None, _) => {}
                (Some(_), true) => {
                    let message = "has no effect: this is a Rekor v1 log, which has no tiles";
                    warnings.push(Problem::new(tiles_key, message));
                }
                (Some(_), false) => {
                    let message = "is of a Rekor v1 log, which has no tiles; remove it";
                    problems.push(Problem::new(tiles_key, message));
                }
            }
        }
        if let Some(write_url) = write_url {
            if write_url.scheme() == "file" {
                problems.push(Problem::new(write_key, "must be a server's"));
            }
            if matches!(kind, Kind::RekorV2 | Kind::TlogTiles) {
                let message = "is for Rekor v1: writes to other logs are not handed on; remove it";
                problems.push(Problem::new(write_key, message));
            }
        }
        if timeout.is_some_and(|timeout| timeout.0 < MIN_TIMEOUT) {
            problems.push(Problem::new(&key("timeout"), "must be at least `100ms`"));
        }
        if name.contains("://") {
            let message = "is a name in metrics, never a URL";
            problems.push(Problem::new(&key("name"), message));
        }
        if ca.is_some() && url.scheme() != "https" {
            let message = "vouches for certificates: `url` must start with `https://`";
            problems.push(Problem::new(&key("ca"), message));
        }
        match (authorization, url.scheme()) {
            (None, _) | (Some(_), "https") => {}
            (Some(_), "http") => warnings.push(Problem::new(
                &key("authorization"),
                "is sent over `http://`, where everybody on the way can read it",
            )),
            (Some(_), _) => {
                let message = "needs a server to be sent to: `url` is not one";
                problems.push(Problem::new(&key("authorization"), message));
            }
        }
        let url = with_final_slash(url);
        let tiles = tile_base_url.clone().map(without_final_tile);
        let (checkpoint_base_url, tile_base_url) = match kind {
            // The server itself gives nothing to read: checkpoint and tiles are in one place, which
            // has its address only where something in front of it brings them together.
            Kind::RekorV2 => {
                let reads = tiles.unwrap_or_else(|| with_rekor_v2_prefix(url.clone()));
                (reads.clone(), reads)
            }
            Kind::Auto | Kind::RekorV1 | Kind::TlogTiles => {
                (url.clone(), tiles.unwrap_or_else(|| url.clone()))
            }
        };
        Some(UpstreamSettings {
            name: match name.as_str() {
                "" => url.host_str().unwrap_or_else(|| url.scheme()).to_owned(),
                name => name.to_owned(),
            },
            url,
            checkpoint_base_url,
            tile_base_url,
            priority: *priority,
            timeout: timeout.map_or(DEFAULT_TIMEOUT, |timeout| timeout.0),
            learns: kind == Kind::Auto,
            ca: ca.clone(),
            trusted_ca: None, // said once for all logs
            authorization: authorization.clone(),
            write_url: write_url.clone().map(with_final_slash),
            peer: false,
        })
    }
}

pub(super) fn wrong_url(key: &str, url: &Url) -> Option<Problem> {
    let message = match url.scheme() {
        "http" | "https" if url.host_str().is_none_or(str::is_empty) => "has no host",
        "http" | "https" | "file" if url.query().is_some() || url.fragment().is_some() => {
            "must end with the path: no `?` and no `#`"
        }
        "http" | "https" if !url.username().is_empty() || url.password().is_some() => {
            "must not hold a password; give `authorization` for one"
        }
        "http" | "https" => return None,
        // Also what names another machine, whose files these would be.
        "file" if url.to_file_path().is_err() => "must be `file:///` and a path on this machine",
        "file" => return None,
        _ => "must start with `http://`, `https://` or `file:///`",
    };
    Some(Problem::new(key, message))
}

/// `Url::join` replaces what follows the last slash, so a base must end with one.
fn with_final_slash(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    url
}

/// Paths already start with `tile/`; people give the base with it, too.
fn without_final_tile(url: Url) -> Url {
    let mut url = with_final_slash(url);
    if let Some(path) = url
        .path()
        .strip_suffix("tile/")
        .filter(|path| path.ends_with('/'))
    {
        let path = path.to_owned();
        url.set_path(&path);
    }
    url
}

/// A base with the prefix of Rekor v2's API, which some write down and some do not.
pub(crate) fn with_rekor_v2_prefix(url: Url) -> Url {
    if url.path().ends_with(&format!("/{REKOR_V2_PREFIX}")) {
        return url;
    }
    url.join(REKOR_V2_PREFIX).unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check::tests::check;

    fn upstream(keys: &str) -> UpstreamSettings {
        let text = format!("tile_proxy: {{public_keys: [k], {keys}}}");
        check(&text).expect(keys).logs[0].upstreams[0].clone()
    }

    #[test]
    fn a_final_tile_is_cut_off_the_tile_base() {
        for (given, want) in [
            ("http://cdn.example/rome/tile/", "http://cdn.example/rome/"),
            ("http://cdn.example/rome/tile", "http://cdn.example/rome/"),
            ("http://cdn.example/tile", "http://cdn.example/"),
            ("http://cdn.example/textile", "http://cdn.example/textile/"),
        ] {
            assert_eq!(
                without_final_tile(given.parse().expect("a URL")).as_str(),
                want
            );
        }
    }

    #[test]
    fn what_is_read_of_rekor_v2_is_in_one_place() {
        for (keys, want) in [
            ("upstream_url: 'http://rekor/'", "http://rekor/api/v2/"),
            (
                "upstream_url: 'http://rekor/api/v2'",
                "http://rekor/api/v2/",
            ),
            (
                "upstream_url: 'http://rekor/', tile_base_url: 'http://bucket/rome/tile/'",
                "http://bucket/rome/",
            ),
        ] {
            let upstream = upstream(&format!("kind: rekor-v2, {keys}"));
            assert_eq!(upstream.checkpoint_base_url.as_str(), want, "{keys}");
            assert_eq!(upstream.tile_base_url.as_str(), want, "{keys}");
        }
    }

    #[test]
    fn sigstores_public_logs_speak_what_they_are_known_to_speak() {
        for (keys, kind, reads) in [
            (
                "upstream_url: 'https://rekor.sigstore.dev'",
                Kind::RekorV1,
                "https://rekor.sigstore.dev/",
            ),
            (
                "cache: {memory_mb: 7}",
                Kind::RekorV1,
                "https://rekor.sigstore.dev/",
            ), // the default
            (
                "upstream_url: 'https://log2025-1.rekor.sigstore.dev'",
                Kind::RekorV2,
                "https://log2025-1.rekor.sigstore.dev/api/v2/",
            ),
            (
                "upstreams: [{url: 'https://log2025-1.rekor.sigstore.dev/api/v2/'}]",
                Kind::RekorV2,
                "https://log2025-1.rekor.sigstore.dev/api/v2/",
            ),
            // A mirror of it may be anything, and so may what is said to be something else.
            (
                "upstreams: [{url: 'https://rekor.sigstore.dev'}, {url: 'https://a.example/'}]",
                Kind::Auto,
                "https://rekor.sigstore.dev/",
            ),
            (
                "kind: tlog-tiles, upstream_url: 'https://rekor.sigstore.dev'",
                Kind::TlogTiles,
                "https://rekor.sigstore.dev/",
            ),
        ] {
            let text = format!("tile_proxy: {{public_keys: [k], {keys}}}");
            let log = check(&text).expect(keys).logs.remove(0);
            assert_eq!(log.kind, kind, "{keys}");
            assert_eq!(log.upstreams[0].tile_base_url.as_str(), reads, "{keys}");
        }
        // What the first design gave beside it has no meaning there, and does no harm.
        let text = "tile_proxy: {upstream_url: 'https://rekor.sigstore.dev', \
                    tile_base_url: 'https://rekor.sigstore.dev/tile/'}";
        let warnings = check(text).expect("valid").warnings;
        assert!(
            warnings[0].message.contains("which has no tiles"),
            "{warnings:?}"
        );
    }

    #[test]
    fn upstreams_keep_their_order_and_tell_themselves_apart() {
        let text = "tile_proxy: {public_keys: [k], upstreams: [\
            {url: 'https://a.example/', priority: 2, timeout: 100ms, ca: 'file:/ca.pem'}, \
            {url: 'http://b.example/', authorization: secret}, \
            {name: copy, url: 'file:///srv/log'}]}";
        let settings = check(text).expect("valid");
        let all = &settings.logs[0].upstreams;
        let names: Vec<_> = all.iter().map(|u| (u.name.as_str(), u.priority)).collect();
        assert_eq!(names, [("a.example", 2), ("b.example", 0), ("copy", 0)]);
        assert_eq!(settings.warnings.len(), 1);
        assert_eq!(
            settings.warnings[0].key,
            "tile_proxy.upstreams[1].authorization"
        );
        // Nothing of it is printed.
        assert!(!format!("{settings:?}").contains("secret"));
    }

    #[test]
    fn impossible_upstreams_are_refused_with_what_would_be_right() {
        for (keys, want) in [
            ("upstream_url: 'ftp://a/'", "upstream_url: must start with"),
            (
                "upstream_url: 'http://u:p@a/'",
                "upstream_url: must not hold a password",
            ),
            (
                "upstream_url: 'http://a/?q'",
                "upstream_url: must end with the path",
            ),
            (
                "upstream_url: 'file://other/srv/log'",
                "upstream_url: must be `file:///`",
            ),
            (
                "upstream_url: 'http://a/', tile_base_url: 'ftp://a/'",
                "tile_base_url: must start with",
            ),
            (
                "upstreams: [{name: a}]",
                "upstreams[0].url: is missing; give",
            ),
            (
                "upstreams: [{url: 'http://a/', timeout: 99ms}]",
                "upstreams[0].timeout: must be at least",
            ),
            (
                "upstreams: [{url: 'http://a/'}, {url: 'http://a/b'}]",
                "upstreams[1].name: another upstream is called `a`",
            ),
            (
                "upstreams: [{url: 'http://a/', name: 'http://a/'}]",
                "upstreams[0].name: is a name",
            ),
            (
                "upstreams: [{url: 'http://a/', ca: 'file:/ca.pem'}]",
                "upstreams[0].ca: vouches for certificates",
            ),
            (
                "upstreams: [{url: 'file:///a', authorization: x}]",
                "upstreams[0].authorization: needs a server",
            ),
            (
                "kind: rekor-v1, upstream_url: 'file:///srv/log'",
                "upstream_url: is of a Rekor v1 log, which is a server",
            ),
            (
                "kind: rekor-v1, upstream_url: 'http://a/', tile_base_url: 'http://a/'",
                "tile_base_url: is of a Rekor v1 log, which has no tiles",
            ),
            (
                "upstreams: [{url: 'http://a/', write_url: 'ftp://a/'}]",
                "upstreams[0].write_url: must start with",
            ),
            (
                "upstreams: [{url: 'http://a/', write_url: 'file:///a'}]",
                "upstreams[0].write_url: must be a server's",
            ),
            (
                "kind: tlog-tiles, upstreams: [{url: 'http://a/', write_url: 'http://b/'}]",
                "upstreams[0].write_url: is for Rekor v1",
            ),
        ] {
            let problems = check(&format!("tile_proxy: {{public_keys: [k], {keys}}}"));
            let problems = problems.expect_err(keys);
            let want = format!("tile_proxy.{want}");
            assert!(
                problems.iter().any(|p| p.starts_with(&want)),
                "{keys}: {problems:?}"
            );
        }
    }
}

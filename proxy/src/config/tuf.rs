//! What `tuf` comes to: [`TufSettings`], or what is missing for it.

use std::time::Duration;

use url::Url;

use super::{Config, Mode, Tuf, check::Problem, upstreams::wrong_url};
use crate::tuf::{TufSettings, repository_name, sigstore};

/// Shortest time between two refreshes on schedule: the repository is somebody else's server.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Below the cache, unless `tuf.cache_path` says where.
const DIRECTORY: &str = "tuf";

/// What the configuration says of TUF; `None` if nothing is taken from there.
pub(super) fn tuf(
    config: &Config,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> Option<TufSettings> {
    // Destructured without `..`: a new key does not compile until it has a meaning here.
    let Tuf {
        enabled,
        url,
        root,
        ca,
        cache_path,
        environment,
        service_map,
        allow_http,
        refresh_interval,
        expiry_grace,
        validate_checkpoint_signature: _, // of the log
    } = &config.tuf;
    let needs_root = root.is_none()
        && url
            .as_ref()
            .is_none_or(|url| sigstore::root_of(url).is_none());
    if !enabled {
        if config.tuf != Tuf::default() {
            let mut missing = vec!["`tuf.enabled: true`"];
            missing.extend(url.is_none().then_some("`tuf.url`"));
            missing.extend(needs_root.then_some("`tuf.root`"));
            let missing = missing.join(" and ");
            let message = format!("has no effect: trust from TUF needs {missing}");
            warnings.push(Problem::new("tuf", message));
        }
        return None;
    }
    match url {
        None if config.mode == Mode::Online => {
            let message = "is missing; give the URL of the TUF repository";
            problems.push(Problem::new("tuf.url", message));
        }
        None => {}
        Some(url) => problems.extend(wrong_url("tuf.url", url)),
    }
    if needs_root {
        let message = "is missing; give the repository's `root.json`, which you have from somewhere \
                       else (`file:PATH`): what is fetched is verified with it. That of Sigstore's \
                       public instance is built in";
        problems.push(Problem::new("tuf.root", message));
    }
    if refresh_interval.0 < MIN_REFRESH_INTERVAL {
        problems.push(Problem::new(
            "tuf.refresh_interval",
            "must be at least `1s`",
        ));
    }
    if !repository_name(service_map) {
        let message = format!("`{service_map}` is not the name of a target");
        problems.push(Problem::new("tuf.service_map", message));
    }
    if ca.is_some() && url.as_ref().is_some_and(|url| url.scheme() != "https") {
        let message = "vouches for certificates: `tuf.url` must start with `https://`";
        problems.push(Problem::new("tuf.ca", message));
    }
    let directory = match cache_path.as_str() {
        "" => config.cache.base_path.join(DIRECTORY),
        path => path.into(),
    };
    Some(TufSettings {
        url: url.clone().filter(|_| config.mode == Mode::Online),
        root: root.clone(),
        ca: ca.clone(),
        trusted_ca: config.trusted_ca.clone(),
        directory,
        service_map: service_map.clone(),
        environment: environment.clone(),
        allow_http: *allow_http,
        refresh_interval: refresh_interval.0,
        expiry_grace: expiry_grace.0,
    })
}

/// Whether this log is one of Sigstore's public ones, whose keys ship with the program; `None` unless
/// all of its addresses say so.
pub fn shipped<'a>(urls: impl IntoIterator<Item = &'a Url>) -> Option<crate::tuf::FoundLog> {
    let mut found = urls.into_iter().map(sigstore::log_at);
    let first = found.next()??;
    found
        .all(|log| log.is_some_and(|log| log.origin == first.origin))
        .then_some(first)
}

#[cfg(test)]
mod tests {
    use crate::config::check::tests::check;

    #[test]
    fn what_is_missing_for_tuf_is_said() {
        for (keys, want) in [
            ("enabled: true", "tuf.url: is missing"),
            (
                "enabled: true, url: 'https://tuf.example/'",
                "tuf.root: is missing",
            ),
            (
                "enabled: true, url: 'ftp://tuf.example/', root: r",
                "tuf.url: must start with",
            ),
            (
                "enabled: true, url: 'https://a/', root: r, refresh_interval: 999ms",
                "tuf.refresh_interval: must be",
            ),
            (
                "enabled: true, url: 'https://a/', root: r, service_map: ../map",
                "tuf.service_map: `../map` is not",
            ),
            (
                "enabled: true, url: 'http://a/', root: r, ca: c",
                "tuf.ca: vouches for certificates",
            ),
        ] {
            let problems = check(&format!("tile_proxy: {{tuf: {{{keys}}}}}")).expect_err(keys);
            let want = format!("tile_proxy.{want}");
            assert!(
                problems.iter().any(|p| p.starts_with(&want)),
                "{keys}: {problems:?}"
            );
        }
        for (keys, want) in [
            (
                "url: 'https://tuf.example/'",
                "needs `tuf.enabled: true` and `tuf.root`",
            ),
            (
                "url: 'https://tuf-repo-cdn.sigstore.dev'",
                "needs `tuf.enabled: true`",
            ),
            (
                "environment: staging",
                "`tuf.enabled: true` and `tuf.url` and `tuf.root`",
            ),
        ] {
            let settings = check(&format!(
                "tile_proxy: {{public_keys: [k], tuf: {{{keys}}}}}"
            ));
            let warnings = settings.expect(keys).warnings;
            assert!(
                warnings.iter().any(|w| w.message.ends_with(want)),
                "{keys}: {warnings:?}"
            );
        }
    }

    #[test]
    fn sigstores_repository_needs_no_root_and_an_offline_proxy_no_url() {
        for keys in [
            "tuf: {enabled: true, url: 'https://tuf-repo-cdn.sigstore.dev'}",
            "mode: offline, tuf: {enabled: true, root: r}",
        ] {
            let settings = check(&format!("tile_proxy: {{{keys}}}")).expect(keys);
            let tuf = settings.tuf.expect(keys);
            assert_eq!(
                tuf.directory.file_name().and_then(|name| name.to_str()),
                Some("tuf")
            );
        }
    }
}

//! Keys whose capability is not built yet: refused by name, never ignored.

use super::{Config, Kind, check::Problem};

/// Keys that ask for a capability that is not built yet. Destructured without `..`, so that a new
/// key does not compile until it is either honoured or refused here.
pub(super) fn unbuilt(config: &Config) -> Vec<Problem> {
    let Config {
        kind,
        upstreams,
        logs,
        passthrough,
        tuf,
        // Honoured.
        peers: _,
        danger_accept_unsigned: _,
        tls: _,
        audit: _,
        rate_limit: _,
        listen: _,
        admin_listen: _,
        upstream_url: _,
        tile_base_url: _,
        origin: _,
        public_keys: _,
        mode: _,
        cache: _,
        checkpoint: _,
        sync: _,
        coalescing: _,
        failover: _,
        admin: _,
        limits: _,
        log: _,
        shutdown: _,
    } = config;
    let mut upstreams = logs.iter().flat_map(|log| &log.upstreams).chain(upstreams);
    let writes = upstreams.any(|upstream| upstream.write_url.is_some());
    let mut kinds = logs.iter().map(|log| log.kind).chain([*kind]);
    [
        (
            kinds.any(|kind| kind == Kind::RekorV1),
            "kind",
            "following Rekor v1, which has no tiles,",
        ),
        (writes, "upstreams", "`write_url`, passing writes through,"),
        (*passthrough, "passthrough", "passing requests through"),
        (tuf.enabled, "tuf.enabled", "trust from TUF"),
    ]
    .into_iter()
    .filter(|(asked_for, ..)| *asked_for)
    .map(|(_, key, what)| {
        let version = env!("CARGO_PKG_VERSION");
        Problem::new(
            key,
            format!("{what} is not built yet in {version}; remove this key"),
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use crate::config::check::tests::check;

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (key, name) in [
            ("kind: rekor-v1", "kind"),
            (
                "upstreams: [{url: 'http://a/', write_url: 'http://b/'}]",
                "upstreams",
            ),
            ("logs: [{name: a, kind: rekor-v1}]", "kind"),
            ("passthrough: true", "passthrough"),
            ("tuf: {enabled: true}", "tuf.enabled"),
        ] {
            let problems = check(&format!("tile_proxy: {{public_keys: [k], {key}}}"))
                .expect_err("not built yet");
            let want = format!("tile_proxy.{name}: ");
            assert!(problems[0].starts_with(&want), "{key}: {problems:?}");
            assert!(problems[0].contains("not built yet"), "{key}: {problems:?}");
        }
    }
}

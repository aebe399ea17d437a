//! Keys whose capability is not built yet: refused by name, never ignored.

use super::{Config, check::Problem};

/// Keys that ask for a capability that is not built yet. Destructured without `..`, so that a new
/// key does not compile until it is either honoured or refused here.
pub(super) fn unbuilt(config: &Config) -> Vec<Problem> {
    let Config {
        tuf,
        // Honoured.
        kind: _,
        upstreams: _,
        logs: _,
        passthrough: _,
        peers: _,
        danger_accept_unsigned: _,
        trusted_ca: _,
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
    [(tuf.enabled, "tuf.enabled", "trust from TUF")]
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
        let problems = check("tile_proxy: {public_keys: [k], tuf: {enabled: true}}")
            .expect_err("not built yet");
        let named = problems[0].starts_with("tile_proxy.tuf.enabled: ");
        assert!(named, "{problems:?}");
        assert!(problems[0].contains("not built yet"), "{problems:?}");
    }
}

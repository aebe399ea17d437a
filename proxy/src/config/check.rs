//! Whether the values of a configuration go together: [`Config`] in, [`Settings`] out.
//!
//! All problems are reported at once, each with its key and what would be right. A key whose
//! capability is not built yet is such a problem too: it is refused, never ignored.

use std::{net::IpAddr, num::NonZeroU64, str::FromStr as _, time::Duration};

use super::{
    Config, Peers, RateLimit,
    logs::{LogSettings, discovers, logs},
    tuf::tuf,
};
use crate::{http::RateSettings, tuf::TufSettings};

/// One thing wrong with a configuration.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct Problem {
    /// Path of the key, such as `tile_proxy.public_keys`.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    pub(super) fn new(key: &str, message: impl Into<String>) -> Self {
        Self {
            key: format!("tile_proxy.{key}"),
            message: message.into(),
        }
    }
}

/// A configuration whose values go together; only [`Config::check`] makes one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The configuration this was made from, for what needs no interpretation.
    pub config: Config,
    /// The logs to follow; empty only if they are discovered.
    pub logs: Vec<LogSettings>,
    /// The TUF repository to follow, if there is one.
    pub tuf: Option<TufSettings>,
    /// Whether the logs are those that the TUF repository names: the configuration has none.
    pub discovers: bool,
    /// Bytes the cache may take on disk.
    pub disk_budget: u64,
    /// Bytes of verified data kept in memory.
    pub memory_budget: u64,
    /// Age from which a served checkpoint carries a warning.
    pub checkpoint_ttl: Duration,
    /// How many requests one client may make, if that is limited.
    pub rate_limit: Option<RateSettings>,
    /// When to sync by itself, if it does.
    pub sync_schedule: Option<croner::Cron>,
    /// Things to tell the operator of this process that do not stop it.
    pub warnings: Vec<Problem>,
}

/// Bytes in a mebibyte and a gibibyte, the units of two keys whose names say so.
const MEBIBYTE: u64 = 1 << 20;
const GIBIBYTE: u64 = 1 << 30;

/// Shortest time that anybody is given to answer: a round trip around the world, and a bit.
pub(super) const MIN_TIMEOUT: Duration = Duration::from_millis(100);

/// Most connections or requests at once; each needs a descriptor, and Linux allows 1,048,576.
const MAX_CONCURRENT: usize = 1_000_000;

/// Most requests a second, and most above them: beyond it, a limit protects from nothing.
const MAX_RATE: u32 = 1_000_000;

/// Smallest disk budget, and smallest share of one log: a checkpoint with its edge tiles and one group
/// of full tiles.
pub const MIN_DISK_BUDGET: u64 = 16 * MEBIBYTE;

impl Config {
    /// Interprets the configuration.
    ///
    /// # Errors
    /// Every problem found, in the order of the file.
    pub fn check(&self) -> Result<Settings, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut warnings = Vec::new();

        if self.listen.is_empty() {
            problems.push(Problem::new(
                "listen",
                "needs at least one address such as `[::]:8080`",
            ));
        }
        if self.checkpoint.refresh_interval.0 < Duration::from_secs(1) {
            problems.push(Problem::new(
                "checkpoint.refresh_interval",
                "must be at least `1s`; logs publish every few seconds at most",
            ));
        }
        for (key, interval) in [
            ("limits.header_timeout", self.limits.header_timeout),
            ("limits.idle_timeout", self.limits.idle_timeout),
        ] {
            if interval.0 < MIN_TIMEOUT {
                problems.push(Problem::new(key, "must be at least `100ms`"));
            }
        }
        for (key, value, least) in [
            ("coalescing.max_wait_ms", self.coalescing.max_wait_ms, 100),
            ("sync.depth", self.sync.depth, 1),
            ("limits.connections", self.limits.connections as u64, 1),
            (
                "limits.header_bytes",
                self.limits.header_bytes as u64,
                8_192,
            ),
            (
                "limits.checkpoint_bytes",
                self.limits.checkpoint_bytes as u64,
                1_024,
            ),
            (
                "limits.upstream_requests",
                self.limits.upstream_requests as u64,
                1,
            ),
        ] {
            if value < least {
                problems.push(Problem::new(
                    key,
                    format!("is {value}; must be at least {least}"),
                ));
            }
        }
        for (key, value) in [
            ("limits.connections", self.limits.connections),
            ("limits.upstream_requests", self.limits.upstream_requests),
        ] {
            if value > MAX_CONCURRENT {
                problems.push(Problem::new(
                    key,
                    format!("is {value}; at most {MAX_CONCURRENT}"),
                ));
            }
        }
        let disk_budget = match self.cache.max_size {
            Some(size) => Some(size.0),
            None => self.cache.max_size_gb.checked_mul(GIBIBYTE),
        };
        if disk_budget.is_none_or(|budget| budget < MIN_DISK_BUDGET) {
            let key = if self.cache.max_size.is_some() {
                "cache.max_size"
            } else {
                "cache.max_size_gb"
            };
            problems.push(Problem::new(key, "must be between 16Mi and 16,777,215Ti"));
        }
        let memory_budget = self.cache.memory_mb.saturating_mul(MEBIBYTE);

        let sync_schedule = match croner::Cron::from_str(&self.sync.schedule) {
            Ok(schedule) if self.sync.schedule.split_whitespace().count() == 5 => Some(schedule),
            _ => {
                problems.push(Problem::new(
                    "sync.schedule",
                    format!(
                        "`{}` is not five cron fields such as `0 */6 * * *`",
                        self.sync.schedule
                    ),
                ));
                None
            }
        };

        self.tls(&mut problems, &mut warnings);
        self.peers(&mut problems, &mut warnings);
        let rate_limit = self.rate_limit(&mut problems, &mut warnings);

        let tuf = tuf(self, &mut problems, &mut warnings);
        let logs = logs(self, &mut problems, &mut warnings);
        shares(&logs, disk_budget.unwrap_or_default(), &mut problems);

        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Settings {
            logs,
            tuf,
            discovers: discovers(self),
            disk_budget: disk_budget.unwrap_or_default(),
            memory_budget,
            checkpoint_ttl: Duration::from_secs(
                self.cache.checkpoint_ttl_minutes.saturating_mul(60),
            ),
            rate_limit,
            sync_schedule: sync_schedule.filter(|_| self.sync.enabled),
            warnings,
            config: self.clone(),
        })
    }

    /// What of `tls` goes together; whether its files hold what they should is seen when they are
    /// read.
    fn tls(&self, problems: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
        let tls = &self.tls;
        for (key, given, needs, there) in [
            ("cert", tls.cert.is_some(), "key", tls.key.is_some()),
            ("key", tls.key.is_some(), "cert", tls.cert.is_some()),
            (
                "client_ca",
                tls.client_ca.is_some(),
                "cert",
                tls.cert.is_some(),
            ),
            (
                "require_client_cert",
                tls.require_client_cert,
                "client_ca",
                tls.client_ca.is_some(),
            ),
            ("admin", tls.admin, "cert", tls.cert.is_some()),
        ] {
            if given && !there {
                let message = format!("needs `tls.{needs}` beside it");
                problems.push(Problem::new(&format!("tls.{key}"), message));
            }
        }
        if tls.admin && self.admin_listen.is_none() {
            warnings.push(Problem::new(
                "tls.admin",
                "has no effect: without `admin_listen`, administration is on `listen`",
            ));
        }
    }

    fn peers(&self, problems: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
        let Peers { this, file, token } = &self.peers;
        if file.is_empty() {
            if self.peers != Peers::default() {
                let message = "has no effect without `peers.file`, the list of replicas";
                warnings.push(Problem::new("peers", message));
            }
            return;
        }
        if token.is_none() {
            let message = "needs `peers.token`, which replicas show each other";
            problems.push(Problem::new("peers.file", message));
        }
        if this.is_empty() {
            let message = "needs `peers.self`, this replica's name in the list";
            problems.push(Problem::new("peers.file", message));
        }
    }

    fn rate_limit(
        &self,
        problems: &mut Vec<Problem>,
        warnings: &mut Vec<Problem>,
    ) -> Option<RateSettings> {
        let limit = &self.rate_limit;
        let mut trusted_proxies = Vec::new();
        for (i, text) in limit.trusted_proxies.iter().enumerate() {
            let net = text
                .parse()
                .or_else(|_| text.parse().map(|ip: IpAddr| ip.into()));
            match net {
                Ok(net) => trusted_proxies.push(net),
                Err(_) => problems.push(Problem::new(
                    &format!("rate_limit.trusted_proxies[{i}]"),
                    format!("`{text}` is not an address or a network such as `10.0.0.0/8`"),
                )),
            }
        }
        if limit.per_ip_per_second > MAX_RATE || limit.burst > MAX_RATE {
            problems.push(Problem::new(
                "rate_limit",
                format!("`per_ip_per_second` and `burst` are at most {MAX_RATE}"),
            ));
        }
        if limit.per_ip_per_second == 0 && *limit != RateLimit::default() {
            warnings.push(Problem::new(
                "rate_limit",
                "has no effect: nothing is limited while `rate_limit.per_ip_per_second` is 0",
            ));
        }
        Some(RateSettings {
            per_second: NonZeroU64::new(limit.per_ip_per_second.into())?,
            burst: limit.burst.into(),
            trusted_proxies,
        })
    }
}

/// Finds logs whose share of the disk would hold next to nothing.
fn shares(logs: &[LogSettings], budget: u64, problems: &mut Vec<Problem>) {
    let all: u128 = logs.iter().map(|log| u128::from(log.cache_share)).sum();
    let share = |log: &LogSettings| u128::from(budget) * u128::from(log.cache_share) / all.max(1);
    let small = |log: &&LogSettings| share(log) < u128::from(MIN_DISK_BUDGET);
    if let Some(log) = logs.iter().find(small).filter(|_| logs.len() > 1) {
        let message = format!(
            "leaves {} bytes for `{}`; each log needs at least 16Mi: give the cache more, or the log a \
             larger `cache_share`",
            share(log),
            log.name
        );
        problems.push(Problem::new("cache.max_size", message));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Signers;

    pub(in crate::config) fn check(text: &str) -> Result<Settings, Vec<String>> {
        Config::parse("config.yaml", text, [])
            .expect("well-formed")
            .check()
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    const GOOD: &str = "tile_proxy: {upstream_url: 'http://log.example/api', public_keys: [k]}";

    #[test]
    fn a_small_configuration_is_enough() {
        let settings = check(GOOD).expect("valid");
        let upstream = &settings.logs[0].upstreams[0];
        assert_eq!(upstream.url.as_str(), "http://log.example/api/");
        assert_eq!(upstream.tile_base_url.as_str(), "http://log.example/api/");
        assert_eq!(upstream.name, "log.example");
        assert_eq!(settings.disk_budget, 10 << 30);
        assert!(settings.sync_schedule.is_some());
    }

    #[test]
    fn impossible_values_are_refused_with_what_would_be_right() {
        for (keys, want) in [
            (
                "listen: []",
                "tile_proxy.listen: needs at least one address",
            ),
            (
                "checkpoint: {refresh_interval: 999ms}",
                "tile_proxy.checkpoint.refresh_interval: must",
            ),
            (
                "sync: {schedule: '0 6 * *'}",
                "tile_proxy.sync.schedule: `0 6 * *` is not five",
            ),
            (
                "sync: {depth: 0}",
                "tile_proxy.sync.depth: is 0; must be at least 1",
            ),
            (
                "cache: {max_size: 16383Ki}",
                "tile_proxy.cache.max_size: must be between",
            ),
            (
                "cache: {max_size_gb: 0}",
                "tile_proxy.cache.max_size_gb: must be between",
            ),
            (
                "tls: {cert: 'file:/c'}",
                "tile_proxy.tls.cert: needs `tls.key` beside it",
            ),
            (
                "tls: {key: 'file:/k'}",
                "tile_proxy.tls.key: needs `tls.cert` beside it",
            ),
            (
                "tls: {cert: 'file:/c', key: 'file:/k', require_client_cert: true}",
                "tile_proxy.tls.require_client_cert: needs `tls.client_ca` beside it",
            ),
            (
                "tls: {admin: true}",
                "tile_proxy.tls.admin: needs `tls.cert` beside it",
            ),
            (
                "rate_limit: {trusted_proxies: [10.0.0.0/8, proxy]}",
                "tile_proxy.rate_limit.trusted_proxies[1]: `proxy` is not an address",
            ),
            (
                "peers: {file: /p, self: a}",
                "tile_proxy.peers.file: needs `peers.token`",
            ),
            (
                "peers: {file: /p, token: t}",
                "tile_proxy.peers.file: needs `peers.self`",
            ),
            (
                "danger_accept_unsigned: true",
                "tile_proxy.danger_accept_unsigned: contradicts `public_keys`",
            ),
            (
                "tuf: {validate_checkpoint_signature: false}",
                "tile_proxy.tuf.validate_checkpoint_signature: `false` would serve",
            ),
            (
                "rate_limit: {per_ip_per_second: 1000001}",
                "tile_proxy.rate_limit: `per_ip_per_second` and `burst` are at most 1000000",
            ),
        ] {
            let problems = check(&format!("tile_proxy: {{public_keys: [k], {keys}}}"));
            let problems = problems.expect_err(keys);
            assert!(
                problems.iter().any(|p| p.starts_with(want)),
                "{keys}: {problems:?}"
            );
        }
        let problems =
            check("tile_proxy: {upstream_url: 'https://log.example/'}").expect_err("no key");
        assert!(problems[0].starts_with("tile_proxy.public_keys: the log has no key"));
        assert!(check("tile_proxy: {public_keys: [k], cache: {max_size: 16Mi}}").is_ok());
        for unsigned in [
            "danger_accept_unsigned: true",
            "danger_accept_unsigned: true, public_keys: [k], \
             tuf: {validate_checkpoint_signature: false}",
        ] {
            let text = format!("tile_proxy: {{upstream_url: 'http://a/', {unsigned}}}");
            let settings = check(&text).expect(unsigned);
            assert_eq!(settings.logs[0].signers, Signers::Anyone, "{unsigned}");
            let loud = |warning: &Problem| warning.key == "tile_proxy.danger_accept_unsigned";
            assert!(settings.warnings.iter().any(loud), "{unsigned}");
        }
        assert!(
            check("tile_proxy: {public_keys: [k], checkpoint: {refresh_interval: 1s}}").is_ok()
        );
    }
}

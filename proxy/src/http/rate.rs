//! How many requests one client may make.
//!
//! One bucket for each address, kept as the single time at which it will be full again (the generic
//! cell rate algorithm), in a set that is bounded: a flood of addresses forgets the ones that ask
//! least, which costs those nothing but their debt.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use quick_cache::sync::Cache;

/// Addresses remembered: at some 100 bytes each, 6.5 MB.
const MAX_CLIENTS: usize = 65_536;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The rate limit of a process.
#[derive(Debug)]
pub struct RateLimit {
    settings: RateSettings,
    /// By address, when its bucket will be full again: nanoseconds since `start`.
    full_again: Cache<IpAddr, Arc<AtomicU64>>,
    start: Instant,
}

/// What a rate limit is made from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RateSettings {
    /// Requests a second.
    pub per_second: NonZeroU64,
    /// Requests above a second's worth that may come at once.
    pub burst: u64,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl RateLimit {
    /// A limit that nobody has used yet.
    pub fn new(settings: RateSettings) -> Self {
        Self {
            settings,
            full_again: Cache::new(MAX_CLIENTS),
            start: Instant::now(),
        }
    }

    /// What it was made from.
    pub fn settings(&self) -> &RateSettings {
        &self.settings
    }

    /// Takes one request of the client at `peer`.
    ///
    /// # Errors
    /// How long to wait if it has none left.
    pub(super) fn take(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), Duration> {
        let client = client(peer, headers, &self.settings.trusted_proxies);
        self.take_at(client, self.start.elapsed())
    }

    fn take_at(&self, client: IpAddr, now: Duration) -> Result<(), Duration> {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX); // 584 years
        let each = 1_000_000_000 / self.settings.per_second;
        let all = (self.settings.per_second.get() + self.settings.burst).saturating_mul(each);
        let fresh = || Ok::<_, std::convert::Infallible>(Arc::default());
        let Ok(full_again) = self.full_again.get_or_insert_with(&client, fresh);
        let taken = full_again.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_again| {
            let after = full_again.max(now).saturating_add(each);
            (after - now <= all).then_some(after)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(full_again) => {
                let missing = full_again.saturating_add(each) - now - all;
                Err(Duration::from_nanos(missing))
            }
        }
    }
}

/// Whose request this is: the peer, or behind trusted proxies the right-most address that is none of
/// them. What stands left of that address the client wrote itself.
fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip));
    let mut client = peer.to_canonical();
    if !trusted.is_empty() && is_trusted(client) {
        let hops = headers.get_all(FORWARDED_FOR).into_iter().rev();
        let hops = hops.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for hop in hops {
            // What is no address came through the last proxy that we trust.
            let Some(ip) = address(hop) else {
                break;
            };
            client = ip;
            if !is_trusted(client) {
                break;
            }
        }
    }
    match client {
        IpAddr::V4(_) => client,
        // A subscriber has a /64 and every address in it.
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// An address, as proxies write it: with or without a port, IPv6 with or without brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let with_port = || {
        text.parse()
            .map(|address: std::net::SocketAddr| address.ip())
    };
    bare.parse()
        .or_else(|_| with_port())
        .ok()
        .map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(per_second: u64, burst: u64) -> RateLimit {
        RateLimit::new(RateSettings {
            per_second: NonZeroU64::new(per_second).expect("not zero"),
            burst,
            trusted_proxies: Vec::new(),
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_bucket_holds_a_second_and_the_burst_and_fills_at_the_rate() {
        let limit = limit(10, 5);
        let client = ip("192.0.2.7");
        let at = |ms| Duration::from_millis(ms);
        for i in 0..15 {
            assert_eq!(limit.take_at(client, at(0)), Ok(()), "request {i}");
        }
        assert_eq!(limit.take_at(client, at(0)), Err(at(100)));
        assert_eq!(
            limit.take_at(ip("192.0.2.8"), at(0)),
            Ok(()),
            "another client"
        );
        assert_eq!(limit.take_at(client, at(99)), Err(at(1)));
        assert_eq!(limit.take_at(client, at(100)), Ok(()));
        assert_eq!(limit.take_at(client, at(100)), Err(at(100)));
        // However long nobody asks, no more than the bucket comes together.
        for _ in 0..15 {
            assert_eq!(limit.take_at(client, at(3_600_000)), Ok(()));
        }
        assert!(limit.take_at(client, at(3_600_000)).is_err());
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory_and_frees_nobody_who_keeps_asking() {
        let limit = limit(1, 0);
        let busy = ip("192.0.2.7");
        assert!(limit.take_at(busy, Duration::ZERO).is_ok());
        for i in 0..4 * MAX_CLIENTS as u64 {
            let flood = Ipv6Addr::from_bits(u128::from(i) << 64);
            let _ = limit.take_at(flood.into(), Duration::ZERO);
            if i % 100 == 0 {
                assert!(limit.take_at(busy, Duration::ZERO).is_err(), "after {i}");
            }
        }
        assert!(limit.full_again.len() <= MAX_CLIENTS);
    }

    #[test]
    fn the_client_is_the_right_most_address_that_is_no_trusted_proxy() {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "2001:db8:ffff::/48"]
            .map(|net| net.parse().expect("a network"))
            .to_vec();
        for (peer, forwarded, want) in [
            ("192.0.2.7", &[][..], "192.0.2.7"),
            ("192.0.2.7", &["198.51.100.1"], "192.0.2.7"), // nobody believes it
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            (
                "10.0.0.1",
                &["203.0.113.9, 198.51.100.1, 10.0.0.2"],
                "198.51.100.1",
            ),
            (
                "10.0.0.1",
                &["203.0.113.9", "198.51.100.1", "10.0.0.2"],
                "198.51.100.1",
            ),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::"),
            ("10.0.0.1", &["2001:db8::1"], "2001:db8::"),
            ("10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.3"], "10.0.0.3"), // trusted all the way
            ("2001:db8:ffff::1", &["2001:db8:1:2:3::4"], "2001:db8:1:2::"),
            ("2001:db8:1:2:3:4:5:6", &[], "2001:db8:1:2::"),
        ] {
            let mut headers = HeaderMap::new();
            for line in forwarded {
                headers.append(FORWARDED_FOR, line.parse().expect("a value"));
            }
            assert_eq!(
                client(ip(peer), &headers, &trusted),
                ip(want),
                "{peer} {forwarded:?}"
            );
        }
    }
}

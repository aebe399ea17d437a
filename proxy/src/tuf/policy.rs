//! Whether trust is still good at some time. No I/O and no clock: the caller brings both.
//!
//! Expiry is a policy, and never "ignore": metadata is good until the first of its roles expires, then
//! followed for `tuf.expiry_grace`, and after that it vouches for nothing new. What was proven with it
//! stays proven.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::error::TufError;

/// When this program was built, in seconds since 1970: no right clock shows an earlier time.
const BUILT: &str = env!("TILE_PROXY_BUILT");

/// One role's version, and when it ends to be good.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RoleState {
    /// `root`, `timestamp`, `snapshot` or `targets`, or a delegated role's name.
    pub role: String,
    /// Its version.
    pub version: u64,
    /// When it expires.
    pub expires: Timestamp,
}

/// What metadata is worth at some time; what is worth most is the least.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Standing {
    /// Good.
    Valid,
    /// A role has expired, not longer ago than the grace period.
    InGrace,
    /// A role has expired longer ago: no new key and no new checkpoint is accepted.
    Expired,
}

/// What these roles are worth at `now`: as much as the one that expires first.
pub fn standing(roles: &[RoleState], now: Timestamp, grace: Duration) -> Standing {
    let Some(first) = roles.iter().map(|role| role.expires).min() else {
        return Standing::Expired; // nothing vouches for anything
    };
    // A role is no longer good at the time it expires (TUF specification, 5.3.10 and others).
    if now < first {
        Standing::Valid
    } else if now < later(first, grace) {
        Standing::InGrace
    } else {
        Standing::Expired
    }
}

/// The clock, if it can be right.
///
/// # Errors
/// [`TufError::Clock`].
pub fn plausible(now: Timestamp) -> Result<Timestamp, TufError> {
    let built = built();
    match now < built {
        true => Err(TufError::Clock { now, built }),
        false => Ok(now),
    }
}

/// The earliest time it can be.
pub fn built() -> Timestamp {
    // Written by `build.rs`.
    let seconds = BUILT.parse().unwrap_or_default();
    Timestamp::from_second(seconds).unwrap_or_default()
}

/// `now` as it was `grace` ago, for a client that knows expiry alone.
pub(super) fn earlier(now: Timestamp, grace: Duration) -> Timestamp {
    let grace = SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX);
    now.checked_sub(grace).unwrap_or(Timestamp::MIN)
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn trust_is_worth_as_much_as_the_role_that_expires_first() {
        let role = |role: &str, expires| RoleState {
            role: role.to_owned(),
            version: 1,
            expires: at(expires),
        };
        let roles = [
            role("root", "2027-01-01T00:00:00Z"),
            role("timestamp", "2026-12-01T00:00:00Z"),
            role("targets", "2036-01-01T00:00:00Z"),
        ];
        let day = Duration::from_secs(86_400);
        for (now, grace, want) in [
            ("2026-11-30T23:59:59Z", Duration::ZERO, Standing::Valid),
            ("2026-12-01T00:00:00Z", Duration::ZERO, Standing::Expired),
            ("2026-12-01T00:00:00Z", day, Standing::InGrace),
            ("2026-12-01T23:59:59Z", day, Standing::InGrace),
            ("2026-12-02T00:00:00Z", day, Standing::Expired),
            // As long as one can say, and longer: no arithmetic overflows.
            ("9999-12-30T00:00:00Z", Duration::MAX, Standing::InGrace),
        ] {
            assert_eq!(standing(&roles, at(now), grace), want, "{now} {grace:?}");
        }
        assert_eq!(
            standing(&[], at("2026-01-01T00:00:00Z"), day),
            Standing::Expired
        );
    }

    #[test]
    fn a_clock_before_the_build_is_refused() {
        let built = built();
        assert!(built > at("2026-01-01T00:00:00Z"), "{built}");
        assert_eq!(plausible(built).expect("possible"), built);
        let before = built - SignedDuration::from_secs(1);
        let refused = plausible(before).expect_err("impossible");
        assert_eq!(refused.reason(), "clock");
    }
}

//! How it goes with following a log, in one word: for the statistics, a metric, and the operator.

use std::time::Duration;

use serde::Serialize;

/// How it goes with following a log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum LogState {
    /// The log confirmed what is served not long ago.
    Fresh,
    /// What is served is old, or nobody knows how old. Also what an offline proxy says of a log that
    /// nobody has confirmed for long: that is wanted there, and no less true.
    Stale,
    /// Two histories of the log were seen, and the evidence is kept. The trusted one stays served.
    SplitView,
    /// Nothing is trusted of it, so nothing is served.
    Failing,
}

impl LogState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fresh, Self::Stale, Self::SplitView, Self::Failing];

    /// Its name in JSON and in the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "Fresh",
            Self::Stale => "Stale",
            Self::SplitView => "SplitView",
            Self::Failing => "Failing",
        }
    }
}

/// What the state of a log follows from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Standing {
    /// Whether evidence of two histories is kept.
    pub split_view: bool,
    /// Whether there is a trusted tree to serve.
    pub serves: bool,
    /// Time since the log confirmed it; `None` if nobody knows.
    pub age: Option<Duration>,
    /// How often the log is asked.
    pub refresh_interval: Duration,
}

impl Standing {
    /// In one word, where a checkpoint counts as old from `checkpoint_ttl` on. One that was asked for
    /// only once since is not old: the log may have been asked a moment too early.
    pub fn state(self, checkpoint_ttl: Duration) -> LogState {
        let limit = checkpoint_ttl.max(self.refresh_interval.saturating_mul(2));
        match self {
            // What has been proven against a log outweighs what one proxy makes of it.
            Self {
                split_view: true, ..
            } => LogState::SplitView,
            Self { serves: false, .. } => LogState::Failing,
            Self { age: Some(age), .. } if age <= limit => LogState::Fresh,
            Self { .. } => LogState::Stale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_as_well_as_its_worst_trouble() {
        use LogState::{Failing, Fresh, SplitView, Stale};
        let age = |seconds| Some(Duration::from_secs(seconds));
        for (split_view, serves, age, interval, want) in [
            (false, true, age(0), 10, Fresh),
            (false, true, age(300), 10, Fresh), // the TTL itself
            (false, true, age(301), 10, Stale),
            (false, true, age(301), 200, Fresh), // asked every 200 s: one miss is no trouble
            (false, true, age(400), 200, Fresh),
            (false, true, age(401), 200, Stale),
            (false, true, None, 10, Stale), // an age that nobody knows
            (false, true, age(301), u64::MAX, Fresh), // no overflow
            (false, false, None, 10, Failing),
            (false, false, age(0), 10, Failing), // confirmed, and then its key was withdrawn
            (true, true, age(0), 10, SplitView),
            (true, true, age(301), 10, SplitView),
            (true, false, None, 10, SplitView),
        ] {
            let standing = Standing {
                split_view,
                serves,
                age,
                refresh_interval: Duration::from_secs(interval),
            };
            let state = standing.state(Duration::from_secs(300));
            assert_eq!(state, want, "{standing:?}");
        }
    }

    #[test]
    fn a_state_has_one_name() {
        for state in LogState::ALL {
            let json = serde_json::to_value(state).expect("a word");
            assert_eq!(json, state.as_str());
        }
    }
}

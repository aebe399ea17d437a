//! How trust from TUF stands: for metrics, statistics, the status page, and a line when it changes.

use jiff::Timestamp;
use serde::Serialize;
use tracing::{info, warn};

use super::{Tuf, policy::Standing};

/// How trust stands, in a word.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The repository said so a moment ago.
    Fresh,
    /// A role has expired.
    Stale,
    /// The repository cannot be asked; what was kept is still good.
    Offline,
    /// There is no trust, or what the repository offered was refused.
    Failed,
}

/// Every state there is.
pub(super) const STATES: [State; 4] = [State::Fresh, State::Stale, State::Offline, State::Failed];

impl State {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Offline => "offline",
            Self::Failed => "failed",
        }
    }
}

/// `tuf` in the statistics.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TufStatus {
    /// In a word.
    pub state: State,
    /// Whether it is so long that anything new is believed no more.
    pub expired: bool,
    /// When a refresh last came to its end, in this process.
    pub last_success: Option<String>,
    /// Why the last one failed, if it did.
    pub last_error: Option<String>,
    /// Version and expiry of each role.
    pub roles: Vec<RoleStatus>,
}

/// One role of [`TufStatus`].
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleStatus {
    /// Its name.
    pub role: String,
    /// Its version.
    pub version: u64,
    /// When it expires.
    pub expires: String,
}

impl Tuf {
    /// How it stands now.
    pub fn status(&self) -> TufStatus {
        self.status_at(Timestamp::now())
    }

    pub(super) fn status_at(&self, now: Timestamp) -> TufStatus {
        let state = self.state(now);
        let history = self.history();
        let error = history
            .attempted
            .as_ref()
            .and_then(|(_, failure)| failure.as_ref());
        let loaded = self.loaded.load();
        let roles = loaded.iter().flat_map(|loaded| &loaded.roles);
        TufStatus {
            state,
            expired: self.standing(now) == Standing::Expired,
            last_success: history.succeeded.map(seconds),
            last_error: error.map(|(_, message)| message.clone()),
            roles: roles
                .map(|role| RoleStatus {
                    role: role.role.clone(),
                    version: role.version,
                    expires: seconds(role.expires),
                })
                .collect(),
        }
    }

    /// Brings the gauges up to date.
    pub fn measure(&self) {
        self.tell(Timestamp::now());
    }

    fn state(&self, now: Timestamp) -> State {
        if self.loaded.load().is_none() {
            return State::Failed;
        }
        if self.standing(now) != Standing::Valid {
            return State::Stale;
        }
        match &self.history().attempted {
            None => State::Offline,
            Some((_, None)) => State::Fresh,
            Some((_, Some(("unreachable", _)))) => State::Offline,
            Some((_, Some(_))) => State::Failed,
        }
    }

    /// Sets the gauges, and says what has changed since the last time.
    pub(super) fn tell(&self, now: Timestamp) {
        let (state, expired) = (self.state(now), self.standing(now) == Standing::Expired);
        for one in STATES {
            let gauge = self.metrics.tuf_state.with_label_values(&[one.as_str()]);
            gauge.set(i64::from(one == state));
        }
        let mut history = self.history();
        let failure = history
            .attempted
            .as_ref()
            .and_then(|(_, failure)| failure.clone());
        let told = Some((state, failure.as_ref().map(|(reason, _)| *reason)));
        if history.told == told {
            return;
        }
        history.told = told;
        drop(history);
        let state = state.as_str();
        match failure {
            None if expired => warn!(state, "trust from TUF has expired: nothing new is believed"),
            None => info!(state, "trust from TUF"),
            Some((reason, error)) => warn!(
                state,
                expired, reason, error, "trust from TUF not refreshed"
            ),
        }
    }
}

/// To the second, as metadata has it.
fn seconds(time: Timestamp) -> String {
    let time = Timestamp::from_second(time.as_second()).unwrap_or(time);
    time.to_string()
}

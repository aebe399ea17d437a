//! What replicas have said of their logs, as it shows in the conditions.

use std::time::Instant;

use super::Replica;
use crate::{
    condition::{Finding, Reason, Type},
    controller::{
        logs::{LogState, PATIENCE, Reports, Trial, Trials},
        validate::ValidProxy,
    },
    crd::{LogStatus, Mode},
};

/// What replicas have said of their logs.
pub struct Heard {
    /// What each said last.
    pub reports: Reports,
    /// How those stand that a rollout has changed.
    pub trials: Trials,
    /// When this was.
    pub at: Instant,
}

/// A replica that runs the spec and is ready, and whose logs are waited for.
pub(super) fn on_trial(name: &str, trial: &Trial) -> Finding {
    match trial {
        Trial::Lacks { logs, stalled } => {
            let logs = logs.join(", ");
            if *stalled {
                let message = format!(
                    "{name} does not serve {logs}, which other replicas serve and go on serving. See \
                     /_admin/cache/stats on its port 8081; changing the spec back recovers"
                );
                return Finding::no(Type::Progressing, Reason::RolloutStalled, message);
            }
            let message = format!("waiting for {name} to serve {logs}, as other replicas do");
            Finding::yes(Type::Progressing, Reason::RollingOut, message)
        }
        Trial::Passed | Trial::Unheard | Trial::Unreachable => {
            let message = format!(
                "waiting for {name} to say how its logs are; after {} s, being ready will do",
                PATIENCE.as_secs()
            );
            Finding::yes(Type::Progressing, Reason::RollingOut, message)
        }
    }
}

/// What is wrong with logs, the worst of it.
pub(super) fn unwell(valid: &ValidProxy, logs: &[LogStatus]) -> Option<Finding> {
    let names = |state: LogState| {
        let of_state = logs.iter().filter(|log| log.state == state.as_str());
        let names: Vec<&str> = of_state.map(|log| log.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let yes = |reason, message| Some(Finding::yes(Type::Degraded, reason, message));
    if let Some(names) = names(LogState::SplitView) {
        let message = format!(
            "two histories were seen of {names}: what was trusted before stays served, and the notes \
             that prove it are below evidence/ in the cache of a replica"
        );
        return yes(Reason::LogSplitView, message);
    }
    if let Some(names) = names(LogState::Failing) {
        let message = format!(
            "a replica trusts nothing of {names}, and so serves nothing of it; see /_admin/cache/stats on \
             port 8081 of each"
        );
        return yes(Reason::LogFailing, message);
    }
    // A log that nobody asks is as old as what was imported, which is how it is wanted.
    let is_asked = valid.mode == Mode::Online;
    let names = names(LogState::Stale).filter(|_| is_asked)?;
    let message = format!(
        "nobody has confirmed for long what is served of {names}: the log cannot be reached, or what it \
         offers is refused"
    );
    yes(Reason::LogStale, message)
}

/// Replicas that are ready and have not answered for long.
pub(super) fn silent(replicas: &[Replica<'_>], heard: &Heard) -> Vec<String> {
    let silent = replicas.iter().filter(|replica| {
        let report = heard.reports.get(&replica.name);
        replica.is_ready() && report.is_some_and(|report| report.is_silent(heard.at))
    });
    silent.map(|replica| replica.name.clone()).collect()
}

/// `logs` and whatever else is wrong, as one condition. Proof against a log is hidden by nothing; the
/// other troubles of a log may follow from what is told instead.
pub(super) fn with_logs(logs: Option<Finding>, otherwise: Finding, silent: &[String]) -> Finding {
    let is_otherwise = otherwise.holds == Some(true);
    let mut finding = match logs {
        Some(split) if split.reason == Reason::LogSplitView && is_otherwise => {
            let message = format!("{}; besides: {}", split.message, otherwise.message);
            Finding::yes(Type::Degraded, split.reason, message)
        }
        Some(logs) if logs.reason == Reason::LogSplitView || !is_otherwise => logs,
        Some(_) | None => otherwise,
    };
    if !silent.is_empty() {
        finding.message.push_str(&format!(
            "; {} cannot be asked about logs on port 8081, so status.logs may be old",
            silent.join(", ")
        ));
    }
    finding
}

use serde_json::json;

use super::*;

const ROME: &str = "rome.example.net/2026h1";

fn log(name: &str, state: LogState) -> LogReport {
    LogReport {
        name: name.to_owned(),
        origin: if state == LogState::Failing {
            String::new()
        } else {
            format!("{name}.example.net/2026h1")
        },
        state: Some(state),
        serves: state != LogState::Failing,
    }
}

fn said(asked: Instant, logs: Vec<LogReport>) -> Report {
    Report {
        logs: Some(logs),
        asked: Some(asked),
        silent_since: None,
    }
}

fn silent(since: Instant) -> Report {
    Report {
        silent_since: Some(since),
        ..Report::default()
    }
}

fn reports<const N: usize>(all: [Report; N]) -> Reports {
    let names = (0..).map(|ordinal| format!("rome-replica-{ordinal}"));
    names.zip(all).collect()
}

fn of(name: &str, state: &str) -> LogStatus {
    LogStatus {
        name: name.to_owned(),
        origin: format!("{name}.example.net/2026h1"),
        state: state.to_owned(),
    }
}

#[test]
fn what_a_replica_says_is_bounded() {
    let name = "r".repeat(63);
    let stats = |logs: serde_json::Value| json!({"version": 1, "logs": logs, "more": 7});
    for (logs, want) in [
        (
            json!([{"name": "rome", "origin": ROME, "size": 7, "state": "Fresh", "hits": 3}]),
            vec![("rome", ROME, Some(LogState::Fresh), true)],
        ),
        // One that trusts nothing, one that is older than states, and a state from the future.
        (
            json!([
                {"name": "a", "origin": null, "size": null, "state": "Failing"},
                {"name": "b", "size": 7},
                {"name": "c", "size": 7, "state": "Excellent"},
            ]),
            vec![
                ("a", "", Some(LogState::Failing), false),
                ("b", "", None, true),
                ("c", "", None, true),
            ],
        ),
        (
            json!([{"name": name, "state": "Stale"}, {"name": format!("{name}r")}]),
            vec![(name.as_str(), "", Some(LogState::Stale), false)],
        ),
        (
            json!([{"name": ""}, {"name": "Rome"}, {"name": "a\nb"}, {"name": "é"}]),
            vec![],
        ),
        (
            json!([{"name": "a", "origin": "two\nlines"}, {"name": "b", "origin": "o".repeat(256)}]),
            vec![("a", "", None, false), ("b", "", None, false)],
        ),
        (
            json!([{"name": "a", "size": 1}, {"name": "a"}]), // the last one counts
            vec![("a", "", None, false)],
        ),
    ] {
        let parsed = parse(stats(logs.clone()).to_string().as_bytes()).expect("statistics");
        let parsed: Vec<_> = parsed
            .iter()
            .map(|log| (&*log.name, &*log.origin, log.state, log.serves))
            .collect();
        assert_eq!(parsed, want, "{logs}");
    }
    let many = (0..=MAX_LOGS).map(|n| json!({"name": format!("log-{n:03}")}));
    let many = parse(stats(many.collect()).to_string().as_bytes()).expect("statistics");
    assert_eq!(many.len(), MAX_LOGS);
    assert_eq!(many.last().map(|log| &*log.name), Some("log-099"));
}

#[test]
fn what_is_not_the_statistics_of_a_replica_is_an_error() {
    for (body, says) in [
        ("<html>", "no statistics"),
        ("{}", "no statistics"),
        (r#"{"version": 1, "logs": 7}"#, "no statistics"),
        (r#"{"version": 1, "logs": [{"size": 7}]}"#, "no statistics"),
        (r#"{"version": 2, "logs": []}"#, "unknown version 2"),
    ] {
        let error = parse(body.as_bytes()).expect_err(body);
        assert!(error.contains(says), "{body}: {error}");
    }
}

#[test]
fn the_worst_that_a_replica_says_of_a_log_is_its_state() {
    use LogState::{Failing, Fresh, SplitView, Stale};
    let now = Instant::now();
    for (said_by, want) in [
        ([Fresh, Fresh], "Fresh"),
        ([Fresh, Stale], "Stale"),
        ([Failing, Stale], "Failing"),
        ([Failing, SplitView], "SplitView"),
    ] {
        let all = said_by.map(|state| said(now, vec![log("rome", state)]));
        assert_eq!(status(&reports(all), vec![]), [of("rome", want)]);
    }
    // Each log by itself, sorted; the origin comes from whoever knows it.
    let all = [
        said(now, vec![log("rome", Failing), log("oslo", Fresh)]),
        said(now, vec![log("oslo", Stale), log("rome", Fresh)]),
    ];
    let want = [of("oslo", "Stale"), of("rome", "Failing")];
    assert_eq!(status(&reports(all), vec![]), want);
    // A replica that cannot say how its logs are has no say; one without any log has none.
    let mut unknown = log("rome", Fresh);
    unknown.state = None;
    let all = [
        said(now, vec![unknown]),
        said(now, vec![log("rome", Stale)]),
    ];
    assert_eq!(status(&reports(all), vec![]), [of("rome", "Stale")]);
}

#[test]
fn an_old_status_stays_until_every_replica_was_asked() {
    let now = Instant::now();
    let old = vec![of("rome", "SplitView")];
    let fresh = || said(now, vec![log("rome", LogState::Fresh)]);
    for (all, want) in [
        (reports([Report::default(), Report::default()]), "SplitView"),
        (reports([fresh(), Report::default()]), "SplitView"),
        (reports([fresh(), silent(now)]), "Fresh"),
        (reports([silent(now), silent(now)]), "SplitView"), // nobody has said otherwise
        (reports([fresh(), fresh()]), "Fresh"),
    ] {
        assert_eq!(status(&all, old.clone()), [of("rome", want)], "{all:?}");
    }
    assert_eq!(status(&reports([]), old), [], "no replica, no log");
}

#[test]
fn what_a_silent_replica_said_last_counts() {
    let now = Instant::now();
    let mut gone = said(now, vec![log("rome", LogState::Stale)]);
    gone.silent_since = Some(now);
    let all = reports([gone, said(now, vec![log("rome", LogState::Fresh)])]);
    assert_eq!(status(&all, vec![]), [of("rome", "Stale")]);
}

/// How replica 0, ready since ten seconds, stands a trial among two others.
fn trial(zero: Report, others: [Report; 2]) -> Trial {
    let [one, two] = others;
    judged(&reports([zero, one, two]), Duration::from_secs(10))
}

/// The moment from which the replica of a trial is ready.
fn begin() -> Instant {
    static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *BEGIN.get_or_init(|| Instant::now() + Duration::from_secs(3_600))
}

fn judged(reports: &Reports, waited: Duration) -> Trial {
    let serving = ["rome-replica-1", "rome-replica-2"].map(str::to_owned);
    let times = (begin(), begin() + waited);
    let serving = BTreeSet::from(serving);
    judge("rome-replica-0", times, PATIENCE, reports, &serving)
}

fn lacks(logs: &[&str]) -> Trial {
    Trial::Lacks {
        logs: logs.iter().map(|log| (*log).to_owned()).collect(),
        stalled: false,
    }
}

#[test]
fn a_log_that_works_elsewhere_must_work_on_the_replica_that_was_changed() {
    use LogState::{Failing, Fresh, SplitView, Stale};
    let of_state = |state| said(begin(), vec![log("default", state)]);
    for (zero, one, two, want) in [
        (Fresh, Fresh, Fresh, Trial::Passed),
        (Stale, Fresh, Fresh, Trial::Passed), // it has the tree and serves it
        (SplitView, Fresh, Fresh, Trial::Passed), // so it does then
        (Failing, Fresh, Fresh, lacks(&["default"])),
        (Failing, Failing, Stale, lacks(&["default"])), // one is enough
        (Failing, SplitView, Failing, lacks(&["default"])),
        (Failing, Failing, Failing, Trial::Passed), // the log is gone: nobody's fault
        (Fresh, Failing, Failing, Trial::Passed),
    ] {
        let judged = trial(of_state(zero), [of_state(one), of_state(two)]);
        assert_eq!(judged, want, "{zero:?} {one:?} {two:?}");
    }
}

#[test]
fn only_logs_that_the_spec_still_has_are_waited_for() {
    use LogState::{Failing, Fresh};
    let both = || said(begin(), vec![log("oslo", Fresh), log("rome", Fresh)]);
    let one = said(begin(), vec![log("oslo", Fresh)]);
    assert_eq!(trial(one, [both(), both()]), Trial::Passed);
    // A new one that does not work yet takes nothing away from anybody.
    let more = vec![log("lima", Failing), log("oslo", Fresh)];
    assert_eq!(trial(said(begin(), more), [both(), both()]), Trial::Passed);
    // One that was called otherwise is known by its origin.
    let mut renamed = log("milan", Failing);
    renamed.origin = "rome.example.net/2026h1".to_owned();
    let renamed = said(begin(), vec![renamed]);
    assert_eq!(trial(renamed, [both(), both()]), lacks(&["milan"]));
    // Two that nobody knows the origin of are not one.
    let unknown = || log("lima", Failing);
    let mut serves = log("oslo", Fresh);
    serves.origin = String::new();
    let other = said(begin(), vec![serves]);
    let zero = said(begin(), vec![unknown()]);
    assert_eq!(trial(zero, [other.clone(), other]), Trial::Passed);
}

#[test]
fn only_what_was_asked_since_a_replica_is_ready_is_about_it() {
    let fresh = || said(begin(), vec![log("default", LogState::Fresh)]);
    let mut before = fresh();
    before.asked = Some(begin() - Duration::from_millis(1));
    assert_eq!(trial(before, [fresh(), fresh()]), Trial::Unheard);
    assert_eq!(trial(fresh(), [fresh(), fresh()]), Trial::Passed);
}

#[test]
fn who_does_not_answer_blocks_no_rollout_for_long() {
    let fresh = || said(begin(), vec![log("default", LogState::Fresh)]);
    let failing = || said(begin(), vec![log("default", LogState::Failing)]);
    let zero = reports([silent(begin()), fresh(), fresh()]);
    let just = Duration::from_millis(1);
    assert_eq!(judged(&zero, PATIENCE - just), Trial::Unheard);
    assert_eq!(judged(&zero, PATIENCE), Trial::Unreachable);
    assert_eq!(judged(&reports([]), PATIENCE), Trial::Unreachable);
    // What was said by others that are silent now, or do not serve any more, demands nothing.
    let mut gone = fresh();
    gone.silent_since = Some(begin());
    assert_eq!(trial(failing(), [gone.clone(), gone]), Trial::Passed);
    let down = reports([failing(), failing(), failing(), fresh()]); // replica 3 does not serve
    assert_eq!(judged(&down, just), Trial::Passed);
}

#[test]
fn a_replica_that_lacks_a_log_for_long_is_stuck() {
    let fresh = said(begin(), vec![log("default", LogState::Fresh)]);
    let failing = said(begin(), vec![log("default", LogState::Failing)]);
    let all = reports([failing, fresh]);
    for (waited, want) in [
        (STALLED_AFTER - Duration::from_millis(1), false),
        (STALLED_AFTER, true),
    ] {
        let Trial::Lacks { stalled, .. } = judged(&all, waited) else {
            panic!("it lacks a log");
        };
        assert_eq!(stalled, want, "{waited:?}");
    }
}

#[test]
fn only_long_silence_is_told() {
    let report = silent(begin());
    assert!(!report.is_silent(begin() + SILENT_AFTER - Duration::from_millis(1)));
    assert!(report.is_silent(begin() + SILENT_AFTER));
    assert!(!Report::default().is_silent(begin()));
}

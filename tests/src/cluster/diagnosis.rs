//! What explains a failure, gathered while it is still there to see.

use std::fmt::Write;
use std::time::Duration;

use super::Cluster;
use crate::run::last_lines;

/// See [`Cluster::diagnosis`]. Never fails: what cannot be asked is said to be unknown.
pub(super) fn explain(cluster: &Cluster, namespaces: &[&str]) -> String {
    let mut report = String::new();
    for component in cluster.components().unwrap_or_default() {
        if component.age_seconds.is_none() {
            let words = crate::run::last_lines_of(&component.log, COMPONENT_LINES);
            let _ = writeln!(
                report,
                "{} of {} does not run:\n{words}",
                component.name, component.node
            );
        }
    }
    section(
        &mut report,
        "pods",
        &ask(cluster, &["get", "pods", "--all-namespaces"]),
        LIST_LINES,
    );
    for namespace in namespaces {
        let here = ["--namespace", namespace];
        let warnings = [
            &[
                "get",
                "events",
                "--field-selector=type!=Normal",
                "--sort-by=.lastTimestamp",
            ][..],
            &here,
        ];
        let title = format!("warnings in {namespace}");
        section(
            &mut report,
            &title,
            &ask(cluster, &warnings.concat()),
            EVENT_LINES,
        );
        for pod in pods_not_ready(cluster, namespace) {
            let described = ask(cluster, &[&["describe", "pod", &pod][..], &here].concat());
            section(
                &mut report,
                &format!("pod {pod}"),
                &described,
                DESCRIBE_LINES,
            );
            let logs = [
                "logs",
                &pod,
                "--all-containers",
                "--tail=20",
                "--ignore-errors",
            ];
            let logs = ask(cluster, &[&logs[..], &here].concat());
            section(
                &mut report,
                &format!("last words of {pod}"),
                &logs,
                LOG_LINES,
            );
        }
    }
    report.trim_end().to_owned()
}

fn section(report: &mut String, title: &str, text: &str, lines: usize) {
    let text = last_lines(text, lines);
    let text = if text.is_empty() { "    none" } else { &text };
    let _ = writeln!(report, "{title}:\n{text}");
}

/// The pods of a namespace with a container that is not ready.
fn pods_not_ready(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let columns = "--output=jsonpath={range .items[*]}{.metadata.name}{' '}\
        {.status.conditions[?(@.type=='Ready')].status}{'\\n'}{end}";
    ask(cluster, &["get", "pods", "--namespace", namespace, columns])
        .lines()
        .filter_map(|line| {
            line.strip_suffix(" False")
                .or_else(|| line.strip_suffix(' '))
        })
        .map(str::to_owned)
        .collect()
}

fn ask(cluster: &Cluster, args: &[&str]) -> String {
    // Several questions are asked; a dead API server must not take minutes to be found dead.
    let answer = cluster
        .kubectl(args)
        .arg("--request-timeout=5s")
        .deadline(Duration::from_secs(8))
        .stdout();
    answer.unwrap_or_else(|error| format!("unknown: {error:#}"))
}

const COMPONENT_LINES: usize = 12;
const DESCRIBE_LINES: usize = 30;
const EVENT_LINES: usize = 15;
const LIST_LINES: usize = 40;
const LOG_LINES: usize = 20;

//! The alerts: they are PromQL, speak of metrics and labels that there are, and have a runbook.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::parser::{Expr, LabelModifier, VectorSelector, parse};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

use super::{list, objects, objects_with, string, text, the};

/// The alerts as they are rendered, by name.
fn alerts(objects: &[Value]) -> BTreeMap<String, Value> {
    let groups = list(&the(objects, "PrometheusRule")["spec"]["groups"]);
    groups
        .iter()
        .flat_map(|group| list(&group["rules"]))
        .map(|rule| (string(&rule["alert"]).to_owned(), rule.clone()))
        .collect()
}

fn by_default() -> BTreeMap<String, Value> {
    alerts(&objects_with("default", &["prometheusRule.enabled=true"]))
}

#[test]
fn every_alert_has_its_section_and_every_section_its_alert() {
    let page = text("docs/runbooks.md");
    let sections: BTreeSet<&str> = page.lines().filter_map(|l| l.strip_prefix("## ")).collect();
    let alerts = by_default();
    let names: BTreeSet<&str> = alerts.keys().map(String::as_str).collect();
    assert_eq!(sections, names);
    for (name, rule) in &alerts {
        let url = string(&rule["annotations"]["runbook_url"]);
        let section = format!("docs/runbooks.md#{}", name.to_lowercase());
        assert!(url.ends_with(&section), "{url}");
        for part in ["**Means:**", "**Do:**"] {
            let body = page
                .split(&format!("## {name}\n"))
                .nth(1)
                .expect("a section");
            let body = body.split("\n## ").next().expect("it has an end");
            assert!(body.contains(part), "{name} lacks {part}");
        }
    }
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_has_happened() {
    for (name, rule) in by_default() {
        let severity = string(&rule["labels"]["severity"]);
        assert!(
            ["critical", "warning"].contains(&severity),
            "{name}: {severity}"
        );
        for text in ["summary", "description"] {
            let text = string(&rule["annotations"][text]);
            assert!(text.len() > 20 && !text.contains("${"), "{name}: {text}");
        }
    }
}

/// What an expression reads, and by which labels it groups.
#[derive(Default)]
struct Read {
    metrics: BTreeMap<String, BTreeSet<String>>,
    grouped: BTreeSet<String>,
}

impl Read {
    fn add(&mut self, selector: &VectorSelector) {
        let name = selector.name.clone().expect("a metric by its name");
        let labels = selector.matchers.matchers.iter().map(|m| m.name.clone());
        self.metrics.entry(name).or_default().extend(labels);
    }
}

impl ExprVisitor for Read {
    type Error = String;

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, String> {
        match expr {
            Expr::VectorSelector(selector) => self.add(selector),
            Expr::MatrixSelector(matrix) => self.add(&matrix.vs),
            Expr::Aggregate(aggregate) => {
                if let Some(LabelModifier::Include(labels)) = &aggregate.modifier {
                    self.grouped.extend(labels.labels.iter().cloned());
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

/// Metrics and their labels, from the pages that tests hold against the programs.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let pages = [text("docs/metrics.md"), text("docs/operator.md")];
    let rows = pages.iter().flat_map(|page| page.lines());
    let rows = rows.filter(|line| line.starts_with("| `tile_proxy_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let labels = cells[2]
            .split(", ")
            .map(|label| label.trim_matches('`').to_owned());
        (cells[0].trim_matches('`').to_owned(), labels.collect())
    })
    .collect()
}

/// Labels that Prometheus adds to what it scrapes from a pod.
const OF_TARGETS: [&str; 2] = ["namespace", "pod"];

#[test]
fn every_alert_reads_metrics_and_labels_that_there_are() {
    let documented = documented();
    assert!(documented.len() > 20, "{documented:?}");
    for (name, rule) in by_default() {
        let expr = string(&rule["expr"]);
        let parsed = parse(expr).unwrap_or_else(|error| panic!("{name}: {error}: {expr}"));
        let mut read = Read::default();
        walk_expr(&mut read, &parsed).expect("walked");
        assert!(!read.metrics.is_empty(), "{name} reads nothing");
        let mut known: BTreeSet<&str> = OF_TARGETS.into();
        for (metric, labels) in &read.metrics {
            let of_metric = documented
                .get(metric)
                .unwrap_or_else(|| panic!("{name}: there is no metric {metric}"));
            assert!(
                labels.is_subset(of_metric),
                "{name}: {metric} has no {labels:?}"
            );
            known.extend(of_metric.iter().map(String::as_str));
        }
        for label in &read.grouped {
            assert!(known.contains(label.as_str()), "{name} groups by {label}");
        }
        // What is aggregated has only the labels it is grouped by.
        if !read.grouped.is_empty() {
            known = read.grouped.iter().map(String::as_str).collect();
        }
        let texts = rule["annotations"].to_string();
        for used in texts.split("$labels.").skip(1) {
            let end = used.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let label = &used[..end.expect("it is closed")];
            assert!(known.contains(label), "{name} speaks of a label {label}");
        }
    }
}

#[test]
fn values_change_thresholds_labels_and_links_and_leave_alerts_out() {
    let (all, changed) = (by_default(), alerts(&objects("everything")));
    assert_eq!(
        all["TileProxyCheckpointStale"]["expr"],
        "tile_proxy_checkpoint_age_seconds > 900"
    );
    let expr = string(&changed["TileProxyCheckpointStale"]["expr"]);
    assert_eq!(
        expr, "tile_proxy_checkpoint_age_seconds > 2000000",
        "and not 2e+06"
    );
    for (alert, days) in [
        ("TileProxyCertificateExpiring", 30),
        ("TileProxyTrustExpiring", 2),
    ] {
        let expr = string(&changed[alert]["expr"]);
        assert!(expr.ends_with(&format!("< {days} * 86400")), "{expr}");
    }
    let left_out: Vec<&String> = all
        .keys()
        .filter(|name| !changed.contains_key(*name))
        .collect();
    assert_eq!(left_out, ["TileProxyUpstreamUnhealthy"]);
    let split = &changed["TileProxySplitView"];
    assert_eq!(split["labels"]["team"], "transparency");
    assert_eq!(split["labels"]["severity"], "critical", "it is the chart's");
    let url = "https://runbooks.example/tile-proxy#tileproxysplitview";
    assert_eq!(split["annotations"]["runbook_url"], url);
}

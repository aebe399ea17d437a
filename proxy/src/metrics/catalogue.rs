//! What is registered, and the page that explains it.

use std::sync::Mutex;

use prometheus::{
    Encoder as _, Registry, TextEncoder,
    core::Collector,
    proto::{MetricFamily, MetricType},
};

/// A registry that can also say what is registered: `gather` leaves out what has no value yet.
#[derive(Debug, Default)]
pub struct Catalogue {
    registry: Registry,
    described: Mutex<Vec<Described>>,
}

/// One metric, as its page in `docs/` lists it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Described {
    /// Its name, without the suffixes of a histogram's series.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels, in order.
    pub labels: Vec<String>,
    /// Its help text.
    pub help: String,
}

impl Catalogue {
    /// Registers one metric.
    ///
    /// # Errors
    /// Only a programming error: a name used twice.
    pub fn register(&self, collector: Box<dyn Collector>) -> Result<(), prometheus::Error> {
        let families: Vec<MetricFamily> = collector.collect();
        let described = collector.desc().into_iter().zip(families);
        let described = described.map(|(desc, family)| Described {
            name: desc.fq_name.clone(),
            kind: match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                MetricType::HISTOGRAM => "histogram",
                MetricType::SUMMARY | MetricType::UNTYPED => "other",
            },
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        });
        let described: Vec<Described> = described.collect();
        self.registry.register(collector)?;
        if let Ok(mut all) = self.described.lock() {
            all.extend(described);
        }
        Ok(())
    }

    /// Everything that is registered, in that order.
    pub fn described(&self) -> Vec<Described> {
        self.described
            .lock()
            .map(|all| all.clone())
            .unwrap_or_default()
    }

    /// Everything that has a value, in the Prometheus text format.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to memory cannot fail, and metrics without values are left out by `gather`.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }

    /// What `page` has wrong: a test of each page of metrics expects nothing.
    ///
    /// Rows of a page are `| name | type | labels | help | what to do |`, one for each metric.
    pub fn differences(&self, page: &str) -> Vec<String> {
        let mut listed: Vec<Vec<&str>> = page
            .lines()
            .filter(|line| line.starts_with("| `tile_proxy_"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let mut wrong = Vec::new();
        for metric in self.described() {
            let row = metric.row();
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let name = cells.first().copied();
            let Some(at) = listed
                .iter()
                .position(|found| found.first().copied() == name)
            else {
                wrong.push(format!("it lacks this row: {row}"));
                continue;
            };
            let found = listed.remove(at);
            if found.get(..4) != cells.get(..4) {
                wrong.push(format!("a row should begin so: {row}"));
            }
            if found.get(4).is_none_or(|todo| todo.len() <= 10) {
                wrong.push(format!("it does not say what to do when {name:?} moves"));
            }
            if !metric.help.ends_with('.') {
                wrong.push(format!("the help of {name:?} is not a sentence"));
            }
        }
        // Left are rows of metrics that are not there, or that have a row already.
        wrong.extend(
            listed
                .iter()
                .map(|row| format!("it has this row too much: {row:?}")),
        );
        wrong
    }
}

impl Described {
    fn row(&self) -> String {
        let labels: Vec<String> = self
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let labels = labels.join(", ");
        format!(
            "| `{}` | {} | {labels} | {} |",
            self.name, self.kind, self.help
        )
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{IntCounterVec, Opts};

    use super::*;

    #[test]
    fn each_way_a_page_can_be_wrong_is_told() {
        let catalogue = Catalogue::default();
        let options = Opts::new("tile_proxy_seals_total", "Seals seen, by colour.");
        let seals = IntCounterVec::new(options, &["colour"]).expect("named");
        catalogue.register(Box::new(seals)).expect("registered");
        let good = "| `tile_proxy_seals_total` | counter | `colour` | Seals seen, by colour. | Count again. |";
        for (page, want) in [
            (good.to_owned(), None),
            (String::new(), Some("it lacks this row")),
            (good.replace("counter", "gauge"), Some("should begin so")),
            (good.replace("`colour`", ""), Some("should begin so")),
            (good.replace("seen,", "heard,"), Some("should begin so")),
            (good.replace("Count again.", "-"), Some("what to do")),
            (format!("{good}\n{good}"), Some("too much")),
            (
                format!("{good}\n| `tile_proxy_otters` | gauge | | Otters. | Count again. |"),
                Some("too much"),
            ),
        ] {
            let wrong = catalogue.differences(&page);
            match want {
                None => assert!(wrong.is_empty(), "{wrong:?}"),
                Some(want) => assert!(
                    matches!(&wrong[..], [only] if only.contains(want)),
                    "{want}: {wrong:?}"
                ),
            }
        }
    }
}

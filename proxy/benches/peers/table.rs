//! Samples, their medians, and tables of them.

use std::{fmt::Write as _, time::Duration};

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) cpu_us: f64,
    pub(crate) per_second: f64,
    pub(crate) first: Duration,
    pub(crate) last: Duration,
}

/// All measurements of one server.
#[derive(Debug)]
pub(crate) struct Row {
    name: &'static str,
    pub(crate) samples: Vec<Sample>,
}

impl Row {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            samples: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, sample: Sample) {
        self.samples.push(sample);
    }
}

/// The middle one; of an even number, the upper of the two.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Median, minimum and maximum.
pub(crate) fn spread(values: Vec<f64>, unit: &str) -> String {
    let (least, most) = values
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(least, most), value| {
            (least.min(*value), most.max(*value))
        });
    format!("{:.1} ({least:.1} to {most:.1}) {unit}", median(values))
}

/// A table with a last column that compares each row's `cost` with that of the last row, which is
/// ours: how many times dearer it is.
pub(crate) fn table(
    rows: &[Row],
    cpu: &str,
    rate: &str,
    [first, last]: [&str; 2],
    cost: impl Fn(&Row) -> f64,
) -> String {
    let mut text = String::new();
    let ours = rows.last().map_or(f64::NAN, &cost);
    let _ = writeln!(
        text,
        "  {:<44} {cpu:>24} {rate:>28} {first:>10} {last:>10} {:>8}",
        "", "cost"
    );
    for row in rows {
        let all = |of: fn(&Sample) -> f64| row.samples.iter().map(of).collect::<Vec<f64>>();
        let time = |of: fn(&Sample) -> f64| {
            let seconds = median(all(of));
            if seconds < 1e-3 {
                format!("{:.0} µs", seconds * 1e6)
            } else if seconds < 1.0 {
                format!("{:.1} ms", seconds * 1e3)
            } else {
                format!("{seconds:.2} s")
            }
        };
        let _ = writeln!(
            text,
            "  {:<44} {:>24} {:>28} {:>10} {:>10} {:>7.2}×",
            row.name,
            spread(all(|sample| sample.cpu_us), ""),
            spread(all(|sample| sample.per_second.round()), ""),
            time(|sample| sample.first.as_secs_f64()),
            time(|sample| sample.last.as_secs_f64()),
            cost(row) / ours,
        );
    }
    text
}

//! One line per step, with its time: a spinner on a terminal, plain lines anywhere else.
//!
//! Everything goes to standard error, so that what a command prints as its result can be piped.

use std::cell::Cell;
use std::fmt;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where steps are shown.
#[derive(Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
    shows: Shows,
}

/// Which ends of steps are shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Shows {
    All,
    Failures,
    Nothing,
}

impl Progress {
    /// Spinners if standard error is a terminal, plain lines otherwise.
    pub fn new() -> Self {
        let bars = stderr()
            .is_terminal()
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        let shows = Shows::All;
        Self { bars, shows }
    }

    /// Shows nothing but failures; for commands whose output belongs to the program they run.
    pub fn quiet() -> Self {
        let (bars, shows) = (None, Shows::Failures);
        Self { bars, shows }
    }

    /// Shows nothing; for what is tried again by somebody who tells.
    pub fn silent() -> Self {
        let (bars, shows) = (None, Shows::Nothing);
        Self { bars, shows }
    }

    /// Begins a step; it ends with [`Step::done`], or as failed when it is dropped.
    pub fn step(&self, name: impl Into<String>) -> Step<'_> {
        let name = name.into();
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(style(
                "  {spinner} {prefix} {elapsed:>5.dim}  {wide_msg:.dim}",
            ));
            bar.set_prefix(format!("{name:<NAME_WIDTH$}"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Step {
            progress: self,
            name,
            started: Instant::now(),
            bar,
            last_note: Cell::new(None),
            open: true,
        }
    }

    /// Prints a line that belongs to no step.
    pub fn say(&self, line: impl fmt::Display) {
        if self.shows == Shows::All {
            self.print(&line.to_string());
        }
    }

    fn print(&self, line: &str) {
        // `println` of the bars redraws them below the line; a closed stderr is nobody's problem.
        match &self.bars {
            Some(bars) => drop(bars.println(line)),
            None => eprintln!("{line}"),
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// One step under way.
#[derive(Debug)]
pub struct Step<'a> {
    progress: &'a Progress,
    name: String,
    started: Instant,
    bar: Option<ProgressBar>,
    last_note: Cell<Option<Instant>>,
    open: bool,
}

impl Step<'_> {
    /// Says what the step is doing now. Without a terminal at most one note per
    /// [`NOTE_INTERVAL`] is printed, enough to see that a long step lives.
    pub fn note(&self, text: impl fmt::Display) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_string());
            return;
        }
        let since = self.last_note.get().unwrap_or(self.started);
        if since.elapsed() >= NOTE_INTERVAL && self.progress.shows == Shows::All {
            self.last_note.set(Some(Instant::now()));
            eprintln!(
                "  … {:<NAME_WIDTH$} {:>9}  {text}",
                self.name,
                Time(self.started.elapsed())
            );
        }
    }

    /// Shows how much of a known amount is done.
    pub fn count(&self, done: u64, total: u64) {
        let Some(bar) = &self.bar else {
            return self.note(format_args!("{done} of {total}"));
        };
        if bar.length() != Some(total) {
            bar.set_length(total);
            bar.set_style(style(
                "  {spinner} {prefix} {elapsed:>5.dim}  {wide_bar:.dim} {pos}/{len}",
            ));
        }
        bar.set_position(done);
    }

    /// Ends the step well, with a word about the outcome.
    pub fn done(mut self, outcome: impl fmt::Display) {
        if self.progress.shows == Shows::All {
            self.finish("✓", &outcome.to_string());
        }
        self.open = false;
    }

    /// Ends a step that was not taken, with the reason.
    pub fn not_run(mut self, reason: impl fmt::Display) {
        if self.progress.shows == Shows::All {
            self.finish("–", &format!("not run: {reason}"));
        }
        self.open = false;
    }

    /// How long the step has been under way.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn finish(&self, mark: &str, outcome: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let time = Time(self.started.elapsed()).to_string();
        self.progress
            .print(format!("  {mark} {:<NAME_WIDTH$} {time:>9}  {outcome}", self.name).trim_end());
    }
}

impl Drop for Step<'_> {
    /// A step that was not ended left by an error; the error itself is printed by whoever handles it.
    fn drop(&mut self) {
        if self.open && self.progress.shows != Shows::Nothing {
            self.finish("✗", "failed");
        }
    }
}

/// A duration as people read it: `0.4 s`, `12.3 s`, `2 m 05 s`.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded first: 59.96 s is a minute, not `60.0 s`.
        let tenths = (self.0.as_millis() + 50) / 100;
        let text = match tenths {
            0..600 => format!("{}.{} s", tenths / 10, tenths % 10),
            _ => format!("{} m {:02} s", tenths / 600, tenths % 600 / 10),
        };
        f.pad(&text)
    }
}

/// A bar style from one of the templates above.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// The least time between two notes of one step without a terminal.
pub const NOTE_INTERVAL: Duration = Duration::from_secs(20);

/// Columns of a step's name; the longest is a component with its version.
const NAME_WIDTH: usize = 34;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (millis, want) in [
            (40, "0.0 s"),
            (449, "0.4 s"),
            (59_940, "59.9 s"),
            (59_960, "1 m 00 s"), // never `60.0 s`
            (125_000, "2 m 05 s"),
        ] {
            assert_eq!(Time(Duration::from_millis(millis)).to_string(), want);
        }
    }
}

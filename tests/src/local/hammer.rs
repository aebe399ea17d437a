//! Tessera's `hammer`: reads a log from many sides at once while it writes to it, and dies when two
//! checkpoints contradict each other. It does not look at what is in a bundle.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::daemon::Daemon;
use super::{PAUSE, World};
use crate::real_log::VERIFIER_KEY;
use crate::toolchain::TESSERA_HAMMER;
use crate::wait::{self, Seen};

/// A run under way; killed when dropped.
#[derive(Debug)]
pub struct Hammer(Daemon);

impl Hammer {
    /// Reads by turns from the proxies at `reads`, and writes to the log at `writes` until it reads
    /// that this has `goal` more entries.
    pub fn start(world: &World, reads: &[&str], writes: &str, goal: u64) -> Result<Self> {
        let mut command = Command::new(world.toolchain().path(TESSERA_HAMMER));
        command
            .args(reads.iter().map(|url| format!("--log_url={url}")))
            .arg(format!("--write_log_url={writes}"))
            .arg(format!("--log_public_key={VERIFIER_KEY}"))
            .arg(format!("--leaf_write_goal={goal}"))
            .args(["--show_ui=false", "--dup_chance=0", "--leaf_min_size=80"])
            .args(["--num_readers_random=4", "--num_readers_full=4"])
            // A writer waits until its entry is integrated, which is once a second or every 256.
            .args([
                "--max_read_ops=400",
                "--max_write_ops=400",
                "--num_writers=256",
            ]);
        Daemon::start(command, "hammer", &world.path("hammer.output")).map(Self)
    }

    /// Waits until `holds`; false if it has ended before that.
    pub fn works_until(&mut self, mut holds: impl FnMut() -> Result<bool>) -> Result<bool> {
        wait::until("what is waited for under load", DEADLINE, PAUSE, || {
            Ok(match (self.0.ended()?, holds()?) {
                (Some(_), _) => Seen::Ready(false),
                (None, true) => Seen::Ready(true),
                (None, false) => Seen::NotYet("the hammer works".to_owned()),
            })
        })
    }

    /// Waits until it has reached its goal; gives what it complained about.
    pub fn reaches_its_goal(mut self) -> Result<Vec<String>> {
        let status = self.0.wait(DEADLINE)?;
        ensure!(
            status.success(),
            "hammer: {status}\n{}",
            self.0.last_words()
        );
        // Its lines begin with their severity: I, W, E or F, and the date.
        let output = self.0.output()?;
        let complaints = output
            .lines()
            .filter(|line| line.starts_with(['W', 'E', 'F']))
            // With its goal reached it calls off what its readers have under way.
            .filter(|line| !line.ends_with(": context canceled"));
        Ok(complaints.map(str::to_owned).collect())
    }
}

const DEADLINE: Duration = Duration::from_secs(10 * 60);

//! What `/proc` says about processes: who they are, and which of them belong to the node.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A process that cannot be confused with a later one of the same number.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Process {
    /// Its number, seen from the host.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    started: u64,
}

impl Process {
    /// The process that has `pid` now.
    pub fn with_pid(pid: i32) -> Result<Self> {
        let stat = Stat::of(pid).with_context(|| format!("process {pid} is gone"))?;
        Ok(Self {
            pid,
            started: stat.started,
        })
    }

    /// Whether it still runs; a zombie does not.
    pub fn is_alive(self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != 'Z')
    }

    /// Seconds since it started.
    pub fn age_seconds(self) -> Option<u64> {
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let seconds: f64 = uptime.split(' ').next()?.parse().ok()?;
        // Truncation is meant: whole seconds.
        Some((seconds as u64).saturating_sub(self.started / TICKS_PER_SECOND))
    }

    /// The only child of this process, if it has exactly one.
    pub fn only_child(self) -> Option<Self> {
        let mut children =
            pids().filter(|&pid| Stat::of(pid).is_some_and(|s| s.parent == self.pid));
        let child = children.next()?;
        if children.next().is_some() {
            return None;
        }
        Self::with_pid(child).ok()
    }

    /// The program it runs now.
    pub fn program(self) -> Option<std::path::PathBuf> {
        fs::read_link(format!("/proc/{}/exe", self.pid)).ok()
    }
}

/// All processes other than this one that are in the network namespace `network` (as
/// [`namespace_id`] names it) or carry `marker` in their environment.
///
/// Two nets, because each has a hole: a process may start before the namespace is entered, and a
/// container does not inherit our environment.
pub fn members(network: Option<&str>, marker: &str) -> Vec<i32> {
    let own = std::process::id().cast_signed();
    pids()
        .filter(|&pid| pid != own)
        .filter(|pid| {
            let inside = network.is_some_and(|network| {
                fs::read_link(format!("/proc/{pid}/ns/net"))
                    .is_ok_and(|link| link.to_string_lossy() == network)
            });
            inside || has_environment(*pid, marker)
        })
        .collect()
}

/// The name the kernel gives the network namespace bound to `path`, such as `net:[4026532281]`;
/// none where no namespace is bound there.
pub fn namespace_id(path: &Path) -> Option<String> {
    use nix::sys::statfs::{NSFS_MAGIC, statfs};
    use std::os::unix::fs::MetadataExt;
    if statfs(path).ok()?.filesystem_type() != NSFS_MAGIC {
        return None;
    }
    Some(format!("net:[{}]", fs::metadata(path).ok()?.ino()))
}

fn has_environment(pid: i32, entry: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
        environment
            .split(|&b| b == 0)
            .any(|one| one == entry.as_bytes())
    })
}

/// Every process of the host.
pub(super) fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The fields of `/proc/PID/stat` we use; see proc(5).
struct Stat {
    state: char,
    parent: i32,
    started: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in parentheses, and may hold any of these itself.
        let (_, rest) = text.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        Some(Self {
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            started: fields.nth(17)?.parse().ok()?, // field 22; the iterator stands behind field 4
        })
    }
}

/// `USER_HZ`: 100 on every architecture Linux reports it for in /proc.
const TICKS_PER_SECOND: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_parentheses_in_its_name_is_read_right() {
        let stat =
            Stat::parse("42 (a) b (c)) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1")
                .unwrap();
        assert_eq!((stat.state, stat.parent, stat.started), ('S', 7, 12_345));
    }

    #[test]
    fn we_are_alive_and_no_other_process_is_us() {
        let us = Process::with_pid(std::process::id().cast_signed()).unwrap();
        assert!(us.is_alive());
        assert!(
            !Process {
                started: us.started + 1,
                ..us
            }
            .is_alive()
        );
    }
}

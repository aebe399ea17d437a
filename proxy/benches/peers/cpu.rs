//! Processor time, from `/proc`: of a process with its children, and of the whole machine.

use std::{fs, time::Duration};

/// Clock ticks a second in `/proc`: the same on every Linux that is not decades old.
const TICKS: u64 = 100;

/// User and system time of a process and of its living descendants.
pub(crate) fn of_tree(pid: u32) -> Duration {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let below: Duration = children
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .map(of_tree)
        .sum();
    of_process(&format!("/proc/{pid}/stat"), 2) + below
}

/// User and system time of this process, and of the children that it has waited for.
pub(crate) fn of_self() -> Duration {
    of_process("/proc/self/stat", 4)
}

/// The first `count` of: user time, system time, and those two of children waited for.
fn of_process(stat: &str, count: usize) -> Duration {
    let stat = fs::read_to_string(stat).unwrap_or_default();
    // The name, in parentheses, may hold anything; the fields are counted from behind it.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields
        .split_whitespace()
        .skip(11)
        .take(count)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum::<u64>();
    Duration::from_millis(ticks * 1_000 / TICKS)
}

/// Busy time of all processors of the machine.
pub(crate) fn of_machine() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|ticks| ticks.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal
    let busy = fields.iter().take(8).sum::<u64>() - fields.iter().skip(3).take(2).sum::<u64>();
    Duration::from_millis(busy * 1_000 / TICKS)
}

/// Memory that a process has locked, in KiB.
pub(crate) fn locked_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

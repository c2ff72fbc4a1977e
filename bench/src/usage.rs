//! What a process and its children used: proc(5).

use std::fs;
use std::time::Duration;

/// A process and all that descend from it.
pub(crate) fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // `pid (name) state ppid …`; the name may hold anything.
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut family = vec![root];
    let mut next = 0;
    while next < family.len() {
        let of = family[next];
        family.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

/// Whether it is a process of the launcher's that waits to become a worker.
pub(crate) fn is_spare(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"launcher\0worker\0spare "))
}

/// Processor time of a family, user and system: of every thread to the nanosecond, where the kernel counts them.
pub(crate) fn processor_time(family: &[u32]) -> Duration {
    family.iter().map(|pid| scheduled(*pid).or_else(|| ticks(*pid)).unwrap_or_default()).sum()
}

fn scheduled(pid: u32) -> Option<Duration> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        total += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(total))
}

/// In clock ticks, of which Linux shows 100 a second to programs.
fn ticks(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// What the kernel says of a process's memory, KiB.
fn rollup(pid: u32, keys: &[&str]) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let of = |key: &&str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(*key)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    keys.iter().map(of).sum()
}

/// Proportional set size of a family, KiB: its private memory, and its share of what it shares.
pub(crate) fn memory(family: &[u32]) -> u64 {
    family.iter().filter_map(|pid| rollup(*pid, &["Pss"])).sum()
}

/// Memory of a family that nobody shares, KiB.
pub(crate) fn private(family: &[u32]) -> u64 {
    family.iter().filter_map(|pid| rollup(*pid, &["Private_Clean", "Private_Dirty"])).sum()
}

/// How often the threads of a family have begun to wait: each time they did, something had woken them.
pub(crate) fn sleeps(family: &[u32]) -> u64 {
    let threads =
        family.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    let of = |path: std::path::PathBuf| {
        let status = fs::read_to_string(path.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    };
    threads.filter_map(|thread| of(thread.path())).sum()
}

/// When a process started, in clock ticks since the machine did: with its number that names it for ever.
pub(crate) fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

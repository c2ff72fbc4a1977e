//! What a run must not leave behind, and what must not grow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::launcher::Launcher;
use crate::process;

/// What a launcher that serves and has nothing else to do has.
#[derive(Debug, Clone)]
pub struct Footprint {
    /// Pid of the master: another one has its own habits.
    pub master: u32,
    /// The master's descriptors: how many of each kind.
    pub descriptors: BTreeMap<String, usize>,
    /// The master's resident memory, KiB.
    pub resident: u64,
    /// Zombies among its children.
    pub zombies: usize,
    /// Its spare workers.
    pub spares: usize,
}

/// Descriptors that a master has for a spare worker: its channel, its pidfd twice, its output and its errors.
const OF_A_SPARE: usize = 5;

/// Every process of a run but for spare workers, which come and go as there is need.
pub fn at_work(launcher: &Launcher) -> Vec<u32> {
    launcher.family().into_iter().filter(|pid| !is_spare(*pid)).collect()
}

fn is_spare(pid: u32) -> bool {
    command(pid).ends_with("worker spare")
}

fn command(pid: u32) -> String {
    let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
    format!("{} {}", process::state(pid).unwrap_or('?'), words.trim_end())
}

/// Takes it once there are so many processes: the workers that leave are gone then.
///
/// # Errors
/// There are always more or fewer, or the master does not answer.
pub fn footprint(launcher: &Launcher, expected: usize, patience: Duration) -> Result<Footprint, String> {
    let mut processes = 0;
    let settled = process::until(patience, || {
        processes = at_work(launcher).len();
        processes == expected
    });
    if !settled {
        let family: Vec<_> = launcher.family().into_iter().map(|pid| (pid, command(pid))).collect();
        return Err(format!("{processes} processes for {patience:?}, and not {expected}: {family:?}"));
    }
    let master = launcher.master()?;
    let zombies = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
    let zombies = zombies
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| process::state(*pid) == Some('Z') && process::parent(*pid) == Some(master))
        .count();
    // A spare may be made at any moment.
    let spares = || launcher.family().into_iter().filter(|pid| is_spare(*pid)).count();
    let mut counted = (spares(), BTreeMap::new());
    let alike = process::until(patience, || {
        counted.1 = process::descriptor_kinds(master);
        let before = std::mem::replace(&mut counted.0, spares());
        before == counted.0
    });
    if !alike {
        return Err(format!("its spare workers come and go for {patience:?}"));
    }
    let (spares, descriptors) = counted;
    let resident = process::resident(master).ok_or("the master is gone")?;
    Ok(Footprint { master, descriptors, resident, zombies, spares })
}

/// Descriptors of which a master has as many as there are things, at most: of each plugin two generations and one that is
/// on its way, compiled where it is WASM; of each slot that was ever used its page, open twice. Six services, twelve slots
/// and those that faults add for a while.
const BOUNDED: [(&str, usize); 3] =
    [("/memfd:launcher-plugin", 18), ("/memfd:launcher-compiled", 3), ("/memfd:launcher-statistics", 40)];

fn bound(kind: &str) -> Option<usize> {
    BOUNDED.iter().find(|(name, _)| kind.starts_with(name)).map(|(_, most)| *most)
}

/// How much a master may have grown: one that has been there since `early`, or a young one.
pub fn grown(early: &Footprint, late: &Footprint) -> Vec<String> {
    let mut found = Vec::new();
    // Connections of the control socket that are just ending, a file that is just written.
    let sum = |footprint: &Footprint| {
        footprint.descriptors.iter().filter(|(kind, _)| bound(kind).is_none()).map(|(_, count)| count).sum::<usize>()
    };
    let (before, after) = (sum(early), sum(late));
    let new_spares = late.spares.saturating_sub(early.spares) * OF_A_SPARE;
    if after > before + new_spares + 4 {
        let more = late.descriptors.iter().filter_map(|(kind, count)| {
            let before = early.descriptors.get(kind).copied().unwrap_or_default();
            (*count > before && bound(kind).is_none()).then(|| format!("{kind}: {before} -> {count}"))
        });
        let more: Vec<_> = more.collect();
        found.push(format!("descriptors of the master: {before} -> {after} ({})", more.join(", ")));
    }
    for (kind, count) in &late.descriptors {
        if let Some(most) = bound(kind).filter(|most| count > most) {
            found.push(format!("descriptors of the master: {count} of {kind}, where there can be {most}"));
        }
    }
    if late.resident > early.resident + (16 << 10) {
        found.push(format!("memory of the master: {} -> {} KiB", early.resident, late.resident));
    }
    if late.zombies > 0 {
        found.push(format!("{} zombies", late.zombies));
    }
    found
}

/// The names in a directory and below; what is in `cache` is counted elsewhere.
pub fn files(directory: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeSet::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// What is left when a launcher has ended: files in its state directory that it does not keep, and processes.
pub fn left_behind(launcher: &Launcher, state: &Path) -> Vec<String> {
    // The log and its rotated files, the lock, the cache: what a next run finds useful.
    let kept = |name: &str| name == "lock" || name == "cache" || name.starts_with("log.json");
    let mut found: Vec<_> = files(state)
        .into_iter()
        .filter(|name| !kept(name))
        .map(|name| format!("file in the state directory: {name}"))
        .collect();
    let mut family = launcher.family();
    // A process that has just been killed is gone a moment later.
    process::until(Duration::from_secs(2), || {
        family = launcher.family();
        family.is_empty()
    });
    found.extend(family.iter().map(|pid| format!("process {pid}: {}", command_line(*pid))));
    found
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_seen() {
        let early = Footprint {
            master: 1,
            descriptors: BTreeMap::from([("socket".to_owned(), 30)]),
            resident: 10_000,
            zombies: 0,
            spares: 1,
        };
        let sockets = |count: usize| BTreeMap::from([("socket".to_owned(), count)]);
        assert!(grown(&early, &early.clone()).is_empty());
        assert!(grown(&early, &Footprint { descriptors: sockets(35), spares: 2, ..early.clone() }).is_empty());
        for late in [
            Footprint { descriptors: sockets(35), ..early.clone() },
            Footprint { descriptors: sockets(40), spares: 2, ..early.clone() },
            Footprint { descriptors: BTreeMap::from([("/memfd:launcher-plugin".to_owned(), 19)]), ..early.clone() },
            Footprint { resident: 30_000, ..early.clone() },
            Footprint { zombies: 1, ..early.clone() },
        ] {
            assert_eq!(grown(&early, &late).len(), 1, "{late:?}");
        }
    }
}

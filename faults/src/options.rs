//! What a run of the schedule is told.

use std::path::PathBuf;
use std::time::Duration;

use crate::fault::{FAULTS, Fault, Needs, named};

/// How to say it.
pub const USAGE: &str =
    "cargo run --release -p faults -- [--seed N] [--for TIME] [--faults LIST] [--binary PATH] [--results FILE]
  --seed N          what the schedule and the clients draw from (of the clock)
  --for TIME        90s, 10m, 1h (60s)
  --faults LIST     only these, or all but those: kill,reload or -disk-full,-memory (all that are possible here)
  --binary PATH     the launcher (built first, and taken from where cargo puts it)
  --results FILE    write the result there as Markdown, too
  --list            what there is

cargo run --release -p faults -- reloads|idle|latency [--binary PATH] [--kind c|rust|wasm] [--count N]
  reloads           N reloads (50) under clients that keep their connection
  idle              N idle connections (10000) handed over, five times
  latency           latency at half load, N times (3) without and with a reload a second";

/// A run of the schedule.
#[derive(Debug, Clone)]
pub struct Options {
    /// The launcher.
    pub binary: PathBuf,
    /// Where cargo has put `libhello.so` and `libmisbehave.so`.
    pub libraries: PathBuf,
    /// What everything is drawn from.
    pub seed: u64,
    /// How long faults are drawn; the last one is finished.
    pub time: Duration,
    /// Which.
    pub faults: Vec<&'static Fault>,
    /// As it was typed, for the command that repeats the run.
    pub list: Option<String>,
}

/// The faults that a list chooses: `a,b` these, `-a,-b` all but those. Without a list all that need nothing special.
///
/// # Errors
/// A name that is none.
pub fn choose(list: Option<&str>) -> Result<Vec<&'static Fault>, String> {
    let usual = |fault: &&Fault| match fault.needs {
        Needs::Nothing | Needs::Disk | Needs::Group => true,
        Needs::Planted => false,
    };
    let words: Vec<&str> = list.map(|list| list.split(',').map(str::trim).collect()).unwrap_or_default();
    for word in &words {
        let name = word.strip_prefix('-').unwrap_or(word);
        named(name).ok_or_else(|| format!("there is no fault {name:?}; --list shows what there is"))?;
    }
    let (without, only): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with('-'));
    let chosen: Vec<&'static Fault> = FAULTS
        .iter()
        .filter(|fault| if only.is_empty() { usual(fault) } else { only.contains(&fault.name) })
        .filter(|fault| !without.iter().any(|word| &word[1..] == fault.name))
        .collect();
    if chosen.is_empty() { Err("no fault is left".to_owned()) } else { Ok(chosen) }
}

/// `90s`, `10m`, `1h`, `500ms`.
///
/// # Errors
/// It is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let parse = |(unit, factor): (&str, u64)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(factor);
    let milliseconds = units.into_iter().find_map(parse);
    milliseconds.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is no time: write 90s, 10m or 1h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: Option<&str>) -> Vec<&'static str> {
        choose(list).expect("a list").iter().map(|fault| fault.name).collect()
    }

    #[test]
    fn lists_choose_and_exclude() {
        assert_eq!(names(Some("reload,kill")), ["kill", "reload"]);
        assert!(!names(Some("-kill")).contains(&"kill"));
        assert!(names(None).contains(&"master-killed") && !names(None).contains(&"planted-kill"));
        assert_eq!(names(Some("planted-kill")), ["planted-kill"]);
        assert!(choose(Some("kil")).is_err() && choose(Some("kill,-kill")).is_err());
    }

    #[test]
    fn times_carry_units() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["10", "m", "1d", ""] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}

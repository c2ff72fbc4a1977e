//! The wall clock jumps, for the launcher and its workers alone: what they ask for the time is answered by
//! `plugins/tamper.c`. It stays where it has jumped to until the next jump, so that other faults meet it, too.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use super::Scene;
use crate::world::{JUDGE, MORTALS, VERSIONED};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// 2100-01-01.
const YEAR_2100: i64 = 4_102_444_800;
/// How far a clock may be from where it should be: between its reading and ours the machine may be busy.
const CLOSE: i64 = 20;

fn now() -> i64 {
    UNIX_EPOCH.elapsed().map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

impl Scene<'_> {
    pub(super) fn clock_jump(&mut self) -> Result<String, String> {
        let (name, offset) = self.pick(&[
            ("an hour ahead", HOUR),
            ("an hour back", -HOUR),
            ("a day ahead", DAY),
            ("a day back", -DAY),
            ("to 1970", 60 - now()),
            ("to 2100", YEAR_2100 - now()),
            ("right", 0),
        ])?;
        let service = self.pick(&MORTALS)?;
        self.calm(service)?;
        let before = self.uptimes()?;
        self.world.tamper.set_clock(offset)?;

        // A worker that runs, one that is replaced, a generation, and what the master writes down about all that.
        let (_, told) = self.ask(JUDGE, "GET", "/time")?;
        close("a worker", told.trim().parse().map_err(|_| format!("{told:?} is no time"))?, offset)?;
        let mark = self.world.launcher.mark();
        let pid = self.pick(&self.workers(service))?;
        let lost = self.put_down(service, pid).ok_or_else(|| format!("worker {pid} of {service} is gone already"))?;
        let exit = self.exited(mark, pid)?;
        close("the master's log", seconds(exit.text("time")).ok_or_else(|| exit.line.clone())?, offset)?;
        let service = self.pick(&VERSIONED)?;
        let after = self.reload(service)?;
        for (pid, uptime) in self.uptimes()? {
            if let Some(before) = before.get(&pid).filter(|before| !(**before..**before + 600.0).contains(&uptime)) {
                return Err(format!("worker {pid} ran for {before} s, and for {uptime} s a moment later"));
            }
        }
        Ok(format!("{name}; worker {pid} with {lost} connections; {after}"))
    }

    /// By pid, how long workers have run, in seconds.
    fn uptimes(&self) -> Result<BTreeMap<u64, f64>, String> {
        let status = self.world.launcher.status()?;
        let services = status["services"].as_array().into_iter().flatten();
        let workers = services.flat_map(|service| service["workers"].as_array().into_iter().flatten());
        let uptimes: BTreeMap<_, _> =
            workers.filter_map(|worker| Some((worker["pid"].as_u64()?, worker["uptime_s"].as_f64()?))).collect();
        if uptimes.is_empty() { Err(format!("no worker and no uptime in {status}")) } else { Ok(uptimes) }
    }
}

fn close(whose: &str, told: i64, offset: i64) -> Result<(), String> {
    let expected = now() + offset;
    if (told - expected).abs() > CLOSE {
        return Err(format!("by the clock of {whose} it is {told}, which should be {expected}"));
    }
    Ok(())
}

/// The seconds since 1970 of `2026-11-24T08:52:55.123Z`.
fn seconds(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Days since 0000-03-01, with the leap day as the last of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    Some(((days - 719_468) * 24 + hour) * HOUR + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2000-03-01T00:00:01.5Z"), Some(951_868_801));
        assert_eq!(seconds("2100-01-01T00:00:00.000Z"), Some(YEAR_2100));
        assert_eq!(seconds("2026-11-24T08:52:55.123Z"), Some(1_795_510_375));
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn a_clock_that_did_not_jump_is_found() {
        assert!(close("nobody", now(), 0).is_ok());
        assert!(close("nobody", now(), HOUR).is_err());
    }
}

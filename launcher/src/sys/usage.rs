//! What a process uses, from proc(5).
//!
//! The kernel walks the page tables of the process to add its memory up, milliseconds for a large one: call this from
//! a thread that may block.

use std::fs;

/// What a process uses. `None`: the system does not tell, or the process is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Proportional set size, bytes: a shared page counts by the number of those who share it.
    pub pss_bytes: Option<u64>,
    /// Processor time of all its threads, in user and in system mode, seconds.
    pub cpu_s: Option<f64>,
}

/// What the process with this pid uses. It should not have been reaped: the pid of one that was may be another's.
pub fn of(pid: u32) -> Usage {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    Usage { pss_bytes: pss_bytes(pid), cpu_s: stat.ok().and_then(|stat| cpu(&stat)) }
}

/// [`Usage::pss_bytes`] alone.
pub fn pss_bytes(pid: u32) -> Option<u64> {
    pss(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

/// The line `Pss:  1234 kB`.
fn pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Fields 14 and 15 (utime and stime) in clock ticks. The second field is the name in brackets and may hold anything.
fn cpu(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_memory_and_time() {
        let block = vec![1_u8; 8 << 20];
        let me = std::process::id();
        let before = of(me).cpu_s.expect("this process may look at itself");
        while of(me).cpu_s.is_none_or(|now| now <= before) {
            std::hint::black_box(&block);
        }
        assert!(of(me).pss_bytes.is_some_and(|pss| pss >= 8 << 20), "{:?}", of(me));
    }

    #[test]
    fn a_process_that_is_gone_uses_nothing_that_is_known() {
        assert_eq!(of(u32::MAX), Usage::default());
    }

    #[test]
    fn names_and_truncated_files_confuse_nobody() {
        let tick = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu("7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20"), Some(42.0 * tick));
        assert_eq!((cpu("7 (a) S 1 7"), cpu(""), pss("Rss: 1 kB"), pss("Pss:")), (None, None, None, None));
        assert_eq!(pss("00400000-7ff00000 ---p 00000000 00:00 0 [rollup]\nRss: 9 kB\nPss:   5 kB\n"), Some(5 * 1024));
    }
}

//! Which workers are at work, and how long each of them has been silent: decided without a clock or a system call.
//!
//! A worker says when its loop turns after a rest, once a second while it goes on, and when it rests again
//! ([`crate::channel::ToMaster::Busy`]). Only those at work are timed. Time counts as the master lives through it: a step in
//! which the master itself was not run counts as one of ordinary length, so that nobody is blamed when the whole machine
//! stood still.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::pool::WorkerId;

/// The longest step that is believed. Longer than the second between two beats, so that those who beat cost no timer.
const STEP: Duration = Duration::from_millis(1500);

/// The workers that are at work.
#[derive(Debug, Default)]
pub struct Pulses {
    workers: BTreeMap<WorkerId, Silence>,
    /// Up to when silence is counted. `None`: nobody was at work.
    counted: Option<Instant>,
}

#[derive(Debug)]
struct Silence {
    lasts: Duration,
    patience: Duration,
}

impl Pulses {
    /// A worker is at work and said so; zero: it is not timed.
    pub fn heard(&mut self, id: WorkerId, patience: Duration, now: Instant) {
        self.count(now);
        if patience.is_zero() {
            self.forget(id);
        } else {
            self.workers.insert(id, Silence { lasts: Duration::ZERO, patience });
        }
    }

    /// A worker rests, or is gone.
    pub fn forget(&mut self, id: WorkerId) {
        self.workers.remove(&id);
        if self.workers.is_empty() {
            self.counted = None;
        }
    }

    /// When to ask for those who are overdue.
    pub fn next_deadline(&self) -> Option<Instant> {
        let soonest = self.workers.values().map(|silence| silence.patience.saturating_sub(silence.lasts)).min()?;
        Some(self.counted? + soonest.min(STEP))
    }

    /// Those who have been silent for longer than they may, and for how long. Each is told once.
    pub fn overdue(&mut self, now: Instant) -> Vec<(WorkerId, Duration)> {
        self.count(now);
        let late = self.workers.iter().filter(|(_, silence)| silence.lasts >= silence.patience);
        let late: Vec<_> = late.map(|(id, silence)| (*id, silence.lasts)).collect();
        late.iter().for_each(|(id, _)| self.forget(*id));
        late
    }

    fn count(&mut self, now: Instant) {
        let step = self.counted.map_or(Duration::ZERO, |counted| now.saturating_duration_since(counted).min(STEP));
        self.workers.values_mut().for_each(|silence| silence.lasts += step);
        self.counted = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);
    const BUSY: WorkerId = WorkerId(1);
    const OTHER: WorkerId = WorkerId(2);

    /// Ticks as they come, until somebody is overdue or `end` has come.
    fn live(pulses: &mut Pulses, from: Instant, end: Instant) -> Option<(WorkerId, Instant)> {
        let mut now = from;
        while let Some(next) = pulses.next_deadline().filter(|next| *next <= end) {
            assert!(next >= now, "a deadline is never in the past");
            now = next;
            if let Some((id, _)) = pulses.overdue(now).first() {
                return Some((*id, now));
            }
        }
        None
    }

    #[test]
    fn who_rests_is_not_timed_and_costs_no_timer() {
        let mut pulses = Pulses::default();
        let start = Instant::now();
        assert_eq!(pulses.next_deadline(), None);
        pulses.heard(BUSY, PATIENCE, start);
        assert!(pulses.next_deadline().is_some());
        pulses.forget(BUSY);
        assert_eq!(pulses.next_deadline(), None);
        pulses.heard(OTHER, Duration::ZERO, start);
        assert_eq!(pulses.next_deadline(), None, "zero is never");
    }

    #[test]
    fn silence_at_work_is_noticed_when_the_patience_ends_whoever_else_beats() {
        let mut pulses = Pulses::default();
        let start = Instant::now();
        pulses.heard(BUSY, PATIENCE, start);
        assert_eq!(live(&mut pulses, start, start + PATIENCE * 2), Some((BUSY, start + PATIENCE)));
        assert!(pulses.overdue(start + PATIENCE * 2).is_empty(), "told once");

        let start = start + PATIENCE * 3;
        pulses.heard(BUSY, PATIENCE, start);
        for second in 0..29 {
            let now = start + Duration::from_secs(second);
            pulses.heard(OTHER, PATIENCE, now);
            assert_eq!(live(&mut pulses, now, now + Duration::from_millis(999)), None);
        }
        let late = live(&mut pulses, start + Duration::from_secs(29), start + PATIENCE);
        assert_eq!(late, Some((BUSY, start + PATIENCE)));
    }

    #[test]
    fn a_machine_that_stood_still_is_nobodys_fault() {
        let mut pulses = Pulses::default();
        let start = Instant::now();
        pulses.heard(BUSY, PATIENCE, start);
        let hour = start + Duration::from_secs(3600);
        assert!(pulses.overdue(hour).is_empty());
        assert!(pulses.overdue(hour + Duration::from_secs(1)).is_empty());
        let end = live(&mut pulses, hour, hour + PATIENCE);
        assert!(end.is_some_and(|(_, at)| at > hour + PATIENCE - STEP * 2), "{end:?}");
    }
}

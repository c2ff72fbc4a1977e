//! When a master that died is started again. Pure: it is given the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Deaths of masters that never served, or four times as many of masters that did …
const DEATHS: u32 = 5;
/// See [`DEATHS`]: what kills a master that serves is seldom the master itself.
const SERVED: u32 = 4;
/// … within this time are a loop, and the next master waits.
const WINDOW: Duration = Duration::from_secs(60);
/// How long it waits first; twice as long each further time.
const SHORTEST: Duration = Duration::from_secs(1);
/// How long it waits at most.
const LONGEST: Duration = Duration::from_secs(30);

/// The deaths that count.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// With their weights.
    recent: VecDeque<(Instant, u32)>,
    /// Waits in a row.
    waits: u32,
}

impl Pace {
    /// A master died. How long to wait before the next is started.
    pub(super) fn died(&mut self, now: Instant, served: bool) -> Duration {
        let expired = |(at, _): &(Instant, u32)| now.duration_since(*at) >= WINDOW;
        if self.recent.back().is_none_or(expired) {
            self.waits = 0;
        }
        while self.recent.front().is_some_and(expired) {
            self.recent.pop_front();
        }
        self.recent.push_back((now, if served { 1 } else { SERVED }));
        let weight: u32 = self.recent.iter().map(|(_, weight)| weight).sum();
        if weight < DEATHS * SERVED && self.waits == 0 {
            return Duration::ZERO;
        }
        let wait = SHORTEST.saturating_mul(1_u32.checked_shl(self.waits).unwrap_or(u32::MAX)).min(LONGEST);
        self.waits += 1;
        wait
    }

    /// The deaths within the last while, for people.
    pub(super) fn deaths(&self) -> usize {
        self.recent.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits after deaths that follow one another as soon as they can, in seconds.
    fn waits(served: bool, deaths: usize) -> Vec<u64> {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let mut died = || {
            let wait = pace.died(now, served);
            now += wait + Duration::from_millis(10);
            wait.as_secs()
        };
        let waits = (0..deaths).map(|_| died()).collect();
        // One that lived for longer than the window was no part of the loop.
        assert_eq!(pace.died(now + WINDOW, served), Duration::ZERO);
        waits
    }

    #[test]
    fn single_deaths_are_answered_at_once_and_a_loop_ever_later() {
        assert_eq!(waits(false, 12), [0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
        let served = waits(true, 22);
        assert_eq!(served[..19], [0; 19]);
        assert_eq!(served[19..], [1, 2, 4]);
    }

    #[test]
    fn deaths_now_and_then_are_no_loop() {
        let mut pace = Pace::default();
        let start = Instant::now();
        for death in 0..100 {
            assert_eq!(pace.died(start + death * WINDOW / 4, false), Duration::ZERO, "death {death}");
        }
    }
}

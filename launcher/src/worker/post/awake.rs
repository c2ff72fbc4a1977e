//! Whether a link's loop stays awake for the next packet, or sleeps until it comes.
//!
//! Two workers that answer each other at once wait for each other's wake-up and for nothing else: a sleeping processor takes
//! some 20 µs to begin, a round trip without 5. So who was answered quickly a few times looks for the next answer for a
//! moment before it sleeps, about as long as a sleep would have cost. Where that turns out to be wrong it is done ever more
//! rarely: of messages that come every 100 µs one in [`SELDOM`] costs a look.

use std::time::{Duration, Instant};

/// How long a loop stays awake.
const AWAKE: Duration = Duration::from_micros(50);

/// What comes within that is quick: an answer of somebody who was asleep, to us, who were.
const QUICK: Duration = Duration::from_micros(150);

/// Quick ones in a row after which it stays awake, at first and at most.
const OFTEN: u32 = 2;
const SELDOM: u32 = 64;

/// What a link has seen.
#[derive(Debug)]
pub(super) struct Wakefulness {
    /// Quick ones in a row.
    quick: u32,
    /// So many are wanted.
    wanted: u32,
}

impl Default for Wakefulness {
    fn default() -> Wakefulness {
        Wakefulness { quick: 0, wanted: OFTEN }
    }
}

impl Wakefulness {
    /// Stay awake for the next one?
    pub(super) fn is_worth_it(&self) -> bool {
        self.quick >= self.wanted
    }

    /// One came after so long.
    pub(super) fn came(&mut self, after: Duration) {
        if after > QUICK {
            self.quick = 0;
            return;
        }
        if self.is_worth_it() && after <= AWAKE {
            self.wanted = OFTEN;
        }
        self.quick = self.quick.saturating_add(1);
    }

    /// It stayed awake, and nothing came.
    pub(super) fn was_wrong(&mut self) {
        self.quick = 0;
        self.wanted = (self.wanted * 2).min(SELDOM);
    }
}

/// Keeps the loop of this task from sleeping, for so long; everything else in it goes on.
pub(super) async fn stay() {
    let since = Instant::now();
    while since.elapsed() < AWAKE {
        // The other one may need this very processor.
        std::thread::yield_now();
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it stayed awake for so many that come after so long, when the wait begins.
    fn stays(many: u32, after: Duration) -> u32 {
        let (mut link, mut stayed) = (Wakefulness::default(), 0);
        for _ in 0..many {
            if link.is_worth_it() {
                stayed += 1;
                if after > AWAKE {
                    link.was_wrong();
                }
            }
            link.came(after);
        }
        stayed
    }

    #[test]
    fn it_stays_awake_for_those_who_answer_at_once_and_for_nobody_else() {
        assert_eq!(stays(1000, Duration::from_micros(10)), 998);
        assert_eq!(stays(1000, Duration::from_millis(1)), 0);
    }

    #[test]
    fn what_comes_a_little_too_late_each_time_costs_ever_less() {
        let stayed = stays(10_000, Duration::from_micros(100));
        assert!((100..200).contains(&stayed), "{stayed} of 10,000");
    }
}

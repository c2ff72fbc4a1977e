//! How fast a generation's workers are replaced: backoff with jitter, and the sliding crash budget.
//!
//! It counts and computes instants. What an exhausted budget leads to is the pool's decision.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Limits;

/// The crashes of one generation and what they cost it.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace {
    tempo: Tempo,
    /// No replacement starts before it.
    gate: Option<Instant>,
    /// Crashes within the budget's window, oldest first.
    recent: VecDeque<Instant>,
    /// The last crash of all.
    last: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tempo {
    /// The delay doubles with each failure in a row.
    Growing { failures: u32 },
    /// The budget is spent: the longest delay, until a worker has stayed ready.
    Slowest { failures: u32 },
}

impl Default for Tempo {
    fn default() -> Self {
        Tempo::Growing { failures: 0 }
    }
}

/// What a crash means for the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Budget {
    Left,
    Exhausted,
}

/// Whether the worker that crashed had been ready for [`Limits::reset_after`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tenure {
    Proven,
    Short,
}

/// Everything that a [`Pace`] remembers.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    /// The budget is spent.
    pub(super) slowest: bool,
    /// Failures in a row.
    pub(super) failures: u32,
    /// See [`Pace::gate`].
    pub(super) gate: Option<Instant>,
    /// Crashes within the budget's window, oldest first.
    pub(super) recent: Vec<Instant>,
    /// The last crash of all.
    pub(super) last: Option<Instant>,
}

impl Pace {
    /// What it remembers.
    pub(super) fn memory(&self) -> Memory {
        Memory {
            slowest: self.is_exhausted(),
            failures: self.failures(),
            gate: self.gate,
            recent: self.recent.iter().copied().collect(),
            last: self.last,
        }
    }

    /// One that remembers this.
    pub(super) fn remembered(memory: Memory) -> Pace {
        let Memory { slowest, failures, gate, recent, last } = memory;
        let tempo = if slowest { Tempo::Slowest { failures } } else { Tempo::Growing { failures } };
        Pace { tempo, gate, recent: recent.into(), last }
    }

    /// Notes a crash at `now` and closes the gate for as long as it costs.
    ///
    /// A crash while the gate is closed is of a worker that is older than the crash which closed it: it belongs
    /// to the same incident and shares its delay. Counted separately, sixteen workers that the kernel kills at
    /// once would spend the whole budget and stay away for the longest delay.
    pub(super) fn crash(&mut self, now: Instant, tenure: Tenure, limits: &Limits, jitter: &mut Jitter) -> Budget {
        let last = self.last.replace(now);
        // A proven worker that falls right after another one is part of the same trouble, not the start of a new one.
        let calm = last.is_none_or(|last| now.duration_since(last) >= limits.reset_after);
        if tenure == Tenure::Proven && calm {
            self.tempo = Tempo::default();
        }
        if self.closed(now) {
            return Budget::Left;
        }
        while self.recent.front().is_some_and(|at| now.duration_since(*at) >= limits.budget_window) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let (Tempo::Growing { failures } | Tempo::Slowest { failures }) = &mut self.tempo;
        *failures = failures.saturating_add(1);
        if self.recent.len() > limits.budget as usize {
            // One more than the budget is all that has to be remembered to see that it is exceeded.
            self.recent.pop_front();
            self.tempo = Tempo::Slowest { failures: *failures };
            self.close(now, limits, jitter);
            return Budget::Exhausted;
        }
        self.close(now, limits, jitter);
        Budget::Left
    }

    fn close(&mut self, now: Instant, limits: &Limits, jitter: &mut Jitter) {
        let delay = match self.tempo {
            Tempo::Growing { failures: 0 | 1 } => Duration::ZERO,
            Tempo::Growing { failures } => {
                let factor = 1u32.checked_shl(failures - 2).unwrap_or(u32::MAX);
                limits.backoff_min.saturating_mul(factor).min(limits.backoff_max)
            }
            Tempo::Slowest { .. } => limits.backoff_max,
        };
        self.gate = (delay > Duration::ZERO).then(|| now + jitter.spread(delay));
    }

    /// Whether replacements have to wait.
    pub(super) fn closed(&self, now: Instant) -> bool {
        self.gate.is_some_and(|gate| now < gate)
    }

    /// When replacements need no longer wait.
    pub(super) fn gate(&self) -> Option<Instant> {
        self.gate
    }

    /// The budget was exceeded and no worker has stayed ready since.
    pub(super) fn is_exhausted(&self) -> bool {
        matches!(self.tempo, Tempo::Slowest { .. })
    }

    /// Failures in a row.
    pub(super) fn failures(&self) -> u32 {
        let (Tempo::Growing { failures } | Tempo::Slowest { failures }) = self.tempo;
        failures
    }
}

/// A small generator (SplitMix64, Steele, Lea and Flood 2014) that keeps many services from retrying in step.
#[derive(Debug, Clone)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `delay` ± 20 %.
    pub(super) fn spread(&mut self, delay: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        // The upper 32 bits as a fraction of one.
        let fraction = f64::from((z >> 32) as u32) / f64::from(u32::MAX);
        delay.mul_f64(0.8 + 0.4 * fraction)
    }
}

//! Records in order, of which the oldest are forgotten; how many were forgotten after a place can be told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use super::super::record::Record;

/// Runs of forgotten records that are told apart.
const RUNS: usize = 256;
/// Records of a run that did not come one after the other.
const RUN: u64 = 32;

/// How much a ring remembers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Records.
    pub(super) records: usize,
    /// Bytes of memory, roughly.
    pub(super) bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ring {
    bounds: Bounds,
    records: VecDeque<Arc<Record>>,
    bytes: usize,
    forgotten: VecDeque<Run>,
}

/// Forgotten records that stood near each other.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u64,
    last: u64,
    count: u64,
}

impl Ring {
    pub(super) fn new(bounds: Bounds) -> Ring {
        Ring { bounds, records: VecDeque::new(), bytes: 0, forgotten: VecDeque::new() }
    }

    pub(super) fn push(&mut self, record: Arc<Record>) {
        self.bytes += record.weight();
        self.records.push_back(record);
        // The newest stays, however large it is.
        while self.records.len() > 1 && (self.records.len() > self.bounds.records || self.bytes > self.bounds.bytes) {
            if let Some(oldest) = self.records.pop_front() {
                self.bytes = self.bytes.saturating_sub(oldest.weight());
                self.forget(oldest.seq);
            }
        }
    }

    fn forget(&mut self, seq: u64) {
        match self.forgotten.back_mut() {
            Some(run) if run.is_whole() && run.last + 1 == seq || run.count < RUN => {
                run.last = seq;
                run.count += 1;
            }
            _ => self.forgotten.push_back(Run { first: seq, last: seq, count: 1 }),
        }
        if self.forgotten.len() > RUNS
            && let Some(oldest) = self.forgotten.pop_front()
            && let Some(next) = self.forgotten.front_mut()
        {
            next.first = oldest.first;
            next.count += oldest.count;
        }
    }

    /// Records after a place that were forgotten; at most a run's too many.
    pub(super) fn forgotten_after(&self, after: u64) -> u64 {
        let of = |run: &Run| match () {
            () if run.first > after => run.count,
            () => run.count.min(run.last - after),
        };
        self.forgotten.iter().rev().take_while(|run| run.last > after).map(of).sum()
    }

    /// The index of the first record after a place.
    pub(super) fn first_after(&self, after: u64) -> usize {
        self.records.partition_point(|record| record.seq <= after)
    }

    /// The index of the first record since a time. If the wall clock was set back meanwhile, of one of them.
    pub(super) fn first_since(&self, time: SystemTime) -> usize {
        self.records.partition_point(|record| record.time < time)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Arc<Record>> {
        self.records.get(index)
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}

impl Run {
    /// Whether its records came one after the other.
    fn is_whole(&self) -> bool {
        self.last - self.first + 1 == self.count
    }
}

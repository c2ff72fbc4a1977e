//! The words in which the master and a pool speak: ids, numbers, events, actions.

use std::time::Duration;

/// Longer durations mean the same, and instants cannot overflow.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A worker; unique within a master, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

/// One immutable deployable of a service; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// A worker's place, `0..size`; its replacement inherits it, and during a change both generations use all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// Hands out the ids of workers; shared by the pools of one master.
#[derive(Debug, Clone, Default)]
pub struct Ids {
    last: u64,
}

impl Ids {
    /// Starts after `last`, the highest id in use.
    pub fn after(last: u64) -> Self {
        Self { last }
    }

    /// The highest that was handed out.
    pub fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn next(&mut self) -> WorkerId {
        self.last += 1;
        WorkerId(self.last)
    }
}

/// What an operator configures. Zero for `size`, `surge` or `tries` counts as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Workers that serve (`workers`).
    pub size: u32,
    /// Workers that boot at once beside a serving generation, and workers beyond `size` while it is restarted.
    pub surge: u32,
    /// From spawn to ready.
    pub ready_timeout: Duration,
    /// From the request to drain to the kill.
    pub drain_timeout: Duration,
    /// After a promotion, and after each crash within this time: how long crashes, as many as [`Limits::tries`] or the
    /// budget admits, lead back to the previous generation.
    pub probation: Duration,
    /// The delay of the second replacement; the first is immediate and each further one waits twice as long.
    pub backoff_min: Duration,
    /// The longest delay, before ± 20 % of jitter.
    pub backoff_max: Duration,
    /// Crashes allowed …
    pub budget: u32,
    /// … within this sliding window.
    pub budget_window: Duration,
    /// A worker that was ready for this long, without a crash of another one meanwhile, clears the count of failures.
    pub reset_after: Duration,
    /// Failures in a row at which a generation is given up before its promotion and within probation.
    pub tries: u32,
}

impl Limits {
    pub(super) fn bounded(mut self) -> Self {
        self.size = self.size.max(1);
        self.surge = self.surge.max(1);
        self.tries = self.tries.max(1);
        for duration in [
            &mut self.ready_timeout,
            &mut self.drain_timeout,
            &mut self.probation,
            &mut self.backoff_min,
            &mut self.backoff_max,
            &mut self.budget_window,
            &mut self.reset_after,
        ] {
            *duration = (*duration).min(FOREVER);
        }
        self
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A generation is pinned and verified: bring it up. It takes the place of one that is on its way; naming the
    /// serving generation only abandons the one on its way.
    Reload(Generation),
    /// An operator wants this generation back: the serving one (abandons what is on its way) or
    /// [`super::Pool::previous`]. Any other is ignored.
    Rollback(Generation),
    /// Replace every worker of the serving generation by a fresh one, each when its replacement is ready, and
    /// forget its crashes.
    Restart,
    /// The worker serves.
    Ready(WorkerId),
    /// The worker dies, and serves nobody any more: it is blamed and replaced now. Its exit is still to be reported.
    Dying(WorkerId),
    /// The worker was reaped.
    Exited(WorkerId),
    /// The worker should be replaced (`max_requests`, memory, age): it serves until its replacement is ready.
    Recycle(WorkerId),
    /// The configuration's numbers changed. Deadlines that already run stay.
    Limits(Limits),
    /// Stop: drain, then kill.
    Drain,
    /// Stop now.
    Kill,
    /// [`super::Pool::next_deadline`] has come.
    Tick,
}

/// Something to do, in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a worker.
    Spawn {
        /// Its id.
        worker: WorkerId,
        /// Its place.
        slot: Slot,
        /// What it runs.
        generation: Generation,
    },
    /// Ask the worker to stop accepting, finish and exit.
    Drain(WorkerId),
    /// Kill the worker. Its exit is still to be reported.
    Kill(WorkerId),
    /// The generation serves now.
    Promoted(Generation),
    /// The generation will not serve, or no longer. Whatever was on its way ends in this, in
    /// [`Action::Promoted`], or in the pool's stop.
    RolledBack {
        /// The one that is left.
        generation: Generation,
        /// Why.
        reason: RollbackReason,
    },
    /// No worker is ready and replacements start only at the longest delay, or not at all.
    Failed,
    /// A worker is ready again after [`Action::Failed`].
    Recovered,
    /// Nothing runs the generation and nothing can return to it: what is pinned for it may go.
    Retired(Generation),
    /// Every worker is gone; the pool does nothing any more.
    Stop,
}

/// Why a generation was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollbackReason {
    /// Workers exited before they were ready.
    NotStarted,
    /// Workers were not ready within `ready_timeout`.
    NotReady,
    /// Workers became ready and crashed, before the promotion or within probation.
    Crashed,
    /// A newer generation took its place before it was promoted.
    Superseded,
    /// An operator asked for it before it was promoted.
    Requested,
}

/// The pool in one word, for people and readiness checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// No generation has been promoted yet.
    Starting,
    /// Every worker of the serving generation is ready and nothing changes.
    Serving,
    /// A generation is on its way, or workers are being replaced by request.
    Reloading,
    /// Workers are missing.
    Degraded,
    /// See [`Action::Failed`].
    Failed,
    /// Workers are leaving for good.
    Stopping,
    /// Every worker is gone for good.
    Stopped,
}

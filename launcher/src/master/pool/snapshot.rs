//! What a pool remembers, in a form that can be written down and read by another process: [`Pool::snapshot`] and
//! [`Pool::restored`]. Nothing is decided here.
//!
//! Times are microseconds since an instant that both processes know, the start of the machine's clock.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::pace::Memory as PaceMemory;
use super::workers::Workers;
use super::{
    Aim, Generation, Health, Incoming, Jitter, Limits, Pace, Patience, Phase, Pool, Serving, Slot, Standing, State,
    Worker, WorkerId,
};

/// A time. See the module.
type Time = u64;

/// Everything about a pool but its limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    phase: PhaseThen,
    workers: Vec<WorkerThen>,
    /// Slot and failures.
    restarts: Vec<(u32, u32)>,
    kept: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhaseThen {
    Running { serving: Option<ServingThen>, incoming: Option<IncomingThen>, failed: bool },
    Stopping,
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ServingThen {
    generation: u64,
    pace: PaceThen,
    standing: StandingThen,
    previous: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StandingThen {
    Trusted { proven: Time },
    Condemned { back_to: u64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct IncomingThen {
    generation: u64,
    pace: PaceThen,
    rescue: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct PaceThen {
    slowest: bool,
    failures: u32,
    gate: Option<Time>,
    recent: Vec<Time>,
    last: Option<Time>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WorkerThen {
    id: u64,
    slot: u32,
    generation: u64,
    state: StateThen,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StateThen {
    Starting { since: Time, deadline: Time, extended: bool },
    Ready { since: Time },
    Outgoing { since: Time, due: Time },
    Draining { since: Time, deadline: Time },
    Dying { since: Time, deadline: Time },
    Killed { since: Time },
}

/// Between instants and what is written.
#[derive(Debug, Clone, Copy)]
struct Clock {
    start: Instant,
}

impl Clock {
    fn write(self, at: Instant) -> Time {
        u64::try_from(at.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }

    fn read(self, at: Time) -> Instant {
        // One that no clock can reach: as good as never, and no overflow.
        self.start.checked_add(Duration::from_micros(at)).unwrap_or(self.start)
    }
}

impl Pool {
    /// What the pool remembers. `start`: see the module.
    pub fn snapshot(&self, start: Instant) -> Snapshot {
        let clock = Clock { start };
        let pace = |pace: &Pace| {
            let PaceMemory { slowest, failures, gate, recent, last } = pace.memory();
            let write = |at| clock.write(at);
            PaceThen {
                slowest,
                failures,
                gate: gate.map(write),
                recent: recent.into_iter().map(write).collect(),
                last: last.map(write),
            }
        };
        let phase = match &self.phase {
            Phase::Running { serving, incoming, health } => PhaseThen::Running {
                serving: serving.as_ref().map(|serving| ServingThen {
                    generation: serving.generation.0,
                    pace: pace(&serving.pace),
                    standing: match serving.standing {
                        Standing::Trusted { proven } => StandingThen::Trusted { proven: clock.write(proven) },
                        Standing::Condemned { back_to } => StandingThen::Condemned { back_to: back_to.0 },
                    },
                    previous: serving.previous.map(|generation| generation.0),
                }),
                incoming: incoming.as_ref().map(|incoming| IncomingThen {
                    generation: incoming.generation.0,
                    pace: pace(&incoming.pace),
                    rescue: incoming.aim == Aim::Rescue,
                }),
                failed: *health == Health::Failed,
            },
            Phase::Stopping => PhaseThen::Stopping,
            Phase::Stopped => PhaseThen::Stopped,
        };
        let worker = |(id, worker): (WorkerId, &Worker)| WorkerThen {
            id: id.0,
            slot: worker.slot.0,
            generation: worker.generation.0,
            state: state_then(worker.state, clock),
        };
        Snapshot {
            phase,
            workers: self.workers.iter().map(worker).collect(),
            restarts: self.restarts.iter().map(|(slot, count)| (slot.0, *count)).collect(),
            kept: self.kept.iter().map(|generation| generation.0).collect(),
        }
    }

    /// A pool that remembers this. What happened since then it is told by events.
    pub fn restored(limits: Limits, seed: u64, now: Instant, then: &Snapshot, start: Instant) -> Pool {
        let clock = Clock { start };
        let pace = |then: &PaceThen| {
            let read = |at: &Time| clock.read(*at);
            Pace::remembered(PaceMemory {
                slowest: then.slowest,
                failures: then.failures,
                gate: then.gate.as_ref().map(read),
                recent: then.recent.iter().map(read).collect(),
                last: then.last.as_ref().map(read),
            })
        };
        let phase = match &then.phase {
            PhaseThen::Running { serving, incoming, failed } => Phase::Running {
                serving: serving.as_ref().map(|serving| Serving {
                    generation: Generation(serving.generation),
                    pace: pace(&serving.pace),
                    standing: match serving.standing {
                        StandingThen::Trusted { proven } => Standing::Trusted { proven: clock.read(proven) },
                        StandingThen::Condemned { back_to } => Standing::Condemned { back_to: Generation(back_to) },
                    },
                    previous: serving.previous.map(Generation),
                }),
                incoming: incoming.as_ref().map(|incoming| Incoming {
                    generation: Generation(incoming.generation),
                    pace: pace(&incoming.pace),
                    aim: if incoming.rescue { Aim::Rescue } else { Aim::Replace },
                }),
                health: if *failed { Health::Failed } else { Health::Fair },
            },
            PhaseThen::Stopping => Phase::Stopping,
            PhaseThen::Stopped => Phase::Stopped,
        };
        let mut workers = Workers::default();
        for worker in &then.workers {
            let state = state_now(&worker.state, clock);
            workers.insert(WorkerId(worker.id), Slot(worker.slot), Generation(worker.generation), state);
        }
        Pool {
            limits: limits.bounded(),
            jitter: Jitter::new(seed),
            now,
            phase,
            workers,
            restarts: then.restarts.iter().map(|(slot, count)| (Slot(*slot), *count)).collect(),
            kept: then.kept.iter().copied().map(Generation).collect(),
        }
    }
}

fn state_then(state: State, clock: Clock) -> StateThen {
    let write = |at| clock.write(at);
    match state {
        State::Starting { since, patience } => StateThen::Starting {
            since: write(since),
            deadline: write(patience.deadline()),
            extended: matches!(patience, Patience::Extended { .. }),
        },
        State::Ready { since } => StateThen::Ready { since: write(since) },
        State::Outgoing { since, due } => StateThen::Outgoing { since: write(since), due: write(due) },
        State::Draining { since, deadline } => StateThen::Draining { since: write(since), deadline: write(deadline) },
        State::Dying { since, deadline } => StateThen::Dying { since: write(since), deadline: write(deadline) },
        State::Killed { since } => StateThen::Killed { since: write(since) },
    }
}

fn state_now(state: &StateThen, clock: Clock) -> State {
    let read = |at| clock.read(at);
    match *state {
        StateThen::Starting { since, deadline, extended } => {
            let deadline = read(deadline);
            let patience = if extended { Patience::Extended { deadline } } else { Patience::Given { deadline } };
            State::Starting { since: read(since), patience }
        }
        StateThen::Ready { since } => State::Ready { since: read(since) },
        StateThen::Outgoing { since, due } => State::Outgoing { since: read(since), due: read(due) },
        StateThen::Draining { since, deadline } => State::Draining { since: read(since), deadline: read(deadline) },
        StateThen::Dying { since, deadline } => State::Dying { since: read(since), deadline: read(deadline) },
        StateThen::Killed { since } => State::Killed { since: read(since) },
    }
}

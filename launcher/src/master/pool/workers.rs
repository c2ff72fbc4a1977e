//! The workers of a pool and the transitions of one worker's state.
//!
//! Everything that goes through here keeps two promises: a worker is asked to drain at most once and killed at most
//! once, and never after it was reaped (it is not in the table any more).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Action, Generation, Slot, WorkerId};

/// A worker that was not reaped yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// Its place.
    pub slot: Slot,
    /// What it runs.
    pub generation: Generation,
    /// Where it is in its life.
    pub state: State,
}

/// Where a worker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Spawned; not serving.
    Starting {
        /// When it was spawned.
        since: Instant,
        /// How long it may take.
        patience: Patience,
    },
    /// Serving.
    Ready {
        /// When it became ready.
        since: Instant,
    },
    /// Serving until its replacement is ready.
    Outgoing {
        /// When it became ready.
        since: Instant,
        /// Its replacement does not start earlier.
        due: Instant,
    },
    /// Finishing what is in flight.
    Draining {
        /// When it was asked to.
        since: Instant,
        /// When it is killed.
        deadline: Instant,
    },
    /// It said that it dies, and serves nobody any more; it may still tell where.
    Dying {
        /// When it said so.
        since: Instant,
        /// When it is killed.
        deadline: Instant,
    },
    /// Killed; not reaped yet.
    Killed {
        /// When it was killed.
        since: Instant,
    },
}

/// How long a starting worker is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// As configured.
    Given {
        /// Killed then.
        deadline: Instant,
    },
    /// Once more, because the master itself stood still when the time was up.
    Extended {
        /// Killed then.
        deadline: Instant,
    },
}

impl Patience {
    pub(super) fn deadline(self) -> Instant {
        match self {
            Patience::Given { deadline } | Patience::Extended { deadline } => deadline,
        }
    }
}

impl State {
    /// When this state began; a worker that is to be replaced counts from when it became ready.
    pub fn since(self) -> Instant {
        match self {
            State::Starting { since, .. }
            | State::Ready { since }
            | State::Outgoing { since, .. }
            | State::Draining { since, .. }
            | State::Dying { since, .. }
            | State::Killed { since } => since,
        }
    }

    /// The worker accepts connections.
    pub fn serves(self) -> bool {
        matches!(self, State::Ready { .. } | State::Outgoing { .. })
    }
}

/// Why a slot wants a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vacancy {
    /// Nobody is there.
    Empty,
    /// Somebody is, and is to be replaced.
    Outgoing { due: Instant },
}

#[derive(Debug, Clone, Default)]
pub(super) struct Workers(BTreeMap<WorkerId, Worker>);

impl Workers {
    pub(super) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.0.iter().map(|(id, worker)| (*id, worker))
    }

    pub(super) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.0.get(&id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, id: WorkerId, slot: Slot, generation: Generation, state: State) {
        self.0.insert(id, Worker { slot, generation, state });
    }

    pub(super) fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        self.0.remove(&id)
    }

    /// Any worker of `generation`, in whatever state, is left.
    pub(super) fn run(&self, generation: Generation) -> bool {
        self.of(generation).next().is_some()
    }

    pub(super) fn any_ready(&self) -> bool {
        self.0.values().any(|worker| worker.state.serves())
    }

    /// Any worker of `generation` is to be replaced.
    pub(super) fn outgoing(&self, generation: Generation) -> bool {
        self.of(generation).any(|worker| matches!(worker.state, State::Outgoing { .. }))
    }

    /// Slots of `generation` in which a worker serves.
    pub(super) fn ready_slots(&self, generation: Generation) -> usize {
        let mut slots: Vec<Slot> = self.of(generation).filter(|w| w.state.serves()).map(|w| w.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        slots.len()
    }

    /// Workers of `generation` that boot.
    pub(super) fn starting(&self, generation: Generation) -> usize {
        self.of(generation).filter(|worker| matches!(worker.state, State::Starting { .. })).count()
    }

    /// Workers of `generation` that boot while the one that they replace still serves.
    pub(super) fn succeeding(&self, generation: Generation) -> usize {
        let leaving: Vec<Slot> =
            self.of(generation).filter(|w| matches!(w.state, State::Outgoing { .. })).map(|w| w.slot).collect();
        self.of(generation).filter(|w| matches!(w.state, State::Starting { .. }) && leaving.contains(&w.slot)).count()
    }

    /// The slots `0..size` of `generation` that want a worker, lowest first.
    pub(super) fn vacancies(&self, generation: Generation, size: u32) -> Vec<(Slot, Vacancy)> {
        let mut vacant: BTreeMap<Slot, Vacancy> = (0..size).map(|slot| (Slot(slot), Vacancy::Empty)).collect();
        for worker in self.of(generation) {
            if let State::Outgoing { due, .. } = worker.state {
                vacant.entry(worker.slot).and_modify(|vacancy| *vacancy = Vacancy::Outgoing { due });
            }
        }
        for worker in self.of(generation) {
            if matches!(worker.state, State::Starting { .. } | State::Ready { .. }) {
                vacant.remove(&worker.slot);
            }
        }
        vacant.into_iter().collect()
    }

    /// The first deadline after `now`.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let deadlines = self.0.values().filter_map(|worker| match worker.state {
            State::Starting { patience, .. } => Some(patience.deadline()),
            State::Draining { deadline, .. } | State::Dying { deadline, .. } => Some(deadline),
            State::Ready { .. } | State::Outgoing { .. } | State::Killed { .. } => None,
        });
        deadlines.filter(|deadline| *deadline > now).min()
    }

    pub(super) fn ready(&mut self, id: WorkerId, now: Instant) {
        if let Some(worker) = self.0.get_mut(&id)
            && let State::Starting { .. } = worker.state
        {
            worker.state = State::Ready { since: now };
        }
    }

    /// One worker serves until its replacement is ready, which starts when it has been ready for `after`.
    pub(super) fn recycle(&mut self, id: WorkerId, now: Instant, after: Duration) {
        if let Some(worker) = self.0.get_mut(&id)
            && let State::Ready { since } = worker.state
        {
            worker.state = State::Outgoing { since, due: now.max(since + after) };
        }
    }

    /// Every worker of `generation` serves until its replacement is ready.
    pub(super) fn let_go(&mut self, generation: Generation, now: Instant) {
        for worker in self.0.values_mut().filter(|w| w.generation == generation) {
            if let State::Ready { since } | State::Outgoing { since, .. } = worker.state {
                worker.state = State::Outgoing { since, due: now };
            }
        }
    }

    /// Takes down the chosen workers: one that does not serve yet has nothing to finish and is killed, one that
    /// does drains for at most `patience`.
    pub(super) fn retire(
        &mut self,
        chosen: impl Fn(&Worker) -> bool,
        now: Instant,
        patience: Duration,
        actions: &mut Vec<Action>,
    ) {
        for (id, worker) in self.0.iter_mut().filter(|(_, worker)| chosen(worker)) {
            match worker.state {
                State::Starting { .. } => {
                    worker.state = State::Killed { since: now };
                    actions.push(Action::Kill(*id));
                }
                State::Ready { .. } | State::Outgoing { .. } => {
                    worker.state = State::Draining { since: now, deadline: now + patience };
                    actions.push(Action::Drain(*id));
                }
                State::Draining { .. } | State::Dying { .. } | State::Killed { .. } => {}
            }
        }
    }

    /// A worker has begun to die, and may take `patience` for it. Gives it as it was; `None`: it was told to leave before.
    pub(super) fn die(&mut self, id: WorkerId, now: Instant, patience: Duration) -> Option<Worker> {
        let worker = self.0.get_mut(&id)?;
        let before = *worker;
        match worker.state {
            State::Starting { .. } | State::Ready { .. } | State::Outgoing { .. } => {
                worker.state = State::Dying { since: now, deadline: now + patience };
                Some(before)
            }
            State::Draining { .. } | State::Dying { .. } | State::Killed { .. } => None,
        }
    }

    /// Kills the chosen workers.
    pub(super) fn kill(&mut self, chosen: impl Fn(&Worker) -> bool, now: Instant, actions: &mut Vec<Action>) {
        for (id, worker) in self.0.iter_mut().filter(|(_, worker)| chosen(worker)) {
            if !matches!(worker.state, State::Killed { .. }) {
                worker.state = State::Killed { since: now };
                actions.push(Action::Kill(*id));
            }
        }
    }

    /// Takes down a whole generation; what drains already gets no longer than the rest.
    pub(super) fn leave(
        &mut self,
        generation: Generation,
        now: Instant,
        patience: Duration,
        actions: &mut Vec<Action>,
    ) {
        for worker in self.0.values_mut().filter(|w| w.generation == generation) {
            if let State::Draining { deadline, .. } = &mut worker.state {
                *deadline = (now + patience).min(*deadline);
            }
        }
        self.retire(|worker| worker.generation == generation, now, patience, actions);
    }

    /// Kills every worker whose deadline has passed, and returns those that were still starting, as they were. One
    /// whose deadline passed more than `stall` ago unnoticed gets that much more time, once.
    pub(super) fn expire(&mut self, now: Instant, stall: Duration, actions: &mut Vec<Action>) -> Vec<Worker> {
        let mut late = Vec::new();
        for (id, worker) in &mut self.0 {
            match &mut worker.state {
                State::Starting { patience, .. } if patience.deadline() <= now => match *patience {
                    Patience::Given { deadline } if now.duration_since(deadline) > stall => {
                        *patience = Patience::Extended { deadline: now + stall };
                    }
                    Patience::Given { .. } | Patience::Extended { .. } => {
                        late.push(*worker);
                        worker.state = State::Killed { since: now };
                        actions.push(Action::Kill(*id));
                    }
                },
                State::Draining { deadline, .. } | State::Dying { deadline, .. } if *deadline <= now => {
                    worker.state = State::Killed { since: now };
                    actions.push(Action::Kill(*id));
                }
                _ => {}
            }
        }
        late
    }

    /// Takes down what is beyond `size`: the highest slots.
    pub(super) fn trim(&mut self, size: u32, now: Instant, patience: Duration, actions: &mut Vec<Action>) {
        self.retire(|worker| worker.slot.0 >= size, now, patience, actions);
    }

    /// Workers whose replacement is ready drain.
    pub(super) fn swap(&mut self, now: Instant, patience: Duration, actions: &mut Vec<Action>) {
        let fresh: Vec<(Generation, Slot)> = self
            .0
            .values()
            .filter(|worker| matches!(worker.state, State::Ready { .. }))
            .map(|worker| (worker.generation, worker.slot))
            .collect();
        let replaced = |worker: &Worker| {
            matches!(worker.state, State::Outgoing { .. }) && fresh.contains(&(worker.generation, worker.slot))
        };
        self.retire(replaced, now, patience, actions);
    }

    /// Kills what drains of all but the `most` youngest generations that are not current.
    pub(super) fn cap(
        &mut self,
        current: impl Fn(Generation) -> bool,
        most: usize,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let mut draining: BTreeMap<Generation, Instant> = BTreeMap::new();
        for worker in self.0.values().filter(|worker| !current(worker.generation)) {
            if let State::Draining { since, .. } = worker.state {
                let first = draining.entry(worker.generation).or_insert(since);
                *first = since.min(*first);
            }
        }
        let mut by_age: Vec<(Instant, Generation)> = draining.into_iter().map(|(g, since)| (since, g)).collect();
        by_age.sort_unstable();
        let surplus = by_age.len().saturating_sub(most);
        for (_, generation) in by_age.into_iter().take(surplus) {
            self.kill(|w| w.generation == generation && matches!(w.state, State::Draining { .. }), now, actions);
        }
    }

    fn of(&self, generation: Generation) -> impl Iterator<Item = &Worker> {
        self.0.values().filter(move |worker| worker.generation == generation)
    }
}

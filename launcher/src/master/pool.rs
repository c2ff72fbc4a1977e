//! The pool: what a service's workers should be, decided without a clock, a pid or a system call.
//!
//! One [`Pool`] a service. The master turns everything that happens into an [`Event`], gives it to
//! [`Pool::handle`] together with the time, performs the [`Action`]s in their order, and calls again when
//! [`Pool::next_deadline`] has come. The pool imports nothing of the crate.
//!
//! ```text
//! Starting ──Ready──▶ Ready ──Recycle, Restart──▶ Outgoing        any ──Exited──▶ gone; its generation is blamed
//!    │ deadline,        │ retired                    │ replaced,         if it was Starting, Ready or Outgoing
//!    │ retired          ▼                            ▼ retired
//!    ▼                Draining ◀─────────────────────┘        any of these ──Dying──▶ Dying: blamed and replaced already
//!  Killed ◀─deadline────┘
//! ```
//!
//! Decisions:
//!
//! - A new generation starts *all* its workers beside the old ones and is promoted when the last of them is
//!   ready; then the old ones drain. The listeners are shared, so a new worker serves from the moment that it is
//!   ready. `surge` bounds how many workers boot at the same time beside a serving generation, so that a change
//!   does not take the machine from those who serve. A restart or recycling replaces worker by worker, with at
//!   most `surge` more than `size` up.
//! - Beside each serving generation one is kept to return to: the one that served before it. A few
//!   crashes within probation, which each of them prolongs, return to it by themselves, and that return is not given
//!   up: the generation has served before. It ends at its *first* ready worker; the condemned generation keeps running
//!   until then.
//! - A generation that fails before its promotion is given up after a few tries. Nothing else changes.
//!
//! It does not know why a worker exited, what a generation contains, or whether anybody is connected.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

mod pace;
mod report;
mod snapshot;
mod words;
mod workers;

#[cfg(test)]
mod histories;
#[cfg(test)]
mod promises;
#[cfg(test)]
mod world;

use pace::{Budget, Jitter, Pace, Tenure};
pub use snapshot::Snapshot;
pub use words::{Action, Event, Generation, Ids, Limits, RollbackReason, Slot, Status, WorkerId};
pub use workers::{Patience, State, Worker};
use workers::{Vacancy, Workers};

/// Draining generations beyond this number are killed, oldest first: frequent reloads with long-lived
/// connections would otherwise pile up processes without bound. A burst of reloads must not reach it: with 4, requests
/// of two seconds were cut off by the seventh reload within one.
const OLD_GENERATIONS: usize = 16;
/// A generation that was replaced may drain for at most this long, whatever `stop.drain_timeout` says.
const OLD_AGE: Duration = Duration::from_secs(600);
/// A worker that asks to be replaced sooner after it became ready waits for the rest of this: without it, a
/// memory limit below what an idle worker needs turns into an endless stream of processes.
const RECYCLE_AFTER: Duration = Duration::from_secs(1);
/// A deadline noticed this late says that the *master* stood still; it is postponed once by the same time, for the
/// worker's `Ready` may be waiting to be read.
const STALL: Duration = Duration::from_secs(5);

/// How long a worker may take to tell where it dies. It ends itself before that, unless the machine is very busy.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// The workers of one service. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Pool {
    limits: Limits,
    jitter: Jitter,
    /// The time of the last event. Deadlines up to it have been dealt with.
    now: Instant,
    phase: Phase,
    workers: Workers,
    /// Workers that failed, by slot.
    restarts: BTreeMap<Slot, u32>,
    /// Generations that have not been retired.
    kept: BTreeSet<Generation>,
}

#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one a service, and it runs nearly all the time")]
enum Phase {
    Running { serving: Option<Serving>, incoming: Option<Incoming>, health: Health },
    Stopping,
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Fair,
    /// [`Action::Failed`] was said and [`Action::Recovered`] not yet.
    Failed,
}

#[derive(Debug, Clone)]
struct Serving {
    generation: Generation,
    pace: Pace,
    standing: Standing,
    /// Where a crash loop or an operator leads back to.
    previous: Option<Generation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Trusted {
        /// When its probation ends: it was promoted long enough ago, and so was its last crash within probation. A
        /// generation whose workers crash a few seconds after they became ready would otherwise outlive its probation
        /// between two crashes.
        proven: Instant,
    },
    /// It crashed too often within probation: it serves only until its predecessor does.
    Condemned { back_to: Generation },
}

#[derive(Debug, Clone)]
struct Incoming {
    generation: Generation,
    pace: Pace,
    aim: Aim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// Replace what serves, once complete.
    Replace,
    /// Rescue the service from a condemned generation, at the first ready worker.
    Rescue,
}

impl Pool {
    /// An empty pool; [`Event::Reload`] brings it to life. `seed` is for the jitter.
    pub fn new(limits: Limits, seed: u64, now: Instant) -> Self {
        Self {
            limits: limits.bounded(),
            jitter: Jitter::new(seed),
            now,
            phase: Phase::Running { serving: None, incoming: None, health: Health::Fair },
            workers: Workers::default(),
            restarts: BTreeMap::new(),
            kept: BTreeSet::new(),
        }
    }

    /// Takes note of `event` and says what to do. `now` never goes back.
    pub fn handle(&mut self, event: Event, now: Instant, ids: &mut Ids) -> Vec<Action> {
        self.now = self.now.max(now);
        let mut actions = Vec::new();
        if !matches!(self.phase, Phase::Stopped) {
            // The event first: a `Ready` that arrives together with its deadline is in time.
            self.note(event, &mut actions);
            self.expire(&mut actions);
            self.reconcile(ids, &mut actions);
        }
        actions
    }

    /// When to call [`Pool::handle`] with [`Event::Tick`] unless something else happens first.
    pub fn next_deadline(&self) -> Option<Instant> {
        let mut next = self.workers.next_deadline(self.now);
        if let Phase::Running { serving, incoming, .. } = &self.phase {
            let paces = serving.iter().map(|s| (s.generation, &s.pace));
            for (generation, pace) in paces.chain(incoming.iter().map(|i| (i.generation, &i.pace))) {
                let vacant = self.workers.vacancies(generation, self.limits.size);
                let gate = pace.gate().filter(|gate| *gate > self.now && !vacant.is_empty());
                let due = vacant.iter().filter_map(|(_, vacancy)| match vacancy {
                    Vacancy::Empty => None,
                    Vacancy::Outgoing { due } => Some(*due),
                });
                next = next.into_iter().chain(gate).chain(due.filter(|due| *due > self.now)).min();
            }
        }
        next
    }

    fn note(&mut self, event: Event, actions: &mut Vec<Action>) {
        let now = self.now;
        match event {
            Event::Tick => {}
            Event::Reload(generation) => self.aim_at(generation, RollbackReason::Superseded, actions),
            Event::Rollback(generation) => {
                if self.serving() == Some(generation) || self.previous() == Some(generation) {
                    self.aim_at(generation, RollbackReason::Requested, actions);
                }
            }
            Event::Restart => {
                if let Phase::Running { serving: Some(serving), .. } = &mut self.phase {
                    serving.pace = Pace::default();
                    self.workers.let_go(serving.generation, now);
                }
            }
            Event::Ready(id) => self.workers.ready(id, now),
            Event::Dying(id) => {
                if let Some(worker) = self.workers.die(id, now, LAST_WORDS) {
                    self.blame(worker, actions);
                }
            }
            Event::Exited(id) => {
                if let Some(worker) = self.workers.remove(id) {
                    self.blame(worker, actions);
                }
            }
            Event::Recycle(id) => self.workers.recycle(id, now, RECYCLE_AFTER),
            Event::Limits(limits) => {
                self.limits = limits.bounded();
                self.restarts.retain(|slot, _| slot.0 < self.limits.size);
            }
            Event::Drain => {
                if matches!(self.phase, Phase::Running { .. }) {
                    self.phase = Phase::Stopping;
                    self.workers.retire(|_| true, now, self.limits.drain_timeout, actions);
                }
            }
            Event::Kill => {
                self.phase = Phase::Stopping;
                self.workers.kill(|_| true, now, actions);
            }
        }
    }

    /// Makes `generation` the one that is wanted; `reason` is told to the one that was.
    fn aim_at(&mut self, generation: Generation, reason: RollbackReason, actions: &mut Vec<Action>) {
        let Phase::Running { serving, incoming, .. } = &mut self.phase else {
            return;
        };
        let serves = serving.as_ref().is_some_and(|s| s.generation == generation);
        if let Some(old) = incoming {
            if old.generation == generation || (serves && old.aim == Aim::Rescue) {
                return;
            }
            actions.push(Action::RolledBack { generation: old.generation, reason });
            let old = old.generation;
            *incoming = None;
            self.workers.leave(old, self.now, self.limits.drain_timeout.min(OLD_AGE), actions);
        }
        if !serves {
            self.kept.insert(generation);
            *incoming = Some(Incoming { generation, pace: Pace::default(), aim: Aim::Replace });
        }
    }

    /// A worker went away unasked, or was not ready in time: `worker` is as it was before.
    fn blame(&mut self, worker: Worker, actions: &mut Vec<Action>) {
        let Phase::Running { serving, incoming, health } = &mut self.phase else {
            return;
        };
        let (reason, tenure) = match worker.state {
            State::Starting { patience, .. } if self.now >= patience.deadline() => {
                (RollbackReason::NotReady, Tenure::Short)
            }
            State::Starting { .. } => (RollbackReason::NotStarted, Tenure::Short),
            State::Ready { since } | State::Outgoing { since, .. } => {
                let proven = self.now.duration_since(since) >= self.limits.reset_after;
                (RollbackReason::Crashed, if proven { Tenure::Proven } else { Tenure::Short })
            }
            State::Draining { .. } | State::Dying { .. } | State::Killed { .. } => return,
        };
        if worker.slot.0 < self.limits.size {
            let restarts = self.restarts.entry(worker.slot).or_insert(0);
            *restarts = restarts.saturating_add(1);
        }
        match (serving, incoming) {
            (serving, Some(new)) if new.generation == worker.generation => {
                // Never proven: a generation whose workers crash one by one after a long while would be tried for ever.
                new.pace.crash(self.now, Tenure::Short, &self.limits, &mut self.jitter);
                if new.aim == Aim::Rescue || new.pace.failures() < self.limits.tries {
                    return;
                }
                let generation = new.generation;
                actions.push(Action::RolledBack { generation, reason });
                if serving.is_none() && *health == Health::Fair {
                    *health = Health::Failed;
                    actions.push(Action::Failed);
                }
                if let Phase::Running { incoming, .. } = &mut self.phase {
                    *incoming = None;
                }
                self.workers.leave(generation, self.now, self.limits.drain_timeout.min(OLD_AGE), actions);
            }
            (Some(old), _) if old.generation == worker.generation => {
                let budget = old.pace.crash(self.now, tenure, &self.limits, &mut self.jitter);
                let Standing::Trusted { proven } = &mut old.standing else {
                    return;
                };
                if self.now >= *proven {
                    return;
                }
                *proven = self.now + self.limits.probation;
                // As many tries as before the promotion: a service whose every worker lives for seconds is no service.
                let hopeless = budget == Budget::Exhausted || old.pace.failures() >= self.limits.tries;
                if let (true, Some(back_to)) = (hopeless, old.previous) {
                    old.standing = Standing::Condemned { back_to };
                    actions.push(Action::RolledBack { generation: old.generation, reason: RollbackReason::Crashed });
                }
            }
            _ => {}
        }
    }

    /// Kills what has not met its deadline.
    fn expire(&mut self, actions: &mut Vec<Action>) {
        for late in self.workers.expire(self.now, STALL, actions) {
            self.blame(late, actions);
        }
    }

    /// Compares what is with what should be, and says what is missing. It runs after every event, so that an event
    /// which got lost costs time and not the service.
    fn reconcile(&mut self, ids: &mut Ids, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Running { .. }) {
            self.rescue();
            self.workers.trim(self.limits.size, self.now, self.limits.drain_timeout, actions);
            self.promote(actions);
            self.workers.swap(self.now, self.limits.drain_timeout, actions);
            self.fill(ids, actions);
            let current = [self.serving(), self.incoming()];
            self.workers.cap(|g| current.contains(&Some(g)), OLD_GENERATIONS, self.now, actions);
            self.judge(actions);
        }
        self.release(actions);
        if matches!(self.phase, Phase::Stopping) && self.workers.is_empty() {
            self.phase = Phase::Stopped;
            actions.push(Action::Stop);
        }
    }

    /// A condemned generation makes way for its predecessor, unless a newer one is already on its way.
    fn rescue(&mut self) {
        let Phase::Running { serving: Some(serving), incoming, .. } = &mut self.phase else {
            return;
        };
        let Standing::Condemned { back_to } = serving.standing else {
            return;
        };
        match incoming {
            None => *incoming = Some(Incoming { generation: back_to, pace: Pace::default(), aim: Aim::Rescue }),
            // An operator was quicker to ask for it; now it is in a hurry and must not be given up.
            Some(new) if new.generation == back_to => new.aim = Aim::Rescue,
            Some(_) => {}
        }
    }

    fn promote(&mut self, actions: &mut Vec<Action>) {
        let Phase::Running { serving, incoming, .. } = &mut self.phase else {
            return;
        };
        let Some(new) = incoming else { return };
        let needed = match new.aim {
            Aim::Replace => self.limits.size as usize,
            Aim::Rescue => 1,
        };
        if self.workers.ready_slots(new.generation) < needed {
            return;
        }
        let generation = new.generation;
        *incoming = None;
        let old = serving.take();
        let previous = old.as_ref().and_then(|old| match old.standing {
            Standing::Trusted { .. } => Some(old.generation),
            Standing::Condemned { back_to } => Some(back_to).filter(|back_to| *back_to != generation),
        });
        let standing = Standing::Trusted { proven: self.now + self.limits.probation };
        *serving = Some(Serving { generation, pace: Pace::default(), standing, previous });
        actions.push(Action::Promoted(generation));
        if let Some(old) = old {
            self.workers.leave(old.generation, self.now, self.limits.drain_timeout.min(OLD_AGE), actions);
        }
    }

    /// Starts the workers that are missing and may start now.
    fn fill(&mut self, ids: &mut Ids, actions: &mut Vec<Action>) {
        let Phase::Running { serving, incoming, .. } = &self.phase else {
            return;
        };
        let mut starts = Vec::new();
        if let Some(new) = incoming.as_ref().filter(|new| !new.pace.closed(self.now)) {
            // With nobody ready there is nobody to be considerate of, and a rescue is in a hurry.
            let considerate = new.aim == Aim::Replace
                && serving.as_ref().is_some_and(|serving| self.workers.ready_slots(serving.generation) > 0);
            let bound = if considerate { self.limits.surge as usize } else { usize::MAX };
            let free = bound.saturating_sub(self.workers.starting(new.generation));
            starts.extend(self.missing(new.generation).take(free));
        }
        if let Some(old) = serving.as_ref().filter(|old| !old.pace.closed(self.now)) {
            starts.extend(self.missing(old.generation));
        }
        for (slot, generation) in starts {
            let worker = ids.next();
            let patience = Patience::Given { deadline: self.now + self.limits.ready_timeout };
            self.workers.insert(worker, slot, generation, State::Starting { since: self.now, patience });
            actions.push(Action::Spawn { worker, slot, generation });
        }
    }

    /// The slots whose worker may start now, apart from what the backoff says: empty ones, and as many successors
    /// of outgoing workers as the surge admits.
    fn missing(&self, generation: Generation) -> impl Iterator<Item = (Slot, Generation)> {
        let mut free = (self.limits.surge as usize).saturating_sub(self.workers.succeeding(generation));
        let mut vacant = self.workers.vacancies(generation, self.limits.size);
        vacant.retain(|(_, vacancy)| match vacancy {
            Vacancy::Empty => true,
            Vacancy::Outgoing { due } if *due <= self.now && free > 0 => {
                free -= 1;
                true
            }
            Vacancy::Outgoing { .. } => false,
        });
        vacant.into_iter().map(move |(slot, _)| (slot, generation))
    }

    /// Says when the service is lost, and when it is found again.
    fn judge(&mut self, actions: &mut Vec<Action>) {
        let Phase::Running { serving, health, .. } = &mut self.phase else {
            return;
        };
        let anybody = self.workers.any_ready();
        match *health {
            Health::Failed if anybody => {
                *health = Health::Fair;
                actions.push(Action::Recovered);
            }
            Health::Fair if !anybody && serving.as_ref().is_some_and(|s| s.pace.is_exhausted()) => {
                *health = Health::Failed;
                actions.push(Action::Failed);
            }
            Health::Failed | Health::Fair => {}
        }
    }

    /// Lets go of the generations that nothing runs and nothing can return to.
    fn release(&mut self, actions: &mut Vec<Action>) {
        let wanted = [self.serving(), self.incoming(), self.previous()];
        self.kept.retain(|generation| {
            let keep = wanted.contains(&Some(*generation)) || self.workers.run(*generation);
            if !keep {
                actions.push(Action::Retired(*generation));
            }
            keep
        });
    }
}

//! A world for the pool's tests: it does what the pool says and checks after every event what must always hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{
    Action, Event, Generation, Ids, Limits, OLD_GENERATIONS, Patience, Pool, RollbackReason, Slot, State, WorkerId,
};

/// Limits with which every kind of deadline differs from every other.
pub(super) fn limits(size: u32) -> Limits {
    Limits {
        size,
        surge: 1,
        ready_timeout: Duration::from_millis(4_000),
        drain_timeout: Duration::from_millis(7_000),
        probation: Duration::from_millis(10_000),
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_millis(3_000),
        budget: 5,
        budget_window: Duration::from_millis(60_000),
        reset_after: Duration::from_millis(60_000),
        tries: 3,
    }
}

/// A worker as the operating system would know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    pub(super) slot: Slot,
    pub(super) generation: Generation,
    pub(super) ready: bool,
    /// It was asked for a replacement.
    pub(super) worn: bool,
    pub(super) drained: bool,
    pub(super) killed: bool,
    /// It said that it dies.
    pub(super) dying: bool,
}

impl Process {
    pub(super) fn up(&self) -> bool {
        !self.drained && !self.killed && !self.dying
    }

    fn serves(&self) -> bool {
        self.ready && self.up()
    }
}

pub(super) struct World {
    pub(super) pool: Pool,
    ids: Ids,
    pub(super) now: Instant,
    pub(super) alive: BTreeMap<WorkerId, Process>,
    pub(super) stopped: bool,
    pub(super) failed: bool,
    /// Generations on their way and not answered for by a promotion or a rollback.
    pub(super) open: BTreeSet<Generation>,
    /// Generations asked for and not retired.
    held: BTreeSet<Generation>,
    highest: WorkerId,
    widest_surge: u32,
    stopping: bool,
    /// The serving generation was rolled back and still serves; its predecessor is on its way back.
    condemned: bool,
}

impl World {
    pub(super) fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            widest_surge: limits.surge,
            pool: Pool::new(limits, 7, now),
            ids: Ids::default(),
            now,
            alive: BTreeMap::new(),
            stopped: false,
            failed: false,
            open: BTreeSet::new(),
            held: BTreeSet::new(),
            highest: WorkerId(0),
            stopping: false,
            condemned: false,
        }
    }

    /// Time passes without an event.
    pub(super) fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    pub(super) fn event(&mut self, event: Event) -> Vec<Action> {
        let before = self.pool.clone();
        let served = self.alive.values().filter(|p| p.serves()).count();
        self.prepare(&event);
        let actions = self.pool.handle(event.clone(), self.now, &mut self.ids);
        let condemned = self.condemned;
        for action in &actions {
            self.perform(*action, &event, &before, &actions);
        }
        self.open.extend(self.pool.incoming());
        self.check(&event, &actions, &before, served, condemned && !self.condemned);
        actions
    }

    fn prepare(&mut self, event: &Event) {
        match event {
            Event::Ready(id) => {
                if let Some(process) = self.alive.get_mut(id) {
                    process.ready = true;
                }
            }
            Event::Exited(id) => {
                self.alive.remove(id);
            }
            Event::Dying(id) => {
                if let Some(process) = self.alive.get_mut(id) {
                    process.dying |= process.up();
                }
            }
            Event::Recycle(id) => {
                if let Some(process) = self.alive.get_mut(id) {
                    process.worn |= process.ready;
                }
            }
            Event::Restart => {
                let serving = self.pool.serving();
                for process in self.alive.values_mut().filter(|p| Some(p.generation) == serving && p.ready) {
                    process.worn = true;
                }
            }
            Event::Reload(generation) if !self.stopping => {
                self.held.insert(*generation);
                if self.pool.serving() != Some(*generation) && self.pool.incoming() != Some(*generation) {
                    self.open.insert(*generation);
                }
            }
            Event::Rollback(generation) if !self.stopping => {
                if self.pool.previous() == Some(*generation) && self.pool.incoming() != Some(*generation) {
                    self.open.insert(*generation);
                }
            }
            Event::Limits(limits) => self.widest_surge = self.widest_surge.max(limits.surge),
            Event::Drain | Event::Kill => self.stopping = true,
            Event::Reload(_) | Event::Rollback(_) | Event::Tick => {}
        }
    }

    fn perform(&mut self, action: Action, event: &Event, before: &Pool, all: &[Action]) {
        assert!(!self.stopped, "{action:?} after Stop");
        match action {
            Action::Spawn { worker, slot, generation } => {
                assert!(worker > self.highest, "{worker:?} was used before");
                assert!(slot.0 < self.pool.limits().size, "{slot:?} is beyond the size");
                assert!(!self.stopping, "spawned while stopping");
                assert!(self.held.contains(&generation), "{generation:?} was retired");
                self.highest = worker;
                let process = Process {
                    slot,
                    generation,
                    ready: false,
                    worn: false,
                    drained: false,
                    killed: false,
                    dying: false,
                };
                self.alive.insert(worker, process);
            }
            Action::Drain(id) => {
                let process = *self.alive.get(&id).expect("drained after it was reaped");
                assert!(process.up(), "{id:?} drained twice or after its kill");
                let current = [self.pool.serving(), self.pool.incoming()].contains(&Some(process.generation));
                // It may be given up and, as the way out of a crash loop, wanted again in one go.
                let given_up = all
                    .iter()
                    .any(|a| matches!(a, Action::RolledBack { generation, .. } if *generation == process.generation));
                if current && !given_up && !self.stopping && process.slot.0 < self.pool.limits().size {
                    let successor = |p: &Process| {
                        p.generation == process.generation && p.slot == process.slot && p.serves() && !p.worn
                    };
                    assert!(process.worn, "{id:?} of a wanted generation drained unasked");
                    assert!(self.alive.values().any(successor), "{id:?} drained before its replacement was ready");
                }
                self.alive.insert(id, Process { drained: true, ..process });
            }
            Action::Kill(id) => {
                let process = self.alive.get_mut(&id).expect("killed after it was reaped");
                assert!(!process.killed, "{id:?} killed twice");
                process.killed = true;
            }
            Action::Promoted(generation) => {
                let ready: BTreeSet<Slot> =
                    self.alive.values().filter(|p| p.generation == generation && p.serves()).map(|p| p.slot).collect();
                let asked = self.open.remove(&generation);
                if self.rescues(generation, before) {
                    assert!(!ready.is_empty(), "promoted with nobody ready");
                } else {
                    assert!(asked, "promoted unasked");
                    assert_eq!(ready.len(), self.pool.limits().size as usize, "promoted before all were ready");
                }
                self.condemned = false;
                assert_eq!(self.pool.serving(), Some(generation));
            }
            Action::RolledBack { generation, reason } => {
                let asked = self.open.remove(&generation);
                if before.serving() == Some(generation) {
                    assert_eq!(reason, RollbackReason::Crashed);
                    assert!(before.previous().is_some(), "rolled back to nothing");
                    assert!(!self.condemned, "condemned twice");
                    self.condemned = true;
                } else {
                    assert!(asked, "{generation:?} was not on its way");
                }
                match reason {
                    RollbackReason::Superseded => assert!(matches!(event, Event::Reload(_))),
                    RollbackReason::Requested => assert!(matches!(event, Event::Rollback(_))),
                    RollbackReason::NotStarted | RollbackReason::NotReady | RollbackReason::Crashed => {}
                }
            }
            Action::Failed => {
                assert!(!self.failed, "failed twice");
                self.failed = true;
            }
            Action::Recovered => {
                assert!(self.failed, "recovered from nothing");
                assert!(self.alive.values().any(Process::serves), "recovered with nobody ready");
                self.failed = false;
            }
            Action::Retired(generation) => {
                assert!(self.held.remove(&generation), "{generation:?} retired twice");
                assert!(self.alive.values().all(|p| p.generation != generation), "retired while it runs");
                let wanted = [self.pool.serving(), self.pool.incoming(), self.pool.previous()];
                assert!(!wanted.contains(&Some(generation)), "{generation:?} retired while it is wanted");
            }
            Action::Stop => {
                assert!(self.stopping, "stopped unasked");
                assert!(self.alive.is_empty(), "stopped before everybody was reaped");
                assert!(self.held.is_empty(), "stopped with generations still held");
                self.stopped = true;
            }
        }
    }

    /// Bringing back `generation` is the way out of a crash loop.
    fn rescues(&self, generation: Generation, before: &Pool) -> bool {
        self.condemned && before.previous() == Some(generation)
    }

    fn check(&self, event: &Event, actions: &[Action], before: &Pool, served: usize, rescued: bool) {
        let known: Vec<WorkerId> = self.pool.workers().map(|(id, _)| id).collect();
        let alive: Vec<WorkerId> = self.alive.keys().copied().collect();
        assert_eq!(known, alive, "pool and world disagree about who lives");
        assert!(self.pool.next_deadline().is_none_or(|at| at > self.now), "a deadline in the past spins the loop");
        let size = self.pool.limits().size;
        let surge = self.pool.limits().surge;
        let mut up: BTreeMap<Generation, u32> = BTreeMap::new();
        for process in self.alive.values().filter(|p| p.up()) {
            *up.entry(process.generation).or_default() += 1;
        }
        for (generation, up) in &up {
            assert!(*up <= size + self.widest_surge, "{up} of {generation:?} up");
            assert!([self.pool.serving(), self.pool.incoming()].contains(&Some(*generation)), "an unwanted one is up");
        }
        let booting = |g| self.alive.values().filter(|p| p.generation == g && p.up() && !p.ready).count();
        if let Some(generation) = self.pool.incoming() {
            let spawned = |a: &Action| matches!(a, Action::Spawn { generation: g, .. } if *g == generation);
            let guarded = self.alive.values().any(|p| Some(p.generation) == self.pool.serving() && p.serves());
            if guarded && !self.rescues(generation, before) && actions.iter().any(spawned) {
                assert!(booting(generation) <= surge as usize, "more than the surge boots beside those who serve");
            }
        }
        let mut draining = BTreeSet::new();
        for (id, worker) in self.pool.workers() {
            match worker.state {
                State::Draining { deadline, .. } => {
                    assert!(deadline > self.now, "{id:?} outlived its drain");
                    if ![self.pool.serving(), self.pool.incoming()].contains(&Some(worker.generation)) && !self.stopping
                    {
                        draining.insert(worker.generation);
                    }
                }
                State::Starting {
                    patience: Patience::Given { deadline } | Patience::Extended { deadline }, ..
                } => {
                    assert!(deadline > self.now, "{id:?} outlived its start");
                }
                State::Dying { deadline, .. } => assert!(deadline > self.now, "{id:?} dies for ever"),
                State::Ready { .. } | State::Outgoing { .. } | State::Killed { .. } => {}
            }
            if let State::Draining { deadline, .. }
            | State::Dying { deadline, .. }
            | State::Starting {
                patience: Patience::Given { deadline } | Patience::Extended { deadline }, ..
            } = worker.state
            {
                assert!(self.pool.next_deadline().is_some_and(|at| at <= deadline), "{id:?} would be forgotten");
            }
        }
        assert!(draining.len() <= OLD_GENERATIONS, "old generations pile up");
        let serves = self.alive.values().filter(|p| p.serves()).count();
        assert!(!self.failed || serves == 0 || self.stopping, "failed although somebody serves");
        // Nothing but a crash, a stop, a smaller size or an abandoned generation lowers the number that serve.
        let excused =
            matches!(event, Event::Dying(_) | Event::Exited(_) | Event::Drain | Event::Kill | Event::Limits(_))
                || actions.iter().any(|a| matches!(a, Action::RolledBack { .. }))
                || before.incoming().is_some_and(|g| rescued && self.pool.serving() == Some(g));
        assert!(excused || serves >= served.min(size as usize), "{served} served, now {serves}");
    }

    /// Every worker that is up and not yet ready becomes ready, one after the other, for as long as new ones appear.
    pub(super) fn ready_all(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(id) = self.first(|p| p.up() && !p.ready) {
            actions.extend(self.event(Event::Ready(id)));
        }
        actions
    }

    /// Every worker that was told to leave does.
    pub(super) fn reap_all(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(id) = self.first(|p| !p.up()) {
            actions.extend(self.event(Event::Exited(id)));
        }
        actions
    }

    pub(super) fn first(&self, chosen: impl Fn(&Process) -> bool) -> Option<WorkerId> {
        self.alive.iter().find(|(_, process)| chosen(process)).map(|(id, _)| *id)
    }

    /// The worker that is up in `slot` of the serving generation.
    pub(super) fn in_slot(&self, slot: u32) -> WorkerId {
        let serving = self.pool.serving();
        self.first(|p| p.up() && p.slot == Slot(slot) && Some(p.generation) == serving).expect("the slot is taken")
    }

    /// Waits for the pool's own timer and says how long that was; `None` without one.
    pub(super) fn tick(&mut self) -> Option<(Duration, Vec<Action>)> {
        let at = self.pool.next_deadline()?;
        let waited = at.duration_since(self.now);
        self.now = at;
        Some((waited, self.event(Event::Tick)))
    }

    /// Generation 1 serves with every worker ready and proven, and nothing else is going on.
    pub(super) fn serving(limits: Limits) -> Self {
        let mut world = World::new(limits);
        world.event(Event::Reload(Generation(1)));
        let actions = world.ready_all();
        assert!(actions.contains(&Action::Promoted(Generation(1))));
        world.pass(3_600_000);
        world
    }
}

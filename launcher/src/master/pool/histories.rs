//! Random histories: whatever happens, in whatever order, what [`World`] checks holds after every event, a healthy
//! world comes to rest, and a stop ends. Failing histories are kept under `proptest-regressions` and committed.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::world::{World, limits};
use super::{Event, Generation, Limits, State, Status, WorkerId};

#[derive(Debug, Clone)]
enum Step {
    /// A new generation; one that is not sound never becomes ready.
    Reload {
        sound: bool,
    },
    /// A generation that was asked for before.
    ReloadAgain(u8),
    Rollback(u8),
    Restart,
    /// One of the workers that boot becomes ready, or exits if its generation is not sound.
    Boot(u8),
    /// All of them do.
    BootAll,
    /// Any worker exits.
    Exit(u8),
    /// Any worker says that it dies.
    Die(u8),
    /// Those that were told to leave do.
    ReapAll,
    /// An event about a worker that may not exist or be in any state.
    Stray(u8, Stray),
    Recycle(u8),
    Resize {
        size: u32,
        surge: u32,
    },
    Drain,
    Kill,
    Wait(u16),
    WaitForDeadline,
}

#[derive(Debug, Clone, Copy)]
enum Stray {
    Ready,
    Dying,
    Exited,
    Recycle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::bool::weighted(0.7).prop_map(|sound| Step::Reload { sound }),
        1 => any::<u8>().prop_map(Step::ReloadAgain),
        2 => any::<u8>().prop_map(Step::Rollback),
        2 => Just(Step::Restart),
        16 => any::<u8>().prop_map(Step::Boot),
        6 => Just(Step::BootAll),
        12 => any::<u8>().prop_map(Step::Exit),
        6 => any::<u8>().prop_map(Step::Die),
        3 => Just(Step::ReapAll),
        2 => (any::<u8>(), prop::sample::select(vec![Stray::Ready, Stray::Dying, Stray::Exited, Stray::Recycle]))
            .prop_map(|(id, what)| Step::Stray(id, what)),
        6 => any::<u8>().prop_map(Step::Recycle),
        3 => (1..6u32, 1..3u32).prop_map(|(size, surge)| Step::Resize { size, surge }),
        8 => (0..9_000u16).prop_map(Step::Wait),
        8 => (0..200u16).prop_map(Step::Wait),
        10 => Just(Step::WaitForDeadline),
    ]
}

fn history() -> impl Strategy<Value = (Limits, Vec<Step>, Option<Step>)> {
    let numbers = (1..5u32, 1..4u32, 0..6u32, 1..5u32).prop_map(|(size, surge, budget, tries)| Limits {
        surge,
        budget,
        tries,
        ..limits(size)
    });
    let end = prop_oneof![4 => Just(None), 1 => Just(Some(Step::Drain)), 1 => Just(Some(Step::Kill))];
    (numbers, prop::collection::vec(step(), 1..150), end)
}

struct Player {
    world: World,
    generations: u64,
    unsound: BTreeSet<Generation>,
}

impl Player {
    fn pick(&self, by: u8, chosen: impl Fn(&super::world::Process) -> bool) -> Option<WorkerId> {
        let ids: Vec<WorkerId> = self.world.alive.iter().filter(|(_, p)| chosen(p)).map(|(id, _)| *id).collect();
        (!ids.is_empty()).then(|| ids[usize::from(by) % ids.len()])
    }

    fn boot(&mut self, id: WorkerId) {
        let unsound = self.unsound.contains(&self.world.alive[&id].generation);
        self.world.event(if unsound { Event::Exited(id) } else { Event::Ready(id) });
    }

    fn play(&mut self, step: &Step) {
        match step {
            Step::Reload { sound } => {
                self.generations += 1;
                if !sound {
                    self.unsound.insert(Generation(self.generations));
                }
                self.world.event(Event::Reload(Generation(self.generations)));
            }
            Step::ReloadAgain(by) => {
                // Only what the pool still holds: a master has no other bytes.
                let held = [self.world.pool.serving(), self.world.pool.incoming(), self.world.pool.previous()];
                if let Some(generation) = held[usize::from(*by) % held.len()] {
                    self.world.event(Event::Reload(generation));
                }
            }
            Step::Rollback(by) => {
                let any = u64::from(*by) % (self.generations + 2);
                let wanted = if by % 2 == 0 { self.world.pool.previous() } else { Some(Generation(any)) };
                if let Some(generation) = wanted {
                    self.world.event(Event::Rollback(generation));
                }
            }
            Step::Restart => {
                self.world.event(Event::Restart);
            }
            Step::Boot(by) => {
                if let Some(id) = self.pick(*by, |p| p.up() && !p.ready) {
                    self.boot(id);
                }
            }
            Step::BootAll => {
                for _ in 0..20 {
                    let Some(id) = self.pick(0, |p| p.up() && !p.ready) else {
                        break;
                    };
                    self.boot(id);
                }
            }
            Step::Exit(by) => {
                if let Some(id) = self.pick(*by, |_| true) {
                    self.world.event(Event::Exited(id));
                }
            }
            Step::Die(by) => {
                if let Some(id) = self.pick(*by, |_| true) {
                    self.world.event(Event::Dying(id));
                }
            }
            Step::ReapAll => {
                self.world.reap_all();
            }
            Step::Stray(by, what) => {
                let id = WorkerId(u64::from(*by));
                let unsound = self.world.alive.get(&id).is_some_and(|p| self.unsound.contains(&p.generation));
                match what {
                    Stray::Ready if unsound => {}
                    Stray::Ready => drop(self.world.event(Event::Ready(id))),
                    Stray::Dying => drop(self.world.event(Event::Dying(id))),
                    Stray::Exited => drop(self.world.event(Event::Exited(id))),
                    Stray::Recycle => drop(self.world.event(Event::Recycle(id))),
                }
            }
            Step::Recycle(by) => {
                if let Some(id) = self.pick(*by, |p| p.up() && p.ready) {
                    self.world.event(Event::Recycle(id));
                }
            }
            Step::Resize { size, surge } => {
                let limits = Limits { size: *size, surge: *surge, ..self.world.pool.limits().clone() };
                self.world.event(Event::Limits(limits));
            }
            Step::Drain => drop(self.world.event(Event::Drain)),
            Step::Kill => drop(self.world.event(Event::Kill)),
            Step::Wait(millis) => {
                self.world.pass(u64::from(*millis));
                self.world.event(Event::Tick);
            }
            Step::WaitForDeadline => drop(self.world.tick()),
        }
    }

    /// From now on sound workers become ready, unsound ones exit, and those who are told to leave do.
    fn heal(&mut self) {
        for _ in 0..2_000 {
            self.world.reap_all();
            if let Some(id) = self.pick(0, |p| p.up() && !p.ready) {
                self.boot(id);
            } else if self.world.tick().is_none() {
                return;
            }
        }
        panic!("a healthy world does not come to rest: {:?}", self.world.pool);
    }

    fn rests(&self) {
        let pool = &self.world.pool;
        assert_eq!(pool.next_deadline(), None, "an idle pool arms a timer");
        assert_eq!(pool.incoming(), None, "a change never ends");
        assert!(self.world.open.is_empty(), "never answered: {:?}", self.world.open);
        match pool.status() {
            Status::Serving => {
                assert!(!self.world.failed);
                let size = pool.limits().size;
                let mut slots: Vec<u32> = pool.workers().map(|(_, w)| w.slot.0).collect();
                slots.sort_unstable();
                assert_eq!(slots, (0..size).collect::<Vec<_>>());
                for (_, worker) in pool.workers() {
                    assert_eq!(Some(worker.generation), pool.serving());
                    assert!(matches!(worker.state, State::Ready { .. }));
                }
            }
            Status::Failed | Status::Starting => {
                assert_eq!(pool.serving(), None, "a service that served is lost: {pool:?}");
                assert_eq!(pool.workers().count(), 0);
                assert_eq!(pool.status() == Status::Failed, self.world.failed);
                assert!(self.world.failed || self.generations == 0);
            }
            other => panic!("comes to rest as {other:?}: {pool:?}"),
        }
    }
}

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(3_000), ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_healthy_world_comes_to_rest_and_a_stop_ends((limits, steps, end) in history()) {
        let mut player = Player { world: World::new(limits), generations: 0, unsound: BTreeSet::new() };
        for step in &steps {
            player.play(step);
        }
        if end.is_none() {
            player.heal();
            player.rests();
        }
        player.play(&end.unwrap_or(Step::Drain));
        // Nobody answers, but a kill is a kill; and events that come late change nothing.
        for round in 0..50 {
            if player.world.stopped {
                break;
            }
            prop_assert!(round < 49, "the stop does not end: {:?}", player.world.pool);
            while let Some(id) = player.pick(0, |p| p.killed) {
                player.world.event(Event::Exited(id));
            }
            if !player.world.stopped && player.world.tick().is_none() {
                prop_assert!(false, "the stop waits for nothing: {:?}", player.world.pool);
            }
        }
        for step in &steps {
            player.play(step);
        }
        player.world.pass(Duration::from_secs(3_600).as_millis() as u64);
        prop_assert_eq!(player.world.event(Event::Tick), vec![]);
        prop_assert_eq!(player.world.pool.next_deadline(), None);
        prop_assert_eq!(player.world.pool.status(), Status::Stopped);
    }
}

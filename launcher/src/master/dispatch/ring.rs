//! Which worker is offered which connection (`scheduling: round_robin`). Pure: it is told what happened, and the time.
//!
//! ```text
//! accepted ──> waiting ──offered to the next who may take──> given ──taken──> gone from here
//!                 ^                                            │
//!                 └── refused, taken back from one who does not answer, its worker died ──┘
//! ```
//!
//! A *reserve* accepts for itself and gets only what is left when nobody stays whom the launcher accepts for: the service has
//! changed its `scheduling`, and somebody left who had not received what he was offered.
//!
//! A connection is in exactly one place until a worker has taken it. Nothing is accepted while one waits or nobody may take:
//! the rest stays in the kernel's queue. A worker that refused rests until it says that it is free; otherwise a refusal by all
//! would go round without end.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::master::pool::WorkerId;

/// Connections that are offered to a worker and not answered: enough that it need not wait for the next one.
const WINDOW: usize = 4;

/// How long a worker may take to answer before what it has not received is offered to others.
const PATIENCE: Duration = Duration::from_millis(100);

/// The workers, and the connections that nobody has taken.
#[derive(Debug)]
pub(super) struct Ring<C> {
    members: Vec<Member>,
    /// Who is asked first next time.
    turn: usize,
    waiting: VecDeque<Waiting<C>>,
    given: BTreeMap<u64, Given<C>>,
    last: u64,
}

#[derive(Debug)]
struct Member {
    worker: WorkerId,
    /// The numbers of its listeners, in its own order.
    listeners: Vec<u64>,
    part: Part,
    state: State,
}

/// What a worker is in the ring for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The launcher accepts for it.
    Regular,
    /// See the module.
    Reserve,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It takes connections.
    Takes,
    /// It does not, and will say when it does.
    Rests,
    /// It is on its way out.
    Leaves,
}

#[derive(Debug)]
struct Waiting<C> {
    listener: u64,
    connection: C,
}

#[derive(Debug)]
struct Given<C> {
    to: WorkerId,
    since: Instant,
    listener: u64,
    connection: C,
}

/// What to send to whom.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivery<'a, C> {
    /// To whom.
    pub(super) to: WorkerId,
    /// The offer's number.
    pub(super) number: u64,
    /// The listener's place in that worker's list.
    pub(super) listener: u16,
    /// What is offered.
    pub(super) connection: &'a C,
}

impl<C> Default for Ring<C> {
    fn default() -> Self {
        Ring { members: Vec::new(), turn: 0, waiting: VecDeque::new(), given: BTreeMap::new(), last: 0 }
    }
}

impl<C> Ring<C> {
    /// A worker takes connections of these listeners.
    pub(super) fn join(&mut self, worker: WorkerId, listeners: Vec<u64>, part: Part) {
        self.members.push(Member { worker, listeners, part, state: State::Takes });
        self.give_up();
    }

    /// A worker is to get none any more. What it was offered it may still answer.
    pub(super) fn leave(&mut self, worker: WorkerId) {
        self.set(worker, State::Leaves);
        self.give_up();
    }

    /// A worker is dead: what it has not taken is the others'.
    pub(super) fn gone(&mut self, worker: WorkerId) {
        self.members.retain(|member| member.worker != worker);
        let numbers: Vec<u64> = self.given_to(worker).collect();
        // The oldest in front.
        numbers.into_iter().rev().for_each(|number| self.take_back(number));
        self.give_up();
    }

    /// What came by a listener that those who stay do not have is nobody's: the configuration has left it.
    fn give_up(&mut self) {
        let mut stay = self.members.iter().filter(|member| member.state != State::Leaves).peekable();
        if stay.peek().is_some() {
            let known: Vec<u64> = stay.flat_map(|member| member.listeners.iter().copied()).collect();
            self.waiting.retain(|waiting| known.contains(&waiting.listener));
        }
    }

    /// The listeners of those for whom the launcher accepts, and goes on.
    pub(super) fn listeners(&self) -> impl Iterator<Item = u64> {
        self.regulars().flat_map(|member| member.listeners.iter().copied())
    }

    /// Whether one more connection that comes by this listener finds somebody.
    pub(super) fn has_room(&self, listener: u64) -> bool {
        self.waiting.is_empty() && self.regulars().any(|member| self.may_take(member, listener))
    }

    /// One was accepted.
    pub(super) fn accepted(&mut self, listener: u64, connection: C) {
        self.waiting.push_back(Waiting { listener, connection });
    }

    /// The next offer, which counts as given then.
    pub(super) fn next(&mut self, now: Instant) -> Option<Delivery<'_, C>> {
        let count = self.members.len();
        let find = |waiting: &Waiting<C>| {
            let turns = (0..count).map(|offset| (self.turn + offset) % count);
            turns.into_iter().find(|turn| self.may_take(&self.members[*turn], waiting.listener))
        };
        let (place, turn) =
            self.waiting.iter().enumerate().find_map(|(place, waiting)| Some((place, find(waiting)?)))?;
        let Waiting { listener, connection } = self.waiting.remove(place)?;
        self.turn = turn + 1;
        self.last += 1;
        let member = &self.members[turn];
        let own = member.listeners.iter().position(|number| *number == listener)?;
        let given = Given { to: member.worker, since: now, listener, connection };
        let given = self.given.entry(self.last).or_insert(given);
        let listener = u16::try_from(own).unwrap_or(u16::MAX);
        Some(Delivery { to: given.to, number: self.last, listener, connection: &given.connection })
    }

    /// An offer could not be sent: the worker has more than it reads.
    pub(super) fn unsent(&mut self, worker: WorkerId, number: u64) {
        self.refused(worker, number);
    }

    /// A worker has taken a connection.
    pub(super) fn taken(&mut self, worker: WorkerId, number: u64) {
        if self.is_given(worker, number) {
            self.given.remove(&number);
        }
        self.free(worker);
    }

    /// A worker has refused one.
    pub(super) fn refused(&mut self, worker: WorkerId, number: u64) {
        if self.is_given(worker, number) {
            self.take_back(number);
        }
        self.rest(worker);
    }

    /// A worker takes connections again.
    pub(super) fn free(&mut self, worker: WorkerId) {
        if let Some(member) = self.member(worker)
            && member.state == State::Rests
        {
            member.state = State::Takes;
        }
    }

    /// An offer came back unread.
    pub(super) fn returned(&mut self, worker: WorkerId, number: u64) {
        if self.is_given(worker, number) {
            self.take_back(number);
        }
    }

    /// Those who have not answered in time. Each is told once: it rests, and should be asked whether it is there.
    pub(super) fn silent(&mut self, now: Instant) -> Vec<WorkerId> {
        let mut silent = Vec::new();
        for given in self.given.values().filter(|given| given.since + PATIENCE <= now) {
            let takes = |member: &Member| member.worker == given.to && member.state == State::Takes;
            if self.members.iter().any(takes) && !silent.contains(&given.to) {
                silent.push(given.to);
            }
        }
        for worker in &silent {
            self.rest(*worker);
        }
        silent
    }

    /// When somebody may become silent.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let takes = |worker| self.members.iter().any(|member| member.worker == worker && member.state == State::Takes);
        self.given.values().filter(|given| takes(given.to)).map(|given| given.since + PATIENCE).min()
    }

    /// Those for whom the launcher accepts, and who stay.
    fn regulars(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.part == Part::Regular && member.state != State::Leaves)
    }

    fn may_take(&self, member: &Member, listener: u64) -> bool {
        let wanted =
            member.part == Part::Regular || !self.regulars().any(|member| member.listeners.contains(&listener));
        wanted
            && member.state == State::Takes
            && member.listeners.contains(&listener)
            && self.given_to(member.worker).count() < WINDOW
    }

    fn given_to(&self, worker: WorkerId) -> impl Iterator<Item = u64> {
        self.given.iter().filter(move |(_, given)| given.to == worker).map(|(number, _)| *number)
    }

    /// A worker answers for what it was offered and for nothing else.
    fn is_given(&self, worker: WorkerId, number: u64) -> bool {
        self.given.get(&number).is_some_and(|given| given.to == worker)
    }

    fn take_back(&mut self, number: u64) {
        if let Some(Given { listener, connection, .. }) = self.given.remove(&number) {
            self.waiting.push_front(Waiting { listener, connection });
        }
    }

    fn rest(&mut self, worker: WorkerId) {
        if let Some(member) = self.member(worker)
            && member.state == State::Takes
        {
            member.state = State::Rests;
        }
    }

    fn set(&mut self, worker: WorkerId, state: State) {
        if let Some(member) = self.member(worker) {
            member.state = state;
        }
    }

    fn member(&mut self, worker: WorkerId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.worker == worker)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const FRONT: u64 = 7;

    struct World {
        ring: Ring<u32>,
        now: Instant,
    }

    fn world(workers: u64) -> World {
        let mut ring = Ring::default();
        (1..=workers).for_each(|worker| ring.join(WorkerId(worker), vec![3, FRONT], Part::Regular));
        World { ring, now: Instant::now() }
    }

    impl World {
        /// Who is offered what, with the offer's number.
        fn next(&mut self) -> Option<(u64, u32, u64)> {
            let delivery = self.ring.next(self.now)?;
            assert_eq!(delivery.listener, 1);
            Some((delivery.to.0, *delivery.connection, delivery.number))
        }

        fn accept(&mut self, connection: u32) -> Option<(u64, u32, u64)> {
            assert!(self.ring.has_room(FRONT));
            self.ring.accepted(FRONT, connection);
            self.next()
        }
    }

    #[test]
    fn everybody_gets_his_turn() {
        let mut world = world(3);
        let mut got = Vec::new();
        for connection in 0..7 {
            let (to, _, number) = world.accept(connection).expect("somebody takes it");
            world.ring.taken(WorkerId(to), number);
            got.push(to);
        }
        assert_eq!(got, [1, 2, 3, 1, 2, 3, 1]);
    }

    #[test]
    fn who_does_not_answer_gets_no_more_than_the_window_and_the_rest_stays_in_the_kernel() {
        let mut world = world(2);
        for connection in 0..2 * WINDOW as u32 {
            world.accept(connection).expect("somebody takes it");
        }
        assert!(!world.ring.has_room(FRONT));
    }

    #[test]
    fn what_is_refused_goes_to_the_next_and_a_refusal_by_all_waits() {
        let mut world = world(2);
        let (first, _, number) = world.accept(9).expect("an offer");
        world.ring.refused(WorkerId(first), number);
        let (second, connection, number) = world.next().expect("the other one");
        assert_eq!((first, second, connection), (1, 2, 9));
        world.ring.refused(WorkerId(second), number);
        assert_eq!(world.next(), None);
        assert!(!world.ring.has_room(FRONT));
        world.ring.free(WorkerId(1));
        assert_eq!(world.next().map(|(to, connection, _)| (to, connection)), Some((1, 9)));
    }

    #[test]
    fn what_a_dead_worker_has_not_taken_is_offered_again_in_its_order() {
        let mut world = world(1);
        let offers: Vec<_> = (0..3).map(|connection| world.accept(connection).expect("an offer")).collect();
        world.ring.taken(WorkerId(1), offers[0].2);
        world.ring.gone(WorkerId(1));
        assert_eq!(world.next(), None);
        world.ring.join(WorkerId(2), vec![0, FRONT], Part::Regular);
        assert_eq!(world.next().map(|(_, connection, _)| connection), Some(1));
        assert_eq!(world.next().map(|(_, connection, _)| connection), Some(2));
        assert_eq!(world.next(), None);
    }

    #[test]
    fn who_is_silent_is_told_once_and_what_comes_back_unread_is_offered_to_others() {
        let mut world = world(2);
        let (silent, _, number) = world.accept(9).expect("an offer");
        assert_eq!(world.ring.next_deadline(), Some(world.now + PATIENCE));
        assert!(world.ring.silent(world.now).is_empty());
        world.now += PATIENCE;
        assert_eq!(world.ring.silent(world.now), [WorkerId(silent)]);
        assert!(world.ring.silent(world.now).is_empty());
        assert_eq!(world.ring.next_deadline(), None, "nothing more can be done about it");
        world.ring.returned(WorkerId(silent), number);
        let (other, connection, _) = world.next().expect("the other one");
        assert_eq!((silent, other, connection), (1, 2, 9));
        world.ring.free(WorkerId(silent));
        assert_eq!(world.accept(10).map(|(to, ..)| to), Some(1));
    }

    #[test]
    fn nobody_answers_for_another_and_nothing_twice() {
        let mut world = world(2);
        let (to, _, number) = world.accept(9).expect("an offer");
        world.ring.taken(WorkerId(3 - to), number);
        world.ring.refused(WorkerId(3 - to), number);
        world.ring.taken(WorkerId(99), number);
        world.ring.gone(WorkerId(to));
        world.ring.free(WorkerId(3 - to));
        assert_eq!(world.next().map(|(to, connection, _)| (to, connection)), Some((3 - to, 9)));
        world.ring.refused(WorkerId(to), number);
        assert_eq!(world.next(), None);
    }

    #[test]
    fn a_connection_goes_only_to_who_has_its_listener() {
        let mut ring = Ring::default();
        ring.join(WorkerId(1), vec![1], Part::Regular);
        ring.join(WorkerId(2), vec![2], Part::Regular);
        assert!(ring.has_room(2) && !ring.has_room(3));
        ring.accepted(2, ());
        assert_eq!(ring.next(Instant::now()).map(|delivery| (delivery.to, delivery.listener)), Some((WorkerId(2), 0)));
        ring.leave(WorkerId(2));
        assert!(!ring.has_room(2));
        assert_eq!(ring.listeners().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn who_accepts_for_himself_gets_what_is_left_when_the_others_leave() {
        let mut world = world(1);
        world.ring.join(WorkerId(9), vec![5, FRONT], Part::Reserve);
        let (to, _, number) = world.accept(1).expect("an offer");
        assert_eq!(to, 1);
        world.ring.rest(WorkerId(1));
        assert!(!world.ring.has_room(FRONT) && world.next().is_none(), "nothing is accepted for a reserve");
        world.ring.leave(WorkerId(1));
        assert!(!world.ring.has_room(FRONT));
        assert_eq!(world.ring.listeners().count(), 0);
        world.ring.returned(WorkerId(1), number);
        assert_eq!(world.next().map(|(to, connection, _)| (to, connection)), Some((9, 1)));
    }

    #[test]
    fn what_came_by_a_listener_that_is_no_more_is_given_up() {
        let mut world = world(1);
        let (_, _, number) = world.accept(1).expect("an offer");
        world.ring.refused(WorkerId(1), number);
        world.ring.gone(WorkerId(1));
        assert_eq!(world.ring.waiting.len(), 1, "somebody may come");
        world.ring.join(WorkerId(2), vec![99], Part::Regular);
        assert_eq!(world.ring.waiting.len(), 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join,
        Leave(usize),
        Die(usize),
        Accept,
        Answer(usize, bool),
        Free(usize),
        Late,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => Just(Step::Join),
            1 => any::<usize>().prop_map(Step::Leave),
            2 => any::<usize>().prop_map(Step::Die),
            8 => Just(Step::Accept),
            8 => (any::<usize>(), any::<bool>()).prop_map(|(which, taken)| Step::Answer(which, taken)),
            3 => any::<usize>().prop_map(Step::Free),
            2 => Just(Step::Late),
        ]
    }

    proptest! {
        /// Whatever happens: each connection is waiting, given to one worker, or was taken by exactly one.
        #[test]
        fn no_connection_is_lost_or_taken_twice(steps in proptest::collection::vec(step(), 0..200)) {
            let mut ring = Ring::<u32>::default();
            let mut now = Instant::now();
            let (mut alive, mut workers, mut connections) = (Vec::<WorkerId>::new(), 0, 0);
            let mut unread = Vec::<(WorkerId, u64, u32)>::new();
            let mut taken = BTreeSet::new();
            for step in steps {
                let pick = |which: usize, alive: &[WorkerId]| alive.get(which.checked_rem(alive.len())?).copied();
                match step {
                    Step::Join => {
                        workers += 1;
                        alive.push(WorkerId(workers));
                        let part = if workers % 4 == 0 { Part::Reserve } else { Part::Regular };
                        ring.join(WorkerId(workers), vec![FRONT], part);
                    }
                    Step::Leave(which) => if let Some(worker) = pick(which, &alive) { ring.leave(worker) },
                    Step::Die(which) => if let Some(worker) = pick(which, &alive) {
                        alive.retain(|other| *other != worker);
                        unread.retain(|(to, ..)| *to != worker);
                        ring.gone(worker);
                    },
                    Step::Accept => if ring.has_room(FRONT) {
                        connections += 1;
                        ring.accepted(FRONT, connections);
                    },
                    Step::Answer(which, takes) => if !unread.is_empty() {
                        let (to, number, connection) = unread.remove(which % unread.len());
                        if takes {
                            prop_assert!(taken.insert(connection), "{connection} was taken twice");
                            ring.taken(to, number);
                        } else {
                            ring.refused(to, number);
                        }
                    },
                    Step::Free(which) => if let Some(worker) = pick(which, &alive) { ring.free(worker) },
                    Step::Late => {
                        now += PATIENCE;
                        for worker in ring.silent(now) {
                            unread.retain(|(to, number, _)| {
                                let back = *to == worker;
                                if back {
                                    ring.returned(worker, *number);
                                }
                                !back
                            });
                        }
                    }
                }
                while let Some(Delivery { to, number, connection, .. }) = ring.next(now) {
                    prop_assert!(alive.contains(&to));
                    unread.push((to, number, *connection));
                    prop_assert!(unread.iter().filter(|(other, ..)| *other == to).count() <= WINDOW);
                }
                let here = ring.waiting.iter().map(|waiting| waiting.connection);
                let here: Vec<u32> = here.chain(ring.given.values().map(|given| given.connection)).collect();
                let all: BTreeSet<u32> = here.iter().chain(&taken).copied().collect();
                prop_assert_eq!(here.len() + taken.len(), connections as usize);
                prop_assert_eq!(all.len(), connections as usize);
            }
        }
    }
}

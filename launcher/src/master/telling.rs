//! What plugins tell the operator: each message becomes an event, and the worker is answered when it is one.
//!
//! The answers are what paces a worker: only so many messages may be without one, and beyond [`BURST`] they are given at a
//! rate. So the senders wait in the worker, and what it costs here is bounded by the number of workers, whatever they send.
//! A worker whose messages come without waiting for answers, or are none, breaks the protocol and is ended.
//!
//! Another master hears again what the one before has not answered, so a message may be told by both, under one number.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::Master;
use super::journal::{Body, Fact};
use super::pool::WorkerId;
use crate::channel::ToWorker;
use crate::channel::post::{OPERATOR_WINDOW, read_for_operator};

/// Between two answers to one worker, in the long run: a hundred messages a second. Whoever has more to say writes to its
/// output, which is made for much.
const INTERVAL: Duration = Duration::from_millis(10);

/// Messages of one worker that are answered at once after a pause.
const BURST: u32 = 100;

/// When to offer an answer again to a worker that does not read.
const AGAIN: Duration = Duration::from_millis(100);

/// The workers that have told something.
#[derive(Debug, Default)]
pub(super) struct Tellers(BTreeMap<WorkerId, Teller>);

#[derive(Debug)]
struct Teller {
    /// Number of the next message.
    next: u64,
    /// When those without an answer get it, the oldest first.
    due: VecDeque<Instant>,
    /// Up to when its share of the time is used.
    used: Instant,
    /// Everything below this number was answered.
    told: u64,
    /// It did not take the last answer.
    again: Option<Instant>,
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    New,
    /// It was repeated for a master that might not have heard it.
    Known,
    /// More than may be on its way.
    TooMuch,
}

impl Tellers {
    fn hear(&mut self, id: WorkerId, number: u64, now: Instant) -> Heard {
        let new = || Teller { next: number, due: VecDeque::new(), used: now, told: number, again: None };
        let teller = self.0.entry(id).or_insert_with(new);
        if number < teller.next {
            return Heard::Known;
        }
        if teller.due.len() >= OPERATOR_WINDOW {
            return Heard::TooMuch;
        }
        teller.next = number + 1;
        teller.used = teller.used.max(now) + INTERVAL;
        teller.due.push_back(teller.used.checked_sub(INTERVAL * BURST).map_or(now, |at| at.max(now)));
        Heard::New
    }

    /// Who is to be answered now, up to which number.
    fn answers(&mut self, now: Instant) -> Vec<(WorkerId, u64)> {
        let due = self.0.iter_mut().filter_map(|(id, teller)| {
            while teller.due.front().is_some_and(|at| *at <= now) {
                teller.due.pop_front();
            }
            let until = teller.next.saturating_sub(teller.due.len() as u64);
            let wanted = until > teller.told && teller.again.is_none_or(|at| at <= now);
            wanted.then_some((*id, until))
        });
        due.collect()
    }

    /// An answer was given to the worker, or it did not take it.
    fn note(&mut self, id: WorkerId, until: u64, taken: bool, now: Instant) {
        if let Some(teller) = self.0.get_mut(&id) {
            teller.again = (!taken).then_some(now + AGAIN);
            teller.told = if taken { until } else { teller.told };
        }
    }

    /// When somebody is to be answered.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        // One that does not take its answers is not offered the next before the last.
        self.0.values().filter_map(|teller| teller.again.or_else(|| teller.due.front().copied())).min()
    }

    /// A worker is gone.
    pub(super) fn forget(&mut self, id: WorkerId) {
        self.0.remove(&id);
    }
}

impl Master {
    /// A plugin tells the operator something.
    pub(super) fn on_message(&mut self, id: WorkerId, number: u64, message: &str) {
        let Some(running) = self.workers.get_mut(&id) else { return };
        let now = Instant::now();
        let breach = match (read_for_operator(message.as_bytes()), self.tellers.hear(id, number, now)) {
            (Ok(_), Heard::Known) => return,
            (Ok(value), Heard::New) => {
                let fact = Fact::Message { worker: running.name.clone(), number, body: Body::from(&value) };
                self.journal.record(&fact);
                return self.answer_tellers(now);
            }
            (Ok(_), Heard::TooMuch) => "more messages for the operator than may be on their way",
            (Err(breach), _) => breach,
        };
        running.failure = Some(format!("it sent {breach}"));
        running.child.kill();
    }

    /// Answer those whose time it is.
    pub(super) fn answer_tellers(&mut self, now: Instant) {
        for (id, until) in self.tellers.answers(now) {
            let child = self.workers.get(&id).map(|running| &running.child);
            let taken = child.is_some_and(|child| child.send_spare(ToWorker::Heard { until }, Vec::new()));
            self.tellers.note(id, until, taken, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: WorkerId = WorkerId(1);
    const TWO: WorkerId = WorkerId(2);

    /// Sends as fast as the answers allow, and says when all of `count` are answered.
    fn flood(tellers: &mut Tellers, start: Instant, count: u64) -> Instant {
        let (mut now, mut sent, mut answered) = (start, 0, 0);
        while answered < count {
            while sent < count && sent - answered < OPERATOR_WINDOW as u64 {
                assert_eq!(tellers.hear(ONE, sent, now), Heard::New);
                sent += 1;
            }
            let before = answered;
            for (id, until) in tellers.answers(now) {
                assert_eq!(id, ONE);
                tellers.note(id, until, true, now);
                answered = until;
            }
            if answered == before {
                now = tellers.next_deadline().expect("somebody waits").max(now);
            }
        }
        now
    }

    #[test]
    fn a_burst_is_answered_at_once_and_a_flood_at_its_rate() {
        let start = Instant::now();
        let mut tellers = Tellers::default();
        assert_eq!(flood(&mut tellers, start, u64::from(BURST)), start);
        assert_eq!(tellers.next_deadline(), None, "whoever is silent costs no timer");
        let mut tellers = Tellers::default();
        assert_eq!(flood(&mut tellers, start, 1000), start + INTERVAL * (1000 - BURST));
    }

    #[test]
    fn whoever_does_not_wait_is_told_apart_and_harms_no_other() {
        let start = Instant::now();
        let mut tellers = Tellers::default();
        let heard = |tellers: &mut Tellers, id, number| tellers.hear(id, number, start);
        for number in 0..OPERATOR_WINDOW as u64 {
            assert_eq!(heard(&mut tellers, ONE, number), Heard::New);
        }
        assert_eq!(heard(&mut tellers, ONE, OPERATOR_WINDOW as u64), Heard::TooMuch);
        assert_eq!(heard(&mut tellers, TWO, 0), Heard::New);
        tellers.forget(ONE);
        assert_eq!(tellers.answers(start), [(TWO, 1)]);
    }

    #[test]
    fn what_is_repeated_is_known_and_a_new_master_begins_where_it_comes_in() {
        let start = Instant::now();
        let mut tellers = Tellers::default();
        assert_eq!(tellers.hear(ONE, 700, start), Heard::New);
        assert_eq!(tellers.hear(ONE, 701, start), Heard::New);
        assert_eq!(tellers.hear(ONE, 700, start), Heard::Known);
        assert_eq!(tellers.hear(ONE, 701, start), Heard::Known);
        assert_eq!(tellers.answers(start), [(ONE, 702)]);
    }

    #[test]
    fn an_answer_that_is_not_taken_is_offered_again() {
        let start = Instant::now();
        let mut tellers = Tellers::default();
        tellers.hear(ONE, 0, start);
        assert_eq!(tellers.answers(start), [(ONE, 1)]);
        tellers.note(ONE, 1, false, start);
        assert_eq!(tellers.answers(start), []);
        let again = tellers.next_deadline().expect("it is offered again");
        assert_eq!(tellers.answers(again), [(ONE, 1)]);
        tellers.note(ONE, 1, true, again);
        assert_eq!(tellers.next_deadline(), None);
    }
}

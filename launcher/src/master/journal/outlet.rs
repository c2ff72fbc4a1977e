//! What waits for one destination of the log, bounded so that nobody who waits there is harmed by who talks much.
//!
//! Facts have a queue with a bound of its own. Every worker has a lane, for its lines and its plugin's messages: it may hold a quarter of what is still free,
//! so one that floods leaves room for all others, and the writer takes a bounded piece of each lane in turn, so a
//! neighbour's line is behind at most one piece of every flood. What finds no room is counted, and told as a fact
//! once a second has passed, and then every few seconds.
//!
//! Nothing is formatted or written here, and putting something in never waits for the writer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::pool::{Slot, WorkerId};
use super::fact::{Fact, Name, WorkerName};
use super::record::{Record, What};

/// Bytes of memory that lines may take while they wait, and the share of what is free that one worker may take.
const ROOM: usize = 32 << 20;
const SHARE: usize = 4;
/// What a worker may hold in any case, also while a destination stands still and others have filled the room.
const RESERVE: usize = 32 << 10;
/// Facts that may wait, in number and in bytes. They are few; a worker may make their reasons long.
const FACTS: usize = 4096;
const FACT_BYTES: usize = 4 << 20;
/// Bytes that are taken from a lane in one turn.
const TURN: usize = 32 << 10;
/// Drops are told so long after the first of them, and not again within so long.
const TOLD_AFTER: Duration = Duration::from_secs(1);
const TOLD_AGAIN: Duration = Duration::from_secs(3);

/// Something to be written.
#[derive(Debug)]
pub(super) enum Item {
    /// A line of the log.
    Record(Arc<Record>),
    /// Text for people.
    Text(String),
}

/// What the writer is to do.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// To be written, in order.
    pub(super) items: Vec<Item>,
    /// The file is to be opened anew first.
    pub(super) reopen: bool,
    /// Drops, to be told.
    pub(super) dropped: Vec<Fact>,
    /// Who waits until everything before is written.
    pub(super) finished: Vec<SyncSender<()>>,
    /// Nobody puts anything in any more.
    pub(super) closed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Outlet {
    /// The destination, for people.
    name: &'static str,
    waiting: Mutex<Waiting>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    facts: VecDeque<Item>,
    fact_bytes: usize,
    lanes: BTreeMap<WorkerId, Lane>,
    /// The lanes that hold something, in the order of their turns.
    turns: VecDeque<WorkerId>,
    line_bytes: usize,
    lost_facts: u64,
    dropped: BTreeMap<WorkerId, Dropped>,
    reopen: bool,
    finish: Vec<SyncSender<()>>,
    closed: bool,
    asleep: bool,
}

#[derive(Debug, Default)]
struct Lane {
    records: VecDeque<Arc<Record>>,
    bytes: usize,
}

/// Drops of a worker that are not told yet.
#[derive(Debug)]
struct Dropped {
    service: Name,
    slot: Slot,
    lines: u64,
    bytes: u64,
    due: Instant,
}

impl Outlet {
    pub(super) fn new(name: &'static str) -> Outlet {
        Outlet { name, waiting: Mutex::default(), news: Condvar::new() }
    }

    /// Put a record in, or count it. Drops that are due to be told are the answer.
    pub(super) fn put(&self, record: &Arc<Record>) -> Option<Fact> {
        let mut waiting = self.waiting();
        let weight = record.weight();
        let mut told = None;
        match record.talker() {
            None => waiting.put_fact(Item::Record(Arc::clone(record)), weight),
            Some(worker) => {
                let held = waiting.lanes.get(&worker.worker).map_or(0, |lane| lane.bytes);
                let share = ROOM.saturating_sub(waiting.line_bytes) / SHARE;
                if held + weight > share.max(RESERVE) {
                    told = waiting.drop_line(worker, record, self.name);
                } else {
                    waiting.put_line(worker.worker, record, weight);
                }
            }
        }
        self.wake(waiting);
        told
    }

    /// Put text for people in.
    pub(super) fn say(&self, text: &str) {
        let mut waiting = self.waiting();
        waiting.put_fact(Item::Text(text.to_owned()), text.len());
        self.wake(waiting);
    }

    /// Have the file opened anew.
    pub(super) fn reopen(&self) {
        let mut waiting = self.waiting();
        waiting.reopen = true;
        self.wake(waiting);
    }

    /// Have it told when everything that waits is written.
    pub(super) fn finish(&self, done: SyncSender<()>) {
        let mut waiting = self.waiting();
        waiting.finish.push(done);
        self.wake(waiting);
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        self.wake(waiting);
    }

    /// Wait for something to do.
    pub(super) fn next(&self) -> Work {
        let mut waiting = self.waiting();
        loop {
            let work = waiting.take(Instant::now(), self.name);
            if !work.is_idle() {
                return work;
            }
            let due = waiting.dropped.values().filter(|dropped| dropped.lines > 0).map(|dropped| dropped.due).min();
            waiting.asleep = true;
            waiting = match due {
                // Only while drops are untold: an idle launcher sleeps.
                Some(due) => {
                    let left = due.saturating_duration_since(Instant::now());
                    self.news.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.news.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
            waiting.asleep = false;
        }
    }

    /// Wait before another attempt; shorter if the file is to be opened anew or nothing more will come.
    pub(super) fn pause(&self, length: Duration) {
        let until = Instant::now() + length;
        let mut waiting = self.waiting();
        while !waiting.reopen && !waiting.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.news.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether somebody asked meanwhile for what a writer that tries again should do.
    pub(super) fn take_reopen(&self) -> bool {
        std::mem::take(&mut self.waiting().reopen)
    }

    /// Whether nothing more will come.
    pub(super) fn is_closed(&self) -> bool {
        self.waiting().closed
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, waiting: MutexGuard<'_, Waiting>) {
        let wanted = waiting.asleep || waiting.reopen || waiting.closed;
        drop(waiting);
        if wanted {
            self.news.notify_all();
        }
    }
}

impl Waiting {
    fn put_fact(&mut self, item: Item, weight: usize) {
        if self.facts.len() >= FACTS || self.fact_bytes + weight > FACT_BYTES {
            self.lost_facts += 1;
        } else {
            self.fact_bytes += weight;
            self.facts.push_back(item);
        }
    }

    fn put_line(&mut self, worker: WorkerId, record: &Arc<Record>, weight: usize) {
        let lane = self.lanes.entry(worker).or_default();
        if lane.records.is_empty() {
            self.turns.push_back(worker);
        }
        lane.records.push_back(Arc::clone(record));
        lane.bytes += weight;
        self.line_bytes += weight;
    }

    fn drop_line(&mut self, worker: &WorkerName, record: &Record, destination: &'static str) -> Option<Fact> {
        let now = Instant::now();
        let dropped = self.dropped.entry(worker.worker).or_insert_with(|| Dropped {
            service: worker.service.clone(),
            slot: worker.slot,
            lines: 0,
            bytes: 0,
            due: now,
        });
        if dropped.lines == 0 {
            dropped.due = dropped.due.max(now + TOLD_AFTER);
        }
        dropped.lines += 1;
        dropped.bytes += match &record.what {
            What::Line(line) => line.text.len() as u64,
            What::Fact(_) => record.weight() as u64,
        };
        (dropped.due <= now).then(|| dropped.tell(now, destination))
    }

    fn take(&mut self, now: Instant, destination: &'static str) -> Work {
        let mut work = Work { items: self.facts.drain(..).collect(), ..Work::default() };
        self.fact_bytes = 0;
        for _ in 0..self.turns.len() {
            let Some(worker) = self.turns.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&worker) else { continue };
            let mut taken = 0;
            while taken < TURN
                && let Some(record) = lane.records.pop_front()
            {
                taken += record.weight();
                work.items.push(Item::Record(record));
            }
            lane.bytes = lane.bytes.saturating_sub(taken);
            self.line_bytes = self.line_bytes.saturating_sub(taken);
            if lane.records.is_empty() {
                self.lanes.remove(&worker);
            } else {
                self.turns.push_back(worker);
            }
        }
        if self.turns.is_empty() {
            work.finished = std::mem::take(&mut self.finish);
        }
        let last = !work.finished.is_empty();
        for dropped in self.dropped.values_mut() {
            if dropped.lines > 0 && (dropped.due <= now || last) {
                work.dropped.push(dropped.tell(now, destination));
            }
        }
        // `due` of one that has nothing to tell is the time before which it may not tell again.
        self.dropped.retain(|_, dropped| dropped.lines > 0 || dropped.due > now);
        if self.lost_facts > 0 {
            work.dropped.push(Fact::FactsDropped { facts: std::mem::take(&mut self.lost_facts), destination });
        }
        work.reopen = std::mem::take(&mut self.reopen);
        work.closed = self.closed;
        // What came together is written in its order; `Text` follows the fact that it explains.
        let mut place = 0;
        let mut ordered: Vec<(u64, Item)> = work
            .items
            .into_iter()
            .map(|item| {
                if let Item::Record(record) = &item {
                    place = record.seq;
                }
                (place, item)
            })
            .collect();
        ordered.sort_by_key(|(place, _)| *place);
        work.items = ordered.into_iter().map(|(_, item)| item).collect();
        work
    }
}

impl Dropped {
    fn tell(&mut self, now: Instant, destination: &'static str) -> Fact {
        self.due = now + TOLD_AGAIN;
        Fact::LinesDropped {
            service: self.service.clone(),
            slot: self.slot,
            lines: std::mem::take(&mut self.lines),
            bytes: std::mem::take(&mut self.bytes),
            destination,
        }
    }
}

impl Work {
    fn is_idle(&self) -> bool {
        self.items.is_empty() && !self.reopen && self.dropped.is_empty() && self.finished.is_empty() && !self.closed
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::super::pool::Generation;
    use super::super::fact::{Stream, WorkerName};
    use super::super::record::Line;
    use super::*;

    fn line(seq: u64, worker: u64, length: usize) -> Arc<Record> {
        let worker = WorkerName {
            service: "a".into(),
            worker: WorkerId(worker),
            slot: Slot(0),
            generation: Generation(1),
            pid: 1,
        };
        let what =
            What::Line(Line { worker, stream: Stream::Stdout, text: "x".repeat(length).into(), continues: false });
        Arc::new(Record { seq, time: SystemTime::now(), age: Duration::ZERO, what })
    }

    fn fact(seq: u64, length: usize) -> Arc<Record> {
        let what = What::Fact(Fact::Trouble { reason: "x".repeat(length) });
        Arc::new(Record { seq, time: SystemTime::now(), age: Duration::ZERO, what })
    }

    fn seqs(work: &Work) -> Vec<u64> {
        let seq = |item: &Item| match item {
            Item::Record(record) => record.seq,
            Item::Text(_) => 0,
        };
        work.items.iter().map(seq).collect()
    }

    fn waiting_bytes(outlet: &Outlet) -> usize {
        outlet.waiting().line_bytes
    }

    #[test]
    fn a_flood_is_bounded_and_leaves_room_for_everybody_else() {
        let outlet = Outlet::new("a pipe");
        for worker in 0..500 {
            for seq in 0..3000 {
                outlet.put(&line(seq, worker, 1000));
            }
        }
        assert!(waiting_bytes(&outlet) <= ROOM + 500 * RESERVE, "{}", waiting_bytes(&outlet));
        let lines = outlet.waiting().lanes.len();
        outlet.put(&line(0, 1_000_000, 100));
        assert_eq!(outlet.waiting().lanes.len(), lines + 1, "a newcomer's line has room");
        for seq in 0..FACTS as u64 {
            outlet.put(&fact(seq, 10));
        }
        assert_eq!(outlet.waiting().lost_facts, 0, "facts have room of their own");
    }

    #[test]
    fn a_neighbours_line_is_behind_one_turn_of_a_flood() {
        let outlet = Outlet::new("a pipe");
        for seq in 1..=3000 {
            outlet.put(&line(seq, 1, 400));
        }
        outlet.put(&line(4000, 2, 10));
        outlet.put(&fact(4001, 10));
        let first = outlet.next();
        let seqs = seqs(&first);
        assert!(seqs.ends_with(&[4000, 4001]) && seqs.len() < 100, "{seqs:?}");
        assert!(seqs.is_sorted());
    }

    #[test]
    fn every_line_comes_out_once_and_in_its_order() {
        let outlet = Outlet::new("a pipe");
        for seq in 1..=3000 {
            outlet.put(&line(seq, seq % 3, 300));
        }
        let (done, finished) = std::sync::mpsc::sync_channel(1);
        outlet.finish(done);
        let mut of: [Vec<u64>; 3] = Default::default();
        loop {
            let work = outlet.next();
            seqs(&work).iter().for_each(|seq| of[(seq % 3) as usize].push(*seq));
            if let Some(done) = work.finished.first() {
                done.send(()).expect("is waited for");
                break;
            }
        }
        finished.recv().expect("everything is written");
        for lane in of {
            assert!(lane.is_sorted() && lane.len() == 1000, "{}", lane.len());
        }
        assert_eq!(waiting_bytes(&outlet), 0);
    }

    #[test]
    fn drops_are_told_with_their_worker_once_the_time_has_come() {
        let outlet = Outlet::new("a pipe");
        let mut told: Vec<_> = (0..20_000).filter_map(|seq| outlet.put(&line(seq, 7, 1000))).collect();
        let held = outlet.waiting().lanes[&WorkerId(7)].records.len() as u64;
        let since = Instant::now();
        let at = |after| outlet.waiting().take(since + after, "a pipe").dropped.into_iter().collect::<Vec<_>>();
        assert!(at(Duration::ZERO).is_empty(), "not at once");
        told.extend(at(TOLD_AFTER));
        let [Fact::LinesDropped { service, slot, lines, bytes, .. }] = &told[..] else { panic!("{told:?}") };
        assert_eq!((&**service, slot.0, lines + held, *bytes), ("a", 0, 20_000, lines * 1000));
        assert!(at(TOLD_AFTER + TOLD_AGAIN).is_empty(), "there is nothing more to tell");
    }

    #[test]
    fn facts_that_find_no_room_are_counted() {
        let outlet = Outlet::new("a pipe");
        for seq in 0..FACTS as u64 + 5 {
            outlet.put(&fact(seq, 1));
        }
        let work = outlet.next();
        assert_eq!(work.items.len(), FACTS);
        assert!(matches!(work.dropped[..], [Fact::FactsDropped { facts: 5, destination: "a pipe" }]));
        for seq in 0..200 {
            outlet.put(&fact(seq, 32 << 10));
        }
        assert!(outlet.next().items.len() < 200, "their bytes are bounded, too");
    }

    #[test]
    fn what_came_together_is_in_the_order_of_the_history() {
        let outlet = Outlet::new("a pipe");
        outlet.put(&line(1, 1, 5));
        outlet.put(&fact(3, 5));
        outlet.put(&line(2, 2, 5));
        outlet.put(&line(4, 1, 5));
        assert_eq!(seqs(&outlet.next()), [1, 2, 3, 4]);
    }
}

//! The launcher's history in memory: its facts, and the last lines of every service's workers.
//!
//! Facts have a ring, and every service has one for its lines and one for what its plugins tell the operator, so that a
//! worker that talks much displaces nothing but the same of its own service. Everything is in one order. Who follows pulls with a cursor: one that reads
//! slowly, or never, costs nothing and misses what was forgotten meanwhile, which it is told.
//!
//! Nothing is written here.

mod ring;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::Notify;

use super::fact::{Fact, Level, Name};
use super::record::{Record, What};
use ring::Ring;

/// What is remembered of the facts.
const FACTS: ring::Bounds = ring::Bounds { records: 4096, bytes: 2 << 20 };
/// What is remembered of the lines of one service.
const LINES: ring::Bounds = ring::Bounds { records: usize::MAX, bytes: 256 << 10 };
/// What is remembered of that which the plugins of one service told.
const TOLD: ring::Bounds = ring::Bounds { records: 1024, bytes: 256 << 10 };
/// Services that are gone and whose lines are still remembered.
const GONE: usize = 8;

/// What a follower wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Facts that matter at least this much; `None`: no facts.
    pub facts: Option<Level>,
    /// Lines of workers.
    pub output: bool,
    /// Of these services only; facts that are about no service are then not wanted.
    pub services: Option<Vec<Name>>,
}

/// What a follower gets.
#[derive(Debug)]
pub struct Batch {
    /// In order.
    pub records: Vec<Arc<Record>>,
    /// The cursor for the next call.
    pub next: u64,
    /// Records after the cursor that were forgotten before this call. Exact for lines that came in one go; else it
    /// may be a few too many, and for facts it counts those of every service and level.
    pub missed: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Feed {
    started: Instant,
    history: Mutex<History>,
    news: Notify,
}

#[derive(Debug)]
struct History {
    /// Of the record that was published last; the first is 1.
    last: u64,
    facts: Ring,
    lines: BTreeMap<Name, Ring>,
    told: BTreeMap<Name, Ring>,
    /// Services that are gone, the first to go first.
    gone: VecDeque<Name>,
    /// Somebody waits for news.
    awaited: bool,
}

impl Feed {
    /// An empty history that begins now.
    pub(super) fn new() -> Feed {
        let history = History {
            last: 0,
            facts: Ring::new(FACTS),
            lines: BTreeMap::new(),
            told: BTreeMap::new(),
            gone: VecDeque::new(),
            awaited: false,
        };
        Feed { started: Instant::now(), history: Mutex::new(history), news: Notify::new() }
    }

    /// Append to the history. Never waits for a follower.
    pub(super) fn publish(&self, what: What) -> Arc<Record> {
        let mut history = self.history();
        // Under the lock: times are in the order of the records.
        let (time, age) = (SystemTime::now(), self.started.elapsed());
        history.last += 1;
        let record = Arc::new(Record { seq: history.last, time, age, what });
        history.remember(&record);
        let awaited = std::mem::take(&mut history.awaited);
        drop(history);
        if awaited {
            self.news.notify_waiters();
        }
        record
    }

    /// The first records after a cursor that are wanted, at most `most`; 0 is the cursor before everything.
    pub fn read(&self, after: u64, wanted: &Wanted, most: usize) -> Batch {
        let history = self.history();
        let rings: Vec<_> = history.rings(wanted).collect();
        let missed = rings.iter().map(|ring| ring.forgotten_after(after)).sum();
        let mut records = Vec::new();
        let mut places: Vec<usize> = rings.iter().map(|ring| ring.first_after(after)).collect();
        let mut heads = BinaryHeap::new();
        for (index, (ring, place)) in rings.iter().zip(&places).enumerate() {
            heads.extend(ring.get(*place).map(|record| Reverse((record.seq, index))));
        }
        while records.len() < most
            && let Some(Reverse((_, index))) = heads.pop()
        {
            let (ring, place) = (rings[index], &mut places[index]);
            records.extend(ring.get(*place).filter(|record| wanted.wants(record)).cloned());
            *place += 1;
            heads.extend(ring.get(*place).map(|record| Reverse((record.seq, index))));
        }
        let next = match records.last() {
            Some(last) if records.len() >= most => last.seq,
            None if most == 0 => after,
            _ => history.last.max(after),
        };
        Batch { records, next, missed }
    }

    /// The cursor from which exactly the last `count` records that are wanted follow.
    pub fn last(&self, wanted: &Wanted, count: usize) -> u64 {
        let history = self.history();
        let rings: Vec<_> = history.rings(wanted).collect();
        let mut places: Vec<usize> = rings.iter().map(|ring| ring.len()).collect();
        let mut tails = BinaryHeap::new();
        let mut cursor = history.last;
        let before = |place: usize, ring: &Ring| place.checked_sub(1).and_then(|at| ring.get(at).map(|r| r.seq));
        for (index, ring) in rings.iter().enumerate() {
            tails.extend(before(places[index], ring).map(|seq| (seq, index)));
        }
        let mut found = 0;
        while found < count
            && let Some((seq, index)) = tails.pop()
        {
            places[index] -= 1;
            if rings[index].get(places[index]).is_some_and(|record| wanted.wants(record)) {
                found += 1;
                cursor = seq - 1;
            }
            tails.extend(before(places[index], rings[index]).map(|seq| (seq, index)));
        }
        cursor
    }

    /// The cursor after which everything since a time follows.
    pub fn since(&self, time: SystemTime) -> u64 {
        let history = self.history();
        let rings = std::iter::once(&history.facts).chain(history.told.values()).chain(history.lines.values());
        let firsts = rings.filter_map(|ring| ring.get(ring.first_since(time)).map(|record| record.seq));
        firsts.min().map_or(history.last, |first| first - 1)
    }

    /// Waits until there is a record after the cursor.
    pub async fn newer_than(&self, after: u64) {
        loop {
            let mut news = pin!(self.news.notified());
            // Before the look: what is published between the two is not slept through.
            news.as_mut().enable();
            {
                let mut history = self.history();
                if history.last > after {
                    return;
                }
                history.awaited = true;
            }
            news.await;
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    fn wants(&self, record: &Record) -> bool {
        let of = |name: Option<&Name>| match (&self.services, name) {
            (None, _) => true,
            (Some(services), Some(name)) => services.contains(name),
            (Some(_), None) => false,
        };
        match &record.what {
            What::Fact(fact) => self.facts.is_some_and(|least| fact.level() <= least) && of(fact.service()),
            What::Line(line) => self.output && of(Some(&line.worker.service)),
        }
    }
}

impl History {
    fn remember(&mut self, record: &Arc<Record>) {
        match &record.what {
            What::Fact(Fact::Message { worker, .. }) => push(&mut self.told, &worker.service, TOLD, record),
            What::Fact(fact) => {
                self.facts.push(Arc::clone(record));
                match fact {
                    Fact::ServiceRemoved { service } => self.let_go(service),
                    Fact::ServiceAdded { service } => self.gone.retain(|gone| gone != service),
                    _ => {}
                }
            }
            What::Line(line) => push(&mut self.lines, &line.worker.service, LINES, record),
        }
    }

    fn let_go(&mut self, service: &Name) {
        self.gone.retain(|gone| gone != service);
        self.gone.push_back(service.clone());
        while self.gone.len() > GONE
            && let Some(first) = self.gone.pop_front()
        {
            self.lines.remove(&first);
            self.told.remove(&first);
        }
    }

    fn rings<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = &'a Ring> {
        let facts = wanted.facts.is_some().then_some(&self.facts);
        let of_wanted = |name: &Name| wanted.services.as_ref().is_none_or(|services| services.contains(name));
        let lines = self.lines.iter().filter(move |(name, _)| wanted.output && of_wanted(name));
        let told = self.told.iter().filter(move |(name, _)| wanted.facts.is_some() && of_wanted(name));
        facts.into_iter().chain(told.chain(lines).map(|(_, ring)| ring))
    }
}

fn push(rings: &mut BTreeMap<Name, Ring>, service: &Name, bounds: ring::Bounds, record: &Arc<Record>) {
    match rings.get_mut(service) {
        Some(ring) => ring.push(Arc::clone(record)),
        None => {
            let mut ring = Ring::new(bounds);
            ring.push(Arc::clone(record));
            rings.insert(service.clone(), ring);
        }
    }
}

#[cfg(test)]
mod tests;

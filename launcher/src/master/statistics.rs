//! What a service's workers count: one page a slot, made for the first worker of the slot and kept until the service
//! goes, so that neither a crash nor a reload nor a scale resets a number.
//!
//! The master never maps a page: it reads the file when somebody asks. What is in it was written by processes that
//! plugins run in, so it is shown and nothing more. The layout is in [`crate::channel::statistics`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Instant;

use super::pool::{Slot, WorkerId};
use crate::channel::statistics::{self, LANES, Numbers, Place};
use crate::sys::page::Page;

/// The pages of one service, and how its workers ended.
#[derive(Debug, Default)]
pub struct Statistics {
    slots: BTreeMap<Slot, Book>,
}

#[derive(Debug)]
struct Book {
    page: Page,
    /// Who has which lane: workers that were spawned and not reaped.
    lanes: BTreeMap<usize, WorkerId>,
    last_exit: Option<Exit>,
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// In words.
    pub reason: String,
    /// The status that was reaped. `None`: it is not known.
    pub status: Option<ExitStatus>,
    /// When it was reaped.
    pub at: Instant,
}

/// Reads the numbers of one worker or of a service, wherever it is taken to.
#[derive(Debug, Clone)]
pub struct Reader {
    pages: Vec<(Page, Vec<usize>)>,
}

impl Reader {
    /// The numbers as they are now; zeros if the system refuses.
    pub fn read(&self) -> Numbers {
        let read = |(page, lanes): &(Page, Vec<usize>)| Numbers::read(page, lanes.iter().copied());
        self.pages.iter().filter_map(|page| read(page).ok()).fold(Numbers::default(), |sum, page| Numbers {
            // Wrapping: a plugin may have written anything.
            accepted: sum.accepted.wrapping_add(page.accepted),
            requests: sum.requests.wrapping_add(page.requests),
            connections: sum.connections.wrapping_add(page.connections),
        })
    }
}

impl Statistics {
    /// Go on with a page that an earlier master has made.
    pub fn adopt(&mut self, slot: Slot, page: OwnedFd, lanes: BTreeMap<usize, WorkerId>, last_exit: Option<Exit>) {
        if let Ok(page) = Page::of(page) {
            self.slots.insert(slot, Book { page, lanes, last_exit });
        }
    }

    /// Every slot that was ever used: its page, who has which lane, and how the last worker ended.
    pub fn slots(&self) -> impl Iterator<Item = (Slot, &Arc<OwnedFd>, &BTreeMap<usize, WorkerId>, Option<&Exit>)> {
        self.slots.iter().map(|(slot, book)| (*slot, book.page.own(), &book.lanes, book.last_exit.as_ref()))
    }

    /// Give a worker that is about to be spawned its place, and the descriptor that goes with it.
    pub fn admit(&mut self, worker: WorkerId, slot: Slot) -> io::Result<(Place, Arc<OwnedFd>)> {
        let book = match self.slots.entry(slot) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(free) => {
                let page = Page::new("launcher-statistics")?;
                free.insert(Book { page, lanes: BTreeMap::new(), last_exit: None })
            }
        };
        let lane = (0..LANES).find(|lane| !book.lanes.contains_key(lane));
        // It was another worker's, which may have died with connections open.
        let lane = lane.filter(|lane| statistics::clear(&book.page, *lane).is_ok());
        if let Some(lane) = lane {
            book.lanes.insert(lane, worker);
        }
        Ok((Place::in_lane(lane), Arc::clone(book.page.descriptor())))
    }

    /// Take a worker's place back: it was reaped, or never came to be.
    pub fn release(&mut self, worker: WorkerId) {
        for book in self.slots.values_mut() {
            book.lanes.retain(|_, holder| *holder != worker);
        }
    }

    /// Note how a worker ended.
    pub fn note_exit(&mut self, slot: Slot, exit: Exit) {
        if let Some(book) = self.slots.get_mut(&slot) {
            book.last_exit = Some(exit);
        }
    }

    /// How the last worker that ended in a slot did.
    pub fn last_exit(&self, slot: Slot) -> Option<&Exit> {
        self.slots.get(&slot).and_then(|book| book.last_exit.as_ref())
    }

    /// What is counted in a worker's slot, and what is open in the worker. `None`: it was never admitted.
    pub fn of_worker(&self, worker: WorkerId, slot: Slot) -> Option<Reader> {
        let book = self.slots.get(&slot)?;
        let lane = book.lanes.iter().find(|(_, holder)| **holder == worker).map(|(lane, _)| *lane);
        Some(Reader { pages: vec![(book.page.clone(), lane.into_iter().collect())] })
    }

    /// What is counted in the whole service.
    pub fn of_service(&self) -> Reader {
        let page = |book: &Book| (book.page.clone(), book.lanes.keys().copied().collect());
        Reader { pages: self.slots.values().map(page).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::statistics::Counters;
    use std::os::unix::process::ExitStatusExt;
    use std::sync::atomic::Ordering::Relaxed;

    fn admit(statistics: &mut Statistics, worker: u64, slot: u32) -> Counters {
        let (place, page) = statistics.admit(WorkerId(worker), Slot(slot)).expect("a place");
        Counters::shared(&page, place).expect("maps")
    }

    fn serve(counters: Counters, requests: u64) {
        counters.accepted.fetch_add(1, Relaxed);
        counters.open.fetch_add(1, Relaxed);
        counters.requests.fetch_add(requests, Relaxed);
    }

    #[test]
    fn a_crash_keeps_what_was_counted_and_forgets_what_was_open() {
        let mut statistics = Statistics::default();
        serve(admit(&mut statistics, 1, 0), 10);
        serve(admit(&mut statistics, 2, 1), 5);
        statistics.release(WorkerId(1));
        assert_eq!(statistics.of_service().read(), Numbers { accepted: 2, requests: 15, connections: 1 });
        let next = admit(&mut statistics, 3, 0);
        let reader = statistics.of_worker(WorkerId(3), Slot(0)).expect("is there");
        assert_eq!(reader.read(), Numbers { accepted: 1, requests: 10, connections: 0 });
        serve(next, 1);
        assert_eq!(reader.read(), Numbers { accepted: 2, requests: 11, connections: 1 });
    }

    #[test]
    fn workers_that_overlap_in_a_slot_are_told_apart() {
        let mut statistics = Statistics::default();
        let old = admit(&mut statistics, 1, 0);
        serve(old, 1);
        let new = admit(&mut statistics, 2, 0);
        serve(new, 1);
        serve(new, 1);
        let open = |statistics: &Statistics, id| {
            statistics.of_worker(WorkerId(id), Slot(0)).map(|reader| reader.read().connections)
        };
        assert_eq!((open(&statistics, 1), open(&statistics, 2)), (Some(1), Some(2)));
        statistics.release(WorkerId(1));
        // A process of the old worker that lives on and writes where it may not.
        serve(old, 1);
        assert_eq!(statistics.of_service().read(), Numbers { accepted: 4, requests: 4, connections: 2 });
    }

    #[test]
    fn more_workers_than_lanes_count_all_the_same() {
        let mut statistics = Statistics::default();
        for worker in 0..LANES as u64 + 3 {
            serve(admit(&mut statistics, worker, 0), 1);
        }
        let (workers, lanes) = (LANES as u64 + 3, LANES as u64);
        let wanted = Numbers { accepted: workers, requests: workers, connections: lanes };
        assert_eq!(statistics.of_service().read(), wanted);
    }

    #[test]
    fn the_last_end_in_a_slot_is_remembered() {
        let mut statistics = Statistics::default();
        admit(&mut statistics, 1, 3);
        assert_eq!(statistics.last_exit(Slot(3)), None);
        let exit = Exit { reason: "was killed".to_owned(), status: Some(ExitStatus::from_raw(9)), at: Instant::now() };
        statistics.note_exit(Slot(3), exit.clone());
        admit(&mut statistics, 2, 3);
        assert_eq!(statistics.last_exit(Slot(3)), Some(&exit));
    }
}

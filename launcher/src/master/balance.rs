//! The page in which the workers of a service tell each other how many connections they have open
//! (`balance: connections`), and who sits where in it.
//!
//! Made for the first worker that wants it and kept until the service goes. A worker's seat is cleared when the worker is
//! gone: others would wait for it. The master reads nothing of it; the layout is in [`crate::channel::balance`].

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::pool::WorkerId;
use crate::channel::balance::{self, Place, SEATS};
use crate::sys::page::Page;

/// The page of one service.
#[derive(Debug, Default)]
pub struct Seating {
    page: Option<Page>,
    seats: BTreeMap<usize, WorkerId>,
}

impl Seating {
    /// Go on with a page that an earlier master has made.
    pub fn adopt(page: OwnedFd, seats: BTreeMap<usize, WorkerId>) -> Seating {
        match Page::of(page) {
            Ok(page) => Seating { page: Some(page), seats },
            Err(_) => Seating::default(),
        }
    }

    /// The page, if there is one, for whoever keeps it.
    pub fn page(&self) -> Option<&Arc<OwnedFd>> {
        self.page.as_ref().map(Page::own)
    }

    /// Who sits where.
    pub fn seats(&self) -> &BTreeMap<usize, WorkerId> {
        &self.seats
    }

    /// Give a worker that is about to be spawned a seat, and the descriptor that goes with it. `None`: all are taken.
    ///
    /// # Errors
    /// The page cannot be made.
    pub fn admit(&mut self, worker: WorkerId) -> io::Result<Option<(Place, Arc<OwnedFd>)>> {
        let page = match &mut self.page {
            Some(page) => page,
            none => none.insert(Page::new("launcher-balance")?),
        };
        let free = (0..SEATS).find(|seat| !self.seats.contains_key(seat));
        Ok(free.map(|seat| {
            self.seats.insert(seat, worker);
            (Place::at(seat), Arc::clone(page.descriptor()))
        }))
    }

    /// Take a worker's seat back: it was reaped, or never came to be.
    pub fn release(&mut self, worker: WorkerId) {
        let page = self.page.as_ref();
        self.seats.retain(|seat, holder| {
            let leaves = *holder == worker;
            if let Some(page) = page.filter(|_| leaves) {
                // If it fails the others wait for nobody once, and then not again.
                let _ = balance::clear(page, *seat);
            }
            !leaves
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::balance::Board;

    #[test]
    fn a_seat_is_cleared_for_the_next_and_what_a_dead_worker_had_is_forgotten() {
        let mut seating = Seating::default();
        let mut sit = |worker| {
            let (place, page) = seating.admit(WorkerId(worker)).expect("a page").expect("a seat");
            Board::shared(&page, place).expect("maps").expect("of this layout")
        };
        let (one, other) = (sit(1), sit(2));
        one.takes(true, 40);
        other.takes(true, 2);
        assert_eq!(other.others().map(|said| said.open).collect::<Vec<_>>(), [40]);
        seating.release(WorkerId(1));
        assert_eq!(other.others().count(), 0);
        let (place, _) = seating.admit(WorkerId(3)).expect("a page").expect("a seat");
        assert_eq!((place, seating.seats().get(&0)), (Place::at(0), Some(&WorkerId(3))));
    }

    #[test]
    fn who_finds_no_seat_does_without() {
        let mut seating = Seating::default();
        let seats = (0..SEATS as u64 + 1).map(|worker| seating.admit(WorkerId(worker)).expect("a page").is_some());
        assert_eq!(seats.filter(|seat| *seat).count(), SEATS);
    }
}

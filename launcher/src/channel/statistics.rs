//! What workers count in the page of their slot: [`Counters`] is the worker's end, [`Numbers`] what the master reads.
//!
//! The page belongs to a slot and not to a worker, so a crash loses nothing, and a count is one atomic addition that
//! wakes nobody. Its numbers are 64 bits wide, in the machine's byte order:
//!
//! ```text
//! word 0      connections accepted   ┐ since the service started; every worker that has the slot adds to them,
//!      1      requests begun         ┘ two of them while one replaces the other
//!      2-15   0, for later
//!      16-23  lane 0: word 16 is the number of connections that are open; 17-23 are 0, for later
//!      24-31  lane 1, and so on to lane 61
//! ```
//!
//! What goes up and down again has a *lane*, which one living worker has to itself: the master picks one that nobody
//! has and clears it before it is given to the next, so what was open in a worker that crashed is not open for ever.
//!
//! A plugin can write into the page what it likes. The master therefore believes none of it: it is wrong numbers about
//! the plugin's own service, and nothing is decided by them. The version of the layout travels in [`Place`], because in
//! the page it could be overwritten.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

use crate::sys::page::{self, Page, WORDS};

/// Version of the layout that is described here.
const LAYOUT: u32 = 1;
/// Lanes in a page.
pub const LANES: usize = (WORDS - FIRST_LANE) / LANE;

const ACCEPTED: usize = 0;
const REQUESTS: usize = 1;
const FIRST_LANE: usize = 16;
/// Words of a lane: a cache line, so that workers that count at the same time do not slow each other.
const LANE: usize = 8;
const OPEN: usize = 0;

/// Where a worker counts in the page of its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Version of the layout.
    layout: u32,
    /// Its lane. `None`: all of them are taken; what is open in it is not told.
    lane: Option<usize>,
}

impl Place {
    /// The place of a worker that has this lane of a page.
    pub fn in_lane(lane: Option<usize>) -> Place {
        Place { layout: LAYOUT, lane }
    }
}

/// What the page of a slot says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Connections accepted in the slot since the service started.
    pub accepted: u64,
    /// Requests begun in the slot since the service started.
    pub requests: u64,
    /// Connections that are open in the lanes that were asked for.
    pub connections: u64,
}

impl Numbers {
    /// Read a page; `lanes` are those of which the open connections are wanted.
    pub fn read(page: &Page, lanes: impl IntoIterator<Item = usize>) -> io::Result<Numbers> {
        let words = page.read()?;
        let open = |lane: usize| words.get(word_of(lane) + OPEN).copied().unwrap_or(0);
        Ok(Numbers {
            accepted: words[ACCEPTED],
            requests: words[REQUESTS],
            // Wrapping: a plugin may have written anything.
            connections: lanes.into_iter().map(open).fold(0, u64::wrapping_add),
        })
    }
}

fn word_of(lane: usize) -> usize {
    FIRST_LANE + lane * LANE
}

/// Clear a lane for the worker that gets it.
pub fn clear(page: &Page, lane: usize) -> io::Result<()> {
    page.clear::<LANE>(word_of(lane))
}

/// What a worker counts.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: &'static AtomicU64,
    /// Connections open at this moment.
    pub open: &'static AtomicU64,
    /// Requests whose head was complete.
    pub requests: &'static AtomicU64,
}

impl Counters {
    /// Count at a place in a page.
    pub fn shared(descriptor: &OwnedFd, place: Place) -> io::Result<Counters> {
        if place.layout != LAYOUT {
            // Of a later master. That its numbers stand still is better than a worker that does not serve.
            return Ok(Counters::unshared());
        }
        let words = page::map(descriptor)?;
        let lane = place.lane.and_then(|lane| words.get(word_of(lane) + OPEN));
        let open = lane.unwrap_or_else(|| Counters::unshared().open);
        Ok(Counters { accepted: &words[ACCEPTED], requests: &words[REQUESTS], open })
    }

    /// Count where nobody else looks.
    pub fn unshared() -> Counters {
        // For the life of the process, as a page is.
        let [accepted, open, requests] = Box::leak(Box::<[AtomicU64; 3]>::default());
        Counters { accepted, open, requests }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    fn counters(page: &Page, lane: Option<usize>) -> Counters {
        Counters::shared(page.descriptor(), Place::in_lane(lane)).expect("maps")
    }

    #[test]
    fn workers_of_a_slot_add_up_and_have_their_open_connections_to_themselves() {
        let page = Page::new("test").expect("a page");
        let (old, new, lost) = (counters(&page, Some(0)), counters(&page, Some(LANES - 1)), counters(&page, None));
        for counters in [old, new, lost] {
            counters.accepted.fetch_add(2, Relaxed);
            counters.requests.fetch_add(5, Relaxed);
            counters.open.fetch_add(1, Relaxed);
        }
        let read = |lanes: &[usize]| Numbers::read(&page, lanes.iter().copied()).expect("reads");
        assert_eq!(read(&[0, LANES - 1]), Numbers { accepted: 6, requests: 15, connections: 2 });
        assert_eq!(read(&[0]).connections, 1);
        clear(&page, 0).expect("clears");
        assert_eq!((read(&[0]).connections, read(&[LANES - 1]).connections, read(&[0]).requests), (0, 1, 15));
    }

    #[test]
    fn a_page_full_of_ones_is_wrong_numbers_and_nothing_else() {
        let page = Page::new("test").expect("a page");
        for word in page::map(page.descriptor()).expect("maps") {
            word.store(u64::MAX, Relaxed);
        }
        let read = |lanes: &[usize]| Numbers::read(&page, lanes.iter().copied()).expect("reads");
        assert_eq!(read(&[0]), Numbers { accepted: u64::MAX, requests: u64::MAX, connections: u64::MAX });
        assert_eq!(read(&[0, 1, LANES]).connections, u64::MAX - 1);
        clear(&page, 3).expect("clears");
        let worker = counters(&page, Some(3));
        worker.open.fetch_add(1, Relaxed);
        worker.requests.fetch_add(1, Relaxed);
        assert_eq!(read(&[3]), Numbers { accepted: u64::MAX, requests: 0, connections: 1 });
    }

    #[test]
    fn a_worker_counts_for_itself_in_a_page_of_another_layout() {
        let page = Page::new("test").expect("a page");
        let later = Place { layout: LAYOUT + 1, lane: Some(0) };
        let counters = Counters::shared(page.descriptor(), later).expect("counts");
        counters.requests.fetch_add(1, Relaxed);
        assert_eq!(Numbers::read(&page, [0]).expect("reads"), Numbers::default());
    }
}

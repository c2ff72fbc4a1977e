//! How many connections each worker of a service has open, where all of them see it: the page by which
//! `balance: connections` spreads them.
//!
//! Each of the page's numbers is the *seat* of one worker, which alone writes it; 64 bits in the machine's byte order:
//!
//! ```text
//! 0               nobody sits here, or whoever does takes no connection
//! bits 0 to 31    open connections + 1
//! bits 32 to 63   changes with every change of that, so that one who stands still is told from one who is as before
//! ```
//!
//! The master gives seats and clears them when their workers are gone; it never reads the page. A plugin can write into it
//! what it likes: whoever reads it believes it for milliseconds only (`worker::http`).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::sys::page::{self, Page, WORDS};

/// Version of the layout that is described here.
const LAYOUT: u32 = 1;
/// Seats in a page. A worker that gets none takes connections in turn.
pub const SEATS: usize = WORDS;

/// A worker's seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Version of the layout, which in the page could be overwritten.
    layout: u32,
    seat: usize,
}

impl Place {
    /// The place with this number.
    pub fn at(seat: usize) -> Place {
        Place { layout: LAYOUT, seat }
    }
}

/// Clear a seat: nobody sits there.
pub fn clear(page: &Page, seat: usize) -> io::Result<()> {
    page.clear::<1>(seat)
}

/// What a seat says; of one whose worker takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// Which seat.
    pub seat: usize,
    /// Open connections.
    pub open: u32,
    /// The whole number: another one says that the worker has done something.
    pub word: u64,
}

/// The page as a worker sees it.
#[derive(Debug)]
pub struct Board {
    words: &'static [AtomicU64; WORDS],
    own: usize,
    changes: AtomicU32,
    takes: AtomicBool,
}

impl Board {
    /// Sit down. `None`: the page is of a later master, and this worker does without.
    ///
    /// # Errors
    /// It is no page.
    pub fn shared(descriptor: &OwnedFd, place: Place) -> io::Result<Option<Board>> {
        if place.layout != LAYOUT || place.seat >= SEATS {
            return Ok(None);
        }
        let words = page::map(descriptor)?;
        Ok(Some(Board { words, own: place.seat, changes: AtomicU32::new(0), takes: AtomicBool::new(false) }))
    }

    /// Say how many connections are open. Nothing is said while this worker takes none.
    pub fn say(&self, open: usize) {
        if self.takes.load(Relaxed) {
            let open = u64::from(u32::try_from(open).unwrap_or(u32::MAX).min(u32::MAX - 1)) + 1;
            let changes = u64::from(self.changes.fetch_add(1, Relaxed));
            self.words[self.own].store(changes << 32 | open, Relaxed);
        }
    }

    /// Whether this worker takes connections: nobody waits for one that does not.
    pub fn takes(&self, takes: bool, open: usize) {
        if self.takes.swap(takes, Relaxed) != takes {
            match takes {
                true => self.say(open),
                false => self.words[self.own].store(0, Relaxed),
            }
        }
    }

    /// What the others say.
    pub fn others(&self) -> impl Iterator<Item = Said> {
        let word = |(seat, word): (usize, &AtomicU64)| (seat, word.load(Relaxed));
        let all = self.words.iter().enumerate().map(word);
        all.filter(|(seat, word)| *seat != self.own && *word != 0).map(|(seat, word)| Said {
            seat,
            // The low half alone.
            open: (word as u32).saturating_sub(1),
            word,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(page: &Page, seat: usize) -> Board {
        Board::shared(page.descriptor(), Place::at(seat)).expect("maps").expect("of this layout")
    }

    fn open(board: &Board) -> Vec<(usize, u32)> {
        board.others().map(|said| (said.seat, said.open)).collect()
    }

    #[test]
    fn everybody_sees_what_the_others_have_open() {
        let page = Page::new("test").expect("a page");
        let (one, other, third) = (board(&page, 0), board(&page, 7), board(&page, SEATS - 1));
        one.say(3);
        assert!(open(&third).is_empty(), "it takes none yet");
        one.takes(true, 3);
        other.takes(true, 0);
        assert_eq!((open(&third), open(&one)), (vec![(0, 3), (7, 0)], vec![(7, 0)]));
        let before: Vec<_> = third.others().collect();
        one.say(3);
        let after: Vec<_> = third.others().collect();
        assert_eq!((before[0].word == after[0].word, before[1].word == after[1].word), (false, true));
        one.takes(false, 3);
        one.say(4);
        assert_eq!(open(&third), [(7, 0)]);
        clear(&page, 7).expect("clears");
        assert!(open(&third).is_empty());
    }

    #[test]
    fn any_numbers_are_read_and_another_layout_is_not_used() {
        let page = Page::new("test").expect("a page");
        for word in page::map(page.descriptor()).expect("maps") {
            word.store(u64::MAX, Relaxed);
        }
        let board = board(&page, 5);
        assert!(board.others().all(|said| said.open == u32::MAX - 1));
        board.takes(true, usize::MAX);
        assert!(Board::shared(page.descriptor(), Place { layout: LAYOUT + 1, seat: 0 }).expect("maps").is_none());
        assert!(Board::shared(page.descriptor(), Place::at(SEATS)).expect("maps").is_none());
    }
}

//! Whose turn a connection is where the worker with the fewest open ones should have it (`balance: connections`).
//!
//! ```text
//! mine ──open > least + 1──> aside ──a connection came──> patient ──3 ms──┬─ nothing waits ──> aside
//!  ^                           │                            ^            └─ it still waits: those with less that have
//!  └──open <= least + 1────────┴────────────────────────────┴───────────────not moved are passed over; look again
//! ```
//!
//! A worker that has more than one connection more than the least loaded leaves the listener's wait queue, so that the
//! kernel wakes others. It is still told that something comes, and looks after [`PATIENCE`] whether somebody took it: the
//! least loaded may be stopped, spinning or dead. What the others say is in memory that their plugins can write to, so it is
//! believed for [`BELIEF`] at most while connections wait; then connections are taken in turn for [`DOUBT`].
//!
//! Nothing is done here while nothing comes: there is no timer without a connection.

use std::time::Duration;

use tokio::time::Instant;

use crate::channel::balance::{Board, Said};

/// How long a less loaded worker may leave a connection that waits.
const PATIENCE: Duration = Duration::from_millis(3);

/// How long connections may wait in a row for others before nobody is believed any more. It need not be the same one that
/// is found waiting: on a busy machine every look may find another.
const BELIEF: Duration = Duration::from_millis(100);

/// For how long.
const DOUBT: Duration = Duration::from_secs(1);

/// Whose the next connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// This worker's: it stands in the wait queue.
    Mine,
    /// Another's; this worker wants to know when one comes.
    Others,
    /// Another's, and one waits: look again at that time.
    Later(Instant),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Balance {
    waiting: Option<Waiting>,
    /// Those that stand still, with what they say: until they say something else.
    passed_over: Vec<(usize, u64)>,
    doubts_until: Option<Instant>,
}

/// A connection waits for another worker.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    until: Instant,
    /// What those said that have fewer.
    said: Vec<(usize, u64)>,
}

impl Balance {
    /// Whose the next connection is, for a worker that has `open` of them. `waits` tells whether one waits now; it is asked
    /// only when patience is over.
    pub(super) fn turn(&mut self, board: &Board, open: usize, now: Instant, waits: impl FnOnce() -> bool) -> Turn {
        if self.mine(board, open, now) {
            self.waiting = None;
            return Turn::Mine;
        }
        let Some(waiting) = &mut self.waiting else { return Turn::Others };
        if now < waiting.until {
            return Turn::Later(waiting.until);
        }
        if !waits() {
            self.waiting = None;
            return Turn::Others;
        }
        let still: Vec<_> = board.others().map(|said| (said.seat, said.word)).collect();
        waiting.said.retain(|said| still.contains(said));
        self.passed_over.retain(|said| still.contains(said));
        self.passed_over.append(&mut waiting.said);
        if now.duration_since(waiting.since) >= BELIEF {
            self.doubts_until = Some(now + DOUBT);
        }
        if self.mine(board, open, now) {
            self.waiting = None;
            return Turn::Mine;
        }
        let since = self.waiting.take().map_or(now, |waiting| waiting.since);
        Turn::Later(self.wait(board, open, since, now))
    }

    /// A connection has come that is another's: when to look whether it was taken.
    pub(super) fn came(&mut self, board: &Board, open: usize, now: Instant) {
        if self.waiting.is_none() {
            self.wait(board, open, now, now);
        }
    }

    fn wait(&mut self, board: &Board, open: usize, since: Instant, now: Instant) -> Instant {
        let until = now + PATIENCE;
        let fewer = |said: &Said| exceeds(open, *said);
        let said = board.others().filter(fewer).map(|said| (said.seat, said.word)).collect();
        self.waiting = Some(Waiting { since, until, said });
        until
    }

    fn mine(&mut self, board: &Board, open: usize, now: Instant) -> bool {
        if self.doubts_until.is_some_and(|until| now < until) {
            return true;
        }
        self.doubts_until = None;
        let heeded = |said: &Said| !self.passed_over.contains(&(said.seat, said.word));
        !board.others().filter(heeded).any(|said| exceeds(open, said))
    }
}

/// A worker with so many open connections has too many beside that one.
fn exceeds(open: usize, other: Said) -> bool {
    open > (other.open as usize).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::balance::Place;
    use crate::sys::page::Page;

    struct World {
        boards: Vec<Board>,
        now: Instant,
    }

    /// Workers with so many connections.
    fn world(open: &[usize]) -> World {
        let page = Page::new("test").expect("a page");
        let board = |(seat, open): (usize, &usize)| {
            let board = Board::shared(page.descriptor(), Place::at(seat)).expect("maps").expect("of this layout");
            board.takes(true, *open);
            board
        };
        World { boards: open.iter().enumerate().map(board).collect(), now: Instant::now() }
    }

    impl World {
        fn turn(&self, balance: &mut Balance, open: usize, waits: bool) -> Turn {
            balance.turn(&self.boards[0], open, self.now, || waits)
        }
    }

    #[test]
    fn one_more_than_the_least_is_not_too_many() {
        let world = world(&[6, 5, 9]);
        let mut balance = Balance::default();
        assert_eq!(world.turn(&mut balance, 6, true), Turn::Mine);
        assert_eq!(world.turn(&mut balance, 7, true), Turn::Others);
        world.boards[1].say(6);
        assert_eq!(world.turn(&mut balance, 7, true), Turn::Mine);
        world.boards[1].say(0);
        world.boards[1].takes(false, 0);
        assert_eq!(world.turn(&mut balance, 10, true), Turn::Mine, "nobody waits for one that takes none");
    }

    #[test]
    fn one_who_stands_still_is_passed_over_until_he_moves() {
        let mut world = world(&[9, 0, 9]);
        let mut balance = Balance::default();
        assert_eq!(world.turn(&mut balance, 9, false), Turn::Others);
        balance.came(&world.boards[0], 9, world.now);
        assert_eq!(world.turn(&mut balance, 9, true), Turn::Later(world.now + PATIENCE));
        world.now += PATIENCE;
        assert_eq!(world.turn(&mut balance, 9, true), Turn::Mine);
        assert_eq!(world.turn(&mut balance, 10, true), Turn::Mine, "he is passed over for good");
        world.boards[1].say(0);
        assert_eq!(world.turn(&mut balance, 10, true), Turn::Others);
    }

    #[test]
    fn what_was_taken_meanwhile_needs_no_patience() {
        let mut world = world(&[9, 0]);
        let mut balance = Balance::default();
        balance.came(&world.boards[0], 9, world.now);
        world.boards[1].say(1);
        world.now += PATIENCE;
        assert_eq!(world.turn(&mut balance, 9, false), Turn::Others);
        world.now += 100 * PATIENCE;
        balance.came(&world.boards[0], 9, world.now);
        world.now += PATIENCE;
        assert_eq!(world.turn(&mut balance, 9, false), Turn::Others, "he has not moved, and need not have");
    }

    #[test]
    fn one_who_works_gets_his_time_and_not_for_ever() {
        let mut world = world(&[9, 0]);
        let mut balance = Balance::default();
        let begun = world.now;
        balance.came(&world.boards[0], 9, world.now);
        let mut turn = world.turn(&mut balance, 9, true);
        // Whether he takes connections or only says so.
        while let Turn::Later(until) = turn {
            world.now = until;
            world.boards[1].say(0);
            turn = world.turn(&mut balance, 9, true);
        }
        assert_eq!(turn, Turn::Mine);
        assert!((BELIEF..BELIEF + PATIENCE).contains(&(world.now - begun)), "{:?}", world.now - begun);
        world.now += DOUBT - PATIENCE;
        assert_eq!(world.turn(&mut balance, 12, true), Turn::Mine);
        world.now += PATIENCE;
        assert_eq!(world.turn(&mut balance, 12, true), Turn::Others);
    }

    #[test]
    fn any_numbers_hold_a_connection_up_for_milliseconds_only() {
        let mut world = world(&[3]);
        let page = Page::new("test").expect("a page");
        let words = crate::sys::page::map(page.descriptor()).expect("maps");
        world.boards[0] = Board::shared(page.descriptor(), Place::at(0)).expect("maps").expect("of this layout");
        let mut balance = Balance::default();
        for round in 0..100_u64 {
            for (seat, word) in words.iter().enumerate() {
                let any = (round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(seat as u32) ^ seat as u64;
                word.store(any, std::sync::atomic::Ordering::Relaxed);
            }
            let begun = world.now;
            balance.came(&world.boards[0], 1000, world.now);
            while let Turn::Later(until) = world.turn(&mut balance, 1000, true) {
                world.now = until;
            }
            assert!(world.now - begun < BELIEF + PATIENCE, "round {round}");
            world.now += Duration::from_millis(137);
        }
    }
}

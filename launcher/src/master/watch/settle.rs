//! When a file that changes counts as changed: decided from what was seen and when, without a file system.
//!
//! ```text
//! Still ──replaced by another file──▶ Still, reported at once
//!   │ written to, or looks different
//!   ▼
//! Moving ──written to, or looks different──▶ Moving (the wait starts again)
//!   │ looks the same after `settle`
//!   ▼
//! Still, reported
//! ```
//!
//! A file that is missing is `Still`: what was loaded from it goes on, and what comes back is compared with what
//! was known.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::sys::file::Stamp;

/// Why the file is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A complete file, or a directory or symlink on the way to one, took the name in one step.
    Replaced,
    /// Its content was written to, even if its stamp does not show it: clocks of file systems are coarse.
    Written,
    /// Something happened that may concern it.
    Looked,
}

/// Whether to tell the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Changed,
    Unchanged,
}

#[derive(Debug)]
pub(super) struct Settling<K> {
    files: BTreeMap<K, File>,
}

#[derive(Debug)]
struct File {
    settle: Duration,
    /// As last reported, or as found at first.
    known: Option<Stamp>,
    state: State,
}

#[derive(Debug)]
enum State {
    Still,
    Moving { stamp: Stamp, still_at: Instant, cause: Cause },
}

impl<K: Ord + Clone> Settling<K> {
    pub(super) fn new() -> Self {
        Self { files: BTreeMap::new() }
    }

    /// Starts with a file as it is now.
    pub(super) fn insert(&mut self, key: K, settle: Duration, sight: Option<Stamp>) {
        self.files.insert(key, File { settle, known: sight, state: State::Still });
    }

    pub(super) fn set_settle(&mut self, key: &K, settle: Duration) {
        if let Some(file) = self.files.get_mut(key) {
            file.settle = settle;
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.files.remove(key);
    }

    /// The file was looked at because of `cause`; `None`: it is missing.
    pub(super) fn saw(&mut self, key: &K, sight: Option<Stamp>, cause: Cause, now: Instant) -> Verdict {
        let Some(file) = self.files.get_mut(key) else { return Verdict::Unchanged };
        let Some(stamp) = sight else {
            file.state = State::Still;
            return Verdict::Unchanged;
        };
        let still_at = now + file.settle;
        match (cause, &mut file.state) {
            // Even if the stamp is the same: inode numbers are used again at once, and clocks of file systems tick
            // every few milliseconds.
            (Cause::Replaced, _) => return file.report(stamp, Certainty::Changed),
            (Cause::Written, state) => *state = State::Moving { stamp, still_at, cause },
            (Cause::Looked, State::Still) if file.known == Some(stamp) => {}
            (Cause::Looked, state @ State::Still) => *state = State::Moving { stamp, still_at, cause },
            (Cause::Looked, State::Moving { stamp: before, still_at: until, .. }) => {
                if *before != stamp {
                    (*before, *until) = (stamp, still_at);
                }
            }
        }
        Verdict::Unchanged
    }

    /// The files that have to be looked at again now, with [`Settling::settled`].
    pub(super) fn due(&self, now: Instant) -> Vec<K> {
        let due = |file: &File| matches!(file.state, State::Moving { still_at, .. } if still_at <= now);
        self.files.iter().filter(|(_, file)| due(file)).map(|(key, _)| key.clone()).collect()
    }

    /// When [`Settling::due`] has something next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadline = |file: &File| match file.state {
            State::Moving { still_at, .. } => Some(still_at),
            State::Still => None,
        };
        self.files.values().filter_map(deadline).min()
    }

    /// A file that was due was looked at.
    pub(super) fn settled(&mut self, key: &K, sight: Option<Stamp>, now: Instant) -> Verdict {
        let Some(file) = self.files.get_mut(key) else { return Verdict::Unchanged };
        let State::Moving { stamp: before, still_at, cause } = &mut file.state else { return Verdict::Unchanged };
        match sight {
            None => file.state = State::Still,
            Some(stamp) if stamp != *before => (*before, *still_at) = (stamp, now + file.settle),
            Some(stamp) => {
                let certainty = if *cause == Cause::Looked { Certainty::Compare } else { Certainty::Changed };
                return file.report(stamp, certainty);
            }
        }
        Verdict::Unchanged
    }
}

enum Certainty {
    Changed,
    Compare,
}

impl File {
    fn report(&mut self, stamp: Stamp, certainty: Certainty) -> Verdict {
        self.state = State::Still;
        let before = self.known.replace(stamp);
        match certainty {
            Certainty::Compare if before == Some(stamp) => Verdict::Unchanged,
            Certainty::Compare | Certainty::Changed => Verdict::Changed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_millis(100);
    const KEY: &str = "plugin";

    fn stamp(inode: u64, size: u64) -> Stamp {
        Stamp { device: 1, inode, size, modified: (0, 0), changed: (0, 0) }
    }

    fn start(sight: Option<Stamp>) -> (Settling<&'static str>, Instant) {
        let mut settling = Settling::new();
        settling.insert(KEY, SETTLE, sight);
        (settling, Instant::now())
    }

    #[test]
    fn a_replacement_is_reported_at_once_even_if_it_looks_the_same() {
        let (mut settling, now) = start(Some(stamp(1, 10)));
        assert_eq!(settling.saw(&KEY, Some(stamp(2, 10)), Cause::Replaced, now), Verdict::Changed);
        assert_eq!(settling.saw(&KEY, Some(stamp(2, 10)), Cause::Replaced, now), Verdict::Changed);
        assert_eq!(settling.next_deadline(), None);
    }

    #[test]
    fn a_written_file_is_reported_after_stillness_counted_from_the_last_write() {
        let (mut settling, now) = start(Some(stamp(1, 10)));
        let mut at = now;
        for size in 0..20 {
            at = now + Duration::from_millis(size * 60);
            assert_eq!(settling.due(at), Vec::<&str>::new(), "written {size} times");
            assert_eq!(settling.saw(&KEY, Some(stamp(1, size)), Cause::Written, at), Verdict::Unchanged);
        }
        assert_eq!(settling.next_deadline(), Some(at + SETTLE));
        assert_eq!(settling.due(at + SETTLE), [KEY]);
        assert_eq!(settling.settled(&KEY, Some(stamp(1, 19)), at + SETTLE), Verdict::Changed);
        assert_eq!(settling.next_deadline(), None);
    }

    #[test]
    fn a_file_that_looks_different_at_the_end_of_the_wait_waits_again() {
        let (mut settling, now) = start(Some(stamp(1, 10)));
        settling.saw(&KEY, Some(stamp(1, 11)), Cause::Looked, now);
        assert_eq!(settling.settled(&KEY, Some(stamp(1, 12)), now + SETTLE), Verdict::Unchanged);
        assert_eq!(settling.next_deadline(), Some(now + SETTLE * 2));
        assert_eq!(settling.settled(&KEY, Some(stamp(1, 12)), now + SETTLE * 2), Verdict::Changed);
    }

    #[test]
    fn a_write_that_the_stamp_does_not_show_is_reported() {
        let (mut settling, now) = start(Some(stamp(1, 10)));
        settling.saw(&KEY, Some(stamp(1, 10)), Cause::Written, now);
        assert_eq!(settling.settled(&KEY, Some(stamp(1, 10)), now + SETTLE), Verdict::Changed);
    }

    #[test]
    fn a_look_that_finds_nothing_new_arms_no_timer() {
        let (mut settling, now) = start(Some(stamp(1, 10)));
        assert_eq!(settling.saw(&KEY, Some(stamp(1, 10)), Cause::Looked, now), Verdict::Unchanged);
        assert_eq!(settling.next_deadline(), None);
    }

    #[test]
    fn a_look_does_not_prolong_the_wait_of_a_file_that_is_still() {
        let (mut settling, now) = start(Some(stamp(1, 10)));
        settling.saw(&KEY, Some(stamp(1, 11)), Cause::Written, now);
        settling.saw(&KEY, Some(stamp(1, 11)), Cause::Looked, now + SETTLE / 2);
        assert_eq!(settling.next_deadline(), Some(now + SETTLE));
    }

    #[test]
    fn a_look_that_finds_another_change_starts_the_wait_again() {
        let (mut settling, now) = start(Some(stamp(1, 10)));
        settling.saw(&KEY, Some(stamp(1, 11)), Cause::Looked, now);
        settling.saw(&KEY, Some(stamp(1, 12)), Cause::Looked, now + SETTLE / 2);
        assert_eq!(settling.next_deadline(), Some(now + SETTLE / 2 + SETTLE));
    }

    #[test]
    fn a_file_that_vanishes_is_not_reported_and_one_that_comes_back_is() {
        let (mut settling, now) = start(Some(stamp(1, 10)));
        settling.saw(&KEY, Some(stamp(1, 11)), Cause::Written, now);
        assert_eq!(settling.saw(&KEY, None, Cause::Looked, now), Verdict::Unchanged);
        assert_eq!(settling.next_deadline(), None);
        assert_eq!(settling.saw(&KEY, Some(stamp(2, 10)), Cause::Replaced, now), Verdict::Changed);
    }

    #[test]
    fn a_file_that_was_missing_for_a_moment_and_looks_as_before_did_not_change() {
        let (mut settling, now) = start(Some(stamp(1, 10)));
        settling.saw(&KEY, None, Cause::Looked, now);
        assert_eq!(settling.saw(&KEY, Some(stamp(1, 10)), Cause::Looked, now), Verdict::Unchanged);
        assert_eq!(settling.next_deadline(), None);
    }

    #[test]
    fn a_file_that_vanishes_while_it_settles_arms_no_timer() {
        let (mut settling, now) = start(None);
        settling.saw(&KEY, Some(stamp(1, 1)), Cause::Looked, now);
        assert_eq!(settling.settled(&KEY, None, now + SETTLE), Verdict::Unchanged);
        assert_eq!(settling.next_deadline(), None);
    }

    #[test]
    fn each_file_waits_for_itself() {
        let (mut settling, now) = start(Some(stamp(1, 10)));
        settling.insert("other", SETTLE * 5, Some(stamp(9, 9)));
        settling.saw(&KEY, Some(stamp(1, 11)), Cause::Written, now);
        settling.saw(&"other", Some(stamp(9, 10)), Cause::Written, now);
        assert_eq!(settling.due(now + SETTLE), [KEY]);
        settling.remove(&KEY);
        assert_eq!(settling.next_deadline(), Some(now + SETTLE * 5));
    }
}

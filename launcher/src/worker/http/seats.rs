//! The seats: which connections are open; and what the accept loop is woken for, by whoever steers it.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;

use super::handover::{Departure, Errand};
use super::track::Track;
use crate::channel;
use crate::channel::balance::Board;
use crate::channel::statistics::Counters;

/// Tells a running server what to do.
#[derive(Debug, Clone)]
pub struct Control {
    pub(super) seats: Arc<Seats>,
}

impl Control {
    /// Stop accepting, let the connections finish; [`Server::serve`] then returns. Calls a hand-over off.
    pub fn drain(&self) {
        self.seats.closing.store(true, Release);
        self.seats.draining.store(true, Release);
        self.seats.wake.notify_one();
    }

    /// Stop accepting and pass the connections to `successors` other workers, each when it stands between two
    /// requests; `give` is the sending end of the service's pair. [`Server::serve`] then returns. A second time: there are
    /// others who may take what nobody took, and once all were asked again that is told again.
    pub fn hand_over(&self, give: OwnedFd, successors: u32) {
        *self.seats.errand.lock().unwrap_or_else(PoisonError::into_inner) = Some(Errand { give, successors });
        self.seats.draining.store(true, Release);
        self.seats.wake.notify_one();
    }

    /// This process has closed its listeners, accepts nothing more and has asked its connections to leave.
    pub fn accepting_ended(&self) -> bool {
        self.seats.left.load(Acquire)
    }

    /// Accept on this one, too; of a kind of listener that the assignment names.
    pub fn listen(&self, listener: channel::Listener, socket: OwnedFd) {
        self.later(Later::Listen(listener, socket));
    }

    /// Take connections that the master offers through this end of a pair, too.
    pub fn take_offers(&self, take: OwnedFd) {
        self.later(Later::Offers(take));
    }

    fn later(&self, later: Later) {
        self.seats.later.lock().unwrap_or_else(PoisonError::into_inner).push(later);
        self.seats.wake.notify_one();
    }

    /// Look at the listeners once more: another process may have died between its wake-up and its accept.
    pub fn nudge(&self) {
        self.seats.nudged.store(true, Release);
        self.seats.wake.notify_one();
    }
}

/// Where connections come from that were not assigned at the start.
pub(super) enum Later {
    Listen(channel::Listener, OwnedFd),
    Offers(OwnedFd),
}

/// The open connections, and what the accept loop is woken for.
#[derive(Default)]
pub(super) struct Seats {
    taken: Mutex<HashMap<u64, Arc<Track>>>,
    pub(super) last: AtomicU64,
    pub(super) draining: AtomicBool,
    /// There is no successor: connections are closed.
    closing: AtomicBool,
    /// The order to leave, if there is a successor.
    errand: Mutex<Option<Errand>>,
    /// Connections that were taken apart for a successor.
    departures: Mutex<Vec<Departure>>,
    pub(super) nudged: AtomicBool,
    /// Where connections come from, too, and the accept loop does not know yet.
    later: Mutex<Vec<Later>>,
    /// The listeners are closed and all connections were asked to leave.
    pub(super) left: AtomicBool,
    /// The accept loop waits for a seat to become free.
    pub(super) watched: AtomicBool,
    /// Where it is told how many are taken, if others want to know.
    pub(super) board: OnceLock<Board>,
    pub(super) wake: Notify,
}

impl std::fmt::Debug for Seats {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Seats").field("taken", &self.taken().len()).finish_non_exhaustive()
    }
}

impl Seats {
    pub(super) fn taken(&self) -> MutexGuard<'_, HashMap<u64, Arc<Track>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn say(&self, open: usize) {
        if let Some(board) = self.board.get() {
            board.say(open);
        }
    }

    /// Whether others may wait for this worker to take connections.
    pub(super) fn takes(&self, takes: bool) {
        if let Some(board) = self.board.get() {
            board.takes(takes, self.taken().len());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.taken().is_empty()
    }

    /// The open connections.
    pub(super) fn tracks(&self) -> Vec<Arc<Track>> {
        self.taken().values().cloned().collect()
    }

    pub(super) fn errand(&self) -> Option<Errand> {
        self.errand.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The order to leave has come once more.
    pub(super) fn is_asked_again(&self) -> bool {
        self.errand.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn depart(&self, departure: Departure) {
        self.departures.lock().unwrap_or_else(PoisonError::into_inner).push(departure);
        self.wake.notify_one();
    }

    /// What has departed since the last call.
    pub(super) fn departures(&self) -> VecDeque<Departure> {
        std::mem::take(&mut *self.departures.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }

    /// What was told since the last call.
    pub(super) fn later(&self) -> Vec<Later> {
        std::mem::take(&mut *self.later.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn closing(&self) -> bool {
        self.closing.load(Acquire)
    }

    /// Waits for an order, a departure, or, if that is watched, a free seat.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}

/// A connection's place; given back when its task ends, however it ends.
pub(super) struct Seat {
    pub(super) id: u64,
    pub(super) seats: Arc<Seats>,
    pub(super) counters: Counters,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        taken.remove(&self.id);
        let open = taken.len();
        drop(taken);
        self.seats.say(open);
        self.counters.open.fetch_sub(1, Relaxed);
        if self.seats.watched.load(Acquire) {
            self.seats.wake.notify_one();
        }
    }
}

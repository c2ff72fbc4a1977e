//! The accept loop and the seats: which connections are open, when to stop accepting, when to be done.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::access::{self, AccessLog};
use super::track::Track;
use super::{Event, HEAD_MAX, Peer, Report, connection};
use crate::channel::statistics::Counters;
use crate::channel::{self, Limits};
use crate::sys::accept::{self, Acceptor, PeerAddress, Stream};
use crate::worker::plugin::HttpPlugin;

/// First pause after an accept that failed for want of a resource, doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves HTTP/1.1 on listeners with one plugin.
pub struct Server<P> {
    shared: Arc<Shared<P>>,
    doors: Vec<Door>,
    /// The door that is looked at first next time.
    turn: usize,
}

/// What all connections of a server use.
pub(super) struct Shared<P> {
    pub(super) plugin: Arc<P>,
    pub(super) limits: Limits,
    pub(super) counters: Counters,
    /// Requests of this server alone, counted if there is a limit to them: what is in `counters` is the slot's.
    pub(super) begun: AtomicU64,
    pub(super) http: http1::Builder,
    report: Report,
    access: Option<Arc<AccessLog>>,
    seats: Arc<Seats>,
}

struct Door {
    acceptor: Acceptor,
    name: Arc<str>,
    authority: Arc<str>,
}

/// Tells a running server what to do.
#[derive(Debug, Clone)]
pub struct Control {
    seats: Arc<Seats>,
}

impl Control {
    /// Stop accepting, let the connections finish; [`Server::serve`] then returns.
    pub fn drain(&self) {
        self.seats.draining.store(true, Release);
        self.seats.wake.notify_one();
    }

    /// After [`drain`](Self::drain): this process has closed its listeners and accepts nothing more.
    pub fn accepting_ended(&self) -> bool {
        self.seats.closed.load(Acquire)
    }

    /// Look at the listeners once more: another process may have died between its wake-up and its accept.
    pub fn nudge(&self) {
        self.seats.nudged.store(true, Release);
        self.seats.wake.notify_one();
    }
}

/// The open connections, and what the accept loop is woken for.
#[derive(Default)]
struct Seats {
    taken: Mutex<HashMap<u64, Arc<Track>>>,
    last: AtomicU64,
    draining: AtomicBool,
    nudged: AtomicBool,
    /// The listeners are closed and all connections were asked to leave.
    closed: AtomicBool,
    /// The accept loop waits for a seat to become free.
    watched: AtomicBool,
    wake: Notify,
}

impl std::fmt::Debug for Seats {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Seats").field("taken", &self.taken().len()).finish_non_exhaustive()
    }
}

impl Seats {
    fn taken(&self) -> MutexGuard<'_, HashMap<u64, Arc<Track>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place; given back when its task ends, however it ends.
struct Seat {
    id: u64,
    seats: Arc<Seats>,
    counters: Counters,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken().remove(&self.id);
        self.counters.open.fetch_sub(1, Relaxed);
        if self.seats.watched.load(Acquire) {
            self.seats.wake.notify_one();
        }
    }
}

enum Next {
    /// Look at the orders and the seats again.
    Woken,
    Accepted(usize, io::Result<(Stream, PeerAddress)>),
    PauseOver,
}

impl<P: HttpPlugin> Server<P> {
    /// Takes listeners over, which are armed by [`serve`](Self::serve). Must be called within a tokio runtime that
    /// has I/O and time enabled.
    ///
    /// # Errors
    /// A descriptor is no listening socket, or the runtime cannot register it.
    pub fn new(
        plugin: Arc<P>,
        limits: Limits,
        listeners: Vec<(channel::Listener, OwnedFd)>,
        counters: Counters,
        report: Report,
        access: Option<Arc<AccessLog>>,
    ) -> io::Result<(Self, Control)> {
        let mut doors = Vec::with_capacity(listeners.len());
        for (listener, descriptor) in listeners {
            let acceptor = Acceptor::new(descriptor)?;
            report(Event::Listening { listener: &listener.name, registration: acceptor.registration() });
            let authority = if listener.address.starts_with("unix:") { "localhost" } else { &listener.address };
            doors.push(Door { acceptor, authority: authority.into(), name: listener.name.into() });
        }
        let mut http = http1::Builder::new();
        http.header_read_timeout(None).half_close(true).max_header_size(HEAD_MAX);
        let seats = Arc::new(Seats::default());
        let control = Control { seats: seats.clone() };
        let begun = AtomicU64::new(0);
        let shared = Arc::new(Shared { plugin, limits, counters, begun, http, report, access, seats });
        Ok((Self { shared, doors, turn: 0 }, control))
    }

    /// Accepts and serves until told to drain, then until the last connection is closed. Nothing that happens on a
    /// connection or at an accept ends it earlier.
    pub async fn serve(mut self) {
        let seats = self.shared.seats.clone();
        let limit = usize::try_from(self.shared.limits.connections.max(1)).unwrap_or(usize::MAX);
        let mut pause: Option<(Duration, Instant)> = None;
        let mut failing = false;
        loop {
            if seats.draining.load(Acquire) {
                break;
            }
            if seats.nudged.swap(false, Acquire) {
                for door in &mut self.doors {
                    // If it cannot be armed now, the next accept says so.
                    let _ = door.acceptor.nudge();
                }
            }
            seats.watched.store(true, Release);
            let full = seats.taken().len() >= limit;
            seats.watched.store(full, Release);
            if full {
                self.leave_queues();
            }
            let accepting = !full && pause.is_none_or(|(_, until)| until <= Instant::now());
            let paused_until = pause.map_or_else(Instant::now, |(_, until)| until);
            let next = tokio::select! {
                biased;
                () = seats.wake.notified() => Next::Woken,
                (door, accepted) = poll_fn(|cx| self.poll_accept(cx)), if accepting => Next::Accepted(door, accepted),
                () = sleep_until(paused_until), if !full && !accepting => Next::PauseOver,
            };
            match next {
                Next::Woken | Next::PauseOver => {}
                Next::Accepted(door, Ok(accepted)) => {
                    pause = None;
                    if std::mem::take(&mut failing) {
                        (self.shared.report)(Event::AcceptRecovered { listener: &self.doors[door].name });
                    }
                    self.seat(door, accepted);
                }
                Next::Accepted(_, Err(error)) if accept::concerns_one_connection(&error) => {}
                Next::Accepted(door, Err(error)) => {
                    if !std::mem::replace(&mut failing, true) {
                        (self.shared.report)(Event::AcceptFailing { listener: &self.doors[door].name, error: &error });
                    }
                    self.leave_queues();
                    let length = pause.map_or(PAUSE_MIN, |(last, _)| PAUSE_MAX.min(last * 2));
                    pause = Some((length, Instant::now() + length));
                }
            }
        }
        self.leave_queues();
        self.doors.clear();
        (self.shared.report)(Event::NotAccepting);
        seats.watched.store(true, Release);
        let open: Vec<_> = seats.taken().values().cloned().collect();
        for track in open {
            track.drain();
        }
        seats.closed.store(true, Release);
        while !seats.taken().is_empty() {
            seats.wake.notified().await;
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(usize, io::Result<(Stream, PeerAddress)>)> {
        for offset in 0..self.doors.len() {
            let door = (self.turn + offset) % self.doors.len();
            if let Poll::Ready(accepted) = self.doors[door].acceptor.poll_accept(cx) {
                self.turn = door + 1;
                return Poll::Ready((door, accepted));
            }
        }
        Poll::Pending
    }

    /// Connections stay in the kernel, for other workers. Those for which this one was woken are taken in, beyond
    /// the limit if need be: one a listener at most.
    fn leave_queues(&mut self) {
        for door in 0..self.doors.len() {
            if let Some(Ok(accepted)) = self.doors[door].acceptor.disarm() {
                self.seat(door, accepted);
            }
        }
    }

    fn seat(&self, door: usize, (stream, address): (Stream, PeerAddress)) {
        let Door { name, authority, .. } = &self.doors[door];
        let Shared { report, access, seats, .. } = &*self.shared;
        let counters = self.shared.counters;
        let peer = Peer { address, listener: name.clone(), authority: authority.clone() };
        let access = access.as_ref().map(|log| Box::new(access::Watch::new(log, &peer)));
        let track = Arc::new(Track::new(peer, report.clone(), access));
        let id = seats.last.fetch_add(1, Relaxed);
        seats.taken().insert(id, track.clone());
        counters.accepted.fetch_add(1, Relaxed);
        counters.open.fetch_add(1, Relaxed);
        let seat = Seat { id, seats: seats.clone(), counters };
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let _seat = seat;
            connection::run(shared, stream, track.clone()).await;
            // A plugin may keep the connection's state for longer.
            if let Some(access) = &track.access {
                access.ended();
            }
        });
    }
}

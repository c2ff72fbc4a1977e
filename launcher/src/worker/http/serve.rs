//! The accept loop: when to accept, when to stop, when to be done.
//!
//! Connections come from the listeners, from the master where that accepts them (`offers`) and, between workers of a
//! service, from those that leave (`handover`).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::access::{self, AccessLog};
use super::balance::{Balance, Turn};
use super::handover::{self, Arrival, Arrived, Ended, Origin, Receiver};
use super::offers::Offers;
use super::seats::{Control, Later, Seat, Seats};
use super::track::Track;
use super::{Event, HEAD_MAX, Peer, Report, connection};
use crate::channel::balance::Board;
use crate::channel::post::Fate;
use crate::channel::statistics::Counters;
use crate::channel::{self, Limits};
use crate::sys::accept::{self, Acceptor, PeerAddress, Registration, Stream};
use crate::sys::passing;
use crate::worker::plugin::HttpPlugin;

/// First pause after an accept that failed for want of a resource, doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a worker that has no room for them leaves connections of others alone.
const NO_ROOM: Duration = Duration::from_millis(100);

/// How long nothing is told of connections without a proxy's head after one was.
const QUIET: Duration = Duration::from_secs(10);

/// Messages of connections that are taken before those of the first of them have begun.
const AHEAD: usize = 3;

/// Serves HTTP/1.1 on listeners with one plugin.
pub struct Server<P> {
    shared: Arc<Shared<P>>,
    doors: Vec<Door>,
    /// The door that is looked at first next time.
    turn: usize,
    /// Where connections of workers that leave come from.
    receiver: Option<Receiver>,
    /// Whose turn the next connection is, if the one with the fewest should have it.
    balance: Option<Balance>,
}

/// What all connections of a server use.
pub(super) struct Shared<P> {
    pub(super) plugin: Arc<P>,
    pub(super) limits: Limits,
    pub(super) counters: Counters,
    /// Requests of this server alone, counted if there is a limit to them: what is in `counters` is the slot's.
    pub(super) begun: AtomicU64,
    pub(super) http: http1::Builder,
    pub(super) report: Report,
    /// When it was last told that a proxy did not say whose a connection is.
    ungreeted: Mutex<Option<Instant>>,
    access: Option<Arc<AccessLog>>,
    pub(super) seats: Arc<Seats>,
    /// The listeners, as the assignment names them.
    pub(super) listeners: Vec<Front>,
}

/// What is known of a listener.
#[derive(Debug, Clone)]
pub(super) struct Front {
    pub(super) name: Arc<str>,
    pub(super) authority: Arc<str>,
    /// Whose a connection is that comes in there.
    pub(super) origin: Origin,
}

impl Front {
    fn of(listener: &channel::Listener) -> Front {
        let authority = if listener.address.starts_with("unix:") { "localhost" } else { &listener.address };
        let origin = if listener.proxy_protocol { Origin::Due } else { Origin::Socket };
        Front { name: listener.name.as_str().into(), authority: authority.into(), origin }
    }
}

struct Door {
    acceptor: Acceptor,
    front: Front,
}

impl Door {
    fn new(listener: &channel::Listener, socket: OwnedFd) -> io::Result<Door> {
        let acceptor = Acceptor::new(socket)?;
        if listener.nodelay == Some(false) {
            acceptor.collect_small_writes()?;
        }
        Ok(Door { acceptor, front: Front::of(listener) })
    }
}

enum Next {
    /// Look at the orders and the seats again.
    Woken,
    Accepted(usize, io::Result<(Stream, PeerAddress)>),
    /// A connection has come that is another worker's.
    Came,
    /// Connections of a worker that leaves may wait.
    Arriving,
    /// The master may have offered one.
    Offered(usize),
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
            let door = Door::new(&listener, descriptor)?;
            report(Event::Listening { listener: &listener.name, registration: door.acceptor.registration() });
            doors.push(door);
        }
        let mut http = http1::Builder::new();
        http.header_read_timeout(None).half_close(true).max_header_size(HEAD_MAX);
        let seats = Arc::new(Seats::default());
        let control = Control { seats: seats.clone() };
        let begun = AtomicU64::new(0);
        let listeners = doors.iter().map(|door| door.front.clone()).collect();
        let ungreeted = Mutex::default();
        let shared =
            Arc::new(Shared { plugin, limits, counters, begun, http, report, ungreeted, access, seats, listeners });
        Ok((Self { shared, doors, turn: 0, receiver: None, balance: None }, control))
    }

    /// Take connections over that workers which leave pass on; `take` is the receiving end of the service's pair.
    ///
    /// # Errors
    /// The runtime cannot register it.
    pub fn take_over(&mut self, take: OwnedFd) -> io::Result<()> {
        self.receiver = Some(Receiver::new(take)?);
        Ok(())
    }

    /// Accept on nothing of what was given, which serves as names alone: sockets or offers come later.
    pub fn sockets_come_later(&mut self) {
        self.doors.clear();
    }

    /// Leave connections to workers that have fewer; `board` is what they say of themselves.
    pub fn balance(&mut self, board: Board) {
        // Without an exclusive registration the kernel wakes everybody for everything: nothing can be left to others.
        if self.doors.iter().all(|door| door.acceptor.registration() == Registration::Exclusive) {
            self.balance = self.shared.seats.board.set(board).is_ok().then(Balance::default);
        }
    }

    /// Where connections go that plugins of other workers pass on, each with what was read of it. To be used on the
    /// thread that serves.
    pub fn door(&self) -> Box<dyn Fn(OwnedFd, Vec<u8>) -> Fate + Send + Sync> {
        let shared = Arc::clone(&self.shared);
        Box::new(move |descriptor, read| shared.take_in(descriptor, read))
    }

    /// Accepts and serves until told to drain, then until the last connection is closed. Nothing that happens on a
    /// connection or at an accept ends it earlier.
    pub async fn serve(mut self) {
        let seats = self.shared.seats.clone();
        let limit = usize::try_from(self.shared.limits.connections.max(1)).unwrap_or(usize::MAX);
        let mut pause: Option<(Duration, Instant)> = None;
        let mut failing = false;
        // Connections are left to others.
        let mut aside = false;
        let mut no_room: Option<Instant> = None;
        let mut receiver = self.receiver.take();
        // Where connections come from that the master has accepted.
        let mut offers = Vec::new();
        // A task behind those of each message: when it has run, they have begun.
        let mut beginning = VecDeque::new();
        loop {
            if seats.draining.load(Acquire) {
                break;
            }
            for later in seats.later() {
                self.open(later, &mut offers);
            }
            if seats.nudged.swap(false, Acquire) {
                for door in &mut self.doors {
                    // If it cannot be armed now, the next accept says so.
                    let _ = door.acceptor.nudge();
                }
            }
            seats.watched.store(true, Release);
            let full = seats.taken().len() >= limit;
            let paused = pause.map(|(_, until)| until).filter(|until| *until > Instant::now());
            let accepting = !full && paused.is_none();
            seats.takes(accepting);
            if accepting {
                offers.iter_mut().for_each(Offers::free);
            }
            let turn = if accepting { self.whose_turn() } else { Turn::Mine };
            seats.watched.store(full || turn != Turn::Mine, Release);
            if full || turn != Turn::Mine && !std::mem::replace(&mut aside, true) {
                self.leave_queues();
            }
            aside &= turn != Turn::Mine;
            let later = match turn {
                Turn::Later(until) => Some(until),
                Turn::Mine | Turn::Others => paused,
            };
            let next = tokio::select! {
                biased;
                () = seats.wake.notified() => Next::Woken,
                () = arriving(&receiver, no_room), if !full => Next::Arriving,
                // Also by one who takes none, so that it is offered to another.
                place = poll_fn(|cx| poll_offers(&offers, cx)), if !offers.is_empty() => Next::Offered(place),
                next = poll_fn(|cx| self.poll_doors(cx, turn)), if accepting => next,
                () = sleep_until(later.unwrap_or_else(Instant::now)), if !full && later.is_some() => Next::PauseOver,
            };
            match next {
                Next::Woken | Next::PauseOver => {}
                Next::Came => self.leave_to_others(),
                Next::Offered(place) => self.consider(&mut offers, place, accepting),
                Next::Arriving => {
                    if let Some(receiver) = &mut receiver {
                        let arrived = self.shared.arrive(receiver);
                        no_room = matches!(arrived, Arrived::NoRoom).then(|| Instant::now() + NO_ROOM);
                    }
                    // The runtime polls this loop again after a few tasks, 8 in a WASM worker. With a message of 64 each
                    // time the beginnings of thousands would pile up, and every client's next request would wait
                    // behind them all: 60 ms with 10,000 connections, and 4 ms so.
                    beginning.push_back(tokio::spawn(async {}));
                    if beginning.len() > AHEAD
                        && let Some(begun) = beginning.pop_front()
                    {
                        drop(begun.await);
                    }
                    // Another worker gets the next message, if it waits for one too.
                    yield_now().await;
                }
                Next::Accepted(door, Ok(accepted)) => {
                    pause = None;
                    if std::mem::take(&mut failing) {
                        (self.shared.report)(Event::AcceptRecovered { listener: &self.doors[door].front.name });
                    }
                    self.seat(door, accepted);
                }
                Next::Accepted(_, Err(error)) if accept::concerns_one_connection(&error) => {}
                Next::Accepted(door, Err(error)) => {
                    if !std::mem::replace(&mut failing, true) {
                        (self.shared.report)(Event::AcceptFailing {
                            listener: &self.doors[door].front.name,
                            error: &error,
                        });
                    }
                    self.leave_queues();
                    let length = pause.map_or(PAUSE_MIN, |(last, _)| PAUSE_MAX.min(last * 2));
                    pause = Some((length, Instant::now() + length));
                }
            }
        }
        seats.takes(false);
        self.leave_queues();
        self.doors.clear();
        for mut offers in offers {
            while let Some(offered) = offers.next() {
                offers.refuse(offered);
            }
        }
        seats.watched.store(true, Release);
        if let Some(errand) = seats.errand()
            && !seats.closing()
            && handover::hand_over(&self.shared, errand, receiver.as_mut()).await == Ended::Done
        {
            return;
        }
        close(&self.shared, receiver).await;
    }

    fn open(&mut self, later: Later, offers: &mut Vec<Offers>) {
        match later {
            // A master that goes on for another one says again what that may have said.
            Later::Listen(_, socket) if self.doors.iter().any(|door| door.acceptor.is_of(&socket)) => {}
            Later::Listen(listener, socket) => match Door::new(&listener, socket) {
                Ok(door) => self.doors.push(door),
                Err(error) => {
                    (self.shared.report)(Event::AcceptFailing { listener: &listener.name, error: &error });
                }
            },
            // Without it the master offers to others.
            Later::Offers(take) => offers.extend(Offers::new(take)),
        }
    }

    /// Takes or refuses what the master offers.
    fn consider(&self, all: &mut Vec<Offers>, place: usize, accepting: bool) {
        let Some(offers) = all.get_mut(place) else { return };
        match offers.next() {
            Some(offered) if accepting => {
                let front = self.shared.listeners.get(usize::from(offered.listener)).cloned();
                // One that the assignment does not name is a mistake of the master's, and nobody's connection.
                if let (Some(socket), Some(front)) = (offers.take(offered), front)
                    && let Ok((stream, address)) = passing::adopt(socket)
                {
                    self.shared.admit_new(stream, address, &front);
                }
            }
            Some(offered) => offers.refuse(offered),
            None if offers.over() => drop(all.remove(place)),
            None => {}
        }
    }

    fn whose_turn(&mut self) -> Turn {
        let seats = &self.shared.seats;
        match (&mut self.balance, seats.board.get()) {
            (Some(balance), Some(board)) => {
                let waits = || self.doors.iter().any(|door| door.acceptor.waits());
                balance.turn(board, seats.taken().len(), Instant::now(), waits)
            }
            _ => Turn::Mine,
        }
    }

    fn leave_to_others(&mut self) {
        let seats = &self.shared.seats;
        if let (Some(balance), Some(board)) = (&mut self.balance, seats.board.get()) {
            balance.came(board, seats.taken().len(), Instant::now());
        }
    }

    fn poll_doors(&mut self, cx: &mut Context<'_>, turn: Turn) -> Poll<Next> {
        match turn {
            Turn::Mine => self.poll_accept(cx).map(|(door, accepted)| Next::Accepted(door, accepted)),
            Turn::Later(_) => Poll::Pending,
            Turn::Others => {
                for door in &mut self.doors {
                    match door.acceptor.poll_came(cx) {
                        Poll::Pending => {}
                        // One that cannot be watched is looked at after a while, as if something had come.
                        Poll::Ready(_) => return Poll::Ready(Next::Came),
                    }
                }
                Poll::Pending
            }
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
        self.shared.admit_new(stream, address, &self.doors[door].front);
    }
}

impl<P> Shared<P> {
    /// It was told to leave.
    pub(super) fn is_leaving(&self) -> bool {
        self.seats.draining.load(Acquire)
    }

    /// Every seat is taken.
    pub(super) fn is_full(&self) -> bool {
        self.seats.taken().len() >= usize::try_from(self.limits.connections.max(1)).unwrap_or(usize::MAX)
    }
}

/// Nobody succeeds: ends the connections here, and those that are parked for whoever comes.
async fn close<P: HttpPlugin>(shared: &Arc<Shared<P>>, mut receiver: Option<Receiver>) {
    loop {
        let mut pause = None;
        while let Some(receiver) = &mut receiver {
            match shared.arrive(receiver) {
                Arrived::Some => {}
                Arrived::Nothing => break,
                Arrived::NoRoom => {
                    pause = Some(Instant::now() + NO_ROOM);
                    break;
                }
            }
        }
        for track in shared.seats.tracks() {
            track.drain();
        }
        shared.tell_left();
        loop {
            if shared.seats.is_empty() {
                return;
            }
            if shared.seats.errand().is_some() {
                shared.tell_left_again();
            }
            tokio::select! {
                () = shared.seats.woken() => {}
                // A worker that was told later may still have sent some.
                () = arriving(&receiver, pause) => break,
            }
        }
    }
}

/// Which of them may have a connection.
fn poll_offers(offers: &[Offers], cx: &mut Context<'_>) -> Poll<usize> {
    let ready = offers.iter().position(|offers| offers.poll_ready(cx).is_ready());
    ready.map_or(Poll::Pending, Poll::Ready)
}

/// Waits for connections of a worker that leaves, but not before `pause`.
async fn arriving(receiver: &Option<Receiver>, pause: Option<Instant>) {
    let Some(receiver) = receiver else { return std::future::pending().await };
    if let Some(until) = pause {
        sleep_until(until).await;
    }
    receiver.ready().await;
}

impl<P: HttpPlugin> Shared<P> {
    /// Tells once that no connection is accepted any more and all have been asked to leave.
    pub(super) fn tell_left(&self) {
        if !self.seats.left.swap(true, AcqRel) {
            (self.report)(Event::NotAccepting);
        }
    }

    /// The same, to who has asked once more.
    pub(super) fn tell_left_again(&self) {
        self.seats.left.store(false, Release);
        self.tell_left();
    }

    /// Tells that a proxy did not say whose a connection is, but not of every one: anybody may connect.
    pub(super) fn tell_ungreeted(&self, peer: &Peer, reason: &str) {
        let now = Instant::now();
        let mut last = self.ungreeted.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| now.duration_since(last) >= QUIET) {
            *last = Some(now);
            (self.report)(Event::Ungreeted { listener: &peer.listener, peer, reason });
        }
    }

    /// Serves a connection that nobody has served.
    fn admit_new(self: &Arc<Self>, stream: Stream, address: PeerAddress, front: &Front) {
        let Front { name, authority, origin } = front;
        let peer = Peer { address, listener: name.clone(), authority: authority.clone() };
        self.counters.accepted.fetch_add(1, Relaxed);
        self.seat(stream, peer, Arrival { origin: *origin, ..Arrival::default() });
    }

    /// Serves a connection in a task of its own.
    pub(super) fn seat(self: &Arc<Self>, stream: Stream, mut peer: Peer, arrival: Arrival) -> Arc<Track> {
        if let Origin::Announced(client) = arrival.origin {
            peer.address = client;
        }
        let Self { report, access, seats, .. } = &**self;
        let counters = self.counters;
        let access = access.as_ref().map(|log| Box::new(access::Watch::new(log, &peer)));
        let track = Arc::new(Track::new(peer, report.clone(), access));
        let id = seats.last.fetch_add(1, Relaxed);
        let mut taken = seats.taken();
        taken.insert(id, track.clone());
        let open = taken.len();
        drop(taken);
        seats.say(open);
        counters.open.fetch_add(1, Relaxed);
        let seat = Seat { id, seats: seats.clone(), counters };
        let (shared, its_track) = (self.clone(), track.clone());
        tokio::spawn(async move {
            let seat = seat;
            let departure = connection::run(shared, stream, its_track.clone(), arrival).await;
            // A plugin may keep the connection's state for longer.
            if let Some(access) = &its_track.access {
                access.ended();
            }
            if let Some(departure) = departure {
                seat.seats.depart(departure);
            }
        });
        track
    }
}

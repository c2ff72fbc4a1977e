//! The side that leaves: asks its connections to depart, a batch at a time, and sends those that do.
//!
//! ```text
//! unasked ──window open: asked──> between two requests: departed ──message──> unreceived ──receipt──> gone
//!    ^                                    │                                       │
//!    └──────── no receipt in time: nobody takes, everything is served here ───────┘   (and tried again later)
//! ```
//!
//! What is not asked yet is served as before; so is everything while nobody takes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::message::Writer;
use super::patience::Patience;
use super::receiver::{Arrived, Receiver};
use super::{BATCH, Departure, Errand, Origin, WINDOW};
use crate::sys::{passing, readiness};
use crate::worker::http::Event;
use crate::worker::http::serve::Shared;
use crate::worker::http::track::Track;
use crate::worker::plugin::HttpPlugin;

/// How long a worker whose connections nobody takes serves on before it tries again, doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// How a hand-over ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker::http) enum Ended {
    /// No connection is left here, and every message was received.
    Done,
    /// What is left is to be closed here.
    CalledOff,
}

/// Hands every connection over, each when it stands between two requests. That the worker has left is told once all
/// have been asked: whatever comes later on a connection without a request in progress is a successor's.
pub(in crate::worker::http) async fn hand_over<P: HttpPlugin>(
    shared: &Arc<Shared<P>>,
    errand: Errand,
    parked: Option<&mut Receiver>,
) -> Ended {
    let ended = match Sender::new(shared, errand) {
        Ok(mut sender) => sender.run(parked).await,
        Err(error) => Err(error),
    };
    ended.unwrap_or_else(|error| {
        (shared.report)(Event::HandOverFailing { error: &error });
        Ended::CalledOff
    })
}

/// Of so many connections, those that are asked at once: for several successors in small parts, or one of them might get
/// everything.
fn batch(connections: usize, successors: u32) -> usize {
    let parts = if successors > 1 { 4 * successors as usize } else { 1 };
    connections.div_ceil(parts).clamp(1, BATCH)
}

struct Sender<'a, P> {
    shared: &'a Arc<Shared<P>>,
    /// Shared by all senders of the service.
    give: AsyncFd<OwnedFd>,
    receipts: AsyncFd<OwnedFd>,
    /// The other end of `receipts`, which goes with every message.
    receipt: OwnedFd,
    /// Connections that are asked at once.
    batch: usize,
    unasked: VecDeque<Arc<Track>>,
    departed: VecDeque<Departure>,
    /// Messages without a receipt.
    unreceived: usize,
    /// The last message did not fit into the queue.
    blocked: bool,
    /// With those who receive, since the last sign of them.
    patience: Patience,
    /// Nobody took the last time: one connection goes ahead, and the pause after it if it fails too.
    retrying: Option<Duration>,
}

impl<'a, P: HttpPlugin> Sender<'a, P> {
    fn new(shared: &'a Arc<Shared<P>>, errand: Errand) -> io::Result<Self> {
        let (receipts, receipt) = passing::pair()?;
        let unasked: VecDeque<_> = shared.seats.tracks().into();
        Ok(Self {
            shared,
            give: readiness::register(errand.give, Interest::WRITABLE)?,
            receipts: readiness::register(receipts, Interest::READABLE)?,
            receipt,
            batch: batch(unasked.len(), errand.successors),
            unasked,
            departed: VecDeque::new(),
            unreceived: 0,
            blocked: false,
            patience: Patience::new(),
            retrying: None,
        })
    }

    async fn run(&mut self, mut parked: Option<&mut Receiver>) -> io::Result<Ended> {
        let seats = &self.shared.seats;
        loop {
            if seats.closing() {
                self.seat_again();
                return Ok(Ended::CalledOff);
            }
            self.count_receipts();
            if let Some(errand) = seats.errand() {
                self.begin_again(&errand);
            }
            // In this order: a connection is among the departures before its seat is free.
            let none_open = seats.is_empty();
            self.departed.append(&mut seats.departures());
            if none_open && self.departed.is_empty() && self.unreceived == 0 {
                self.shared.tell_left();
                return Ok(Ended::Done);
            }
            let (window, batch) = if self.retrying.is_some() { (1, 1) } else { (WINDOW, self.batch) };
            if self.unreceived < window && !self.blocked {
                if !self.departed.is_empty() {
                    if let Err(error) = self.send(batch) {
                        self.seat_again();
                        return Err(error);
                    }
                    continue;
                }
                if !self.unasked.is_empty() {
                    let turn = self.unasked.len().min(batch);
                    self.unasked.drain(..turn).for_each(|track| track.want());
                    // Those that stand between two requests depart now. A WASM worker's runtime runs few tasks before it
                    // comes back here, and a message should carry a batch.
                    loop {
                        let before = self.departed.len();
                        yield_now().await;
                        self.departed.append(&mut seats.departures());
                        if self.departed.len() == before || self.departed.len() >= turn {
                            break;
                        }
                    }
                    continue;
                }
                self.shared.tell_left();
            }
            let stalls = self.unreceived > 0 || self.blocked;
            tokio::select! {
                () = seats.woken() => {}
                _ = self.receipts.readable(), if self.unreceived > 0 => {}
                _ = self.give.writable(), if self.blocked => self.blocked = false,
                () = self.patience.exhausted(), if stalls => {
                    self.serve_on(parked.as_deref_mut());
                    self.shared.tell_left();
                    self.pause().await;
                }
            }
        }
    }

    /// There are others now who may take what is left here.
    fn begin_again(&mut self, errand: &Errand) {
        self.unasked = self.shared.seats.tracks().into();
        self.batch = batch(self.unasked.len(), errand.successors);
        self.retrying = None;
        self.patience.renew();
        self.shared.seats.left.store(false, Release);
    }

    fn count_receipts(&mut self) {
        while let Ok(received) = self.receipts.try_io(Interest::READABLE, |socket| passing::receive(socket, 1)) {
            if received.bytes.is_empty() {
                return;
            }
            self.unreceived = self.unreceived.saturating_sub(1);
            self.patience.renew();
            self.retrying = None;
        }
    }

    /// Sends one message of what has departed, if it fits into the queue.
    fn send(&mut self, most: usize) -> io::Result<()> {
        let named = |departure: &Departure| departure.arrival.origin != Origin::Socket;
        let mut message = Writer::new(self.departed.iter().take(most).any(named));
        let written = |departure: &&Departure| {
            let peer = departure.track.peer();
            message.push(&peer.listener, &peer.authority, &departure.arrival)
        };
        let count = self.departed.iter().take(most).take_while(written).count();
        if count == 0 {
            // Its listener's name is longer than any message: it is closed here, after its next response.
            if let Some(departure) = self.departed.pop_front() {
                self.shared.seat_again(departure).drain();
            }
            return Ok(());
        }
        let sockets = self.departed.iter().take(count).map(|departure| departure.stream.as_fd());
        let descriptors: Vec<_> = std::iter::once(self.receipt.as_fd()).chain(sockets).collect();
        let bytes = message.bytes();
        match self.give.try_io(Interest::WRITABLE, |socket| passing::send(socket, bytes, &descriptors)) {
            Ok(()) => {
                drop(descriptors);
                // Which closes this process's descriptors and takes them out of its event loop, and sends nothing.
                self.departed.drain(..count);
                if self.unreceived == 0 {
                    self.patience.renew();
                }
                self.unreceived += 1;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = true;
                self.patience.renew();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Nobody takes: every connection is served here again, those among them that are parked.
    fn serve_on(&mut self, parked: Option<&mut Receiver>) {
        let pause = self.retrying.map_or(RETRY_MIN, |pause| RETRY_MAX.min(pause * 2));
        self.seat_again();
        if let Some(parked) = parked {
            while self.shared.arrive(parked) == Arrived::Some {}
        }
        // The receipts of what was taken back are no sign of a successor. What is still without one was received by
        // somebody who died of it, or is parked for who comes next.
        self.count_receipts();
        self.unreceived = 0;
        self.blocked = false;
        self.retrying = Some(pause);
    }

    /// Gives the connections that were asked, or have departed and are not sent, back to this worker.
    fn seat_again(&mut self) {
        for track in self.shared.seats.tracks() {
            track.keep();
        }
        self.departed.append(&mut self.shared.seats.departures());
        for departure in self.departed.drain(..) {
            self.shared.seat_again(departure);
        }
    }

    async fn pause(&mut self) {
        let until = Instant::now() + self.retrying.unwrap_or(RETRY_MIN);
        let seats = &self.shared.seats;
        while !seats.closing() && !seats.is_asked_again() && !seats.is_empty() && Instant::now() < until {
            tokio::select! {
                () = seats.woken() => {}
                () = sleep_until(until) => {}
            }
        }
        self.unasked = seats.tracks().into();
    }
}

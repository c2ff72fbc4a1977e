//! `scheduling: round_robin`: the master accepts a service's connections and passes each to the next worker.
//!
//! ```text
//! master loop ──orders──> task: listeners ──accept──> ring ──offer──> a pair of each worker ──> worker
//!                                                      ^                     │
//!                                                      └────── answer ───────┘
//! ```
//!
//! One task a service, beside the master's loop, which therefore waits for nothing here; `ring` decides. At most a few
//! connections a worker are on their way: they are the master's until they are taken, and everything else stays in the
//! kernel's queues. The master holds both ends of a worker's pair, so that it can take back what a worker that stands still
//! has not received; nobody can have received that as well.
//!
//! What is here when the master dies dies with it, except what a worker's pair holds: the worker reads that.

mod ring;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use self::ring::{Delivery, Part, Ring};
use super::journal::{Fact, Journal, Name};
use super::pool::WorkerId;
use crate::channel::offers::{Answer, MOST, Offer};
use crate::sys::{accept, passing, readiness};

/// How long nothing is tried that failed for want of a resource.
const PAUSE: Duration = Duration::from_millis(200);

/// A listener, as workers and the dispatcher know it.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its number.
    pub number: u64,
    /// Its sockets: more than one where each worker has had its own before.
    pub sockets: Vec<Arc<OwnedFd>>,
    /// Whether those that it accepts send small pieces at once (`TCP_NODELAY`).
    pub nodelay: bool,
}

/// The master's handle. Dropping it ends the dispatching, and with it what nobody has taken.
#[derive(Debug)]
pub struct Dispatcher {
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
enum Order {
    Join { worker: WorkerId, sources: Vec<Source>, part: Part, give: OwnedFd, take: Arc<OwnedFd> },
    Leave(WorkerId),
    Gone(WorkerId),
}

impl Dispatcher {
    /// Must be called within a runtime.
    pub fn start(service: Name, journal: Journal) -> Dispatcher {
        let (orders, received) = mpsc::unbounded_channel();
        let task = Task {
            service,
            journal,
            ring: Ring::default(),
            pairs: BTreeMap::new(),
            doors: Vec::new(),
            turn: 0,
            retry: Retry::default(),
            failing: false,
        };
        tokio::spawn(task.run(received));
        Dispatcher { orders }
    }

    /// Accept for a worker; `sources` in the order in which it knows its listeners. What is to be sent to it: its end.
    ///
    /// # Errors
    /// As socketpair(2).
    pub fn join(&self, worker: WorkerId, sources: Vec<Source>) -> io::Result<Arc<OwnedFd>> {
        self.admit(worker, sources, Part::Regular)
    }

    /// The same for one that accepts for itself: it gets what is left when the service changes from one to the other.
    ///
    /// # Errors
    /// As socketpair(2).
    pub fn join_reserve(&self, worker: WorkerId, sources: Vec<Source>) -> io::Result<Arc<OwnedFd>> {
        self.admit(worker, sources, Part::Reserve)
    }

    fn admit(&self, worker: WorkerId, sources: Vec<Source>, part: Part) -> io::Result<Arc<OwnedFd>> {
        let (give, take) = passing::pair()?;
        let take = Arc::new(take);
        self.order(Order::Join { worker, sources, part, give, take: Arc::clone(&take) });
        Ok(take)
    }

    /// A worker is about to be told to leave.
    pub fn leave(&self, worker: WorkerId) {
        self.order(Order::Leave(worker));
    }

    /// A worker is dead.
    pub fn gone(&self, worker: WorkerId) {
        self.order(Order::Gone(worker));
    }

    fn order(&self, order: Order) {
        // The task lives as long as this handle.
        let _ = self.orders.send(order);
    }
}

struct Task {
    service: Name,
    journal: Journal,
    ring: Ring<OwnedFd>,
    pairs: BTreeMap<WorkerId, Pair>,
    doors: Vec<Door>,
    /// The door that is looked at first next time.
    turn: usize,
    retry: Retry,
    /// Accepting fails, and that was said.
    failing: bool,
}

/// Both ends of a worker's pair.
struct Pair {
    give: AsyncFd<OwnedFd>,
    take: Arc<OwnedFd>,
}

struct Door {
    number: u64,
    socket: AsyncFd<OwnedFd>,
    /// Of which it is a duplicate.
    original: Arc<OwnedFd>,
}

/// What failed for want of a resource and is tried again.
#[derive(Default)]
struct Retry {
    at: Option<Instant>,
    /// Those who could not be sent anything.
    workers: Vec<WorkerId>,
    /// Those who could not be asked whether they are there.
    questions: Vec<WorkerId>,
    accept: bool,
}

enum Happened {
    Order(Option<Order>),
    Answers(WorkerId),
    Came(u64, io::Result<OwnedFd>),
    Deadline,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            self.deliver();
            let deadline = self.ring.next_deadline().into_iter().chain(self.retry.at).min();
            let happened = tokio::select! {
                biased;
                order = orders.recv() => Happened::Order(order),
                happened = poll_fn(|cx| self.poll(cx)) => happened,
                () = until(deadline), if deadline.is_some() => Happened::Deadline,
            };
            match happened {
                Happened::Order(None) => return,
                Happened::Order(Some(order)) => self.obey(order),
                Happened::Answers(worker) => self.hear(worker),
                Happened::Came(listener, Ok(connection)) => {
                    self.failing = false;
                    self.ring.accepted(listener, connection);
                }
                Happened::Came(_, Err(error)) if accept::concerns_one_connection(&error) => {}
                Happened::Came(_, Err(error)) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        let reason = format!("{}: connections wait, they cannot be accepted: {error}", self.service);
                        self.journal.record(&Fact::Trouble { reason });
                    }
                    self.retry.accept = true;
                    self.try_later();
                }
                Happened::Deadline => self.on_deadline(Instant::now()),
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Join { worker, sources, part, give, take } => {
                let Ok(give) = readiness::register(give, Interest::READABLE) else { return };
                self.pairs.insert(worker, Pair { give, take });
                self.ring.join(worker, sources.iter().map(|source| source.number).collect(), part);
                for source in sources.into_iter().filter(|_| part == Part::Regular) {
                    self.open(source);
                }
            }
            Order::Leave(worker) => {
                self.ring.leave(worker);
                self.take_back(worker);
            }
            Order::Gone(worker) => {
                // What it has taken it has taken, even if it died of it.
                self.hear(worker);
                self.pairs.remove(&worker);
                self.ring.gone(worker);
            }
        }
        let wanted: Vec<u64> = self.ring.listeners().collect();
        self.doors.retain(|door| wanted.contains(&door.number));
    }

    fn open(&mut self, Source { number, sockets, nodelay }: Source) {
        for original in sockets {
            if self.doors.iter().any(|door| Arc::ptr_eq(&door.original, &original)) {
                continue;
            }
            let opened = original.try_clone().and_then(|socket| {
                accept::prepare(&socket, nodelay)?;
                readiness::register(socket, Interest::READABLE)
            });
            match opened {
                Ok(socket) => self.doors.push(Door { number, socket, original }),
                Err(error) => {
                    let reason = format!("{}: a listener cannot be served: {error}", self.service);
                    self.journal.record(&Fact::Trouble { reason });
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happened> {
        for (worker, pair) in &self.pairs {
            if pair.give.poll_read_ready(cx).is_ready() {
                return Poll::Ready(Happened::Answers(*worker));
            }
        }
        if self.retry.accept {
            return Poll::Pending;
        }
        for offset in 0..self.doors.len() {
            let place = (self.turn + offset) % self.doors.len();
            let door = &self.doors[place];
            // Otherwise connections stay in the kernel.
            if !self.ring.has_room(door.number) {
                continue;
            }
            while let Poll::Ready(Ok(mut ready)) = door.socket.poll_read_ready(cx) {
                match accept::accept_now(ready.get_inner()) {
                    Ok(Some(connection)) => {
                        self.turn = place + 1;
                        return Poll::Ready(Happened::Came(door.number, Ok(connection)));
                    }
                    Ok(None) => ready.clear_ready(),
                    Err(error) => return Poll::Ready(Happened::Came(door.number, Err(error))),
                }
            }
        }
        Poll::Pending
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while let Some(Delivery { to, number, listener, connection }) = self.ring.next(now) {
            let offer = Offer::Connection { listener, number };
            let sent = self.pairs.get(&to).map(|pair| send(pair, offer, Some(connection)));
            if !matches!(sent, Some(Ok(()))) {
                self.ring.unsent(to, number);
                self.retry.workers.push(to);
                self.try_later();
            }
        }
    }

    /// Everything that a worker has answered.
    fn hear(&mut self, worker: WorkerId) {
        let Some(pair) = self.pairs.get(&worker) else { return };
        while let Ok(received) = pair.give.try_io(Interest::READABLE, |socket| passing::receive(socket, MOST)) {
            match Answer::read(&received.bytes) {
                Some(Answer::Taken(number)) => self.ring.taken(worker, number),
                Some(Answer::Refused(number)) => self.ring.refused(worker, number),
                Some(Answer::Free) => self.ring.free(worker),
                // The end, which does not come while this process holds the worker's end too, or babble.
                None if received.bytes.is_empty() => return,
                None => {}
            }
        }
    }

    fn on_deadline(&mut self, now: Instant) {
        for worker in self.ring.silent(now) {
            self.take_back(worker);
            // When it goes on it answers this, or what it had received.
            self.ask(worker);
        }
        if self.retry.at.is_some_and(|at| at <= now) {
            let Retry { workers, questions, .. } = std::mem::take(&mut self.retry);
            workers.into_iter().for_each(|worker| self.ring.free(worker));
            questions.into_iter().for_each(|worker| self.ask(worker));
        }
    }

    /// Whatever a worker has not received.
    fn take_back(&mut self, worker: WorkerId) {
        let Some(pair) = self.pairs.get(&worker) else { return };
        while let Ok(received) = passing::receive(&pair.take, MOST) {
            // Its descriptor is one more of a connection that is here.
            match Offer::read(&received.bytes) {
                Some(Offer::Connection { number, .. }) => self.ring.returned(worker, number),
                Some(Offer::Question) => {}
                None => return,
            }
        }
    }

    fn ask(&mut self, worker: WorkerId) {
        let Some(pair) = self.pairs.get(&worker) else { return };
        if send(pair, Offer::Question, None).is_err() {
            self.retry.questions.push(worker);
            self.try_later();
        }
    }

    fn try_later(&mut self) {
        self.retry.at.get_or_insert_with(|| Instant::now() + PAUSE);
    }
}

fn send(pair: &Pair, offer: Offer, connection: Option<&OwnedFd>) -> io::Result<()> {
    let descriptors: Vec<_> = connection.iter().map(|connection| connection.as_fd()).collect();
    passing::send(pair.give.get_ref(), &offer.bytes(), &descriptors)
}

async fn until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        sleep_until(deadline.into()).await;
    }
}

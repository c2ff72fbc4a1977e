//! The post office of a worker: messages of its plugin to other workers, and theirs to it.
//!
//! ```text
//! plugin ── send ──▶ route (who is it? rosters) ──▶ link ═══ socket ═══▶ link of the other worker ──▶ inbox ── receive ──▶ plugin
//!    ▲                                                ◀── answer: taken, not wanted, no room ──            │
//!    └── receipt ◀────────────────────────────────────┘                       or, a connection, ──▶ its HTTP side
//! ```
//!
//! The master is asked twice at most: who serves a service (a *roster*, which it keeps up to date from then on), and for a
//! socket to a worker (a *link*). What the plugins say to each other passes by it.
//!
//! - Order: what one worker sends to another arrives in the order in which it was sent.
//! - Nothing is lost: a message is the sender's until the receiver has answered; `taken` is said when the plugin has
//!   it. If the receiver ends before, the sender is told, and has its descriptors.
//! - Back-pressure: a bounded number of messages of a link is on its way; beyond it the sender waits.
//!
//! Plugins call from any thread. Locks are taken in the order post office, link, receipt, and no waker is woken under one.

mod awake;
mod link;
mod operator;
mod receipt;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::mpsc;

use crate::channel::post::{DESCRIPTORS_MAX, Fate, MESSAGE_MAX, Member, OPERATOR_MAX, Peer, read_for_operator};
use crate::channel::{Channel, ToMaster};
use crate::sys::turned;
use link::Link;
use operator::Operator;
pub(super) use receipt::{Kind, Outcome};
use receipt::{Letter, Receipt};

/// Links to one worker that it may have made; a worker needs two if both sides ask at the same time.
const LINKS_OF_A_PEER: usize = 4;

/// Where connections go that another worker passes on.
pub(super) type Door = Box<dyn Fn(OwnedFd, Vec<u8>) -> Fate + Send + Sync>;

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum To {
    /// The worker of that id.
    Worker(u64),
    /// The worker in that slot of a service.
    Slot(String, u32),
    /// One worker of a service, each in its turn.
    Any(String),
    /// Every other worker of a service.
    Every(String),
    /// Whoever operates the launcher, by way of the master: among its events.
    Operator,
}

/// Who sent a message.
#[derive(Debug, Clone)]
pub(super) enum Sender {
    /// Another worker.
    Worker(Arc<Peer>),
    /// An operator, by way of the master.
    Operator,
}

/// A message that waits for the plugin, or is given to it.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) from: Sender,
    pub(super) payload: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
    end: End,
}

/// Who wants to know what became of a message that came.
#[derive(Debug)]
enum End {
    Link { link: Arc<Link>, number: u64, bytes: usize },
    Master { post: u64 },
}

/// Why a message is not sent at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The payload, or the number of descriptors.
    TooLarge,
    /// To itself, descriptors to several, or what an operator cannot be told.
    Bad,
    /// The worker has not yet said that it is ready.
    NotReady,
}

/// What a plugin waits for; dropping it changes nothing about the message.
#[derive(Debug)]
pub(super) struct Sending(Arc<Receipt>);

impl Sending {
    /// Ready when every receiver has answered.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Outcome> {
        self.0.poll(context)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Post {
    /// The id of this worker.
    worker: u64,
    desk: Mutex<Desk>,
    /// What is to be told to the master, once this worker is ready.
    outgoing: OnceLock<mpsc::UnboundedSender<ToMaster>>,
    channel: OnceLock<Arc<Channel>>,
    door: OnceLock<DoorOf>,
}

struct DoorOf(Door);

impl std::fmt::Debug for DoorOf {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("DoorOf")
    }
}

#[derive(Debug, Default)]
struct Desk {
    rosters: HashMap<String, Roster>,
    /// The link by which a worker is written to.
    links: HashMap<u64, Arc<Link>>,
    /// How many links there are to a worker.
    made: HashMap<u64, usize>,
    inbox: VecDeque<Delivery>,
    operator: Operator,
    /// The plugin receives messages.
    listens: bool,
    receiver: Option<Waker>,
}

#[derive(Debug)]
enum Roster {
    /// The master was asked. What waits for its answer, in its order.
    Asked(Vec<(To, Waiting)>),
    Known {
        members: Vec<Member>,
        /// Whose turn it is.
        turn: usize,
    },
}

/// A message without its receiver.
#[derive(Debug)]
struct Waiting {
    kind: Kind,
    payload: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    receipt: Arc<Receipt>,
}

impl Waiting {
    fn letter(self) -> Letter {
        Letter::new(self.kind, self.payload, self.descriptors, self.receipt)
    }
}

impl Post {
    /// Of the worker with this id.
    pub(super) fn new(worker: u64) -> Arc<Post> {
        Arc::new(Post {
            worker,
            desk: Mutex::default(),
            outgoing: OnceLock::new(),
            channel: OnceLock::new(),
            door: OnceLock::new(),
        })
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on connections are taken, through this door.
    pub(super) fn pass_to(&self, door: Door) {
        let _ = self.door.set(DoorOf(door));
    }

    /// From now on messages can be sent. Must be called within a runtime.
    pub(super) fn open(&self, channel: Arc<Channel>) {
        let (outgoing, mut words) = mpsc::unbounded_channel::<ToMaster>();
        let _ = self.channel.set(Arc::clone(&channel));
        if self.outgoing.set(outgoing).is_ok() {
            turned::spawn(async move {
                while let Some(word) = words.recv().await {
                    if channel.send(&word, &[]).await.is_err() {
                        return;
                    }
                }
            });
        }
    }

    fn tell(&self, word: ToMaster) {
        if let Some(outgoing) = self.outgoing.get() {
            // Nobody is left to be told.
            let _ = outgoing.send(word);
        }
    }

    /// Send a message.
    pub(super) fn send(
        &self,
        to: To,
        kind: Kind,
        payload: Vec<u8>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Sending, Refused> {
        let most = if to == To::Operator { OPERATOR_MAX } else { MESSAGE_MAX };
        if payload.len() > most || descriptors.len() > DESCRIPTORS_MAX {
            return Err(Refused::TooLarge);
        }
        if self.outgoing.get().is_none() {
            return Err(Refused::NotReady);
        }
        let alone = kind == Kind::Message && descriptors.is_empty();
        let fits = kind == Kind::Message || descriptors.len() == 1;
        if to == To::Worker(self.worker) || !fits || (matches!(to, To::Every(_) | To::Operator) && !alone) {
            return Err(Refused::Bad);
        }
        if to == To::Operator && read_for_operator(&payload).is_err() {
            return Err(Refused::Bad);
        }
        let receipt = Receipt::new(1);
        let waiting = Waiting { kind, payload, descriptors, receipt: Arc::clone(&receipt) };
        let mut returned = Vec::new();
        self.route(&mut self.desk(), to, waiting, &mut returned);
        return_all(returned);
        Ok(Sending(receipt))
    }

    /// What cannot be sent is returned, with the reason; its sender is woken without a lock.
    fn route(&self, desk: &mut Desk, to: To, waiting: Waiting, returned: &mut Vec<(Letter, Outcome)>) {
        let mut send = |desk: &mut Desk, worker, letter| {
            returned.extend(self.link(desk, worker).send(letter).map(|letter| (letter, Outcome::Gone)));
        };
        let (To::Slot(service, _) | To::Any(service) | To::Every(service)) = &to else {
            match to {
                To::Worker(worker) => send(desk, worker, waiting.letter()),
                _ => desk.operator.send(waiting.letter()).into_iter().for_each(|word| self.tell(word)),
            }
            return;
        };
        let (members, turn) = match desk.rosters.get_mut(service) {
            Some(Roster::Known { members, turn }) => (members, turn),
            Some(Roster::Asked(letters)) => return letters.push((to, waiting)),
            None => {
                let service = service.clone();
                self.tell(ToMaster::Follow { service: service.clone() });
                desk.rosters.insert(service, Roster::Asked(vec![(to, waiting)]));
                return;
            }
        };
        let others = |member: &&Member| member.worker != self.worker;
        let receivers: Vec<u64> = match &to {
            To::Slot(_, slot) => members.iter().filter(|member| member.slot == *slot).map(|m| m.worker).collect(),
            To::Every(_) => members.iter().filter(others).map(|member| member.worker).collect(),
            _ => {
                let count = members.len();
                let next = (0..count).map(|offset| (*turn + offset) % count);
                let found = next.filter_map(|at| members.get(at).map(|member| (at, member.worker)));
                let found = found.filter(|(_, worker)| *worker != self.worker).take(1).collect::<Vec<_>>();
                if let Some((at, _)) = found.first() {
                    *turn = at + 1;
                }
                found.into_iter().map(|(_, worker)| worker).collect()
            }
        };
        let Waiting { kind, payload, descriptors, receipt } = waiting;
        match receivers[..] {
            // A worker that writes to its own slot means its successor or nobody.
            [worker] if worker != self.worker => {
                send(desk, worker, Letter::new(kind, payload, descriptors, receipt));
            }
            [] | [_] => returned.push((Letter::new(kind, payload, descriptors, receipt), Outcome::Nobody)),
            [_, ref others @ ..] => {
                receipt.expect(others.len());
                for worker in &receivers {
                    let letter = Letter::new(kind, payload.clone(), Vec::new(), Arc::clone(&receipt));
                    send(desk, *worker, letter);
                }
            }
        }
    }

    /// The link to a worker; the master is asked for one that is not there.
    fn link(&self, desk: &mut Desk, worker: u64) -> Arc<Link> {
        let new = || {
            self.tell(ToMaster::Introduce { worker });
            Link::new(worker)
        };
        Arc::clone(desk.links.entry(worker).or_insert_with(new))
    }

    /// The master has told who serves a service; `None`: there is no such service.
    pub(super) fn learn(&self, service: &str, members: Option<Vec<Member>>) {
        let mut desk = self.desk();
        let turn = match desk.rosters.get(service) {
            Some(Roster::Known { turn, .. }) => *turn,
            _ => 0,
        };
        let before = match members {
            Some(members) => desk.rosters.insert(service.to_owned(), Roster::Known { members, turn }),
            None => desk.rosters.remove(service),
        };
        let Some(Roster::Asked(letters)) = before else { return };
        let known = desk.rosters.contains_key(service);
        let mut returned = Vec::new();
        for (to, waiting) in letters {
            match known {
                true => self.route(&mut desk, to, waiting, &mut returned),
                false => returned.push((waiting.letter(), Outcome::Nobody)),
            }
        }
        drop(desk);
        return_all(returned);
    }

    /// The master has made a link. Must be called within a runtime.
    pub(super) fn connect(self: &Arc<Self>, peer: Peer, socket: OwnedFd) {
        let mut desk = self.desk();
        let made = desk.made.entry(peer.worker).or_default();
        if *made >= LINKS_OF_A_PEER {
            return;
        }
        *made += 1;
        let link = match desk.links.get(&peer.worker) {
            Some(link) if link.is_wanted() => Arc::clone(link),
            // Both sides have asked: this one carries what the other side sends.
            Some(_) => Link::new(peer.worker),
            None => Arc::clone(desk.links.entry(peer.worker).or_insert_with(|| Link::new(peer.worker))),
        };
        drop(desk);
        turned::spawn(link.attend(peer, socket, Arc::clone(self)));
    }

    /// There is no such worker any more, or it cannot be reached.
    pub(super) fn no_link(&self, worker: u64) {
        let mut desk = self.desk();
        let wanted = desk.links.get(&worker).is_some_and(|link| link.is_wanted());
        let link = if wanted { desk.links.remove(&worker) } else { None };
        drop(desk);
        if let Some(link) = link {
            link.close();
        }
    }

    /// A link is over.
    fn forget(&self, link: &Arc<Link>) {
        let mut desk = self.desk();
        if let Some(made) = desk.made.get_mut(&link.peer) {
            *made = made.saturating_sub(1);
            if *made == 0 {
                desk.made.remove(&link.peer);
            }
        }
        if desk.links.get(&link.peer).is_some_and(|other| Arc::ptr_eq(other, link)) {
            desk.links.remove(&link.peer);
        }
    }

    /// An operator's message.
    pub(super) fn deliver_from_operator(&self, post: u64, message: String) {
        let payload = message.into_bytes();
        let end = End::Master { post };
        self.deliver(std::iter::once(Delivery { from: Sender::Operator, payload, descriptors: Vec::new(), end }));
    }

    /// The operator has the plugin's messages up to this number.
    pub(super) fn heard(&self, until: u64) {
        let mut desk = self.desk();
        let (heard, next) = desk.operator.heard(until);
        // Under the lock, so that they are told in their order.
        next.into_iter().for_each(|word| self.tell(word));
        drop(desk);
        heard.into_iter().for_each(|letter| letter.answer(Outcome::Told(Fate::Taken)));
    }

    /// Messages for the plugin.
    fn deliver(&self, deliveries: impl Iterator<Item = Delivery>) {
        let mut desk = self.desk();
        if !desk.listens {
            drop(desk);
            return deliveries.for_each(|delivery| self.answer(&delivery.end, Fate::NotWanted));
        }
        desk.inbox.extend(deliveries);
        let receiver = if desk.inbox.is_empty() { None } else { desk.receiver.take() };
        drop(desk);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }

    /// A connection for the HTTP side.
    fn admit(&self, descriptor: OwnedFd, read: Vec<u8>) -> Fate {
        self.door.get().map_or(Fate::NotWanted, |DoorOf(door)| door(descriptor, read))
    }

    /// The next message. The sender is told that the plugin has it.
    pub(super) fn receive(&self, context: &mut Context<'_>) -> Poll<Delivery> {
        let mut desk = self.desk();
        desk.listens = true;
        let Some(delivery) = desk.inbox.pop_front() else {
            let old = desk.receiver.replace(context.waker().clone());
            drop(desk);
            drop(old);
            return Poll::Pending;
        };
        drop(desk);
        self.answer(&delivery.end, Fate::Taken);
        Poll::Ready(delivery)
    }

    /// From now on the plugin receives messages. Ready when one is there, which [`take`](Self::take) gives.
    pub(super) fn poll_arrived(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut desk = self.desk();
        desk.listens = true;
        if !desk.inbox.is_empty() {
            return Poll::Ready(());
        }
        let old = desk.receiver.replace(context.waker().clone());
        drop(desk);
        drop(old);
        Poll::Pending
    }

    /// The next message, if there is one. The sender is told that the plugin has it.
    pub(super) fn take(&self) -> Option<Delivery> {
        let delivery = self.desk().inbox.pop_front()?;
        self.answer(&delivery.end, Fate::Taken);
        Some(delivery)
    }

    fn answer(&self, end: &End, fate: Fate) {
        match end {
            End::Link { link, number, bytes } => link.answer(fate, *number, *bytes),
            End::Master { post } => self.tell(ToMaster::Posted { post: *post, fate }),
        }
    }

    /// Tell another master what the one before was asked.
    pub(super) fn again(&self) {
        let desk = self.desk();
        for service in desk.rosters.keys() {
            self.tell(ToMaster::Follow { service: service.clone() });
        }
        for link in desk.links.values().filter(|link| link.is_wanted()) {
            self.tell(ToMaster::Introduce { worker: link.peer });
        }
        desk.operator.unanswered().for_each(|word| self.tell(word));
    }

    /// Tell what is untold, at the end of this worker's life.
    pub(super) fn last_words(&self) {
        let links: Vec<_> = self.desk().links.values().cloned().collect();
        links.iter().for_each(|link| link.last_words());
        if let Some(channel) = self.channel.get() {
            // Some may have been told already, which their numbers say. What finds no room was not awaited to its end.
            let words: Vec<_> = self.desk().operator.unanswered().collect();
            words.iter().for_each(|word| drop(channel.send_now(word, &[])));
        }
    }
}

fn return_all(letters: Vec<(Letter, Outcome)>) {
    letters.into_iter().for_each(|(letter, outcome)| letter.answer(outcome));
}

/// One write a line: lines of several threads stay whole.
fn complain(what: &str) {
    let _ = std::io::stderr().write_all(format!("launcher: {what}\n").as_bytes());
}

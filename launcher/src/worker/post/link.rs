//! One link: the socket between this worker and another one, what waits to be sent on it and what was not answered.
//!
//! Whoever sends first writes to the socket itself, if nothing is on its way there: a message that is alone goes at once.
//! What comes while something is on its way waits for the link's task, which puts into a packet what there is. The window
//! ([`WINDOW`], [`WINDOW_BYTES`]) bounds what the receiver has to hold; beyond it messages wait here and their senders
//! with them.
//!
//! The other end is believed nothing: what breaks the protocol ends the link, and costs nobody else anything.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::awake::{self, Wakefulness};
use super::receipt::{Letter, Outcome};
use super::{Delivery, End, Post, Sender};
use crate::channel::post::{Fate, Frame, HEAD, PACKET_DESCRIPTORS, PACKET_MAX, Peer, WINDOW, WINDOW_BYTES, read};
use crate::sys::{passing, readiness, turned};

/// Packets that are read before others get their turn.
const TURN: usize = 16;

/// Bytes of a packet that are left to messages.
const ANSWERS_MAX: usize = 64;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: u64,
    state: Mutex<State>,
    /// There is something to do for the link's task.
    stirred: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: the master was asked for it.
    socket: Option<Arc<AsyncFd<OwnedFd>>>,
    who: Option<Arc<Peer>>,
    waiting: VecDeque<Letter>,
    /// Sent and not answered; answered ones leave a gap.
    flying: VecDeque<Option<Letter>>,
    /// Number of the first of `flying`.
    base: u64,
    flying_bytes: usize,
    flying_descriptors: usize,
    /// Answers that the other side has yet to get: a fate, the first number, how many.
    answers: VecDeque<(Fate, u64, u32)>,
    /// Number of the next one that comes.
    next: u64,
    /// What came and was not answered.
    unanswered: usize,
    unanswered_bytes: usize,
    over: bool,
}

/// How far writing came.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    /// Everything that may be sent was.
    All,
    /// The socket takes no more now.
    Full,
    Over,
}

impl Link {
    pub(super) fn new(peer: u64) -> Arc<Link> {
        Arc::new(Link { peer, state: Mutex::default(), stirred: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has no socket yet.
    pub(super) fn is_wanted(&self) -> bool {
        let state = self.state();
        state.socket.is_none() && !state.over
    }

    /// Send a letter, now or when it is its turn. It comes back if the link is over.
    pub(super) fn send(&self, letter: Letter) -> Option<Letter> {
        let mut state = self.state();
        if state.over {
            return Some(letter);
        }
        state.waiting.push_back(letter);
        let alone = state.waiting.len() == 1 && state.flying.is_empty();
        if !(alone && state.socket.is_some() && state.write() == Written::All) {
            drop(state);
            self.stirred.notify_one();
        }
        None
    }

    /// What came under this number has met its fate.
    pub(super) fn answer(&self, fate: Fate, number: u64, bytes: usize) {
        let mut state = self.state();
        state.unanswered = state.unanswered.saturating_sub(1);
        state.unanswered_bytes = state.unanswered_bytes.saturating_sub(bytes);
        state.owe(fate, number);
        drop(state);
        self.stirred.notify_one();
    }

    /// Send what can be sent, at the end of this process's life.
    pub(super) fn last_words(&self) {
        self.state().write();
    }

    /// Nothing will be sent any more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.over = true;
        state.socket = None;
        let (waiting, flying) = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.flying));
        drop(state);
        // Their senders are told outside of the lock, because they may send again at once.
        drop((waiting, flying));
        self.stirred.notify_one();
    }

    /// Carry what the link has to carry, until it is over. Must be called within a runtime.
    pub(super) async fn attend(self: Arc<Link>, peer: Peer, socket: OwnedFd, post: Arc<Post>) {
        let error = match readiness::register(socket, Interest::READABLE) {
            Ok(socket) => {
                let socket = Arc::new(socket);
                {
                    let mut state = self.state();
                    state.socket = Some(Arc::clone(&socket));
                    state.who = Some(Arc::new(peer));
                }
                self.carry(&socket, &post).await
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = error {
            super::complain(&format!("the link to worker {} ends: {error}", self.peer));
        }
        self.close();
        post.forget(&self);
    }

    /// Until it is over: why, unless the other side has just left.
    async fn carry(self: &Arc<Self>, socket: &AsyncFd<OwnedFd>, post: &Post) -> Option<String> {
        // One byte more than a packet has: a longer one is seen.
        let mut buffer = vec![0; PACKET_MAX + 1];
        let mut wakefulness = Wakefulness::default();
        loop {
            let written = self.state().write();
            if written == Written::Over {
                return None;
            }
            let may_read = {
                let state = self.state();
                state.unanswered < WINDOW && state.unanswered_bytes < WINDOW_BYTES
            };
            let since = Instant::now();
            tokio::select! {
                biased;
                () = self.stirred.notified() => {
                    if self.state().over {
                        return None;
                    }
                }
                ready = socket.readable(), if may_read => {
                    if ready.is_err() {
                        return None;
                    }
                    drop(ready);
                    wakefulness.came(since.elapsed());
                    for _ in 0..TURN {
                        match socket.try_io(Interest::READABLE, |socket| passing::receive_into(socket, &mut buffer)) {
                            Ok((0, ..)) => {
                                return (!passing::is_over(socket)).then(|| "an empty packet".to_owned());
                            }
                            Ok((length, descriptors, _)) => match self.take(buffer.get(..length), descriptors, post) {
                                Ok(true) => {}
                                Ok(false) => break,
                                Err(breach) => return Some(format!("it sent {breach}")),
                            },
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                            Err(_) => return None,
                        }
                    }
                    // Others have their turn.
                    tokio::task::yield_now().await;
                }
                () = writable(socket), if written == Written::Full => {}
                () = awake::stay(), if may_read && wakefulness.is_worth_it() => wakefulness.was_wrong(),
            }
        }
    }

    /// Take a packet. `false`: no more for now.
    fn take(
        self: &Arc<Self>,
        packet: Option<&[u8]>,
        descriptors: Vec<OwnedFd>,
        post: &Post,
    ) -> Result<bool, &'static str> {
        let mut left = packet.filter(|packet| packet.len() <= PACKET_MAX).ok_or("a packet that is too long")?;
        let mut descriptors = descriptors.into_iter();
        let (mut answered, mut delivered, mut connections) = (Vec::new(), Vec::new(), Vec::new());
        let mut state = self.state();
        let who = state.who.clone().ok_or("something before it was introduced")?;
        while !left.is_empty() {
            match read(&mut left)? {
                Frame::Answer { fate, first, count } => state.answered(fate, first, count, &mut answered)?,
                Frame::Message { descriptors: wanted, payload } => {
                    let number = state.next;
                    state.next += 1;
                    let with: Vec<_> = descriptors.by_ref().take(wanted).collect();
                    if with.len() < wanted {
                        // The kernel has closed what found no room here; the sender still has it.
                        state.owe(Fate::NoRoom, number);
                        continue;
                    }
                    state.unanswered += 1;
                    state.unanswered_bytes += payload.len();
                    delivered.push((number, payload.to_vec(), with));
                }
                Frame::Connection { payload } => {
                    let number = state.next;
                    state.next += 1;
                    match descriptors.next() {
                        Some(descriptor) => connections.push((number, payload.to_vec(), descriptor)),
                        None => state.owe(Fate::NoRoom, number),
                    }
                }
            }
        }
        let more = state.unanswered < WINDOW && state.unanswered_bytes < WINDOW_BYTES;
        drop(state);
        for (letter, fate) in answered {
            Letter::answer(letter, Outcome::Told(fate));
        }
        for (number, read, descriptor) in connections {
            let fate = post.admit(descriptor, read);
            self.state().owe(fate, number);
        }
        let deliveries = delivered.into_iter().map(|(number, payload, descriptors)| Delivery {
            from: Sender::Worker(Arc::clone(&who)),
            end: End::Link { link: Arc::clone(self), number, bytes: payload.len() },
            payload,
            descriptors,
        });
        post.deliver(deliveries);
        match descriptors.next() {
            None => Ok(more),
            Some(_) => Err("more descriptors than its frames want"),
        }
    }
}

impl State {
    /// Write what may be written. Several packets, if there is so much.
    fn write(&mut self) -> Written {
        let Some(socket) = self.socket.clone() else { return Written::All };
        loop {
            let mut packet = Vec::new();
            let answers = self.answers.len().min(ANSWERS_MAX);
            for (fate, first, count) in self.answers.iter().take(answers) {
                Frame::Answer { fate: *fate, first: *first, count: *count }.write(&mut packet);
            }
            let (mut letters, mut bytes, mut descriptors) = (0, 0, Vec::new());
            for letter in &self.waiting {
                let first = self.flying.is_empty() && letters == 0;
                let within = self.flying.len() + letters < WINDOW
                    && self.flying_bytes + bytes < WINDOW_BYTES
                    && self.flying_descriptors + descriptors.len() + letter.descriptors.len() <= PACKET_DESCRIPTORS;
                if packet.len() + HEAD + letter.payload.len() > PACKET_MAX || !(first || within) {
                    break;
                }
                letter.frame().write(&mut packet);
                descriptors.extend(letter.descriptors.iter().map(AsFd::as_fd));
                letters += 1;
                bytes += letter.payload.len();
            }
            if packet.is_empty() {
                return Written::All;
            }
            match passing::send(&*socket, &packet, &descriptors) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Full,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Written::Over,
            }
            self.answers.drain(..answers);
            for mut letter in self.waiting.drain(..letters) {
                self.flying_bytes += letter.payload.len();
                self.flying_descriptors += letter.descriptors.len();
                letter.sent();
                self.flying.push_back(Some(letter));
            }
        }
    }

    /// The other side wants to know this.
    fn owe(&mut self, fate: Fate, number: u64) {
        match self.answers.back_mut() {
            Some((last, first, count))
                if *last == fate && *first + u64::from(*count) == number && *count < u32::MAX =>
            {
                *count += 1;
            }
            _ => self.answers.push_back((fate, number, 1)),
        }
    }

    /// The other side has answered.
    fn answered(
        &mut self,
        fate: Fate,
        first: u64,
        count: u32,
        answered: &mut Vec<(Letter, Fate)>,
    ) -> Result<(), &'static str> {
        const BREACH: &str = "an answer to what was not asked";
        let from = first.checked_sub(self.base).and_then(|from| usize::try_from(from).ok()).ok_or(BREACH)?;
        let until = from.checked_add(count as usize).filter(|until| *until <= self.flying.len()).ok_or(BREACH)?;
        for slot in self.flying.range_mut(from..until) {
            let letter = slot.take().ok_or(BREACH)?;
            self.flying_bytes -= letter.bytes;
            self.flying_descriptors -= letter.descriptors.len();
            answered.push((letter, fate));
        }
        while let Some(None) = self.flying.front() {
            self.flying.pop_front();
            self.base += 1;
        }
        Ok(())
    }
}

/// Waits until the socket takes more. Registered only while somebody waits: what the other side reads would wake this
/// loop each time.
async fn writable(socket: &AsyncFd<OwnedFd>) {
    if passing::is_writable(socket) {
        // Too many descriptors of this user are in flight, and nothing tells when there are fewer.
        return turned::again().await;
    }
    match socket.get_ref().try_clone().and_then(|socket| readiness::register(socket, Interest::WRITABLE)) {
        Ok(socket) => drop(socket.writable().await),
        Err(_) => turned::again().await,
    }
}

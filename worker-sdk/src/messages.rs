//! Messages between workers, and what travels with them: JSON, descriptors, connections.
//!
//! ```no_run
//! use worker_sdk::messages::{self, To};
//!
//! # #[derive(serde::Serialize, serde::Deserialize)]
//! #[derive(Debug)]
//! struct Forget { key: String }
//!
//! /// `start = listen`: from here on this worker receives messages.
//! async fn listen() -> Result<(), String> {
//!     let mut messages = messages::messages();
//!     std::thread::spawn(move || {
//!         messages::block_on(async {
//!             while let Some(message) = messages.next().await {
//!                 if let Ok(Forget { key }) = message.json() {
//!                     println!("forget {key}");
//!                 }
//!             }
//!         })
//!     });
//!     Ok(())
//! }
//!
//! /// In a handler: every other worker of this service is to forget the key.
//! async fn forget(key: String) -> Result<(), messages::SendError> {
//!     let me = worker_sdk::worker();
//!     messages::send(To::every(me.service), &Forget { key }).await
//! }
//! ```
//!
//! - What [`send`] returns is done when the receiver's plugin has the message, or says why it has not. Nothing is lost without
//!   a word.
//! - What one worker sends to another arrives in the order in which it was sent.
//! - A receiver that is busy makes its senders wait. Only so many messages are on their way (256 and 128 KiB between two
//!   workers); await what you send, or it piles up in this process.
//! - A message has at most 64 KiB as JSON and 16 descriptors. For more, send a file.
//! - It can be sent from the moment that the worker is ready: not in the `start` hook. It can be received there.
//!
//! In a component it is the same, but for descriptors, which mean nothing there: none can be sent, and those that come with a
//! message are closed. A handler receives only while it runs; a program may wait with [`block_on`] in its `main`. Other
//! languages import `launcher:messages`, whose text is in this crate's `wit/messages`.

use std::future::poll_fn;
#[cfg(not(target_family = "wasm"))]
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
#[cfg(feature = "json")]
use serde_core::Serialize;
#[cfg(feature = "json")]
use serde_core::de::DeserializeOwned;

#[cfg(not(target_family = "wasm"))]
use crate::abi;
#[cfg(target_family = "wasm")]
pub use crate::component::block_on;
#[cfg(target_family = "wasm")]
use crate::component::post;
#[cfg(not(target_family = "wasm"))]
pub use crate::native::block_on;
#[cfg(not(target_family = "wasm"))]
use crate::native::{self, post};

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct To(Receiver);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Receiver {
    Worker(u64),
    Slot(String, u32),
    Any(String),
    Every(String),
    Operator,
}

impl To {
    /// The worker of that id: the one that a message came from, say.
    pub fn worker(id: u64) -> To {
        To(Receiver::Worker(id))
    }

    /// The worker that serves in that slot of a service.
    pub fn slot(service: impl Into<String>, slot: u32) -> To {
        To(Receiver::Slot(service.into(), slot))
    }

    /// One worker of a service, each in its turn; never this one.
    pub fn any(service: impl Into<String>) -> To {
        To(Receiver::Any(service.into()))
    }

    /// Every worker of a service but this one. No descriptor can be sent to several.
    pub fn every(service: impl Into<String>) -> To {
        To(Receiver::Every(service.into()))
    }

    /// Whoever operates the launcher: the message becomes an event (`message`) of the launcher's, which `launcher events`
    /// shows and its log keeps. JSON of at most 8 KiB, and a hundred a second: awaiting what is sent waits for that.
    pub fn operator() -> To {
        To(Receiver::Operator)
    }
}

/// Why a message was not taken. What was to travel with it is here again, except for what the receiver was given.
#[derive(Debug)]
pub struct SendError {
    /// What is wrong.
    pub reason: Reason,
    /// The descriptors.
    pub descriptors: Vec<OwnedFd>,
}

/// See [`SendError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// More than 64 KiB (8 KiB for an operator), or more than 16 descriptors.
    TooLarge,
    /// There is no such service, or no worker of it (in that slot) that serves.
    Nobody,
    /// The receiver ended before it said that it has the message. It may have seen it.
    Gone,
    /// The receiver's plugin receives no messages, or the worker takes no connections any more.
    NotWanted,
    /// The receiver, or this process, may not open as many descriptors.
    NoRoom,
    /// To itself, descriptors to several or to the operator, no open descriptor, one that is no connection, or to the
    /// operator what is no JSON.
    Bad,
    /// The worker is not yet ready, or this is no worker.
    NotReady,
    /// The message is no JSON.
    NotJson,
}

impl std::fmt::Display for SendError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.reason {
            Reason::TooLarge => {
                "the message is too large: 64 KiB (8 KiB for an operator) and 16 descriptors are the most"
            }
            Reason::Nobody => "there is no worker that the message could go to",
            Reason::Gone => "the receiver ended before it took the message",
            Reason::NotWanted => "the receiver takes no messages",
            Reason::NoRoom => "too many open descriptors",
            Reason::Bad => "the message cannot be sent like this",
            Reason::NotReady => "messages can be sent once the worker is ready",
            Reason::NotJson => "the message cannot be written as JSON",
        })
    }
}

impl std::error::Error for SendError {}

#[cfg(not(target_family = "wasm"))]
impl Reason {
    pub(crate) fn of(code: i32) -> Reason {
        match code {
            abi::SEND_TOO_LARGE => Reason::TooLarge,
            abi::SEND_NOBODY => Reason::Nobody,
            abi::SEND_NOT_WANTED => Reason::NotWanted,
            abi::SEND_NO_ROOM => Reason::NoRoom,
            abi::SEND_NOT_READY => Reason::NotReady,
            abi::SEND_BAD => Reason::Bad,
            _ => Reason::Gone,
        }
    }
}

/// A message that was sent: await it to know that the receiver's plugin has it, or why not. Dropped, it changes nothing
/// about the message.
#[derive(Debug)]
#[must_use = "whether the message was taken is known when this is awaited"]
pub struct Sending {
    state: State,
    descriptors: Vec<OwnedFd>,
}

#[derive(Debug)]
enum State {
    Sent(post::Sending),
    Failed(Reason),
}

impl Future for Sending {
    type Output = Result<(), SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let reason = match &mut self.state {
            State::Failed(reason) => *reason,
            State::Sent(sending) => match sending.poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {
                    self.descriptors.clear();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(reason)) => reason,
            },
        };
        Poll::Ready(Err(SendError { reason, descriptors: std::mem::take(&mut self.descriptors) }))
    }
}

/// Sends a message. What is awaited is that the receiver's plugin has it; it is sent whether or not that is awaited.
///
/// # Errors
/// See [`Reason`].
#[cfg(feature = "json")]
pub fn send<T: Serialize + ?Sized>(to: To, message: &T) -> Sending {
    send_with(to, message, Vec::new())
}

/// Sends a message with open descriptors: sockets, files, whatever has a number. The receiver gets its own; these are
/// closed when it has them.
///
/// # Errors
/// See [`Reason`]; the descriptors come back.
#[cfg(feature = "json")]
pub fn send_with<T: Serialize + ?Sized>(to: To, message: &T, descriptors: Vec<OwnedFd>) -> Sending {
    match serde_json::to_vec(message) {
        Ok(payload) => send_json(to, &payload, descriptors),
        Err(_) => Sending { state: State::Failed(Reason::NotJson), descriptors },
    }
}

/// Sends bytes that are JSON already.
///
/// # Errors
/// See [`Reason`]; the descriptors come back.
pub fn send_json(to: To, json: &[u8], descriptors: Vec<OwnedFd>) -> Sending {
    deliver(&to, Kind::Message, json, descriptors)
}

/// Passes a client's connection to a worker whose plugin answers requests: its HTTP side serves it as if it had accepted it.
/// `read` is what was read of it already, at most 64 KiB.
///
/// ```no_run
/// # use worker_sdk::messages::{self, To};
/// # async fn pass(client: std::net::TcpStream, head: &[u8]) -> Result<(), messages::SendError> {
/// messages::pass(To::slot("shards", 2), client.into(), head).await
/// # }
/// ```
///
/// # Errors
/// See [`Reason`]; the connection comes back.
pub fn pass(to: To, connection: OwnedFd, read: &[u8]) -> Sending {
    deliver(&to, Kind::Connection, read, vec![connection])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    Connection,
}

fn deliver(to: &To, kind: Kind, payload: &[u8], descriptors: Vec<OwnedFd>) -> Sending {
    let state = match hand_in(to, kind, payload, &descriptors) {
        Ok(sending) => State::Sent(sending),
        Err(reason) => State::Failed(reason),
    };
    Sending { state, descriptors }
}

#[cfg(target_family = "wasm")]
fn hand_in(to: &To, kind: Kind, payload: &[u8], descriptors: &[OwnedFd]) -> Result<post::Sending, Reason> {
    if kind == Kind::Connection || !descriptors.is_empty() {
        return Err(Reason::Bad);
    }
    post::send(&to.0, payload)
}

#[cfg(not(target_family = "wasm"))]
fn hand_in(to: &To, kind: Kind, payload: &[u8], descriptors: &[OwnedFd]) -> Result<post::Sending, Reason> {
    let numbers: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let (code, worker, slot, service) = match &to.0 {
        Receiver::Worker(worker) => (abi::TO_WORKER, *worker, 0, ""),
        Receiver::Slot(service, slot) => (abi::TO_SLOT, 0, *slot, service.as_str()),
        Receiver::Any(service) => (abi::TO_ANY, 0, 0, service.as_str()),
        Receiver::Every(service) => (abi::TO_EVERY, 0, 0, service.as_str()),
        Receiver::Operator => (abi::TO_OPERATOR, 0, 0, ""),
    };
    let letter = abi::Letter {
        size: size_of::<abi::Letter>() as u32,
        kind: match kind {
            Kind::Message => abi::LETTER_MESSAGE,
            Kind::Connection => abi::LETTER_CONNECTION,
        },
        to: code,
        slot,
        worker,
        service: abi::Str::new(service.as_bytes()),
        payload: abi::Str::new(payload),
        descriptors: numbers.as_ptr(),
        descriptors_len: numbers.len(),
    };
    native::host().map_or(Err(Reason::NotReady), |host| host.send(&letter))
}

/// Who sent a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum From {
    /// Another worker. To answer, send to [`To::worker`] of its id.
    Worker {
        /// Its id.
        id: u64,
        /// Its service.
        service: String,
        /// Its place among the service's workers.
        slot: u32,
    },
    /// An operator: `launcher send`.
    Operator,
}

/// A message that came.
#[derive(Debug)]
pub struct Message {
    /// Who sent it.
    pub from: From,
    /// JSON, if the sender keeps to the custom.
    pub payload: Bytes,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Message {
    /// The message as a `T`.
    ///
    /// # Errors
    /// It is no JSON, or does not fit the type.
    #[cfg(feature = "json")]
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.payload)
    }
}

/// The messages of this worker. Whoever asked last gets the next one; one of these is enough.
#[derive(Debug)]
pub struct Messages(post::Inbox);

/// From now on this worker receives messages: ask in the `start` hook, so that none is refused.
pub fn messages() -> Messages {
    Messages(post::Inbox::open())
}

/// From now on this worker receives messages, and each is given to a function on the worker's own loop: no thread is needed
/// and none has to be woken, which is most of what a message costs otherwise. Like a handler it must not block; what takes
/// longer it gives to somebody else. One that panics gets the next message all the same.
///
/// ```no_run
/// # async fn start() {
/// use worker_sdk::messages::{self, From, To};
///
/// messages::on_message(|message| {
///     if let From::Worker { id, .. } = message.from {
///         // It is sent whether or not anybody awaits it.
///         drop(messages::send_json(To::worker(id), &message.payload, message.descriptors));
///     }
/// });
/// # }
/// ```
///
/// Ask in the `start` hook, as for [`messages`], and for one of the two only. Native plugins only: a component's handler
/// runs when it is called.
#[cfg(not(target_family = "wasm"))]
pub fn on_message(receive: impl FnMut(Message) + Send + 'static) {
    post::on_message(Box::new(receive));
}

impl Messages {
    /// The next message; `None`: this is no worker, or its launcher has no messages.
    pub async fn next(&mut self) -> Option<Message> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// See [`Messages::next`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        self.0.poll_next(context)
    }
}

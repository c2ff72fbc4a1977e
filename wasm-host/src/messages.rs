//! `launcher:messages` (worker-sdk/wit/messages): what a component sends to other workers, and what comes to its own.
//!
//! The worker's post office is behind [`Post`]; here are the resources that guests hold. Waiting is done by pollables of WASI
//! 0.2, which components of 0.3 have as well.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use crate::host::Host;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../worker-sdk/wit/messages",
        world: "launcher:messages/talking",
        imports: { default: trappable },
        require_store_data_send: true,
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "launcher:messages/messages.sending": crate::messages::Sent,
            "launcher:messages/messages.inbox": crate::messages::Inbox,
        },
    });
}

use bindings::launcher::messages::messages as wit;

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// The worker of that id.
    Worker(u64),
    /// The worker in that slot of a service.
    Slot(String, u32),
    /// One worker of a service, each in its turn.
    Any(String),
    /// Every other worker of a service.
    Every(String),
    /// Whoever operates the launcher.
    Operator,
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// It has too many bytes.
    TooLarge,
    /// There is no such receiver.
    Nobody,
    /// The receiver ended.
    Gone,
    /// The receiver's plugin receives none.
    NotWanted,
    /// Too much is sent and not answered, or the receiver is out of descriptors.
    NoRoom,
    /// It cannot be sent like this.
    Bad,
    /// This worker is not ready.
    NotReady,
}

/// Who sent a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// Another worker.
    Worker {
        /// Its id.
        id: u64,
        /// Its service.
        service: String,
        /// Its place among the service's workers.
        slot: u32,
    },
    /// An operator.
    Operator,
}

/// A message that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who sent it.
    pub from: From,
    /// JSON by custom.
    pub payload: Vec<u8>,
}

/// The outcome of a message that was sent.
pub trait Sending: Send {
    /// Ready when every receiver has answered.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>>;
}

/// The post office of a worker. Nothing here waits.
pub trait Post: Send + Sync {
    /// Sends a message.
    fn send(&self, to: To, payload: Vec<u8>) -> Result<Box<dyn Sending>, Unsent>;

    /// From now on messages come. Ready when one is there.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// The next message, if there is one.
    fn receive(&self) -> Option<Message>;
}

/// Bytes of messages that the guests of a worker may have sent without an answer. Beyond it they are refused: what is not
/// awaited is held outside of the guest's memory, where no limit of it reaches.
const UNANSWERED: usize = 1 << 20;

/// What a message costs beside its bytes.
const OVERHEAD: usize = 256;

/// A worker's post office with an account of what its guests have sent.
pub(crate) struct Outbox {
    post: Arc<dyn Post>,
    unanswered: AtomicUsize,
    /// Messages whose outcome no guest asks for any more.
    forgotten: Mutex<Vec<(Box<dyn Sending>, usize)>>,
}

impl Outbox {
    pub(crate) fn new(post: Arc<dyn Post>) -> Outbox {
        Outbox { post, unanswered: AtomicUsize::new(0), forgotten: Mutex::default() }
    }

    fn send(self: &Arc<Self>, to: To, payload: Vec<u8>) -> Result<Sent, Unsent> {
        let size = payload.len() + OVERHEAD;
        let fits = || self.unanswered.load(Relaxed) + size <= UNANSWERED;
        if !fits() {
            self.settle();
        }
        if !fits() {
            return Err(Unsent::NoRoom);
        }
        let sending = self.post.send(to, payload)?;
        self.unanswered.fetch_add(size, Relaxed);
        Ok(Sent { outbox: Arc::clone(self), sending: Some(sending), size, outcome: None })
    }

    /// Takes note of answers that nobody waits for.
    fn settle(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).retain(|(sending, size)| {
            let waits = sending.poll(&mut cx).is_pending();
            if !waits {
                self.unanswered.fetch_sub(*size, Relaxed);
            }
            waits
        });
    }
}

/// A message that a guest sent.
pub struct Sent {
    outbox: Arc<Outbox>,
    /// Until there is an answer.
    sending: Option<Box<dyn Sending>>,
    size: usize,
    /// Until the guest was told.
    outcome: Option<Result<(), Unsent>>,
}

/// A guest's hold on what comes.
pub struct Inbox(Option<Arc<Outbox>>);

impl Sent {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(sending) = &self.sending {
            self.outcome = Some(std::task::ready!(sending.poll(cx)));
            self.sending = None;
            self.outbox.unanswered.fetch_sub(self.size, Relaxed);
        }
        Poll::Ready(())
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(sending) = self.sending.take() {
            let mut forgotten = self.outbox.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
            forgotten.push((sending, self.size));
        }
    }
}

#[async_trait]
impl Pollable for Sent {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }
}

#[async_trait]
impl Pollable for Inbox {
    async fn ready(&mut self) {
        match &self.0 {
            Some(outbox) => std::future::poll_fn(|cx| outbox.post.poll_ready(cx)).await,
            None => std::future::pending().await,
        }
    }
}

struct View<'a> {
    outbox: Option<&'a Arc<Outbox>>,
    table: &'a mut ResourceTable,
}

struct HasMessages;

impl HasData for HasMessages {
    type Data<'a> = View<'a>;
}

/// Gives every component the interface. Where there is no post office nobody can be reached.
pub(crate) fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, HasMessages>(linker, |host| {
        let (outbox, table) = host.outbox();
        View { outbox, table }
    })
}

impl wit::Host for View<'_> {
    fn send(&mut self, to: wit::Receiver, payload: Vec<u8>) -> wasmtime::Result<Result<Resource<Sent>, wit::Reason>> {
        let to = match to {
            wit::Receiver::Worker(worker) => To::Worker(worker),
            wit::Receiver::Slot((service, slot)) => To::Slot(service, slot),
            wit::Receiver::Any(service) => To::Any(service),
            wit::Receiver::Every(service) => To::Every(service),
            wit::Receiver::Operator => To::Operator,
        };
        let sent = self.outbox.map_or(Err(Unsent::NotReady), |outbox| outbox.send(to, payload));
        Ok(match sent {
            Ok(sent) => Ok(self.table.push(sent)?),
            Err(unsent) => Err(unsent.into()),
        })
    }
}

impl wit::HostSending for View<'_> {
    fn subscribe(&mut self, this: Resource<Sent>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, this)
    }

    fn outcome(&mut self, this: Resource<Sent>) -> wasmtime::Result<Option<Result<(), wit::Reason>>> {
        let sent = self.table.get_mut(&this)?;
        // Nobody waits here: the guest does, by the pollable.
        let _ = sent.poll(&mut Context::from_waker(Waker::noop()));
        Ok(sent.outcome.take().map(|outcome| outcome.map_err(wit::Reason::from)))
    }

    fn drop(&mut self, this: Resource<Sent>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl wit::HostInbox for View<'_> {
    fn new(&mut self) -> wasmtime::Result<Resource<Inbox>> {
        let inbox = Inbox(self.outbox.cloned());
        if let Some(outbox) = &inbox.0 {
            // It is said once that messages are wanted; the answer is asked for when the guest waits.
            let _ = outbox.post.poll_ready(&mut Context::from_waker(Waker::noop()));
        }
        Ok(self.table.push(inbox)?)
    }

    fn subscribe(&mut self, this: Resource<Inbox>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, this)
    }

    fn next(&mut self, this: Resource<Inbox>) -> wasmtime::Result<Option<wit::Message>> {
        let message = self.table.get(&this)?.0.as_ref().and_then(|outbox| outbox.post.receive());
        Ok(message.map(|Message { from, payload }| wit::Message {
            sender: match from {
                From::Worker { id, service, slot } => wit::Sender::Worker(wit::Peer { id, service, slot }),
                From::Operator => wit::Sender::Operator,
            },
            payload,
        }))
    }

    fn drop(&mut self, this: Resource<Inbox>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl std::convert::From<Unsent> for wit::Reason {
    fn from(unsent: Unsent) -> wit::Reason {
        match unsent {
            Unsent::TooLarge => wit::Reason::TooLarge,
            Unsent::Nobody => wit::Reason::Nobody,
            Unsent::Gone => wit::Reason::Gone,
            Unsent::NotWanted => wit::Reason::NotWanted,
            Unsent::NoRoom => wit::Reason::NoRoom,
            Unsent::Bad => wit::Reason::Bad,
            Unsent::NotReady => wit::Reason::NotReady,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// A post office whose receivers answer when they are told to.
    struct Slow(Arc<AtomicBool>);

    impl Post for Slow {
        fn send(&self, _: To, _: Vec<u8>) -> Result<Box<dyn Sending>, Unsent> {
            Ok(Box::new(Slow(Arc::clone(&self.0))))
        }

        fn poll_ready(&self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Pending
        }

        fn receive(&self) -> Option<Message> {
            None
        }
    }

    impl Sending for Slow {
        fn poll(&self, _: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
            if self.0.load(Relaxed) { Poll::Ready(Ok(())) } else { Poll::Pending }
        }
    }

    #[test]
    fn what_is_sent_and_not_answered_is_bounded_whether_or_not_it_is_awaited() {
        let answers = Arc::new(AtomicBool::new(false));
        let outbox = Arc::new(Outbox::new(Arc::new(Slow(Arc::clone(&answers)))));
        let send = || outbox.send(To::Worker(1), vec![0; 60_000]);
        let mut held = Vec::new();
        for number in 0.. {
            match send() {
                // Every second one is forgotten.
                Ok(sent) if number % 2 == 0 => held.push(sent),
                Ok(_) => {}
                Err(unsent) => {
                    assert_eq!((unsent, number), (Unsent::NoRoom, 17));
                    break;
                }
            }
        }
        answers.store(true, Relaxed);
        for sent in &mut held {
            assert!(sent.poll(&mut Context::from_waker(Waker::noop())).is_ready());
        }
        assert!(send().is_ok());
        outbox.settle();
        drop(held);
        assert_eq!(outbox.unanswered.load(Relaxed), 0);
    }
}

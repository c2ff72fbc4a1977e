//! Messages across the border: the plugin's side.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;

use super::Host;
use super::waker::lend;
use crate::abi;
use crate::messages::{From, Message, Reason};

/// A message that was sent; dropped, it changes nothing.
#[derive(Debug)]
pub(crate) struct Sending(abi::Sending);

// SAFETY: polled by one thread at a time (it takes `&mut self`), dropped on any, by the contract.
unsafe impl Send for Sending {}

impl Sending {
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let Some(poll) = self.0.poll else { return Poll::Ready(Err(Reason::Gone)) };
        // SAFETY: not dropped yet, and not polled after its end: the caller stops then.
        match unsafe { poll(self.0.data, lend(context.waker())) } {
            abi::PENDING => Poll::Pending,
            abi::READY => Poll::Ready(Ok(())),
            code => Poll::Ready(Err(Reason::of(code))),
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(drop) = self.0.drop.take() {
            // SAFETY: once (taken), with its own argument.
            unsafe { drop(self.0.data) }
        }
    }
}

/// The messages of this worker.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// What came before this one was asked: another one has listened.
    early: Option<Message>,
}

impl Inbox {
    /// From now on messages are received.
    pub(crate) fn open() -> Inbox {
        let mut inbox = Inbox { early: None };
        if let Poll::Ready(early) = inbox.poll_next(&mut Context::from_waker(Waker::noop())) {
            inbox.early = early;
        }
        inbox
    }

    /// The next message; `None`: there never is one.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        match self.early.take() {
            Some(message) => Poll::Ready(Some(message)),
            None => super::host().map_or(Poll::Ready(None), |host| host.receive(context)),
        }
    }
}

/// A function that is given every message by whoever wakes it: the worker's loop, which holds no lock then.
struct Receiver(Mutex<Box<dyn FnMut(Message) + Send>>);

/// See [`crate::messages::on_message`].
pub(crate) fn on_message(receive: Box<dyn FnMut(Message) + Send>) {
    Arc::new(Receiver(Mutex::new(receive))).wake();
}

impl Wake for Receiver {
    fn wake(self: Arc<Self>) {
        let Some(host) = super::host() else { return };
        let waker = Waker::from(Arc::clone(&self));
        let mut context = Context::from_waker(&waker);
        // Held until there is no message: only then it can be woken again, by another thread at the most.
        let mut receive = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Poll::Ready(Some(message)) = host.receive(&mut context) {
            super::guard(|| {
                super::enter();
                receive(message);
                abi::READY
            });
        }
    }
}

impl Host {
    /// Sends; otherwise why not.
    pub(crate) fn send(self, letter: &abi::Letter) -> Result<Sending, Reason> {
        let Some(send) = self.0.send else { return Err(Reason::NotReady) };
        let mut sending = Sending(abi::Sending::NONE);
        // SAFETY: what the letter borrows lives as long as the reference to it; the out-parameter is ours.
        match unsafe { send(letter, &raw mut sending.0) } {
            abi::PENDING => Ok(sending),
            code => Err(Reason::of(code)),
        }
    }

    /// The next message; `None`: there never is one.
    fn receive(self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        let Some(receive) = self.0.receive else { return Poll::Ready(None) };
        let mut arrival = Arrival(abi::Arrival::EMPTY);
        // SAFETY: the out-parameter is ours for the call.
        match unsafe { receive(lend(context.waker()), &raw mut arrival.0) } {
            abi::READY => Poll::Ready(Some(arrival.import())),
            abi::PENDING => Poll::Pending,
            _ => Poll::Ready(None),
        }
    }
}

/// A message of the host's, released when it is dropped.
struct Arrival(abi::Arrival);

impl Arrival {
    fn import(&self) -> Message {
        // SAFETY: the host's texts, constant until the arrival is released.
        let (service, payload) = unsafe { (self.0.service.get(), self.0.payload.get()) };
        let from = match self.0.from {
            abi::FROM_WORKER => From::Worker {
                id: self.0.worker,
                service: String::from_utf8_lossy(service.unwrap_or_default()).into_owned(),
                slot: self.0.slot,
            },
            _ => From::Operator,
        };
        let numbers: &[i32] = match self.0.descriptors_len {
            0 => &[],
            // SAFETY: the host's array of that many numbers, constant until the arrival is released.
            length => unsafe { std::slice::from_raw_parts(self.0.descriptors, length) },
        };
        // SAFETY: open descriptors that are ours from now on, by the contract.
        let descriptors = numbers.iter().map(|number| unsafe { OwnedFd::from_raw_fd(*number) }).collect();
        Message { from, payload: Bytes::copy_from_slice(payload.unwrap_or_default()), descriptors }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if let Some(release) = self.0.release.take() {
            // SAFETY: once (taken), with its own argument.
            unsafe { release(self.0.owner) }
        }
    }
}

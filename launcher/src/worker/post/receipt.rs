//! What a sender waits for: that everybody to whom a message went has taken it, or that somebody will not.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::channel::post::{Fate, Frame};

/// How the sending of a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Outcome {
    /// The receiver has answered.
    Told(Fate),
    /// The receiver ended, or cannot be reached, before it said that it has the message.
    Gone,
    /// There is no such service or worker.
    Nobody,
}

/// A message's receipt; a message to several has one.
#[derive(Debug)]
pub(super) struct Receipt(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Receivers that have not answered.
    open: usize,
    outcome: Outcome,
    waker: Option<Waker>,
}

impl Receipt {
    /// For so many receivers; none: there is nobody.
    pub(super) fn new(receivers: usize) -> Arc<Receipt> {
        let outcome = if receivers == 0 { Outcome::Nobody } else { Outcome::Told(Fate::Taken) };
        Arc::new(Receipt(Mutex::new(State { open: receivers, outcome, waker: None })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many receive it after all.
    pub(super) fn expect(&self, receivers: usize) {
        let mut state = self.state();
        state.open += receivers;
        state.outcome = Outcome::Told(Fate::Taken);
    }

    /// One receiver has answered, or will not. The worst is what counts.
    pub(super) fn answer(&self, outcome: Outcome) {
        let waker = {
            let mut state = self.state();
            state.open = state.open.saturating_sub(1);
            if outcome != Outcome::Told(Fate::Taken) {
                state.outcome = outcome;
            }
            if state.open == 0 { state.waker.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ready when all have answered.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.state();
        if state.open == 0 {
            return Poll::Ready(state.outcome);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

/// What a letter holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Kind {
    /// A message, for the plugin.
    Message,
    /// A connection, for the HTTP side.
    Connection,
}

/// One message to one receiver. Dropped without an answer, it tells its sender that nobody has it.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) kind: Kind,
    pub(super) payload: Vec<u8>,
    /// Kept until the receiver has answered: what the kernel has in flight goes with the receiver.
    pub(super) descriptors: Vec<OwnedFd>,
    /// Of the payload, which is not kept once it is sent.
    pub(super) bytes: usize,
    receipt: Option<Arc<Receipt>>,
}

impl Letter {
    pub(super) fn new(kind: Kind, payload: Vec<u8>, descriptors: Vec<OwnedFd>, receipt: Arc<Receipt>) -> Letter {
        let bytes = payload.len();
        Letter { kind, payload, descriptors, bytes, receipt: Some(receipt) }
    }

    /// As it travels.
    pub(super) fn frame(&self) -> Frame<'_> {
        match self.kind {
            Kind::Message => Frame::Message { descriptors: self.descriptors.len(), payload: &self.payload },
            Kind::Connection => Frame::Connection { payload: &self.payload },
        }
    }

    /// It is on its way: the bytes are the socket's.
    pub(super) fn sent(&mut self) {
        self.payload = Vec::new();
    }

    /// The receiver has answered.
    pub(super) fn answer(mut self, outcome: Outcome) {
        // Before the sender knows: what it has back is the last one then.
        self.descriptors.clear();
        if let Some(receipt) = self.receipt.take() {
            receipt.answer(outcome);
        }
    }
}

impl Drop for Letter {
    fn drop(&mut self) {
        self.descriptors.clear();
        if let Some(receipt) = self.receipt.take() {
            receipt.answer(Outcome::Gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(receipt: &Receipt) -> Poll<Outcome> {
        receipt.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_message_to_several_is_taken_when_all_have_it_and_the_worst_answer_counts() {
        let receipt = Receipt::new(3);
        receipt.answer(Outcome::Told(Fate::Taken));
        receipt.answer(Outcome::Told(Fate::NotWanted));
        assert_eq!(poll(&receipt), Poll::Pending);
        receipt.answer(Outcome::Told(Fate::Taken));
        assert_eq!(poll(&receipt), Poll::Ready(Outcome::Told(Fate::NotWanted)));
        assert_eq!(poll(&Receipt::new(0)), Poll::Ready(Outcome::Nobody));
    }

    #[test]
    fn a_letter_that_is_lost_tells_it() {
        let receipt = Receipt::new(1);
        drop(Letter::new(Kind::Message, Vec::new(), Vec::new(), Arc::clone(&receipt)));
        assert_eq!(poll(&receipt), Poll::Ready(Outcome::Gone));
        let receipt = Receipt::new(1);
        Letter::new(Kind::Message, Vec::new(), Vec::new(), Arc::clone(&receipt)).answer(Outcome::Told(Fate::Taken));
        assert_eq!(poll(&receipt), Poll::Ready(Outcome::Told(Fate::Taken)));
    }
}

//! Messages of components: the worker's post office in the shape that [`wasm_host`] asks for.
//!
//! Descriptors have no meaning in WASM: those that come with a message are closed, and none can be sent.

use std::sync::Arc;
use std::task::{Context, Poll};

use wasm_host::messages::{self, From, Message, Unsent};

use crate::channel::post::Fate;
use crate::worker::post::{Kind, Outcome, Post, Refused, Sender, Sending, To};

/// The post office of this process, for its guests.
pub(in crate::worker) struct Office(pub(in crate::worker) Arc<Post>);

impl messages::Post for Office {
    fn send(&self, to: messages::To, payload: Vec<u8>) -> Result<Box<dyn messages::Sending>, Unsent> {
        let to = match to {
            messages::To::Worker(worker) => To::Worker(worker),
            messages::To::Slot(service, slot) => To::Slot(service, slot),
            messages::To::Any(service) => To::Any(service),
            messages::To::Every(service) => To::Every(service),
            messages::To::Operator => To::Operator,
        };
        match self.0.send(to, Kind::Message, payload, Vec::new()) {
            Ok(sending) => Ok(Box::new(Sent(sending))),
            Err(Refused::TooLarge) => Err(Unsent::TooLarge),
            Err(Refused::Bad) => Err(Unsent::Bad),
            Err(Refused::NotReady) => Err(Unsent::NotReady),
        }
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_arrived(cx)
    }

    fn receive(&self) -> Option<Message> {
        let delivery = self.0.take()?;
        let from = match &delivery.from {
            Sender::Worker(peer) => From::Worker { id: peer.worker, service: peer.service.clone(), slot: peer.slot },
            Sender::Operator => From::Operator,
        };
        Some(Message { from, payload: delivery.payload })
    }
}

struct Sent(Sending);

impl messages::Sending for Sent {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        self.0.poll(cx).map(|outcome| match outcome {
            Outcome::Told(Fate::Taken) => Ok(()),
            Outcome::Told(Fate::NotWanted) => Err(Unsent::NotWanted),
            Outcome::Told(Fate::NoRoom) => Err(Unsent::NoRoom),
            Outcome::Told(Fate::Unfit) => Err(Unsent::Bad),
            Outcome::Gone => Err(Unsent::Gone),
            Outcome::Nobody => Err(Unsent::Nobody),
        })
    }
}

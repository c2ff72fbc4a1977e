//! The side that stays: takes what other workers pass on, one message a turn, so that others get theirs.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::message::{self, Item, MESSAGE_MAX};
use super::{Arrival, Departure};
use crate::channel::post::Fate;
use crate::sys::accept::{PeerAddress, Stream};
use crate::sys::{passing, readiness};
use crate::worker::http::serve::{Front, Shared};
use crate::worker::http::track::Track;
use crate::worker::http::{Event, Peer};
use crate::worker::plugin::HttpPlugin;

/// Descriptors that are left to the plugin and to accepting.
const HEADROOM: usize = 32;

/// The receiving end of the service's pair. Every worker of the service has it.
#[derive(Debug)]
pub(in crate::worker::http) struct Receiver {
    socket: AsyncFd<OwnedFd>,
    /// All senders and the master are gone.
    over: bool,
}

/// What a look at the pair brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker::http) enum Arrived {
    /// A message, good or not: there may be more.
    Some,
    /// Nothing: another worker was quicker.
    Nothing,
    /// This process may not open enough descriptors: taking would lose connections.
    NoRoom,
}

enum Taken {
    Nothing,
    NoRoom,
    Message(Vec<OwnedFd>, Vec<Item>),
    Refused(String),
}

impl Receiver {
    /// Must be called within a tokio runtime.
    pub(in crate::worker::http) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: readiness::register(socket, Interest::READABLE)?, over: false })
    }

    /// Waits until there may be a message. Cancel safe.
    pub(in crate::worker::http) async fn ready(&self) {
        if self.over || self.socket.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes a message, if there is one. The sender gets its receipt.
    fn take(&mut self) -> Taken {
        if self.over {
            return Taken::Nothing;
        }
        if !passing::has_room(&self.socket, passing::DESCRIPTORS + HEADROOM) {
            return Taken::NoRoom;
        }
        let received = match self.socket.try_io(Interest::READABLE, |socket| passing::receive(socket, MESSAGE_MAX)) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Taken::Nothing,
            Err(error) => {
                self.over = true;
                return Taken::Refused(format!("nothing can be received any more: {error}"));
            }
        };
        if received.bytes.is_empty() {
            // The end looks like an empty message.
            self.over = passing::is_over(&self.socket);
            return if self.over { Taken::Nothing } else { Taken::Refused("it is empty".to_owned()) };
        }
        let mut descriptors = received.descriptors;
        if !descriptors.is_empty() {
            // A sender that is gone needs none.
            let _ = passing::send(descriptors.remove(0), &[0], &[]);
        }
        match message::read(Bytes::from(received.bytes)) {
            Ok(items) if descriptors.len() <= items.len() => Taken::Message(descriptors, items),
            Ok(_) => Taken::Refused("it has more descriptors than connections".to_owned()),
            Err(error) => Taken::Refused(error.to_string()),
        }
    }
}

impl<P: HttpPlugin> Shared<P> {
    /// Takes a message, if there is one, and serves its connections.
    pub(in crate::worker::http) fn arrive(self: &Arc<Self>, receiver: &mut Receiver) -> Arrived {
        let (descriptors, items) = match receiver.take() {
            Taken::Nothing => return Arrived::Nothing,
            Taken::NoRoom => return Arrived::NoRoom,
            Taken::Message(descriptors, items) => (descriptors, items),
            Taken::Refused(reason) => {
                (self.report)(Event::HandOverRefused { reason: &reason });
                return Arrived::Some;
            }
        };
        // The kernel gives as many as there is room for, in order, and closes the others.
        let mut lost = items.len() - descriptors.len();
        let mut reason = "there was no room for their descriptors".to_owned();
        for (descriptor, item) in descriptors.into_iter().zip(items) {
            match passing::adopt(descriptor) {
                Ok((stream, address)) => self.admit(stream, address, item),
                // The client has reset it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                Err(error) => {
                    lost += 1;
                    reason = error.to_string();
                }
            }
        }
        if lost > 0 {
            (self.report)(Event::HandOverLost { connections: lost, reason: &reason });
        }
        Arrived::Some
    }

    fn admit(self: &Arc<Self>, stream: Stream, address: PeerAddress, item: Item) {
        let known = |front: &&Front| *front.name == *item.listener && *front.authority == *item.authority;
        match self.listeners.iter().find(known).cloned() {
            Some(Front { name: listener, authority, .. }) => {
                self.seat(stream, Peer { address, listener, authority }, item.arrival());
            }
            // The configuration has left that listener: its clients go where they find one.
            None => {
                let (listener, authority) = (item.listener.as_str().into(), item.authority.as_str().into());
                self.seat(stream, Peer { address, listener, authority }, item.arrival()).drain();
            }
        }
    }

    /// Serves a connection that the plugin of another worker passes on, of which `read` was read already.
    pub(in crate::worker::http) fn take_in(self: &Arc<Self>, descriptor: OwnedFd, read: Vec<u8>) -> Fate {
        if self.is_leaving() {
            return Fate::NotWanted;
        }
        if self.is_full() {
            return Fate::NoRoom;
        }
        match passing::adopt(descriptor) {
            Ok((stream, address)) => {
                // It came by no listener; what asks for one gets the first.
                let first = self.listeners.first();
                let (listener, authority) = first.map_or_else(
                    || ("messages".into(), "localhost".into()),
                    |front| (front.name.clone(), front.authority.clone()),
                );
                let arrival = Arrival { prefix: read.into(), ..Arrival::default() };
                self.seat(stream, Peer { address, listener, authority }, arrival);
                Fate::Taken
            }
            // The client has reset it meanwhile: there is nothing left to serve.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Fate::Taken,
            Err(_) => Fate::Unfit,
        }
    }

    /// Serves a connection again that nobody took.
    pub(super) fn seat_again(self: &Arc<Self>, departure: Departure) -> Arc<Track> {
        let Departure { stream, track, arrival } = departure;
        self.seat(stream, track.peer().clone(), arrival)
    }
}

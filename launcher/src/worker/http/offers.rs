//! Connections that the master has accepted and offers (`scheduling: round_robin`), over a pair for this worker alone.
//!
//! Each is answered before a byte of it is read: taken, or refused by a worker that is full or leaves. Whoever refused says
//! `free` when that is over.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::channel::offers::{Answer, MOST, Offer};
use crate::sys::{passing, readiness};

/// The worker's end of its pair.
#[derive(Debug)]
pub(super) struct Offers {
    socket: AsyncFd<OwnedFd>,
    /// One was refused, and `free` is to be said.
    refused: bool,
    /// The master is gone, and everything was received.
    over: bool,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Offered {
    /// The listener's place in the assignment.
    pub(super) listener: u16,
    number: u64,
    /// `None`: this process may open no more.
    socket: Option<OwnedFd>,
}

impl Offers {
    /// Must be called within a runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = readiness::register(socket, Interest::READABLE)?;
        Ok(Self { socket, refused: false, over: false })
    }

    pub(super) fn over(&self) -> bool {
        self.over
    }

    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_read_ready(cx).map(drop)
    }

    /// The next connection, if there is one.
    pub(super) fn next(&mut self) -> Option<Offered> {
        loop {
            let received = self.socket.try_io(Interest::READABLE, |socket| passing::receive(socket, MOST));
            let received = match received {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => {
                    self.over = true;
                    return None;
                }
            };
            match Offer::read(&received.bytes) {
                Some(Offer::Connection { listener, number }) => {
                    let socket = received.descriptors.into_iter().next();
                    return Some(Offered { listener, number, socket });
                }
                Some(Offer::Question) => self.answer(Answer::Free),
                None if received.bytes.is_empty() => {
                    self.over = true;
                    return None;
                }
                None => {}
            }
        }
    }

    /// This worker serves it. `None`: it cannot, and has refused it.
    pub(super) fn take(&mut self, offered: Offered) -> Option<OwnedFd> {
        let Some(socket) = offered.socket else {
            self.refuse(offered);
            return None;
        };
        self.answer(Answer::Taken(offered.number));
        Some(socket)
    }

    /// Somebody else may serve it: the master has another descriptor of it.
    pub(super) fn refuse(&mut self, offered: Offered) {
        self.refused = true;
        self.answer(Answer::Refused(offered.number));
    }

    /// Connections are taken.
    pub(super) fn free(&mut self) {
        if std::mem::take(&mut self.refused) {
            self.answer(Answer::Free);
        }
    }

    /// A master that is gone needs no answer, and one that reads none has long taken back what it can.
    fn answer(&self, answer: Answer) {
        let _ = passing::send(self.socket.get_ref(), &answer.bytes(), &[]);
    }
}

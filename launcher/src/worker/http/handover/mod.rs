//! Live hand-over: a worker that leaves passes its connections on to the workers that stay.
//!
//! ```text
//! old worker                         kernel                           new worker
//! sender: asks 64 connections
//!   each, once between two requests,
//!   is taken apart: Departure ──message──> the service's pair ──> receiver: a message a turn
//! receipt <──────────────────────── a pair of the sender's own <── told
//!                                                                 silence, or hyper with the prefix in front
//! ```
//!
//! The client sees nothing: no `Connection: close`, no reset, no reconnect. What was read and not answered (the
//! beginning of a head, pipelined requests) travels as a prefix; what was not read stays in the kernel and travels
//! with the socket. Requests in progress are finished here, whatever their length; their connections follow.
//!
//! The master holds both ends of the pair and looks at none: what was sent and not received is parked there, whoever
//! dies. At most [`WINDOW`] messages of a sender are parked; with no receipt for [`STALL`] nobody takes (all are full,
//! or busy, or gone), and the sender takes back what is parked and serves on.
//!
//! It does not hand over HTTP/2, upgraded connections or TLS: there are none.

mod message;
mod patience;
mod receiver;
mod sender;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub(super) use self::receiver::{Arrived, Receiver};
pub(super) use self::sender::{Ended, hand_over};
use super::track::Track;
use super::watchdog::Elapsed;
use crate::sys::accept::{PeerAddress, Stream};

/// Connections that are asked to depart at once, and connections of a message.
const BATCH: usize = 64;

/// Messages of one sender that may be unreceived: the connections in them are served by nobody.
const WINDOW: usize = 2;

/// Bytes already read that travel with a connection: a head is never larger. A client that has pipelined more is
/// served until less is left.
pub(super) const PREFIX_MAX: usize = super::HEAD_MAX;

/// How long a receipt may take before the sender serves on, of the time in which the sender has run.
const STALL: Duration = Duration::from_millis(100);

/// What a worker that leaves was told.
#[derive(Debug)]
pub(super) struct Errand {
    /// The sending end of the service's pair.
    pub(super) give: OwnedFd,
    /// Workers that may take.
    pub(super) successors: u32,
}

/// Who says who the client of a connection is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Origin {
    /// The socket.
    #[default]
    Socket,
    /// A proxy, which has not yet.
    Due,
    /// A proxy, which has.
    Announced(PeerAddress),
}

/// What comes with a connection besides its socket.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    /// Bytes that were read and not used.
    pub(super) prefix: Bytes,
    /// What its clocks have counted.
    pub(super) elapsed: Elapsed,
    /// Whose it is.
    pub(super) origin: Origin,
}

/// A connection that was taken apart between two requests.
pub(super) struct Departure {
    pub(super) stream: Stream,
    pub(super) track: Arc<Track>,
    pub(super) arrival: Arrival,
}

//! HTTP/1.1 in front of a plugin: accept, limits, one task a connection, drain.
//!
//! ```text
//! listeners ── serve ──> connection (hyper http1) ──> exchange ──> plugin
//!                 │           │ io, body: wrappers that keep book in track
//!                 └─ seats: the connections that are open, asked to leave on drain
//!
//! behind a proxy that says whose a connection is: greeting, before there is a hyper connection
//! ```
//!
//! [`Server::serve`] accepts until [`Control::hand_over`] or [`Control::drain`], then waits for its connections. With
//! a successor each is passed on as soon as it stands between two requests (`handover`). Without one, responses given
//! from then on carry `Connection: close`; a connection that stands between two requests is closed after [`LINGER`],
//! because closing it at once would race the client's next request. How long either may take is the master's business.
//!
//! Differences from what hyper offers, and why:
//! - no `pipeline_flush`: with it hyper buffers a response without bound and holds it back while the next request
//!   waits in the buffer;
//! - no `header_read_timeout`: it allocates and registers a timer for every request; one coarse timer a connection
//!   does the same (`watchdog`);
//! - `half_close`, so that hyper does not read while a plugin works: that costs an allocation of 8 KiB a request,
//!   and takes a client that closed its sending half for one that is gone. `io` looks for the end itself;
//! - `graceful_shutdown` closes an idle connection at once, see above.
//!
//! It does not know processes, the channel to the master or what a plugin is made of. HTTP upgrades and `CONNECT`
//! are not offered to plugins.

pub mod access;
mod balance;
mod body;
mod connection;
mod exchange;
mod greeting;
mod handover;
mod io;
mod offers;
mod proxy_protocol;
mod remainder;
mod seats;
mod serve;
mod track;
mod watchdog;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Error;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Version};

pub use self::body::RequestBody;
pub(super) use self::exchange::is_hop_by_hop;
pub use self::seats::Control;
pub use self::serve::Server;
use crate::sys::accept::{PeerAddress, Registration};

/// How long a drain leaves a connection between requests open for the client's next request.
pub const LINGER: Duration = Duration::from_secs(1);

/// Largest head of a request, bytes; 431 above it. More than 100 header lines are refused likewise, by hyper.
pub const HEAD_MAX: usize = 64 * 1024;

/// Longest time from the first byte of a request's head to its last; 408 after it. `limits.idle_timeout` applies
/// if it is shorter.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The other end of a connection, and the end it came in by.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client.
    pub address: PeerAddress,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Address of the listener, the authority of a request that names none.
    pub(crate) authority: Arc<str>,
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            PeerAddress::Inet(address) => address.fmt(formatter),
            PeerAddress::Unix => formatter.write_str("a unix client"),
        }
    }
}

#[cfg(test)]
impl Peer {
    pub(crate) fn for_test() -> Self {
        Self { address: PeerAddress::Unix, listener: "test".into(), authority: "localhost".into() }
    }
}

/// First line of a request, kept for the log.
#[derive(Debug, Clone, Default)]
pub struct RequestLine {
    /// Method.
    pub method: Method,
    /// Target, cut after [`TARGET_KEPT`] bytes.
    pub target: String,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
}

/// Bytes of a request's target that are kept for the log; clients may send 64 KiB.
pub const TARGET_KEPT: usize = 256;

impl RequestLine {
    /// Overwrites with the line of `request`. The text is copied into the memory that is there: a clone of the URI
    /// would keep hyper from using its read buffer again, which costs two allocations a request.
    fn copy_from<B>(&mut self, request: &Request<B>) {
        self.method.clone_from(request.method());
        self.version = request.version();
        self.target.clear();
        let uri = request.uri();
        if let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) {
            let authority = authority.as_str();
            for part in [scheme, "://", &authority[..authority.floor_char_boundary(TARGET_KEPT)]] {
                self.target.push_str(part);
            }
        }
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        self.target.push_str(&path[..path.floor_char_boundary(TARGET_KEPT)]);
    }
}

impl fmt::Display for RequestLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {:?}", self.method, self.target, self.version)
    }
}

/// Where a server tells its [`Event`]s. Called in the middle of its work: it must not block.
pub type Report = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// What an operator or the worker wants to know. `Display` gives the line for a log.
#[derive(Debug)]
pub enum Event<'a> {
    /// A listener is served.
    Listening {
        /// Its name.
        listener: &'a str,
        /// How connections are shared with other workers.
        registration: Registration,
    },
    /// Accepting fails for want of a resource and is tried again; told once until it recovers.
    AcceptFailing {
        /// Name of the listener.
        listener: &'a str,
        /// Why.
        error: &'a Error,
    },
    /// Accepting works again.
    AcceptRecovered {
        /// Name of the listener.
        listener: &'a str,
    },
    /// A request was answered by the launcher because the plugin gave no usable answer.
    RequestFailed {
        /// The request.
        request: &'a RequestLine,
        /// Who sent it.
        peer: &'a Peer,
        /// What the client got.
        status: u16,
        /// Why; not shown to the client.
        reason: &'a str,
    },
    /// A response failed after its head: the connection is closed, so that the client sees it.
    ResponseCut {
        /// The request.
        request: &'a RequestLine,
        /// Who sent it.
        peer: &'a Peer,
        /// Why.
        reason: &'a str,
    },
    /// A connection was closed because the proxy did not say whose it is; told once in ten seconds.
    Ungreeted {
        /// Name of the listener.
        listener: &'a str,
        /// Who connected.
        peer: &'a Peer,
        /// Why.
        reason: &'a str,
    },
    /// The listeners were let go for a drain, and every connection was asked to leave: no connection is accepted from
    /// now on, and no request begun on one that stands idle, if there are successors. Told again after a second order.
    NotAccepting,
    /// Connections cannot be handed over: they are closed as without a successor.
    HandOverFailing {
        /// Why.
        error: &'a Error,
    },
    /// A message of another worker that leaves was not understood. Its connections are closed.
    HandOverRefused {
        /// Why.
        reason: &'a str,
    },
    /// Connections were lost on their way from another worker.
    HandOverLost {
        /// How many.
        connections: usize,
        /// Why the last of them was.
        reason: &'a str,
    },
    /// `limits.max_requests` was reached: the worker wants to be replaced. Told once; serving goes on.
    MaxRequests,
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening { listener, registration: Registration::Exclusive } => {
                write!(formatter, "accepting on {listener} in turn with the other workers")
            }
            Self::Listening { listener, registration: Registration::Ordinary } => write!(
                formatter,
                "accepting on {listener} without taking turns: the kernel did not take an exclusive registration"
            ),
            Self::AcceptFailing { listener, error } => write!(
                formatter,
                "cannot accept on {listener}: {error}; connections wait in the kernel, trying again every second"
            ),
            Self::AcceptRecovered { listener } => {
                write!(formatter, "accepting on {listener} again")
            }
            Self::RequestFailed { request, peer, status, reason } => {
                write!(formatter, "{request} from {peer} answered with {status}: {reason}")
            }
            Self::ResponseCut { request, peer, reason } => {
                write!(formatter, "response to {request} from {peer} was cut: {reason}")
            }
            Self::Ungreeted { listener, peer, reason } => write!(
                formatter,
                "a connection from {peer} to {listener} was closed: {reason} (told once in ten seconds)"
            ),
            Self::NotAccepting => formatter.write_str("no connection is accepted any more"),
            Self::HandOverFailing { error } => {
                write!(formatter, "connections cannot be handed over and are closed: {error}")
            }
            Self::HandOverRefused { reason } => {
                write!(formatter, "a message of a worker that leaves was refused with its connections: {reason}")
            }
            Self::HandOverLost { connections, reason } => {
                write!(formatter, "{connections} connections of a worker that leaves were lost: {reason}")
            }
            Self::MaxRequests => formatter.write_str("limits.max_requests is reached"),
        }
    }
}

//! Plugins that own the listening sockets: what they are given, and how they are told to stop.

use std::fmt;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::Duration;

use crate::log;
use crate::native::socket::Side;

/// The sockets of a service, given to the function under `#[worker_sdk::socket]`.
///
/// Every worker of the service has the same sockets and takes from the same queues. They are non-blocking, and must stay
/// so, because that is a property of the shared socket. Those that are left in here are closed with it.
#[derive(Debug)]
pub struct Sockets {
    listeners: Vec<Listener>,
    side: Side,
}

impl Sockets {
    pub(crate) fn new(listeners: Vec<Listener>, side: Side) -> Self {
        Sockets { listeners, side }
    }

    /// The sockets that were not taken yet, in the order of the configuration.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Takes the socket with this name in the configuration: what `name:` says, or the address as it is written there.
    ///
    /// # Errors
    /// There is none, or it was taken.
    pub fn take(&mut self, name: &str) -> Result<Listener, SocketError> {
        match self.listeners.iter().position(|listener| listener.name == name) {
            Some(place) => Ok(self.listeners.remove(place)),
            None => Err(self.missing(format!("no socket named `{name}`"))),
        }
    }

    /// Takes the first TCP socket.
    ///
    /// # Errors
    /// None is left.
    pub fn tcp(&mut self) -> Result<TcpListener, SocketError> {
        self.first(SocketKind::Tcp)?.into_tcp()
    }

    /// Takes the first UDP socket.
    ///
    /// # Errors
    /// None is left.
    pub fn udp(&mut self) -> Result<UdpSocket, SocketError> {
        self.first(SocketKind::Udp)?.into_udp()
    }

    /// Takes the first Unix socket.
    ///
    /// # Errors
    /// None is left.
    pub fn unix(&mut self) -> Result<UnixListener, SocketError> {
        self.first(SocketKind::Unix)?.into_unix()
    }

    /// Says that this worker accepts: the last thing that a start does. Until then a reload goes no further, and after
    /// `reload.ready_timeout` it is rolled back. A socket that nobody took is told in the log, because whoever connects
    /// to it waits.
    pub fn ready(&self) {
        for listener in &self.listeners {
            log::warn!("nobody serves {listener}: whoever connects there waits");
        }
        self.side.ready();
    }

    /// Says, after [`Stop`] was told, that nothing new is accepted any more. Not needed where the listeners are closed only
    /// a moment before the function returns, which says it too.
    pub fn not_accepting(&self) {
        self.side.not_accepting();
    }

    /// How the worker is told to stop.
    pub fn stop(&self) -> Stop {
        Stop { side: self.side }
    }

    /// How a loop of one's own says that it turns, so that the worker is replaced if it stands still. An `async fn` under
    /// `#[worker_sdk::socket]` needs none: its loop is watched.
    pub fn pulse(&self) -> Pulse {
        Pulse { side: self.side }
    }

    pub(crate) fn side(&self) -> Side {
        self.side
    }

    fn first(&mut self, kind: SocketKind) -> Result<Listener, SocketError> {
        match self.listeners.iter().position(|listener| listener.kind == kind) {
            Some(place) => Ok(self.listeners.remove(place)),
            None => Err(self.missing(format!("no {kind} socket"))),
        }
    }

    fn missing(&self, what: String) -> SocketError {
        let left: Vec<String> = self.listeners.iter().map(Listener::to_string).collect();
        let left = if left.is_empty() { "none".to_owned() } else { left.join(", ") };
        SocketError(format!("{what} is left in `listen:` of the service; left: {left}"))
    }
}

/// A socket on which a service listens.
#[derive(Debug)]
pub struct Listener {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) kind: SocketKind,
    pub(crate) descriptor: OwnedFd,
}

impl Listener {
    /// Its name in the configuration; the address as it is written there, unless given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is bound: `127.0.0.1:8080`, `[::1]:8080`, `udp://127.0.0.1:53`, `unix:/path` or `unix:@name`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it is.
    pub fn kind(&self) -> SocketKind {
        self.kind
    }

    /// As std's type; non-blocking, for example for `tokio::net::TcpListener::from_std`.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn into_tcp(self) -> Result<TcpListener, SocketError> {
        self.into_kind(SocketKind::Tcp).map(TcpListener::from)
    }

    /// Likewise.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn into_udp(self) -> Result<UdpSocket, SocketError> {
        self.into_kind(SocketKind::Udp).map(UdpSocket::from)
    }

    /// Likewise.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn into_unix(self) -> Result<UnixListener, SocketError> {
        self.into_kind(SocketKind::Unix).map(UnixListener::from)
    }

    /// Likewise.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn into_unix_datagram(self) -> Result<UnixDatagram, SocketError> {
        self.into_kind(SocketKind::UnixDatagram).map(UnixDatagram::from)
    }

    fn into_kind(self, kind: SocketKind) -> Result<OwnedFd, SocketError> {
        if self.kind == kind {
            return Ok(self.descriptor);
        }
        Err(SocketError(format!("{self} is a {} socket, not a {kind} socket: see `listen:` of the service", self.kind)))
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name == self.address {
            true => write!(f, "`{}`", self.name),
            false => write!(f, "`{}` ({})", self.name, self.address),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> OwnedFd {
        listener.descriptor
    }
}

/// What a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocketKind {
    /// A listening TCP socket.
    Tcp,
    /// A bound UDP socket.
    Udp,
    /// A listening Unix socket.
    Unix,
    /// A bound Unix socket for datagrams.
    UnixDatagram,
    /// A listening Unix socket whose connections keep the borders of messages (`SOCK_SEQPACKET`).
    UnixPacket,
    /// Something that this version of the SDK does not know.
    Other,
}

impl fmt::Display for SocketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SocketKind::Tcp => "TCP",
            SocketKind::Udp => "UDP",
            SocketKind::Unix => "Unix",
            SocketKind::UnixDatagram => "Unix datagram",
            SocketKind::UnixPacket => "Unix packet",
            SocketKind::Other => "unknown",
        })
    }
}

/// A socket that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketError(String);

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SocketError {}

impl From<SocketError> for io::Error {
    fn from(error: SocketError) -> io::Error {
        io::Error::other(error)
    }
}

/// The pulse of a loop. Between [`at_work`](Self::at_work) and [`waits`](Self::waits), or the next `at_work`, may pass
/// `limits.stuck_timeout`; then the worker is replaced, and the thread's backtrace is in the log.
///
/// For one loop, on one thread. What is never said is never missed: a plugin that does not use this is not watched.
#[derive(Debug, Clone, Copy)]
pub struct Pulse {
    side: Side,
}

impl Pulse {
    /// The loop has something to do: said after every wait, and now and then while it goes on without one. Cheap.
    pub fn at_work(&self) {
        self.side.at_work(true);
    }

    /// The loop is about to wait, for however long.
    pub fn waits(&self) {
        self.side.at_work(false);
    }
}

/// The word to stop: close the listeners, finish what was begun, return. The worker is killed when the service's
/// `stop.drain_timeout` has passed.
///
/// Every kind of loop can hear it: a future ([`told`](Self::told)), a flag ([`was_told`](Self::was_told)), a descriptor
/// (`as_fd`), a wait that blocks ([`readable`](Self::readable), [`wait`](Self::wait)).
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    side: Side,
}

impl Stop {
    /// Whether the word was said.
    pub fn was_told(&self) -> bool {
        self.side.was_told()
    }

    /// Done when the word was said; for `axum::serve(…).with_graceful_shutdown(stop.told())` and `tokio::select!`.
    pub fn told(self) -> impl Future<Output = ()> + Send + Unpin + 'static {
        self.side.told()
    }

    /// Blocks this thread until the word is said.
    pub fn wait(&self) {
        // An error is a signal that came; the flag tells.
        while !self.was_told() {
            let _ = self.side.poll(None, None);
        }
    }

    /// Blocks this thread until `socket` can be read from (a listener: accepted from) or the word was said: then `false`.
    /// `true` promises nothing: another worker may have been faster, and the call that follows says `WouldBlock`.
    ///
    /// # Errors
    /// As poll(2), without interruptions by signals.
    pub fn readable(&self, socket: &impl AsFd) -> io::Result<bool> {
        while !self.was_told() {
            if self.side.poll(Some(socket.as_fd()), None)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How long the worker may go on after the word was said: `stop.drain_timeout` at its start.
    pub fn deadline(&self) -> Duration {
        self.side.drain_timeout()
    }
}

impl AsFd for Stop {
    /// Readable when the word was said, and for ever then. To be polled only: who reads from it takes the word from others.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.side.stop_descriptor()
    }
}

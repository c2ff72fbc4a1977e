//! What carries messages between the master and a worker: framing, and the descriptors that travel with them. The messages
//! themselves are in `words`.
//!
//! The channel is one `SOCK_SEQPACKET` socketpair a worker: one packet is one JSON object
//! `{"v":2,"message":{"type":…}}`, and descriptors ride on the packet that they belong to (`SCM_RIGHTS`, unix(7)).
//! A payload that does not fit a packet travels in a sealed memfd that is the first descriptor of its packet.
//!
//! What is asked for seldom and changes often is no message: workers count in a page that the master reads
//! ([`statistics`]).
//!
//! This module does not decide anything: [`crate::master`] and [`crate::worker`] do.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub mod balance;
pub mod dev;
pub mod offers;
pub mod post;
pub mod statistics;
mod words;

pub use words::*;

/// Version of the message set. Master and worker are one binary except across an upgrade of the master.
pub const VERSION: u32 = 2;

/// Bytes of a packet that carries its message itself. Packets of 212,000 bytes pass with the kernel's default
/// buffers and 220,000 do not (`EMSGSIZE`); this leaves room for several unread ones.
const INLINE: usize = 32 * 1024;

/// Bytes of a message that the worker accepts from its master in a memfd.
const LARGE: u64 = 64 * 1024 * 1024;

/// What a process is called that waits to become a worker.
pub const SPARE: &str = "spare";

/// How a worker says [`ToMaster::Stuck`] where it may allocate nothing: what stands before and after its frames.
pub const STUCK: (&str, &str) = (r#"{"v":2,"message":{"type":"stuck","frames":["#, "]}}");

/// How a worker says [`ToMaster::Dying`] there, likewise: what stands before and after the number of the signal.
pub const DYING: (&str, &str) = (r#"{"v":2,"message":{"type":"dying","signal":"#, "}}");

/// Descriptors that one packet may carry; the kernel's own limit is 253 (`SCM_MAX_FD`, unix(7)).
pub const DESCRIPTORS: usize = 64;

/// Why a channel cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The system refused.
    #[error("channel: {0}")]
    Io(#[from] io::Error),
    /// The peer does not speak this protocol.
    #[error("channel: the peer sent {0}")]
    Protocol(&'static str),
    /// The peer's message is not of this message set.
    #[error("channel: the peer sent a message that cannot be read: {0}")]
    Message(#[from] serde_json::Error),
    /// A message of ours is larger than the peer takes.
    #[error("channel: a message of {0} bytes is too large")]
    TooLarge(usize),
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    /// Set when the message is in a memfd, the first descriptor: its length in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    large: Option<u64>,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    message: Option<T>,
}

/// Descriptors that a worker holds for a message: the end of the hand-over that comes with the word to leave, the pair of
/// receipts that is made then, and one more.
const ROOM: usize = 4;

/// Who may send large messages: a worker may not, so that none can make its master hold what it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Large {
    /// Taken from a memfd.
    Accepted,
    /// A breach of the protocol.
    Refused,
}

/// Make the two ends of a channel, close-on-exec and blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((ours, theirs))
}

/// One end of a channel in an event loop.
#[derive(Debug)]
pub struct Channel {
    socket: AsyncFd<OwnedFd>,
    room: Room,
}

/// Descriptors that are held for those that a message brings. In a process that may open no more the kernel would close
/// them: a worker that is full of connections could not be told through what to pass them on, and would close them all.
#[derive(Debug, Default)]
struct Room(Mutex<Option<Vec<OwnedFd>>>);

impl Room {
    fn held(&self) -> MutexGuard<'_, Option<Vec<OwnedFd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As much as there is: whoever has none left gets no message with descriptors, and that is an error then.
    fn fill(&self, any: BorrowedFd<'_>) {
        if let Some(held) = &mut *self.held() {
            while held.len() < ROOM
                && let Ok(descriptor) = rustix::io::fcntl_dupfd_cloexec(any, 0)
            {
                held.push(descriptor);
            }
        }
    }

    fn clear(&self) {
        if let Some(held) = &mut *self.held() {
            held.clear();
        }
    }
}

impl Channel {
    /// Adopt an end, which does not block any more. Must be called within a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Channel> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // Not for writing: whatever the peer reads would wake this loop.
        let socket = crate::sys::readiness::register(socket, Interest::READABLE)?;
        Ok(Channel { socket, room: Room::default() })
    }

    /// From now on there is room for the descriptors of a message, even if this process may open no more.
    pub fn hold_room(&self) {
        *self.room.held() = Some(Vec::new());
        self.room.fill(self.socket.get_ref().as_fd());
    }

    /// What was held is for others: no message that matters comes any more.
    pub fn give_up_room(&self) {
        *self.room.held() = None;
    }

    /// Send one message with its descriptors; waits while the peer's queue is full.
    pub async fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let packet = Packet::encode(message)?;
        let descriptors = packet.with(descriptors)?;
        loop {
            match transmit(self.socket.get_ref().as_fd(), &packet.bytes, &descriptors) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await,
                // The user's limit of descriptors in flight: back-pressure, like a full queue.
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => crate::sys::turned::again().await,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return Ok(other?),
            }
        }
    }

    /// Waits until the peer's queue has room.
    async fn writable(&self) {
        let again = self.socket.get_ref().try_clone();
        match again.and_then(|socket| crate::sys::readiness::register(socket, Interest::WRITABLE)) {
            Ok(socket) => drop(socket.writable().await),
            // No descriptor is left for it.
            Err(_) => crate::sys::turned::again().await,
        }
    }

    /// The next message, or `None` when the peer is gone.
    pub async fn receive<T: DeserializeOwned>(&self, large: Large) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        self.room.fill(self.socket.get_ref().as_fd());
        let receive = |socket: &OwnedFd| {
            self.room.clear();
            let received = accept(socket.as_fd());
            if received.is_err() {
                // Nothing came yet, as after every message: whoever accepts meanwhile must not get the room.
                self.room.fill(socket.as_fd());
            }
            received
        };
        let (bytes, descriptors) = self.socket.async_io(Interest::READABLE, receive).await?;
        decode(bytes, descriptors, large)
    }
}

impl Channel {
    /// A message that is here already, if there is one: for the last words of a process that is gone.
    pub fn receive_now<T: DeserializeOwned>(&self, large: Large) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        match accept(self.socket.get_ref().as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => {
                let (bytes, descriptors) = other?;
                decode(bytes, descriptors, large)
            }
        }
    }
}

impl Channel {
    /// Send a message if there is room for it: what is in the socket arrives whatever becomes of this process. `false`: it
    /// was not sent.
    pub fn send_now<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> Result<bool, ChannelError> {
        let packet = Packet::encode(message)?;
        let descriptors = packet.with(descriptors)?;
        match transmit(self.socket.get_ref().as_fd(), &packet.bytes, &descriptors) {
            Ok(()) => Ok(true),
            Err(_) => Ok(false),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Receive one message on a blocking end: how a worker waits for its assignment before it has a runtime.
pub fn receive_blocking<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    large: Large,
) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
    loop {
        match accept(socket) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => {
                let (bytes, descriptors) = other?;
                return decode(bytes, descriptors, large);
            }
        }
    }
}

/// Send one message on a blocking end.
pub fn send_blocking<T: Serialize>(socket: BorrowedFd<'_>, message: &T) -> Result<(), ChannelError> {
    let packet = Packet::encode(message)?;
    let descriptors = packet.with(&[])?;
    loop {
        match transmit(socket, &packet.bytes, &descriptors) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return Ok(other?),
        }
    }
}

struct Packet {
    bytes: Vec<u8>,
    large: Option<OwnedFd>,
}

impl Packet {
    fn encode<T: Serialize>(message: &T) -> Result<Packet, ChannelError> {
        let bytes = serde_json::to_vec(&Envelope { v: VERSION, large: None, message: Some(message) })?;
        if bytes.len() <= INLINE {
            return Ok(Packet { bytes, large: None });
        }
        let body = serde_json::to_vec(message)?;
        if body.len() as u64 > LARGE {
            return Err(ChannelError::TooLarge(body.len()));
        }
        let memfd = crate::sys::memfd::create("launcher-message")?;
        memfd.write_all_at(&body, 0)?;
        crate::sys::memfd::seal(&memfd)?;
        let head = Envelope::<()> { v: VERSION, large: Some(body.len() as u64), message: None };
        Ok(Packet { bytes: serde_json::to_vec(&head)?, large: Some(memfd.into()) })
    }

    fn with<'a>(&'a self, descriptors: &[BorrowedFd<'a>]) -> Result<Vec<BorrowedFd<'a>>, ChannelError> {
        let all: Vec<_> = self.large.iter().map(AsFd::as_fd).chain(descriptors.iter().copied()).collect();
        if all.len() > DESCRIPTORS {
            return Err(ChannelError::Protocol("more descriptors than a packet carries"));
        }
        Ok(all)
    }
}

fn transmit(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // NOSIGNAL: a worker that died must not end the master by SIGPIPE.
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

type Received = (Result<Vec<u8>, &'static str>, Vec<OwnedFd>);

fn accept(socket: BorrowedFd<'_>) -> io::Result<Received> {
    let mut bytes = vec![0; INLINE + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut receive =
        || rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
    // A peer that ended without having read everything is told once, before what it said last (unix(7)).
    let received = match receive() {
        Err(Errno::CONNRESET) => receive()?,
        received => received?,
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Ok((Err("more descriptors than fit"), descriptors));
    }
    if received.flags.contains(ReturnFlags::TRUNC) || received.bytes > INLINE {
        return Ok((Err("a packet that is too large"), descriptors));
    }
    bytes.truncate(received.bytes);
    Ok((Ok(bytes), descriptors))
}

fn decode<T: DeserializeOwned>(
    bytes: Result<Vec<u8>, &'static str>,
    mut descriptors: Vec<OwnedFd>,
    large: Large,
) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
    let bytes = bytes.map_err(ChannelError::Protocol)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let envelope: Envelope<T> = serde_json::from_slice(&bytes)?;
    if envelope.v != VERSION {
        return Err(ChannelError::Protocol("a message of another version"));
    }
    match (envelope.message, envelope.large) {
        (Some(message), None) => Ok(Some((message, descriptors))),
        (None, Some(length)) if large == Large::Accepted && length <= LARGE && !descriptors.is_empty() => {
            let mut body = vec![0; usize::try_from(length).map_err(|_| ChannelError::Protocol("a bad length"))?];
            File::from(descriptors.remove(0)).read_exact_at(&mut body, 0)?;
            Ok(Some((serde_json::from_slice(&body)?, descriptors)))
        }
        _ => Err(ChannelError::Protocol("neither a message nor a large one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &OwnedFd, large: Large) -> Result<Option<(ToMaster, Vec<OwnedFd>)>, ChannelError> {
        receive_blocking(socket.as_fd(), large)
    }

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (ours, theirs) = pair().expect("socketpair");
        let packet = Packet::encode(&ToMaster::Ready).expect("encodes");
        let file = crate::sys::memfd::create("test").expect("memfd");
        transmit(ours.as_fd(), &packet.bytes, &[file.as_fd(), file.as_fd()]).expect("sent");
        let (message, descriptors) = receive(&theirs, Large::Refused).expect("read").expect("a message");
        assert_eq!(message, ToMaster::Ready);
        assert_eq!(descriptors.len(), 2);
    }

    #[test]
    fn a_large_message_travels_in_a_memfd_to_who_accepts_it() {
        let (ours, theirs) = pair().expect("socketpair");
        let long = ToMaster::Failed { reason: "x".repeat(3_000_000) };
        send_blocking(ours.as_fd(), &long).expect("sent");
        assert_eq!(receive(&theirs, Large::Accepted).expect("read").expect("a message").0, long);
        send_blocking(ours.as_fd(), &long).expect("sent");
        assert!(matches!(receive(&theirs, Large::Refused), Err(ChannelError::Protocol(_))));
    }

    #[test]
    fn garbage_is_an_error_and_not_a_panic() {
        let (ours, theirs) = pair().expect("socketpair");
        let many = vec![b' '; 60_000];
        for garbage in [&b"{"[..], b"\xff\xfe", b"{}", b"{\"v\":1,\"message\":{\"type\":\"ready\"}}", &many] {
            transmit(ours.as_fd(), garbage, &[]).expect("sent");
            assert!(receive(&theirs, Large::Accepted).is_err(), "{:?} was taken", String::from_utf8_lossy(garbage));
        }
        transmit(ours.as_fd(), b"{\"v\":2,\"large\":9}", &[]).expect("sent");
        assert!(receive(&theirs, Large::Accepted).is_err(), "a large message without its memfd was taken");
    }

    #[test]
    fn more_descriptors_than_a_packet_carries_are_refused_and_closed() {
        let (ours, theirs) = pair().expect("socketpair");
        let null = File::open("/dev/null").expect("/dev/null");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let many = [null.as_fd(); 250];
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
        rustix::net::sendmsg(&ours, &[IoSlice::new(b"{}")], &mut control, SendFlags::NOSIGNAL).expect("sent");
        assert!(matches!(receive(&theirs, Large::Refused), Err(ChannelError::Protocol(_))));
    }

    #[test]
    fn what_is_said_without_allocating_is_a_message() {
        let (before, after) = STUCK;
        let packet = format!("{before}\"#0 a+0x1 (b+0x2)\",\"#1 c\"{after}");
        let (ours, theirs) = pair().expect("socketpair");
        transmit(ours.as_fd(), packet.as_bytes(), &[]).expect("sent");
        let (message, _) = receive(&theirs, Large::Refused).expect("read").expect("a message");
        let frames = ["#0 a+0x1 (b+0x2)", "#1 c"].map(str::to_owned).to_vec();
        assert_eq!(message, ToMaster::Stuck { frames });
        let (before, after) = DYING;
        transmit(ours.as_fd(), format!("{before}11{after}").as_bytes(), &[]).expect("sent");
        let (message, _) = receive(&theirs, Large::Refused).expect("read").expect("a message");
        assert_eq!(message, ToMaster::Dying { signal: 11 });
    }

    #[test]
    fn the_last_words_of_a_peer_that_did_not_read_on_are_heard() {
        let (ours, theirs) = pair().expect("socketpair");
        send_blocking(ours.as_fd(), &ToWorker::Nudge).expect("sent");
        let words = ToMaster::Failed { reason: "it did not work".to_owned() };
        send_blocking(theirs.as_fd(), &words).expect("sent");
        drop(theirs);
        assert_eq!(receive(&ours, Large::Refused).expect("read").expect("a message").0, words);
        assert!(receive(&ours, Large::Refused).expect("read").is_none());
    }

    #[test]
    fn the_peers_end_is_the_end() {
        let (ours, theirs) = pair().expect("socketpair");
        drop(ours);
        assert!(receive(&theirs, Large::Refused).expect("read").is_none());
    }
}

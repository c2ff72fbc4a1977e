//! Accepting from a listening socket that several processes share, so that each gets an equal part.
//!
//! tokio registers a listener in its epoll like any descriptor, which wakes every worker for every connection.
//! Here the registration is replaced by an exclusive one (`EPOLLEXCLUSIVE`, epoll_ctl(2)): a connection wakes one
//! sleeping process. After each accept the registration is removed, and added again when the next connection is
//! wanted: the kernel puts it at the tail of the wait queue, which makes the processes take turns. `EPOLL_CTL_ADD`
//! polls the socket, so a connection that came in between is found. Draining the queue on a wake-up instead would
//! let the first process take everything; a nested epoll would defeat the flag.
//!
//! tokio offers no such registration, but its epoll and the entry's data can be read in /proc/self/fdinfo. Where
//! that does not work (no /proc, a kernel without the flag) the ordinary registration stays, and says so.
//!
//! A listener is never shut down: `shutdown(2)` would stop every process that holds it. `listen(2)` is never called:
//! it would replace the backlog that all share.

#![expect(unsafe_code, reason = "registers with the runtime's epoll in a way that tokio does not offer")]

use std::fs;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SocketFlags, sockopt};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::let_go;

/// `EPOLLEXCLUSIVE` as fdinfo shows it.
const EXCLUSIVE_BIT: u32 = 1 << 28;

/// How a listener is registered with the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// One process is woken for a connection, in turn.
    Exclusive,
    /// Every process is woken for every connection.
    Ordinary,
}

/// Address of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAddress {
    /// TCP.
    Inet(SocketAddr),
    /// A Unix socket; clients have no address.
    Unix,
}

/// A shared listening socket, TCP or Unix.
#[derive(Debug)]
pub struct Acceptor {
    io: AsyncFd<OwnedFd>,
    family: AddressFamily,
    entry: Option<Entry>,
}

/// The exclusive entry in the runtime's epoll.
#[derive(Debug)]
struct Entry {
    /// A duplicate of the runtime's descriptor: the same epoll, whatever happens to the number.
    epoll: OwnedFd,
    /// What tokio wrote there: it finds its state of the descriptor by it.
    data: u64,
    armed: Armed,
}

/// What the entry in the epoll asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Armed {
    /// There is none.
    No,
    /// Connections, in turn with other processes.
    Turn,
    /// To be told of connections that are others'.
    Watch,
}

impl Acceptor {
    /// Takes a listening socket over. Must be called within a tokio runtime that has I/O enabled.
    ///
    /// # Errors
    /// The descriptor is no socket, or the runtime cannot register it.
    pub fn new(listener: OwnedFd) -> io::Result<Self> {
        prepare(&listener, true)?;
        let family = sockopt::socket_domain(&listener)?;
        let mut acceptor = Self { io: register(listener)?, family, entry: None };
        if let Some((epoll, data)) = runtime_entry(acceptor.io.get_ref())
            && let Ok(true) = exclusive_works(&epoll, acceptor.io.get_ref(), data)
        {
            acceptor.entry = Some(Entry { epoll, data, armed: Armed::No });
        } else {
            // The attempt may have removed tokio's own entry.
            let Self { io, .. } = acceptor;
            acceptor = Self { io: register(io.into_inner())?, family, entry: None };
        }
        Ok(acceptor)
    }

    /// Accepted connections are to be without `TCP_NODELAY`.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn collect_small_writes(&self) -> io::Result<()> {
        if self.family != AddressFamily::UNIX {
            sockopt::set_tcp_nodelay(self.io.get_ref(), false)?;
        }
        Ok(())
    }

    /// Which registration is in use.
    pub fn registration(&self) -> Registration {
        match self.entry {
            Some(_) => Registration::Exclusive,
            None => Registration::Ordinary,
        }
    }

    /// Whether it is of this socket, whatever the descriptor.
    pub fn is_of(&self, socket: &OwnedFd) -> bool {
        let inode = |socket: &OwnedFd| rustix::fs::fstat(socket).map(|stat| (stat.st_dev, stat.st_ino));
        matches!((inode(self.io.get_ref()), inode(socket)), (Ok(one), Ok(other)) if one == other)
    }

    /// The next connection. Cancel safe.
    ///
    /// # Errors
    /// As accept(2), without those that say "try again". The listener stays usable.
    pub async fn accept(&mut self) -> io::Result<(Stream, PeerAddress)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// As [`accept`](Self::accept). While it is pending this process stands in the wait queue of the listener.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, PeerAddress)>> {
        if let_go::has_begun() {
            // Another thread dies, and all with it. What is not accepted is another process's.
            return Poll::Pending;
        }
        self.arm(Armed::Turn)?;
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            let accepted = accept_one(self.io.get_ref());
            if let Err(Errno::AGAIN) = accepted {
                ready.clear_ready();
                continue;
            }
            if self.entry.is_some() {
                // One connection a wake-up. What else waits is found by the ADD of the next call.
                ready.clear_ready();
                drop(ready);
                self.remove()?;
            }
            let (socket, address) = accepted?;
            return Poll::Ready(self.adopt(socket, address));
        }
    }

    /// Ready when a connection has come, which is left to others. Until then this process stands beside the wait queue: it
    /// is woken besides whoever's turn it is. Only for an exclusive registration; ready at once where there is none.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn poll_came(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let_go::has_begun() {
            return Poll::Pending;
        }
        self.arm(Armed::Watch)?;
        let mut ready = ready!(self.io.poll_read_ready(cx))?;
        ready.clear_ready();
        drop(ready);
        self.remove()?;
        Poll::Ready(Ok(()))
    }

    /// Whether a connection waits at this moment.
    pub fn waits(&self) -> bool {
        let mut polled = [PollFd::new(self.io.get_ref(), PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Leaves the wait queue, so that connections stay in the kernel for others. A connection for which this
    /// process was woken already is returned: nobody else would be woken for it.
    pub fn disarm(&mut self) -> Option<io::Result<(Stream, PeerAddress)>> {
        let armed = self.entry.as_ref().map_or(Armed::No, |entry| entry.armed);
        if armed == Armed::No {
            return None;
        }
        if let Err(error) = self.remove() {
            return Some(Err(error));
        }
        if armed == Armed::Watch {
            return None;
        }
        match accept_one(self.io.get_ref()) {
            Ok((socket, address)) => Some(self.adopt(socket, address)),
            Err(Errno::AGAIN) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    /// Looks at the queue once more: a process that died between its wake-up and its accept leaves a connection
    /// there until the next one arrives.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn nudge(&mut self) -> io::Result<()> {
        match self.entry.as_ref().map_or(Armed::No, |entry| entry.armed) {
            Armed::No => Ok(()),
            armed => {
                self.remove()?;
                self.arm(armed)
            }
        }
    }

    fn arm(&mut self, wanted: Armed) -> io::Result<()> {
        if self.entry.as_ref().is_some_and(|entry| entry.armed != wanted && entry.armed != Armed::No) {
            self.remove()?;
        }
        if let Some(entry) = &mut self.entry
            && entry.armed == Armed::No
        {
            add(&entry.epoll, self.io.get_ref(), entry.data, wanted)?;
            entry.armed = wanted;
        }
        Ok(())
    }

    fn remove(&mut self) -> io::Result<()> {
        if let Some(entry) = &mut self.entry {
            entry.armed = Armed::No;
            epoll::delete(&entry.epoll, self.io.get_ref())?;
        }
        Ok(())
    }

    fn adopt(&self, socket: OwnedFd, address: Option<SocketAddr>) -> io::Result<(Stream, PeerAddress)> {
        match address {
            Some(address) if self.family != AddressFamily::UNIX => {
                let stream = TcpStream::from_std(socket.into())?;
                Ok((Stream::Tcp(stream), PeerAddress::Inet(address)))
            }
            _ => Ok((Stream::Unix(UnixStream::from_std(socket.into())?), PeerAddress::Unix)),
        }
    }
}

/// Makes a listening socket ready for [`accept_now`] and those it accepts ready to be served.
///
/// # Errors
/// It is no socket.
pub fn prepare(listener: &OwnedFd, nodelay: bool) -> io::Result<()> {
    rustix::io::ioctl_fionbio(listener, true)?;
    if sockopt::socket_domain(listener)? != AddressFamily::UNIX {
        // Accepted sockets inherit it: one call a listener instead of one a connection.
        sockopt::set_tcp_nodelay(listener, nodelay)?;
    }
    Ok(())
}

/// A connection that waits, if there is one: close-on-exec, non-blocking.
///
/// # Errors
/// As accept(2), without those that say "try again".
pub fn accept_now(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    match accept_one(listener) {
        Ok((socket, _)) => Ok(Some(socket)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// tokio's own registration.
fn register(listener: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: required is that the descriptor stays open and the same while the `AsyncFd` lives: it owns the
    // `OwnedFd`, whose number never changes and which nothing else closes.
    Ok(unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?)
}

/// accept4(2), repeated over signals.
fn accept_one(listener: &OwnedFd) -> Result<(OwnedFd, Option<SocketAddr>), Errno> {
    loop {
        if let_go::has_begun() {
            return Err(Errno::AGAIN);
        }
        match net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((socket, address)) => {
                return Ok((socket, address.and_then(|any| any.try_into().ok())));
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn add(epoll: &OwnedFd, listener: &OwnedFd, data: u64, armed: Armed) -> io::Result<()> {
    // Edge-triggered as tokio expects; the flag refuses EPOLLRDHUP.
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    let flags = if armed == Armed::Watch { flags } else { flags | epoll::EventFlags::EXCLUSIVE };
    epoll::add(epoll, listener, epoll::EventData::new_u64(data), flags)?;
    Ok(())
}

/// Replaces tokio's entry and looks whether the kernel took the flag. Leaves no entry behind.
fn exclusive_works(epoll: &OwnedFd, listener: &OwnedFd, data: u64) -> io::Result<bool> {
    epoll::delete(epoll, listener)?;
    add(epoll, listener, data, Armed::Turn)?;
    let inode = rustix::fs::fstat(listener)?.st_ino;
    let taken = entries(epoll.as_raw_fd())?
        .any(|entry| entry.is_for(listener.as_raw_fd(), inode) && entry.events & EXCLUSIVE_BIT != 0);
    epoll::delete(epoll, listener)?;
    Ok(taken)
}

/// The epoll that has an entry for `listener`, and the entry's data.
fn runtime_entry(listener: &OwnedFd) -> Option<(OwnedFd, u64)> {
    let inode = rustix::fs::fstat(listener).ok()?.st_ino;
    for descriptor in fs::read_dir("/proc/self/fd").ok()?.flatten() {
        let is_epoll = fs::read_link(descriptor.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:[eventpoll]");
        let Some(number) = descriptor.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        if !is_epoll {
            continue;
        }
        let found =
            entries(number).ok().and_then(|mut all| all.find(|entry| entry.is_for(listener.as_raw_fd(), inode)));
        if let Some(entry) = found {
            // SAFETY: `borrow_raw` requires that the descriptor stays open while it is borrowed, here for one
            // fcntl(2). It is the epoll in which this thread's runtime has just registered `listener`, and the
            // runtime, whose context the caller is in, closes it only when it is dropped.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            let epoll = rustix::io::fcntl_dupfd_cloexec(borrowed, 0).ok()?;
            return Some((epoll, entry.data));
        }
    }
    None
}

/// A line of an epoll's fdinfo (proc_pid_fdinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct FdinfoEntry {
    target: RawFd,
    events: u32,
    data: u64,
    inode: u64,
}

impl FdinfoEntry {
    /// The number alone is not enough: an entry outlives its number while a duplicate of the file is open.
    fn is_for(&self, descriptor: RawFd, inode: u64) -> bool {
        self.target == descriptor && self.inode == inode
    }

    /// `tfd:        9 events:       19 data: 5581a0  pos:0 ino:2f1 sdev:8`
    fn parse(line: &str) -> Option<Self> {
        let (mut target, mut events, mut data, mut inode) = (None, None, None, None);
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            match word.split_once(':')? {
                ("tfd", "") => target = words.next()?.parse().ok(),
                ("events", "") => events = u32::from_str_radix(words.next()?, 16).ok(),
                ("data", "") => data = u64::from_str_radix(words.next()?, 16).ok(),
                ("ino", value) => inode = u64::from_str_radix(value, 16).ok(),
                _ => {}
            }
        }
        Some(Self { target: target?, events: events?, data: data?, inode: inode? })
    }
}

fn entries(epoll: RawFd) -> io::Result<impl Iterator<Item = FdinfoEntry>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{epoll}"))?;
    let lines: Vec<_> = text.lines().filter_map(FdinfoEntry::parse).collect();
    Ok(lines.into_iter())
}

/// An accepted connection.
#[derive(Debug)]
pub enum Stream {
    /// TCP, with `TCP_NODELAY`.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Stream {
    /// Whether bytes wait in the kernel at this moment, whatever the runtime has noticed so far.
    pub fn has_input(&self) -> bool {
        let mut byte = [0_u8; 1];
        matches!(net::recv(self, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((_, 1..)))
    }

    /// Ready when there is something to read, the end included.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    /// How many bytes can be read, 0 at the end; at most 1 is reported. A stale readiness is cleared.
    ///
    /// # Errors
    /// As recv(2), `WouldBlock` included.
    pub fn try_peek(&self) -> io::Result<usize> {
        let peek = || {
            let (_, length) = net::recv(self, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
            Ok(length)
        };
        match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, peek),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, peek),
        }
    }

    /// Writes what fits without waiting.
    ///
    /// # Errors
    /// As write(2).
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Makes the coming close a reset, by which the peer knows that it has not got everything.
    pub fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            // It fails only if the connection is gone already.
            let _ = stream.set_zero_linger();
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Errors of accept(2) that say nothing about the next accept: the connection is gone, or its network is.
pub(crate) fn concerns_one_connection(error: &io::Error) -> bool {
    let gone = [
        libc::ECONNABORTED,
        libc::ECONNRESET,
        libc::EPROTO,
        libc::ENETDOWN,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::ETIMEDOUT,
    ];
    error.raw_os_error().is_some_and(|code| gone.contains(&code))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn listening() -> (TcpListener, Acceptor) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let shared = OwnedFd::from(listener.try_clone().expect("a descriptor"));
        let acceptor = Acceptor::new(shared).expect("a listening socket");
        (listener, acceptor)
    }

    fn connect(listener: &TcpListener) -> std::net::TcpStream {
        let address = listener.local_addr().expect("bound");
        std::net::TcpStream::connect(address).expect("the listener is open")
    }

    /// Asks once, as an accept loop does before it sleeps.
    async fn asked(acceptor: &mut Acceptor) -> Poll<io::Result<(Stream, PeerAddress)>> {
        poll_fn(|cx| Poll::Ready(acceptor.poll_accept(cx))).await
    }

    #[tokio::test]
    async fn the_kernel_takes_the_exclusive_registration() {
        let (listener, mut acceptor) = listening();
        assert_eq!(acceptor.registration(), Registration::Exclusive);
        let client = connect(&listener);
        let accepted = timeout(PATIENCE, acceptor.accept()).await.expect("in time");
        let (stream, address) = accepted.expect("a connection");
        let expected = client.local_addr().expect("connected");
        assert_eq!(address, PeerAddress::Inet(expected));
        let Stream::Tcp(stream) = stream else { panic!("not TCP") };
        assert!(stream.nodelay().expect("open"), "inherited");
        let flags = rustix::io::fcntl_getfd(&stream).expect("open");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[tokio::test]
    async fn the_ordinary_registration_serves_as_well() {
        let (listener, mut acceptor) = listening();
        // As on a system without the flag.
        acceptor.entry = None;
        let io = register(acceptor.io.into_inner()).expect("a listening socket");
        let mut acceptor = Acceptor { io, ..acceptor };
        assert_eq!(acceptor.registration(), Registration::Ordinary);
        let _clients: Vec<_> = (0..3).map(|_| connect(&listener)).collect();
        for _ in 0..3 {
            let accepted = timeout(PATIENCE, acceptor.accept()).await;
            accepted.expect("in time").expect("a connection");
        }
        assert!(acceptor.disarm().is_none());
    }

    #[tokio::test]
    async fn connections_that_came_before_the_accept_are_found() {
        let (listener, mut acceptor) = listening();
        let _clients: Vec<_> = (0..3).map(|_| connect(&listener)).collect();
        for _ in 0..3 {
            let accepted = timeout(PATIENCE, acceptor.accept()).await;
            accepted.expect("in time").expect("a connection");
        }
        assert!(asked(&mut acceptor).await.is_pending());
    }

    #[tokio::test]
    async fn leaving_the_queue_takes_the_connection_that_it_was_woken_for() {
        let (listener, mut acceptor) = listening();
        assert!(acceptor.disarm().is_none(), "it never stood there");
        assert!(asked(&mut acceptor).await.is_pending());
        let _client = connect(&listener);
        assert!(matches!(acceptor.disarm(), Some(Ok(_))));
        assert!(asked(&mut acceptor).await.is_pending());
        assert!(acceptor.disarm().is_none(), "nothing has come");
    }

    #[tokio::test]
    async fn who_stands_beside_the_queue_is_told_and_takes_nobodys_turn() {
        let (listener, mut acceptor) = listening();
        let came = async |acceptor: &mut Acceptor| poll_fn(|cx| Poll::Ready(acceptor.poll_came(cx).is_ready())).await;
        assert!(!came(&mut acceptor).await && !acceptor.waits());
        let _client = connect(&listener);
        timeout(PATIENCE, poll_fn(|cx| acceptor.poll_came(cx))).await.expect("in time").expect("told");
        assert!(acceptor.waits());
        assert!(!came(&mut acceptor).await, "once, until it looks again");
        assert!(acceptor.disarm().is_none(), "it was no turn of its own");
        let accepted = timeout(PATIENCE, acceptor.accept()).await;
        accepted.expect("in time").expect("a connection");
        assert!(!acceptor.waits());
    }

    #[tokio::test]
    async fn dropping_stops_no_other_holder() {
        let (listener, acceptor) = listening();
        let again = OwnedFd::from(listener.try_clone().expect("a descriptor"));
        let mut other = Acceptor::new(again).expect("a listening socket");
        drop(acceptor);
        let _client = connect(&listener);
        let accepted = timeout(PATIENCE, other.accept()).await;
        accepted.expect("in time").expect("a connection");
    }

    /// The first in the queue takes the wake-up and dies before its accept.
    #[tokio::test]
    async fn a_nudge_finds_a_connection_whose_wake_up_was_swallowed() {
        let (listener, mut acceptor) = listening();
        let other = listener.try_clone().expect("a descriptor");
        let (tell, told) = mpsc::channel();
        let thief = std::thread::spawn(move || {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET | epoll::EventFlags::EXCLUSIVE;
            epoll::add(&epoll, &other, epoll::EventData::new_u64(0), flags).expect("added");
            tell.send(rustix::thread::gettid()).expect("the test waits");
            let mut events = Vec::with_capacity(1);
            let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
            epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&patience)).expect("a wake-up");
            events.len()
        });
        let thread = told.recv().expect("the thread lives");
        // The kernel passes over an epoll on which nobody sleeps.
        let state = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
        while !fs::read_to_string(&state).expect("it lives").contains(") S ") {
            std::thread::yield_now();
        }
        assert!(asked(&mut acceptor).await.is_pending());
        let _client = connect(&listener);
        assert_eq!(thief.join().expect("no panic"), 1, "it was woken");
        let unnoticed = timeout(Duration::from_millis(50), acceptor.accept()).await;
        assert!(unnoticed.is_err(), "the other one took the wake-up");
        acceptor.nudge().expect("an open listener");
        let accepted = timeout(PATIENCE, acceptor.accept()).await;
        accepted.expect("in time").expect("a connection");
    }

    #[test]
    fn fdinfo_lines_are_read() {
        let line = "tfd:        9 events: 90000001 data:     55d0f00ba5  pos:0 ino:2f1 sdev:8";
        let entry = FdinfoEntry { target: 9, events: 0x9000_0001, data: 0x55_d0f0_0ba5, inode: 0x2f1 };
        assert_eq!(FdinfoEntry::parse(line), Some(entry));
        assert_eq!(FdinfoEntry::parse("flags:\t02"), None);
        assert_eq!(FdinfoEntry::parse("tfd: x events: 1 data: 1 ino:1"), None);
    }
}

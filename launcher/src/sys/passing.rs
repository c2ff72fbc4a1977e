//! Open connections on their way from one process to another: `SCM_RIGHTS` on a `SOCK_SEQPACKET` pair, unix(7).
//!
//! What is in flight belongs to nobody's table of descriptors: it lives in the socket's queue for as long as any
//! process holds the receiving end, whoever dies meanwhile. Nothing here waits; `WouldBlock` says that one should.
//!
//! It knows neither what the bytes of a message mean nor who may receive it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
};
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpStream, UnixStream};

use super::accept::{PeerAddress, Stream};

/// Descriptors of one message; the kernel's own limit is 253 (`SCM_MAX_FD`).
pub const DESCRIPTORS: usize = 65;

/// Two connected ends, close-on-exec and non-blocking.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends one message. The descriptors stay the caller's; the kernel has its own references then.
///
/// # Errors
/// `WouldBlock`: the queue is full, or too many descriptors of this user are in flight (`ETOOMANYREFS`: more than
/// RLIMIT_NOFILE). Otherwise as sendmsg(2).
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // NOSIGNAL: that nobody is at the other end any more must not end this process by SIGPIPE.
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
        Ok(_) => Ok(()),
        Err(Errno::TOOMANYREFS) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => Err(error.into()),
    }
}

/// A message as it came. Nothing in it is checked.
#[derive(Debug)]
pub struct Received {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its descriptors, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// Bytes or descriptors did not fit, and what did not is lost.
    pub cut: bool,
}

/// The next message, of at most `most` bytes. Without bytes it is the end, or an empty message.
///
/// # Errors
/// As recvmsg(2), `WouldBlock` included.
pub fn receive(socket: impl AsFd, most: usize) -> io::Result<Received> {
    let mut bytes = vec![0; most];
    let (length, descriptors, cut) = receive_into(socket, &mut bytes)?;
    bytes.truncate(length);
    Ok(Received { bytes, descriptors, cut })
}

/// The same into room that is there: how many bytes came, the descriptors, and whether something did not fit.
///
/// # Errors
/// As [`receive`].
pub fn receive_into(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>, bool)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut receive = || net::recvmsg(&socket, &mut [IoSliceMut::new(bytes)], &mut control, flags);
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
    let cut = received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC);
    Ok((received.bytes, descriptors, cut))
}

/// Whether nobody holds the other end any more.
pub fn is_over(socket: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&socket, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().contains(PollFlags::HUP)
}

/// Whether the socket would take a message now, unless too many descriptors of this user are in flight.
pub fn is_writable(socket: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&socket, PollFlags::OUT)];
    poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().contains(PollFlags::OUT)
}

/// Whether this process may open `count` more descriptors now. Those of a message for which there is no room are
/// closed by the kernel, and their connections with them. `sample` is any descriptor.
pub fn has_room(sample: impl AsFd, count: usize) -> bool {
    let most = getrlimit(Resource::Nofile).current;
    // The size of that directory is the number of its entries since Linux 6.2, proc_pid_fd(5), and 0 before.
    let open = rustix::fs::stat("/proc/self/fd").map_or(0, |stat| stat.st_size);
    match (most, u64::try_from(open)) {
        (None, _) => true,
        (Some(most), Ok(open @ 1..)) => open + count as u64 <= most,
        _ => can_duplicate(sample, count),
    }
}

/// The same, tried: 1.5 microseconds a descriptor.
fn can_duplicate(sample: impl AsFd, count: usize) -> bool {
    let mut taken = Vec::with_capacity(count);
    for _ in 0..count {
        match rustix::io::fcntl_dupfd_cloexec(&sample, 0) {
            Ok(descriptor) => taken.push(descriptor),
            Err(_) => return false,
        }
    }
    true
}

/// Whether it says that this process, or the system, may open no more descriptors.
pub fn is_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Makes a connection of a descriptor that came from another process. Must be called within a tokio runtime.
///
/// # Errors
/// It is no connected stream socket: a listening one among them, whose shutdown(2) would stop every holder. Or the
/// peer has reset the connection. Or the event loop does not take it.
pub fn adopt(socket: OwnedFd) -> io::Result<(Stream, PeerAddress)> {
    if sockopt::socket_type(&socket)? != SocketType::STREAM {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let peer = net::getpeername(&socket)?;
    // The flag is the open file's and normally set already; a blocking socket would stop the whole worker.
    rustix::io::ioctl_fionbio(&socket, true)?;
    match sockopt::socket_domain(&socket)? {
        AddressFamily::UNIX => Ok((Stream::Unix(UnixStream::from_std(socket.into())?), PeerAddress::Unix)),
        AddressFamily::INET | AddressFamily::INET6 => {
            let address = peer.and_then(|any| any.try_into().ok());
            let address = address.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
            Ok((Stream::Tcp(TcpStream::from_std(socket.into())?), PeerAddress::Inet(address)))
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn what_is_in_flight_outlives_its_sender() {
        let (give, take) = pair().expect("a pair");
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a connection");
        send(&give, b"bytes", &[theirs.as_fd()]).expect("sent");
        drop((give, theirs));
        assert!(is_over(&take));
        ours.write_all(b"more").expect("the other end is in flight");
        let received = receive(&take, 100).expect("a message");
        assert_eq!((received.bytes.as_slice(), received.cut), (&b"bytes"[..], false));
        let [theirs] = <[OwnedFd; 1]>::try_from(received.descriptors).expect("one descriptor");
        assert!(rustix::io::fcntl_getfd(&theirs).expect("open").contains(rustix::io::FdFlags::CLOEXEC));
        let mut read = [0; 4];
        File::from(theirs).read_exact(&mut read).expect("what came meanwhile");
        assert_eq!(&read, b"more");
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said() {
        let (give, take) = pair().expect("a pair");
        send(&give, &[7; 200], &[]).expect("sent");
        let received = receive(&take, 100).expect("a message");
        assert_eq!((received.bytes.len(), received.cut), (100, true));
        assert_eq!(receive(&take, 100).expect_err("nothing more").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_full_queue_is_no_failure() {
        let (give, _take) = pair().expect("a pair");
        assert!(!is_over(&give));
        let error = (0..100_000).find_map(|_| send(&give, &[0; 4096], &[]).err()).expect("it fills");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn room_is_known_and_can_be_tried() {
        let (give, _take) = pair().expect("a pair");
        let most = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
        for has_room in [has_room, can_duplicate] {
            assert!(has_room(&give, 10));
        }
        // Not tried with the other one: tests beside this one would find no descriptor.
        assert!(most.is_none_or(|most| !has_room(&give, most)));
    }

    #[tokio::test]
    async fn only_a_connection_is_adopted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (server, address) = listener.accept().expect("a connection");
        let (_stream, peer) = adopt(server.into()).expect("a connection");
        assert_eq!(peer, PeerAddress::Inet(address));
        assert_eq!(address, client.local_addr().expect("connected"));

        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        udp.connect(listener.local_addr().expect("bound")).expect("connects");
        let strangers: [OwnedFd; 4] = [
            listener.into(),
            udp.into(),
            File::open("/dev/null").expect("it exists").into(),
            pair().expect("a pair").0,
        ];
        for stranger in strangers {
            assert!(adopt(stranger).is_err());
        }
    }
}

//! A bound UDP socket: one that the program inherits and shares with other workers, or one of its own for peers of
//! `wasm.network`.
//!
//! A datagram is read when the guest asks for it and never before, so that none is lost with a worker that leaves. A
//! shared socket is never connected: that would be for every worker. Whoever has written to it may be answered.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use wasmtime_wasi::sockets::SocketAddrUse;

use super::{ErrorCode, Sockets};

/// Peers that are remembered, at least; twice as many at most.
const PEERS: usize = 8192;

/// Bytes of the largest datagram (RFC 768: a length of 16 bits).
pub(super) const LARGEST: usize = 65_535;

/// A socket that sends and receives.
pub(crate) struct Datagrams {
    address: SocketAddr,
    socket: UdpSocket,
    shared: bool,
    state: Mutex<State>,
}

struct State {
    claimed: bool,
    used: bool,
    peers: Peers,
    buffer: Vec<u8>,
}

/// Who may be written to: whoever wrote lately, or was allowed by the network's list. Two generations, of which the
/// older one is forgotten as a whole, instead of a time for each.
#[derive(Default)]
struct Peers {
    recent: HashSet<SocketAddr>,
    older: HashSet<SocketAddr>,
}

impl Peers {
    fn remember(&mut self, peer: SocketAddr) {
        if self.recent.contains(&peer) {
            return;
        }
        if self.recent.len() >= PEERS {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(peer);
    }

    fn has(&self, peer: SocketAddr) -> bool {
        self.recent.contains(&peer) || self.older.contains(&peer)
    }
}

impl Datagrams {
    /// One that the program inherits.
    pub(super) fn shared(address: SocketAddr, socket: UdpSocket) -> Datagrams {
        Datagrams::new(address, socket, true)
    }

    /// One of the guest's own.
    pub(super) fn own(address: SocketAddr, socket: UdpSocket) -> Datagrams {
        Datagrams::new(address, socket, false)
    }

    fn new(address: SocketAddr, socket: UdpSocket, shared: bool) -> Datagrams {
        let state = State { claimed: false, used: false, peers: Peers::default(), buffer: Vec::new() };
        Datagrams { address, socket, shared, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    pub(super) fn was_used(&self) -> bool {
        self.lock().used
    }

    /// A datagram, `WouldBlock` if there is none.
    pub(super) fn try_receive(&self, sockets: &Sockets) -> io::Result<(Vec<u8>, SocketAddr)> {
        if self.shared && sockets.is_draining() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut state = self.lock();
        let State { peers, buffer, .. } = &mut *state;
        buffer.resize(LARGEST, 0);
        loop {
            let (length, peer) = self.socket.try_recv_from(buffer)?;
            if self.shared {
                sockets.observer.received();
                peers.remember(peer);
            } else if !peers.has(peer) {
                // Nobody that the guest has written to.
                continue;
            }
            return Ok((buffer[..length].to_vec(), peer));
        }
    }

    pub(super) fn poll_receive_ready(&self, sockets: &Sockets, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared && sockets.is_draining() {
            return Poll::Pending;
        }
        self.socket.poll_recv_ready(cx).map(drop)
    }

    pub(super) fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_send_ready(cx).map(drop)
    }

    /// Whether the guest may write to this peer.
    pub(super) async fn permit(&self, peer: SocketAddr, sockets: &Sockets) -> Result<(), ErrorCode> {
        if self.lock().peers.has(peer) {
            return Ok(());
        }
        if !sockets.network.permits(peer, SocketAddrUse::UdpSend).await {
            return Err(sockets.refuse_peer("send a datagram to", peer));
        }
        if !self.shared {
            self.lock().peers.remember(peer);
        }
        Ok(())
    }

    /// Sends a datagram to a peer that is [permitted](Self::permit); `WouldBlock` if the system has no room.
    pub(super) fn try_send(&self, bytes: &[u8], peer: SocketAddr) -> io::Result<()> {
        let send = || -> io::Result<()> {
            rustix::net::sendto(&self.socket, bytes, SendFlags::DONTWAIT, &peer)?;
            Ok(())
        };
        match send() {
            // Once more where the runtime sees it. The system is asked first, because the runtime learns that a new
            // socket can be written to only when it has slept once.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.socket.try_io(Interest::WRITABLE, send),
            other => other,
        }
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A guest's hold on a socket.
pub(crate) struct Bound {
    pub(super) datagrams: Arc<Datagrams>,
}

impl Bound {
    /// To a socket that no other one of the guest is bound to.
    pub(super) fn to(datagrams: &Arc<Datagrams>) -> Result<Bound, ErrorCode> {
        let mut state = datagrams.lock();
        if state.claimed {
            return Err(ErrorCode::AddressInUse);
        }
        state.claimed = true;
        Ok(Bound { datagrams: Arc::clone(datagrams) })
    }

    /// The guest receives from now on.
    pub(super) fn receive(&self, sockets: &Sockets) {
        let first = !std::mem::replace(&mut self.datagrams.lock().used, true);
        sockets.note_used(first && self.datagrams.shared);
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.datagrams.lock().claimed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_of_peers_is_remembered_the_latest_ones_surely() {
        let peer = |number: usize| SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 7));
        let mut peers = Peers::default();
        for number in 0..3 * PEERS {
            peers.remember(peer(number));
            assert!(peers.recent.len() + peers.older.len() <= 2 * PEERS);
        }
        assert!((2 * PEERS + 1..3 * PEERS).all(|number| peers.has(peer(number))));
        assert!(!peers.has(peer(0)));
    }
}

//! A UDP socket of a guest, of either version of WASI.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::datagrams::{Bound, Datagrams};
use super::options::{self, Name, Options};
use super::{ErrorCode, Family, Sockets, is_peer};

/// A socket.
#[expect(unreachable_pub, reason = "the engine's macro re-exports it")]
pub struct UdpSocket {
    sockets: Arc<Sockets>,
    family: Family,
    options: Options,
    bound: Option<Arc<Bound>>,
    remote: Option<SocketAddr>,
}

impl UdpSocket {
    pub(super) fn new(sockets: &Arc<Sockets>, family: Family) -> UdpSocket {
        UdpSocket { sockets: Arc::clone(sockets), family, options: Options::default(), bound: None, remote: None }
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    pub(super) fn sockets(&self) -> &Arc<Sockets> {
        &self.sockets
    }

    /// What it sends and receives by.
    pub(super) fn bound(&self) -> Result<&Arc<Bound>, ErrorCode> {
        self.bound.as_ref().ok_or(ErrorCode::InvalidState)
    }

    pub(super) fn bind(&mut self, address: SocketAddr) -> Result<(), ErrorCode> {
        if self.bound.is_some() {
            return Err(ErrorCode::InvalidState);
        }
        if !self.family.has(address.ip()) {
            return Err(ErrorCode::InvalidArgument);
        }
        let bound = match self.sockets.datagrams(address) {
            Some(datagrams) => Bound::to(datagrams)?,
            None if self.sockets.permits_own_port(address) => {
                let socket = std::net::UdpSocket::bind(address)?;
                socket.set_nonblocking(true)?;
                let address = socket.local_addr()?;
                let socket = tokio::net::UdpSocket::from_std(socket)?;
                self.options.apply(socket.as_fd(), self.family);
                Bound::to(&Arc::new(Datagrams::own(address, socket)))?
            }
            None => return Err(self.sockets.refuse_bind("UDP", address)),
        };
        self.bound = Some(Arc::new(bound));
        Ok(())
    }

    /// Binds it to a port of its own if it is not bound, as sending does.
    pub(super) fn bind_anywhere(&mut self) -> Result<(), ErrorCode> {
        if self.bound.is_some() { Ok(()) } else { self.bind(self.family.unspecified()) }
    }

    /// Chooses the peer to which it sends and from which it receives. An inherited socket has none: it is shared, and
    /// what this worker would leave out would be lost.
    pub(super) async fn connect(&mut self, peer: SocketAddr) -> Result<(), ErrorCode> {
        if !self.family.has(peer.ip()) || !is_peer(peer) {
            return Err(ErrorCode::InvalidArgument);
        }
        self.bind_anywhere()?;
        let datagrams = &self.bound()?.datagrams;
        if datagrams.is_shared() {
            return Err(ErrorCode::NotSupported);
        }
        datagrams.permit(peer, &self.sockets).await?;
        self.remote = Some(peer);
        Ok(())
    }

    pub(super) fn disconnect(&mut self) -> Result<(), ErrorCode> {
        self.remote.take().map(drop).ok_or(ErrorCode::InvalidState)
    }

    pub(super) fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    pub(super) fn local_address(&self) -> Result<SocketAddr, ErrorCode> {
        Ok(self.bound()?.datagrams.address())
    }

    /// The peer of a datagram that is to be sent.
    pub(super) fn peer(&self, given: Option<SocketAddr>) -> Result<SocketAddr, ErrorCode> {
        peer(self.family, self.remote, given)
    }

    pub(super) fn option(&self, name: Name) -> Result<u64, ErrorCode> {
        match &self.bound {
            Some(bound) if !bound.datagrams.is_shared() => options::get(bound.datagrams.as_fd(), self.family, name),
            _ => Ok(self.options.get(name)),
        }
    }

    pub(super) fn set_option(&mut self, name: Name, value: u64) -> Result<(), ErrorCode> {
        match &self.bound {
            Some(bound) if !bound.datagrams.is_shared() => {
                options::set(bound.datagrams.as_fd(), self.family, name, value)
            }
            _ => self.options.remember(name, value),
        }
    }
}

/// The peer of a datagram: the one that is given with it, which must be that of a connected socket if there is one.
pub(super) fn peer(
    family: Family,
    connected: Option<SocketAddr>,
    given: Option<SocketAddr>,
) -> Result<SocketAddr, ErrorCode> {
    let peer = given.or(connected).ok_or(ErrorCode::InvalidArgument)?;
    let good = is_peer(peer) && family.has(peer.ip()) && connected.is_none_or(|connected| connected == peer);
    if good { Ok(peer) } else { Err(ErrorCode::InvalidArgument) }
}

//! `wasi:sockets/udp@0.2`.

use std::net::SocketAddr;
use std::sync::Arc;

use std::io;

use wasmtime::component::Resource;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode as Code, IpAddressFamily, IpSocketAddress, Network as NetworkResource,
};
use wasmtime_wasi::p2::{DynPollable, Pollable, SocketError, SocketResult, subscribe};

use super::bindings::p2::{udp, udp_create_socket};
use super::datagrams::{Bound, LARGEST};
use super::options::Name;
use super::udp::{UdpSocket, peer};
use super::{ErrorCode, Family, Sockets, View};

/// Datagrams of one call.
const AT_ONCE: usize = 16;

/// Bytes of one call.
const BYTES_AT_ONCE: usize = 64 << 10;

/// The resource.
#[expect(unreachable_pub, reason = "the engine's macro re-exports it")]
pub struct UdpSocket02 {
    socket: UdpSocket,
    binding: bool,
}

/// What a socket receives by.
#[expect(unreachable_pub, reason = "the engine's macro re-exports it")]
pub struct Incoming {
    bound: Arc<Bound>,
    sockets: Arc<Sockets>,
    remote: Option<SocketAddr>,
}

/// What a socket sends by.
#[expect(unreachable_pub, reason = "the engine's macro re-exports it")]
pub struct Outgoing {
    bound: Arc<Bound>,
    sockets: Arc<Sockets>,
    family: Family,
    remote: Option<SocketAddr>,
    permitted: usize,
}

#[async_trait]
impl Pollable for UdpSocket02 {
    async fn ready(&mut self) {}
}

#[async_trait]
impl Pollable for Incoming {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.bound.datagrams.poll_receive_ready(&self.sockets, cx)).await;
    }
}

#[async_trait]
impl Pollable for Outgoing {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.bound.datagrams.poll_send_ready(cx)).await;
    }
}

impl udp_create_socket::Host for View<'_> {
    fn create_udp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket02>> {
        let socket = UdpSocket::new(self.sockets, family.into());
        Ok(self.table.push(UdpSocket02 { socket, binding: false })?)
    }
}

impl udp::Host for View<'_> {}

impl udp::HostUdpSocket for View<'_> {
    fn start_bind(
        &mut self,
        this: Resource<UdpSocket02>,
        network: Resource<NetworkResource>,
        address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network)?;
        let socket = self.table.get_mut(&this)?;
        if socket.binding {
            return Err(Code::ConcurrencyConflict.into());
        }
        socket.socket.bind(address.into())?;
        socket.binding = true;
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<UdpSocket02>) -> SocketResult<()> {
        match std::mem::take(&mut self.table.get_mut(&this)?.binding) {
            true => Ok(()),
            false => Err(Code::NotInProgress.into()),
        }
    }

    async fn stream(
        &mut self,
        this: Resource<UdpSocket02>,
        remote: Option<IpSocketAddress>,
    ) -> SocketResult<(Resource<Incoming>, Resource<Outgoing>)> {
        if self.table.iter_children(&this)?.any(|child| child.is::<Incoming>() || child.is::<Outgoing>()) {
            return Err(SocketError::trap(wasmtime::format_err!("the streams of the socket are not dropped yet")));
        }
        let socket = &mut self.table.get_mut(&this)?.socket;
        let bound = Arc::clone(socket.bound()?);
        match remote {
            Some(remote) => socket.connect(remote.into()).await?,
            // It was not connected before.
            None => drop(socket.disconnect()),
        }
        let (sockets, family, remote) = (Arc::clone(socket.sockets()), socket.family(), socket.remote());
        bound.receive(&sockets);
        let incoming = Incoming { bound: Arc::clone(&bound), sockets: Arc::clone(&sockets), remote };
        let outgoing = Outgoing { bound, sockets, family, remote, permitted: 0 };
        Ok((self.table.push_child(incoming, &this)?, self.table.push_child(outgoing, &this)?))
    }

    fn local_address(&mut self, this: Resource<UdpSocket02>) -> SocketResult<IpSocketAddress> {
        Ok(self.table.get(&this)?.socket.local_address()?.into())
    }

    fn remote_address(&mut self, this: Resource<UdpSocket02>) -> SocketResult<IpSocketAddress> {
        Ok(self.table.get(&this)?.socket.remote().ok_or(ErrorCode::InvalidState)?.into())
    }

    fn address_family(&mut self, this: Resource<UdpSocket02>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get(&this)?.socket.family().into())
    }

    fn unicast_hop_limit(&mut self, this: Resource<UdpSocket02>) -> SocketResult<u8> {
        let value = self.table.get(&this)?.socket.option(Name::HopLimit)?;
        Ok(u8::try_from(value).unwrap_or(u8::MAX))
    }

    fn set_unicast_hop_limit(&mut self, this: Resource<UdpSocket02>, value: u8) -> SocketResult<()> {
        Ok(self.table.get_mut(&this)?.socket.set_option(Name::HopLimit, value.into())?)
    }

    fn receive_buffer_size(&mut self, this: Resource<UdpSocket02>) -> SocketResult<u64> {
        Ok(self.table.get(&this)?.socket.option(Name::ReceiveBuffer)?)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<UdpSocket02>, value: u64) -> SocketResult<()> {
        Ok(self.table.get_mut(&this)?.socket.set_option(Name::ReceiveBuffer, value)?)
    }

    fn send_buffer_size(&mut self, this: Resource<UdpSocket02>) -> SocketResult<u64> {
        Ok(self.table.get(&this)?.socket.option(Name::SendBuffer)?)
    }

    fn set_send_buffer_size(&mut self, this: Resource<UdpSocket02>, value: u64) -> SocketResult<()> {
        Ok(self.table.get_mut(&this)?.socket.set_option(Name::SendBuffer, value)?)
    }

    fn subscribe(&mut self, this: Resource<UdpSocket02>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, this)
    }

    fn drop(&mut self, this: Resource<UdpSocket02>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl udp::HostIncomingDatagramStream for View<'_> {
    fn receive(&mut self, this: Resource<Incoming>, most: u64) -> SocketResult<Vec<udp::IncomingDatagram>> {
        let incoming = self.table.get(&this)?;
        let most = usize::try_from(most).unwrap_or(AT_ONCE).min(AT_ONCE);
        let (mut datagrams, mut bytes) = (Vec::new(), 0);
        while datagrams.len() < most && bytes < BYTES_AT_ONCE {
            match incoming.bound.datagrams.try_receive(&incoming.sockets) {
                Ok((_, from)) if incoming.remote.is_some_and(|remote| remote != from) => {}
                Ok((data, from)) => {
                    bytes += data.len();
                    datagrams.push(udp::IncomingDatagram { data, remote_address: from.into() });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) if !datagrams.is_empty() => break,
                Err(error) => return Err(Code::from(error).into()),
            }
        }
        Ok(datagrams)
    }

    fn subscribe(&mut self, this: Resource<Incoming>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, this)
    }

    fn drop(&mut self, this: Resource<Incoming>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl udp::HostOutgoingDatagramStream for View<'_> {
    fn check_send(&mut self, this: Resource<Outgoing>) -> SocketResult<u64> {
        self.table.get_mut(&this)?.permitted = AT_ONCE;
        Ok(AT_ONCE as u64)
    }

    async fn send(&mut self, this: Resource<Outgoing>, datagrams: Vec<udp::OutgoingDatagram>) -> SocketResult<u64> {
        let outgoing = self.table.get_mut(&this)?;
        if datagrams.len() > outgoing.permitted {
            return Err(SocketError::trap(wasmtime::format_err!("not permitted to send so many datagrams")));
        }
        outgoing.permitted = 0;
        let mut sent = 0;
        for datagram in datagrams {
            match outgoing.send_one(&datagram).await {
                Ok(()) => sent += 1,
                // What is wrong is told by the next call, which begins with this datagram.
                Err(_) if sent > 0 => break,
                Err(Code::WouldBlock) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent)
    }

    fn subscribe(&mut self, this: Resource<Outgoing>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, this)
    }

    fn drop(&mut self, this: Resource<Outgoing>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl Outgoing {
    async fn send_one(&self, datagram: &udp::OutgoingDatagram) -> Result<(), Code> {
        let to = peer(self.family, self.remote, datagram.remote_address.map(SocketAddr::from))?;
        if datagram.data.len() > LARGEST {
            return Err(Code::DatagramTooLarge);
        }
        self.bound.datagrams.permit(to, &self.sockets).await?;
        Ok(self.bound.datagrams.try_send(&datagram.data, to)?)
    }
}

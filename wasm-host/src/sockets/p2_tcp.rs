//! `wasi:sockets/tcp@0.2`.
//!
//! What its functions name `start` is done at once, but for connecting; `finish` then only tells.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use wasmtime::component::Resource;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::bindings::sockets::network::{
    self, ErrorCode as Code, IpAddressFamily, IpSocketAddress, Network as NetworkResource,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, Pollable, SocketError, SocketResult, subscribe};

use super::bindings::p2::{tcp, tcp_create_socket};
use super::connection::{Connection, Reader, Writer};
use super::options::Name;
use super::tcp::TcpSocket;
use super::{Family, View};

/// The resource.
#[expect(unreachable_pub, reason = "the engine's macro re-exports it")]
pub struct TcpSocket02 {
    socket: TcpSocket,
    step: Option<Step>,
}

/// Begun and not finished.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Bind,
    Connect,
    Listen,
}

impl TcpSocket02 {
    fn begin(&self) -> SocketResult<()> {
        if self.step.is_some() { Err(Code::ConcurrencyConflict.into()) } else { Ok(()) }
    }

    fn finish(&mut self, step: Step) -> SocketResult<()> {
        if self.step != Some(step) {
            return Err(Code::NotInProgress.into());
        }
        self.step = None;
        Ok(())
    }
}

#[async_trait]
impl Pollable for TcpSocket02 {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| match self.step {
            Some(Step::Connect) => self.socket.poll_connect(cx).map(drop),
            Some(_) => Poll::Ready(()),
            None => self.socket.poll_accept_ready(cx),
        })
        .await;
    }
}

impl From<IpAddressFamily> for Family {
    fn from(family: IpAddressFamily) -> Family {
        match family {
            IpAddressFamily::Ipv4 => Family::V4,
            IpAddressFamily::Ipv6 => Family::V6,
        }
    }
}

impl From<Family> for IpAddressFamily {
    fn from(family: Family) -> IpAddressFamily {
        match family {
            Family::V4 => IpAddressFamily::Ipv4,
            Family::V6 => IpAddressFamily::Ipv6,
        }
    }
}

impl network::Host for View<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<Code> {
        error.downcast()
    }

    fn network_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<Code>> {
        Ok(self.table.get(&error)?.downcast_ref::<io::Error>().map(Code::from))
    }
}

impl network::HostNetwork for View<'_> {
    fn drop(&mut self, this: Resource<NetworkResource>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

type Streams = (Resource<DynInputStream>, Resource<DynOutputStream>);

impl View<'_> {
    fn streams(&mut self, of: &Resource<TcpSocket02>, connection: Arc<Connection>) -> SocketResult<Streams> {
        let input: DynInputStream = Box::new(Reader(Arc::clone(&connection)));
        let output: DynOutputStream = Box::new(Writer(connection));
        Ok((self.table.push_child(input, of)?, self.table.push_child(output, of)?))
    }
}

impl tcp_create_socket::Host for View<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket02>> {
        let socket = TcpSocket::new(self.sockets, family.into());
        Ok(self.table.push(TcpSocket02 { socket, step: None })?)
    }
}

impl tcp::Host for View<'_> {}

impl tcp::HostTcpSocket for View<'_> {
    fn start_bind(
        &mut self,
        this: Resource<TcpSocket02>,
        network: Resource<NetworkResource>,
        address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network)?;
        let socket = self.table.get_mut(&this)?;
        socket.begin()?;
        socket.socket.bind(address.into())?;
        socket.step = Some(Step::Bind);
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<TcpSocket02>) -> SocketResult<()> {
        self.table.get_mut(&this)?.finish(Step::Bind)
    }

    fn start_connect(
        &mut self,
        this: Resource<TcpSocket02>,
        network: Resource<NetworkResource>,
        address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network)?;
        let socket = self.table.get_mut(&this)?;
        socket.begin()?;
        socket.socket.start_connect(address.into())?;
        socket.step = Some(Step::Connect);
        Ok(())
    }

    fn finish_connect(&mut self, this: Resource<TcpSocket02>) -> SocketResult<Streams> {
        let socket = self.table.get_mut(&this)?;
        if socket.step != Some(Step::Connect) {
            return Err(Code::NotInProgress.into());
        }
        // Nobody waits here: the guest does, by the pollable.
        let Poll::Ready(outcome) = socket.socket.poll_connect(&mut Context::from_waker(Waker::noop())) else {
            return Err(Code::WouldBlock.into());
        };
        socket.step = None;
        outcome?;
        let connection = Arc::clone(socket.socket.connection()?);
        self.streams(&this, connection)
    }

    fn start_listen(&mut self, this: Resource<TcpSocket02>) -> SocketResult<()> {
        let socket = self.table.get_mut(&this)?;
        socket.begin()?;
        if !socket.socket.is_bound() {
            return Err(Code::InvalidState.into());
        }
        socket.socket.listen()?;
        socket.step = Some(Step::Listen);
        Ok(())
    }

    fn finish_listen(&mut self, this: Resource<TcpSocket02>) -> SocketResult<()> {
        self.table.get_mut(&this)?.finish(Step::Listen)
    }

    fn accept(
        &mut self,
        this: Resource<TcpSocket02>,
    ) -> SocketResult<(Resource<TcpSocket02>, Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let socket = self.table.get_mut(&this)?;
        let Poll::Ready(accepted) = socket.socket.poll_accept(&mut Context::from_waker(Waker::noop())) else {
            return Err(Code::WouldBlock.into());
        };
        let accepted = accepted?;
        let connection = Arc::clone(accepted.connection()?);
        let accepted = self.table.push(TcpSocket02 { socket: accepted, step: None })?;
        let (input, output) = self.streams(&accepted, connection)?;
        Ok((accepted, input, output))
    }

    fn local_address(&mut self, this: Resource<TcpSocket02>) -> SocketResult<IpSocketAddress> {
        Ok(self.table.get(&this)?.socket.local_address()?.into())
    }

    fn remote_address(&mut self, this: Resource<TcpSocket02>) -> SocketResult<IpSocketAddress> {
        Ok(self.table.get(&this)?.socket.remote_address()?.into())
    }

    fn is_listening(&mut self, this: Resource<TcpSocket02>) -> wasmtime::Result<bool> {
        Ok(self.table.get(&this)?.socket.is_listening())
    }

    fn address_family(&mut self, this: Resource<TcpSocket02>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get(&this)?.socket.family().into())
    }

    fn set_listen_backlog_size(&mut self, this: Resource<TcpSocket02>, value: u64) -> SocketResult<()> {
        Ok(self.table.get(&this)?.socket.set_backlog(value)?)
    }

    fn keep_alive_enabled(&mut self, this: Resource<TcpSocket02>) -> SocketResult<bool> {
        let value = self.table.get(&this)?.socket.option(Name::KeepAlive)?;
        Ok(value != 0)
    }

    fn set_keep_alive_enabled(&mut self, this: Resource<TcpSocket02>, value: bool) -> SocketResult<()> {
        Ok(self.table.get_mut(&this)?.socket.set_option(Name::KeepAlive, value.into())?)
    }

    fn keep_alive_idle_time(&mut self, this: Resource<TcpSocket02>) -> SocketResult<u64> {
        Ok(self.table.get(&this)?.socket.option(Name::IdleTime)?)
    }

    fn set_keep_alive_idle_time(&mut self, this: Resource<TcpSocket02>, value: u64) -> SocketResult<()> {
        Ok(self.table.get_mut(&this)?.socket.set_option(Name::IdleTime, value)?)
    }

    fn keep_alive_interval(&mut self, this: Resource<TcpSocket02>) -> SocketResult<u64> {
        Ok(self.table.get(&this)?.socket.option(Name::Interval)?)
    }

    fn set_keep_alive_interval(&mut self, this: Resource<TcpSocket02>, value: u64) -> SocketResult<()> {
        Ok(self.table.get_mut(&this)?.socket.set_option(Name::Interval, value)?)
    }

    fn keep_alive_count(&mut self, this: Resource<TcpSocket02>) -> SocketResult<u32> {
        let value = self.table.get(&this)?.socket.option(Name::Count)?;
        Ok(u32::try_from(value).unwrap_or(u32::MAX))
    }

    fn set_keep_alive_count(&mut self, this: Resource<TcpSocket02>, value: u32) -> SocketResult<()> {
        Ok(self.table.get_mut(&this)?.socket.set_option(Name::Count, value.into())?)
    }

    fn hop_limit(&mut self, this: Resource<TcpSocket02>) -> SocketResult<u8> {
        let value = self.table.get(&this)?.socket.option(Name::HopLimit)?;
        Ok(u8::try_from(value).unwrap_or(u8::MAX))
    }

    fn set_hop_limit(&mut self, this: Resource<TcpSocket02>, value: u8) -> SocketResult<()> {
        Ok(self.table.get_mut(&this)?.socket.set_option(Name::HopLimit, value.into())?)
    }

    fn receive_buffer_size(&mut self, this: Resource<TcpSocket02>) -> SocketResult<u64> {
        Ok(self.table.get(&this)?.socket.option(Name::ReceiveBuffer)?)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<TcpSocket02>, value: u64) -> SocketResult<()> {
        Ok(self.table.get_mut(&this)?.socket.set_option(Name::ReceiveBuffer, value)?)
    }

    fn send_buffer_size(&mut self, this: Resource<TcpSocket02>) -> SocketResult<u64> {
        Ok(self.table.get(&this)?.socket.option(Name::SendBuffer)?)
    }

    fn set_send_buffer_size(&mut self, this: Resource<TcpSocket02>, value: u64) -> SocketResult<()> {
        Ok(self.table.get_mut(&this)?.socket.set_option(Name::SendBuffer, value)?)
    }

    fn subscribe(&mut self, this: Resource<TcpSocket02>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, this)
    }

    fn shutdown(&mut self, this: Resource<TcpSocket02>, how: tcp::ShutdownType) -> SocketResult<()> {
        self.table.get(&this)?.socket.connection()?.shut_down(match how {
            tcp::ShutdownType::Receive => Shutdown::Read,
            tcp::ShutdownType::Send => Shutdown::Write,
            tcp::ShutdownType::Both => Shutdown::Both,
        });
        Ok(())
    }

    fn drop(&mut self, this: Resource<TcpSocket02>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

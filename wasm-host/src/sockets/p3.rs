//! `wasi:sockets/types@0.3`.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::sync::oneshot;
use wasmtime::component::{
    Access, Accessor, Destination, FutureReader, Resource, Source, StreamConsumer, StreamProducer, StreamReader,
    StreamResult,
};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi::TrappableError;

use super::bindings::p3::types::{
    ErrorCode as Code, Host, HostTcpSocket, HostTcpSocketWithStore, HostUdpSocket, HostUdpSocketWithStore,
    IpAddressFamily, IpSocketAddress,
};
use super::connection::Connection;
use super::datagrams::LARGEST;
use super::options::Name;
use super::tcp::{Listener, TcpSocket};
use super::udp::UdpSocket;
use super::{ErrorCode, HasSockets, View};

/// An error that the guest is told, or one of the host.
pub(crate) type SocketError = TrappableError<Code>;

type SocketResult<T> = Result<T, SocketError>;

/// Bytes that one step of a stream moves, where the guest has no buffer of its own waiting.
const AT_ONCE: usize = 8 << 10;

// What is refused is an error of the guest, what is missing in the table one of the host.

fn told<T>(result: Result<T, ErrorCode>) -> SocketResult<T> {
    result.map_err(|error| Code::from(error).into())
}

fn trap(error: impl Into<wasmtime::Error>) -> SocketError {
    SocketError::trap(error)
}

impl View<'_> {
    fn tcp(&mut self, socket: &Resource<TcpSocket>) -> SocketResult<&mut TcpSocket> {
        self.table.get_mut(socket).map_err(trap)
    }

    fn udp(&mut self, socket: &Resource<UdpSocket>) -> SocketResult<&mut UdpSocket> {
        self.table.get_mut(socket).map_err(trap)
    }
}

/// The stream of accepted connections.
struct Accepting<T> {
    listener: Listener,
    getter: for<'a> fn(&'a mut T) -> View<'a>,
}

impl<T: 'static> StreamProducer<T> for Accepting<T> {
    type Item = Resource<TcpSocket>;
    type Buffer = Option<Self::Item>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let waits = match finish {
            true => Poll::Ready(Ok(StreamResult::Cancelled)),
            false => Poll::Pending,
        };
        // The guest asks only whether there is one.
        if destination.remaining(&mut store) == Some(0) {
            return match self.listener.poll_ready(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(StreamResult::Completed)),
                Poll::Pending => waits,
            };
        }
        let Poll::Ready(accepted) = self.listener.poll_accept(cx) else { return waits };
        let accepted = (self.getter)(store.data_mut()).table.push(accepted)?;
        destination.set_buffer(Some(accepted));
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

/// One direction of a connection, and where its end is told.
struct Direction {
    connection: Arc<Connection>,
    end: Option<oneshot::Sender<Result<(), Code>>>,
}

impl Direction {
    fn ended(&mut self, outcome: Result<(), Code>) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some(end) = self.end.take() {
            // Nobody asks for it.
            let _ = end.send(outcome);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

struct Receiving(Direction);

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.connection.end_reading();
        let _ = self.0.ended(Ok(()));
    }
}

impl<T> StreamProducer<T> for Receiving {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut self.0;
        if this.end.is_none() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        let outcome = if destination.remaining(store.as_context_mut()) == Some(0) {
            this.connection.poll_read_ready(cx).map(|()| None)
        } else {
            let mut destination = destination.as_direct(store, AT_ONCE);
            this.connection.poll_read(cx, destination.remaining()).map(|read| {
                if let Ok(read) = read {
                    destination.mark_written(read);
                }
                Some(read)
            })
        };
        match outcome {
            Poll::Ready(Some(Ok(0))) => this.ended(Ok(())),
            Poll::Ready(Some(Err(error))) => this.ended(Err(ErrorCode::from(error).into())),
            Poll::Ready(None | Some(Ok(_))) => Poll::Ready(Ok(StreamResult::Completed)),
            Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => Poll::Pending,
        }
    }
}

struct Sending(Direction);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.connection.end_writing();
        let _ = self.0.ended(Ok(()));
    }
}

impl<T> StreamConsumer<T> for Sending {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<T>,
        source: Source<Self::Item>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut self.0;
        if this.end.is_none() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        let mut source = source.as_direct(store);
        let outcome = if source.remaining().is_empty() {
            this.connection.poll_write_ready(cx).map(Ok)
        } else {
            this.connection.poll_write(cx, source.remaining()).map_ok(|written| source.mark_read(written))
        };
        match outcome {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(StreamResult::Completed)),
            Poll::Ready(Err(error)) => {
                let broken = error.kind() == io::ErrorKind::BrokenPipe;
                this.ended(Err(if broken { Code::ConnectionBroken } else { ErrorCode::from(error).into() }))
            }
            Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => Poll::Pending,
        }
    }
}

type Outcome = Result<(), Code>;

impl<T: Send + 'static> HostTcpSocketWithStore<T> for HasSockets {
    async fn connect(
        store: &Accessor<T, Self>,
        socket: Resource<TcpSocket>,
        peer: IpSocketAddress,
    ) -> SocketResult<()> {
        store.with(|mut store| told(store.get().tcp(&socket)?.start_connect(peer.into())))?;
        poll_fn(|cx| {
            store.with(|mut store| match store.get().tcp(&socket) {
                Ok(socket) => socket.poll_connect(cx).map(told),
                Err(error) => Poll::Ready(Err(error)),
            })
        })
        .await
    }

    fn listen(
        mut store: Access<'_, T, Self>,
        socket: Resource<TcpSocket>,
    ) -> SocketResult<StreamReader<Resource<TcpSocket>>> {
        let getter = store.getter();
        let listener = told(store.get().tcp(&socket)?.listen())?;
        StreamReader::new(&mut store, Accepting { listener, getter }).map_err(trap)
    }

    fn send(
        mut store: Access<'_, T, Self>,
        socket: Resource<TcpSocket>,
        mut data: StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Outcome>> {
        match store.get().table.get_mut(&socket)?.take_sending() {
            Ok(connection) => {
                let (end, ended) = oneshot::channel();
                data.pipe(&mut store, Sending(Direction { connection, end: Some(end) }))?;
                FutureReader::new(&mut store, ended)
            }
            Err(error) => {
                data.close(&mut store)?;
                FutureReader::new(&mut store, async move { wasmtime::error::Ok(Err(error.into())) })
            }
        }
    }

    fn receive(
        mut store: Access<'_, T, Self>,
        socket: Resource<TcpSocket>,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Outcome>)> {
        match store.get().table.get_mut(&socket)?.take_receiving() {
            Ok(connection) => {
                let (end, ended) = oneshot::channel();
                let receiving = Receiving(Direction { connection, end: Some(end) });
                Ok((StreamReader::new(&mut store, receiving)?, FutureReader::new(&mut store, ended)?))
            }
            Err(error) => {
                let failed = FutureReader::new(&mut store, async move { wasmtime::error::Ok(Err(error.into())) })?;
                Ok((StreamReader::new(&mut store, std::iter::empty())?, failed))
            }
        }
    }
}

impl<T: Send + 'static> HostUdpSocketWithStore<T> for HasSockets {
    async fn send(
        store: &Accessor<T, Self>,
        socket: Resource<UdpSocket>,
        data: Vec<u8>,
        peer: Option<IpSocketAddress>,
    ) -> SocketResult<()> {
        let (bound, sockets, to) = store.with(|mut store| {
            let mut view = store.get();
            let socket = view.udp(&socket)?;
            let to = told(socket.peer(peer.map(SocketAddr::from)))?;
            told(socket.bind_anywhere())?;
            Ok::<_, SocketError>((Arc::clone(told(socket.bound())?), Arc::clone(socket.sockets()), to))
        })?;
        if data.len() > LARGEST {
            return Err(Code::DatagramTooLarge.into());
        }
        told(bound.datagrams.permit(to, &sockets).await)?;
        let sent = poll_fn(|cx| {
            loop {
                match bound.datagrams.try_send(&data, to) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        std::task::ready!(bound.datagrams.poll_send_ready(cx));
                    }
                    other => return Poll::Ready(other),
                }
            }
        });
        told(sent.await.map_err(ErrorCode::from))
    }

    async fn receive(
        store: &Accessor<T, Self>,
        socket: Resource<UdpSocket>,
    ) -> SocketResult<(Vec<u8>, IpSocketAddress)> {
        let (bound, sockets, remote) = store.with(|mut store| {
            let mut view = store.get();
            let socket = view.udp(&socket)?;
            Ok::<_, SocketError>((Arc::clone(told(socket.bound())?), Arc::clone(socket.sockets()), socket.remote()))
        })?;
        bound.receive(&sockets);
        let received = poll_fn(|cx| {
            loop {
                match bound.datagrams.try_receive(&sockets) {
                    Ok((_, from)) if remote.is_some_and(|remote| remote != from) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        std::task::ready!(bound.datagrams.poll_receive_ready(&sockets, cx));
                    }
                    other => return Poll::Ready(other),
                }
            }
        });
        let (data, from) = told(received.await.map_err(ErrorCode::from))?;
        Ok((data, from.into()))
    }
}

impl Host for View<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<Code> {
        error.downcast()
    }
}

impl HostTcpSocket for View<'_> {
    fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        let socket = TcpSocket::new(self.sockets, family.into());
        self.table.push(socket).map_err(trap)
    }

    fn bind(&mut self, this: Resource<TcpSocket>, address: IpSocketAddress) -> SocketResult<()> {
        told(self.tcp(&this)?.bind(address.into()))
    }

    fn get_local_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(told(self.tcp(&this)?.local_address())?.into())
    }

    fn get_remote_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(told(self.tcp(&this)?.remote_address())?.into())
    }

    fn get_is_listening(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        Ok(self.table.get(&this)?.is_listening())
    }

    fn get_address_family(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get(&this)?.family().into())
    }

    fn set_listen_backlog_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        told(self.tcp(&this)?.set_backlog(value))
    }

    fn get_keep_alive_enabled(&mut self, this: Resource<TcpSocket>) -> SocketResult<bool> {
        let value = told(self.tcp(&this)?.option(Name::KeepAlive))?;
        Ok(value != 0)
    }

    fn set_keep_alive_enabled(&mut self, this: Resource<TcpSocket>, value: bool) -> SocketResult<()> {
        told(self.tcp(&this)?.set_option(Name::KeepAlive, value.into()))
    }

    fn get_keep_alive_idle_time(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        told(self.tcp(&this)?.option(Name::IdleTime))
    }

    fn set_keep_alive_idle_time(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        told(self.tcp(&this)?.set_option(Name::IdleTime, value))
    }

    fn get_keep_alive_interval(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        told(self.tcp(&this)?.option(Name::Interval))
    }

    fn set_keep_alive_interval(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        told(self.tcp(&this)?.set_option(Name::Interval, value))
    }

    fn get_keep_alive_count(&mut self, this: Resource<TcpSocket>) -> SocketResult<u32> {
        let value = told(self.tcp(&this)?.option(Name::Count))?;
        Ok(u32::try_from(value).unwrap_or(u32::MAX))
    }

    fn set_keep_alive_count(&mut self, this: Resource<TcpSocket>, value: u32) -> SocketResult<()> {
        told(self.tcp(&this)?.set_option(Name::Count, value.into()))
    }

    fn get_hop_limit(&mut self, this: Resource<TcpSocket>) -> SocketResult<u8> {
        let value = told(self.tcp(&this)?.option(Name::HopLimit))?;
        Ok(u8::try_from(value).unwrap_or(u8::MAX))
    }

    fn set_hop_limit(&mut self, this: Resource<TcpSocket>, value: u8) -> SocketResult<()> {
        told(self.tcp(&this)?.set_option(Name::HopLimit, value.into()))
    }

    fn get_receive_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        told(self.tcp(&this)?.option(Name::ReceiveBuffer))
    }

    fn set_receive_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        told(self.tcp(&this)?.set_option(Name::ReceiveBuffer, value))
    }

    fn get_send_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        told(self.tcp(&this)?.option(Name::SendBuffer))
    }

    fn set_send_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        told(self.tcp(&this)?.set_option(Name::SendBuffer, value))
    }

    fn drop(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl HostUdpSocket for View<'_> {
    fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        let socket = UdpSocket::new(self.sockets, family.into());
        self.table.push(socket).map_err(trap)
    }

    fn bind(&mut self, this: Resource<UdpSocket>, address: IpSocketAddress) -> SocketResult<()> {
        told(self.udp(&this)?.bind(address.into()))
    }

    async fn connect(&mut self, this: Resource<UdpSocket>, peer: IpSocketAddress) -> SocketResult<()> {
        told(self.udp(&this)?.connect(peer.into()).await)
    }

    fn disconnect(&mut self, this: Resource<UdpSocket>) -> SocketResult<()> {
        told(self.udp(&this)?.disconnect())
    }

    fn get_local_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(told(self.udp(&this)?.local_address())?.into())
    }

    fn get_remote_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(told(self.udp(&this)?.remote().ok_or(ErrorCode::InvalidState))?.into())
    }

    fn get_address_family(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get(&this)?.family().into())
    }

    fn get_unicast_hop_limit(&mut self, this: Resource<UdpSocket>) -> SocketResult<u8> {
        let value = told(self.udp(&this)?.option(Name::HopLimit))?;
        Ok(u8::try_from(value).unwrap_or(u8::MAX))
    }

    fn set_unicast_hop_limit(&mut self, this: Resource<UdpSocket>, value: u8) -> SocketResult<()> {
        told(self.udp(&this)?.set_option(Name::HopLimit, value.into()))
    }

    fn get_receive_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        told(self.udp(&this)?.option(Name::ReceiveBuffer))
    }

    fn set_receive_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        told(self.udp(&this)?.set_option(Name::ReceiveBuffer, value))
    }

    fn get_send_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        told(self.udp(&this)?.option(Name::SendBuffer))
    }

    fn set_send_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        told(self.udp(&this)?.set_option(Name::SendBuffer, value))
    }

    fn drop(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

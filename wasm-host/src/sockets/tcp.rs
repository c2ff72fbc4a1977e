//! A TCP socket of a guest, of either version of WASI: what it may become, step by step.
//!
//! ```text
//! Unbound ─bind─▶ Bound ─listen─▶ Listening
//!    └───────────────┴──connect──▶ Connecting ─▶ Connected         any ─failure─▶ Closed
//! ```

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::net::TcpStream;
use wasmtime_wasi::sockets::SocketAddrUse;

use super::connection::Connection;
use super::listening::Claim;
use super::options::{self, Name, Options};
use super::{ErrorCode, Family, Sockets, is_peer};

type Connect = Pin<Box<dyn Future<Output = Result<TcpStream, ErrorCode>> + Send>>;

/// A socket.
#[expect(unreachable_pub, reason = "the engine's macro re-exports it")]
pub struct TcpSocket {
    sockets: Arc<Sockets>,
    family: Family,
    options: Options,
    state: State,
}

enum State {
    Unbound,
    /// To a port that connecting will choose.
    BoundAnywhere,
    Bound(Claim),
    Listening(Arc<Claim>),
    Connecting(Connect),
    Connected {
        connection: Arc<Connection>,
        /// WASI 0.3 takes each direction once.
        sends: bool,
        receives: bool,
    },
    Closed(ErrorCode),
}

impl TcpSocket {
    pub(super) fn new(sockets: &Arc<Sockets>, family: Family) -> TcpSocket {
        TcpSocket { sockets: Arc::clone(sockets), family, options: Options::default(), state: State::Unbound }
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    pub(super) fn is_listening(&self) -> bool {
        matches!(self.state, State::Listening(_))
    }

    /// Whether it is bound and can be made to listen.
    pub(super) fn is_bound(&self) -> bool {
        matches!(self.state, State::Bound(_) | State::BoundAnywhere)
    }

    pub(super) fn bind(&mut self, address: SocketAddr) -> Result<(), ErrorCode> {
        if !matches!(self.state, State::Unbound) {
            return Err(ErrorCode::InvalidState);
        }
        if !self.family.has(address.ip()) || address.ip().is_multicast() {
            return Err(ErrorCode::InvalidArgument);
        }
        self.state = match self.sockets.listener(address) {
            Some(listening) => State::Bound(Claim::of(listening, &self.sockets)?),
            None if self.sockets.permits_own_port(address) => State::BoundAnywhere,
            None => return Err(self.sockets.refuse_bind("TCP", address)),
        };
        Ok(())
    }

    pub(super) fn listen(&mut self) -> Result<Listener, ErrorCode> {
        match std::mem::replace(&mut self.state, State::Closed(ErrorCode::Other)) {
            State::Bound(claim) => {
                claim.listen();
                let claim = Arc::new(claim);
                self.state = State::Listening(Arc::clone(&claim));
                let (sockets, options) = (Arc::clone(&self.sockets), self.options.clone());
                Ok(Listener { sockets, family: self.family, options, claim })
            }
            // A port that nobody knows: such a socket would be reachable although nothing of it is configured.
            state @ (State::Unbound | State::BoundAnywhere) => {
                self.state = state;
                Err(self.sockets.refuse_bind("TCP", self.family.unspecified()))
            }
            state => {
                self.state = state;
                Err(ErrorCode::InvalidState)
            }
        }
    }

    pub(super) fn poll_accept_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.state {
            State::Listening(claim) => claim.poll_ready(cx),
            _ => Poll::Ready(()),
        }
    }

    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<TcpSocket, ErrorCode>> {
        let State::Listening(claim) = &self.state else { return Poll::Ready(Err(ErrorCode::InvalidState)) };
        poll_accept(claim, &self.sockets, self.family, &self.options, cx).map(Ok)
    }

    pub(super) fn start_connect(&mut self, peer: SocketAddr) -> Result<(), ErrorCode> {
        if !matches!(self.state, State::Unbound | State::BoundAnywhere) {
            return Err(ErrorCode::InvalidState);
        }
        if !self.family.has(peer.ip()) || !is_peer(peer) || peer.ip().is_multicast() {
            return Err(ErrorCode::InvalidArgument);
        }
        let (sockets, family, options) = (Arc::clone(&self.sockets), self.family, self.options.clone());
        self.state = State::Connecting(Box::pin(async move {
            if !sockets.network.permits(peer, SocketAddrUse::TcpConnect).await {
                return Err(sockets.refuse_peer("connect to", peer));
            }
            let socket = match family {
                Family::V4 => tokio::net::TcpSocket::new_v4()?,
                Family::V6 => tokio::net::TcpSocket::new_v6()?,
            };
            options.apply(socket.as_fd(), family);
            Ok(socket.connect(peer).await?)
        }));
        Ok(())
    }

    pub(super) fn poll_connect(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ErrorCode>> {
        let outcome = match &mut self.state {
            State::Connecting(connect) => std::task::ready!(connect.as_mut().poll(cx)),
            State::Connected { .. } => return Poll::Ready(Ok(())),
            State::Closed(error) => return Poll::Ready(Err(*error)),
            _ => return Poll::Ready(Err(ErrorCode::InvalidState)),
        };
        Poll::Ready(match outcome {
            Ok(stream) => {
                let connection = Connection::new(stream, None);
                self.state = State::Connected { connection, sends: false, receives: false };
                Ok(())
            }
            Err(error) => {
                self.state = State::Closed(error);
                Err(error)
            }
        })
    }

    pub(super) fn connection(&self) -> Result<&Arc<Connection>, ErrorCode> {
        match &self.state {
            State::Connected { connection, .. } => Ok(connection),
            State::Closed(error) => Err(*error),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    /// The direction to the peer, once.
    pub(super) fn take_sending(&mut self) -> Result<Arc<Connection>, ErrorCode> {
        match &mut self.state {
            State::Connected { connection, sends, .. } => take(sends, connection),
            State::Closed(error) => Err(*error),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    /// The direction from the peer, once.
    pub(super) fn take_receiving(&mut self) -> Result<Arc<Connection>, ErrorCode> {
        match &mut self.state {
            State::Connected { connection, receives, .. } => take(receives, connection),
            State::Closed(error) => Err(*error),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    pub(super) fn local_address(&self) -> Result<SocketAddr, ErrorCode> {
        match &self.state {
            State::BoundAnywhere => Ok(self.family.unspecified()),
            State::Bound(claim) => Ok(claim.address()),
            State::Listening(claim) => Ok(claim.address()),
            State::Connected { connection, .. } => Ok(connection.local_address()?),
            State::Closed(error) => Err(*error),
            State::Unbound | State::Connecting(_) => Err(ErrorCode::InvalidState),
        }
    }

    pub(super) fn remote_address(&self) -> Result<SocketAddr, ErrorCode> {
        Ok(self.connection()?.remote_address()?)
    }

    /// The guest's wish for the queue is not followed: it is the master's, and every worker's.
    pub(super) fn set_backlog(&self, value: u64) -> Result<(), ErrorCode> {
        match &self.state {
            _ if value == 0 => Err(ErrorCode::InvalidArgument),
            State::Connecting(_) | State::Connected { .. } => Err(ErrorCode::InvalidState),
            State::Closed(error) => Err(*error),
            _ => Ok(()),
        }
    }

    fn descriptor(&self) -> Result<Option<BorrowedFd<'_>>, ErrorCode> {
        match &self.state {
            State::Connected { connection, .. } => Ok(Some(connection.as_fd())),
            State::Connecting(_) => Err(ErrorCode::InvalidState),
            State::Closed(error) => Err(*error),
            _ => Ok(None),
        }
    }

    pub(super) fn option(&self, name: Name) -> Result<u64, ErrorCode> {
        match self.descriptor()? {
            Some(socket) => options::get(socket, self.family, name),
            None => Ok(self.options.get(name)),
        }
    }

    pub(super) fn set_option(&mut self, name: Name, value: u64) -> Result<(), ErrorCode> {
        match self.descriptor()? {
            Some(socket) => options::set(socket, self.family, name, value),
            None => self.options.remember(name, value),
        }
    }
}

fn take(taken: &mut bool, connection: &Arc<Connection>) -> Result<Arc<Connection>, ErrorCode> {
    match std::mem::replace(taken, true) {
        true => Err(ErrorCode::InvalidState),
        false => Ok(Arc::clone(connection)),
    }
}

/// What accepts for a socket that listens, apart from the guest's hold on it.
pub(super) struct Listener {
    sockets: Arc<Sockets>,
    family: Family,
    options: Options,
    claim: Arc<Claim>,
}

impl Listener {
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.claim.poll_ready(cx)
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<TcpSocket> {
        poll_accept(&self.claim, &self.sockets, self.family, &self.options, cx)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The guest may keep the socket, from which it can accept no more.
        self.claim.leave();
    }
}

fn poll_accept(
    claim: &Claim,
    sockets: &Arc<Sockets>,
    family: Family,
    options: &Options,
    cx: &mut Context<'_>,
) -> Poll<TcpSocket> {
    claim.poll_accept(cx).map(|(stream, open)| {
        let connection = Connection::new(stream, Some(open));
        options.apply(connection.as_fd(), family);
        let state = State::Connected { connection, sends: false, receives: false };
        TcpSocket { sockets: Arc::clone(sockets), family, options: Options::default(), state }
    })
}

//! Sockets of a program: `wasi:sockets` of our own, in which a bind of a configured address yields the socket that the
//! master holds.
//!
//! Why not wasmtime-wasi's with the inherited descriptor put (`dup3`) over the one that it has just bound: a program must
//! stop accepting when its worker leaves, while its connections go on. wasmtime-wasi offers no way to its listeners, so
//! nobody could take them away; a connection that it has accepted and the guest has not asked for would be lost with the
//! process; and it registers a listener with the runtime in the ordinary way, which wakes every worker for every
//! connection. Here an accept that is not allowed any more just never completes.
//!
//! - `listening`, `datagrams`: the inherited sockets, which outlive what the guest makes of them
//! - `tcp`, `udp`: a socket of a guest, of whichever version; `connection`: an established one; `options` of both
//! - `p2_tcp`, `p2_udp`, `p3` and `p3_types`: the interfaces of 0.2 and 0.3 on top of them; `bindings` their generated half
//!
//! Addresses are compared whole: a program that is given `127.0.0.1:80` may not bind `0.0.0.0:80`. Every other bind and
//! connect is denied, as far as `wasm.network` does not name the peer.

pub(crate) mod bindings;
pub(crate) mod connection;
mod datagrams;
mod listening;
mod options;
pub(crate) mod p2_tcp;
pub(crate) mod p2_udp;
pub(crate) mod p3;
mod p3_types;
pub(crate) mod tcp;
pub(crate) mod udp;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Notify;
use wasmtime::component::{HasData, Linker, ResourceTable};
pub(crate) use wasmtime_wasi::sockets::ErrorCode;

use crate::host::Host;
use crate::network::Network;
use crate::output::{Output, Stream};
use datagrams::Datagrams;
use listening::Listening;

/// Different refusals that are told; a program that asks for everything would fill the log.
const TOLD: usize = 16;

/// A shared listening socket, as the worker has it. Nothing here waits.
pub trait Accept: Send {
    /// The next connection. While it is pending this process stands in the wait queue of the socket.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>>;

    /// Leaves the wait queue. A connection for which this process was woken already is returned: nobody else would be
    /// woken for it.
    fn leave(&mut self) -> Option<io::Result<(TcpStream, SocketAddr)>>;

    /// Looks at the queue once more: somebody died who may have been woken for a connection.
    fn nudge(&mut self);
}

/// A socket that a program is given.
pub enum Inherited {
    /// Listening.
    Tcp(Box<dyn Accept>),
    /// Bound; several processes read from it.
    Udp(UdpSocket),
}

/// Where a program may bind, and what it gets there.
pub struct Given {
    /// The whole address.
    pub address: SocketAddr,
    /// The socket.
    pub socket: Inherited,
}

/// Told of what comes to a program.
pub trait Observer: Send + Sync {
    /// One was accepted.
    fn accepted(&self);
    /// One that was accepted is gone.
    fn closed(&self);
    /// A datagram came.
    fn received(&self);
}

/// Everything that a program's sockets have in common.
pub(crate) struct Sockets {
    listeners: Vec<Arc<Listening>>,
    datagrams: Vec<Arc<Datagrams>>,
    network: Arc<Network>,
    observer: Box<dyn Observer>,
    output: Output,
    /// Accepted connections that may be open at once.
    limit: usize,
    open: AtomicUsize,
    draining: AtomicBool,
    /// Inherited sockets that the program has not begun to use.
    unused: AtomicUsize,
    used: Notify,
    refusals: Mutex<BTreeSet<String>>,
}

impl Sockets {
    pub(crate) fn new(
        given: Vec<Given>,
        limit: usize,
        network: Arc<Network>,
        observer: Box<dyn Observer>,
        output: Output,
    ) -> Arc<Sockets> {
        let (mut listeners, mut datagrams) = (Vec::new(), Vec::new());
        let unused = AtomicUsize::new(given.len());
        for Given { address, socket } in given {
            match socket {
                Inherited::Tcp(accept) => listeners.push(Arc::new(Listening::new(address, accept))),
                Inherited::Udp(socket) => datagrams.push(Arc::new(Datagrams::shared(address, socket))),
            }
        }
        Arc::new(Sockets {
            listeners,
            datagrams,
            network,
            observer,
            output,
            limit,
            open: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            unused,
            used: Notify::new(),
            refusals: Mutex::default(),
        })
    }

    /// Of a guest that owns no sockets.
    pub(crate) fn none(network: Arc<Network>, output: Output) -> Arc<Sockets> {
        struct Nobody;
        impl Observer for Nobody {
            fn accepted(&self) {}
            fn closed(&self) {}
            fn received(&self) {}
        }
        Sockets::new(Vec::new(), 0, network, Box::new(Nobody), output)
    }

    /// Waits until the program uses every socket that it was given.
    pub(crate) async fn all_used(&self) {
        while self.unused.load(Relaxed) > 0 {
            self.used.notified().await;
        }
    }

    /// Addresses that the program does not use yet.
    pub(crate) fn unused(&self) -> Vec<SocketAddr> {
        let listeners = self.listeners.iter().filter(|listening| !listening.was_used()).map(|one| one.address());
        let datagrams = self.datagrams.iter().filter(|datagrams| !datagrams.was_used()).map(|one| one.address());
        listeners.chain(datagrams).collect()
    }

    fn note_used(&self, first: bool) {
        if first && self.unused.fetch_sub(1, Relaxed) == 1 {
            self.used.notify_one();
        }
    }

    /// No connection and no datagram comes from now on but those that are here already.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
        for listening in &self.listeners {
            listening.close();
        }
    }

    /// Looks at the queues once more.
    pub(crate) fn nudge(&self) {
        for listening in &self.listeners {
            listening.nudge();
        }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Whether it was drained, and neither a connection is open nor one waits for the guest.
    pub(crate) fn is_done(&self) -> bool {
        self.is_draining() && self.open.load(Relaxed) == 0 && self.listeners.iter().all(|one| !one.has_kept())
    }

    /// Whether there is room for one more connection.
    fn has_room(&self) -> bool {
        self.open.load(Relaxed) < self.limit
    }

    fn listener(&self, address: SocketAddr) -> Option<&Arc<Listening>> {
        self.listeners.iter().find(|listening| listening.address() == address)
    }

    fn datagrams(&self, address: SocketAddr) -> Option<&Arc<Datagrams>> {
        self.datagrams.iter().find(|datagrams| datagrams.address() == address)
    }

    /// Tells the operator what a guest may not do, once: the guest sees an error of which it may say nothing.
    fn refuse(&self, what: String) -> ErrorCode {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() < TOLD && !refusals.contains(&what) {
            (self.output)(Stream::Stderr, format!("launcher: the program may not {what}").as_bytes());
            refusals.insert(what);
        }
        ErrorCode::AccessDenied
    }

    fn refuse_bind(&self, protocol: &str, address: SocketAddr) -> ErrorCode {
        let listeners = self.listeners.iter().map(|one| format!("TCP {}", one.address()));
        let datagrams = self.datagrams.iter().map(|one| format!("UDP {}", one.address()));
        let given: Vec<String> = listeners.chain(datagrams).collect();
        let given = given.join(", ");
        self.refuse(format!("bind {protocol} {address}: what its service listens on (`listen:`) is {given}"))
    }

    fn refuse_peer(&self, what: &str, address: SocketAddr) -> ErrorCode {
        self.refuse(format!("{what} {address}: `wasm.network` does not name it"))
    }

    /// Whether a socket may be bound as connecting needs it: to an ephemeral port of no particular address.
    fn permits_own_port(&self, address: SocketAddr) -> bool {
        !self.network.is_empty() && address.port() == 0 && address.ip().is_unspecified()
    }
}

/// An accepted connection, counted for as long as it lives.
struct Open(Arc<Sockets>);

impl Open {
    fn new(sockets: &Arc<Sockets>) -> Open {
        sockets.open.fetch_add(1, Relaxed);
        sockets.observer.accepted();
        Open(Arc::clone(sockets))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let before = self.0.open.fetch_sub(1, Relaxed);
        self.0.observer.closed();
        if before >= self.0.limit {
            self.0.listeners.iter().for_each(|listening| listening.wake());
        }
    }
}

/// Address family of a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// Whether an address can belong to a socket of this family. An inherited socket of IPv6 may stand for IPv4 as well,
    /// whose addresses it then shows as IPv6's (RFC 4291 section 2.5.5.2).
    fn has(self, ip: IpAddr) -> bool {
        match self {
            Family::V4 => ip.is_ipv4(),
            Family::V6 => ip.is_ipv6(),
        }
    }

    fn unspecified(self) -> SocketAddr {
        match self {
            Family::V4 => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
            Family::V6 => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
        }
    }
}

/// Whether an address can be a peer's.
fn is_peer(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_unspecified() && address.port() != 0
}

/// What the functions of the interfaces work on.
pub(crate) struct View<'a> {
    sockets: &'a Arc<Sockets>,
    table: &'a mut ResourceTable,
}

struct HasSockets;

impl HasData for HasSockets {
    type Data<'a> = View<'a>;
}

fn view(host: &mut Host) -> View<'_> {
    let (sockets, table) = host.own_sockets();
    View { sockets, table }
}

/// Replaces the sockets in a linker that has all of WASI.
pub(crate) fn link(linker: &mut Linker<Host>, concurrency: bool) -> wasmtime::Result<()> {
    use bindings::p2::{tcp, tcp_create_socket, udp, udp_create_socket};

    linker.allow_shadowing(true);
    tcp::add_to_linker::<_, HasSockets>(linker, view)?;
    tcp_create_socket::add_to_linker::<_, HasSockets>(linker, view)?;
    udp::add_to_linker::<_, HasSockets>(linker, view)?;
    udp_create_socket::add_to_linker::<_, HasSockets>(linker, view)?;
    if concurrency {
        bindings::p3::types::add_to_linker::<_, HasSockets>(linker, view)?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

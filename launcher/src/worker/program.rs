//! A worker whose plugin is a WASM program: a component that runs by itself and owns its sockets.
//!
//! Such a worker is ready when its program listens on every address of `listen:`. With only the first it would be promoted
//! while clients of another wait in a queue that nobody looks at, perhaps for ever; so a program that is not written for
//! all of its addresses never becomes ready, and says which it lacks. It ends when it was told to drain and its program
//! has no connection left; what `run` returns before that is a crash.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::sleep;
use wasm_host::{Accept, Control, Given, Inherited, Manifest, Observer};

use super::plugin::wasm;
use super::post::Post;
use super::pulse::Pulse;
use super::recycle::{self, Memory, Wish};
use super::{Life, Steered, duplicate};
use crate::channel::statistics::Counters;
use crate::channel::{Assign, Channel};
use crate::sys::accept::{Acceptor, PeerAddress, Stream, concerns_one_connection};
use crate::sys::socket_kind::Kind;

/// After this long the worker says what its program does not listen on: whoever wrote it waits for that word.
const HESITATION: Duration = Duration::from_secs(2);

/// Runs a program until it has drained. An error is why it cannot serve, or did not go on.
pub(super) async fn serve(
    channel: &OwnedFd,
    mut assign: Assign,
    listeners: Vec<OwnedFd>,
    (counters, pulse, post): (Counters, Pulse, Arc<Post>),
    (compiled, manifest): (File, &Manifest),
) -> Result<(), String> {
    let channel = duplicate(channel)?;
    let channel = Arc::new(Channel::new(channel).map_err(|error| format!("the channel cannot be used: {error}"))?);
    let (wish, left) = (Wish::default(), Arc::default());
    let life = Life { channel, said: Arc::default(), wish, left, post: Arc::clone(&post) };
    let given = given(&assign, listeners)?;
    name_listeners(&mut assign, &given);
    let observer = Told { counters, memory: Memory::of(&assign.limits, &life.wish) };
    let connections = assign.limits.connections as usize;
    let program = wasm::load_program(compiled, manifest, &assign, given, connections, Box::new(observer), &post)?;
    let control = program.control();
    let steering = Steering { control: control.clone(), left: Arc::clone(&life.left) };
    life.live(steering, pulse, recycle::max_lifetime(&assign.limits, assign.worker), None, None)?;

    let mut running = pin!(program.run());
    let ended = tokio::select! {
        biased;
        ended = &mut running => ended,
        () = serves(&control) => {
            life.ready().await?;
            running.await
        }
    };
    post.last_words();
    ended.map_err(|reason| {
        let missing = Addresses(control.unused());
        let missing = if missing.0.is_empty() { String::new() } else { format!("; it did not listen on {missing}") };
        format!("{}: {reason}{missing}", assign.plugin_path)
    })
}

/// A program as the master steers it.
#[derive(Clone)]
struct Steering {
    control: Control,
    left: Arc<Notify>,
}

impl Steered for Steering {
    fn drain(&self) {
        self.control.drain();
        self.left.notify_one();
    }

    fn hand_over(&self, _give: OwnedFd, _successors: u32) {
        // Only HTTP tells where a connection could be passed on.
        self.drain();
    }

    fn nudge(&self) {
        self.control.nudge();
    }
}

/// The sockets that the program may bind.
fn given(assign: &Assign, listeners: Vec<OwnedFd>) -> Result<Vec<Given>, String> {
    let mut given = Vec::new();
    for (listener, socket) in assign.listeners.iter().zip(listeners) {
        let unusable = |error: io::Error| format!("{} cannot be served: {error}", listener.address);
        let address = listener.address.strip_prefix("udp://").unwrap_or(&listener.address);
        let address: SocketAddr = address.parse().map_err(|_| format!("{address} is no address of TCP or UDP"))?;
        let socket = match listener.kind {
            Kind::Tcp => {
                // On unless the configuration says otherwise: WASI has no option by which a program could ask for it.
                let acceptor = Acceptor::new(socket).map_err(unusable)?;
                if listener.nodelay == Some(false) {
                    acceptor.collect_small_writes().map_err(unusable)?;
                }
                Inherited::Tcp(Box::new(Queue(acceptor)))
            }
            Kind::Udp => {
                let socket = std::net::UdpSocket::from(socket);
                socket.set_nonblocking(true).map_err(unusable)?;
                Inherited::Udp(tokio::net::UdpSocket::from_std(socket).map_err(unusable)?)
            }
            // The master refuses such a service.
            other => return Err(format!("{address} is {}, of which WASI has none", other.name())),
        };
        given.push(Given { address, socket });
    }
    Ok(given)
}

/// Tells the program in its environment what it may bind: a port may have been chosen by the system.
fn name_listeners(assign: &mut Assign, given: &[Given]) {
    let Assign { listeners, env, .. } = assign;
    for (number, (listener, given)) in listeners.iter().zip(given).enumerate() {
        let address = given.address.to_string();
        if number == 0 {
            env.entry("LAUNCHER_LISTEN".to_owned()).or_insert_with(|| address.clone());
        }
        // A listener without a name is named by its address as it was written, of which nobody makes a variable.
        if listener.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            let name = listener.name.to_ascii_uppercase().replace('-', "_");
            env.entry(format!("LAUNCHER_LISTEN_{name}")).or_insert(address);
        }
    }
}

/// Waits until the program listens on everything.
async fn serves(control: &Control) {
    let mut serves = pin!(control.serves());
    tokio::select! {
        () = &mut serves => {}
        () = sleep(HESITATION) => {
            let missing = Addresses(control.unused());
            let line = format!("launcher: not ready yet: the program does not listen on {missing}\n");
            // Nobody is left to tell if it fails.
            let _ = io::stderr().write_all(line.as_bytes());
            serves.await;
        }
    }
}

struct Addresses(Vec<SocketAddr>);

impl fmt::Display for Addresses {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, address) in self.0.iter().enumerate() {
            write!(formatter, "{}{address}", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// A listening socket in the shape that programs ask for.
struct Queue(Acceptor);

fn tcp((stream, peer): (Stream, PeerAddress)) -> io::Result<(TcpStream, SocketAddr)> {
    match (stream, peer) {
        (Stream::Tcp(stream), PeerAddress::Inet(peer)) => Ok((stream, peer)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

impl Accept for Queue {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        loop {
            match std::task::ready!(self.0.poll_accept(cx)) {
                Err(error) if concerns_one_connection(&error) => {}
                accepted => return Poll::Ready(accepted.and_then(tcp)),
            }
        }
    }

    fn leave(&mut self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        self.0.disarm().map(|accepted| accepted.and_then(tcp))
    }

    fn nudge(&mut self) {
        // It fails only where the registration is lost; then the next accept says so.
        let _ = self.0.nudge();
    }
}

/// Counts connections where the master looks.
struct Told {
    counters: Counters,
    memory: Option<Memory>,
}

impl Observer for Told {
    fn accepted(&self) {
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        self.received();
    }

    fn closed(&self) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn received(&self) {
        if let Some(memory) = &self.memory {
            memory.look();
        }
    }
}

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
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use wasm_host::{Accept, Control, Given, Inherited, Manifest, Observer};

use super::plugin::wasm;
use super::pulse::Pulse;
use super::recycle::{self, Memory, Wish};
use super::{Said, duplicate};
use crate::channel::statistics::Counters;
use crate::channel::{Assign, Channel, Large, ToMaster, ToWorker};
use crate::sys::accept::{Acceptor, PeerAddress, Stream, concerns_one_connection};

/// After this long the worker says what its program does not listen on: whoever wrote it waits for that word.
const HESITATION: Duration = Duration::from_secs(2);

/// Runs a program until it has drained. An error is why it cannot serve, or did not go on.
pub(super) async fn serve(
    channel: &OwnedFd,
    mut assign: Assign,
    listeners: Vec<OwnedFd>,
    (counters, pulse): (Counters, Pulse),
    (compiled, manifest): (File, &Manifest),
) -> Result<(), String> {
    let channel = duplicate(channel)?;
    let channel = Arc::new(Channel::new(channel).map_err(|error| format!("the channel cannot be used: {error}"))?);
    let wish = Wish::default();
    let given = given(&assign, listeners)?;
    name_listeners(&mut assign, &given);
    let observer = Told { counters, memory: Memory::of(&assign.limits, &wish) };
    let connections = assign.limits.connections as usize;
    let program = wasm::load_program(compiled, manifest, &assign, given, connections, Box::new(observer))?;
    let control = program.control();

    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| format!("signals cannot be handled: {error}"))?;
    // Sent to a whole terminal or group they are meant for the master; it tells its workers what to do.
    let _ignored = [SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let (leaving, draining) = (wish.clone(), control.clone());
    tokio::spawn(async move {
        // As for HTTP: whoever sends it wants this process gone, and the master replaces it first.
        let mut asked = false;
        while terminate.recv().await.is_some() {
            if asked {
                draining.drain();
            }
            leaving.tell("it was sent TERM".to_owned());
            asked = true;
        }
    });
    let said = Arc::new(Said::default());
    let lifetime = recycle::max_lifetime(&assign.limits, assign.worker);
    tokio::spawn({
        let (channel, said) = (Arc::clone(&channel), Arc::clone(&said));
        async move {
            let reason = wish.reached(lifetime).await;
            let reason = said.wish.get_or_init(|| reason).clone();
            drop(channel.send(&ToMaster::Recycle { reason }, &[]).await);
        }
    });
    tokio::spawn(obey(Arc::clone(&channel), control.clone(), Arc::clone(&said)));

    let mut life = pin!(program.run());
    let ended = tokio::select! {
        biased;
        ended = &mut life => ended,
        ready = say_ready(&control, &channel, &said, pulse) => {
            ready?;
            life.await
        }
    };
    ended.map_err(|reason| {
        let missing = Addresses(control.unused());
        let missing = if missing.0.is_empty() { String::new() } else { format!("; it did not listen on {missing}") };
        format!("{}: {reason}{missing}", assign.plugin_path)
    })
}

/// The sockets that the program may bind.
fn given(assign: &Assign, listeners: Vec<OwnedFd>) -> Result<Vec<Given>, String> {
    let mut given = Vec::new();
    for (listener, socket) in assign.listeners.iter().zip(listeners) {
        let unusable = |error: io::Error| format!("{} cannot be served: {error}", listener.address);
        let address = listener.address.as_str();
        let (is_udp, address) = match address.strip_prefix("udp://") {
            Some(address) => (true, address),
            None => (false, address),
        };
        let address: SocketAddr = address.parse().map_err(|_| {
            format!(
                "{} is nothing that a WASM program can listen on: WASI has sockets of TCP and UDP only",
                listener.address
            )
        })?;
        let socket = if is_udp {
            let socket = std::net::UdpSocket::from(socket);
            socket.set_nonblocking(true).map_err(unusable)?;
            Inherited::Udp(tokio::net::UdpSocket::from_std(socket).map_err(unusable)?)
        } else {
            Inherited::Tcp(Box::new(Queue(Acceptor::new(socket).map_err(unusable)?)))
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

/// Says ready when the program is.
async fn say_ready(control: &Control, channel: &Arc<Channel>, said: &Said, pulse: Pulse) -> Result<(), String> {
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
    tokio::spawn(pulse.beat(Arc::clone(channel)));
    said.ready.store(true, Ordering::Relaxed);
    channel.send(&ToMaster::Ready, &[]).await.map_err(|error| error.to_string())
}

/// Follow the master's orders, until it is gone.
async fn obey(channel: Arc<Channel>, control: Control, said: Arc<Said>) {
    loop {
        match channel.receive::<ToWorker>(Large::Accepted).await {
            // Connections stay here: only HTTP tells where one could be passed on.
            Ok(Some((ToWorker::Drain { .. }, _))) => {
                control.drain();
                said.left.store(true, Ordering::Relaxed);
                drop(channel.send(&ToMaster::NotAccepting, &[]).await);
            }
            Ok(Some((ToWorker::Nudge, _))) => control.nudge(),
            Ok(Some((ToWorker::Repeat, _))) => said.again(&channel).await,
            // What concerns HTTP alone, or is of a later version.
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return control.drain(),
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
        if let Some(memory) = &self.memory {
            memory.look();
        }
    }

    fn closed(&self) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

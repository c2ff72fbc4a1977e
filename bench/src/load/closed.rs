//! Connections that each send the next request when they have the response to the last.
//!
//! As little is done between a response and the next request as there can be: a client that is slower than the server
//! sleeps and is woken for every response, and the kernel books that with the server.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use socket2::{Domain, Socket, Type};

use super::{Ask, complete};

/// How long a response may take before the server counts as broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest response, bytes.
const RESPONSE: usize = 128 * 1024;

/// What a time of load gave.
pub(crate) struct Load {
    /// Responses, all of them good.
    pub(crate) requests: u64,
    /// From the first request to the last response that was counted.
    pub(crate) time: Duration,
}

/// A connection that always has one request open.
struct Conversation {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes of the request that were sent.
    sent: usize,
}

impl Conversation {
    /// Sends and reads what it can; true when a response is complete.
    fn go_on(&mut self, request: &[u8]) -> io::Result<bool> {
        self.send(request)?;
        loop {
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(io::Error::other("the server closed a connection, or its response is too long")),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if complete(&self.buffer[..self.filled])? {
                self.filled = 0;
                return Ok(true);
            }
            if self.filled < 16 * 1024 {
                // A small response comes in one piece: the next event says when the rest is there.
                return Ok(false);
            }
        }
    }

    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        while self.sent < request.len() {
            match self.stream.write(&request[self.sent..]) {
                Ok(sent) => self.sent += sent,
                // Not connected yet, or no room.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Connects to a server. From another address of this machine with every call: one alone runs out of ports, each of
/// which rests for a minute.
fn connect(address: SocketAddr, number: u64, blocking: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let [_, _, high, low] = u32::try_from(number % 60_000).unwrap_or_default().saturating_add(256).to_be_bytes();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 1, high, low.max(1)), 0)).into())?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(!blocking)?;
    match socket.connect(&address.into()) {
        // EINPROGRESS: connect(2).
        Err(error) if !blocking && error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
        connected => connected?,
    }
    socket.set_nonblocking(true)?;
    Ok(TcpStream::from_std(socket.into()))
}

fn register(registry: &Registry, stream: &mut TcpStream, index: usize, ask: &Ask) -> io::Result<()> {
    // Only where it may have to wait for room: every other answer would be two events.
    let both = ask.once || ask.bytes.len() > 16 * 1024;
    let interest = if both { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
    registry.register(stream, Token(index), interest)
}

/// Loads a server for `time`.
pub(crate) fn load(address: SocketAddr, ask: &Ask, connections: usize, time: Duration) -> io::Result<Load> {
    let mut poll = Poll::new()?;
    let mut conversations = Vec::new();
    let mut connected = 0;
    for index in 0..connections {
        let mut stream = connect(address, connected, true)?;
        connected += 1;
        register(poll.registry(), &mut stream, index, ask)?;
        conversations.push(Conversation { stream, buffer: vec![0; RESPONSE], filled: 0, sent: 0 });
    }
    let start = Instant::now();
    for conversation in &mut conversations {
        conversation.send(&ask.bytes)?;
    }
    let mut requests = 0;
    let mut events = Events::with_capacity(connections);
    while start.elapsed() < time {
        match poll.poll(&mut events, Some(PATIENCE)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        if events.is_empty() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a response does not come"));
        }
        for event in &events {
            let index = event.token().0;
            let conversation = &mut conversations[index];
            if !conversation.go_on(&ask.bytes)? {
                continue;
            }
            requests += 1;
            conversation.sent = 0;
            if ask.once {
                conversation.stream = connect(address, connected, false)?;
                connected += 1;
                register(poll.registry(), &mut conversation.stream, index, ask)?;
            }
            conversation.send(&ask.bytes)?;
        }
    }
    Ok(Load { requests, time: start.elapsed() })
}

//! Requests at a fixed rate, whether the server keeps up or not, and how long each takes from when it was due: a server
//! that stands still for a moment delays all that were due in it, and each of them counts.
//!
//! The thread never sleeps, because the timers of `epoll_wait` are as coarse as what is measured.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::{Ask, complete};

/// Longest response, bytes.
const RESPONSE: usize = 64 * 1024;

struct Conversation {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// When its request was due.
    due: Instant,
}

/// Microseconds of every request, in the order of the responses. Those that were due and could not be sent until the end
/// count with the time that they had waited then.
pub(crate) fn load(
    address: SocketAddr,
    ask: &Ask,
    connections: usize,
    rate: f64,
    time: Duration,
) -> io::Result<Vec<f64>> {
    let mut poll = Poll::new()?;
    let mut conversations = Vec::new();
    for index in 0..connections {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        conversations.push(Conversation { stream, buffer: vec![0; RESPONSE], filled: 0, due: Instant::now() });
    }
    let mut idle: VecDeque<usize> = (0..connections).collect();
    let start = Instant::now();
    let (end, pause) = (start + time, Duration::from_secs_f64(1.0 / rate));
    let mut next = start;
    let mut took = Vec::with_capacity((rate * time.as_secs_f64()) as usize + 1);
    let mut events = Events::with_capacity(connections);
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        while next <= now
            && let Some(index) = idle.pop_front()
        {
            let conversation = &mut conversations[index];
            conversation.due = next;
            conversation.stream.write_all(&ask.bytes)?;
            next += pause;
        }
        poll.poll(&mut events, Some(Duration::ZERO))?;
        for event in &events {
            let index = event.token().0;
            let conversation = &mut conversations[index];
            match conversation.stream.read(&mut conversation.buffer[conversation.filled..]) {
                Ok(0) => return Err(io::Error::other("the server closed a connection")),
                Ok(read) => conversation.filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            if complete(&conversation.buffer[..conversation.filled])? {
                conversation.filled = 0;
                took.push(conversation.due.elapsed().as_secs_f64() * 1e6);
                idle.push_back(index);
            }
        }
    }
    while next < end {
        took.push((end - next).as_secs_f64() * 1e6);
        next += pause;
    }
    Ok(took)
}

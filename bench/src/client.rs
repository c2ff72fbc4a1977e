//! The load: keep-alive connections that each send the next request when they have the response to the last.

//!
//! One thread around one `epoll_wait`, and as little between a response and the next request as there can be: a client
//! that is slower than the server sleeps and is woken for every response, and the kernel books that with the server.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// How long a response may take before the server counts as broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest response, bytes.
const RESPONSE: usize = 64 * 1024;

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
}

impl Conversation {
    /// Reads what is there; asks again and returns true when a response is complete.
    fn go_on(&mut self, request: &[u8]) -> io::Result<bool> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return Err(io::Error::other("the server closed a connection, or its response is too long")),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        if !complete(&self.buffer[..self.filled])? {
            return Ok(false);
        }
        self.filled = 0;
        // A socket of which everything was acknowledged has room for a request: a refusal is an error.
        self.stream.write_all(request).map(|()| true)
    }
}

/// Loads a server for `time`.
pub(crate) fn load(address: SocketAddr, connections: usize, time: Duration) -> io::Result<Load> {
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes();
    let mut poll = Poll::new()?;
    let mut conversations = Vec::new();
    for index in 0..connections {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        conversations.push(Conversation { stream, buffer: vec![0; RESPONSE], filled: 0 });
    }
    let start = Instant::now();
    for conversation in &mut conversations {
        conversation.stream.write_all(&request)?;
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
            if conversations[event.token().0].go_on(&request)? {
                requests += 1;
            }
        }
    }
    Ok(Load { requests, time: start.elapsed() })
}

/// Whether these are the bytes of a whole response. Anything but a 200 is an error.
fn complete(bytes: &[u8]) -> io::Result<bool> {
    const GOOD: &[u8] = b"HTTP/1.1 200 ";
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(false);
    };
    if !bytes.starts_with(GOOD) {
        let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
        return Err(io::Error::other(format!("a response is {}", line.escape_ascii())));
    }
    for line in bytes[..end].split(|byte| *byte == b'\n') {
        let Some((name, value)) = line.split_at_checked("content-length:".len()) else {
            continue;
        };
        if name.eq_ignore_ascii_case(b"content-length:") {
            let length = std::str::from_utf8(value).ok().and_then(|value| value.trim().parse::<usize>().ok());
            let length = length.ok_or_else(|| io::Error::other("a content-length is no number"))?;
            return Ok(bytes.len() >= end + 4 + length);
        }
    }
    // Chunked: whoever asks for a fixed text ends it with the last chunk.
    Ok(bytes.ends_with(b"\r\n0\r\n\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_complete_when_its_body_is_there() {
        for (bytes, whole) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", true),
            ("HTTP/1.1 200 OK\r\nContent-Len", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", true),
        ] {
            assert_eq!(complete(bytes.as_bytes()).expect("a 200"), whole, "{bytes:?}");
        }
        assert!(complete(b"HTTP/1.1 500 No\r\n\r\n").is_err());
    }
}

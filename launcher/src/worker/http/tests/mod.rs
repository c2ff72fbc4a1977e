//! A server with a toy plugin on a real socket, and a client that speaks bytes.
//!
//! Every wait for something to happen is bounded by [`PATIENCE`]; durations otherwise appear only where a time
//! limit is the promise under test.

mod drain;
mod failures;
mod handover;
mod limits;
mod messages;
mod proxied;
mod sharing;
mod toy;

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use self::toy::Toy;
use super::{Control, Event, Server};
use crate::channel::statistics::Counters;
use crate::channel::{Limits, Listener, SocketKind};

const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

fn limits() -> Limits {
    Limits {
        memory: None,
        request_timeout: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(60),
        connections: 1000,
        max_requests: 0,
        max_lifetime: Duration::ZERO,
    }
}

/// A running server.
struct Served {
    address: SocketAddr,
    /// A second holder of the listening socket, as the master is.
    listener: std::net::TcpListener,
    control: Control,
    counters: Counters,
    plugin: Arc<Toy>,
    events: Arc<Mutex<Vec<String>>>,
    done: JoinHandle<()>,
}

fn serve(limits: Limits) -> Served {
    serve_on(std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"), limits)
}

fn serve_on(listener: std::net::TcpListener, limits: Limits) -> Served {
    serve_with(listener, limits, None)
}

/// `take`: the receiving end of a hand-over.
fn serve_with(listener: std::net::TcpListener, limits: Limits, take: Option<OwnedFd>) -> Served {
    serve_as(listener, false, limits, take)
}

fn serve_behind_a_proxy(listener: std::net::TcpListener, limits: Limits, take: Option<OwnedFd>) -> Served {
    serve_as(listener, true, limits, take)
}

fn serve_as(listener: std::net::TcpListener, proxy_protocol: bool, limits: Limits, take: Option<OwnedFd>) -> Served {
    let address = listener.local_addr().expect("bound");
    let shared = OwnedFd::from(listener.try_clone().expect("a descriptor"));
    let address_of = address.to_string();
    let named = Listener {
        name: "front".to_owned(),
        address: address_of,
        proxy_protocol,
        kind: SocketKind::Tcp,
        nodelay: None,
    };
    let plugin = Arc::new(Toy::default());
    let counters = Counters::unshared();
    let events = Arc::new(Mutex::new(Vec::new()));
    let report = {
        let events = events.clone();
        Arc::new(move |event: Event<'_>| events.lock().expect("no panic").push(event.to_string()))
    };
    let (mut server, control) =
        Server::new(plugin.clone(), limits, vec![(named, shared)], counters, report, None).expect("a listening socket");
    if let Some(take) = take {
        server.take_over(take).expect("the end of a pair");
    }
    let done = tokio::spawn(server.serve());
    Served { address, listener, control, counters, plugin, events, done }
}

impl Served {
    async fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).await.expect("the listener is open"))
    }

    fn requests(&self) -> u64 {
        self.counters.requests.load(Relaxed)
    }

    fn events(&self) -> Vec<String> {
        self.events.lock().expect("no panic").clone()
    }

    fn told(&self, part: &str) -> bool {
        self.events().iter().any(|event| event.contains(part))
    }
}

/// A client that sends what it is told and parses responses strictly.
struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
struct Reply {
    status: u16,
    /// Lower-case names.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
        let first = values.next();
        assert_eq!(values.next(), None, "{name} is given twice: {self:?}");
        first
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("sending", self.stream.write_all(bytes.as_ref())).await.expect("an open connection");
    }

    async fn get(&mut self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n\r\n")).await;
        self.reply().await
    }

    /// One response with its body.
    async fn reply(&mut self) -> Reply {
        self.reply_to("GET").await
    }

    async fn reply_to(&mut self, method: &str) -> Reply {
        let mut reply = self.head().await;
        if method == "HEAD" || matches!(reply.status, 100 | 204 | 304) {
            return reply;
        }
        if reply.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await {
                reply.body.extend(chunk);
            }
            loop {
                let line = self.line().await;
                match line.split_once(": ") {
                    Some((name, value)) => reply.trailers.push((name.to_lowercase(), value.to_owned())),
                    None => break,
                }
            }
        } else if let Some(length) = reply.header("content-length") {
            let length = length.parse().expect("a number");
            reply.body = self.exactly(length).await;
        } else {
            assert!(self.fill_to_end().await, "a reset instead of an end");
            reply.body = std::mem::take(&mut self.read);
        }
        reply
    }

    async fn head(&mut self) -> Reply {
        let line = self.line().await;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.split_once(": ") else {
                break;
            };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        Reply { status, headers, body: Vec::new(), trailers: Vec::new() }
    }

    /// The next chunk; `None` is the last one.
    async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line().await;
        let length = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("not a chunk's size: {line:?}"));
        if length == 0 {
            return None;
        }
        let chunk = self.exactly(length).await;
        assert_eq!(self.line().await, "");
        Some(chunk)
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.read.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).expect("text");
            }
            assert!(self.fill().await.expect("no reset") > 0, "the connection ended in the middle of a line");
        }
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length {
            assert!(self.fill().await.expect("no reset") > 0, "the connection ended in the middle of a body");
        }
        self.read.drain(..length).collect()
    }

    async fn fill(&mut self) -> std::io::Result<usize> {
        soon("bytes from the server", self.stream.read_buf(&mut self.read)).await
    }

    /// Reads to the end; false if that was a reset.
    async fn fill_to_end(&mut self) -> bool {
        loop {
            match self.fill().await {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// The server closes, and sends nothing more before.
    async fn assert_closed(&mut self) {
        assert!(self.fill_to_end().await, "a reset instead of a close");
        assert_eq!(String::from_utf8_lossy(&self.read), "", "bytes before the close");
    }
}

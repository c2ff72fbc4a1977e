//! A WASI 0.2 program that owns its sockets.
//!
//! It listens on `LAUNCHER_LISTEN`, and on `LAUNCHER_LISTEN_OTHER` and `LAUNCHER_LISTEN_DATAGRAMS` (UDP) if there are such.
//! Over TCP each line is a command, answered by a line; a datagram is sent back to whoever sent it.
//! `AT_START` makes it misbehave before it listens.

use std::cell::RefCell;
use std::env;
use std::net::{Ipv4Addr, SocketAddr};

use futures_lite::future;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::{IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket};
use wasip2::sockets::udp_create_socket::create_udp_socket;
use wstd::io::{AsyncRead, AsyncWrite};
use wstd::iter::AsyncIterator;
use wstd::net::{TcpListener, TcpStream};
use wstd::runtime::{AsyncPollable, spawn};

mod post {
    wit_bindgen::generate!({
        path: "../../../../worker-sdk/wit/messages",
        world: "talking",
        with: { "wasi:io/poll@0.2.0": wasip2::io::poll },
    });
    pub use launcher::messages::messages::{Inbox, Receiver, Sender, send};
}

thread_local! {
    /// What came by messages.
    static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

#[wstd::main]
async fn main() -> wstd::io::Result<()> {
    match env::var("AT_START").as_deref() {
        Ok("return") => return Ok(()),
        Ok("fail") => return Err(std::io::Error::other("as it was told")),
        Ok("trap") => std::process::abort(),
        Ok("idle") => drop(wstd::task::sleep(wstd::time::Duration::from_secs(3600)).await),
        _ => {}
    }
    let address = |variable: &str| env::var(variable).ok();
    let first = address("LAUNCHER_LISTEN").ok_or_else(|| std::io::Error::other("LAUNCHER_LISTEN is not set"))?;
    if env::var("LISTENS").is_ok() {
        spawn(hear(post::Inbox::new())).detach();
    }
    let (end, ended) = async_channel();
    if let Some(address) = address("LAUNCHER_LISTEN_DATAGRAMS") {
        let socket = bind_udp(address.parse().map_err(std::io::Error::other)?).map_err(failed)?;
        if address == first {
            echo_datagrams(socket).await;
        } else {
            spawn(echo_datagrams(socket)).detach();
        }
    }
    if let Some(address) = address("LAUNCHER_LISTEN_OTHER") {
        let listener = TcpListener::bind(&address).await?;
        let end = end.clone();
        spawn(async move { serve(listener, end).await }).detach();
    }
    let listener = TcpListener::bind(&first).await?;
    println!("listening on {}", listener.local_addr()?);
    future::or(serve(listener, end), ended).await;
    Ok(())
}

/// A flag that a connection raises, and a future of it.
fn async_channel() -> (std::rc::Rc<std::cell::Cell<bool>>, impl Future<Output = ()>) {
    let flag = std::rc::Rc::new(std::cell::Cell::new(false));
    let seen = flag.clone();
    (flag, async move {
        while !seen.get() {
            wstd::task::sleep(wstd::time::Duration::from_millis(5)).await;
        }
    })
}

async fn serve(listener: TcpListener, end: std::rc::Rc<std::cell::Cell<bool>>) {
    let mut incoming = listener.incoming();
    while let Some(accepted) = incoming.next().await {
        match accepted {
            Ok(stream) => {
                let end = end.clone();
                spawn(async move { drop(converse(stream, end).await) }).detach();
            }
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

async fn converse(stream: TcpStream, end: std::rc::Rc<std::cell::Cell<bool>>) -> wstd::io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let (mut pending, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        while let Some(length) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=length).collect();
            let answer = obey(String::from_utf8_lossy(&line).trim_end(), &end).await;
            writer.write_all(answer.as_bytes()).await?;
        }
        match reader.read(&mut buffer).await? {
            0 => return Ok(()),
            read => pending.extend_from_slice(&buffer[..read]),
        }
    }
}

async fn obey(line: &str, end: &std::cell::Cell<bool>) -> String {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    let variable = |name: &str| env::var(name).unwrap_or_default();
    match command {
        "who" => format!("{} {}\n", variable("LAUNCHER_WORKER_ID"), variable("LAUNCHER_WORKER_GENERATION")),
        "variable" => variable(rest) + "\n",
        "arguments" => format!("{:?}\n", env::args().collect::<Vec<_>>()),
        "bytes" => "x".repeat(rest.parse().unwrap_or(0)) + "\n",
        "bind" => outcome(rest, |address| {
            let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
            socket.start_bind(&instance_network(), address)?;
            socket.finish_bind()?;
            socket.start_listen()?;
            socket.finish_listen()
        }),
        "connect" => outcome(rest, |address| {
            let socket: TcpSocket = create_tcp_socket(IpAddressFamily::Ipv4)?;
            socket.start_connect(&instance_network(), address)?;
            loop {
                match socket.finish_connect() {
                    Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
                    other => return other.map(drop),
                }
            }
        }),
        "bind-udp" => outcome(rest, |address| bind_udp_to(address).map(drop)),
        // From the socket that it is given, to anybody.
        "write-to" => outcome(rest, |address| {
            let socket = bind_udp_to(ip_socket_address(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))?;
            let (_incoming, outgoing) = socket.stream(None)?;
            send(&outgoing, b"unasked\n", Some(address))
        }),
        "tell" => tell(rest).await,
        "heard" => HEARD.with_borrow(|heard| heard.join(", ") + "\n"),
        "end" => {
            end.set(true);
            "ending\n".to_owned()
        }
        "exit" => std::process::exit(rest.parse().unwrap_or(0)),
        "trap" => std::process::abort(),
        "spin" => loop {
            std::hint::black_box(0);
        },
        _ => format!("{line}\n"),
    }
}

/// Remembers every message with its sender.
async fn hear(inbox: post::Inbox) {
    let ready = AsyncPollable::new(inbox.subscribe());
    loop {
        ready.wait_for().await;
        while let Some(message) = inbox.next() {
            let sender = match message.sender {
                post::Sender::Worker(peer) => format!("{}/{}", peer.service, peer.slot),
                post::Sender::Operator => "operator".to_owned(),
            };
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            HEARD.with_borrow_mut(|heard| heard.push(format!("{sender}: {text}")));
        }
    }
}

/// `tell every SERVICE TEXT`, `any`; `slot SERVICE/SLOT`, `worker ID`, `operator -`: what became of the message.
async fn tell(command: &str) -> String {
    let mut words = command.splitn(3, ' ');
    let (how, whom, text) = (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next().unwrap_or(""));
    let to = match (how, whom.split_once('/')) {
        ("every", _) => post::Receiver::Every(whom.to_owned()),
        ("any", _) => post::Receiver::Any(whom.to_owned()),
        ("operator", _) => post::Receiver::Operator,
        ("worker", _) => post::Receiver::Worker(whom.parse().unwrap_or(0)),
        ("slot", Some((service, slot))) => post::Receiver::Slot((service.to_owned(), slot.parse().unwrap_or(0))),
        _ => return format!("nobody is {how} {whom}\n"),
    };
    let text = if text == "large" { "x".repeat(70_000) } else { text.to_owned() };
    let sending = match post::send(&to, text.as_bytes()) {
        Ok(sending) => sending,
        Err(reason) => return format!("{reason:?}\n"),
    };
    let ready = AsyncPollable::new(sending.subscribe());
    loop {
        match sending.outcome() {
            Some(Ok(())) => return "taken\n".to_owned(),
            Some(Err(reason)) => return format!("{reason:?}\n"),
            None => ready.wait_for().await,
        }
    }
}

fn outcome(address: &str, attempt: impl FnOnce(IpSocketAddress) -> Result<(), ErrorCode>) -> String {
    match address.parse() {
        Ok(address) => match attempt(ip_socket_address(address)) {
            Ok(()) => "done\n".to_owned(),
            Err(error) => format!("{error:?}\n"),
        },
        Err(error) => format!("{error}\n"),
    }
}

fn bind_udp(address: SocketAddr) -> Result<UdpSocket, ErrorCode> {
    bind_udp_to(ip_socket_address(address))
}

fn bind_udp_to(address: IpSocketAddress) -> Result<UdpSocket, ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), address)?;
    socket.finish_bind()?;
    Ok(socket)
}

/// Sends every datagram back; one that begins with `to ADDRESS` to that address instead.
async fn echo_datagrams(socket: UdpSocket) {
    let (incoming, outgoing): (IncomingDatagramStream, _) = socket.stream(None).expect("bound");
    let ready = AsyncPollable::new(incoming.subscribe());
    loop {
        ready.wait_for().await;
        for datagram in incoming.receive(16).expect("open") {
            let text = String::from_utf8_lossy(&datagram.data).into_owned();
            let other = text.strip_prefix("to ").and_then(|address| address.trim().parse().ok());
            match other {
                Some(other) => {
                    let answer = match send(&outgoing, b"unasked\n", Some(ip_socket_address(other))) {
                        Ok(()) => "done".to_owned(),
                        Err(error) => format!("{error:?}"),
                    };
                    let _ = send(&outgoing, answer.as_bytes(), Some(datagram.remote_address));
                }
                None => {
                    let _ = send(&outgoing, &datagram.data, Some(datagram.remote_address));
                }
            }
        }
    }
}

fn send(outgoing: &OutgoingDatagramStream, data: &[u8], to: Option<IpSocketAddress>) -> Result<(), ErrorCode> {
    outgoing.check_send()?;
    outgoing.send(&[OutgoingDatagram { data: data.to_vec(), remote_address: to }]).map(drop)
}

fn ip_socket_address(address: SocketAddr) -> IpSocketAddress {
    let SocketAddr::V4(address) = address else { panic!("the tests use IPv4") };
    let [a, b, c, d] = address.ip().octets();
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port: address.port(), address: (a, b, c, d) })
}

fn failed(error: ErrorCode) -> std::io::Error {
    std::io::Error::other(format!("{error:?}"))
}

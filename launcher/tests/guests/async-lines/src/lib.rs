//! A WASI 0.3 program that owns its sockets: what comes over TCP goes back, but a line `who` is answered with the id and the
//! generation of the worker, and `connect ADDRESS` with what came of it. Datagrams go back to whoever sent them.

use std::net::SocketAddr;

use wasip3::sockets::types::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket};
use wasip3::wit_bindgen::spawn_local;
use wasip3::wit_stream;

wasip3::cli::command::export!(AsyncLines);

struct AsyncLines;

impl wasip3::exports::cli::run::Guest for AsyncLines {
    async fn run() -> Result<(), ()> {
        if let Some(address) = address("LAUNCHER_LISTEN_DATAGRAMS") {
            let socket = UdpSocket::create(IpAddressFamily::Ipv4).map_err(complain)?;
            socket.bind(address).map_err(complain)?;
            if std::env::var("LAUNCHER_LISTEN") == std::env::var("LAUNCHER_LISTEN_DATAGRAMS") {
                echo_datagrams(socket).await;
                return Ok(());
            }
            spawn_local(echo_datagrams(socket));
        }
        let address = address("LAUNCHER_LISTEN").ok_or(())?;
        let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(complain)?;
        socket.bind(address).map_err(complain)?;
        let mut accepted = socket.listen().map_err(complain)?;
        while let Some(connection) = accepted.next().await {
            spawn_local(converse(connection));
        }
        Ok(())
    }
}

async fn converse(connection: TcpSocket) {
    let (mut received, _end) = connection.receive();
    let (mut answers, sent) = wit_stream::new();
    let _end = connection.send(sent);
    let mut pending: Vec<u8> = Vec::new();
    while let Some(byte) = received.next().await {
        pending.push(byte);
        if byte != b'\n' {
            continue;
        }
        let line = String::from_utf8_lossy(&pending).into_owned();
        pending.clear();
        let answer = obey(line.trim_end()).await;
        answers.write_all(answer.into_bytes()).await;
    }
}

async fn obey(line: &str) -> String {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    match line.split_once(' ').unwrap_or((line, "")) {
        ("who", _) => format!("{} {}\n", variable("LAUNCHER_WORKER_ID"), variable("LAUNCHER_WORKER_GENERATION")),
        ("connect", to) => match (TcpSocket::create(IpAddressFamily::Ipv4), parse(to)) {
            (Ok(socket), Some(to)) => match socket.connect(to).await {
                Ok(()) => "done\n".to_owned(),
                Err(error) => format!("{error:?}\n"),
            },
            _ => "no address\n".to_owned(),
        },
        ("bind", to) => match (TcpSocket::create(IpAddressFamily::Ipv4), parse(to)) {
            (Ok(socket), Some(to)) => match socket.bind(to).and_then(|()| socket.listen()) {
                Ok(_) => "done\n".to_owned(),
                Err(error) => format!("{error:?}\n"),
            },
            _ => "no address\n".to_owned(),
        },
        _ => format!("{line}\n"),
    }
}

async fn echo_datagrams(socket: UdpSocket) {
    while let Ok((data, from)) = socket.receive().await {
        let _ = socket.send(data, Some(from)).await;
    }
}

fn address(variable: &str) -> Option<IpSocketAddress> {
    parse(&std::env::var(variable).ok()?)
}

fn parse(text: &str) -> Option<IpSocketAddress> {
    let SocketAddr::V4(address) = text.parse().ok()? else { return None };
    let [a, b, c, d] = address.ip().octets();
    Some(IpSocketAddress::Ipv4(Ipv4SocketAddress { port: address.port(), address: (a, b, c, d) }))
}

fn complain(error: impl std::fmt::Debug) {
    eprintln!("{error:?}");
}

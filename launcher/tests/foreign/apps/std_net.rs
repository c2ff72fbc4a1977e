//! A program of WASI 0.2 that knows nothing of WASI: `std::net`, one loop that blocks, no threads.
//!
//! Each TCP connection is served to its end before the next: `who` is answered with the worker, other lines come back.
//! With `LAUNCHER_LISTEN_DATAGRAMS` it serves that UDP socket instead.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

fn main() -> io::Result<()> {
    if let Ok(address) = env::var("LAUNCHER_LISTEN_DATAGRAMS") {
        return datagrams(&UdpSocket::bind(address)?);
    }
    let listener = TcpListener::bind(env::var("LAUNCHER_LISTEN").map_err(io::Error::other)?)?;
    println!("listening on {}", listener.local_addr()?);
    for client in listener.incoming() {
        if let Err(error) = client.and_then(talk) {
            eprintln!("a client: {error}");
        }
    }
    Ok(())
}

fn talk(client: TcpStream) -> io::Result<()> {
    let peer = client.peer_addr()?;
    let mut reader = BufReader::new(client);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let variable = |name| env::var(name).unwrap_or_default();
        let answer = match line.trim_end() {
            "who" => format!("{} {}\n", variable("LAUNCHER_WORKER_ID"), variable("LAUNCHER_WORKER_GENERATION")),
            "peer" => format!("{peer}\n"),
            _ => line.clone(),
        };
        reader.get_mut().write_all(answer.as_bytes())?;
        line.clear();
    }
    Ok(())
}

fn datagrams(socket: &UdpSocket) -> io::Result<()> {
    println!("listening on {}", socket.local_addr()?);
    let mut datagram = [0; 65536];
    loop {
        let (length, client) = socket.recv_from(&mut datagram)?;
        socket.send_to(&datagram[..length], client)?;
    }
}

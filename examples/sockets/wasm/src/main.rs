//! A line server in a sandbox: every line comes back in capitals, `who` names the worker.
//!
//! Nothing here knows the launcher but the variable that says where to listen. It is one of several processes that bind
//! the same address, and can reach nothing else of the network.

use std::env;
use std::io;

use wstd::io::{AsyncRead, AsyncWrite};
use wstd::iter::AsyncIterator;
use wstd::net::{TcpListener, TcpStream};
use wstd::runtime::spawn;

#[wstd::main]
async fn main() -> io::Result<()> {
    let address = env::var("LAUNCHER_LISTEN").unwrap_or_else(|_| "127.0.0.1:7011".to_owned());
    let listener = TcpListener::bind(&address).await?;
    let mut incoming = listener.incoming();
    while let Some(accepted) = incoming.next().await {
        match accepted {
            Ok(stream) => spawn(async move { drop(answer(stream).await) }).detach(),
            Err(error) => eprintln!("a connection was lost: {error}"),
        }
    }
    Ok(())
}

async fn answer(stream: TcpStream) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let (mut pending, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        while let Some(length) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=length).collect();
            let answer = match line.trim_ascii() {
                b"who" => format!("worker {}\n", env::var("LAUNCHER_WORKER_ID").unwrap_or_default()).into_bytes(),
                _ => line.to_ascii_uppercase(),
            };
            writer.write_all(&answer).await?;
        }
        match reader.read(&mut buffer).await? {
            0 => return Ok(()),
            read => pending.extend_from_slice(&buffer[..read]),
        }
    }
}

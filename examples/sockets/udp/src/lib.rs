//! A UDP responder: whoever sends `time` gets the seconds since 1970, anything else comes back as it is.
//!
//! All workers read from one socket, and the system gives each datagram to one of them. During a reload nothing is lost:
//! what is not read yet stays in the socket, which the launcher holds.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use worker_sdk::{Sockets, log};

#[worker_sdk::socket]
fn serve(mut sockets: Sockets) -> io::Result<()> {
    let socket = sockets.udp()?;
    let stop = sockets.stop();
    sockets.ready();
    let mut datagram = [0; 65536];
    while stop.readable(&socket)? {
        let (length, client) = match socket.recv_from(&mut datagram) {
            Ok(received) => received,
            // Another worker was faster.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            // What a client's machine refused is told on the next call, and says nothing about the socket.
            Err(error) => {
                log::warn!("{error}");
                continue;
            }
        };
        let answer = match &datagram[..length] {
            b"time" => now().into_bytes(),
            other => other.to_vec(),
        };
        if let Err(error) = socket.send_to(&answer, client) {
            log::warn!("{client}: {error}");
        }
    }
    Ok(())
}

fn now() -> String {
    // A clock before 1970 is not worth a failure.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string()
}

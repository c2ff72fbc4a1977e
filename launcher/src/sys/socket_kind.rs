//! What kinds of sockets there are on which something can be served.

use std::io;
use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SocketType, sockopt};
use serde::{Deserialize, Serialize};

/// What a socket is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A listening TCP socket.
    #[default]
    Tcp,
    /// A bound UDP socket.
    Udp,
    /// A listening Unix socket.
    Unix,
    /// A bound Unix socket for datagrams.
    UnixDatagram,
    /// A listening Unix socket whose connections keep the borders of messages (`SOCK_SEQPACKET`).
    UnixPacket,
}

impl Kind {
    /// What a socket is; `None`: something else than what is listed.
    ///
    /// # Errors
    /// It is no socket.
    pub fn of(socket: impl AsFd) -> io::Result<Option<Kind>> {
        let family = sockopt::socket_domain(&socket)?;
        Ok(match (family, sockopt::socket_type(&socket)?) {
            (AddressFamily::INET | AddressFamily::INET6, SocketType::STREAM) => Some(Kind::Tcp),
            (AddressFamily::INET | AddressFamily::INET6, SocketType::DGRAM) => Some(Kind::Udp),
            (AddressFamily::UNIX, SocketType::STREAM) => Some(Kind::Unix),
            (AddressFamily::UNIX, SocketType::DGRAM) => Some(Kind::UnixDatagram),
            (AddressFamily::UNIX, SocketType::SEQPACKET) => Some(Kind::UnixPacket),
            _ => None,
        })
    }

    /// Connections are accepted from it that are streams of bytes.
    pub fn is_stream(self) -> bool {
        matches!(self, Kind::Tcp | Kind::Unix)
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tcp => "a TCP socket",
            Kind::Udp => "a UDP socket",
            Kind::Unix => "a Unix socket",
            Kind::UnixDatagram => "a Unix socket for datagrams",
            Kind::UnixPacket => "a Unix socket for packets",
        }
    }
}

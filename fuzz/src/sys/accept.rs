//! The address of a client.

use std::net::SocketAddr;

/// As the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAddress {
    /// TCP.
    Inet(SocketAddr),
    /// A Unix socket.
    Unix,
}

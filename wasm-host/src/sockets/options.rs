//! Options of sockets, as WASI 0.2 and 0.3 both have them.
//!
//! Those of a socket that is not connected are remembered and given to the connections that it becomes or accepts. They
//! are never set on an inherited socket, which is everybody's.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::{ErrorCode, Family};

/// Which option. Durations are nanoseconds, sizes bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Name {
    KeepAlive,
    IdleTime,
    Interval,
    Count,
    HopLimit,
    ReceiveBuffer,
    SendBuffer,
}

const NAMES: [Name; 7] = [
    Name::KeepAlive,
    Name::IdleTime,
    Name::Interval,
    Name::Count,
    Name::HopLimit,
    Name::ReceiveBuffer,
    Name::SendBuffer,
];

/// What a new socket of Linux has (tcp(7), ip(7)); the buffers as the kernel's usual defaults have them.
const DEFAULTS: [u64; 7] = [0, 7_200_000_000_000, 75_000_000_000, 9, 64, 131_072, 16_384];

/// Options that were set on a socket without a descriptor.
#[derive(Clone, Default)]
pub(crate) struct Options([Option<u64>; 7]);

impl Options {
    pub(super) fn get(&self, name: Name) -> u64 {
        self.0[name as usize].unwrap_or(DEFAULTS[name as usize])
    }

    pub(super) fn remember(&mut self, name: Name, value: u64) -> Result<(), ErrorCode> {
        self.0[name as usize] = Some(valid(name, value)?);
        Ok(())
    }

    /// Gives them to a connection. One that the system does not take is no reason to lose the connection.
    pub(super) fn apply(&self, socket: BorrowedFd<'_>, family: Family) {
        for (name, value) in NAMES.into_iter().zip(self.0) {
            if let Some(value) = value {
                let _ = set(socket, family, name, value);
            }
        }
    }
}

/// A value as it can be set: 0 is refused where it means nothing, and what is too large becomes the largest.
fn valid(name: Name, value: u64) -> Result<u64, ErrorCode> {
    const SECOND: u64 = 1_000_000_000;
    if value == 0 && name != Name::KeepAlive {
        return Err(ErrorCode::InvalidArgument);
    }
    Ok(match name {
        Name::KeepAlive => value,
        // Seconds of the system; rounded up, because 0 is none.
        Name::IdleTime | Name::Interval => value.div_ceil(SECOND).clamp(1, 32_767) * SECOND,
        Name::Count => value.clamp(1, 127),
        Name::HopLimit => value.clamp(1, 255),
        Name::ReceiveBuffer | Name::SendBuffer => value.min(i32::MAX as u64),
    })
}

pub(super) fn get(socket: BorrowedFd<'_>, family: Family, name: Name) -> Result<u64, ErrorCode> {
    let size = |size: usize| u64::try_from(size / 2).unwrap_or(u64::MAX);
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Ok(match name {
        Name::KeepAlive => u64::from(sockopt::socket_keepalive(socket)?),
        Name::IdleTime => nanoseconds(sockopt::tcp_keepidle(socket)?),
        Name::Interval => nanoseconds(sockopt::tcp_keepintvl(socket)?),
        Name::Count => sockopt::tcp_keepcnt(socket)?.into(),
        Name::HopLimit if family == Family::V4 => sockopt::ip_ttl(socket)?.into(),
        Name::HopLimit => sockopt::ipv6_unicast_hops(socket)?.into(),
        // The system doubles what is set, for its own overhead (socket(7)).
        Name::ReceiveBuffer => size(sockopt::socket_recv_buffer_size(socket)?),
        Name::SendBuffer => size(sockopt::socket_send_buffer_size(socket)?),
    })
}

pub(super) fn set(socket: BorrowedFd<'_>, family: Family, name: Name, value: u64) -> Result<(), ErrorCode> {
    let value = valid(name, value)?;
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let size = usize::try_from(value).unwrap_or(usize::MAX);
    let outcome = match name {
        Name::KeepAlive => sockopt::set_socket_keepalive(socket, value != 0),
        Name::IdleTime => sockopt::set_tcp_keepidle(socket, Duration::from_nanos(value)),
        Name::Interval => sockopt::set_tcp_keepintvl(socket, Duration::from_nanos(value)),
        Name::Count => sockopt::set_tcp_keepcnt(socket, small(value)),
        Name::HopLimit if family == Family::V4 => sockopt::set_ip_ttl(socket, small(value)),
        Name::HopLimit => sockopt::set_ipv6_unicast_hops(socket, u8::try_from(value).ok()),
        Name::ReceiveBuffer => sockopt::set_socket_recv_buffer_size(socket, size),
        Name::SendBuffer => sockopt::set_socket_send_buffer_size(socket, size),
    };
    match outcome {
        // Of the sizes: a hint that the system does not follow.
        Ok(()) | Err(Errno::NOBUFS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

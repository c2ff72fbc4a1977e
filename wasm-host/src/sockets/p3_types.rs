//! Types of `wasi:sockets/types@0.3` and ours.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::bindings::p3::types::{
    ErrorCode as Code, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use super::{ErrorCode, Family};

impl From<ErrorCode> for Code {
    fn from(error: ErrorCode) -> Code {
        match error {
            ErrorCode::AccessDenied => Code::AccessDenied,
            ErrorCode::NotSupported => Code::NotSupported,
            ErrorCode::InvalidArgument => Code::InvalidArgument,
            ErrorCode::OutOfMemory => Code::OutOfMemory,
            ErrorCode::Timeout => Code::Timeout,
            ErrorCode::InvalidState => Code::InvalidState,
            ErrorCode::AddressNotBindable => Code::AddressNotBindable,
            ErrorCode::AddressInUse => Code::AddressInUse,
            ErrorCode::RemoteUnreachable => Code::RemoteUnreachable,
            ErrorCode::ConnectionRefused => Code::ConnectionRefused,
            ErrorCode::ConnectionBroken => Code::ConnectionBroken,
            ErrorCode::ConnectionReset => Code::ConnectionReset,
            ErrorCode::ConnectionAborted => Code::ConnectionAborted,
            ErrorCode::DatagramTooLarge => Code::DatagramTooLarge,
            ErrorCode::Other => Code::Other(None),
        }
    }
}

impl From<IpAddressFamily> for Family {
    fn from(family: IpAddressFamily) -> Family {
        match family {
            IpAddressFamily::Ipv4 => Family::V4,
            IpAddressFamily::Ipv6 => Family::V6,
        }
    }
}

impl From<Family> for IpAddressFamily {
    fn from(family: Family) -> IpAddressFamily {
        match family {
            Family::V4 => IpAddressFamily::Ipv4,
            Family::V6 => IpAddressFamily::Ipv6,
        }
    }
}

impl From<IpSocketAddress> for SocketAddr {
    fn from(address: IpSocketAddress) -> SocketAddr {
        match address {
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) }) => {
                SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port).into()
            }
            IpSocketAddress::Ipv6(address) => {
                let (a, b, c, d, e, f, g, h) = address.address;
                let ip = Ipv6Addr::new(a, b, c, d, e, f, g, h);
                SocketAddrV6::new(ip, address.port, address.flow_info, address.scope_id).into()
            }
        }
    }
}

impl From<SocketAddr> for IpSocketAddress {
    fn from(address: SocketAddr) -> IpSocketAddress {
        match address {
            SocketAddr::V4(address) => {
                let [a, b, c, d] = address.ip().octets();
                IpSocketAddress::Ipv4(Ipv4SocketAddress { port: address.port(), address: (a, b, c, d) })
            }
            SocketAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h] = address.ip().segments();
                IpSocketAddress::Ipv6(Ipv6SocketAddress {
                    port: address.port(),
                    flow_info: address.flowinfo(),
                    address: (a, b, c, d, e, f, g, h),
                    scope_id: address.scope_id(),
                })
            }
        }
    }
}

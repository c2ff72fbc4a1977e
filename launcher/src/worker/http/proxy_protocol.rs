//! The head that a proxy puts in front of a connection to say whose it is: the PROXY protocol, versions 1 and 2
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>), from bytes to an address.
//!
//! ```text
//! v1: PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n             at most 107 bytes
//! v2: signature (12), version and command, family, length (2, big-endian), addresses, TLVs
//! ```
//!
//! Pure, and bounded by `MOST`. What a version 2 head carries after the addresses (TLVs) is skipped and not looked at.
//! Of the four addresses and ports only the client's is of interest: where it connected to is the proxy's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::sys::accept::PeerAddress;

/// Bytes of a head of any version. Version 2 could announce 64 KiB; what proxies send has a few hundred, and nginx takes
/// as much as this.
pub(super) const MOST: usize = 4096;

/// Bytes of a head of version 1, its line's end included (section 2.1).
const MOST_V1: usize = 107;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Of version 2: what comes before the addresses.
const FIXED: usize = 16;

/// A whole head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Its bytes; what follows is the client's.
    pub(super) length: usize,
    /// The client. `None`: the proxy speaks for itself (a health check), or does not know; then it is the socket's.
    pub(super) client: Option<PeerAddress>,
}

/// Why bytes are no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it does not begin with a PROXY head; whoever connects must send one")]
    Missing,
    #[error("its PROXY line is longer than 107 bytes")]
    LongLine,
    #[error("its PROXY line is not understood")]
    Line,
    #[error("its PROXY head is of an unknown version, command or family")]
    Kind,
    #[error("its PROXY head is longer than 4096 bytes")]
    LongHead,
    #[error("its PROXY head is too short for its addresses")]
    Short,
}

/// The head with which `bytes` begin; `None`: there must be more of it to tell.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    if begins(bytes, V2) {
        v2(bytes)
    } else if begins(bytes, V1) {
        v1(bytes)
    } else {
        Err(Malformed::Missing)
    }
}

/// `bytes` begin with `start`, as far as they go.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let length = bytes.len().min(start.len());
    bytes[..length] == start[..length]
}

fn v1(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let shown = &bytes[..bytes.len().min(MOST_V1)];
    let Some(end) = shown.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < MOST_V1 { Ok(None) } else { Err(Malformed::LongLine) };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| Malformed::Line)?;
    let length = end + 2;
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        // What follows it is to be ignored.
        return Ok(Some(Head { length, client: None }));
    }
    let (Some(from), Some(to), Some(from_port), Some(to_port), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Malformed::Line);
    };
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| Malformed::Line),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| Malformed::Line),
        _ => Err(Malformed::Line),
    };
    address(to)?;
    port(to_port)?;
    let client = SocketAddr::new(address(from)?, port(from_port)?);
    Ok(Some(Head { length, client: Some(PeerAddress::Inet(client)) }))
}

/// Digits alone and no zero in front, as the specification wants it.
fn port(text: &str) -> Result<u16, Malformed> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| digits).ok_or(Malformed::Line)
}

fn v2(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Ok(None) };
    let [.., kind, family, high, low] = *fixed;
    if kind >> 4 != 2 {
        return Err(Malformed::Kind);
    }
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MOST {
        return Err(Malformed::LongHead);
    }
    let Some(addresses) = rest.get(..length - FIXED) else { return Ok(None) };
    let client = match (kind & 0xf, family >> 4, family & 0xf) {
        // LOCAL, whatever else it says.
        (0, ..) => None,
        // PROXY of what is not said.
        (1, 0, _) | (1, _, 0) => None,
        // Stream and datagram: of which kind the client's connection is does not matter.
        (1, 1, 1 | 2) => {
            let (ip, ports) = addresses.split_first_chunk::<8>().ok_or(Malformed::Short)?;
            let (from, ..) = ip.split_first_chunk::<4>().ok_or(Malformed::Short)?;
            Some(inet(Ipv4Addr::from(*from), ports)?)
        }
        (1, 2, 1 | 2) => {
            let (ip, ports) = addresses.split_first_chunk::<32>().ok_or(Malformed::Short)?;
            let (from, ..) = ip.split_first_chunk::<16>().ok_or(Malformed::Short)?;
            Some(inet(Ipv6Addr::from(*from), ports)?)
        }
        // Two paths of 108 bytes; clients of Unix sockets seldom have one.
        (1, 3, 1 | 2) if addresses.len() >= 216 => Some(PeerAddress::Unix),
        (1, 3, 1 | 2) => return Err(Malformed::Short),
        _ => return Err(Malformed::Kind),
    };
    Ok(Some(Head { length, client }))
}

fn inet(ip: impl Into<IpAddr>, ports: &[u8]) -> Result<PeerAddress, Malformed> {
    // The client's, then the other one.
    let (ports, _) = ports.split_first_chunk::<4>().ok_or(Malformed::Short)?;
    Ok(PeerAddress::Inet(SocketAddr::new(ip.into(), u16::from_be_bytes([ports[0], ports[1]]))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(bytes: &[u8]) -> Option<PeerAddress> {
        let head = read(bytes).expect("well-formed").expect("whole");
        assert_eq!(head.length, bytes.len());
        head.client
    }

    fn inet(address: &str) -> Option<PeerAddress> {
        Some(PeerAddress::Inet(address.parse().expect("an address")))
    }

    fn v2(kind: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short");
        [V2, &[kind, family], &length.to_be_bytes(), rest].concat()
    }

    #[test]
    fn a_line_names_the_client() {
        assert_eq!(client(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"), inet("192.0.2.7:56324"));
        assert_eq!(client(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n"), inet("255.255.255.255:65535"));
        assert_eq!(client(b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n"), inet("[2001:db8::7]:1"));
        assert_eq!(client(b"PROXY UNKNOWN\r\n"), None);
        let longest = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
            65535 65535\r\n";
        assert_eq!((client(longest), longest.len()), (None, MOST_V1));
    }

    #[test]
    fn what_follows_a_head_is_not_of_it() {
        let head = read(b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nGET / HTTP/1.1\r\n\r\n").expect("well-formed");
        assert_eq!(head.map(|head| head.length), Some(33));
        let mut bytes = v2(0x21, 0x11, &[1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 10]);
        bytes.extend(b"\r\n\r\n");
        assert_eq!(read(&bytes), Ok(Some(Head { length: 28, client: inet("1.2.3.4:9") })));
    }

    #[test]
    fn binary_heads_name_the_client_and_tlvs_are_skipped() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 1, 187];
        assert_eq!(client(&v2(0x21, 0x11, &v4)), inet("192.0.2.7:56324"));
        assert_eq!(client(&v2(0x21, 0x12, &v4)), inet("192.0.2.7:56324"));
        let with_tlvs = [&v4[..], &[0x04, 0, 100], &[7; 100], &[0x20, 0, 5, 0, 0, 0, 0, 0]].concat();
        assert_eq!(client(&v2(0x21, 0x11, &with_tlvs)), inet("192.0.2.7:56324"));
        let mut v6 = [0; 36];
        (v6[15], v6[33]) = (1, 80);
        assert_eq!(client(&v2(0x21, 0x21, &v6)), inet("[::1]:80"));
        assert_eq!(client(&v2(0x21, 0x31, &[0; 216])), Some(PeerAddress::Unix));
        for (kind, family) in [(0x20, 0x00), (0x20, 0x11), (0x21, 0x00), (0x21, 0x01), (0x21, 0x10)] {
            assert_eq!(client(&v2(kind, family, &v4)), None, "{kind:x} {family:x}");
            assert_eq!(client(&v2(kind, family, &[])), None, "{kind:x} {family:x}");
        }
        let largest = v2(0x21, 0x11, &[&v4[..], &[0; MOST - FIXED - 12]].concat());
        assert_eq!((client(&largest), largest.len()), (inet("192.0.2.7:56324"), MOST));
    }

    #[test]
    fn a_part_of_a_head_is_waited_for_and_never_misread() {
        let v6 = v2(0x21, 0x21, &[9; 50]);
        for whole in [&b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"[..], b"PROXY UNKNOWN x\r\n", &v6] {
            for length in 0..whole.len() {
                assert_eq!(read(&whole[..length]), Ok(None), "{length} bytes of {}", whole.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_head_is_refused_as_soon_as_it_shows() {
        for (bytes, why) in [
            (&b"G"[..], Malformed::Missing),
            (b"GET / HTTP/1.1\r\n\r\n", Malformed::Missing),
            (b"PROXYTCP4", Malformed::Missing),
            (b"proxy TCP4", Malformed::Missing),
            (b"\r\n\r\n\0\r\nQUIT\r", Malformed::Missing),
            (b"\x16\x03\x01", Malformed::Missing),
            (b"PROXY \r\n", Malformed::Line),
            (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 1\r\n", Malformed::Line),
            (b"PROXY TCP4\r\n", Malformed::Line),
            (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n", Malformed::Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", Malformed::Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", Malformed::Line),
            (b"PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n", Malformed::Line),
            (b"PROXY TCP4 ::1 ::1 1 1\r\n", Malformed::Line),
            (b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n", Malformed::Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n", Malformed::Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n", Malformed::Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n", Malformed::Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 -1\r\n", Malformed::Line),
            (b"PROXY TCP4 1.2.3.4\n1.2.3.4 1 1\r\n", Malformed::Line),
            (b"PROXY \xff\xff\r\n", Malformed::Line),
        ] {
            assert_eq!(read(bytes), Err(why), "{}", bytes.escape_ascii());
        }
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat();
        assert_eq!(read(&long[..MOST_V1 - 1]), Ok(None));
        assert_eq!(read(&long), Err(Malformed::LongLine));
        for (kind, family) in [(0x11, 0x11), (0x31, 0x11), (0x22, 0x11), (0x21, 0x41), (0x21, 0x13), (0x01, 0x11)] {
            assert_eq!(read(&v2(kind, family, &[0; 300])), Err(Malformed::Kind), "{kind:x} {family:x}");
        }
        for (family, length) in [(0x11, 11), (0x11, 0), (0x21, 35), (0x31, 215)] {
            assert_eq!(read(&v2(0x21, family, &vec![0; length])), Err(Malformed::Short), "{family:x} {length}");
        }
        assert_eq!(read(&v2(0x21, 0x11, &[0; MOST - FIXED + 1])[..FIXED]), Err(Malformed::LongHead));
    }

    proptest! {
        #[test]
        fn every_address_comes_through(address: SocketAddr) {
            let family = if address.is_ipv4() { "TCP4" } else { "TCP6" };
            let line = format!("PROXY {family} {0} {0} {1} 1\r\n", address.ip(), address.port());
            let expected = SocketAddr::new(address.ip(), address.port());
            prop_assert_eq!(client(line.as_bytes()), Some(PeerAddress::Inet(expected)));
        }

        #[test]
        fn garbage_never_panics(start in 0_usize..3, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = [[&b""[..], V1, V2][start], &bytes].concat();
            if let Ok(Some(head)) = read(&bytes) {
                prop_assert!(head.length <= bytes.len());
            }
        }
    }
}

//! The messages between a worker that leaves and those that stay: which connection is which, in bytes.
//!
//! ```text
//! message:    version u8 = 1 or 2, connections u8 (1..=64), then that many connections
//! connection: listener's name, listener's address, quiet u32 ms, head u32 ms, in version 2 the origin, prefix
//! text, prefix: length u32, bytes
//! origin:     u8: 0 the socket's, 1 a proxy has still to say it, 2 a Unix socket's, 4 IPv4, 6 IPv6; 4 and 6 are followed
//!             by the address in network order and the port u16
//! descriptors: the sender's receipts, then one socket a connection
//! ```
//!
//! Numbers are little-endian. The sender is another process whose plugin may have written anywhere in its memory:
//! everything is checked, and nothing larger than a message can come of it.
//!
//! Version 2 is used only where a proxy names the clients, so that workers of a program that does not know it understand
//! everything that they could have.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use super::{Arrival, BATCH, Origin, PREFIX_MAX};
use crate::sys::accept::PeerAddress;
use crate::worker::http::watchdog::Elapsed;

const PLAIN: u8 = 1;
const WITH_ORIGINS: u8 = 2;

const OF_SOCKET: u8 = 0;
const DUE: u8 = 1;
const OF_UNIX: u8 = 2;
const OF_V4: u8 = 4;
const OF_V6: u8 = 6;

/// Bytes of the longest origin.
const ORIGIN_MAX: usize = 1 + 16 + 2;

/// Bytes of a listener's name or address. A Unix address is at most 5 + 107 bytes; a name is an operator's.
const TEXT_MAX: usize = 1024;

/// Bytes of a message: a prefix of any permitted length fits, whatever the other connections have.
pub(super) const MESSAGE_MAX: usize = 80 * 1024;

/// One connection of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Name of the listener that it came in by.
    pub(super) listener: String,
    /// Address of that listener, as the authority of a request that names none.
    pub(super) authority: String,
    pub(super) quiet: Duration,
    pub(super) head: Duration,
    pub(super) origin: Origin,
    pub(super) prefix: Bytes,
}

impl Item {
    pub(super) fn arrival(self) -> Arrival {
        let elapsed = Elapsed { quiet: self.quiet, head: self.head };
        Arrival { prefix: self.prefix, elapsed, origin: self.origin }
    }
}

/// A message in the making.
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// For connections all of which are as their sockets say, or not.
    pub(super) fn new(with_origins: bool) -> Self {
        Self { bytes: vec![if with_origins { WITH_ORIGINS } else { PLAIN }, 0] }
    }

    /// Adds a connection; false if this message has no room for it.
    pub(super) fn push(&mut self, listener: &str, authority: &str, arrival: &Arrival) -> bool {
        let length = listener.len() + authority.len() + arrival.prefix.len() + 5 * size_of::<u32>() + ORIGIN_MAX;
        let texts = listener.len().max(authority.len()) <= TEXT_MAX;
        let expressible = self.bytes[0] == WITH_ORIGINS || arrival.origin == Origin::Socket;
        if !texts || !expressible || usize::from(self.bytes[1]) >= BATCH || self.bytes.len() + length > MESSAGE_MAX {
            return false;
        }
        self.bytes[1] += 1;
        self.block(listener.as_bytes());
        self.block(authority.as_bytes());
        self.milliseconds(arrival.elapsed.quiet);
        self.milliseconds(arrival.elapsed.head);
        if self.bytes[0] == WITH_ORIGINS {
            self.origin(arrival.origin);
        }
        self.block(&arrival.prefix);
        true
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn block(&mut self, block: &[u8]) {
        // `push` has bounded it.
        self.number(u32::try_from(block.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(block);
    }

    fn origin(&mut self, origin: Origin) {
        match origin {
            Origin::Socket => self.bytes.push(OF_SOCKET),
            Origin::Due => self.bytes.push(DUE),
            Origin::Announced(PeerAddress::Unix) => self.bytes.push(OF_UNIX),
            Origin::Announced(PeerAddress::Inet(client)) => {
                match client.ip() {
                    IpAddr::V4(ip) => {
                        self.bytes.push(OF_V4);
                        self.bytes.extend(ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        self.bytes.push(OF_V6);
                        self.bytes.extend(ip.octets());
                    }
                }
                self.bytes.extend(client.port().to_le_bytes());
            }
        }
    }

    fn milliseconds(&mut self, duration: Duration) {
        self.number(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX));
    }

    fn number(&mut self, number: u32) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }
}

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it is of another version")]
    Version,
    #[error("it announces no connection or too many")]
    Count,
    #[error("it ends in the middle of a connection")]
    Short,
    #[error("bytes follow its last connection")]
    Long,
    #[error("a listener's name is no text or too long")]
    Text,
    #[error("a prefix is too long")]
    Prefix,
    #[error("it names a client in an unknown way")]
    Origin,
}

/// The connections of a message.
pub(super) fn read(bytes: Bytes) -> Result<Vec<Item>, Malformed> {
    let mut reader = Reader(bytes);
    let with_origins = match reader.byte()? {
        PLAIN => false,
        WITH_ORIGINS => true,
        _ => return Err(Malformed::Version),
    };
    let count = usize::from(reader.byte()?);
    if !(1..=BATCH).contains(&count) {
        return Err(Malformed::Count);
    }
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        items.push(Item {
            listener: reader.text()?,
            authority: reader.text()?,
            quiet: reader.milliseconds()?,
            head: reader.milliseconds()?,
            origin: if with_origins { reader.origin()? } else { Origin::Socket },
            prefix: reader.block(PREFIX_MAX, Malformed::Prefix)?,
        });
    }
    if reader.0.is_empty() { Ok(items) } else { Err(Malformed::Long) }
}

struct Reader(Bytes);

impl Reader {
    fn take(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if self.0.len() < length { Err(Malformed::Short) } else { Ok(self.0.split_to(length)) }
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.take(N)?;
        bytes.first_chunk().copied().ok_or(Malformed::Short)
    }

    fn origin(&mut self) -> Result<Origin, Malformed> {
        let ip = match self.byte()? {
            OF_SOCKET => return Ok(Origin::Socket),
            DUE => return Ok(Origin::Due),
            OF_UNIX => return Ok(Origin::Announced(PeerAddress::Unix)),
            OF_V4 => IpAddr::from(self.array::<4>()?),
            OF_V6 => IpAddr::from(self.array::<16>()?),
            _ => return Err(Malformed::Origin),
        };
        let port = u16::from_le_bytes(self.array()?);
        Ok(Origin::Announced(PeerAddress::Inet(SocketAddr::new(ip, port))))
    }

    fn milliseconds(&mut self) -> Result<Duration, Malformed> {
        Ok(Duration::from_millis(self.number()?.into()))
    }

    fn block(&mut self, most: usize, otherwise: Malformed) -> Result<Bytes, Malformed> {
        match usize::try_from(self.number()?) {
            Ok(length) if length <= most => self.take(length),
            _ => Err(otherwise),
        }
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let block = self.block(TEXT_MAX, Malformed::Text)?;
        str::from_utf8(&block).map(str::to_owned).map_err(|_| Malformed::Text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arrival(prefix: &'static [u8]) -> Arrival {
        let elapsed = Elapsed { quiet: Duration::from_millis(1500), head: Duration::from_millis(20) };
        Arrival { prefix: Bytes::from_static(prefix), elapsed, origin: Origin::Socket }
    }

    fn written(count: usize, prefix: &'static [u8]) -> Bytes {
        let mut writer = Writer::new(false);
        for _ in 0..count {
            assert!(writer.push("front", "127.0.0.1:80", &arrival(prefix)));
        }
        Bytes::copy_from_slice(writer.bytes())
    }

    #[test]
    fn what_is_written_is_read() {
        let items = read(written(3, b"GET / HT")).expect("well-formed");
        assert_eq!(items.len(), 3);
        let [item, ..] = &items[..] else { panic!("three") };
        assert_eq!((item.listener.as_str(), item.authority.as_str()), ("front", "127.0.0.1:80"));
        assert_eq!((item.quiet, item.head), (Duration::from_millis(1500), Duration::from_millis(20)));
        assert_eq!(item.prefix, "GET / HT");
    }

    #[test]
    fn whom_a_proxy_has_named_travels_with_the_connection() {
        let inet = |address: &str| Origin::Announced(PeerAddress::Inet(address.parse().expect("an address")));
        let origins = [
            inet("192.0.2.7:56324"),
            Origin::Socket,
            inet("[2001:db8::7]:1"),
            Origin::Due,
            Origin::Announced(PeerAddress::Unix),
        ];
        let mut writer = Writer::new(true);
        for origin in origins {
            assert!(writer.push("front", "127.0.0.1:80", &Arrival { origin, ..arrival(b"GET") }));
        }
        let whole = Bytes::copy_from_slice(writer.bytes());
        let items = read(whole.clone()).expect("well-formed");
        assert_eq!(items.iter().map(|item| item.origin).collect::<Vec<_>>(), origins);
        assert!(items.iter().all(|item| item.prefix == "GET"));
        for length in 0..whole.len() {
            assert_eq!(read(whole.slice(..length)), Err(Malformed::Short), "{length} bytes");
        }
        let mut plain = Writer::new(false);
        assert!(
            !plain.push("front", "127.0.0.1:80", &Arrival { origin: origins[0], ..arrival(b"") }),
            "it cannot say it"
        );
    }

    #[test]
    fn a_full_message_takes_no_more() {
        let mut writer = Writer::new(false);
        let all = (0..100).filter(|_| writer.push("front", "localhost", &arrival(b""))).count();
        assert_eq!(all, BATCH);
        assert_eq!(read(Bytes::copy_from_slice(writer.bytes())).expect("well-formed").len(), BATCH);
        static LARGE: [u8; PREFIX_MAX] = [b'x'; PREFIX_MAX];
        let mut writer = Writer::new(false);
        assert!(writer.push("front", "localhost", &arrival(&LARGE)));
        assert!(!writer.push("front", "localhost", &arrival(&LARGE)));
        assert!(writer.push("front", "localhost", &arrival(b"GET")));
        assert_eq!(read(Bytes::copy_from_slice(writer.bytes())).expect("well-formed").len(), 2);
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        let whole = written(2, b"GET");
        for length in 0..whole.len() {
            assert_eq!(read(whole.slice(..length)), Err(Malformed::Short), "{length} bytes");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert_eq!(read(longer.into()), Err(Malformed::Long));
    }

    #[test]
    fn what_announces_too_much_is_refused() {
        assert_eq!(read(Bytes::from_static(&[3, 1])), Err(Malformed::Version));
        assert_eq!(read(Bytes::from_static(&[1, 0])), Err(Malformed::Count));
        assert_eq!(read(Bytes::from_static(&[1, 65])), Err(Malformed::Count));
        assert_eq!(read(Bytes::from_static(&[1, 1, 255, 255, 255, 255])), Err(Malformed::Text));
        assert_eq!(read(Bytes::from_static(&[1, 1, 1, 0, 0, 0, 0xff])), Err(Malformed::Text));
        let mut huge = written(1, b"").to_vec();
        let at = huge.len() - 4;
        huge[at..].copy_from_slice(&(PREFIX_MAX as u32 + 1).to_le_bytes());
        assert_eq!(read(huge.into()), Err(Malformed::Prefix));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read_but_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(bytes.into());
        }

        #[test]
        fn a_flipped_byte_never_panics(at in 0_usize..80, with in any::<u8>()) {
            let mut bytes = written(2, b"GET / HTTP/1.1").to_vec();
            let at = at % bytes.len();
            bytes[at] = with;
            let _ = read(bytes.into());
        }
    }
}

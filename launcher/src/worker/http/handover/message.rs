//! The messages between a worker that leaves and those that stay: which connection is which, in bytes.
//!
//! ```text
//! message:    version u8 = 1, connections u8 (1..=64), then that many connections
//! connection: listener's name, listener's address, quiet u32 ms, head u32 ms, prefix
//! text, prefix: length u32, bytes
//! descriptors: the sender's receipts, then one socket a connection
//! ```
//!
//! Numbers are little-endian. The sender is another process whose plugin may have written anywhere in its memory:
//! everything is checked, and nothing larger than a message can come of it.

use std::time::Duration;

use bytes::Bytes;

use super::{Arrival, BATCH, PREFIX_MAX};
use crate::worker::http::watchdog::Elapsed;

const VERSION: u8 = 1;

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
    pub(super) prefix: Bytes,
}

impl Item {
    pub(super) fn arrival(self) -> Arrival {
        Arrival { prefix: self.prefix, elapsed: Elapsed { quiet: self.quiet, head: self.head } }
    }
}

/// A message in the making.
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { bytes: vec![VERSION, 0] }
    }

    /// Adds a connection; false if this message has no room for it.
    pub(super) fn push(&mut self, listener: &str, authority: &str, arrival: &Arrival) -> bool {
        let length = listener.len() + authority.len() + arrival.prefix.len() + 5 * size_of::<u32>();
        let texts = listener.len().max(authority.len()) <= TEXT_MAX;
        if !texts || usize::from(self.bytes[1]) >= BATCH || self.bytes.len() + length > MESSAGE_MAX {
            return false;
        }
        self.bytes[1] += 1;
        self.block(listener.as_bytes());
        self.block(authority.as_bytes());
        self.milliseconds(arrival.elapsed.quiet);
        self.milliseconds(arrival.elapsed.head);
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
}

/// The connections of a message.
pub(super) fn read(bytes: Bytes) -> Result<Vec<Item>, Malformed> {
    let mut reader = Reader(bytes);
    if reader.byte()? != VERSION {
        return Err(Malformed::Version);
    }
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
        let bytes = self.take(size_of::<u32>())?;
        bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)).ok_or(Malformed::Short)
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
        Arrival { prefix: Bytes::from_static(prefix), elapsed }
    }

    fn written(count: usize, prefix: &'static [u8]) -> Bytes {
        let mut writer = Writer::new();
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
    fn a_full_message_takes_no_more() {
        let mut writer = Writer::new();
        let all = (0..100).filter(|_| writer.push("front", "localhost", &arrival(b""))).count();
        assert_eq!(all, BATCH);
        assert_eq!(read(Bytes::copy_from_slice(writer.bytes())).expect("well-formed").len(), BATCH);
        static LARGE: [u8; PREFIX_MAX] = [b'x'; PREFIX_MAX];
        let mut writer = Writer::new();
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
        assert_eq!(read(Bytes::from_static(&[2, 1])), Err(Malformed::Version));
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

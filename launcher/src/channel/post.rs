//! Messages of plugins: what master and workers say about them, and how they travel between two workers.
//!
//! The master only introduces workers to each other: it makes a pair of sockets (`SOCK_SEQPACKET`) and gives each of the two
//! an end, the *link*. What they say to each other then passes no third process, so that the master neither buffers,
//! nor waits, nor trusts. A packet holds several frames, whose descriptors ride on it in the order of the frames:
//!
//! ```text
//! kind u8 | descriptors u8 | code u16 | length u32 | first u64 | payload      integers are little-endian
//! ```
//!
//! Messages and connections of one direction are numbered from 0 by their order. An answer names a range of them.

use serde::{Deserialize, Serialize};

/// Bytes of a message, or of what was read of a connection that is passed on. For more, pass a file.
pub const MESSAGE_MAX: usize = 64 * 1024;

/// Bytes of a packet.
pub const PACKET_MAX: usize = MESSAGE_MAX + 4096;

/// Descriptors that come with one message.
pub const DESCRIPTORS_MAX: usize = 16;

/// Descriptors of a packet.
pub const PACKET_DESCRIPTORS: usize = 64;

/// Messages of one direction that may be on their way, which nobody has taken.
pub const WINDOW: usize = 256;

/// Bytes of one direction after which the next message waits until some are taken.
pub const WINDOW_BYTES: usize = 128 * 1024;

/// Bytes of a message for the operator. It is kept among the events and shown, so it is no place for data; as a text within
/// JSON it may take twice as much, which a packet of the channel carries.
pub const OPERATOR_MAX: usize = 8 * 1024;

/// Levels of arrays and objects in a message for the operator: readers of events have limits, and it lies in another object.
const OPERATOR_DEPTH: usize = 64;

/// Messages for the operator of one worker that may be on their way.
pub const OPERATOR_WINDOW: usize = 16;

/// Bytes of a frame's head.
pub const HEAD: usize = 16;

/// A worker of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub worker: u64,
    /// Its place.
    pub slot: u32,
}

/// Who is at the other end of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The service.
    pub service: String,
    /// The worker's id.
    pub worker: u64,
    /// Its place.
    pub slot: u32,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u16)]
pub enum Fate {
    /// The plugin has it, or the connection is served.
    Taken = 0,
    /// The plugin does not receive messages, or the worker serves no HTTP any more.
    NotWanted = 1,
    /// The receiver may not open as many descriptors.
    NoRoom = 2,
    /// The descriptor is no connection that can be served.
    Unfit = 3,
}

impl Fate {
    fn of(code: u16) -> Option<Fate> {
        [Fate::Taken, Fate::NotWanted, Fate::NoRoom, Fate::Unfit].into_iter().find(|fate| *fate as u16 == code)
    }
}

/// One frame of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A message of the plugin's.
    Message {
        /// Descriptors that come with it.
        descriptors: usize,
        /// JSON, if the sender keeps to the contract.
        payload: &'a [u8],
    },
    /// A connection, for the HTTP side. Its descriptor comes with it.
    Connection {
        /// What was read of it already.
        payload: &'a [u8],
    },
    /// What became of messages and connections.
    Answer {
        /// Of all in the range.
        fate: Fate,
        /// Number of the first.
        first: u64,
        /// How many.
        count: u32,
    },
}

const MESSAGE: u8 = 1;
const CONNECTION: u8 = 2;
const ANSWER: u8 = 3;

impl Frame<'_> {
    /// Appends the frame to a packet.
    pub fn write(&self, packet: &mut Vec<u8>) {
        let (kind, descriptors, code, first, length, payload) = match *self {
            Frame::Message { descriptors, payload } => (MESSAGE, descriptors as u8, 0, 0, payload.len(), payload),
            Frame::Connection { payload } => (CONNECTION, 1, 0, 0, payload.len(), payload),
            // The length counts the messages here.
            Frame::Answer { fate, first, count } => (ANSWER, 0, fate as u16, first, count as usize, &[][..]),
        };
        packet.extend([kind, descriptors]);
        packet.extend(code.to_le_bytes());
        packet.extend((length as u32).to_le_bytes());
        packet.extend(first.to_le_bytes());
        packet.extend(payload);
    }

    /// Bytes that it takes in a packet, with a payload of that many.
    pub const fn room(payload: usize) -> usize {
        HEAD + payload
    }
}

/// Reads a message for the operator.
///
/// # Errors
/// It is too long, no JSON, or nested too deeply.
pub fn read_for_operator(message: &[u8]) -> Result<serde_json::Value, &'static str> {
    fn fits(value: &serde_json::Value, depth: usize) -> bool {
        match value {
            serde_json::Value::Array(values) => depth > 0 && values.iter().all(|value| fits(value, depth - 1)),
            serde_json::Value::Object(values) => depth > 0 && values.values().all(|value| fits(value, depth - 1)),
            _ => true,
        }
    }
    if message.len() > OPERATOR_MAX {
        return Err("a message that is too long");
    }
    let value = serde_json::from_slice(message).map_err(|_| "a message that is no JSON")?;
    if fits(&value, OPERATOR_DEPTH) { Ok(value) } else { Err("a message that is nested too deeply") }
}

/// Reads the first frame of what is left of a packet.
pub fn read<'a>(packet: &mut &'a [u8]) -> Result<Frame<'a>, &'static str> {
    let (head, rest) = packet.split_first_chunk::<HEAD>().ok_or("a frame without its head")?;
    let [kind, descriptors, c0, c1, l0, l1, l2, l3, first @ ..] = *head;
    let (descriptors, code) = (usize::from(descriptors), u16::from_le_bytes([c0, c1]));
    let (length, first) = (u32::from_le_bytes([l0, l1, l2, l3]), u64::from_le_bytes(first));
    if kind == ANSWER {
        *packet = rest;
        let fate = Fate::of(code).ok_or("an answer that is not known")?;
        return match descriptors {
            0 => Ok(Frame::Answer { fate, first, count: length }),
            _ => Err("an answer with descriptors"),
        };
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= MESSAGE_MAX).ok_or("a frame too long")?;
    let (payload, rest) = rest.split_at_checked(length).ok_or("a frame that is cut off")?;
    *packet = rest;
    match kind {
        _ if code != 0 || first != 0 => Err("a frame with what belongs to an answer"),
        MESSAGE if descriptors <= DESCRIPTORS_MAX => Ok(Frame::Message { descriptors, payload }),
        CONNECTION if descriptors == 1 => Ok(Frame::Connection { payload }),
        _ => Err("a frame of an unknown kind, or with a wrong number of descriptors"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were_written() {
        let long = vec![b'x'; MESSAGE_MAX];
        let frames = [
            Frame::Message { descriptors: 0, payload: b"{}" },
            Frame::Answer { fate: Fate::NoRoom, first: u64::MAX, count: 7 },
            Frame::Connection { payload: b"" },
            Frame::Message { descriptors: DESCRIPTORS_MAX, payload: &long },
        ];
        let mut packet = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut packet));
        let mut left = &packet[..];
        for frame in frames {
            assert_eq!(read(&mut left), Ok(frame));
        }
        assert!(left.is_empty());
    }

    #[test]
    fn an_operator_gets_json_of_a_bounded_size_and_depth() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for good in
            ["1", " {\"a\": [null]} ", &nested(OPERATOR_DEPTH), &format!("\"{}\"", "x".repeat(OPERATOR_MAX - 2))]
        {
            assert!(read_for_operator(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["", "{", "1 2", &nested(OPERATOR_DEPTH + 1), &format!("\"{}\"", "x".repeat(OPERATOR_MAX - 1))] {
            assert!(read_for_operator(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(read_for_operator(b"\"\xff\"").is_err());
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut good = Vec::new();
        Frame::Message { descriptors: 1, payload: b"abc" }.write(&mut good);
        for length in 0..good.len() {
            assert!(read(&mut &good[..length]).is_err(), "{length}");
        }
        for (at, byte) in [(0, 9), (1, 17), (2, 1), (6, 2), (8, 1)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(read(&mut &bad[..]).is_err(), "byte {at} as {byte}");
        }
    }
}

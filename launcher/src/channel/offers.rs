//! What master and worker say of single connections, where the master accepts them (`scheduling: round_robin`): over a
//! pair of their own, because each message is one connection and JSON would cost more than the connection.
//!
//! ```text
//! offer:   version u8 = 1, kind u8 (1 offer, 2 question), listener u16, number u64; an offer with one descriptor
//! answer:  kind u8 (1 taken, 2 refused, 3 free), number u64
//! ```
//!
//! Numbers are little-endian; a listener is its place in [`super::Assign::listeners`]. The master keeps a connection until it
//! is taken. A worker says so before it reads a byte of it, so that nobody is served twice; one that refuses says `free` when it
//! takes connections again. To a question everybody answers `free`: it finds out whether a worker is alive.

const VERSION: u8 = 1;

const OFFER: u8 = 1;
const QUESTION: u8 = 2;

const TAKEN: u8 = 1;
const REFUSED: u8 = 2;
const FREE: u8 = 3;

/// Bytes of a message in either direction.
pub const MOST: usize = 12;

/// From the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// A connection, which is the message's descriptor.
    Connection {
        /// By which listener it came.
        listener: u16,
        /// To be named in the answer.
        number: u64,
    },
    /// Are you there?
    Question,
}

/// From a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The connection is this worker's.
    Taken(u64),
    /// It is not.
    Refused(u64),
    /// Connections are taken.
    Free,
}

impl Offer {
    /// As sent.
    pub fn bytes(self) -> [u8; MOST] {
        let (kind, listener, number) = match self {
            Offer::Connection { listener, number } => (OFFER, listener, number),
            Offer::Question => (QUESTION, 0, 0),
        };
        let mut bytes = [0; MOST];
        (bytes[0], bytes[1]) = (VERSION, kind);
        bytes[2..4].copy_from_slice(&listener.to_le_bytes());
        bytes[4..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    /// As received; `None`: of another version.
    pub fn read(bytes: &[u8]) -> Option<Offer> {
        let [version, kind, low, high, number @ ..] = <[u8; MOST]>::try_from(bytes).ok()?;
        match (version, kind) {
            (VERSION, OFFER) => {
                let (listener, number) = (u16::from_le_bytes([low, high]), u64::from_le_bytes(number));
                Some(Offer::Connection { listener, number })
            }
            (VERSION, QUESTION) => Some(Offer::Question),
            _ => None,
        }
    }
}

impl Answer {
    /// As sent.
    pub fn bytes(self) -> [u8; 9] {
        let (kind, number) = match self {
            Answer::Taken(number) => (TAKEN, number),
            Answer::Refused(number) => (REFUSED, number),
            Answer::Free => (FREE, 0),
        };
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    /// As received; `None`: it is no answer.
    pub fn read(bytes: &[u8]) -> Option<Answer> {
        let [kind, number @ ..] = <[u8; 9]>::try_from(bytes).ok()?;
        let number = u64::from_le_bytes(number);
        match kind {
            TAKEN => Some(Answer::Taken(number)),
            REFUSED => Some(Answer::Refused(number)),
            FREE => Some(Answer::Free),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_understood() {
        for offer in [Offer::Connection { listener: 258, number: 1 << 40 | 7 }, Offer::Question] {
            assert_eq!(Offer::read(&offer.bytes()), Some(offer));
        }
        for answer in [Answer::Taken(1 << 40 | 7), Answer::Refused(0), Answer::Free] {
            assert_eq!(Answer::read(&answer.bytes()), Some(answer));
        }
    }

    #[test]
    fn anything_else_is_not() {
        for bytes in [&[][..], &[1], &[1; 11], &[9; 12], &[1; 13], &[2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(Offer::read(bytes), None, "{bytes:?}");
        }
        for bytes in [&[][..], &[1; 8], &[9; 9], &[1; 10]] {
            assert_eq!(Answer::read(bytes), None, "{bytes:?}");
        }
    }
}

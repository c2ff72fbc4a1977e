//! The answer to an HTTP/1.1 request as bytes: its head, and a body that is counted, chunked or ends with the
//! connection (RFC 9112, sections 6 and 7). No sockets here, and no JSON.

use std::io::{self, BufRead, Read};

/// Bytes of a head, or of the fields after a chunked body.
const LONGEST_HEAD: usize = 64 << 10;
/// Header fields.
const MOST_FIELDS: usize = 64;
/// Bytes of the line that begins a chunk: its size in hexadecimal, and extensions that nobody uses.
const LONGEST_CHUNK_LINE: u64 = 256;
/// Bytes of one line of a body. A worker's line of 16 KiB, every byte of it escaped, is a tenth of it.
const LONGEST_LINE: u64 = 1 << 20;

/// Why an answer cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// There is none: the connection ended before the first byte.
    #[error("the connection ended")]
    Ended,
    /// The connection failed or ended in the middle.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not follow the protocol.
    #[error("{0}")]
    NotHttp(String),
}

/// What the head says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The status code.
    pub(super) status: u16,
    /// How the body ends.
    pub(super) length: Length,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// After so many bytes.
    Counted(u64),
    /// With a chunk of no bytes.
    Chunked,
    /// With the connection.
    Connection,
}

/// Read the head of an answer; interim ones (1xx) are passed over.
pub(super) fn read_head(reader: &mut impl BufRead) -> Result<Head, Broken> {
    loop {
        let head = read_any_head(reader)?;
        if head.status >= 200 {
            return Ok(head);
        }
    }
}

fn read_any_head(reader: &mut impl BufRead) -> Result<Head, Broken> {
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        let left = LONGEST_HEAD - before;
        let read = reader.take(left as u64).read_until(b'\n', &mut bytes)?;
        if read == 0 && left == 0 {
            return Err(Broken::NotHttp(format!("its head is longer than {} KiB", LONGEST_HEAD >> 10)));
        }
        if read == 0 {
            return Err(if before == 0 { Broken::Ended } else { ended_within("the head") });
        }
        // Empty lines before the head are not its end.
        if matches!(&bytes[before..], b"\r\n" | b"\n") && bytes.iter().any(|byte| !byte.is_ascii_whitespace()) {
            break;
        }
    }
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(&bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Broken::NotHttp("its head has no end".to_owned())),
        Err(error) => return Err(Broken::NotHttp(format!("it does not speak HTTP: {error}"))),
    }
    let Some(status) = response.code else { return Err(Broken::NotHttp("its head has no status".to_owned())) };
    Ok(Head { status, length: length(status, response.headers)? })
}

fn length(status: u16, fields: &[httparse::Header<'_>]) -> Result<Length, Broken> {
    if status < 200 || matches!(status, 204 | 304) {
        return Ok(Length::Counted(0));
    }
    let values = |name: &'static str| {
        fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    };
    if let Some(coding) = values("transfer-encoding").next_back() {
        return match coding.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            true => Ok(Length::Chunked),
            false => Err(Broken::NotHttp(format!("the coding `{}` is not known", String::from_utf8_lossy(coding)))),
        };
    }
    let mut lengths = values("content-length").map(|value| {
        let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let counted = digits.and_then(|digits| digits.parse::<u64>().ok());
        counted.ok_or_else(|| Broken::NotHttp(format!("the length `{}` is none", String::from_utf8_lossy(value))))
    });
    let Some(first) = lengths.next() else { return Ok(Length::Connection) };
    let first = first?;
    for other in lengths {
        if other? != first {
            return Err(Broken::NotHttp("it has two different lengths".to_owned()));
        }
    }
    Ok(Length::Counted(first))
}

/// The body of an answer. Its end is that of the body; a body that is cut is an error.
#[derive(Debug)]
pub(super) struct Body<R> {
    reader: R,
    place: Place,
}

/// Where in a body the reading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// So many bytes are left.
    Counted(u64),
    /// A line with a chunk's size comes.
    ChunkSize,
    /// So many bytes of a chunk are left.
    Chunk(u64),
    /// The line break after a chunk comes.
    ChunkEnd,
    /// Until the connection ends.
    Connection,
    /// Nothing is left.
    End,
}

impl<R: BufRead> Body<R> {
    pub(super) fn new(reader: R, length: Length) -> Body<R> {
        let place = match length {
            Length::Counted(bytes) => Place::Counted(bytes),
            Length::Chunked => Place::ChunkSize,
            Length::Connection => Place::Connection,
        };
        Body { reader, place }
    }

    /// What it reads from.
    pub(super) fn reader(&self) -> &R {
        &self.reader
    }

    /// The size of the next chunk.
    fn chunk_size(&mut self) -> io::Result<u64> {
        let mut line = Vec::new();
        (&mut self.reader).take(LONGEST_CHUNK_LINE).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(cut("a chunked body"));
        }
        match httparse::parse_chunk_size(&line) {
            Ok(httparse::Status::Complete((_, size))) => Ok(size),
            Ok(httparse::Status::Partial) if (line.len() as u64) < LONGEST_CHUNK_LINE => Err(cut("a chunked body")),
            _ => Err(invalid("a chunk has no size")),
        }
    }

    /// Read over a line break, and with `fields` over everything up to an empty line.
    fn skip_lines(&mut self, fields: bool) -> io::Result<()> {
        let mut left = LONGEST_HEAD as u64;
        loop {
            let mut line = Vec::new();
            left -= (&mut self.reader).take(left).read_until(b'\n', &mut line)? as u64;
            match line.as_slice() {
                b"\r\n" | b"\n" => return Ok(()),
                [.., b'\n'] if fields && left > 0 => {}
                [] | [b'\r'] if left > 0 => return Err(cut("a chunked body")),
                _ if fields && left > 0 => return Err(cut("a chunked body")),
                _ => return Err(invalid("a chunk is longer than it says")),
            }
        }
    }

    /// Up to `left` bytes; the connection must not end before.
    fn some(&mut self, buffer: &mut [u8], left: u64) -> io::Result<u64> {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        match self.reader.read(&mut buffer[..most])? {
            0 if most > 0 => Err(cut("its body")),
            read => Ok(read as u64),
        }
    }
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.place {
                Place::End => return Ok(0),
                Place::Counted(0) => self.place = Place::End,
                Place::Counted(left) => {
                    let read = self.some(buffer, left)?;
                    self.place = Place::Counted(left - read);
                    return Ok(read as usize);
                }
                Place::ChunkSize => {
                    self.place = match self.chunk_size()? {
                        0 => {
                            self.skip_lines(true)?;
                            Place::End
                        }
                        size => Place::Chunk(size),
                    }
                }
                Place::Chunk(0) => self.place = Place::ChunkEnd,
                Place::Chunk(left) => {
                    let read = self.some(buffer, left)?;
                    self.place = Place::Chunk(left - read);
                    return Ok(read as usize);
                }
                Place::ChunkEnd => {
                    self.skip_lines(false)?;
                    self.place = Place::ChunkSize;
                }
                Place::Connection => return self.reader.read(buffer),
            }
        }
    }
}

/// The next line of a body without its end; `None` after the last.
pub(super) fn read_line(reader: &mut impl BufRead) -> Result<Option<Vec<u8>>, Broken> {
    let mut line = Vec::new();
    if reader.take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 == LONGEST_LINE {
        return Err(Broken::NotHttp(format!("a line of it is longer than {} MiB", LONGEST_LINE >> 20)));
    }
    Ok(Some(line))
}

fn ended_within(what: &str) -> Broken {
    Broken::Io(cut(what))
}

fn cut(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the connection ended within {what}"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(answer: &[u8]) -> Result<(u16, Vec<u8>), Broken> {
        let mut reader = io::BufReader::with_capacity(3, answer); // so small that everything is split
        let head = read_head(&mut reader)?;
        let mut bytes = Vec::new();
        Body::new(reader, head.length).read_to_end(&mut bytes)?;
        Ok((head.status, bytes))
    }

    const COUNTED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n\
        3\r\nhel\r\nA;x=y\r\nlo\nhello, \r\n1\r\n!\r\n0\r\nTrailer: t\r\n\r\n";

    #[test]
    fn a_body_ends_where_its_head_says() {
        assert_eq!(whole(COUNTED).expect("good"), (200, b"hello".to_vec()));
        assert_eq!(whole(CHUNKED).expect("good"), (200, b"hello\nhello, !".to_vec()));
        assert_eq!(whole(b"HTTP/1.0 404 Not\n\nall").expect("good"), (404, b"all".to_vec()));
        assert_eq!(whole(b"HTTP/1.1 204 No\r\n\r\nrest").expect("good"), (204, Vec::new()));
        let interim = b"\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\nrest";
        assert_eq!(whole(interim).expect("good"), (200, Vec::new()));
        let twice = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(whole(twice).expect("good"), (200, b"hi".to_vec()));
    }

    #[test]
    fn an_answer_that_is_cut_anywhere_is_an_error() {
        for answer in [COUNTED, CHUNKED] {
            for end in 0..answer.len() {
                match whole(&answer[..end]) {
                    Err(Broken::Ended) => assert_eq!(end, 0),
                    Err(Broken::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "at {end}"),
                    other => panic!("cut at {end}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for garbage in [
            "garbage\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        ] {
            assert!(matches!(whole(garbage.as_bytes()), Err(Broken::NotHttp(_))), "{garbage:?}");
        }
        for garbage in ["xyz\r\n", "fffffffffffffffff\r\n", "2\r\nabc\r\n0\r\n\r\n", &"1".repeat(1000)] {
            let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{garbage}");
            let Err(Broken::Io(error)) = whole(answer.as_bytes()) else { panic!("{garbage:?} was taken") };
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{garbage:?}: {error}");
        }
    }

    #[test]
    fn what_never_ends_is_given_up() {
        let endless = || io::BufReader::new(io::repeat(b'a'));
        let head = |start: &'static [u8]| read_head(&mut start.chain(endless()));
        assert!(matches!(head(b""), Err(Broken::NotHttp(_))));
        assert!(matches!(head(b"HTTP/1.1 200 OK\r\n"), Err(Broken::NotHttp(_))));
        assert!(matches!(read_line(&mut endless()), Err(Broken::NotHttp(_))));
        let mut trailers = Body::new(b"0\r\n".chain(endless()), Length::Chunked);
        assert_eq!(trailers.read(&mut [0; 9]).expect_err("no end").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn lines_are_told_apart_and_the_last_needs_no_end() {
        let mut lines: &[u8] = b"one\n\nthree";
        let mut next = || read_line(&mut lines).expect("reads");
        assert_eq!(next().as_deref(), Some(b"one".as_slice()));
        assert_eq!(next().as_deref(), Some(b"".as_slice()));
        assert_eq!(next().as_deref(), Some(b"three".as_slice()));
        assert_eq!(next(), None);
    }

    proptest! {
        #[test]
        fn nothing_panics_whatever_comes(
            start in prop::sample::select(vec!["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"]),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = whole(&[start.as_bytes(), &bytes].concat());
        }

        #[test]
        fn chunks_come_together_again(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..9)) {
            let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for part in &parts {
                answer.extend(format!("{:x}\r\n", part.len()).into_bytes());
                answer.extend(part);
                answer.extend(b"\r\n");
            }
            answer.extend(b"0\r\n\r\n");
            prop_assert_eq!(whole(&answer).expect("good"), (200, parts.concat()));
        }
    }
}

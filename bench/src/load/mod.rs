//! Clients. Each is one thread around one `epoll_wait`, and makes its requests beforehand.

pub(crate) mod closed;
pub(crate) mod open;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What is asked, as bytes.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) bytes: Vec<u8>,
    /// A connection is for one request.
    pub(crate) once: bool,
}

impl Ask {
    pub(crate) fn get(address: SocketAddr, path: &str) -> Ask {
        Ask::with(address, path, &[], None)
    }

    /// The same, with a connection for each.
    pub(crate) fn once(address: SocketAddr, path: &str) -> Ask {
        Ask { once: true, ..Ask::with(address, path, &[("connection", "close")], None) }
    }

    /// With headers and a body, if there is one.
    pub(crate) fn with(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Ask {
        let method = if body.is_some() { "POST" } else { "GET" };
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n");
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        if let Some(body) = body {
            head += &format!("content-length: {}\r\n", body.len());
        }
        head += "\r\n";
        let bytes = [head.as_bytes(), body.unwrap_or_default()].concat();
        Ask { bytes, once: false }
    }
}

/// Asks once, on a connection of its own, for the whole answer.
pub(crate) fn ask(address: SocketAddr, within: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&piece[..read]),
        }
        if complete(&answer)? {
            return Ok(String::from_utf8_lossy(&answer).into_owned());
        }
    }
}

/// Whether these are the bytes of a whole response. Anything but a 200 is an error.
fn complete(bytes: &[u8]) -> io::Result<bool> {
    const GOOD: &[u8] = b"HTTP/1.1 200 ";
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(false);
    };
    if !bytes.starts_with(GOOD) {
        let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
        return Err(io::Error::other(format!("a response is {}", line.escape_ascii())));
    }
    for line in bytes[..end].split(|byte| *byte == b'\n') {
        let Some((name, value)) = line.split_at_checked("content-length:".len()) else {
            continue;
        };
        if name.eq_ignore_ascii_case(b"content-length:") {
            let length = std::str::from_utf8(value).ok().and_then(|value| value.trim().parse::<usize>().ok());
            let length = length.ok_or_else(|| io::Error::other("a content-length is no number"))?;
            return Ok(bytes.len() >= end + 4 + length);
        }
    }
    // Chunked: whoever asks for a fixed text ends it with the last chunk.
    Ok(bytes.ends_with(b"\r\n0\r\n\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_complete_when_its_body_is_there() {
        for (bytes, whole) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", true),
            ("HTTP/1.1 200 OK\r\nContent-Len", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", true),
        ] {
            assert_eq!(complete(bytes.as_bytes()).expect("a 200"), whole, "{bytes:?}");
        }
        assert!(complete(b"HTTP/1.1 500 No\r\n\r\n").is_err());
    }

    #[test]
    fn a_request_says_how_long_its_body_is() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let ask = Ask::with(address, "/json", &[("a", "b")], Some(b"{}"));
        assert_eq!(
            String::from_utf8(ask.bytes).expect("text"),
            "POST /json HTTP/1.1\r\nhost: 127.0.0.1:80\r\na: b\r\ncontent-length: 2\r\n\r\n{}"
        );
        assert!(Ask::once(address, "/").once && Ask::get(address, "/").bytes.starts_with(b"GET / "));
    }
}

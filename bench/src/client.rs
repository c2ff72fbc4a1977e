//! The load: keep-alive connections that each send the next request when they have the response to the last.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// How long a response may take before the server counts as broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a time of load gave.
pub(crate) struct Load {
    /// Responses, all of them good.
    pub(crate) requests: u64,
    /// From the first request to the last response.
    pub(crate) time: Duration,
}

/// Loads a server for `time`.
pub(crate) async fn load(address: SocketAddr, connections: usize, time: Duration) -> io::Result<Load> {
    let request = Rc::<[u8]>::from(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes());
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let requests = Rc::new(Cell::new(0));
    let start = Instant::now();
    let tasks = LocalSet::new();
    let running: Vec<_> = streams
        .into_iter()
        .map(|stream| tasks.spawn_local(converse(stream, Rc::clone(&request), Rc::clone(&requests), start + time)))
        .collect();
    let outcome = tokio::time::timeout(
        time + PATIENCE,
        tasks.run_until(async {
            for conversation in running {
                conversation.await.map_err(io::Error::other)??;
            }
            Ok(())
        }),
    );
    outcome.await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "a response does not come")))?;
    Ok(Load { requests: requests.get(), time: start.elapsed() })
}

async fn converse(mut stream: TcpStream, request: Rc<[u8]>, requests: Rc<Cell<u64>>, end: Instant) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while Instant::now() < end {
        stream.write_all(&request).await?;
        let mut filled = 0;
        while !complete(&buffer[..filled])? {
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Err(io::Error::other("the server closed a connection, or its response is too long")),
                read => filled += read,
            }
        }
        requests.set(requests.get() + 1);
    }
    Ok(())
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
}

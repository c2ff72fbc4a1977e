//! HTTP/1.1 (RFC 9112) as seen by clients that forgive nothing: a connection, an exchange, what went wrong.
//!
//! It never retries, follows nothing and hides nothing. Whoever calls decides what a trouble means.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a response may take before the client counts as hung. Longer than any worker is stopped on purpose.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a client that never retries complains about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// No connection.
    Refused(String),
    /// The connection ended, or broke the protocol, before the response was complete.
    Failed(String),
    /// No whole response within [`PATIENCE`].
    Hung,
    /// A response, but not the one that is right.
    Wrong(String),
    /// `Connection: close` in a response to a client that wants to keep its connection.
    ToldToReconnect,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Refused(why) => write!(f, "refused: {why}"),
            Trouble::Failed(why) => write!(f, "failed: {why}"),
            Trouble::Hung => write!(f, "hung: no answer within {PATIENCE:?}"),
            Trouble::Wrong(what) => write!(f, "wrong: {what}"),
            Trouble::ToldToReconnect => write!(f, "told to reconnect"),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Failed(error.to_string())
    }
}

/// The head of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// How its body ends.
    pub body: Length,
    /// `Connection: close`.
    pub closes: bool,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// After that many bytes.
    Known(u64),
    /// With the last chunk.
    Chunked,
}

/// Reads a head at the start of `bytes`; with the number of its bytes.
///
/// # Errors
/// What is no head of a response. `None`: it is not complete yet.
pub fn read_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, Trouble> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > 64 << 10 { Err(Trouble::Failed("a head without an end".into())) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| Trouble::Failed("a head that is no text".into()))?;
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| Trouble::Failed(format!("not a status line: {line:?}")))?;
    let mut head = Head { status, body: Length::Known(0), closes: false };
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| Trouble::Failed(format!("not a header: {line:?}")))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().map_err(|_| Trouble::Failed(format!("content-length is {value:?}")))?;
            head.body = Length::Known(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            head.body = Length::Chunked;
        } else if name.eq_ignore_ascii_case("connection") {
            head.closes |= value.to_ascii_lowercase().contains("close");
        }
    }
    Ok(Some((head, end + 4)))
}

/// A whole response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// The body, its chunks joined.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection for a client's whole life.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// The client's port: by it one finds out which process holds the other end.
    pub port: u16,
    /// When it began to be opened: never later than the moment at which a worker had it.
    pub opened: Instant,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`Trouble::Refused`], [`Trouble::Hung`].
    pub async fn open(address: SocketAddr) -> Result<Self, Trouble> {
        let opened = Instant::now();
        let refused = |error: io::Error| Trouble::Refused(error.to_string());
        let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
        let stream = connecting.map_err(|_| Trouble::Hung)?.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let port = stream.local_addr().map_err(refused)?.port();
        Ok(Self { stream, port, opened, buffer: Vec::new() })
    }

    /// `GET target` and its whole response.
    ///
    /// # Errors
    /// As it goes wrong; a response with another status than `status` is [`Trouble::Wrong`].
    pub async fn get(&mut self, target: &str, status: u16) -> Result<Response, Trouble> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: faults.example\r\n\r\n");
        within(PATIENCE, async {
            self.send(request.as_bytes()).await?;
            self.response(status).await
        })
        .await
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// [`Trouble::Failed`].
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The next whole response. It waits as long as it takes.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub async fn response(&mut self, status: u16) -> Result<Response, Trouble> {
        let mut body = Vec::new();
        let head = self.head().await?;
        match head.body {
            Length::Known(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                while self.buffer.len() < length {
                    self.more().await?;
                }
                body.extend(self.buffer.drain(..length));
            }
            Length::Chunked => self.chunks(&mut body).await?,
        }
        if head.status != status {
            let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            return Err(Trouble::Wrong(format!("status {} {text}", head.status)));
        }
        if head.closes { Err(Trouble::ToldToReconnect) } else { Ok(Response { status: head.status, body }) }
    }

    /// The next head.
    ///
    /// # Errors
    /// [`Trouble::Failed`].
    pub async fn head(&mut self) -> Result<Head, Trouble> {
        loop {
            if let Some((head, length)) = read_head(&self.buffer)? {
                self.buffer.drain(..length);
                return Ok(head);
            }
            self.more().await?;
        }
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> Result<(), Trouble> {
        loop {
            let end = loop {
                match self.buffer.windows(2).position(|window| window == b"\r\n") {
                    Some(end) => break end,
                    None => self.more().await?,
                }
            };
            let size = std::str::from_utf8(&self.buffer[..end]).ok();
            let size = size.and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
            let size = size.ok_or_else(|| Trouble::Failed("not the size of a chunk".into()))?;
            while self.buffer.len() < end + 2 + size + 2 {
                self.more().await?;
            }
            body.extend_from_slice(&self.buffer[end + 2..end + 2 + size]);
            self.buffer.drain(..end + 2 + size + 2);
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// What has come, or comes next, of a body; at most `most` bytes.
    ///
    /// # Errors
    /// [`Trouble::Failed`].
    pub async fn part(&mut self, most: usize) -> Result<Vec<u8>, Trouble> {
        if self.buffer.is_empty() {
            self.more().await?;
        }
        let length = self.buffer.len().min(most);
        Ok(self.buffer.drain(..length).collect())
    }

    async fn more(&mut self) -> Result<(), Trouble> {
        self.buffer.reserve(4096);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(Trouble::Failed(format!("closed with {} bytes of a response", self.buffer.len()))),
            _ => Ok(()),
        }
    }

    /// Ends it by a reset instead of a close.
    pub fn reset(self) {
        // That the system refuses makes it a close, which is as good a nuisance.
        let _ = self.stream.set_zero_linger();
    }
}

/// The outcome of something that may take only so long.
///
/// # Errors
/// [`Trouble::Hung`] after that time.
pub async fn within<T>(time: Duration, what: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    tokio::time::timeout(time, what).await.unwrap_or(Err(Trouble::Hung))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_and_cut_ones_waited_for() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nbody";
        for length in 0..whole.len() - 4 {
            assert_eq!(read_head(&whole[..length]), Ok(None), "{length} bytes");
        }
        let head = Head { status: 200, body: Length::Known(12), closes: false };
        assert_eq!(read_head(whole), Ok(Some((head, whole.len() - 4))));
        let closing = read_head(b"HTTP/1.1 503 No\r\nconnection: Close\r\ntransfer-encoding: chunked\r\n\r\n");
        let head = closing.expect("a head").expect("complete").0;
        assert_eq!(head, Head { status: 503, body: Length::Chunked, closes: true });
    }

    #[test]
    fn what_is_no_head_fails() {
        for bytes in ["HTTP/1.0 200 OK\r\n\r\n", "line\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"] {
            assert!(matches!(read_head(bytes.as_bytes()), Err(Trouble::Failed(_))), "{bytes:?}");
        }
        assert!(matches!(read_head(&vec![b'x'; 70_000]), Err(Trouble::Failed(_))));
    }
}

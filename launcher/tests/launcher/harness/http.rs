//! An HTTP/1.1 client (RFC 9112) that does what it is told: it never retries, follows nothing, hides nothing.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use super::PATIENCE;

/// A connection to a server.
pub(crate) struct Connection {
    reader: BufReader<Stream>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Why an exchange failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection: refused, reset while connecting, or not taken in time.
    Refused(io::Error),
    /// The connection was there, and then ended or broke the protocol.
    Broken(io::Error),
}

/// The head of a response.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    /// The response answers a request that has no body in its response.
    bodiless: bool,
}

/// A whole response.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    /// The fields after a chunked body.
    pub(crate) trailers: Vec<(String, String)>,
}

impl Head {
    /// The first header of that name (in lower case).
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One GET on a connection of its own.
pub(crate) fn get(address: &str, target: &str) -> Result<Response, Failure> {
    let mut connection = Connection::open(address).map_err(Failure::Refused)?;
    connection.request("GET", target, &[("connection", "close")], b"").map_err(Failure::Broken)
}

/// One GET that must be answered.
pub(crate) fn fetch(address: &str, target: &str) -> Response {
    get(address, target).unwrap_or_else(|failure| panic!("GET {target} of {address}: {failure:?}"))
}

impl Connection {
    /// Connects to `host:port`, `unix:/path` or `unix:@name`.
    pub(crate) fn open(address: &str) -> io::Result<Self> {
        Self::open_with(address, 64 << 10)
    }

    /// The same with a small buffer, for tests with very many connections.
    pub(crate) fn open_lean(address: &str) -> io::Result<Self> {
        Self::open_with(address, 512)
    }

    fn open_with(address: &str, buffer: usize) -> io::Result<Self> {
        let stream = match address.strip_prefix("unix:") {
            Some(path) => Stream::Unix(match path.strip_prefix('@') {
                Some(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?,
                None => UnixStream::connect(path)?,
            }),
            None => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        };
        let connection = Self { reader: BufReader::with_capacity(buffer, stream) };
        connection.set_read_timeout(PATIENCE)?;
        Ok(connection)
    }

    /// How long a read may wait.
    pub(crate) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self.reader.get_ref() {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }

    /// A request and its whole response.
    pub(crate) fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut request = head(method, target, headers);
        if !body.is_empty() {
            request += &format!("content-length: {}\r\n", body.len());
        }
        request += "\r\n";
        self.send(request.as_bytes())?;
        self.send(body)?;
        self.response(method)
    }

    /// Sends a request's head (with its empty line) without waiting for an answer.
    pub(crate) fn send_head(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> io::Result<()> {
        self.send((head(method, target, headers) + "\r\n").as_bytes())
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.reader.get_mut() {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }

    /// Another handle for sending, for a thread that writes while this one reads.
    pub(crate) fn sender(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(match self.reader.get_ref() {
            Stream::Tcp(stream) => Box::new(stream.try_clone()?),
            Stream::Unix(stream) => Box::new(stream.try_clone()?),
        })
    }

    /// Sends nothing any more.
    pub(crate) fn finish(&self) -> io::Result<()> {
        match self.reader.get_ref() {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// The next whole response.
    pub(crate) fn response(&mut self, method: &str) -> io::Result<Response> {
        let head = self.head(method)?;
        let mut body = Vec::new();
        let trailers = self.body(&head, |part| body.extend_from_slice(part))?;
        Ok(Response { head, body, trailers })
    }

    /// The next head that is not an interim one (1xx), as answer to a request of that method.
    pub(crate) fn head(&mut self, method: &str) -> io::Result<Head> {
        loop {
            let head = self.any_head(method)?;
            if head.status >= 200 {
                return Ok(head);
            }
        }
    }

    /// The next head, interim ones included.
    pub(crate) fn any_head(&mut self, method: &str) -> io::Result<Head> {
        let line = self.line()?;
        let mut words = line.splitn(3, ' ');
        let status = match (words.next(), words.next().and_then(|status| status.parse().ok())) {
            (Some("HTTP/1.1" | "HTTP/1.0"), Some(status)) => status,
            _ => return Err(broken(format!("not a status line: {line:?}"))),
        };
        let headers = self.fields()?;
        let bodiless = method == "HEAD" || matches!(status, 100..=199 | 204 | 304);
        Ok(Head { status, headers, bodiless })
    }

    /// The body that follows a head, part by part; gives the trailers.
    pub(crate) fn body(&mut self, head: &Head, mut take: impl FnMut(&[u8])) -> io::Result<Vec<(String, String)>> {
        if head.bodiless {
            return Ok(Vec::new());
        }
        if head.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            loop {
                let line = self.line()?;
                let size = u64::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
                    .map_err(|_| broken(format!("not the size of a chunk: {line:?}")))?;
                if size == 0 {
                    return self.fields();
                }
                self.exactly(size, &mut take)?;
                if !self.line()?.is_empty() {
                    return Err(broken("a chunk is longer than its size".into()));
                }
            }
        }
        match head.header("content-length") {
            Some(length) => {
                let length = length.parse().map_err(|_| broken(format!("content-length is {length:?}")))?;
                self.exactly(length, &mut take)?;
            }
            None => {
                while let part @ [_, ..] = self.reader.fill_buf()? {
                    take(part);
                    let length = part.len();
                    self.reader.consume(length);
                }
            }
        }
        Ok(Vec::new())
    }

    /// Whether the server closed the connection, waited for.
    pub(crate) fn closed(&mut self) -> io::Result<bool> {
        Ok(self.reader.fill_buf()?.is_empty())
    }

    fn exactly(&mut self, mut left: u64, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
        while left > 0 {
            let buffered = self.reader.fill_buf()?;
            if buffered.is_empty() {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, format!("{left} bytes of the body are missing")));
            }
            let part = &buffered[..buffered.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
            take(part);
            let length = part.len();
            self.reader.consume(length);
            left -= length as u64;
        }
        Ok(())
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken(format!("not a header: {line:?}")))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None if line.is_empty() => Err(io::Error::new(ErrorKind::UnexpectedEof, "closed without an answer")),
            None => Err(broken(format!("not a line: {line:?}"))),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: test.example\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head
}

fn broken(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

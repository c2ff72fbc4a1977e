//! Clients: a connection for each request, several at a time.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Clients at a time.
pub(super) const COUNT: usize = 16;

/// A connection that is not answered by then is given up.
const STRANDED: Duration = Duration::from_millis(500);

/// What became of the connections.
#[derive(Default)]
pub(super) struct Answers {
    /// From before the connect to the end of the response.
    pub(super) latencies: Vec<Duration>,
    /// Those that were given up.
    pub(super) stranded: usize,
}

/// Opens so many connections, each for one request.
pub(super) fn ask(address: SocketAddr, count: usize) -> Answers {
    let client = |part: usize| {
        move || {
            let mut answers = Answers::default();
            for _ in 0..part {
                let begun = Instant::now();
                match one(address) {
                    Ok(()) => answers.latencies.push(begun.elapsed()),
                    Err(_) => answers.stranded += 1,
                }
            }
            answers
        }
    };
    let threads: Vec<_> = (0..COUNT).map(|_| thread::spawn(client(count / COUNT))).collect();
    let mut all = Answers::default();
    for thread in threads {
        // One that panicked has printed itself.
        let Answers { latencies, stranded } = thread.join().unwrap_or_default();
        all.latencies.extend(latencies);
        all.stranded += stranded;
    }
    all
}

/// Opens so many connections, one after the other, that stay open after a request.
pub(super) fn hold(address: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
            let mut response = [0; 4096];
            // The handler's text is short, and comes in one piece.
            if stream.read(&mut response)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(stream)
        })
        .collect()
}

/// Has one worker compute without end.
pub(super) fn begin_loop(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /loop HTTP/1.1\r\nHost: a\r\n\r\n")?;
    // It is in the loop when it has not answered for a while.
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let _ = stream.read(&mut [0]);
    Ok(())
}

fn one(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, STRANDED)?;
    stream.set_read_timeout(Some(STRANDED))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    if response.starts_with(b"HTTP/1.1 200 ") { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

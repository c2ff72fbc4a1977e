//! An established TCP connection: what both directions of it share, for streams of either version of WASI.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::Open;

/// Bytes that one call of a guest moves at most; also what may wait for a slow peer after the guest has written it.
const AT_ONCE: usize = 64 << 10;

/// How long the rest of what a guest wrote waits for a peer that does not read, once the guest has let go of the
/// connection.
const FORSAKEN: Duration = Duration::from_secs(30);

/// A connection. It closes when the socket of the guest, both its streams and the rest of what was written are gone.
pub(crate) struct Connection {
    stream: TcpStream,
    read_closed: AtomicBool,
    writing: Mutex<Writing>,
    written: Notify,
    _open: Option<Open>,
}

/// What becomes of bytes that a guest writes.
enum Writing {
    Idle,
    /// A task writes the rest of them; `then_close`: and shuts this direction down.
    Busy {
        then_close: bool,
    },
    Failed(io::ErrorKind),
    Closed,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, open: Option<Open>) -> Arc<Connection> {
        Arc::new(Connection {
            stream,
            read_closed: AtomicBool::new(false),
            writing: Mutex::new(Writing::Idle),
            written: Notify::new(),
            _open: open,
        })
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    pub(super) fn remote_address(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Reads what is there. The system is asked first: the runtime learns of a new connection's bytes only when it has
    /// slept once.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read_closed.load(Relaxed) {
            return Ok(0);
        }
        let read = |buffer: &mut [u8]| -> io::Result<usize> {
            match rustix::net::recv(&self.stream, buffer, RecvFlags::DONTWAIT) {
                Ok((read, _)) => Ok(read),
                Err(error) => Err(error.into()),
            }
        };
        let length = buffer.len();
        match read(&mut *buffer) {
            // Once more where the runtime sees it, so that it forgets that there was something.
            Err(error) if would_block(&error) => self.stream.try_io(Interest::READABLE, || read(buffer)),
            Ok(got) if got > 0 && got < length => {
                // Nothing is left. What comes now is another event, so that forgetting is safe, and the guest need not
                // find out by reading in vain after every message.
                let _ = self.stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                Ok(got)
            }
            other => other,
        }
    }

    /// Writes what fits.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let write = || -> io::Result<usize> {
            Ok(rustix::net::send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
        };
        match write() {
            Err(error) if would_block(&error) => self.stream.try_io(Interest::WRITABLE, write),
            other => other,
        }
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_read(buffer) {
                Err(error) if would_block(&error) => ready!(self.stream.poll_read_ready(cx))?,
                other => return Poll::Ready(other),
            }
        }
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(bytes) {
                Err(error) if would_block(&error) => ready!(self.stream.poll_write_ready(cx))?,
                other => return Poll::Ready(other),
            }
        }
    }

    /// Something can be read, the end included.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.read_closed.load(Relaxed) {
            return Poll::Ready(());
        }
        self.stream.poll_read_ready(cx).map(drop)
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_write_ready(cx).map(drop)
    }

    pub(super) fn shut_down(&self, how: Shutdown) {
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            self.read_closed.store(true, Relaxed);
            self.shut(rustix::net::Shutdown::Read);
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            let mut writing = self.writing();
            match &mut *writing {
                Writing::Busy { then_close } => *then_close = true,
                Writing::Idle => {
                    *writing = Writing::Closed;
                    self.shut(rustix::net::Shutdown::Write);
                }
                Writing::Failed(_) | Writing::Closed => {}
            }
        }
    }

    fn shut(&self, how: rustix::net::Shutdown) {
        // It fails only if the connection is gone already.
        let _ = rustix::net::shutdown(&self.stream, how);
    }

    /// Ends the direction to the peer, as the end of a guest's stream does in WASI 0.3.
    pub(super) fn end_writing(&self) {
        self.shut_down(Shutdown::Write);
    }

    /// Ends the direction from the peer.
    pub(super) fn end_reading(&self) {
        self.shut_down(Shutdown::Read);
    }

    /// Writes all of it, in a task where the peer is slow.
    fn write(self: &Arc<Self>, mut bytes: Bytes) -> StreamResult<()> {
        let mut writing = self.writing();
        match &*writing {
            Writing::Idle => {}
            Writing::Closed => return Err(StreamError::Closed),
            Writing::Failed(kind) => return Err(failed(io::Error::from(*kind))),
            Writing::Busy { .. } => return Err(StreamError::trap("not permitted to write")),
        }
        while !bytes.is_empty() {
            match self.try_write(&bytes) {
                Ok(written) => drop(bytes.split_to(written)),
                Err(error) if would_block(&error) => {
                    *writing = Writing::Busy { then_close: false };
                    tokio::spawn(Arc::clone(self).write_rest(bytes));
                    return Ok(());
                }
                Err(error) => {
                    let broken = error.kind() == io::ErrorKind::BrokenPipe;
                    *writing = if broken { Writing::Closed } else { Writing::Failed(error.kind()) };
                    return Err(if broken { StreamError::Closed } else { failed(error) });
                }
            }
        }
        Ok(())
    }

    async fn write_rest(self: Arc<Self>, mut bytes: Bytes) {
        let outcome = loop {
            if bytes.is_empty() {
                break Ok(());
            }
            match self.try_write(&bytes) {
                Ok(written) => drop(bytes.split_to(written)),
                Err(error) if would_block(&error) => match timeout(FORSAKEN, self.stream.writable()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => break Err(error),
                    Err(_) if Arc::strong_count(&self) == 1 => break Err(io::ErrorKind::TimedOut.into()),
                    Err(_) => {}
                },
                Err(error) => break Err(error),
            }
        };
        let mut writing = self.writing();
        let close = matches!(*writing, Writing::Busy { then_close: true });
        *writing = match outcome {
            Ok(()) if close => {
                self.shut(rustix::net::Shutdown::Write);
                Writing::Closed
            }
            Ok(()) => Writing::Idle,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Writing::Closed,
            Err(error) => Writing::Failed(error.kind()),
        };
        drop(writing);
        self.written.notify_waiters();
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn would_block(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::AGAIN) || error.kind() == io::ErrorKind::WouldBlock
}

fn failed(error: io::Error) -> StreamError {
    StreamError::LastOperationFailed(error.into())
}

/// The direction from the peer, as a stream of WASI 0.2.
pub(super) struct Reader(pub(super) Arc<Connection>);

/// The direction to the peer.
pub(super) struct Writer(pub(super) Arc<Connection>);

#[async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.0.poll_read_ready(cx)).await;
    }
}

#[async_trait]
impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.0.read_closed.load(Relaxed) {
            return Err(StreamError::Closed);
        }
        if size == 0 {
            return Ok(Bytes::new());
        }
        let mut buffer = vec![0; size.min(AT_ONCE)];
        match self.0.try_read(&mut buffer) {
            Ok(0) => {
                self.0.read_closed.store(true, Relaxed);
                Err(StreamError::Closed)
            }
            Ok(read) => {
                buffer.truncate(read);
                Ok(buffer.into())
            }
            Err(error) if would_block(&error) => Ok(Bytes::new()),
            Err(error) => Err(failed(error)),
        }
    }
}

#[async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        loop {
            let written = self.0.written.notified();
            let busy = matches!(*self.0.writing(), Writing::Busy { .. });
            match busy {
                true => written.await,
                false => break,
            }
        }
    }
}

#[async_trait]
impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > AT_ONCE {
            return Err(StreamError::trap("not permitted to write so much"));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        match &*self.0.writing() {
            Writing::Idle | Writing::Busy { .. } => Ok(()),
            Writing::Closed => Err(StreamError::Closed),
            Writing::Failed(kind) => Err(failed(io::Error::from(*kind))),
        }
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match &*self.0.writing() {
            Writing::Idle => Ok(AT_ONCE),
            Writing::Busy { .. } => Ok(0),
            Writing::Closed => Err(StreamError::Closed),
            Writing::Failed(kind) => Err(failed(io::Error::from(*kind))),
        }
    }
}

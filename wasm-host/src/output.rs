//! What a guest writes to stdout and stderr, cut into lines.
//!
//! A store has one [`Lines`] a stream. Complete lines go to the [`Output`] at once; the remainder goes when the
//! store ends. Nothing here waits: a guest cannot be made to block by what it prints, and bounding what a worker
//! prints is the worker's business.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Which stream of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Receives the lines of all guests of a worker: without their line feed, at most [`LINE`] bytes each, not
/// necessarily UTF-8. Called in the middle of a guest's call, so it must not wait for anything.
pub type Output = Arc<dyn Fn(Stream, &[u8]) + Send + Sync>;

/// Bytes of the longest line; longer ones are split.
pub const LINE: usize = 16 << 10;

/// One of the guest's streams.
#[derive(Clone)]
pub(crate) struct Lines(Arc<Mutex<Buffer>>);

struct Buffer {
    stream: Stream,
    output: Output,
    /// The line that has no end yet; shorter than [`LINE`].
    partial: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: Stream, output: &Output) -> Lines {
        Lines(Arc::new(Mutex::new(Buffer { stream, output: Arc::clone(output), partial: Vec::new() })))
    }

    fn push(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

impl Buffer {
    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = LINE - self.partial.len();
            let window = &bytes[..bytes.len().min(room)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) if self.partial.is_empty() => {
                    (self.output)(self.stream, &window[..end]);
                    bytes = &bytes[end + 1..];
                }
                Some(end) => {
                    self.partial.extend_from_slice(&window[..end]);
                    self.flush();
                    bytes = &bytes[end + 1..];
                }
                None => {
                    self.partial.extend_from_slice(window);
                    bytes = &bytes[window.len()..];
                    if self.partial.len() == LINE {
                        self.flush();
                        // The end of a line that fits exactly would otherwise become an empty line.
                        bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
                    }
                }
            }
        }
    }

    fn flush(&mut self) {
        (self.output)(self.stream, &self.partial);
        self.partial.clear();
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            self.flush();
        }
    }
}

impl IsTerminal for Lines {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Lines {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Lines {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(writes: &[&[u8]]) -> Vec<Vec<u8>> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let output: Output = Arc::new(move |_, line| sink.lock().expect("lock").push(line.to_vec()));
        let lines = Lines::new(Stream::Stdout, &output);
        for write in writes {
            lines.push(write);
        }
        drop((lines, output));
        let seen = seen.lock().expect("lock");
        seen.clone()
    }

    #[test]
    fn lines_are_whole_whatever_the_writes() {
        assert_eq!(lines_of(&[b"one\ntw", b"o", b"\n\nrest"]), [&b"one"[..], b"two", b"", b"rest"]);
    }

    #[test]
    fn long_lines_are_split() {
        let long = vec![b'x'; LINE + 3];
        let mut lines = lines_of(&[&long, b"\nend\n"]);
        assert_eq!(lines.pop().as_deref(), Some(&b"end"[..]));
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [LINE, 3]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_one_line() {
        let long = [vec![b'x'; LINE], b"\nend\n".to_vec()].concat();
        assert_eq!(lines_of(&[&long]).len(), 2);
    }
}

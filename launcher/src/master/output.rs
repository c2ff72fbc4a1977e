//! A worker's output: drained always, cut into lines of at most 16 KiB, passed to the journal.
//!
//! A pipe that nobody reads stops its writer after 64 KiB (pipe(7)), so reading never waits for anything.

use std::io;
use std::os::fd::OwnedFd;

use tokio::net::unix::pipe::Receiver;

use super::journal::{Journal, Stream, WorkerName};

/// Bytes of a line; a longer one is passed on in pieces.
const LINE: usize = 16 * 1024;
/// Bytes of one read, and the turns that one stream may take before the others get theirs.
const READ: usize = 16 * 1024;
const TURNS: usize = 16;

/// Pass on everything that comes out of `pipe`, until its last writer is gone.
pub async fn drain(pipe: OwnedFd, stream: Stream, worker: WorkerName, journal: Journal) {
    let Ok(pipe) = Receiver::from_owned_fd(pipe) else { return };
    let mut line = Vec::new();
    while pipe.readable().await.is_ok() {
        for _ in 0..TURNS {
            // Not held across an await: 200 silent workers must not cost the master 400 buffers.
            let mut bytes = [0; READ];
            match pipe.try_read(&mut bytes) {
                Ok(0) => {
                    if !line.is_empty() {
                        journal.output(&worker, stream, &line);
                    }
                    return;
                }
                Ok(read) => {
                    split(&mut line, &bytes[..read], |whole| journal.output(&worker, stream, whole));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Append `bytes` to the line begun and give away every whole one.
fn split(line: &mut Vec<u8>, mut bytes: &[u8], mut whole: impl FnMut(&[u8])) {
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let (head, rest) = bytes.split_at(end);
        extend(line, head, &mut whole);
        whole(line);
        line.clear();
        bytes = &rest[1..];
    }
    extend(line, bytes, &mut whole);
    if line.is_empty() {
        line.shrink_to(0);
    }
}

fn extend(line: &mut Vec<u8>, mut bytes: &[u8], whole: &mut impl FnMut(&[u8])) {
    while line.len() + bytes.len() > LINE {
        let (piece, rest) = bytes.split_at(LINE - line.len());
        line.extend_from_slice(piece);
        whole(line);
        line.clear();
        bytes = rest;
    }
    line.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (mut line, mut lines) = (Vec::new(), Vec::new());
        for piece in pieces {
            split(&mut line, piece, |whole| lines.push(whole.to_vec()));
        }
        (lines, line)
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let (lines, rest) = lines_of(&[b"one\ntw", b"o\n", b"\nthr", b"ee"]);
        assert_eq!(lines, [b"one".to_vec(), b"two".to_vec(), b"".to_vec()]);
        assert_eq!(rest, b"three");
    }

    #[test]
    fn a_line_without_end_stays_bounded() {
        let long = vec![b'x'; 3 * LINE + 5];
        let (lines, rest) = lines_of(&[&long, b"\n"]);
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [LINE, LINE, LINE, 5]);
        assert!(rest.is_empty());
    }
}

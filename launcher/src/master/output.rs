//! A worker's output: drained always, cut into lines of at most 16 KiB, passed to the journal.
//!
//! A pipe that nobody reads stops its writer after 64 KiB (pipe(7)), so reading never waits for anything.

use std::io;
use std::sync::Arc;

use tokio::net::unix::pipe::Receiver;

use super::journal::{Journal, Stream, WorkerName};

/// Bytes of a line; a longer one is passed on in pieces.
const LINE: usize = 16 * 1024;
/// Bytes of one read, and the turns that one stream may take before the others get theirs.
const READ: usize = 16 * 1024;
const TURNS: usize = 16;

/// Pass on everything that comes out of `pipe`, until its last writer is gone.
pub async fn drain(pipe: Arc<Receiver>, stream: Stream, worker: WorkerName, journal: Journal) {
    let mut line = Vec::new();
    let pass_on = |piece: &[u8], end: End| journal.output(&worker, stream, piece, end == End::GoesOn);
    while pipe.readable().await.is_ok() {
        for _ in 0..TURNS {
            // Not held across an await: 200 silent workers must not cost the master 400 buffers.
            let mut bytes = [0; READ];
            match pipe.try_read(&mut bytes) {
                Ok(0) => {
                    if !line.is_empty() {
                        pass_on(&line, End::Whole);
                    }
                    return;
                }
                Ok(read) => split(&mut line, &bytes[..read], pass_on),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
        tokio::task::yield_now().await;
    }
}

/// What comes after a piece of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The line's end.
    Whole,
    /// The next piece of the line.
    GoesOn,
}

/// Append `bytes` to the line begun and give away every whole one.
fn split(line: &mut Vec<u8>, mut bytes: &[u8], mut give: impl FnMut(&[u8], End)) {
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let (head, rest) = bytes.split_at(end);
        if line.is_empty() && head.len() <= LINE {
            give(head, End::Whole);
        } else {
            extend(line, head, &mut give);
            give(line, End::Whole);
            line.clear();
        }
        bytes = &rest[1..];
    }
    extend(line, bytes, &mut give);
    if line.is_empty() {
        line.shrink_to(0);
    }
}

fn extend(line: &mut Vec<u8>, mut bytes: &[u8], give: &mut impl FnMut(&[u8], End)) {
    while line.len() + bytes.len() > LINE {
        let (piece, rest) = bytes.split_at(LINE - line.len());
        line.extend_from_slice(piece);
        let cut = border(line);
        give(&line[..cut], End::GoesOn);
        line.drain(..cut);
        bytes = rest;
    }
    line.extend_from_slice(bytes);
}

/// Where to cut a piece: before a character of UTF-8 that has not ended.
fn border(piece: &[u8]) -> usize {
    for (back, byte) in piece.iter().rev().take(3).enumerate() {
        let length = match byte {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            _ => 1,
        };
        return if length > back + 1 { piece.len() - back - 1 } else { piece.len() };
    }
    piece.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(pieces: &[&[u8]]) -> (Vec<(Vec<u8>, End)>, Vec<u8>) {
        let (mut line, mut lines) = (Vec::new(), Vec::new());
        for piece in pieces {
            split(&mut line, piece, |whole, end| lines.push((whole.to_vec(), end)));
        }
        (lines, line)
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let (lines, rest) = lines_of(&[b"one\ntw", b"o\n", b"\nthr", b"ee"]);
        assert_eq!(lines, [b"one".to_vec(), b"two".to_vec(), b"".to_vec()].map(|line| (line, End::Whole)));
        assert_eq!(rest, b"three");
    }

    #[test]
    fn a_line_without_end_stays_bounded_and_its_pieces_say_that_it_goes_on() {
        let long = vec![b'x'; 3 * LINE + 5];
        let (lines, rest) = lines_of(&[&long, b"\n"]);
        let pieces: Vec<_> = lines.iter().map(|(piece, end)| (piece.len(), *end)).collect();
        assert_eq!(pieces, [(LINE, End::GoesOn), (LINE, End::GoesOn), (LINE, End::GoesOn), (5, End::Whole)]);
        assert!(rest.is_empty());
    }

    #[test]
    fn a_line_of_exactly_the_longest_length_is_whole() {
        let mut long = vec![b'x'; LINE];
        long.push(b'\n');
        for pieces in [vec![&long[..]], vec![&long[..LINE], b"\n"], vec![&long[..7], &long[7..]]] {
            let (lines, _) = lines_of(&pieces);
            assert_eq!(lines.iter().map(|(piece, end)| (piece.len(), *end)).collect::<Vec<_>>(), [(LINE, End::Whole)]);
        }
    }

    #[test]
    fn a_character_is_not_cut_in_two() {
        for offset in 0..4 {
            let text = format!("{}{}\n", "x".repeat(offset), "🦀".repeat(LINE));
            let (lines, _) = lines_of(&text.as_bytes().chunks(1000).collect::<Vec<_>>());
            assert!(lines.iter().all(|(piece, _)| str::from_utf8(piece).is_ok() && piece.len() <= LINE));
            let joined: Vec<u8> = lines.iter().flat_map(|(piece, _)| piece.clone()).collect();
            assert_eq!(joined, text.trim_end().as_bytes());
        }
        // What is no text has no characters to keep whole.
        let (lines, _) = lines_of(&[&[0x80; LINE + 10], b"\n"]);
        assert_eq!(lines.iter().map(|(piece, _)| piece.len()).collect::<Vec<_>>(), [LINE, 10]);
    }
}

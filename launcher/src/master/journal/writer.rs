//! The thread of one destination of the log: takes what waits, formats it, writes it, for as long as it takes.
//!
//! A thread for each destination: a terminal that is held by Ctrl-S must stop neither the file nor the facts.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use super::fact::Fact;
use super::log_file::LogFile;
use super::outlet::{Item, Outlet, Work};
use crate::config::LogFormat;

/// Bytes that are formatted before they are written.
const CHUNK: usize = 64 << 10;
/// A file that cannot be written is tried again after.
const AGAIN: Duration = Duration::from_secs(1);

/// How lines look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    /// The format.
    pub(super) format: LogFormat,
    /// Whether levels have colours.
    pub(super) colour: bool,
}

impl Style {
    fn write(self, item: &Item, to: &mut Vec<u8>) {
        match (item, self.format) {
            (Item::Record(record), LogFormat::Json) => {
                record.write_json(to);
                to.push(b'\n');
            }
            (Item::Record(record), LogFormat::Pretty) => record.write_pretty(self.colour, to),
            (Item::Text(text), LogFormat::Pretty) => {
                to.extend_from_slice(text.as_bytes());
                to.push(b'\n');
            }
            (Item::Text(_), LogFormat::Json) => {}
        }
    }
}

/// Where a writer writes.
#[derive(Debug)]
pub(super) enum Destination {
    /// A standard stream.
    Stream(File),
    /// The file of `master.log.file`.
    File(LogFile),
}

/// One of the two standard streams as a file of its own, without the buffer that the process shares.
pub(super) fn stream(stream: impl AsFd) -> io::Result<File> {
    Ok(File::from(stream.as_fd().try_clone_to_owned()?))
}

/// Whether two streams lead to the same place: then one thread keeps their lines in order.
pub(super) fn same(one: &File, other: &File) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Start the thread. `tell` records a fact; it does nothing once the journal is gone.
pub(super) fn start(
    outlet: Arc<Outlet>,
    destination: Destination,
    style: Style,
    tell: impl Fn(Fact) + Send + 'static,
) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("journal".to_owned()).stack_size(128 * 1024);
    thread.spawn(move || Writer { outlet, destination, style, tell, failing: false }.run())?;
    Ok(())
}

struct Writer<T> {
    outlet: Arc<Outlet>,
    destination: Destination,
    style: Style,
    tell: T,
    /// The last attempt failed, and it was told.
    failing: bool,
}

impl<T: Fn(Fact)> Writer<T> {
    fn run(mut self) {
        if let Destination::File(file) = &mut self.destination {
            // Whether it can be written is told at the start and not with the first line.
            let opened = file.open();
            self.note(opened);
        }
        let mut text = Vec::with_capacity(CHUNK);
        loop {
            let Work { items, reopen, dropped, finished, closed } = self.outlet.next();
            if reopen {
                self.reopen();
            }
            for item in &items {
                let before = text.len();
                self.style.write(item, &mut text);
                let overflows = match &self.destination {
                    Destination::File(file) => !file.has_room(before, text.len() - before),
                    Destination::Stream(_) => false,
                };
                if overflows {
                    self.write(&text[..before]);
                    text.drain(..before);
                    self.rotate();
                }
                if text.len() >= CHUNK {
                    self.write(&text);
                    text.clear();
                }
            }
            self.write(&text);
            text.clear();
            text.shrink_to(CHUNK);
            // With nothing left to write the last drops are told, and written, before the end is.
            let last_words = !finished.is_empty() && !dropped.is_empty();
            dropped.into_iter().for_each(&self.tell);
            for done in finished {
                match last_words {
                    true => self.outlet.finish(done),
                    false => drop(done.try_send(())),
                }
            }
            if closed && items.is_empty() {
                return;
            }
        }
    }

    /// Write everything, however long it takes.
    fn write(&mut self, mut text: &[u8]) {
        while !text.is_empty() {
            let written = match &mut self.destination {
                Destination::Stream(stream) => stream.write(text),
                Destination::File(file) => file.write(text),
            };
            match written {
                Ok(written) => {
                    text = &text[written..];
                    self.failing = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if self.is_given_up(error) {
                        return;
                    }
                }
            }
        }
    }

    /// What becomes of what could not be written; returns when it may be tried again.
    fn is_given_up(&mut self, error: io::Error) -> bool {
        if let Destination::Stream(_) = self.destination {
            if error.kind() == io::ErrorKind::WouldBlock {
                // Somebody else who holds the terminal made it non-blocking.
                std::thread::sleep(Duration::from_millis(5));
                return false;
            }
            // A reader of ours that went away is no reason to stop supervising, and nobody is left to tell.
            return true;
        }
        self.note(Err(error));
        self.outlet.pause(AGAIN);
        if self.outlet.take_reopen() {
            self.reopen();
        }
        self.outlet.is_closed()
    }

    fn reopen(&mut self) {
        let Destination::File(file) = &mut self.destination else { return };
        let (opened, path) = (file.reopen(), file.path());
        if opened.is_ok() {
            (self.tell)(Fact::LogReopened { path });
        }
        self.note(opened);
    }

    fn rotate(&mut self) {
        let Destination::File(file) = &mut self.destination else { return };
        let rotated = file.rotate();
        self.note(rotated);
    }

    /// A failure is told once, until something was written again.
    fn note(&mut self, result: io::Result<()>) {
        let Destination::File(file) = &self.destination else { return };
        match result {
            Ok(()) => {}
            Err(_) if self.failing => {}
            Err(error) => {
                self.failing = true;
                (self.tell)(Fact::LogFailed { path: file.path(), reason: error.to_string() });
            }
        }
    }
}

//! Lines gathered in memory and written by a thread: when there are many, when the first is a second old, at the end.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::channel::AccessFormat;

/// Bytes that are written at once.
const BATCH: usize = 32 << 10;
/// Bytes that may wait for a slow disk; more is dropped and counted.
const ROOM: usize = 1 << 20;
/// How old a line gets.
const AGE: Duration = Duration::from_secs(1);
/// How long a worker that ends waits for its last lines.
const FAREWELL: Duration = Duration::from_secs(2);

/// Whose requests they are.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the service.
    pub service: String,
    /// Place among its workers.
    pub slot: u32,
}

/// See the module.
#[derive(Debug)]
pub struct AccessLog {
    pub(super) identity: Identity,
    format: AccessFormat,
    gathered: Mutex<Gathered>,
    /// There is something for the thread.
    work: Condvar,
    /// Everything is written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Gathered {
    lines: Vec<u8>,
    /// When the first of them came.
    since: Option<Instant>,
    dropped: u64,
    /// To be written to from now on.
    file: Option<File>,
    /// The thread is at it.
    writing: bool,
    /// Write without waiting for more.
    hurry: bool,
}

impl AccessLog {
    /// Start the thread that writes to `file`.
    pub fn start(identity: Identity, format: AccessFormat, file: OwnedFd) -> std::io::Result<Arc<AccessLog>> {
        let gathered = Mutex::new(Gathered { file: Some(File::from(file)), ..Gathered::default() });
        let log = Arc::new(AccessLog { identity, format, gathered, work: Condvar::new(), written: Condvar::new() });
        let writer = Arc::clone(&log);
        let thread = std::thread::Builder::new().name("access log".to_owned()).stack_size(64 * 1024);
        thread.spawn(move || writer.run())?;
        Ok(log)
    }

    pub(super) fn format(&self) -> AccessFormat {
        self.format
    }

    /// Append a line. Never waits for the disk.
    pub(super) fn write(&self, line: impl FnOnce(&mut Vec<u8>)) {
        let mut gathered = self.gathered();
        if gathered.lines.len() >= ROOM {
            gathered.dropped += 1;
            return;
        }
        line(&mut gathered.lines);
        let first = gathered.since.is_none();
        gathered.since.get_or_insert_with(Instant::now);
        let full = gathered.lines.len() >= BATCH;
        drop(gathered);
        if first || full {
            self.work.notify_one();
        }
    }

    /// Write to another file from now on: the old one was moved away.
    pub fn replace(&self, file: OwnedFd) {
        let mut gathered = self.gathered();
        gathered.file = Some(File::from(file));
        gathered.hurry = true;
        drop(gathered);
        self.work.notify_one();
    }

    /// Write what is there; waits for it, but not for ever.
    pub fn flush(&self) {
        let mut gathered = self.gathered();
        gathered.hurry = true;
        self.work.notify_one();
        let until = Instant::now() + FAREWELL;
        while gathered.writing || gathered.since.is_some() || gathered.dropped > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            gathered = self.written.wait_timeout(gathered, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn run(&self) {
        let mut file = None;
        let mut lines = Vec::new();
        // Lines of a disk that is full are lost, and that is told once.
        let mut failing = false;
        loop {
            let dropped = self.take(&mut lines, &mut file);
            let failed = match &mut file {
                Some(file) => file.write_all(&lines).err(),
                None => None,
            };
            if let Some(error) = &failed
                && !failing
            {
                say(&format!("lines of the access log are lost: {error}"));
            }
            failing = failed.is_some();
            if dropped > 0 {
                say(&format!("{dropped} lines of the access log were dropped: the disk is slower than the requests"));
            }
            lines.clear();
            lines.shrink_to(BATCH * 2);
            let mut gathered = self.gathered();
            gathered.writing = false;
            drop(gathered);
            self.written.notify_all();
        }
    }

    /// Wait for lines that are due and take them.
    fn take(&self, lines: &mut Vec<u8>, file: &mut Option<File>) -> u64 {
        let mut gathered = self.gathered();
        loop {
            let due = gathered.since.map(|since| since + AGE);
            let now = Instant::now();
            if gathered.hurry || gathered.lines.len() >= BATCH || due.is_some_and(|due| due <= now) {
                break;
            }
            gathered = match due {
                Some(due) => self.work.wait_timeout(gathered, due - now).unwrap_or_else(PoisonError::into_inner).0,
                None => self.work.wait(gathered).unwrap_or_else(PoisonError::into_inner),
            };
        }
        gathered.hurry = false;
        gathered.since = None;
        gathered.writing = true;
        std::mem::swap(&mut gathered.lines, lines);
        if let Some(new) = gathered.file.take() {
            *file = Some(new);
        }
        std::mem::take(&mut gathered.dropped)
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn say(text: &str) {
    // Into the worker's output, as one write. Nobody is left to tell if it fails.
    let _ = std::io::stderr().write_all(format!("launcher: {text}\n").as_bytes());
}

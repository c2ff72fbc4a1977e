//! What happened, told to people and to programs: the launcher's own facts on standard error, the workers'
//! output on standard output, each a line in the format of `master.log`; and all of it in memory for whoever asks.
//!
//! A thread of its own writes, behind a bounded queue: a terminal that scrolls slowly or a pipe that nobody
//! reads must never stop the supervision. What does not fit the queue is counted, and the count is said.
//!
//! - [`fact`]: the vocabulary; `words`: its sentences
//! - [`record`]: one line of the history, and its two formats; `escape`: what makes it safe to show
//! - [`feed`]: the history

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::config::LogFormat;

mod escape;
pub mod fact;
pub mod feed;
pub mod record;
mod words;

pub use fact::{Fact, Level, Name, Stream, WorkerName};
pub use feed::Feed;
use record::{Line, What};

/// Lines that may wait for the writer.
const QUEUE: usize = 4096;
/// How long the last lines may take when the launcher ends.
const FAREWELL: Duration = Duration::from_secs(1);

enum Item {
    Own(Vec<u8>),
    Output(Vec<u8>),
    Then(Box<dyn FnOnce() + Send>),
    End(SyncSender<()>),
}

/// The journal's front: cheap to clone, never waits.
#[derive(Clone)]
pub struct Journal {
    queue: SyncSender<Item>,
    lost: Arc<AtomicU64>,
    feed: Arc<Feed>,
    format: LogFormat,
    level: Level,
    colour: Arc<AtomicBool>,
}

impl Journal {
    /// Start the writer.
    pub fn start(format: LogFormat, level: Level) -> io::Result<Journal> {
        let (queue, lines) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let feed = Arc::new(Feed::new());
        let (writer_lost, writer_feed) = (Arc::clone(&lost), Arc::clone(&feed));
        std::thread::Builder::new()
            .name("journal".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || write_lines(&lines, &writer_lost, &writer_feed))?;
        let colour = format == LogFormat::Pretty
            && io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Ok(Journal { queue, lost, feed, format, level, colour: Arc::new(AtomicBool::new(colour)) })
    }

    /// The history.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Write down a fact.
    pub fn record(&self, fact: &Fact) {
        let record = self.feed.publish(What::Fact(fact.clone()));
        if fact.level() <= self.level {
            self.push(Item::Own(self.line(&record)));
        }
    }

    /// Write down text that is not a fact, for people only.
    pub fn say(&self, text: &str) {
        if self.format == LogFormat::Pretty {
            self.push(Item::Own(format!("{text}\n").into_bytes()));
        }
    }

    /// Pass on one line that a worker wrote, without its line break; `continues`: it was longer.
    pub fn output(&self, worker: &WorkerName, stream: Stream, line: &[u8], continues: bool) {
        let text = escape::text(line);
        let record = self.feed.publish(What::Line(Line { worker: worker.clone(), stream, text, continues }));
        self.push(Item::Output(self.line(&record)));
    }

    /// Do something that takes standard error from the terminal, once everything so far is written.
    pub fn leave_terminal(&self, act: impl FnOnce() + Send + 'static) {
        self.colour.store(false, Ordering::Relaxed);
        if let Err(TrySendError::Full(Item::Then(act))) = self.queue.try_send(Item::Then(Box::new(act))) {
            act(); // rather too early than never
        }
    }

    /// Wait until everything is written, but not for ever.
    pub fn finish(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Item::End(done)).is_ok() {
            let _ = written.recv_timeout(FAREWELL);
        }
    }

    fn push(&self, line: Item) {
        if self.queue.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn line(&self, record: &record::Record) -> Vec<u8> {
        let mut line = Vec::new();
        match self.format {
            LogFormat::Json => {
                record.write_json(&mut line);
                line.push(b'\n');
            }
            LogFormat::Pretty => record.write_pretty(self.colour.load(Ordering::Relaxed), &mut line),
        }
        line
    }
}

fn write_lines(lines: &Receiver<Item>, lost: &AtomicU64, feed: &Feed) {
    let mut own = io::BufWriter::new(io::stderr());
    let mut output = io::BufWriter::new(io::stdout());
    // A reader of ours that went away is no reason to stop supervising: errors of writing are passed over.
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        while let Some(line) = next {
            match line {
                Item::Own(bytes) => drop(own.write_all(&bytes)),
                Item::Output(bytes) => drop(output.write_all(&bytes)),
                Item::Then(act) => {
                    let _ = (own.flush(), output.flush());
                    act();
                }
                Item::End(done) => {
                    let _ = (own.flush(), output.flush());
                    let _ = done.send(());
                }
            }
            next = lines.try_recv().ok();
        }
        let missed = lost.swap(0, Ordering::Relaxed);
        if missed > 0 {
            let reason = format!("{missed} lines of the log were dropped: they came faster than they could be written");
            let mut line = feed.publish(What::Fact(Fact::Trouble { reason })).json();
            line.push(b'\n');
            let _ = own.write_all(&line);
        }
        let _ = (own.flush(), output.flush());
    }
}

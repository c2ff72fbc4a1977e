//! What happened, told to people and to programs: the launcher's own facts on standard error, the workers'
//! output on standard output, each a line in the format of `master.log`; all of it in a file, if there is one, and in
//! memory for whoever asks.
//!
//! ```text
//! record, output ──> feed (memory)
//!        └─────────> outlet ──> writer (a thread) ──> standard error, standard output, file
//! ```
//!
//! Every destination has a thread behind bounded queues: a terminal that scrolls slowly, a pipe that nobody reads or
//! a disk that is full must never stop the supervision. What does not fit is counted, and the count is said.
//!
//! - [`fact`]: the vocabulary; `words`: its sentences
//! - [`record`]: one line of the history, and its two formats; `escape`: what makes it safe to show
//! - [`feed`]: the history
//! - `outlet`: what waits for a destination; `writer`: its thread; `log_file`: rotation

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use crate::config::{self, LogFormat};

mod escape;
pub mod fact;
pub mod feed;
mod log_file;
mod outlet;
pub mod record;
#[cfg(test)]
mod tests;
mod words;
mod writer;

pub use fact::{Body, Fact, Level, Name, Stream, WorkerName};
pub use feed::Feed;
use log_file::LogFile;
use outlet::Outlet;
use record::{Line, Record, What};
use writer::{Destination, Style};

/// How long the last lines may take when the launcher ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a journal is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How lines look.
    pub format: LogFormat,
    /// The least severe facts that are written. The history has all of them.
    pub level: Level,
    /// A file for everything.
    pub file: Option<config::LogFile>,
    /// Whether standard output and standard error are written.
    pub terminal: bool,
    /// Show people only what somebody who writes a plugin wants to see.
    pub terse: bool,
}

/// The journal's front: cheap to clone, never waits.
#[derive(Clone)]
pub struct Journal(Arc<Core>);

struct Core {
    feed: Arc<Feed>,
    level: Level,
    terse: bool,
    /// The standard streams are still written.
    terminal: AtomicBool,
    outlets: Vec<(Content, Arc<Outlet>)>,
}

/// What goes to an outlet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Facts,
    Lines,
    /// Both, and they are shown to somebody.
    Both,
    /// Both, and nobody may be looking.
    Filed,
}

impl Journal {
    /// Start the writers.
    pub fn start(settings: Settings) -> io::Result<Journal> {
        let Settings { format, level, file, terminal, terse } = settings;
        let colour = format == LogFormat::Pretty
            && io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let mut destinations = Vec::new();
        if terminal {
            let (output, own) = (writer::stream(io::stdout())?, writer::stream(io::stderr())?);
            if writer::same(&output, &own) {
                destinations.push((Content::Both, "the terminal or its reader", Destination::Stream(output), colour));
            } else {
                destinations.push((Content::Facts, "standard error", Destination::Stream(own), colour));
                destinations.push((Content::Lines, "standard output", Destination::Stream(output), false));
            }
        }
        if let Some(file) = file {
            destinations.push((Content::Filed, "the log's file", Destination::File(LogFile::new(file)), false));
        }
        let outlets = destinations.iter().map(|(content, name, ..)| (*content, Arc::new(Outlet::new(name))));
        let core = Arc::new(Core {
            feed: Arc::new(Feed::new()),
            level,
            terse: terse && format == LogFormat::Pretty,
            terminal: AtomicBool::new(terminal),
            outlets: outlets.collect(),
        });
        for ((_, outlet), (.., destination, colour)) in core.outlets.iter().zip(destinations) {
            // The journal ends its threads; they do not keep it.
            let weak = Arc::downgrade(&core);
            let tell = move |fact| {
                if let Some(core) = weak.upgrade() {
                    core.record(fact);
                }
            };
            writer::start(Arc::clone(outlet), destination, Style { format, colour }, tell)?;
        }
        Ok(Journal(core))
    }

    /// The history.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.0.feed
    }

    /// Write down a fact.
    pub fn record(&self, fact: &Fact) {
        self.0.record(fact.clone());
    }

    /// Write down text that is not a fact, for people only.
    pub fn say(&self, text: &str) {
        for (content, outlet) in &self.0.outlets {
            if matches!(content, Content::Facts | Content::Both) {
                outlet.say(text);
            }
        }
    }

    /// Pass on one line that a worker wrote, without its line break; `continues`: it was longer.
    pub fn output(&self, worker: &WorkerName, stream: Stream, line: &[u8], continues: bool) {
        let text = escape::text(line);
        let what = What::Line(Line { worker: worker.clone(), stream, text, continues });
        self.0.put(&self.0.feed.publish(what));
    }

    /// Open the log's file anew: what had its name was moved away. A fact tells that it was done.
    pub fn reopen(&self) {
        for (_, outlet) in self.0.outlets.iter().filter(|(content, _)| *content == Content::Filed) {
            outlet.reopen();
        }
    }

    /// Write to standard output and standard error no more, and let them go; then do something, once everything so far
    /// is written there, or cannot be.
    pub fn leave_terminal(&self, act: impl FnOnce() + Send + 'static) {
        self.0.terminal.store(false, Ordering::Relaxed);
        let left = self.0.outlets.iter().filter(|(content, _)| *content != Content::Filed);
        let left: Vec<_> = left.map(|(_, outlet)| Arc::clone(outlet)).collect();
        let (done, written) = sync_channel(left.len());
        left.iter().for_each(|outlet| outlet.finish(done.clone()));
        let wait = move || {
            let deadline = Instant::now() + FAREWELL;
            for outlet in &left {
                let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
                outlet.close();
            }
            act();
        };
        // A thread: whoever holds the terminal up must not hold the supervision up.
        if std::thread::Builder::new().name("farewell".to_owned()).spawn(wait).is_err() {
            self.record(&Fact::Trouble { reason: "no thread could be started to leave the terminal".to_owned() });
        }
    }

    /// Wait until everything is written, but not for ever.
    pub fn finish(&self) {
        let deadline = Instant::now() + FAREWELL;
        let terminal = self.0.terminal.load(Ordering::Relaxed);
        let outlets = self.0.outlets.iter().filter(|(content, _)| terminal || *content == Content::Filed);
        let outlets: Vec<_> = outlets.map(|(_, outlet)| outlet).collect();
        // Twice: what one destination dropped is told to the others.
        for _ in 0..2 {
            let (done, written) = sync_channel(outlets.len());
            outlets.iter().for_each(|outlet| outlet.finish(done.clone()));
            for _ in &outlets {
                let left = deadline.saturating_duration_since(Instant::now());
                if written.recv_timeout(left).is_err() {
                    return;
                }
            }
        }
    }
}

impl Core {
    fn record(&self, fact: Fact) {
        self.put(&self.feed.publish(What::Fact(fact)));
    }

    fn put(&self, record: &Arc<Record>) {
        let terminal = self.terminal.load(Ordering::Relaxed);
        let wanted = |content: Content| match &record.what {
            _ if content != Content::Filed && !terminal => false,
            What::Fact(fact) if self.terse && content != Content::Filed && !fact.is_for_authors() => false,
            What::Fact(fact) => content != Content::Lines && fact.level() <= self.level,
            What::Line(_) => content != Content::Facts,
        };
        for (_, outlet) in self.outlets.iter().filter(|(content, _)| wanted(*content)) {
            if let Some(dropped) = outlet.put(record) {
                // A fact makes no drops to be told, so this goes no deeper.
                self.record(dropped);
            }
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.outlets.iter().for_each(|(_, outlet)| outlet.close());
    }
}

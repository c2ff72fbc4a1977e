//! What happened, told to people and to programs: the launcher's own facts on standard error, the workers'
//! output on standard output, each a line in the format of `master.log`.
//!
//! A thread of its own writes, behind a bounded queue: a terminal that scrolls slowly or a pipe that nobody
//! reads must never stop the supervision. What does not fit the queue is counted, and the count is said.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::pool::{Generation, Slot, WorkerId};
use crate::config::LogFormat;

/// Lines that may wait for the writer.
const QUEUE: usize = 4096;
/// How long the last lines may take when the launcher ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// How much a fact matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something is lost or refused.
    Error,
    /// Something went wrong and was answered.
    Warn,
    /// What an operator wants to see.
    Info,
    /// What somebody who looks for a fault wants to see.
    Debug,
}

impl Level {
    /// The level of a name of `master.log.level`.
    pub fn named(name: &str) -> Level {
        match name {
            "error" => Level::Error,
            "warn" => Level::Warn,
            "debug" | "trace" => Level::Debug,
            _ => Level::Info,
        }
    }
}

/// The name of a service; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl From<&str> for Name {
    fn from(name: &str) -> Name {
        Name(Arc::from(name))
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self)
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

/// A worker, as facts name it.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerName {
    /// The service.
    pub service: Name,
    /// Its id.
    #[serde(serialize_with = "number::worker")]
    pub worker: WorkerId,
    /// Its place.
    #[serde(serialize_with = "number::slot")]
    pub slot: Slot,
    /// What it runs.
    #[serde(serialize_with = "number::generation")]
    pub generation: Generation,
    /// Its process.
    pub pid: u32,
}

/// The pool knows nothing of formats, so its numbers are written from here.
mod number {
    use super::{Generation, Slot, WorkerId};
    use serde::Serializer;

    pub(super) fn worker<S: Serializer>(id: &WorkerId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(id.0)
    }

    pub(super) fn slot<S: Serializer>(slot: &Slot, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(slot.0)
    }

    pub(super) fn generation<S: Serializer>(generation: &Generation, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(generation.0)
    }
}

/// Something that happened. The names and fields are the contract of the JSON format.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "each variant and field says itself in `describe`")]
pub enum Fact {
    Starting {
        version: &'static str,
        pid: u32,
        config: String,
    },
    Building {
        service: Name,
        command: String,
    },
    Built {
        service: Name,
        took_ms: u64,
    },
    Listening {
        service: Name,
        name: String,
        address: String,
    },
    Spawned(WorkerName),
    Ready {
        #[serde(flatten)]
        worker: WorkerName,
        took_ms: u64,
    },
    Recycling {
        #[serde(flatten)]
        worker: WorkerName,
        reason: String,
    },
    Draining(WorkerName),
    Exited {
        #[serde(flatten)]
        worker: WorkerName,
        code: Option<i32>,
        signal: Option<i32>,
        reason: String,
        expected: bool,
    },
    SpawnFailed {
        service: Name,
        #[serde(serialize_with = "number::slot")]
        slot: Slot,
        #[serde(serialize_with = "number::generation")]
        generation: Generation,
        reason: String,
    },
    ReloadStarted {
        service: Name,
        #[serde(serialize_with = "number::generation")]
        generation: Generation,
        trigger: String,
    },
    Unchanged {
        service: Name,
        trigger: String,
    },
    Promoted {
        service: Name,
        #[serde(serialize_with = "number::generation")]
        generation: Generation,
        took_ms: u64,
        trigger: String,
        workers: u32,
    },
    Superseded {
        service: Name,
        #[serde(serialize_with = "number::generation")]
        generation: Generation,
    },
    RolledBack {
        service: Name,
        #[serde(serialize_with = "number::generation")]
        generation: Generation,
        reason: String,
    },
    ReloadFailed {
        service: Name,
        trigger: String,
        reason: String,
    },
    ServiceFailed {
        service: Name,
        reason: String,
    },
    ServiceRecovered {
        service: Name,
    },
    ServiceAdded {
        service: Name,
    },
    ServiceRemoved {
        service: Name,
    },
    ConfigApplied {
        trigger: String,
        changed: Vec<String>,
    },
    ConfigRejected {
        trigger: String,
        reason: String,
    },
    Serving {
        services: Vec<String>,
        failed: Vec<String>,
        took_ms: u64,
    },
    Signal {
        name: &'static str,
        effect: &'static str,
    },
    Stopping {
        reason: String,
    },
    Stopped {
        uptime_s: u64,
    },
    Trouble {
        reason: String,
    },
}

impl Fact {
    fn level(&self) -> Level {
        match self {
            Fact::ReloadFailed { .. }
            | Fact::ServiceFailed { .. }
            | Fact::ConfigRejected { .. }
            | Fact::RolledBack { .. }
            | Fact::SpawnFailed { .. } => Level::Error,
            Fact::Exited { expected: false, .. } | Fact::Trouble { .. } => Level::Warn,
            Fact::Superseded { .. }
            | Fact::Spawned(_)
            | Fact::Draining(_)
            | Fact::Exited { .. }
            | Fact::Unchanged { .. } => Level::Debug,
            _ => Level::Info,
        }
    }

    fn service(&self) -> Option<&str> {
        match self {
            Fact::Building { service, .. }
            | Fact::Built { service, .. }
            | Fact::Listening { service, .. }
            | Fact::SpawnFailed { service, .. }
            | Fact::ReloadStarted { service, .. }
            | Fact::Unchanged { service, .. }
            | Fact::Promoted { service, .. }
            | Fact::Superseded { service, .. }
            | Fact::RolledBack { service, .. }
            | Fact::ReloadFailed { service, .. }
            | Fact::ServiceFailed { service, .. }
            | Fact::ServiceRecovered { service }
            | Fact::ServiceAdded { service }
            | Fact::ServiceRemoved { service } => Some(service),
            Fact::Spawned(worker)
            | Fact::Draining(worker)
            | Fact::Recycling { worker, .. }
            | Fact::Ready { worker, .. }
            | Fact::Exited { worker, .. } => Some(&worker.service),
            _ => None,
        }
    }

    /// The fact as a sentence for a person, without the service's name.
    fn describe(&self) -> String {
        match self {
            Fact::Starting { version, pid, config } => format!("launcher {version}, pid {pid}, {config}"),
            Fact::Building { command, .. } => format!("the plugin is missing; building it: {command}"),
            Fact::Built { took_ms, .. } => format!("built in {}", Took(*took_ms)),
            Fact::Listening { address, .. } => format!("listening on {address}"),
            Fact::Spawned(w) => format!("worker {} spawned, pid {}, generation {}", w.worker.0, w.pid, w.generation.0),
            Fact::Ready { worker: w, took_ms } => {
                format!(
                    "worker {} ready, pid {}, generation {}, after {}",
                    w.worker.0,
                    w.pid,
                    w.generation.0,
                    Took(*took_ms)
                )
            }
            Fact::Recycling { worker: w, reason } => {
                format!("worker {} (pid {}) is to be replaced: {reason}", w.worker.0, w.pid)
            }
            Fact::Draining(w) => {
                format!("worker {} draining, pid {}, generation {}", w.worker.0, w.pid, w.generation.0)
            }
            Fact::Exited { worker: w, reason, .. } => {
                format!("worker {} (pid {}, generation {}) {reason}", w.worker.0, w.pid, w.generation.0)
            }
            Fact::SpawnFailed { slot, reason, .. } => {
                format!("no worker could be started for slot {}: {reason}", slot.0)
            }
            Fact::ReloadStarted { generation, trigger, .. } => format!("generation {} starts: {trigger}", generation.0),
            Fact::Unchanged { trigger, .. } => format!("nothing to reload: {trigger}, but the contents are the same"),
            Fact::Promoted { generation, took_ms, trigger, workers, .. } => {
                let workers = if *workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
                format!("generation {} serves with {workers} after {} ({trigger})", generation.0, Took(*took_ms))
            }
            Fact::Superseded { generation, .. } => format!("generation {} gives way to a newer one", generation.0),
            Fact::RolledBack { generation, reason, .. } => {
                format!("generation {} was rolled back: {reason}", generation.0)
            }
            Fact::ReloadFailed { trigger, reason, .. } => format!("not reloaded ({trigger}): {reason}"),
            Fact::ServiceFailed { reason, .. } => format!("failed: {reason}"),
            Fact::ServiceRecovered { .. } => "serves again".to_owned(),
            Fact::ServiceAdded { .. } => "added".to_owned(),
            Fact::ServiceRemoved { .. } => "removed: its workers drain".to_owned(),
            Fact::ConfigApplied { trigger, changed } if changed.is_empty() => {
                format!("configuration read ({trigger}): nothing changed")
            }
            Fact::ConfigApplied { trigger, changed } => {
                format!("configuration applied ({trigger}): {}", changed.join(", "))
            }
            Fact::ConfigRejected { trigger, reason } => {
                format!("configuration rejected ({trigger}); everything goes on as it was\n{reason}")
            }
            Fact::Serving { services, failed, took_ms } if failed.is_empty() => {
                format!("serving {} after {}", services.join(", "), Took(*took_ms))
            }
            Fact::Serving { services, failed, took_ms } => {
                format!("serving {} after {}; failed: {}", services.join(", "), Took(*took_ms), failed.join(", "))
            }
            Fact::Signal { name, effect } => format!("{name}: {effect}"),
            Fact::Stopping { reason } => format!("stopping: {reason}"),
            Fact::Stopped { uptime_s } => format!("stopped after {uptime_s} s"),
            Fact::Trouble { reason } => reason.clone(),
        }
    }
}

/// Milliseconds as a person reads them.
struct Took(u64);

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            ms @ 0..10_000 => write!(f, "{ms} ms"),
            ms => write!(f, "{:.1} s", Duration::from_millis(ms).as_secs_f64()),
        }
    }
}

/// Which of its two outputs a worker used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

enum Line {
    Own(Vec<u8>),
    Output(Vec<u8>),
    End(SyncSender<()>),
}

/// The journal's front: cheap to clone, never waits.
#[derive(Clone)]
pub struct Journal {
    queue: SyncSender<Line>,
    lost: Arc<AtomicU64>,
    format: LogFormat,
    level: Level,
    colour: bool,
}

impl Journal {
    /// Start the writer.
    pub fn start(format: LogFormat, level: Level) -> io::Result<Journal> {
        let (queue, lines) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let writer_lost = Arc::clone(&lost);
        std::thread::Builder::new()
            .name("journal".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || write_lines(&lines, &writer_lost))?;
        let colour = format == LogFormat::Pretty
            && io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Ok(Journal { queue, lost, format, level, colour })
    }

    /// Write down a fact.
    pub fn record(&self, fact: &Fact) {
        if fact.level() > self.level {
            return;
        }
        let line = match self.format {
            LogFormat::Json => json_line(fact),
            LogFormat::Pretty => self.pretty_line(fact),
        };
        self.push(Line::Own(line));
    }

    /// Write down text that is not a fact, for people only.
    pub fn say(&self, text: &str) {
        if self.format == LogFormat::Pretty {
            self.push(Line::Own(format!("{text}\n").into_bytes()));
        }
    }

    /// Pass on one line that a worker wrote, without its line break.
    pub fn output(&self, worker: &WorkerName, stream: Stream, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let line = match self.format {
            LogFormat::Json => {
                #[derive(Serialize)]
                struct Output<'a> {
                    time: String,
                    service: &'a str,
                    worker: u64,
                    slot: u32,
                    pid: u32,
                    stream: Stream,
                    line: &'a str,
                }
                let output = Output {
                    time: now(),
                    service: &worker.service,
                    worker: worker.worker.0,
                    slot: worker.slot.0,
                    pid: worker.pid,
                    stream,
                    line: &text,
                };
                let mut line = serde_json::to_vec(&output).unwrap_or_default();
                line.push(b'\n');
                line
            }
            LogFormat::Pretty => {
                let mark = match stream {
                    Stream::Stdout => "|",
                    Stream::Stderr => "!",
                };
                format!("{}/{} {mark} {}\n", worker.service, worker.slot.0, Escaped(&text)).into_bytes()
            }
        };
        self.push(Line::Output(line));
    }

    /// Wait until everything is written, but not for ever.
    pub fn finish(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Line::End(done)).is_ok() {
            let _ = written.recv_timeout(FAREWELL);
        }
    }

    fn push(&self, line: Line) {
        if self.queue.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn pretty_line(&self, fact: &Fact) -> Vec<u8> {
        let (tint, plain) = match (self.colour, fact.level()) {
            (false, _) => ("", ""),
            (true, Level::Error) => ("\x1b[31m", "\x1b[0m"),
            (true, Level::Warn) => ("\x1b[33m", "\x1b[0m"),
            (true, Level::Info) => ("", ""),
            (true, Level::Debug) => ("\x1b[2m", "\x1b[0m"),
        };
        let text = fact.describe();
        match fact.service() {
            Some(service) => format!("{tint}{service}: {text}{plain}\n").into_bytes(),
            None => format!("{tint}{text}{plain}\n").into_bytes(),
        }
    }
}

/// A worker's line, safe on a terminal: control characters (C0 but tab, DEL, C1) are shown, not obeyed.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::fmt::Write as _;
        for character in self.0.chars() {
            if character.is_control() && character != '\t' {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

fn json_line(fact: &Fact) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        time: String,
        level: Level,
        #[serde(flatten)]
        fact: &'a Fact,
        message: String,
    }
    let line = Line { time: now(), level: fact.level(), fact, message: fact.describe() };
    let mut line = serde_json::to_vec(&line).unwrap_or_default();
    line.push(b'\n');
    line
}

fn write_lines(lines: &Receiver<Line>, lost: &AtomicU64) {
    let mut own = io::BufWriter::new(io::stderr());
    let mut output = io::BufWriter::new(io::stdout());
    // A reader of ours that went away is no reason to stop supervising: errors of writing are passed over.
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        while let Some(line) = next {
            match line {
                Line::Own(bytes) => drop(own.write_all(&bytes)),
                Line::Output(bytes) => drop(output.write_all(&bytes)),
                Line::End(done) => {
                    let _ = (own.flush(), output.flush());
                    let _ = done.send(());
                }
            }
            next = lines.try_recv().ok();
        }
        let missed = lost.swap(0, Ordering::Relaxed);
        if missed > 0 {
            let reason = format!("{missed} lines of the log were dropped: they came faster than they could be written");
            let _ = own.write_all(&json_line(&Fact::Trouble { reason }));
        }
        let _ = (own.flush(), output.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(Escaped("a\tb\x1b[2J\u{9b}31m\r").to_string(), "a\tb\\u{1b}[2J\\u{9b}31m\\r");
    }

    #[test]
    fn a_fact_is_one_object_with_its_name_and_its_fields() {
        let worker = WorkerName {
            service: "hello".into(),
            worker: WorkerId(7),
            slot: Slot(1),
            generation: Generation(2),
            pid: 99,
        };
        let exited = Fact::Exited {
            worker,
            code: None,
            signal: Some(9),
            reason: "was killed by SIGKILL".to_owned(),
            expected: false,
        };
        let line: serde_json::Value = serde_json::from_slice(&json_line(&exited)).expect("an object");
        for (field, value) in [("event", "exited".into()), ("service", "hello".into()), ("level", "warn".into())] {
            assert_eq!(line[field], serde_json::Value::String(value), "{line}");
        }
        for (field, value) in [("worker", 7), ("slot", 1), ("generation", 2), ("pid", 99), ("signal", 9)] {
            assert_eq!(line[field], value, "{line}");
        }
    }
}

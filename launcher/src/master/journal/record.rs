//! One line of the launcher's history: a fact or a line of a worker, with its place and its time.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::escape::{Escaped, EscapedLines, json};
use super::fact::{Fact, Level, Name, Stream, WorkerName};

/// See the module.
#[derive(Debug)]
pub struct Record {
    /// Its place; it only grows.
    pub seq: u64,
    /// Wall time.
    pub time: SystemTime,
    /// Time since the launcher started.
    pub age: Duration,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Debug)]
pub enum What {
    /// Something that the launcher says.
    Fact(Fact),
    /// Something that a worker wrote.
    Line(Line),
}

/// A line of a worker, without its line break.
#[derive(Debug)]
pub struct Line {
    /// Who wrote it.
    pub worker: WorkerName,
    /// Where to.
    pub stream: Stream,
    /// What.
    pub text: Box<str>,
    /// The line was too long; its next piece follows.
    pub continues: bool,
}

/// As people read it: `launcher run` prints the same.
impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = Vec::new();
        self.write_pretty(false, &mut text);
        f.write_str(String::from_utf8_lossy(&text).trim_end_matches('\n'))
    }
}

impl Record {
    /// The service that it is about, if it is about one.
    pub fn service(&self) -> Option<&Name> {
        match &self.what {
            What::Fact(fact) => fact.service(),
            What::Line(line) => Some(&line.worker.service),
        }
    }

    /// The worker whose plugin may make as many of these as it likes, if it is of that kind.
    pub(super) fn talker(&self) -> Option<&WorkerName> {
        match &self.what {
            What::Line(line) => Some(&line.worker),
            What::Fact(Fact::Message { worker, .. }) => Some(worker),
            What::Fact(_) => None,
        }
    }

    /// Bytes that it takes in memory, roughly.
    pub(super) fn weight(&self) -> usize {
        // A fact's texts are short but for reasons, which a worker may give.
        size_of::<Record>()
            + match &self.what {
                What::Fact(Fact::Message { body, .. }) => body.json().len(),
                What::Fact(fact) => fact.sentence().len(),
                What::Line(line) => line.text.len(),
            }
    }

    /// One JSON object, without a line break: [`crate::api::Record`].
    pub fn json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(256);
        self.write_json(&mut json);
        json
    }

    /// Append [`Record::json`].
    pub(super) fn write_json(&self, to: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Object<'a, T: Serialize> {
            seq: u64,
            time: String,
            monotonic_ms: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            level: Option<Level>,
            #[serde(flatten)]
            what: &'a T,
            #[serde(skip_serializing_if = "Option::is_none")]
            message: Option<String>,
        }
        #[derive(Serialize)]
        struct Output<'a> {
            service: &'a str,
            worker: u64,
            slot: u32,
            pid: u32,
            stream: Stream,
            line: &'a str,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            continues: bool,
        }
        let (seq, time) = (self.seq, humantime::format_rfc3339_millis(self.time).to_string());
        let monotonic_ms = u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX);
        match &self.what {
            What::Fact(what) => {
                let (level, message) = (Some(what.level()), Some(what.sentence()));
                json(&Object { seq, time, monotonic_ms, level, what, message }, to);
            }
            What::Line(Line { worker, stream, text, continues }) => {
                let WorkerName { service, worker, slot, pid, .. } = worker;
                let what = &Output {
                    service,
                    worker: worker.0,
                    slot: slot.0,
                    pid: *pid,
                    stream: *stream,
                    line: text,
                    continues: *continues,
                };
                json(&Object { seq, time, monotonic_ms, level: None, what, message: None }, to);
            }
        }
    }

    /// Append it as people read it, with its line break.
    pub(super) fn write_pretty(&self, colour: bool, to: &mut Vec<u8>) {
        // Writing to memory does not fail.
        let _ = match &self.what {
            What::Line(line) => {
                let mark = match line.stream {
                    Stream::Stdout => "|",
                    Stream::Stderr => "!",
                };
                let more = if line.continues { " …" } else { "" };
                let WorkerName { service, slot, .. } = &line.worker;
                writeln!(to, "{service}/{} {mark} {}{more}", slot.0, Escaped(&line.text))
            }
            What::Fact(fact) => {
                let (tint, plain) = match (colour, fact.level()) {
                    (false, _) | (true, Level::Info) => ("", ""),
                    (true, Level::Error) => ("\x1b[31m", "\x1b[0m"),
                    (true, Level::Warn) => ("\x1b[33m", "\x1b[0m"),
                    (true, Level::Debug) => ("\x1b[2m", "\x1b[0m"),
                };
                let sentence = fact.sentence();
                let text = EscapedLines(&sentence);
                match fact.service() {
                    Some(service) => writeln!(to, "{tint}{service}: {text}{plain}"),
                    None => writeln!(to, "{tint}{text}{plain}"),
                }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::pool::{Generation, Slot, WorkerId};
    use super::*;

    fn worker() -> WorkerName {
        WorkerName { service: "hello".into(), worker: WorkerId(7), slot: Slot(1), generation: Generation(2), pid: 99 }
    }

    fn record(what: What) -> Record {
        Record { seq: 5, time: SystemTime::UNIX_EPOCH, age: Duration::from_millis(1500), what }
    }

    fn line(text: &str, continues: bool) -> Record {
        record(What::Line(Line { worker: worker(), stream: Stream::Stderr, text: text.into(), continues }))
    }

    #[test]
    fn a_fact_is_one_object_with_its_name_and_its_fields() {
        let exited = Fact::Exited {
            worker: worker(),
            code: None,
            signal: Some(9),
            reason: "was killed by SIGKILL".to_owned(),
            expected: false,
        };
        let object: serde_json::Value = serde_json::from_slice(&record(What::Fact(exited)).json()).expect("an object");
        for (field, value) in [
            ("event", "exited"),
            ("service", "hello"),
            ("level", "warn"),
            ("time", "1970-01-01T00:00:00.000Z"),
            ("message", "worker 7 (pid 99, generation 2) was killed by SIGKILL"),
        ] {
            assert_eq!(object[field], value, "{object}");
        }
        for (field, value) in [
            ("seq", 5),
            ("monotonic_ms", 1500),
            ("worker", 7),
            ("slot", 1),
            ("generation", 2),
            ("pid", 99),
            ("signal", 9),
        ] {
            assert_eq!(object[field], value, "{object}");
        }
    }

    #[test]
    fn every_record_is_one_of_the_contract() {
        let fact = record(What::Fact(Fact::Stopping { reason: "a \"reason\"\n".to_owned() }));
        for record in [fact, line("text\x1b\u{2028}", false), line("text", true)] {
            let json = record.json();
            assert!(!json.contains(&b'\n'), "a line break would end the object");
            let read: crate::api::Record = serde_json::from_slice(&json).expect("the contract's");
            assert_eq!((read.seq, read.monotonic_ms), (5, 1500));
            let (a, b): (serde_json::Value, serde_json::Value) =
                (serde_json::from_slice(&json).expect("JSON"), serde_json::to_value(&read).expect("JSON"));
            assert_eq!(a, b);
        }
    }

    #[test]
    fn a_line_names_its_worker_and_says_that_it_goes_on() {
        let mut text = Vec::new();
        line("a\x1b[2J", false).write_pretty(false, &mut text);
        line("b", true).write_pretty(true, &mut text);
        assert_eq!(String::from_utf8_lossy(&text), "hello/1 ! a\\u{1b}[2J\nhello/1 ! b …\n");
    }

    #[test]
    fn a_reason_from_outside_is_not_obeyed_by_a_terminal() {
        let mut text = Vec::new();
        record(What::Fact(Fact::Trouble { reason: "one\x1b[2J\ntwo".to_owned() })).write_pretty(false, &mut text);
        assert_eq!(String::from_utf8_lossy(&text), "one\\u{1b}[2J\ntwo\n");
    }
}

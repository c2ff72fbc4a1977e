//! `launcher logs` and `launcher events`: the history of the launcher, and what follows.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use launcher::api::{Record, Service, Status};
use launcher::sys::process::Stranger;
use launcher::sys::stdio;

use super::client::{Answer, Failure, Master, segment};
use super::table::{Colour, Colours};
use super::words::{self, Escaped};
use super::{Ended, Format, say, unwritten};

/// Between the end of its last stream and the end of a master that stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// Which history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Facts from `info` on, and what workers write.
    Logs,
    /// Facts alone, all of them.
    Events,
}

/// Which part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Of these services; none: of all and of the launcher.
    pub(crate) services: Vec<String>,
    /// Go on with what comes.
    pub(crate) follow: bool,
    /// The last so many.
    pub(crate) lines: Option<u64>,
    /// From this time on: RFC 3339, or a duration before now.
    pub(crate) since: Option<String>,
}

impl Part {
    fn target(&self, source: Source) -> String {
        let path = match source {
            Source::Logs => "/v1/logs",
            Source::Events => "/v1/events",
        };
        let services = self.services.iter().map(|name| segment(name)).collect::<Vec<_>>().join(",");
        let query: Vec<String> = [
            self.follow.then(|| "follow=true".to_owned()),
            self.lines.map(|lines| format!("lines={lines}")),
            self.since.as_ref().map(|since| format!("since={}", segment(since))),
            (!services.is_empty()).then(|| format!("service={services}")),
        ]
        .into_iter()
        .flatten()
        .collect();
        if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
    }
}

/// Show it.
pub(crate) fn show(config: &Path, source: Source, part: &Part, format: Format) -> Result<Ended, Failure> {
    let master = Master::of(config)?;
    for name in &part.services {
        // Of a service that there is not, there would be nothing, and no word why.
        master.get::<Service>(&format!("/v1/services/{}", segment(name)))?;
    }
    // Whose end is waited for when the stream ends.
    let process = match part.follow {
        true => Stranger::find(master.get::<Status>("/v1/status")?.pid).map_err(Failure::Watch)?,
        false => None,
    };
    let mut answer = master.send("GET", &part.target(source), None)?.answer(None)?;
    if !part.follow {
        copy(&mut answer, format)?;
        return Ok(Ended::Done);
    }
    answer.endless()?;
    let unread = watch_reader(&answer)?;
    let copied = copy(&mut answer, format);
    if unread.load(Ordering::Acquire) {
        return Err(Failure::ReaderLeft);
    }
    match copied {
        Ok(()) | Err(Failure::Cut { .. }) => {}
        Err(failure) => return Err(failure),
    }
    let stopped = match &process {
        Some(process) => process.ends_within(FAREWELL).map_err(Failure::Watch)?,
        None => !master.listens(),
    };
    if stopped {
        say("the launcher has stopped");
        return Ok(Ended::Done);
    }
    say("error: the launcher runs on and has ended this stream");
    Ok(Ended::Failed)
}

/// End the stream when nobody reads standard output any more. Without it `logs -f | head -1` would stay until the next
/// line, which may never come.
fn watch_reader(answer: &Answer) -> Result<Arc<AtomicBool>, Failure> {
    let stop = answer.stopper()?;
    let unread = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&unread);
    std::thread::spawn(move || {
        if stdio::reader_left().is_ok() {
            told.store(true, Ordering::Release);
            stop();
        }
    });
    Ok(unread)
}

fn copy(answer: &mut Answer, format: Format) -> Result<(), Failure> {
    let mut stdout = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let colours = Colours::of(&io::stdout());
    let ended = loop {
        let line = match answer.line() {
            Ok(Some(line)) => line,
            Ok(None) => break Ok(()),
            Err(failure) => break Err(failure),
        };
        let record = match serde_json::from_slice::<Record>(&line) {
            Ok(record) => record,
            Err(error) => break Err(answer.foreign(&line, &error)),
        };
        match format {
            Format::Json => stdout.write_all(&line).and_then(|()| stdout.write_all(b"\n")),
            Format::Table => writeln!(stdout, "{}", sentence(&record, SystemTime::now(), colours)),
        }
        .map_err(unwritten)?;
        if !answer.has_more() {
            stdout.flush().map_err(unwritten)?;
        }
    };
    stdout.flush().map_err(unwritten)?;
    ended
}

/// A record for people, without the end of the line.
fn sentence(record: &Record, now: SystemTime, colours: Colours) -> String {
    let time = humantime::parse_rfc3339(&record.time).ok().and_then(|time| words::clock(time, now));
    let time = colours.paint(Colour::Dim, &time.unwrap_or_else(|| Escaped(&record.time).to_string()));
    let name = match (&record.service, record.slot) {
        (Some(service), Some(slot)) => format!("{service}/{slot}"),
        (Some(service), None) => service.clone(),
        (None, _) => "launcher".to_owned(),
    };
    let colour = record.service.as_deref().map_or(Colour::Bold, Colour::of_name);
    let name = colours.paint(colour, &Escaped(&name).to_string());
    if let Some(line) = &record.line {
        let mark = if record.stream.as_deref() == Some("stderr") { '!' } else { '|' };
        return format!("{time} {name} {mark} {}", Escaped(line));
    }
    let colour = match record.level.as_deref() {
        Some("error") => Colour::Red,
        Some("warn") => Colour::Yellow,
        Some("debug") => Colour::Dim,
        _ => Colour::Plain,
    };
    let text = record.message.as_deref().or(record.event.as_deref()).unwrap_or("(nothing was said)");
    format!("{time} {name}: {}", colours.paint(colour, &words::escaped_lines(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(json: &str) -> String {
        let record: Record = serde_json::from_str(json).expect("a record");
        let text = sentence(&record, SystemTime::now(), Colours::Off);
        let (time, rest) = text.split_once(".007 ").expect("the milliseconds are the same in every zone");
        assert_eq!(time.len(), "2026-03-07 04:05:06".len(), "another day has its date: {text}");
        rest.to_owned()
    }

    #[test]
    fn facts_and_lines_are_told_apart() {
        let time = r#""seq":1,"time":"2020-03-07T04:05:06.007Z","monotonic_ms":5"#;
        assert_eq!(
            said(&format!(
                r#"{{{time},"level":"info","event":"ready","message":"worker 1 ready","service":"a","slot":0,"pid":9}}"#
            )),
            "a/0: worker 1 ready"
        );
        assert_eq!(said(&format!(r#"{{{time},"event":"stopping","message":"asked to"}}"#)), "launcher: asked to");
        assert_eq!(
            said(&format!(r#"{{{time},"service":"a","slot":1,"stream":"stdout","line":"x\u001b[2J"}}"#)),
            "a/1 | x\\u{1b}[2J"
        );
        assert_eq!(said(&format!(r#"{{{time},"service":"a","slot":1,"stream":"stderr","line":""}}"#)), "a/1 ! ");
        assert_eq!(said(&format!(r#"{{{time},"event":"from_the_future"}}"#)), "launcher: from_the_future");
    }

    #[test]
    fn what_is_asked_for_is_encoded() {
        let mut part = Part { services: Vec::new(), follow: false, lines: None, since: None };
        assert_eq!(part.target(Source::Events), "/v1/events");
        part =
            Part { services: vec!["a".into(), "b&c".into()], follow: true, lines: Some(5), since: Some("10 m".into()) };
        assert_eq!(part.target(Source::Logs), "/v1/logs?follow=true&lines=5&since=10%20m&service=a,b%26c");
    }
}

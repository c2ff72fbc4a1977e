//! The verbs that steer a running launcher: each asks the master through the control API and shows the answer.
//!
//! Flow: `main` parses what was typed and calls one function here; [`client::Master`] finds the master by the
//! configuration's `master.state_dir` and asks it; the verb shows the answer as a table or as JSON and says how it
//! ended. Results go to standard output, progress and errors to standard error. Nothing is decided here: the rules
//! are the master's. Exit codes are made in `main`.

mod body;
pub(crate) mod client;
pub(crate) mod orders;
pub(crate) mod plan;
mod progress;
pub(crate) mod send;
pub(crate) mod status;
pub(crate) mod stream;
mod table;
pub(crate) mod upgrade;
mod words;

use std::io::{self, Write};

use client::Failure;
use launcher::api::RefusalCode;
use launcher::config::Diagnostics;
use serde::Serialize;
use table::Colours;

/// How a command ended; an exit code each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It is done.
    Done,
    /// It failed or was refused.
    Failed,
    /// What was typed or configured cannot be meant.
    Misuse,
    /// There is no master.
    NotRunning,
    /// A new generation does not serve; the old one does.
    RolledBack,
}

/// How results are shown: for people, or for programs as one object, of a stream one a line. (Comments on the variants
/// would be shown in the help.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

/// Whether to wait for the end of what was ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Until it ended.
    End,
    /// Until it was accepted.
    Acceptance,
}

impl Failure {
    /// How a command ends that failed so.
    pub(crate) fn ended(&self) -> Ended {
        match self {
            Failure::Configuration(_) => Ended::Misuse,
            Failure::NotRunning { .. } => Ended::NotRunning,
            Failure::Refused { refused } => match refused.code {
                Some(
                    RefusalCode::UnknownService
                    | RefusalCode::BadRequest
                    | RefusalCode::BadConfiguration
                    | RefusalCode::BadProgram,
                ) => Ended::Misuse,
                _ => Ended::Failed,
            },
            Failure::ReaderLeft => Ended::Done,
            _ => Ended::Failed,
        }
    }

    /// Say it on standard error.
    pub(crate) fn tell(&self) {
        match self {
            Failure::ReaderLeft => {}
            Failure::Configuration(diagnostics) => {
                print_diagnostics(diagnostics);
                say("to name the configuration of the launcher that is meant: -c FILE");
            }
            Failure::Refused { refused } => {
                let hint = match refused.suggestion.as_deref() {
                    Some(name) if !refused.error.contains(&format!("`{name}`")) => format!("; did you mean `{name}`?"),
                    _ => String::new(),
                };
                error(&format!("{}{hint}", refused.error));
            }
            other => error(&other.to_string()),
        }
    }
}

/// Show what is wrong with a configuration, in colour on a terminal.
pub(crate) fn print_diagnostics(diagnostics: &Diagnostics) {
    let colours = Colours::of(&io::stderr());
    eprint!("{}", diagnostics.render(colours == Colours::On));
}

/// A problem on standard error.
fn error(text: &str) {
    say(&format!("error: {text}"));
}

/// A line, or some, on standard error. Others may have written a part of it.
fn say(text: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr().lock(), "{}", words::escaped_lines(text));
}

/// Write to standard output, and see that it got there.
pub(crate) fn print(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text).and_then(|()| stdout.flush()).map_err(unwritten)
}

fn unwritten(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ReaderLeft,
        _ => Failure::Output(error),
    }
}

/// One object on a line.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(value).map_err(|error| Failure::Output(error.into()))?;
    line.push(b'\n');
    print(&line)
}

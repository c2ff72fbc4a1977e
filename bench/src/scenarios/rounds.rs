//! Servers that get the same load in turn.

use std::time::Duration;

use crate::bench::Bench;
use crate::figures::{Line, Table, at};
use crate::load::Ask;
use crate::server::{Sample, Server};
use crate::usage;

/// A server and what it is asked.
pub(super) struct Subject {
    pub(super) server: Server,
    pub(super) ask: Ask,
}

/// Adds a server, or what is missing to have it.
pub(super) fn add(
    subjects: &mut Vec<Subject>,
    table: &mut Table,
    name: &str,
    started: Result<Server, String>,
    ask: impl FnOnce(&Server) -> Ask,
) {
    match started {
        Ok(server) => {
            let ask = ask(&server);
            subjects.push(Subject { server, ask });
        }
        Err(reason) => table.missing(name, reason),
    }
}

/// Loads all of them in rounds: a line for each, with processor time a request as its figure.
pub(super) fn measure(
    bench: &Bench,
    subjects: &[Subject],
    connections: usize,
    table: &mut Table,
) -> Result<(), String> {
    let options = &bench.options;
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); subjects.len()];
    for subject in subjects {
        subject.server.sample(&subject.ask, connections, Duration::from_millis(300).min(options.time))?;
    }
    for _ in 0..options.rounds {
        for (subject, samples) in subjects.iter().zip(&mut samples) {
            samples.push(subject.server.sample(&subject.ask, connections, options.time)?);
        }
    }
    table.more = vec!["requests/s", "PSS MiB"];
    for (subject, samples) in subjects.iter().zip(samples) {
        let rates: Vec<f64> = samples.iter().map(|sample| sample.rate).collect();
        let pss = usage::memory(&subject.server.family()) as f64 / 1024.0;
        let mut line = Line::new(subject.server.name, samples.iter().map(|sample| sample.cost).collect());
        line.more = vec![format!("{:.0}", at(&rates, 0.5).unwrap_or(f64::NAN)), format!("{pss:.1}")];
        table.lines.push(line);
    }
    Ok(())
}

/// Sets lines beside a baseline, if it is there, with what each must be and is meant to become.
pub(super) fn compare(table: &mut Table, baseline: &'static str, targets: &[(&str, Option<(f64, f64)>)]) {
    let Some(base) = table.lines.iter().find(|line| line.subject == baseline).map(|line| line.samples.clone()) else {
        return;
    };
    for (subject, target) in targets {
        if let Some(line) = table.lines.iter_mut().find(|line| line.subject == *subject) {
            let target = target.map(|(must, goal)| crate::figures::Target { must, goal });
            line.compare(baseline, &base, target);
        }
    }
}

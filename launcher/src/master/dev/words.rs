//! What is said about a failure: the lines that a worker wrote just before it.

use std::collections::{BTreeMap, VecDeque};

use super::super::pool::WorkerId;

/// Lines of a worker that are remembered.
const LINES: usize = 400;
/// Workers of which lines are remembered: those of now, and the last that went.
const WORKERS: usize = 32;

/// The last lines of every worker's standard error, in `launcher dev` alone.
#[derive(Debug, Default)]
pub(super) struct Words(BTreeMap<WorkerId, VecDeque<String>>);

impl Words {
    pub(super) fn add(&mut self, worker: WorkerId, line: &str) {
        let lines = self.0.entry(worker).or_default();
        if lines.len() >= LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
        // Ids only grow: the first are those of the oldest workers.
        while self.0.len() > WORKERS {
            self.0.pop_first();
        }
    }

    /// What a worker wrote about a failure, whose reason is known; and forget it, so that the next begins anew.
    pub(super) fn take(&mut self, worker: WorkerId, reason: &str) -> String {
        let lines = self.0.remove(&worker).unwrap_or_default();
        // True in a log, where the message is.
        let reason = &reason.replace("; its message is above", "");
        let first = reason.lines().next().unwrap_or_default();
        // The launcher's own line says the reason once more.
        let own = |line: &str| line.starts_with("launcher: ") && !first.is_empty() && line.contains(first);
        // From the last panic on: what was written before it belongs to other requests.
        let from = lines.iter().rposition(|line| line.contains("panicked at ")).unwrap_or(0);
        let said: Vec<&str> = lines.iter().skip(from).map(String::as_str).filter(|line| !own(line)).collect();
        let said = said.join("\n");
        // The lines of a reason of several were printed too; once is enough.
        if said.contains(reason) || reason.contains(said.trim()) && !said.trim().is_empty() {
            return if said.len() >= reason.len() { said } else { reason.to_owned() };
        }
        [reason, said.trim_end()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_backtrace_and_without_what_came_before() {
        let mut words = Words::default();
        let worker = WorkerId(7);
        let lines = [
            "an older line",
            "thread 'main' panicked at src/lib.rs:5:9:",
            "no such order",
            "   4: shop::handle",
            "             at ./src/lib.rs:5:9",
            "launcher: GET / from 127.0.0.1:1 answered with 500: the plugin panicked; its message is above",
        ];
        lines.iter().for_each(|line| words.add(worker, line));
        let text = words.take(worker, "the plugin panicked; its message is above");
        assert_eq!(text, format!("the plugin panicked\n\n{}", lines[1..5].join("\n")));
        assert_eq!(words.take(worker, "again"), "again", "it was told");
    }
}

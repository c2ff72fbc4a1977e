//! Why something is done, since when, and who waits for its end.

use std::time::Instant;

use tokio::sync::oneshot;

use super::journal::Name;
use super::milliseconds;
use super::pool::Generation;
use crate::api::{Outcome, OutcomeResult};

/// What led to a change of a service. Dropping it tells those who wait that it will not be done.
#[derive(Debug)]
pub struct Trigger {
    /// For people: a file, a signal, somebody.
    pub why: String,
    /// When it was noticed.
    pub since: Instant,
    waiting: Vec<oneshot::Sender<Outcome>>,
}

/// How something ended, for those who wait.
#[derive(Debug, Clone)]
pub struct End {
    /// In one word.
    pub result: OutcomeResult,
    /// The generation concerned.
    pub generation: Option<Generation>,
    /// Why it is not what was meant, for people.
    pub reason: Option<String>,
}

impl Trigger {
    /// A trigger that nobody waits for yet.
    pub fn new(why: impl Into<String>) -> Trigger {
        Trigger::noticed(why, Instant::now())
    }

    /// One that was noticed earlier.
    pub fn noticed(why: impl Into<String>, since: Instant) -> Trigger {
        Trigger { why: why.into(), since, waiting: Vec::new() }
    }

    /// One more who waits for the end.
    pub fn wait(&mut self) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.push(sender);
        receiver
    }

    /// Who waits for `other` waits for this one from now on.
    pub fn join(&mut self, mut other: Trigger) {
        self.waiting.append(&mut other.waiting);
    }

    /// Milliseconds since it was noticed.
    pub fn took_ms(&self) -> u64 {
        milliseconds(self.since.elapsed())
    }

    /// Tell those who wait.
    pub fn end(self, service: &Name, end: &End) {
        let took_ms = self.took_ms();
        for waiting in self.waiting {
            let outcome = Outcome {
                service: service.to_string(),
                result: end.result,
                generation: end.generation.map(|generation| generation.0),
                reason: end.reason.clone(),
                took_ms,
            };
            // Whoever waited may have left.
            let _ = waiting.send(outcome);
        }
    }
}

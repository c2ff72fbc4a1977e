//! The control API: whoever may steer the launcher does it here. The contract is [`crate::api`].
//!
//! ```text
//! control.sock ── server (who may, how many) ── routes (HTTP to orders and back) ── Event::Request ──> the master's loop
//!                                                  └─ stream (events and logs, from the journal's feed)
//! ```
//!
//! A request becomes an order, which the master carries out between two other events; what takes time is waited for
//! by the client's own task. No client can hold up the supervision: connections are bounded, a request must come
//! within seconds, and one who does not read his stream costs nothing but his place.

mod openapi;
mod report;
pub(super) mod routes;
mod server;
mod stream;

use tokio::sync::oneshot;

use super::journal::Name;
use super::orders::Scale;
use super::post::Receiver;
use crate::api::{ConfigInForce, Delivered, Outcome, Plan, Refusal, Upgrading};
use crate::config::Config;

pub(super) use report::Snapshot;
pub(super) use server::{Roots, Server};

/// Something that somebody asks of the master.
#[derive(Debug)]
pub(super) struct Request {
    /// What.
    pub(super) order: Order,
    /// Who, as part of a trigger: `by root (pid 77)`.
    pub(super) who: String,
    /// Where the answer goes.
    pub(super) answer: oneshot::Sender<Result<Reply, Refusal>>,
}

/// What can be asked. `None` for a service: for all of them.
#[derive(Debug)]
pub(super) enum Order {
    /// Tell everything.
    Status,
    /// Tell whether there is such a service.
    Find(String),
    /// Read the configuration again, and look whether plugins differ.
    Reload(Option<String>),
    /// Replace every worker.
    Restart(Option<String>),
    /// Return to the generation before.
    Rollback(String),
    /// Change the number of workers.
    Scale(String, Scale),
    /// Let a service's workers leave, and its listeners go.
    Stop(String),
    /// Run a service that was stopped.
    Start(String),
    /// End the launcher.
    StopLauncher {
        /// Without waiting for what is in flight.
        now: bool,
    },
    /// Give plugins a message.
    Send {
        /// The service.
        service: String,
        /// Which of its workers.
        receiver: Receiver,
        /// The message.
        message: serde_json::Value,
    },
    /// Tell the configuration in force.
    Config,
    /// Tell what a configuration would change.
    Plan(Option<String>),
    /// Change what differs in a configuration.
    Apply(Option<String>),
    /// The same, of one that the program has put together whose process this is.
    Take(Box<Config>),
    /// Let another program take over.
    Upgrade(Option<String>),
}

/// What the master answers.
#[derive(Debug)]
pub(super) enum Reply {
    /// Everything, but for what only the system knows.
    Status(Snapshot),
    /// It has begun.
    Begun(Vec<Begun>),
    /// The configuration in force.
    Config(ConfigInForce),
    /// Who has taken a message.
    Delivered(Delivered),
    /// What would change.
    Plan(Plan),
    /// What takes over.
    Upgrading(Upgrading),
    /// What changes.
    Applied(Plan, Vec<Begun>),
}

/// Something that has begun, and where its end is told.
#[derive(Debug)]
pub(super) struct Begun {
    /// The service.
    pub(super) service: Name,
    /// Its end; an error: it will not come.
    pub(super) outcome: oneshot::Receiver<Outcome>,
}

/// Somebody who waits for the master's answer.
#[derive(Debug)]
pub(super) struct Asked {
    /// See [`Request::who`].
    pub(super) who: String,
    /// Where the answer goes.
    pub(super) answer: oneshot::Sender<Result<Reply, Refusal>>,
}

impl Asked {
    /// Answer. The client may have left.
    pub(super) fn answer(self, answer: Result<Reply, Refusal>) {
        let _ = self.answer.send(answer);
    }
}

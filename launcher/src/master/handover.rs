//! The pair through which the workers of a service pass connections to each other when one leaves.
//!
//! The master holds both ends for as long as the service lives and never reads or writes: a connection that was sent
//! and not received is parked in the kernel, whoever dies meanwhile. A worker gets the receiving end when it starts and
//! the sending end when it is told to leave. No other service's workers get either.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Master;
use super::pool::{self, WorkerId};
use super::service::ServiceKey;
use crate::channel::ToWorker;
use crate::sys::passing;

/// Both ends.
#[derive(Debug)]
pub struct Pair {
    /// For those that leave.
    pub give: Arc<OwnedFd>,
    /// For those that stay.
    pub take: Arc<OwnedFd>,
}

impl Pair {
    /// One that an earlier master has made.
    pub fn of(give: OwnedFd, take: OwnedFd) -> Pair {
        Pair { give: Arc::new(give), take: Arc::new(take) }
    }

    /// # Errors
    /// As socketpair(2).
    pub fn new() -> io::Result<Pair> {
        let (give, take) = passing::pair()?;
        Ok(Pair { give: Arc::new(give), take: Arc::new(take) })
    }
}

impl Master {
    /// Tell a worker to leave: to those that stay, if there are any.
    pub(super) fn send_off(&mut self, key: ServiceKey, worker: WorkerId) {
        let (Some(service), Some(running)) = (self.services.get(&key), self.workers.get_mut(&worker)) else { return };
        running.leaves = true;
        let staying = service.pool.workers().filter(|(id, other)| *id != worker && other.state.serves()).count();
        let successors = u32::try_from(staying).unwrap_or(u32::MAX);
        if let Some(dispatcher) = &service.dispatcher {
            dispatcher.leave(worker);
        }
        match &service.hand_over {
            Some(pair) if successors > 0 => {
                running.child.send(ToWorker::Drain { successors }, vec![Arc::clone(&pair.give)]);
            }
            _ => {
                running.child.send(ToWorker::Drain { successors: 0 }, Vec::new());
            }
        }
    }

    /// Another generation serves: those that were told to leave earlier pass on to it what nobody has taken from them so
    /// far. Otherwise a client of theirs could be answered by one generation after the next but one was promoted.
    pub(super) fn ask_again(&mut self, key: ServiceKey) {
        let Some(service) = self.services.get(&key).filter(|service| service.hand_over.is_some()) else { return };
        let speaks_http = |generation| {
            service.generations.get(&generation).is_some_and(|generation| !generation.pinned.plugin.owns_sockets())
        };
        let leaving = service.pool.workers().filter(|(_, worker)| matches!(worker.state, pool::State::Draining { .. }));
        let leaving: Vec<WorkerId> =
            leaving.filter(|(_, worker)| speaks_http(worker.generation)).map(|(id, _)| id).collect();
        for id in leaving {
            if let Some(running) = self.workers.get_mut(&id).filter(|running| running.leaves) {
                running.accepts = true;
                self.send_off(key, id);
            }
        }
    }

    /// A service stops: workers that are on their way out have nobody to hand over to any more.
    pub(super) fn call_off(&self, key: ServiceKey) {
        let Some(service) = self.services.get(&key) else { return };
        for (id, worker) in service.pool.workers() {
            if let pool::State::Draining { .. } = worker.state
                && let Some(running) = self.workers.get(&id)
            {
                running.child.send(ToWorker::Drain { successors: 0 }, Vec::new());
            }
        }
    }
}

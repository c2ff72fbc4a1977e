//! What a pool says about itself, for people, readiness checks and the master's bookkeeping. It changes nothing.

use super::{Generation, Health, Limits, Phase, Pool, Slot, Status, Worker, WorkerId};

impl Pool {
    /// The pool in one word.
    pub fn status(&self) -> Status {
        let (serving, incoming) = match &self.phase {
            Phase::Stopping => return Status::Stopping,
            Phase::Stopped => return Status::Stopped,
            Phase::Running { health: Health::Failed, .. } => return Status::Failed,
            Phase::Running { serving, incoming, .. } => (serving, incoming),
        };
        let Some(serving) = serving else {
            return Status::Starting;
        };
        if self.workers.ready_slots(serving.generation) < self.limits.size as usize {
            Status::Degraded
        } else if incoming.is_some() || self.workers.outgoing(serving.generation) {
            Status::Reloading
        } else {
            Status::Serving
        }
    }

    /// The promoted generation.
    pub fn serving(&self) -> Option<Generation> {
        match &self.phase {
            Phase::Running { serving, .. } => serving.as_ref().map(|s| s.generation),
            _ => None,
        }
    }

    /// The generation that is on its way.
    pub fn incoming(&self) -> Option<Generation> {
        match &self.phase {
            Phase::Running { incoming, .. } => incoming.as_ref().map(|i| i.generation),
            _ => None,
        }
    }

    /// The generation that can be returned to.
    pub fn previous(&self) -> Option<Generation> {
        match &self.phase {
            Phase::Running { serving, .. } => serving.as_ref().and_then(|s| s.previous),
            _ => None,
        }
    }

    /// Every worker that was not reaped yet.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter()
    }

    /// One worker, unless it was reaped.
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// How many workers of this slot failed: crashed, or never became ready.
    pub fn restarts(&self, slot: Slot) -> u32 {
        self.restarts.get(&slot).copied().unwrap_or(0)
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

//! What the master does about workers whose loop stands still; [`super::pulses`] says which they are.

use std::time::{Duration, Instant};

use super::journal::Fact;
use super::pool::WorkerId;
use super::{Master, milliseconds};
use crate::sys;

impl Master {
    /// A worker is at work.
    pub(super) fn heard(&mut self, id: WorkerId) {
        let Some(service) = self.workers.get(&id).and_then(|running| self.services.get(&running.service)) else {
            return;
        };
        // One that leaves has a deadline of its own.
        if service.pool.worker(id).is_some_and(|worker| worker.state.serves()) {
            self.pulses.heard(id, service.config.limits.stuck_timeout, Instant::now());
        }
    }

    /// Give up the workers whose loop stands still.
    pub(super) fn end_stuck(&mut self, now: Instant) {
        for (id, silent) in self.pulses.overdue(now) {
            let Some(running) = self.workers.get_mut(&id) else { continue };
            let state = self.services.get(&running.service).and_then(|service| service.pool.worker(id));
            if !state.is_some_and(|worker| worker.state.serves()) {
                continue;
            }
            if sys::process::is_traced(running.child.pid) {
                self.heard(id);
                continue;
            }
            let lasted = Duration::from_secs(silent.as_secs());
            running.failure = Some(format!("its loop stood still for {}", humantime::format_duration(lasted)));
            running.stuck = Some(silent);
            running.child.end_stuck();
        }
    }

    /// A worker that stood still has said where, or is gone without it.
    pub(super) fn tell_stuck(&mut self, id: WorkerId, backtrace: Vec<String>) {
        let Some(running) = self.workers.get_mut(&id) else { return };
        // Somebody else may have asked it.
        let Some(silent) = running.stuck.take() else { return };
        let silent_ms = milliseconds(silent);
        self.journal.record(&Fact::Stuck { worker: running.name.clone(), silent_ms, backtrace });
    }
}

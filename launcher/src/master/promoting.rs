//! What follows when a generation serves, or will not: it is told, and so is whoever waits for it.

use std::time::{Duration, Instant};

use super::journal::Fact;
use super::pool::{self, Generation, RollbackReason, WorkerId};
use super::service::{Outcome, Promotion, Rollout, ServiceKey};
use super::trigger::{End, Trigger};
use super::{Event, Master};
use crate::api::OutcomeResult;
use crate::channel::Plugin;

/// How long an old worker may take to say that it does not accept any more before a promotion is told all the
/// same: one that computes without end says nothing.
const LEAVING: Duration = Duration::from_secs(1);

impl Master {
    pub(super) fn on_promoted(&mut self, key: ServiceKey, generation: Generation) {
        // One that is still untold is over now.
        let untold = self.services.get(&key).and_then(|service| service.promotion.as_ref());
        self.tell_promotion(key, untold.map(|promotion| promotion.generation));
        let Some(service) = self.services.get_mut(&key) else { return };
        let rollout = service.rollout.take_if(|rollout| rollout.generation == generation);
        let trigger = rollout.map(|rollout| rollout.trigger);
        let took_ms = trigger.as_ref().map_or(0, Trigger::took_ms);
        service.outcome = Outcome::Serving;
        service.promotion = Some(Promotion { generation, trigger, took_ms });
        self.release_listeners();
        self.ask_again(key);
        self.tell_promotion(key, None);
        if self.services.get(&key).is_some_and(|service| service.promotion.is_some()) {
            let events = self.events.clone();
            tokio::spawn(async move {
                tokio::time::sleep(LEAVING).await;
                drop(events.send(Event::PromotionOverdue(key, generation)).await);
            });
        }
    }

    /// Tell of a promotion once no old worker accepts any more; of `overdue` in any case.
    pub(super) fn tell_promotion(&mut self, key: ServiceKey, overdue: Option<Generation>) {
        let Some(service) = self.services.get_mut(&key) else { return };
        let draining = |state| matches!(state, pool::State::Draining { .. });
        let accepts = |id: WorkerId| self.workers.get(&id).is_some_and(|running| running.accepts);
        let accepted_from = service.pool.workers().any(|(id, worker)| draining(worker.state) && accepts(id));
        let due = |promotion: &mut Promotion| !accepted_from || overdue == Some(promotion.generation);
        let Some(Promotion { generation, trigger, took_ms }) = service.promotion.take_if(due) else { return };
        let why = trigger.as_ref().map_or_else(|| "return to it".to_owned(), |trigger| trigger.why.clone());
        let workers = service.pool.limits().size;
        let name = service.name.clone();
        self.journal.record(&Fact::Promoted { service: name, generation, took_ms, trigger: why, workers });
        let plugin = |generation| Some(&service.generations.get(&generation)?.pinned.plugin);
        let awaited = service.pool.previous().and_then(plugin) == Some(&Plugin::Awaited);
        if awaited && plugin(generation).is_some_and(Plugin::owns_sockets) {
            // Until now it was said to speak HTTP, as most do and as it did.
            let words = super::announcing::places(service, &self.listeners);
            words.iter().for_each(|line| self.journal.say(line));
        }
        let Some(trigger) = trigger else { return };
        service.changed_since = Some(trigger.since);
        let first = service.pool.previous().is_none() && service.last_reload.is_none();
        let end = End { result: OutcomeResult::Promoted, generation: Some(generation), reason: None };
        if first {
            // It came up; nothing was changed by that.
            trigger.end(&service.name, &End { result: OutcomeResult::Started, ..end });
        } else {
            service.end_reload(trigger, &end);
        }
    }

    pub(super) fn on_rolled_back(&mut self, key: ServiceKey, generation: Generation, reason: RollbackReason) {
        let Some(service) = self.services.get_mut(&key) else { return };
        let name = service.name.clone();
        let rollout = service.rollout.take_if(|rollout| rollout.generation == generation);
        let failure = service.last_failure.clone().unwrap_or_else(|| "no reason is known".to_owned());
        let reason = match reason {
            RollbackReason::Superseded => {
                if let Some(Rollout { trigger, .. }) = rollout {
                    let reason = Some("what serves already was asked for again".to_owned());
                    trigger.end(&name, &End { result: OutcomeResult::Unchanged, generation: Some(generation), reason });
                }
                return self.journal.record(&Fact::Superseded { service: name, generation });
            }
            RollbackReason::NotStarted => format!("its workers ended before they were ready: {failure}"),
            RollbackReason::NotReady => {
                let timeout = service.pool.limits().ready_timeout;
                format!("its workers were not ready within {}", humantime::format_duration(timeout))
            }
            RollbackReason::Crashed => format!("its workers crash: {failure}"),
            RollbackReason::Requested => "it was asked for".to_owned(),
        };
        if service.pool.serving().is_none() && service.outcome == Outcome::Open {
            service.outcome = Outcome::Failed { reason: reason.clone(), unusable: false };
        }
        // Without a rollout it was promoted before: its trigger is that of the last reload.
        let trigger = rollout.map(|rollout| rollout.trigger).unwrap_or_else(|| {
            let why = service.last_reload.as_ref().map_or_else(|| "start".to_owned(), |last| last.trigger.clone());
            Trigger::noticed(why, service.changed_since.unwrap_or_else(Instant::now))
        });
        let end = End { result: OutcomeResult::RolledBack, generation: Some(generation), reason: Some(reason.clone()) };
        service.end_reload(trigger, &end);
        self.journal.record(&Fact::RolledBack { service: name, generation, reason });
    }
}

//! What the master does when somebody who may steers it: each order changes what is wanted, and whoever waits is
//! told when it is so. Orders come from the control API and from signals.

use std::time::Instant;

use tokio::sync::oneshot;

use super::control::{Asked, Begun, Order, Reply, Request};
use super::journal::{Fact, Name};
use super::pool;
use super::service::{Aim, Intent, Missing, Preparation, ServiceKey, Settling};
use super::trigger::{End, Trigger};
use super::{Master, Phase, Scope};
use crate::api::{Outcome, OutcomeResult, Refusal, RefusalCode};
use crate::config;

/// Workers that may end unasked before a restart is said to have failed; the old ones serve on, and the pool goes on
/// trying.
const TRIES: u32 = 3;

/// How many workers are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// So many.
    To(u32),
    /// More or fewer.
    By(i64),
}

impl Scale {
    /// `4`, `+1` or `-1`.
    pub(super) fn parse(text: &str) -> Option<Scale> {
        if !text.trim_start_matches(['+', '-']).bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        match text.bytes().next()? {
            b'+' | b'-' => text.parse().ok().map(Scale::By),
            _ => text.parse().ok().map(Scale::To),
        }
    }

    fn of(self, workers: u32) -> i64 {
        match self {
            Scale::To(number) => i64::from(number),
            Scale::By(more) => i64::from(workers).saturating_add(more),
        }
    }
}

impl Master {
    pub(super) fn on_request(&mut self, request: Request) {
        let Request { order, who, answer } = request;
        let stopping = matches!(self.phase, Phase::Stopping(_));
        let asked = Asked { who, answer };
        match order {
            Order::Status => asked.answer(Ok(Reply::Status(self.snapshot()))),
            Order::Find(name) => {
                let found = self.named(&name).map(|_| Reply::Begun(Vec::new()));
                asked.answer(found);
            }
            Order::Config => asked.answer(Ok(Reply::Config(self.config_in_force()))),
            Order::StopLauncher { now: true } => {
                let why = format!("stop now {}", asked.who);
                self.stop(0, &why, pool::Event::Kill);
                asked.answer(Ok(Reply::Begun(Vec::new())));
            }
            _ if stopping => {
                let error = "the launcher is stopping".to_owned();
                asked.answer(Err(Refusal { code: RefusalCode::Stopping, error, suggestion: None }));
            }
            Order::StopLauncher { now: false } => {
                let why = format!("stop {}", asked.who);
                self.stop(0, &why, pool::Event::Drain);
                asked.answer(Ok(Reply::Begun(Vec::new())));
            }
            Order::Reload(None) => self.read_config_for(asked, None, Scope::Everything),
            Order::Reload(Some(service)) => match self.running(&service) {
                Ok(_) => self.read_config_for(asked, None, Scope::Service(Name::from(service.as_str()))),
                Err(refusal) => asked.answer(Err(refusal)),
            },
            Order::Plan(path) => self.plan_config(asked, path),
            Order::Upgrade(path) => {
                let why = format!("upgrade {}", asked.who);
                self.upgrade(path, why, Some(asked));
            }
            Order::Apply(path) => self.read_config_for(asked, path, Scope::Configuration),
            Order::Take(config) => self.take_config(asked, config),
            Order::Restart(None) => {
                let running = self.services.iter().filter(|(_, service)| service.runs());
                let keys: Vec<_> = running.map(|(key, _)| *key).collect();
                let why = format!("restart {}", asked.who);
                let begun = keys.into_iter().filter_map(|key| self.restart(key, &why).ok()).collect();
                asked.answer(Ok(Reply::Begun(begun)));
            }
            Order::Restart(Some(name)) => self.carry_out(asked, "restart", self.running(&name), Master::restart),
            Order::Rollback(name) => self.carry_out(asked, "rollback", self.running(&name), Master::roll_back),
            Order::Scale(name, scale) => {
                let act = |master: &mut Master, key, why: &str| master.scale(key, scale, why);
                self.carry_out(asked, "scale", self.running(&name), act);
            }
            Order::Send { service, receiver, message } => self.send_message(asked, &service, receiver, &message),
            Order::Stop(name) => self.carry_out(asked, "stop", self.named(&name), Master::stop_service),
            Order::Start(name) => self.carry_out(asked, "start", self.named(&name), Master::start_service),
        }
    }

    /// Do something to one service, if it is there, and answer.
    fn carry_out(
        &mut self,
        asked: Asked,
        verb: &str,
        key: Result<ServiceKey, Refusal>,
        act: impl FnOnce(&mut Master, ServiceKey, &str) -> Result<Begun, Refusal>,
    ) {
        let why = format!("{verb} {}", asked.who);
        let begun = key.and_then(|key| act(self, key, &why));
        asked.answer(begun.map(|begun| Reply::Begun(vec![begun])));
    }

    /// The service of that name.
    pub(super) fn named(&self, name: &str) -> Result<ServiceKey, Refusal> {
        let present = || self.services.iter().filter(|(_, service)| service.is_present());
        if let Some((key, _)) = present().find(|(_, service)| &*service.name == name) {
            return Ok(*key);
        }
        let names: Vec<&str> = present().map(|(_, service)| &*service.name).collect();
        let suggestion = config::meant(name, names.iter().copied()).map(str::to_owned);
        let shown: String = name.chars().take(64).flat_map(char::escape_default).collect();
        let error = match &suggestion {
            Some(meant) => format!("there is no service `{shown}`; did you mean `{meant}`?"),
            None => format!("there is no service `{shown}`; there are: {}", names.join(", ")),
        };
        Err(Refusal { code: RefusalCode::UnknownService, error, suggestion })
    }

    /// The service of that name, if it is not stopped.
    fn running(&self, name: &str) -> Result<ServiceKey, Refusal> {
        let key = self.named(name)?;
        match self.services.get(&key) {
            Some(service) if service.runs() => Ok(key),
            _ => Err(conflict(format!("{name} is stopped: start it first"))),
        }
    }

    pub(super) fn restart(&mut self, key: ServiceKey, why: &str) -> Result<Begun, Refusal> {
        let Some(service) = self.services.get_mut(&key) else { return Err(gone()) };
        if service.pool.serving().is_none() {
            let error = format!("no generation of {} serves yet: there is nothing to restart", service.name);
            return Err(conflict(error));
        }
        let begun = settle_as(service, Aim::Restarted, why);
        self.tell_pool(key, pool::Event::Restart);
        Ok(begun)
    }

    fn roll_back(&mut self, key: ServiceKey, why: &str) -> Result<Begun, Refusal> {
        let Some(service) = self.services.get_mut(&key) else { return Err(gone()) };
        let name = service.name.clone();
        let mut trigger = Trigger::new(why);
        let outcome = trigger.wait();
        let to = match (service.pool.incoming(), service.pool.serving(), service.pool.previous()) {
            // What is on its way is abandoned: that is what an operator sees as the new version.
            (Some(incoming), Some(serving), previous) if previous != Some(incoming) => {
                let reason = format!("generation {} was abandoned before it served", incoming.0);
                let end = End { result: OutcomeResult::Unchanged, generation: Some(serving), reason: Some(reason) };
                trigger.end(&name, &end);
                serving
            }
            (_, _, Some(previous)) => {
                service.rollout = Some(super::service::Rollout { generation: previous, trigger });
                previous
            }
            _ => {
                let error = format!("{name} has no earlier generation to return to: it served none before this one");
                return Err(conflict(error));
            }
        };
        self.tell_pool(key, pool::Event::Rollback(to));
        Ok(Begun { service: name, outcome })
    }

    pub(super) fn scale(&mut self, key: ServiceKey, scale: Scale, why: &str) -> Result<Begun, Refusal> {
        let Some(service) = self.services.get_mut(&key) else { return Err(gone()) };
        let from = service.pool.limits().size;
        let wanted = scale.of(from);
        let to = match u32::try_from(wanted) {
            Ok(to @ 1..=config::MAX_WORKERS) => to,
            Ok(0) => return Err(bad(format!("{} needs at least 1 worker; to have none, stop it", service.name))),
            _ => return Err(bad(format!("{wanted} workers: a service has 1 to {}", config::MAX_WORKERS))),
        };
        let begun = settle_as(service, Aim::Scaled, why);
        let limits = pool::Limits { size: to, ..service.pool.limits().clone() };
        if from != to {
            let name = service.name.clone();
            self.journal.record(&Fact::Scaled { service: name, from, to, trigger: why.to_owned() });
        }
        self.tell_pool(key, pool::Event::Limits(limits));
        Ok(begun)
    }

    fn stop_service(&mut self, key: ServiceKey, why: &str) -> Result<Begun, Refusal> {
        let Some(service) = self.services.get_mut(&key) else { return Err(gone()) };
        let name = service.name.clone();
        let mut trigger = Trigger::new(why);
        let outcome = trigger.wait();
        match &mut service.intent {
            Intent::Stop { trigger: Some(earlier), then } => {
                earlier.join(trigger);
                *then = None;
            }
            Intent::Stop { .. } => trigger.end(&name, &End::plain(OutcomeResult::Stopped)),
            Intent::Run | Intent::Remove => {
                service.intent = Intent::Stop { trigger: Some(trigger), then: None };
                // What is under way for it will not come.
                service.rollout = None;
                service.promotion = None;
                service.settling.clear();
                self.journal.record(&Fact::ServiceStopped { service: name.clone(), trigger: why.to_owned() });
                self.watch_files();
                self.tell_pool(key, pool::Event::Drain);
                // At once, not when the last worker has left: who stops a service wants it not to answer.
                self.release_listeners();
            }
        }
        Ok(Begun { service: name, outcome })
    }

    fn start_service(&mut self, key: ServiceKey, why: &str) -> Result<Begun, Refusal> {
        let Some(service) = self.services.get_mut(&key) else { return Err(gone()) };
        let name = service.name.clone();
        let mut trigger = Trigger::new(why);
        let outcome = trigger.wait();
        match &mut service.intent {
            // Its workers still leave.
            Intent::Stop { trigger: Some(_), then } => match then {
                Some(earlier) => earlier.join(trigger),
                None => *then = Some(trigger),
            },
            Intent::Stop { trigger: None, .. } => {
                self.listen_again(key)?;
                self.bring_up(key, trigger);
            }
            Intent::Run | Intent::Remove => {
                let reason = Some("it was not stopped".to_owned());
                let generation = service.pool.serving();
                trigger.end(&name, &End { result: OutcomeResult::Started, generation, reason });
            }
        }
        Ok(Begun { service: name, outcome })
    }

    /// Bind what a stopped service listens on; refused if its addresses are taken.
    fn listen_again(&mut self, key: ServiceKey) -> Result<(), Refusal> {
        let name = self.services.get(&key).map(|service| service.name.clone()).ok_or_else(gone)?;
        let held = self.hold_listeners(key);
        if held.is_err() {
            // Those that were free are not kept for a service that does not run.
            self.release_listeners();
        }
        held.map_err(|error| conflict(format!("{name}: {error}")))
    }

    /// Run a service again whose workers are gone and whose listeners are bound.
    fn bring_up(&mut self, key: ServiceKey, trigger: Trigger) {
        let seed = self.seed(key);
        let Some(service) = self.services.get_mut(&key) else { return };
        service.intent = Intent::Run;
        service.renew_pool(seed, Instant::now());
        service.preparation = Preparation::Idle;
        let name = service.name.clone();
        self.journal.record(&Fact::ServiceStarted { service: name, trigger: trigger.why.clone() });
        self.watch_files();
        self.prepare(key, trigger, Missing::Fail);
    }

    /// A service has no workers any more.
    pub(super) fn on_stopped(&mut self, key: ServiceKey) {
        let stopping = matches!(self.phase, Phase::Stopping(_));
        let Some(service) = self.services.get_mut(&key) else { return };
        let then = match &mut service.intent {
            Intent::Stop { trigger, then } if !stopping => {
                if let Some(trigger) = trigger.take() {
                    trigger.end(&service.name, &End::plain(OutcomeResult::Stopped));
                }
                then.take()
            }
            _ => {
                self.services.remove(&key);
                None
            }
        };
        self.release_listeners();
        let Some(trigger) = then else { return };
        match self.listen_again(key) {
            Ok(()) => self.bring_up(key, trigger),
            Err(refusal) => {
                let Some(service) = self.services.get(&key) else { return };
                let (service, reason) = (service.name.clone(), refusal.error);
                let end = End { reason: Some(reason.clone()), ..End::plain(OutcomeResult::Failed) };
                let why = trigger.why.clone();
                trigger.end(&service, &end);
                self.journal.record(&Fact::ReloadFailed { service, trigger: why, reason });
            }
        }
    }

    /// Tell those who wait for workers to be replaced or counted anew, if it is done.
    pub(super) fn settle(&mut self, key: ServiceKey) {
        let Some(service) = self.services.get_mut(&key).filter(|service| !service.settling.is_empty()) else { return };
        let done = service.pool.status() == pool::Status::Serving;
        let generation = service.pool.serving();
        for settling in std::mem::take(&mut service.settling) {
            let Settling { aim, trigger, failures } = settling;
            let name = service.name.clone();
            if done {
                let result = match aim {
                    Aim::Restarted => OutcomeResult::Restarted,
                    Aim::Scaled => OutcomeResult::Scaled,
                };
                if aim == Aim::Restarted {
                    let (took_ms, trigger) = (trigger.took_ms(), trigger.why.clone());
                    self.journal.record(&Fact::Restarted { service: name.clone(), took_ms, trigger });
                }
                trigger.end(&name, &End { result, generation, reason: None });
            } else if failures >= TRIES {
                let failure = service.last_failure.clone().unwrap_or_else(|| "no reason is known".to_owned());
                let reason = Some(format!("its workers end before it is done, and are tried again: {failure}"));
                trigger.end(&name, &End { result: OutcomeResult::Failed, generation, reason });
            } else {
                service.settling.push(Settling { aim, trigger, failures });
            }
        }
    }
}

impl End {
    /// An end that says everything in one word.
    fn plain(result: OutcomeResult) -> End {
        End { result, generation: None, reason: None }
    }
}

/// Have somebody wait until the service's workers are as they were asked to be.
pub(super) fn settle_as(service: &mut super::service::Service, aim: Aim, why: &str) -> Begun {
    let mut trigger = Trigger::new(why);
    let outcome: oneshot::Receiver<Outcome> = trigger.wait();
    service.settling.push(Settling { aim, trigger, failures: 0 });
    Begun { service: service.name.clone(), outcome }
}

fn conflict(error: String) -> Refusal {
    Refusal { code: RefusalCode::Conflict, error, suggestion: None }
}

fn bad(error: String) -> Refusal {
    Refusal { code: RefusalCode::BadRequest, error, suggestion: None }
}

fn gone() -> Refusal {
    conflict("the service is gone".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_absolute_and_a_sign_makes_it_relative() {
        assert_eq!(Scale::parse("4"), Some(Scale::To(4)));
        assert_eq!(Scale::parse("+2"), Some(Scale::By(2)));
        assert_eq!(Scale::parse("-1"), Some(Scale::By(-1)));
        for text in ["", "+", "-", "x", "1.5", "--1", "+-1", "4 ", "99999999999999999999"] {
            assert_eq!(Scale::parse(text), None, "{text}");
        }
        assert_eq!(Scale::By(i64::MIN).of(1), i64::MIN + 1);
        assert_eq!(Scale::By(i64::MAX).of(u32::MAX), i64::MAX);
    }
}

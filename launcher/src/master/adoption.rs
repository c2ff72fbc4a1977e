//! A master that goes on where an earlier one ended: what it has written down and what is kept become services,
//! listeners and workers again. Nothing is verified or compiled, so that the launcher answers at once.
//!
//! What the two sides may not agree about is asked and told once more: a worker repeats what it has said of itself, one
//! that drains is told again to leave. What is kept and not written down belongs to nobody and is let go: a worker whose
//! channel ends drains. What is written down and not kept has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use wasm_host::Purpose;

use super::balance::Seating;
use super::child::{Child, Orphan};
use super::control::Server;
use super::generation::Pinned;
use super::handover::Pair;
use super::journal::{Fact, Journal, Name, WorkerName};
use super::kept::{Estate, Inheritance, Keeping};
use super::listeners::Key;
use super::memory::{Clock, IntentThen, Launcher, PhaseThen, ServiceThen, SlotThen, TriggerThen, WorkerThen};
use super::pool::{self, Generation, Ids, Pool, Slot, WorkerId};
use super::remembering::{ADMIN, CONTROL, LISTENER, LOCK, WATCHES, WHOLE, socket_name};
use super::service::{
    self, Aim, Deployable, Intent, Missing, Preparation, Promotion, Rollout, Service, ServiceKey, Settling,
};
use super::statistics::{Exit, Statistics};
use super::trigger::Trigger;
use super::watch::Watcher;
use super::{Event, Master, Phase, Running, Scope, StartError, Strictness, lock, start_output};
use crate::channel::ToWorker;
use crate::keeping::{ToKeeper, ToMaster, of_process};
use crate::sys;
use crate::sys::file::Stamp;
use crate::sys::ledger::Ledger;

/// What an earlier master has written down.
#[derive(Debug)]
pub struct Legacy {
    pub(super) launcher: Launcher,
    pub(super) services: BTreeMap<ServiceKey, ServiceThen>,
}

/// Why a master cannot go on where an earlier one ended.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The ledger.
    #[error("what the master before has written down cannot be read: {0}")]
    Unreadable(String),
    /// It is another program's.
    #[error("{0}")]
    Contracts(String),
    /// Something that must be kept is not there.
    #[error("what the master before has had kept is not there: {0}")]
    Missing(&'static str),
}

impl Legacy {
    /// Read it.
    ///
    /// # Errors
    /// It is not whole, or of a program that speaks another version.
    pub fn read(ledger: &Ledger) -> Result<Legacy, AdoptError> {
        let region = |region| match ledger.read(region) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(AdoptError::Unreadable(format!("record {region} is not whole"))),
            Err(error) => Err(AdoptError::Unreadable(error.to_string())),
        };
        let unreadable = |error: serde_json::Error| AdoptError::Unreadable(error.to_string());
        #[derive(serde::Deserialize)]
        struct Version {
            contracts: super::memory::Contracts,
        }
        let whole = region(WHOLE)?;
        // First the version: of another one the rest may mean something else.
        let version: Version = serde_json::from_slice(&whole).map_err(unreadable)?;
        version.contracts.refuse().map_err(AdoptError::Contracts)?;
        let launcher: Launcher = serde_json::from_slice(&whole).map_err(unreadable)?;
        let mut services = BTreeMap::new();
        for key in &launcher.services {
            services.insert(ServiceKey(*key), serde_json::from_slice(&region(*key)?).map_err(unreadable)?);
        }
        Ok(Legacy { launcher, services })
    }

    /// The master that wrote it was about to end for good.
    pub(super) fn was_stopping(&self) -> bool {
        matches!(self.launcher.phase, PhaseThen::Stopping { .. })
    }

    /// The configuration that was in force.
    pub fn config(&self) -> &crate::config::Config {
        &self.launcher.config
    }
}

/// A worker that is written down: with its process, or without if that is not kept.
type Found = (WorkerId, ServiceKey, WorkerThen, Option<Orphan>);

impl Master {
    /// Go on. Must be called within a runtime.
    pub(super) fn adopt(
        legacy: Legacy,
        inheritance: Inheritance,
        journal: Journal,
        events: tokio::sync::mpsc::Sender<Event>,
    ) -> Result<Master, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let clock = Clock::new();
        let Legacy { launcher, services } = legacy;
        let (keeping, mut estate, news) = Keeping::of(inheritance).map_err(system("talk to the keeper"))?;
        let config = launcher.config;
        let pid = keeping.pid().unwrap_or_else(std::process::id);
        let lock = estate.take(LOCK).ok_or(AdoptError::Missing("the lock of the state directory"))?;
        let mut lock = lock::Lock::adopt(lock, &config.master.state_dir, pid);
        if let Err(error) = lock.names(pid, &config.path) {
            journal.record(&Fact::Trouble { reason: format!("the pid file cannot be written: {error}") });
        }
        let strictness = if launcher.strict { Strictness::Strict } else { Strictness::Lenient };
        let mut master =
            Master::empty(Purpose::Production, config, strictness, journal, events, lock, launcher.program)?;
        // One that was not kept is nothing to fail of.
        let watcher = estate.take(WATCHES).and_then(|queue| Watcher::adopt(queue).ok());
        master.watcher = Some(watcher.map_or_else(Watcher::new, Ok)?);
        master.next_service = launcher.next_service;
        master.log = launcher.log;
        master.phase = match launcher.phase {
            PhaseThen::Starting => Phase::Starting,
            PhaseThen::Serving => Phase::Serving,
            PhaseThen::Stopping { code } => Phase::Stopping(code),
        };
        master.roots.add(pid);
        master.keeping = Some(keeping);
        master.connect_systemd();
        master.tell_keeper(ToKeeper::Hears);
        master.listeners.inherit(std::mem::take(&mut estate.inherited));
        for listener in launcher.listeners {
            if let Some(socket) = estate.take(&format!("{LISTENER}{}", listener.number)) {
                let more = (1..=listener.more).map_while(|index| estate.take(&socket_name(listener.number, index)));
                let more = more.collect();
                master.listeners.adopt(listener.key, listener.number, socket, more, listener.address);
            }
        }
        let count = services.len();
        let mut found: Vec<Found> = Vec::new();
        let (mut preparing, mut lost) = (Vec::new(), Vec::new());
        let (mut last_worker, mut last_pin) = (0, 0);
        for (key, then) in services {
            last_worker = last_worker.max(then.last_worker);
            last_pin = last_pin.max(then.last_pin);
            preparing.extend(then.preparing.clone().map(|trigger| (key, trigger)));
            let generations = then.generations.len();
            let mut service = restore(key, then, &mut estate, &mut found, clock, master.seed(key));
            if service.generations.len() < generations {
                // Its pool would start workers that cannot be started, for ever. Those that run are let go.
                found.retain(|(_, of, ..)| *of != key);
                service = service.anew(master.seed(key), Instant::now());
                lost.push(key);
            }
            master.services.insert(key, service);
        }
        master.ids = Ids::after(last_worker);
        master.pinner.numbers.store(last_pin, Ordering::Relaxed);
        let fates = Arc::clone(&master.fates);
        let (mut died, mut refused) = (None, None);
        for word in news {
            match word {
                ToMaster::Exited { pid, status } => fates.tell(pid, ExitStatus::from_raw(status)),
                ToMaster::Died { pid, at, how } => died = Some((pid, how, clock.since_ms(at))),
                ToMaster::NotUpgraded(reason) => refused = Some(reason),
            }
        }
        let (mut workers, mut gone) = (0, Vec::new());
        for (id, key, then, orphan) in found {
            match orphan.and_then(|orphan| master.take_over(id, key, &then, orphan, clock)) {
                Some(()) => workers += 1,
                None => gone.push((id, key, then)),
            }
        }
        // Nobody told: it made way, or systemd started this one.
        let how = if launcher.upgrade.is_some() { "made way" } else { "ended" };
        let (pid, how, after_ms) = died.unwrap_or((launcher.pid, how.to_owned(), 0));
        master.journal.record(&Fact::Adopted {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            config: master.config.path.display().to_string(),
            workers,
            services: count as u64,
            before: pid,
            how,
            after_ms,
        });
        master.adopt_sockets(&mut estate, launcher.admin)?;
        master.watch_files();
        master.remember_everything();
        // What nobody knows goes: a worker whose channel ends leaves.
        drop(estate);
        let known: BTreeSet<String> = master.services.keys().map(|key| key.0.to_string()).collect();
        if let Some(keeping) = &mut master.keeping {
            keeping.retain_services(&known);
        }
        for (id, key, then) in gone {
            master.has_gone(id, key, &then);
        }
        master.tell_keeper(ToKeeper::Serves);
        master.catch_up(preparing, clock);
        if !matches!(master.phase, Phase::Stopping(_)) {
            for key in lost {
                let why = "its plugin's bytes were not kept for this master";
                master.prepare(key, Trigger::new(why), Missing::Fail);
            }
        }
        match (launcher.upgrade, refused) {
            (program, Some(reason)) => master.not_upgraded(program, reason),
            (Some(program), None) => master.on_taken_over(program),
            (None, None) => {}
        }
        Ok(master)
    }

    /// The sockets on which the master itself is asked.
    fn adopt_sockets(&mut self, estate: &mut Estate, admin: Option<String>) -> Result<(), StartError> {
        match estate.take(ADMIN).zip(admin) {
            Some((socket, address)) => self.serve_admin_on(socket, address)?,
            None => self.serve_admin()?,
        }
        let path = crate::api::socket(&self.config.master.state_dir);
        let (roots, events, journal) = (Arc::clone(&self.roots), self.events.clone(), self.journal.clone());
        let server = match estate.take(CONTROL) {
            Some(socket) => Server::adopt(socket, &path, roots, events, journal),
            None => Server::start(&path, roots, events, journal),
        };
        self.control = Some(server.map_err(|source| StartError::Control { source })?);
        Ok(())
    }

    /// A worker runs on under this master.
    fn take_over(
        &mut self,
        id: WorkerId,
        key: ServiceKey,
        then: &WorkerThen,
        orphan: Orphan,
        clock: Clock,
    ) -> Option<()> {
        let service = self.services.get(&key)?;
        let state = service.pool.worker(id)?.state;
        let name = name_of(service, id, then);
        let events = self.events.clone();
        let report = move |event| {
            let events = events.clone();
            async move { drop(events.send(Event::Child(id, event)).await) }
        };
        // One that another keeper or systemd has is told of by nobody.
        let keeper = self.keeping.as_ref().and_then(Keeping::pid);
        let told = keeper.is_some_and(|keeper| sys::peer::parent(then.pid).is_ok_and(|parent| parent == keeper));
        let child = Child::adopt(orphan, &self.fates, told, report).ok()?;
        start_output(&child, &name, &self.journal);
        self.roots.add(child.pid);
        // What it said may have been read by the master before and not been written down.
        child.send(ToWorker::Repeat, Vec::new());
        if state.serves() {
            child.send(ToWorker::Nudge, Vec::new());
        }
        let spawned = clock.read(then.spawned);
        let (accepts, failure) = (then.accepts, then.failure.clone());
        let sockets = BTreeSet::new();
        self.workers.insert(
            id,
            Running { service: key, name, child, spawned, accepts, leaves: false, sockets, failure, stuck: None },
        );
        if state.serves() {
            self.begin_accepting(key, id);
        }
        if state.serves() {
            // What it was asked to repeat wakes it, and it says how it is. One that is stuck does not.
            self.heard(id);
        }
        match state {
            // Whether it was told is not known; the second time changes nothing.
            pool::State::Draining { .. } => self.send_off(key, id),
            pool::State::Killed { .. } => {
                if let Some(running) = self.workers.get(&id) {
                    running.child.kill();
                }
            }
            _ => {}
        }
        Some(())
    }

    /// A worker that is written down and not there: its end was never told.
    fn has_gone(&mut self, id: WorkerId, key: ServiceKey, then: &WorkerThen) {
        let Some(service) = self.services.get_mut(&key) else { return };
        let name = name_of(service, id, then);
        self.forget_worker(key, name, id, None, then.failure.clone());
    }

    /// What the master before had begun, and what it could not see any more.
    fn catch_up(&mut self, preparing: Vec<(ServiceKey, TriggerThen)>, clock: Clock) {
        let keys: Vec<ServiceKey> = self.services.keys().copied().collect();
        if matches!(self.phase, Phase::Stopping(_)) {
            for key in keys {
                self.end_pool(key, pool::Event::Drain);
            }
            return;
        }
        for key in keys {
            self.tell_pool(key, pool::Event::Tick);
            let overdue = self.services.get(&key).and_then(|service| service.promotion.as_ref());
            let overdue = overdue.map(|promotion| promotion.generation);
            self.tell_promotion(key, overdue);
        }
        let missing = if self.phase == Phase::Starting { Missing::Build } else { Missing::Fail };
        let prepared: BTreeSet<ServiceKey> = preparing.iter().map(|(key, _)| *key).collect();
        for (key, trigger) in preparing {
            self.prepare(key, trigger.now(clock), missing);
        }
        let changed = |service: &Service| {
            let seen = service.config.reload.watch && service.runs() && service.seen.is_some();
            seen && service.seen != Stamp::at(&service.config.plugin_path)
        };
        let changed = self.services.iter().filter(|(key, service)| !prepared.contains(key) && changed(service));
        let changed: Vec<_> = changed.map(|(key, service)| (*key, service.config.plugin.clone())).collect();
        for (key, plugin) in changed {
            let why = format!("{plugin} changed while there was no master");
            self.prepare(key, Trigger::new(why), Missing::Fail);
        }
        let same = std::fs::read_to_string(&self.config.path).is_ok_and(|text| text == self.config.warnings.text());
        if !same && self.phase == Phase::Serving {
            let why = format!("{} changed while there was no master", self.config.path.display());
            self.read_config(why, Scope::Configuration);
        }
    }
}

fn name_of(service: &Service, id: WorkerId, then: &WorkerThen) -> WorkerName {
    let (slot, generation) = (Slot(then.slot), Generation(then.generation));
    WorkerName { service: service.name.clone(), worker: id, slot, generation, pid: then.pid }
}

fn restore(
    key: ServiceKey,
    then: ServiceThen,
    estate: &mut Estate,
    found: &mut Vec<Found>,
    clock: Clock,
    seed: u64,
) -> Service {
    let mut take = |name: String| estate.take(&format!("{}.{name}", key.0));
    let now = Instant::now();
    let limits = pool::Limits { size: then.size, ..service::limits(&then.config) };
    let pool = Pool::restored(limits, seed, now, &then.pool, clock.start);
    let name = Name::from(then.name.as_str());
    let mut pins = BTreeMap::new();
    for pin in then.pins {
        let Some(source) = take(format!("source{}", pin.number)).map(Arc::new) else { continue };
        let loadable = match pin.same {
            true => Some(Arc::clone(&source)),
            false => take(format!("loadable{}", pin.number)).map(Arc::new),
        };
        let Some(loadable) = loadable else { continue };
        let pinned = Pinned { number: pin.number, plugin: pin.plugin, hash: pin.hash, source, loadable };
        pins.insert(pin.number, Arc::new(pinned));
    }
    let generations = then.generations.into_iter().filter_map(|generation| {
        let listeners = Key::of(&name, &generation.settings.listen);
        let pinned = Arc::clone(pins.get(&generation.pin)?);
        let deployable = Deployable { settings: generation.settings, pinned, listeners };
        Some((Generation(generation.number), deployable))
    });
    let generations = generations.collect();
    let mut statistics = Statistics::default();
    for SlotThen { slot, lanes, last_exit } in then.slots {
        let Some(page) = take(format!("page{slot}")) else { continue };
        let lanes = lanes.into_iter().map(|(lane, worker)| (lane, WorkerId(worker))).collect();
        let last_exit = last_exit.map(|exit| Exit {
            reason: exit.reason,
            status: exit.status.map(ExitStatus::from_raw),
            at: clock.read(exit.at),
        });
        statistics.adopt(Slot(slot), page, lanes, last_exit);
    }
    let hand_over = match take("give".to_owned()).zip(take("take".to_owned())) {
        Some((give, take)) => Some(Pair::of(give, take)),
        // Without the one that the workers have, none: they would give to where nobody takes.
        None if then.hands_over => None,
        None => Pair::new().ok(),
    };
    let seats = then.seats.into_iter().map(|(seat, worker)| (seat, WorkerId(worker))).collect();
    let seating = take("balance".to_owned()).map(|page| Seating::adopt(page, seats)).unwrap_or_default();
    for worker in then.workers {
        let pid = worker.pid;
        let mut part = |what: &str| take(format!("worker{}.{what}", worker.id));
        let (channel, stdout, stderr) = (part("channel"), part("stdout"), part("stderr"));
        let pidfd = take(of_process(&format!("worker{}", worker.id), pid));
        let orphan = match (pidfd, channel, stdout, stderr) {
            (Some(pidfd), Some(channel), Some(stdout), Some(stderr)) => {
                Some(Orphan { pid, pidfd, channel, stdout, stderr })
            }
            _ => None,
        };
        found.push((WorkerId(worker.id), key, worker, orphan));
    }
    let trigger = |then: TriggerThen| then.now(clock);
    Service {
        name,
        pool,
        hand_over,
        seating,
        dispatcher: None,
        generations,
        preparation: Preparation::Idle,
        rollout: then
            .rollout
            .map(|(generation, then)| Rollout { generation: Generation(generation), trigger: trigger(then) }),
        promotion: then.promotion.map(|(generation, then, took_ms)| Promotion {
            generation: Generation(generation),
            trigger: then.map(trigger),
            took_ms,
        }),
        outcome: then.outcome,
        last_failure: then.last_failure,
        statistics,
        intent: match then.intent {
            IntentThen::Run => Intent::Run,
            IntentThen::Stop { trigger: first, then } => {
                Intent::Stop { trigger: first.map(trigger), then: then.map(trigger) }
            }
            IntentThen::Remove => Intent::Remove,
        },
        last_reload: then.last_reload,
        changed_since: then.changed_since.map(|at| clock.read(at)),
        settling: then
            .settling
            .into_iter()
            .map(|settling| Settling {
                aim: if settling.restart { Aim::Restarted } else { Aim::Scaled },
                trigger: trigger(settling.trigger),
                failures: settling.failures,
            })
            .collect(),
        last_generation: then.last_generation,
        seen: then.seen,
        config: then.config,
    }
}

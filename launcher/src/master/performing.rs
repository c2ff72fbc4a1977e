//! What the master does for the pools: spawns, drains, kills; and what becomes of workers and preparations.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::access_logs;
use super::child::{self, Child, Parcel};
use super::generation::{self, Pinned};
use super::journal::{Fact, Journal, Stream, WorkerName};
use super::pool::{self, Action, Generation, Slot, WorkerId};
use super::service::{self, Decision, Missing, Preparation, PrepareError, Rollout, ServiceKey};
use super::statistics::Exit;
use super::trigger::{End, Trigger};
use super::{Event, Master, Phase, Running, milliseconds, output};
use crate::api::OutcomeResult;
use crate::channel::{self, ToMaster, ToWorker};
use crate::config;
use crate::sys::file::Stamp;

impl Master {
    /// Give a pool an event and perform what it wants, and what that leads to.
    pub(super) fn tell_pool(&mut self, key: ServiceKey, event: pool::Event) {
        self.follow_ups.push_back((key, event));
        self.follow_up();
    }

    pub(super) fn follow_up(&mut self) {
        while let Some((key, event)) = self.follow_ups.pop_front() {
            let Some(service) = self.services.get_mut(&key) else { continue };
            for action in service.pool.handle(event, Instant::now(), &mut self.ids) {
                self.perform(key, action);
            }
            self.post.note_change();
            self.settle(key);
            // Those of a worker that is gone are others'.
            self.share_sockets(key);
            // After each: a worker that is not kept is lost with the master.
            self.remember();
        }
    }

    fn perform(&mut self, key: ServiceKey, action: Action) {
        match action {
            Action::Spawn { worker, slot, generation } => {
                if let Err(reason) = self.spawn(key, worker, slot, generation) {
                    if let Some(service) = self.services.get_mut(&key) {
                        service.statistics.release(worker);
                        service.seating.release(worker);
                        let name = service.name.clone();
                        service.last_failure = Some(reason.clone());
                        self.journal.record(&Fact::SpawnFailed { service: name, slot, generation, reason });
                    }
                    // The pool's backoff decides when it is tried again.
                    self.follow_ups.push_back((key, pool::Event::Exited(worker)));
                }
            }
            Action::Drain(worker) => {
                if let Some(running) = self.workers.get(&worker) {
                    self.journal.record(&Fact::Draining(running.name.clone()));
                    self.send_off(key, worker);
                }
            }
            Action::Kill(worker) => {
                if let Some(running) = self.workers.get(&worker) {
                    running.child.kill();
                }
            }
            Action::Promoted(generation) => self.on_promoted(key, generation),
            Action::RolledBack { generation, reason } => self.on_rolled_back(key, generation, reason),
            Action::Failed => {
                if let Some(service) = self.services.get(&key) {
                    let reason = service.last_failure.clone().unwrap_or_else(|| "its workers crash".to_owned());
                    self.journal.record(&Fact::ServiceFailed { service: service.name.clone(), reason });
                }
            }
            Action::Recovered => {
                if let Some(service) = self.services.get(&key) {
                    self.journal.record(&Fact::ServiceRecovered { service: service.name.clone() });
                }
            }
            Action::Retired(generation) => {
                if let Some(service) = self.services.get_mut(&key) {
                    service.generations.remove(&generation);
                }
            }
            Action::Stop => self.on_stopped(key),
        }
    }

    fn spawn(&mut self, key: ServiceKey, id: WorkerId, slot: Slot, generation: Generation) -> Result<(), String> {
        let service = self.services.get_mut(&key).ok_or("the service is gone")?;
        let (place, page) = service.statistics.admit(id, slot).map_err(|error| error.to_string())?;
        let deployable = service.generations.get(&generation).ok_or("the generation is gone")?;
        let settings = &deployable.settings;
        let mut parcel: Vec<Arc<OwnedFd>> = vec![Arc::clone(&deployable.pinned.loadable), page];
        let mut listeners = Vec::new();
        for (listen, listener) in settings.listen.iter().zip(&deployable.listeners) {
            // Held since before the generation; bound anew only when the configuration left the address and
            // a rollback returns to it.
            let (bound, _) = self.listeners.hold(listener, &listen.options).map_err(|error| error.to_string())?;
            parcel.push(bound.socket);
            listeners.push(channel::Listener {
                name: listen.name.clone(),
                address: bound.address,
                proxy_protocol: listen.proxy_protocol,
                kind: bound.kind,
                nodelay: listen.options.nodelay,
            });
        }
        let access_log = settings.access_log.as_ref();
        let access_log = access_log.and_then(|log| access_logs::open(log, &mut parcel, &self.journal));
        parcel.extend(service.hand_over.iter().map(|pair| Arc::clone(&pair.take)));
        let seat = match settings.balance {
            config::Balance::Requests => None,
            // Without a page, or a seat, it takes them in turn.
            config::Balance::Connections => service.seating.admit(id).ok().flatten(),
        };
        let balance = seat.map(|(place, page)| {
            parcel.push(page);
            place
        });
        let assign = assign(service, deployable, id, slot, generation, place, listeners);
        let dev = self.dev.as_ref().map(|dev| Box::new(dev.shown(&service.name)));
        let assign = channel::Assign { access_log, balance, dev, ..assign };
        let title = format!("{}/{}", service.name, slot.0);
        let first = (ToWorker::Assign(Box::new(assign)), parcel);
        self.spares.hold_off();
        let child = match self.spares.assign(id, &first) {
            Some(child) => child,
            None => start(&self.pinner.binary, &title, id, first, &self.events).map_err(|error| error.to_string())?,
        };
        let name = WorkerName { service: service.name.clone(), worker: id, slot, generation, pid: child.pid };
        start_output(&child, &name, &self.journal);
        self.journal.record(&Fact::Spawned(name.clone()));
        let running = Running {
            service: key,
            name,
            child,
            spawned: Instant::now(),
            accepts: true,
            leaves: false,
            sockets: BTreeSet::new(),
            failure: None,
            stuck: None,
        };
        self.workers.insert(id, running);
        Ok(())
    }

    pub(super) fn on_child(&mut self, id: WorkerId, event: child::Event) {
        let Some(running) = self.workers.get_mut(&id) else { return };
        let key = running.service;
        match event {
            child::Event::Said(ToMaster::Ready) => {
                let state = self.services.get(&key).and_then(|service| service.pool.worker(id)).map(|w| w.state);
                if !matches!(state, Some(pool::State::Starting { .. })) {
                    return; // it was asked to repeat it
                }
                let took = running.spawned.elapsed();
                // Milliseconds are too coarse for what takes two of them.
                let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                let worker = running.name.clone();
                self.journal.record(&Fact::Ready { worker, took_ms: milliseconds(took), took_us });
                self.make_sockets(key, id);
                self.tell_pool(key, pool::Event::Ready(id));
                self.begin_accepting(key, id);
                self.heard(id);
            }
            child::Event::Said(ToMaster::NotAccepting) => {
                running.accepts = false;
                self.tell_promotion(key, None);
            }
            child::Event::Said(ToMaster::Failed { reason }) => running.failure = Some(reason),
            child::Event::Said(ToMaster::Recycle { reason }) => {
                let state = self.services.get(&key).and_then(|service| service.pool.worker(id)).map(|w| w.state);
                if !matches!(state, Some(pool::State::Ready { .. })) {
                    return; // it was asked to repeat it, or leaves already
                }
                self.journal.record(&Fact::Recycling { worker: running.name.clone(), reason });
                self.tell_pool(key, pool::Event::Recycle(id));
            }
            child::Event::Said(ToMaster::Busy | ToMaster::Beat) => self.heard(id),
            child::Event::Said(ToMaster::Idle) => self.pulses.forget(id),
            child::Event::Said(ToMaster::Stuck { frames }) => self.tell_stuck(id, frames),
            child::Event::Said(ToMaster::Dying { signal }) => self.on_dying(id, signal),
            child::Event::Said(ToMaster::Follow { service }) => self.follow(id, &service),
            child::Event::Said(ToMaster::Introduce { worker }) => self.introduce(id, worker),
            child::Event::Said(ToMaster::Posted { post, fate }) => self.on_posted(id, post, fate),
            child::Event::Said(ToMaster::Message { number, message }) => self.on_message(id, number, &message),
            child::Event::Said(ToMaster::RequestFailed(asked)) => {
                let name = running.name.clone();
                self.on_request_failed(name, asked);
            }
            child::Event::Said(ToMaster::Verified { .. }) => {
                running.failure = Some("it answered a question that nobody asked".to_owned());
                running.child.kill();
            }
            child::Event::Babbled(reason) => {
                running.failure = Some(reason);
                running.child.kill();
            }
            child::Event::Exited(status) => self.on_exit(id, status),
        }
    }

    /// A worker dies, and telling where takes it a while: its clients and its replacement do not wait for that.
    fn on_dying(&mut self, id: WorkerId, signal: i32) {
        self.pulses.forget(id);
        let Some(running) = self.workers.get(&id) else { return };
        let key = running.service;
        let Some(service) = self.services.get_mut(&key) else { return };
        let state = service.pool.worker(id).map(|worker| worker.state);
        if matches!(
            state,
            Some(pool::State::Starting { .. } | pool::State::Ready { .. } | pool::State::Outgoing { .. })
        ) {
            service.last_failure = Some(format!("a worker {}", child::describe(Some(ExitStatus::from_raw(signal)))));
        }
        self.nudge(key);
        self.tell_pool(key, pool::Event::Dying(id));
    }

    fn on_exit(&mut self, id: WorkerId, status: Option<ExitStatus>) {
        self.pulses.forget(id);
        self.end_posts(id);
        self.tellers.forget(id);
        self.tell_stuck(id, Vec::new());
        let Some(running) = self.workers.remove(&id) else { return };
        self.roots.remove(running.child.pid);
        self.spares.hold_off();
        self.forget_worker(running.service, running.name, id, status, running.failure);
    }

    /// A worker is gone.
    pub(super) fn forget_worker(
        &mut self,
        key: ServiceKey,
        worker: WorkerName,
        id: WorkerId,
        status: Option<ExitStatus>,
        failure: Option<String>,
    ) {
        let Some(service) = self.services.get_mut(&key) else { return };
        let state = service.pool.worker(id).map(|worker| worker.state);
        let expected = matches!(state, None | Some(pool::State::Draining { .. } | pool::State::Killed { .. }));
        let mut reason = child::describe(status);
        if let Some(failure) = failure {
            reason = format!("{reason}: {failure}");
            service.last_failure = Some(failure);
        } else if !expected {
            service.last_failure = Some(format!("a worker {reason}"));
        }
        service.statistics.release(id);
        service.seating.release(id);
        if let Some(dispatcher) = &service.dispatcher {
            dispatcher.gone(id);
        }
        service.statistics.note_exit(worker.slot, Exit { reason: reason.clone(), status, at: Instant::now() });
        self.journal.record(&Fact::Exited {
            worker,
            code: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
            reason,
            expected,
        });
        if !expected {
            service.settling.iter_mut().for_each(|settling| settling.failures += 1);
            self.nudge(key);
        }
        self.tell_pool(key, pool::Event::Exited(id));
        self.tell_promotion(key, None);
    }

    /// A worker that was woken for a connection and died before it accepted leaves the connection in the queue
    /// until the next one comes: let the others look.
    fn nudge(&self, key: ServiceKey) {
        let Some(service) = self.services.get(&key) else { return };
        for (id, worker) in service.pool.workers() {
            if worker.state.serves()
                && let Some(running) = self.workers.get(&id)
            {
                running.child.send(ToWorker::Nudge, Vec::new());
            }
        }
    }

    /// Start a preparation, or leave the trigger for the end of the one in progress.
    pub(super) fn prepare(&mut self, key: ServiceKey, trigger: Trigger, missing: Missing) {
        let Some(service) = self.services.get_mut(&key).filter(|service| service.runs()) else { return };
        if !service.wants_preparation(trigger) {
            return;
        }
        let settings = Box::new(service.config.clone());
        let task = service::prepare(
            self.pinner.clone(),
            self.journal.clone(),
            service.name.clone(),
            settings.clone(),
            self.config.path.parent().unwrap_or(Path::new("/")).to_owned(),
            service.pinned(),
            missing,
        );
        let events = self.events.clone();
        tokio::spawn(async move {
            // Before it is read: a change while it is read makes it another one.
            let path = settings.plugin_path.clone();
            let seen = tokio::task::spawn_blocking(move || Stamp::at(&path)).await.ok().flatten();
            let result = task.await;
            drop(events.send(Event::Prepared { service: key, settings, seen, result }).await);
        });
    }

    pub(super) fn on_prepared(
        &mut self,
        key: ServiceKey,
        settings: config::Service,
        seen: Option<Stamp>,
        result: Result<Arc<Pinned>, PrepareError>,
    ) {
        let stopping = matches!(self.phase, Phase::Stopping(_));
        let result = match (result, self.services.get(&key)) {
            (Ok(pinned), Some(service)) => self.fit(&service.name, &settings, &pinned.plugin).map(|()| pinned),
            (result, _) => result,
        };
        let Some(service) = self.services.get_mut(&key) else { return };
        service.seen = seen;
        let Preparation::Running { mut trigger, mut next } =
            std::mem::replace(&mut service.preparation, Preparation::Idle)
        else {
            return;
        };
        if stopping || !service.runs() {
            return;
        }
        let name = service.name.clone();
        match result {
            Ok(pinned) => match service.decide(settings, pinned) {
                Decision::Deploy(generation) => {
                    let why = trigger.why.clone();
                    self.journal.record(&Fact::ReloadStarted { service: name, generation, trigger: why });
                    if let Some(abandoned) = service.rollout.take() {
                        // It holds what the abandoned one held, or newer.
                        trigger.join(abandoned.trigger);
                    }
                    service.rollout = Some(Rollout { generation, trigger });
                    service.last_failure = None;
                    self.tell_pool(key, pool::Event::Reload(generation));
                }
                Decision::Same(generation) => {
                    self.journal.record(&Fact::Unchanged { service: name, trigger: trigger.why.clone() });
                    if service.pool.serving() == Some(generation) {
                        let end = End { result: OutcomeResult::Unchanged, generation: Some(generation), reason: None };
                        trigger.end(&service.name, &end);
                        self.tell_pool(key, pool::Event::Reload(generation));
                    } else if let Some(rollout) = &mut service.rollout {
                        rollout.trigger.join(trigger);
                    }
                }
            },
            // The file changed once more while it was read: what was wrong then says nothing now.
            Err(_) if next.is_some() => {
                if let Some(next) = &mut next {
                    next.join(trigger);
                }
            }
            Err(error) => {
                let reason = error.to_string();
                let first = service.fail_first(&error);
                let result = if first { OutcomeResult::Failed } else { OutcomeResult::RolledBack };
                let why = trigger.why.clone();
                service.end_reload(trigger, &End { result, generation: None, reason: Some(reason.clone()) });
                self.journal.record(&if first {
                    Fact::ServiceFailed { service: name, reason }
                } else {
                    Fact::ReloadFailed { service: name, trigger: why, reason }
                });
            }
        }
        if let Some(trigger) = next {
            self.prepare(key, trigger, Missing::Fail);
        }
    }
}

/// Start a worker's process.
fn start(binary: &Path, title: &str, id: WorkerId, first: Parcel, events: &mpsc::Sender<Event>) -> io::Result<Child> {
    let mut command = generation::own_process(binary);
    command.args(["worker", title]);
    if let ToWorker::Assign(assign) = &first.0 {
        command.envs(&assign.env);
    }
    let events = events.clone();
    let report = move |event| {
        let events = events.clone();
        async move { drop(events.send(Event::Child(id, event)).await) }
    };
    Child::spawn(&mut command, first, report)
}

/// Pass on what a worker prints.
pub(super) fn start_output(child: &Child, name: &WorkerName, journal: &Journal) {
    let output = &child.output;
    for (pipe, stream) in [(&output.stdout, Stream::Stdout), (&output.stderr, Stream::Stderr)] {
        tokio::spawn(output::drain(Arc::clone(pipe), stream, name.clone(), journal.clone()));
    }
}

fn assign(
    service: &service::Service,
    deployable: &service::Deployable,
    id: WorkerId,
    slot: Slot,
    generation: Generation,
    statistics: channel::statistics::Place,
    listeners: Vec<channel::Listener>,
) -> channel::Assign {
    let settings = &deployable.settings;
    let mut env = settings.env.clone();
    for (variable, value) in [
        ("LAUNCHER_SERVICE", service.name.to_string()),
        ("LAUNCHER_WORKER_ID", id.0.to_string()),
        ("LAUNCHER_WORKER_SLOT", slot.0.to_string()),
        ("LAUNCHER_WORKER_GENERATION", generation.0.to_string()),
    ] {
        env.insert(variable.to_owned(), value);
    }
    if settings.forwarded != config::Forwarded::Off {
        // Whoever reads the header in a plugin can tell whether the launcher or the client wrote it.
        env.insert("LAUNCHER_FORWARDED".to_owned(), "1".to_owned());
    }
    let wasm = &settings.wasm;
    let limits = &settings.limits;
    channel::Assign {
        service: service.name.to_string(),
        worker: id.0,
        slot: slot.0,
        generation: generation.0,
        plugin: deployable.pinned.plugin.clone(),
        plugin_path: settings.plugin.clone(),
        statistics,
        listeners,
        env,
        config: settings.config.clone(),
        forwarded: match settings.forwarded {
            config::Forwarded::Off => channel::Forwarded::Off,
            config::Forwarded::Set => channel::Forwarded::Set,
            config::Forwarded::Append => channel::Forwarded::Append,
        },
        access_log: None,
        limits: channel::Limits {
            memory: limits.memory,
            request_timeout: limits.request_timeout,
            idle_timeout: limits.idle_timeout,
            connections: limits.connections,
            max_requests: limits.max_requests,
            max_lifetime: limits.max_lifetime,
        },
        wasm: wasm_host::Settings {
            memory: wasm.memory,
            cpu_time: wasm.cpu_time,
            reuse: wasm.reuse,
            dirs: wasm
                .dirs
                .iter()
                .map(|(host, guest, writable)| wasm_host::Dir {
                    host: host.clone(),
                    guest: guest.clone(),
                    writable: *writable,
                })
                .collect(),
            network: wasm
                .network
                .iter()
                .map(|(host, port)| wasm_host::Endpoint { host: host.clone(), port: *port })
                .collect(),
        },
        drain_timeout: service.pool.limits().drain_timeout,
        takes_over: service.hand_over.is_some(),
        balance: None,
        sockets_later: settings.scheduling != config::Scheduling::Shared,
        dev: None,
        identity: settings.user.as_ref().map(|user| channel::Identity {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        }),
    }
}

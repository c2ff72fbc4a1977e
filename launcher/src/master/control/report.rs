//! The launcher's status: what the master knows, taken between two events, and what only the system knows, read
//! afterwards outside the loop, because that walks page tables.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use super::super::pool::{self, State, WorkerId};
use super::super::service::{Intent, Service};
use super::super::statistics::Reader;
use super::super::{Master, listeners};
use crate::api;
use crate::channel::Plugin;
use crate::sys::usage;

/// What the master knows at one moment.
#[derive(Debug)]
pub(in crate::master) struct Snapshot {
    status: api::Status,
    /// Where workers count, by their ids.
    counted: BTreeMap<u64, Reader>,
}

impl Snapshot {
    /// The status, with what the system says about each process. Blocks for milliseconds.
    pub(in crate::master) fn complete(mut self) -> api::Status {
        for worker in self.status.services.iter_mut().flat_map(|service| &mut service.workers) {
            let usage = usage::of(worker.pid);
            (worker.pss_bytes, worker.cpu_s) = (usage.pss_bytes, usage.cpu_s);
            if let Some(reader) = self.counted.get(&worker.id) {
                let numbers = reader.read();
                worker.connections = worker.connections.map(|_| numbers.connections);
                worker.accepted = worker.accepted.map(|_| numbers.accepted);
                worker.requests = worker.requests.map(|_| numbers.requests);
            }
        }
        self.status
    }
}

impl Master {
    pub(in crate::master) fn snapshot(&self) -> Snapshot {
        let services = self.services.values().filter(|service| service.is_present());
        let counted = services.clone().flat_map(|service| {
            let reader = |(id, _): (WorkerId, _)| service.statistics_of(id).map(|reader| (id.0, reader));
            service.pool.workers().filter_map(reader)
        });
        let counted = counted.collect();
        let mut services: Vec<_> = services.map(|service| self.service(service)).collect();
        services.sort_by(|one, other| one.name.cmp(&other.name));
        let status = api::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            keeper: self.keeping.as_ref().and_then(|keeping| keeping.pid()),
            uptime_s: seconds(self.started),
            upgrade: self.last_upgrade(),
            config: self.config.path.display().to_string(),
            services,
        };
        Snapshot { status, counted }
    }

    fn service(&self, service: &Service) -> api::Service {
        let mut workers: Vec<_> = service
            .pool
            .workers()
            .filter_map(|(id, worker)| {
                let running = self.workers.get(&id)?;
                let deployable = service.generations.get(&worker.generation);
                // The numbers are read when the rest is complete.
                let counted = |is: fn(&Plugin) -> bool| deployable.is_none_or(|it| is(&it.pinned.plugin)).then_some(0);
                Some(api::Worker {
                    id: id.0,
                    slot: worker.slot.0,
                    pid: running.child.pid,
                    generation: worker.generation.0,
                    state: match worker.state {
                        State::Starting { .. } => api::WorkerState::Starting,
                        State::Ready { .. } | State::Outgoing { .. } => api::WorkerState::Ready,
                        State::Draining { .. } | State::Dying { .. } | State::Killed { .. } => {
                            api::WorkerState::Draining
                        }
                    },
                    uptime_s: seconds(running.spawned),
                    restarts: service.pool.restarts(worker.slot),
                    pss_bytes: None,
                    cpu_s: None,
                    connections: counted(Plugin::connections_are_counted),
                    accepted: counted(Plugin::connections_are_counted),
                    requests: counted(Plugin::requests_are_counted),
                    last_exit: service.statistics.last_exit(worker.slot).map(|exit| api::Exit {
                        reason: exit.reason.clone(),
                        code: exit.status.and_then(|status| status.code()),
                        signal: exit.status.and_then(|status| status.signal()),
                        ago_s: seconds(exit.at),
                    }),
                })
            })
            .collect();
        workers.sort_by_key(|worker| (worker.slot, worker.id));
        let state = match (&service.intent, service.pool.status()) {
            (Intent::Stop { .. } | Intent::Remove, _) => api::State::Stopped,
            (Intent::Run, pool::Status::Starting) => api::State::Starting,
            (Intent::Run, pool::Status::Serving) => api::State::Serving,
            (Intent::Run, pool::Status::Reloading) => api::State::Reloading,
            (Intent::Run, pool::Status::Degraded) => api::State::Degraded,
            (Intent::Run, pool::Status::Failed) => api::State::Failed,
            (Intent::Run, pool::Status::Stopping | pool::Status::Stopped) => api::State::Stopped,
        };
        let state =
            if state == api::State::Starting && service.has_failed_to_start() { api::State::Failed } else { state };
        let troubled = matches!(state, api::State::Degraded | api::State::Failed);
        let keys = listeners::Key::of(&service.name, &service.config.listen);
        let owns_sockets = service.plugin().is_some_and(Plugin::owns_sockets);
        api::Service {
            name: service.name.to_string(),
            kind: if owns_sockets { api::Kind::Socket } else { api::Kind::Http },
            plugin: service.config.plugin.clone(),
            generation: service.pool.serving().map(|generation| generation.0),
            previous: service.pool.previous().map(|generation| generation.0),
            state,
            reason: service.trouble().filter(|_| troubled),
            listeners: keys.iter().filter_map(|key| self.listeners.address(key)).collect(),
            wanted: service.pool.limits().size,
            workers,
            last_reload: service.last_reload.clone(),
        }
    }
}

/// Seconds since `then`, to the millisecond.
fn seconds(then: Instant) -> f64 {
    (then.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}

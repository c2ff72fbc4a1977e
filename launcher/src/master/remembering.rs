//! After every event: what has changed is kept for the next master. First the descriptors, then what names them, then
//! what nothing names any more is let go.
//!
//! Descriptors are named for what they are: `listener3`, `listener3-1` for that of its second slot, `watches`, `inherited-web` (a
//! socket that the launcher was started with), and of the service with the key 2 `2.page0`, `2.balance`, `2.give`, `2.take`,
//! `2.source5`, `2.loadable5`, `2.worker7.channel`, `.stdout`, `.stderr`, `.pid4711`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::journal::Fact;
use super::kept::Keeping;
use super::listeners::Bound;
use super::memory::{
    Clock, Contracts, ExitThen, GenerationThen, IntentThen, Launcher, ListenerThen, PhaseThen, PinThen, ServiceThen,
    SettlingThen, SlotThen, TriggerThen, WorkerThen,
};
use super::service::{Aim, Intent, Preparation, Service, ServiceKey};
use super::{Master, Phase, Strictness};
use crate::keeping::{of_inherited, of_process};

/// The region of what concerns the launcher as a whole.
pub(super) const WHOLE: u64 = 0;
/// What the names of the launcher's own descriptors begin with.
pub(super) const LISTENER: &str = "listener";
pub(super) const LOCK: &str = "lock";
pub(super) const CONTROL: &str = "control";
pub(super) const ADMIN: &str = "admin";
pub(super) const WATCHES: &str = "watches";

/// The name of a listener's socket.
pub(super) fn socket_name(number: u64, index: usize) -> String {
    match index {
        0 => format!("{LISTENER}{number}"),
        _ => format!("{LISTENER}{number}-{index}"),
    }
}

/// The services, and which of them somebody may have changed.
#[derive(Default)]
pub(super) struct Services {
    all: BTreeMap<ServiceKey, Service>,
    touched: BTreeSet<ServiceKey>,
}

impl Services {
    pub(super) fn get_mut(&mut self, key: &ServiceKey) -> Option<&mut Service> {
        self.touched.insert(*key);
        self.all.get_mut(key)
    }

    pub(super) fn insert(&mut self, key: ServiceKey, service: Service) {
        self.touched.insert(key);
        self.all.insert(key, service);
    }

    pub(super) fn remove(&mut self, key: &ServiceKey) {
        self.touched.insert(*key);
        self.all.remove(key);
    }

    fn touch_all(&mut self) {
        self.touched.extend(self.all.keys());
    }
}

impl Deref for Services {
    type Target = BTreeMap<ServiceKey, Service>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

/// What tells whether the launcher's own part has to be written again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    phase: Phase,
    services: Vec<ServiceKey>,
    /// Their numbers, and how many sockets each has.
    listeners: Vec<(u64, usize)>,
    configurations: u64,
    upgrade: bool,
}

impl Master {
    /// Keep everything anew: the keeper has nothing.
    pub(super) fn remember_everything(&mut self) {
        self.services.touch_all();
        self.remembered = None;
        self.remember();
    }

    /// Keep what has changed. Without a keeper nothing is done.
    pub(super) fn remember(&mut self) {
        let Some(mut keeping) = self.keeping.take() else {
            self.services.touched.clear();
            return;
        };
        let clock = Clock::new();
        let summary = self.summary();
        let anew = self.remembered.as_ref() != Some(&summary);
        if anew {
            self.keep_own(&mut keeping);
        }
        let touched = std::mem::take(&mut self.services.touched);
        let mut failed = None;
        for key in &touched {
            let prefix = format!("{}.", key.0);
            let Some(service) = self.services.get(key) else { continue };
            let wanted = self.keep_service(*key, service, &prefix, &mut keeping);
            let written = serde_json::to_vec(&self.service_then(*key, service, clock)).map_err(std::io::Error::from);
            failed = written.and_then(|text| keeping.ledger.write(key.0, &text)).err().or(failed);
            keeping.retain(&prefix, &wanted);
        }
        if anew {
            let written = serde_json::to_vec(&self.launcher_then()).map_err(std::io::Error::from);
            failed = written.and_then(|text| keeping.ledger.write(WHOLE, &text)).err().or(failed);
            let names = |bound: &Bound| {
                (0..=bound.more.len()).map(|index| socket_name(bound.number, index)).collect::<Vec<_>>()
            };
            let listeners = self.listeners.iter().flat_map(|(_, bound)| names(bound)).collect();
            keeping.retain(LISTENER, &listeners);
            self.remembered = Some(summary);
        }
        for key in touched.iter().filter(|key| !self.services.contains_key(key)) {
            keeping.retain(&format!("{}.", key.0), &BTreeSet::new());
            // A region of a service that nobody names is not read.
            let _ = keeping.ledger.erase(key.0);
        }
        if let Some(error) = failed {
            let reason = format!("what this master knows cannot be written down for the next one: {error}");
            self.journal.record(&Fact::Trouble { reason });
        }
        if let Some(most) = keeping.overflows() {
            let reason = format!(
                "systemd keeps {most} descriptors and {} are needed to survive the master's death: raise \
                 FileDescriptorStoreMax",
                keeping.count()
            );
            self.journal.record(&Fact::Trouble { reason });
        }
        self.keeping = Some(keeping);
    }

    fn summary(&self) -> Summary {
        Summary {
            phase: self.phase,
            services: self.services.keys().copied().collect(),
            listeners: self.listeners.iter().map(|(_, bound)| (bound.number, bound.more.len())).collect(),
            configurations: self.configurations,
            upgrade: self.upgrade.is_some(),
        }
    }

    fn keep_own(&self, keeping: &mut Keeping) {
        keeping.store(LOCK, || Arc::clone(self.lock.descriptor()));
        if let Some(control) = &self.control {
            keeping.store(CONTROL, || Arc::clone(&control.socket));
        }
        if let Some((admin, _)) = &self.admin {
            keeping.store(ADMIN, || Arc::clone(admin));
        }
        if let Some(watcher) = &self.watcher
            && !keeping.keeps(WATCHES)
            // Without it a death takes longer, and is survived all the same.
            && let Ok(queue) = watcher.queue()
        {
            keeping.store(WATCHES, || Arc::new(queue));
        }
        for (name, socket) in self.listeners.inherited() {
            // systemd passes its own sockets to every master that it starts, and only to those.
            if keeping.pid().is_some() {
                keeping.store(&of_inherited(name), || Arc::clone(socket));
            } else if keeping.collects() {
                keeping.store(name, || Arc::clone(socket));
            }
        }
        for (_, bound) in self.listeners.iter() {
            for (index, socket) in bound.sockets().enumerate() {
                keeping.store(&socket_name(bound.number, index), || Arc::clone(socket));
            }
        }
    }

    /// The names of everything that belongs to a service.
    fn keep_service(
        &self,
        key: ServiceKey,
        service: &Service,
        prefix: &str,
        keeping: &mut Keeping,
    ) -> BTreeSet<String> {
        let mut wanted = BTreeSet::new();
        let mut named = |name: String| {
            let name = format!("{prefix}{name}");
            wanted.insert(name.clone());
            name
        };
        if let Some(pair) = &service.hand_over {
            keeping.store(&named("give".to_owned()), || Arc::clone(&pair.give));
            keeping.store(&named("take".to_owned()), || Arc::clone(&pair.take));
        }
        if let Some(page) = service.seating.page() {
            keeping.store(&named("balance".to_owned()), || Arc::clone(page));
        }
        for (slot, page, ..) in service.statistics.slots() {
            keeping.store(&named(format!("page{}", slot.0)), || Arc::clone(page));
        }
        for deployable in service.generations.values() {
            let pinned = &deployable.pinned;
            keeping.store(&named(format!("source{}", pinned.number)), || Arc::clone(&pinned.source));
            if !Arc::ptr_eq(&pinned.source, &pinned.loadable) {
                keeping.store(&named(format!("loadable{}", pinned.number)), || Arc::clone(&pinned.loadable));
            }
        }
        for (id, running) in self.workers.iter().filter(|(_, running)| running.service == key) {
            let child = &running.child;
            let name = |what: &str| format!("worker{}.{what}", id.0);
            keeping.store(&named(of_process(&format!("worker{}", id.0), child.pid)), || Arc::clone(&child.pidfd));
            keeping.store(&named(name("stdout")), || Arc::clone(&child.output.stdout));
            keeping.store(&named(name("stderr")), || Arc::clone(&child.output.stderr));
            // Last: a worker whose channel is kept is kept as a whole.
            keeping.store(&named(name("channel")), || Arc::clone(&child.channel));
        }
        wanted
    }

    fn launcher_then(&self) -> Launcher {
        Launcher {
            contracts: Contracts::with(self.pinner.compiler.clone()),
            pid: std::process::id(),
            program: self.program.clone(),
            upgrade: self.upgrade.as_ref().map(|(path, _)| path.clone()),
            config: self.config.clone(),
            log: self.log.clone(),
            admin: self.admin.as_ref().map(|(_, address)| address.clone()),
            phase: match self.phase {
                Phase::Starting => PhaseThen::Starting,
                Phase::Serving => PhaseThen::Serving,
                Phase::Stopping(code) => PhaseThen::Stopping { code },
            },
            strict: self.strictness == Strictness::Strict,
            services: self.services.keys().map(|key| key.0).collect(),
            next_service: self.next_service,
            listeners: self
                .listeners
                .iter()
                .map(|(key, bound)| ListenerThen {
                    key: key.clone(),
                    number: bound.number,
                    address: bound.address.clone(),
                    more: bound.more.len(),
                })
                .collect(),
        }
    }

    fn service_then(&self, key: ServiceKey, service: &Service, clock: Clock) -> ServiceThen {
        let trigger = |trigger| TriggerThen::of(trigger, clock);
        let mut pins: Vec<PinThen> = Vec::new();
        for deployable in service.generations.values() {
            let pinned = &deployable.pinned;
            if !pins.iter().any(|pin| pin.number == pinned.number) {
                let same = Arc::ptr_eq(&pinned.source, &pinned.loadable);
                let (plugin, hash) = (pinned.plugin.clone(), pinned.hash.clone());
                pins.push(PinThen { number: pinned.number, plugin, hash, same });
            }
        }
        let generations = service.generations.iter().map(|(generation, deployable)| GenerationThen {
            number: generation.0,
            settings: deployable.settings.clone(),
            pin: deployable.pinned.number,
        });
        let workers = self.workers.iter().filter(|(_, running)| running.service == key);
        let workers = workers.map(|(id, running)| WorkerThen {
            id: id.0,
            slot: running.name.slot.0,
            generation: running.name.generation.0,
            pid: running.child.pid,
            spawned: clock.write(running.spawned),
            accepts: running.accepts,
            failure: running.failure.clone(),
        });
        let slots = service.statistics.slots().map(|(slot, _, lanes, exit)| SlotThen {
            slot: slot.0,
            lanes: lanes.iter().map(|(lane, worker)| (*lane, worker.0)).collect(),
            last_exit: exit.map(|exit| ExitThen {
                reason: exit.reason.clone(),
                status: exit.status.map(ExitStatusExt::into_raw),
                at: clock.write(exit.at),
            }),
        });
        let promotion = service.promotion.as_ref();
        ServiceThen {
            name: service.name.to_string(),
            config: service.config.clone(),
            size: service.pool.limits().size,
            pool: service.pool.snapshot(clock.start),
            workers: workers.collect(),
            pins,
            generations: generations.collect(),
            hands_over: service.hand_over.is_some(),
            seats: service.seating.seats().iter().map(|(seat, worker)| (*seat, worker.0)).collect(),
            preparing: match &service.preparation {
                Preparation::Idle => None,
                Preparation::Running { trigger: first, next } => Some(trigger(next.as_ref().unwrap_or(first))),
            },
            rollout: service.rollout.as_ref().map(|rollout| (rollout.generation.0, trigger(&rollout.trigger))),
            promotion: promotion.map(|it| (it.generation.0, it.trigger.as_ref().map(trigger), it.took_ms)),
            outcome: service.outcome.clone(),
            last_failure: service.last_failure.clone(),
            slots: slots.collect(),
            intent: match &service.intent {
                Intent::Run => IntentThen::Run,
                Intent::Stop { trigger: first, then } => {
                    IntentThen::Stop { trigger: first.as_ref().map(trigger), then: then.as_ref().map(trigger) }
                }
                Intent::Remove => IntentThen::Remove,
            },
            last_reload: service.last_reload.clone(),
            changed_since: service.changed_since.map(|at| clock.write(at)),
            settling: service
                .settling
                .iter()
                .map(|settling| SettlingThen {
                    restart: settling.aim == Aim::Restarted,
                    trigger: trigger(&settling.trigger),
                    failures: settling.failures,
                })
                .collect(),
            last_generation: service.last_generation,
            seen: service.seen,
            last_worker: self.ids.last(),
            last_pin: self.pinner.numbers.load(Ordering::Relaxed),
        }
    }
}

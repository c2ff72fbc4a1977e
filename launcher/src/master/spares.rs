//! Spare workers: processes that have executed this program and made ready what any worker needs, and wait for the
//! assignment that makes them one. Whatever is to be started is one of them if there is one.
//!
//! They are made when nothing else is to be done, and again after a rest, so that neither a start nor a loop of crashes
//! pays for them. Nothing of them is kept for the next master: the channel of a spare ends with the master that made it,
//! and so does the spare; another program makes its own. A spare is no worker of any service before it is assigned.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use wasm_host::Purpose;

use super::child::{self, Child, Parcel};
use super::generation;
use super::journal::Fact;
use super::pool::{self, WorkerId};
use super::service::Preparation;
use super::{Event, Master, Phase};
use crate::channel::{self, Assign, Plugin, ToWorker};
use crate::sys;
use crate::sys::process::Stranger;

/// How long nothing was started, ended or prepared before one is made. In a loop of crashes the first replacement takes the
/// spare, and the next ones come too soon for another.
const REST: Duration = Duration::from_millis(300);
/// Spares that ended by themselves one after the other until it is said.
const REMARKABLE: u32 = 3;
/// The rest doubles with every one of those, so many times at most: 5 minutes.
const DOUBLED: u32 = 10;

/// Which worker a spare has become.
pub(super) type Seat = Arc<OnceLock<WorkerId>>;

/// See the module.
pub(super) struct Spares {
    most: u32,
    waiting: VecDeque<Spare>,
    /// Those that wait, and those that are being ended.
    alive: usize,
    rest_from: Instant,
    /// How many ended by themselves since one was used.
    failures: u32,
}

struct Spare {
    child: Child,
    seat: Seat,
}

impl Spares {
    pub(super) fn new(most: u32) -> Spares {
        Spares { most, waiting: VecDeque::new(), alive: 0, rest_from: Instant::now(), failures: 0 }
    }

    /// None is left, not even one that is being ended.
    pub(super) fn are_gone(&self) -> bool {
        self.alive == 0
    }

    /// Something more important is going on.
    pub(super) fn hold_off(&mut self) {
        self.rest_from = Instant::now();
    }

    fn due(&self) -> Instant {
        self.rest_from + REST * 2_u32.pow(self.failures.min(DOUBLED))
    }

    fn make(&mut self, flavours: Vec<bool>, binary: &std::path::Path, events: &mpsc::Sender<Event>) -> io::Result<()> {
        let seat = Seat::default();
        let mut command = generation::own_process(binary);
        command.args(["worker", &sys::disguise::renamable(channel::SPARE)]);
        let (events, told) = (events.clone(), Arc::clone(&seat));
        let report = move |event| {
            let (events, seat) = (events.clone(), Arc::clone(&told));
            async move { drop(events.send(Event::Spare(seat, event)).await) }
        };
        let child = Child::spawn(&mut command, (ToWorker::StandBy { flavours }, Vec::new()), report)?;
        self.alive += 1;
        self.waiting.push_back(Spare { child, seat });
        Ok(())
    }

    /// Make a spare the worker that this assignment describes. `None`: there is none that could be.
    pub(super) fn assign(&mut self, id: WorkerId, assignment: &Parcel) -> Option<Child> {
        let (ToWorker::Assign(assign), descriptors) = assignment else { return None };
        if !can_be_given(assign) {
            return None;
        }
        let borrowed: Vec<_> = descriptors.iter().map(|descriptor: &Arc<OwnedFd>| descriptor.as_fd()).collect();
        while let Some(Spare { child, seat }) = self.waiting.pop_front() {
            // Its end may be here and not have been told: it must not become a crash of the service.
            let ended = Stranger::known_by(Arc::clone(&child.pidfd)).ended();
            if !ended && child.channel.send_now(&assignment.0, &borrowed).is_ok_and(|sent| sent) {
                let _ = seat.set(id);
                self.alive -= 1;
                self.failures = 0;
                return Some(child);
            }
            child.kill();
        }
        None
    }

    /// End them all; their ends are told.
    pub(super) fn end(&mut self) {
        self.waiting.drain(..).for_each(|spare| spare.child.kill());
    }
}

/// What a process has from its start, a spare has to be given later.
fn can_be_given(assign: &Assign) -> bool {
    !assign.env.keys().any(|variable| sys::disguise::is_read_at_start(variable))
}

impl Master {
    /// How many spares there should be.
    fn wanted_spares(&self) -> usize {
        if self.phase != Phase::Serving || self.pinner.purpose != Purpose::Production {
            return 0;
        }
        let running = self.services.values().filter(|service| service.runs());
        let workers: usize = running.map(|service| service.pool.limits().size as usize).sum();
        workers.min(self.spares.most as usize)
    }

    /// When the next spare is to be made. `None`: there are enough, or something is going on whose end will be an event.
    pub(super) fn next_spare(&self) -> Option<Instant> {
        let starts = |service: &super::service::Service| {
            let preparing = !matches!(service.preparation, Preparation::Idle);
            preparing || service.pool.workers().any(|(_, worker)| matches!(worker.state, pool::State::Starting { .. }))
        };
        let wanted = self.spares.waiting.len() < self.wanted_spares();
        (wanted && !self.services.values().any(starts)).then(|| self.spares.due())
    }

    /// Make one if it is time, and end those that nobody wants any more.
    pub(super) fn tend_spares(&mut self, now: Instant) {
        if self.wanted_spares() == 0 {
            self.spares.end();
        }
        if self.next_spare().is_none_or(|due| due > now) {
            return;
        }
        self.spares.hold_off();
        let flavours = self.flavours();
        if self.spares.make(flavours, &self.pinner.binary, &self.events).is_err() {
            // The next one that is needed fails, too, and that is told with its reason.
            self.spares.failures += 1;
        }
    }

    /// Of the WASM engine, as the plugins that run need it.
    fn flavours(&self) -> Vec<bool> {
        let generations = self.services.values().flat_map(|service| service.generations.values());
        let flavours = generations.filter_map(|deployable| match &deployable.pinned.plugin {
            Plugin::Wasm(manifest) if !manifest.world.is_program() => Some(manifest.concurrency),
            _ => None,
        });
        flavours.collect::<BTreeSet<bool>>().into_iter().collect()
    }

    /// A spare, or a worker that was one, did something.
    pub(super) fn on_spare(&mut self, seat: &Seat, event: child::Event) {
        if let Some(worker) = seat.get() {
            return self.on_child(*worker, event);
        }
        let own = self.spares.waiting.iter().position(|spare| Arc::ptr_eq(&spare.seat, seat));
        let spare = own.and_then(|place| self.spares.waiting.remove(place));
        match event {
            child::Event::Exited(status) => {
                self.spares.alive -= 1;
                if spare.is_some() {
                    self.spares.failures += 1;
                    self.spares.hold_off();
                }
                if spare.is_some() && self.spares.failures == REMARKABLE {
                    let end = child::describe(status);
                    let reason = format!("{REMARKABLE} spare workers ended before they were used; the last one {end}");
                    self.journal.record(&Fact::Trouble { reason });
                }
            }
            // It has nothing to say.
            child::Event::Said(_) | child::Event::Babbled(_) => {
                if let Some(spare) = spare {
                    self.spares.failures += 1;
                    spare.child.kill();
                }
            }
        }
    }
}

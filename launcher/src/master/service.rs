//! One service in the master: its pool, its generations, and what is being prepared for it.
//!
//! A trigger (start, a changed file, a signal, a new configuration) leads to a *preparation*: the plugin is
//! pinned and verified in a task. What comes out of it becomes a generation and goes to the pool, or changes
//! nothing. One preparation at a time; a trigger that comes meanwhile waits in one place.
//!
//! Nothing is performed here: the master does that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::balance::Seating;
use super::build::{self, BuildError};
use super::dispatch::Dispatcher;
use super::generation::{PinError, Pinned, Pinner};
use super::handover::Pair;
use super::journal::{Fact, Journal, Name};
use super::listeners::Key;
use super::pool::{self, Generation, Pool, Slot, WorkerId};
use super::statistics::{Reader, Statistics};
use super::trigger::{End, Trigger};
use crate::channel::Plugin;
use crate::sys::file::Stamp;
use crate::{api, config};

/// Failures at which a generation is given up before its promotion.
const TRIES: u32 = 3;

/// A service's identity in the master; a service that is removed and added again is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceKey(pub u64);

/// One immutable deployable.
#[derive(Debug)]
pub struct Deployable {
    /// The settings that it was made with.
    pub settings: config::Service,
    /// The plugin.
    pub pinned: Arc<Pinned>,
    /// Where it listens.
    pub listeners: Vec<Key>,
}

/// What is on its way to the workers.
#[derive(Debug)]
pub struct Rollout {
    /// The generation.
    pub generation: Generation,
    /// What led to it.
    pub trigger: Trigger,
}

/// A promotion that is told when the old workers do not accept any more: whoever reads of it and then connects
/// reaches the new generation.
#[derive(Debug)]
pub struct Promotion {
    /// The generation.
    pub generation: Generation,
    /// What led to it; `None`: the return from a generation that crashes.
    pub trigger: Option<Trigger>,
    /// From the trigger to the promotion, milliseconds.
    pub took_ms: u64,
}

/// The preparation in progress, if any.
#[derive(Debug)]
pub enum Preparation {
    /// None.
    Idle,
    /// One.
    Running {
        /// What led to it.
        trigger: Trigger,
        /// A trigger that came meanwhile.
        next: Option<Trigger>,
    },
}

/// Whether a service is to run.
#[derive(Debug)]
pub enum Intent {
    /// It is.
    Run,
    /// An operator stopped it.
    Stop {
        /// What led to it.
        trigger: Option<Trigger>,
        /// It is to run again when its workers are gone.
        then: Option<Trigger>,
    },
    /// It is no longer in the configuration: it goes when its workers are gone.
    Remove,
}

/// Workers that are being replaced or counted anew; somebody may wait for the end of it.
#[derive(Debug)]
pub struct Settling {
    /// What it will have been.
    pub aim: Aim,
    /// What led to it.
    pub trigger: Trigger,
    /// Workers that ended unasked since it began.
    pub failures: u32,
}

/// See [`Settling`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// Every worker was replaced.
    Restarted,
    /// The number of workers is as asked.
    Scaled,
}

/// How the first generation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has not.
    Open,
    /// It served.
    Serving,
    /// It did not.
    Failed {
        /// Why, for people.
        reason: String,
        /// The plugin is at fault, not the attempt to run it.
        unusable: bool,
    },
}

/// What a preparation led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Give this to the pool.
    Deploy(Generation),
    /// The same is serving or on its way already; what else is on its way is abandoned.
    Same(Generation),
}

/// Whether a plugin that is missing is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// At the start: by `build:`, if there is one.
    Build,
    /// Later: an operator who runs a service builds when he wants to.
    Fail,
}

/// Why there is nothing to deploy.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// There is no plugin and it could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The plugin is not usable.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// It cannot be served as the configuration says.
    #[error("{0}")]
    Settings(String),
}

/// One service.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// Its settings as wanted now.
    pub config: config::Service,
    /// Its workers.
    pub pool: Pool,
    /// How its workers pass connections on; without it they close them when they leave.
    pub hand_over: Option<Pair>,
    /// Where its workers see how many connections the others have.
    pub seating: Seating,
    /// Who accepts for its workers, if they do not.
    pub dispatcher: Option<Dispatcher>,
    /// What its workers run or may return to.
    pub generations: BTreeMap<Generation, Deployable>,
    /// What is being prepared.
    pub preparation: Preparation,
    /// What is on its way.
    pub rollout: Option<Rollout>,
    /// What was promoted and is not told yet.
    pub promotion: Option<Promotion>,
    /// How its first generation ended.
    pub outcome: Outcome,
    /// The last thing that went wrong with a worker, in words.
    pub last_failure: Option<String>,
    /// What its workers count, and how they ended.
    pub statistics: Statistics,
    /// Whether it is to run.
    pub intent: Intent,
    /// Its last reload that ended.
    pub last_reload: Option<api::LastReload>,
    /// When what led to what serves was noticed.
    pub changed_since: Option<Instant>,
    /// What its workers are changed to without a new generation.
    pub settling: Vec<Settling>,
    /// The highest that there was.
    pub last_generation: u64,
    /// How the plugin's file looked when it was read last.
    pub seen: Option<Stamp>,
}

impl Service {
    /// A service without workers.
    pub fn new(name: Name, config: config::Service, seed: u64, now: Instant) -> Service {
        let pool = Pool::new(limits(&config), seed, now);
        Service {
            name,
            config,
            pool,
            hand_over: Pair::new().ok(),
            seating: Seating::default(),
            dispatcher: None,
            generations: BTreeMap::new(),
            preparation: Preparation::Idle,
            rollout: None,
            promotion: None,
            outcome: Outcome::Open,
            last_failure: None,
            statistics: Statistics::default(),
            intent: Intent::Run,
            last_reload: None,
            changed_since: None,
            settling: Vec::new(),
            last_generation: 0,
            seen: None,
        }
    }

    /// The same service without generations and workers. Numbers go on.
    pub fn anew(self, seed: u64, now: Instant) -> Service {
        let Service { name, config, intent, last_generation, .. } = self;
        Service { intent, last_generation, ..Service::new(name, config, seed, now) }
    }

    /// It is meant to run.
    pub fn runs(&self) -> bool {
        matches!(self.intent, Intent::Run)
    }

    /// What serves, or what is on its way; `None`: there never was a plugin.
    pub fn plugin(&self) -> Option<&Plugin> {
        let serving = self.pool.serving().and_then(|generation| self.generations.get(&generation));
        serving.or_else(|| self.generations.values().next_back()).map(|deployable| &deployable.pinned.plugin)
    }

    /// It is in the configuration.
    pub fn is_present(&self) -> bool {
        !matches!(self.intent, Intent::Remove)
    }

    /// A pool without workers in place of one that has stopped.
    pub fn renew_pool(&mut self, seed: u64, now: Instant) {
        self.pool = Pool::new(limits(&self.config), seed, now);
        self.generations.clear();
    }

    /// Note a trigger. `true`: a preparation is to be started now.
    pub fn wants_preparation(&mut self, mut trigger: Trigger) -> bool {
        match &mut self.preparation {
            Preparation::Running { next, .. } => {
                if let Some(earlier) = next.take() {
                    trigger.join(earlier);
                }
                *next = Some(trigger);
                false
            }
            idle @ Preparation::Idle => {
                *idle = Preparation::Running { trigger, next: None };
                true
            }
        }
    }

    /// Nothing of it serves or is on its way.
    pub fn has_failed_to_start(&self) -> bool {
        let nothing = self.pool.serving().is_none() && self.pool.incoming().is_none();
        nothing && matches!(self.preparation, Preparation::Idle) && self.outcome != Outcome::Open
    }

    /// What went wrong last, in words.
    pub fn trouble(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Failed { reason, .. } if self.pool.serving().is_none() => Some(reason.clone()),
            _ => self.last_failure.clone(),
        }
    }

    /// Workers that failed, of all slots.
    pub fn failures(&self) -> u64 {
        (0..self.pool.limits().size).map(|slot| u64::from(self.pool.restarts(Slot(slot)))).sum()
    }

    /// Workers that serve.
    pub fn ready(&self) -> usize {
        self.pool.workers().filter(|(_, worker)| worker.state.serves()).count()
    }

    /// Note how a reload ended, and tell those who wait for it.
    pub fn end_reload(&mut self, trigger: Trigger, end: &End) {
        let result = match end.result {
            api::OutcomeResult::Promoted => Some(api::ReloadResult::Promoted),
            api::OutcomeResult::RolledBack => Some(api::ReloadResult::RolledBack),
            _ => None,
        };
        if let Some(result) = result {
            self.last_reload = Some(api::LastReload {
                generation: end.generation.map(|generation| generation.0),
                result,
                reason: end.reason.clone(),
                took_ms: trigger.took_ms(),
                trigger: trigger.why.clone(),
            });
        }
        trigger.end(&self.name, end);
    }

    /// The pinned plugins that a preparation may find again.
    pub fn pinned(&self) -> Vec<Arc<Pinned>> {
        self.generations.values().map(|deployable| Arc::clone(&deployable.pinned)).collect()
    }

    /// Make a generation of what was prepared, unless it is what serves or comes already.
    pub fn decide(&mut self, settings: config::Service, pinned: Arc<Pinned>) -> Decision {
        for generation in self.pool.incoming().into_iter().chain(self.pool.serving()) {
            if let Some(there) = self.generations.get(&generation)
                && there.pinned.hash == pinned.hash
                && same_generation(&there.settings, &settings)
            {
                return Decision::Same(generation);
            }
        }
        self.last_generation += 1;
        let generation = Generation(self.last_generation);
        let listeners = Key::of(&self.name, &settings.listen);
        self.generations.insert(generation, Deployable { settings, pinned, listeners });
        Decision::Deploy(generation)
    }

    /// A preparation failed. `true`: no generation is there to serve.
    pub fn fail_first(&mut self, error: &PrepareError) -> bool {
        let first = self.pool.serving().is_none() && self.pool.incoming().is_none();
        if self.outcome == Outcome::Open && first {
            let unusable = match error {
                PrepareError::Build(_) | PrepareError::Pin(PinError::Unverified { .. }) => false,
                PrepareError::Pin(_) | PrepareError::Settings(_) => true,
            };
            self.outcome = Outcome::Failed { reason: error.to_string(), unusable };
        }
        first
    }

    /// Reads what is counted in the slot of a worker that was not reaped yet. `None`: there is no such worker.
    pub fn statistics_of(&self, worker: WorkerId) -> Option<Reader> {
        self.statistics.of_worker(worker, self.pool.worker(worker)?.slot)
    }

    /// The listeners that must be held: those wanted, and those of the generations that run.
    pub fn wanted_listeners(&self) -> Vec<Key> {
        let wanted = if self.runs() { Key::of(&self.name, &self.config.listen) } else { Vec::new() };
        let running = self.pool.serving().into_iter().chain(self.pool.incoming());
        let running = running.filter(|_| self.runs()).filter_map(|generation| self.generations.get(&generation));
        wanted.into_iter().chain(running.flat_map(|deployable| deployable.listeners.iter().cloned())).collect()
    }
}

/// Make a service's plugin ready to be deployed; `directory` is where `build:` runs.
pub async fn prepare(
    pinner: Pinner,
    journal: Journal,
    service: Name,
    settings: Box<config::Service>,
    directory: PathBuf,
    known: Vec<Arc<Pinned>>,
    missing: Missing,
) -> Result<Arc<Pinned>, PrepareError> {
    if let Some(command) = settings.build.clone()
        && missing == Missing::Build
        && !settings.plugin_path.exists()
    {
        let since = Instant::now();
        journal.record(&Fact::Building { service: service.clone(), command: command.clone() });
        build::run(&command, &directory).await?;
        journal.record(&Fact::Built { service, took_ms: super::milliseconds(since.elapsed()) });
    }
    Ok(pinner.pin(&settings.plugin_path, &settings.plugin, known).await?)
}

/// The pool's share of a service's settings.
pub fn limits(config: &config::Service) -> pool::Limits {
    pool::Limits {
        size: config.workers,
        surge: config.reload.surge,
        ready_timeout: config.reload.ready_timeout,
        drain_timeout: config.drain_timeout,
        probation: config.reload.probation,
        backoff_min: config.restart.backoff_min,
        backoff_max: config.restart.backoff_max,
        budget: config.restart.budget,
        budget_window: config.restart.budget_window,
        reset_after: config.restart.reset_after,
        tries: TRIES,
    }
}

/// Whether two settings differ only in what applies without a new generation.
pub fn same_generation(one: &config::Service, other: &config::Service) -> bool {
    let comparable = |service: &config::Service| config::Service {
        workers: 0,
        build: None,
        reload: other.reload.clone(),
        restart: other.restart.clone(),
        drain_timeout: other.drain_timeout,
        limits: config::Limits { stuck_timeout: other.limits.stuck_timeout, ..service.limits.clone() },
        ..service.clone()
    };
    comparable(one) == comparable(other)
}

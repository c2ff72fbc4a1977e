//! What a master writes down so that another one can go on: the contract between the two, as JSON in the ledger.
//!
//! Region 0 holds [`Launcher`], region N the [`ServiceThen`] of the service with the key N. What is written names
//! descriptors that are kept, which are stored before. [`VERSION`] changes whenever an older master could not read it, or
//! would read something else from it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wasm_host::Purpose;

use super::listeners::Key;
use super::pool;
use super::service::Outcome;
use super::trigger::Trigger;
use crate::channel::Plugin;
use crate::sys::file::Stamp;
use crate::{api, channel, config};

/// Of this contract.
pub(super) const VERSION: u32 = 1;

/// Which programs can go on for one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contracts {
    /// Of the launcher, for people.
    pub launcher: String,
    /// Version of what masters write down for one another.
    pub memory: u32,
    /// [`channel::VERSION`].
    pub channel: u32,
    /// What compiled WASM depends on besides its source.
    #[serde(default)]
    pub compiler: String,
}

impl Contracts {
    /// Of this program.
    pub fn own() -> Contracts {
        Contracts::with(wasm_host::compatibility_hash(Purpose::Production).unwrap_or_default())
    }

    pub(super) fn with(compiler: String) -> Contracts {
        Contracts {
            launcher: env!("CARGO_PKG_VERSION").to_owned(),
            memory: VERSION,
            channel: channel::VERSION,
            compiler,
        }
    }

    /// Why a program with these contracts cannot go on for this one, or the other way round.
    pub fn refuse(&self) -> Result<(), String> {
        let own = Contracts::with(String::new());
        if (self.memory, self.channel) == (own.memory, own.channel) {
            return Ok(());
        }
        Err(format!(
            "launcher {} (memory {}, channel {}) and launcher {} (memory {}, channel {}) cannot go on for one another: \
             stop the one and start the other",
            own.launcher, own.memory, own.channel, self.launcher, self.memory, self.channel
        ))
    }
}

/// What concerns the launcher as a whole.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Launcher {
    pub(super) contracts: Contracts,
    /// The master that wrote it.
    pub(super) pid: u32,
    /// The path by which the launcher was started.
    pub(super) program: PathBuf,
    /// It leaves so that the program at this path takes over.
    pub(super) upgrade: Option<PathBuf>,
    pub(super) config: config::Config,
    /// The log of a daemon.
    pub(super) log: Option<PathBuf>,
    /// Where `/metrics` and the like are served.
    pub(super) admin: Option<String>,
    pub(super) phase: PhaseThen,
    pub(super) strict: bool,
    /// The keys of the services.
    pub(super) services: Vec<u64>,
    pub(super) next_service: u64,
    pub(super) listeners: Vec<ListenerThen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PhaseThen {
    Starting,
    Serving,
    Stopping { code: u8 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ListenerThen {
    pub(super) key: Key,
    pub(super) number: u64,
    pub(super) address: String,
    /// Sockets of further slots.
    #[serde(default)]
    pub(super) more: usize,
}

/// One service.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ServiceThen {
    pub(super) name: String,
    pub(super) config: config::Service,
    pub(super) size: u32,
    pub(super) pool: pool::Snapshot,
    pub(super) workers: Vec<WorkerThen>,
    pub(super) pins: Vec<PinThen>,
    pub(super) generations: Vec<GenerationThen>,
    pub(super) hands_over: bool,
    /// Who sits where in the page of what is open: seat and worker.
    #[serde(default)]
    pub(super) seats: Vec<(usize, u64)>,
    pub(super) preparing: Option<TriggerThen>,
    pub(super) rollout: Option<(u64, TriggerThen)>,
    pub(super) promotion: Option<(u64, Option<TriggerThen>, u64)>,
    pub(super) outcome: Outcome,
    pub(super) last_failure: Option<String>,
    pub(super) slots: Vec<SlotThen>,
    pub(super) intent: IntentThen,
    pub(super) last_reload: Option<api::LastReload>,
    pub(super) changed_since: Option<Moment>,
    pub(super) settling: Vec<SettlingThen>,
    pub(super) last_generation: u64,
    pub(super) seen: Option<Stamp>,
    /// The highest id of a worker and number of something pinned that was given out, to any service.
    pub(super) last_worker: u64,
    pub(super) last_pin: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct WorkerThen {
    pub(super) id: u64,
    pub(super) slot: u32,
    pub(super) generation: u64,
    pub(super) pid: u32,
    pub(super) spawned: Moment,
    pub(super) accepts: bool,
    pub(super) failure: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PinThen {
    pub(super) number: u64,
    pub(super) plugin: Plugin,
    pub(super) hash: String,
    /// What is loaded is the source itself.
    pub(super) same: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct GenerationThen {
    pub(super) number: u64,
    pub(super) settings: config::Service,
    pub(super) pin: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SlotThen {
    pub(super) slot: u32,
    /// Lane and worker.
    pub(super) lanes: Vec<(usize, u64)>,
    pub(super) last_exit: Option<ExitThen>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ExitThen {
    pub(super) reason: String,
    /// As wait(2) gives it.
    pub(super) status: Option<i32>,
    pub(super) at: Moment,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum IntentThen {
    Run,
    Stop { trigger: Option<TriggerThen>, then: Option<TriggerThen> },
    Remove,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SettlingThen {
    pub(super) restart: bool,
    pub(super) trigger: TriggerThen,
    pub(super) failures: u32,
}

/// A trigger. Whoever waited for its end was cut off with the master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct TriggerThen {
    pub(super) why: String,
    pub(super) since: Moment,
}

impl TriggerThen {
    pub(super) fn of(trigger: &Trigger, clock: Clock) -> TriggerThen {
        TriggerThen { why: trigger.why.clone(), since: clock.write(trigger.since) }
    }

    pub(super) fn now(self, clock: Clock) -> Trigger {
        Trigger::noticed(self.why, clock.read(self.since))
    }
}

/// A time, microseconds of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moment(u64);

/// Between instants and moments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// The zero of the machine's clock.
    pub(super) start: Instant,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock { start: crate::sys::notify::clock_start() }
    }

    pub(super) fn write(self, at: Instant) -> Moment {
        Moment(u64::try_from(at.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX))
    }

    pub(super) fn read(self, at: Moment) -> Instant {
        self.start.checked_add(Duration::from_micros(at.0)).unwrap_or(self.start)
    }

    /// Milliseconds that have passed since a number of microseconds of this clock.
    pub(super) fn since_ms(self, microseconds: u64) -> u64 {
        super::milliseconds(self.read(Moment(microseconds)).elapsed())
    }
}

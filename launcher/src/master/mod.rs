//! The master: owns the listeners, keeps every service's workers as its pool wants them, watches the files.
//!
//! One loop: whatever happens becomes an `Event`; `handle` decides with the pools' help and performs; then
//! the next deadline of the pools is the only timer. The master never waits for anything else, never accepts a
//! connection, never runs or compiles a plugin, and makes no system call while nothing happens.
//!
//! - [`pool`]: what the workers of a service should be (pure)
//! - [`service`]: a service's generations and what is being prepared for it
//! - [`generation`], [`cache`], [`build`]: from a file to pinned, verified, loadable bytes
//! - [`balance`]: the page in which workers tell each other what they have open
//! - [`handover`]: the pair through which workers that leave pass their connections on
//! - [`child`], [`output`]: one worker process and what it prints; [`statistics`]: what it counts
//! - [`listeners`]: the sockets; [`watch`]: changes of files; [`journal`]: what is told
//! - `control`, `orders`: whoever steers it, and what it does then; [`trigger`]: why, and who waits for the end
//! - `admin`: `/readyz`, `/metrics` and the like
//! - `scheduling`: who accepts from which socket; [`dispatch`]: accepting for the workers, where that is asked for
//! - `access_logs`: their files
//! - `spares`: processes that can become a worker at once
//! - `kept`, `memory`, `remembering`: what is kept for the next master; `adoption`: going on with it; `keepers`: its keeper
//! - `embedding`: a master within another program, whose process it leaves as it is
//! - `dev`: builds and what is shown of them, in `launcher dev` only
//! - `post`: introducing workers that send messages to each other
//! - `telling`: what plugins tell the operator
//! - [`pulses`]: who is at work and silent; `liveness`: what is done about it
//! - `fitting`: whether a plugin can be served as its service says
//! - `beginning`: a master that starts with nothing
//! - `performing`: actions of the pools; `promoting`: a generation that serves, or will not
//! - `configuring`: a new configuration, as a difference

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::config::{self, Config};

mod access_logs;
mod admin;
mod adoption;
mod announcing;
pub mod balance;
mod beginning;
pub mod build;
pub mod cache;
pub mod child;
mod configuring;
mod control;
mod dev;
pub mod dispatch;
pub mod embedding;
mod fitting;
pub mod generation;
pub mod handover;
pub mod journal;
mod keepers;
mod kept;
pub mod listeners;
mod liveness;
pub mod lock;
mod memory;
mod orders;
pub mod output;
mod performing;
pub mod pool;
mod post;
mod promoting;
pub mod pulses;
mod remembering;
mod running;
mod scheduling;
pub mod service;
mod signals;
mod spares;
mod starter;
pub mod statistics;
mod systemd;
mod telling;
pub mod trigger;
mod upgrading;
pub mod watch;

use crate::keeping::ToKeeper;
use crate::sys::file::Stamp;
use generation::Pinned;
use journal::{Fact, Journal, Name, WorkerName};
use kept::{Keeping, News};
use listeners::Listeners;
use orders::Scale;
use performing::start_output;
use pool::{Generation, Ids, WorkerId};
use pulses::Pulses;
use remembering::Services;
use service::{PrepareError, Service, ServiceKey};
use signals::Signals;
use spares::Spares;
use systemd::Systemd;
use trigger::Trigger;
use watch::Watcher;

pub use adoption::{AdoptError, Legacy};
pub use kept::Inheritance;
pub use memory::Contracts;
pub use running::{develop, go_on, run};
pub use starter::{SERVES, Starter};

/// Stillness of a configuration that is being written, as `reload.settle` is for a plugin.
const CONFIG_SETTLES: Duration = Duration::from_millis(100);

/// Why the launcher could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener.
    #[error("{service}: {source}")]
    Listen {
        /// The service that wants it.
        service: String,
        /// What is wrong.
        source: crate::sys::listener::ListenError,
    },
    /// The control socket.
    #[error("the control socket: {source}")]
    Control {
        /// What is wrong.
        source: crate::sys::listener::ListenError,
    },
    /// The state directory.
    #[error(transparent)]
    Lock(#[from] lock::LockError),
    /// Going on with what another master has left.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// Watching files.
    #[error(transparent)]
    Watch(#[from] watch::WatchError),
    /// The WASM engine.
    #[error("this machine cannot run WASM: {0}")]
    Compiler(String),
    /// Something that every Linux has.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// When a launcher that starts gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// No service could be started.
    Lenient,
    /// Any service could not be started.
    Strict,
}

/// Everything that can happen to the master.
#[derive(Debug)]
enum Event {
    Signal(&'static str),
    Child(WorkerId, child::Event),
    /// Of a spare, or of a worker that was one.
    Spare(spares::Seat, child::Event),
    Prepared {
        service: ServiceKey,
        settings: Box<config::Service>,
        seen: Option<Stamp>,
        result: Result<Arc<Pinned>, PrepareError>,
    },
    ConfigRead(Result<Box<Config>, String>),
    Request(Box<control::Request>),
    Watched(Result<Vec<watch::Report<Watched>>, watch::WatchError>),
    Admin(admin::Question),
    Keeper(News),
    Verified(Box<upgrading::Verified>),
    /// The desk of `launcher dev` wants something.
    Dev(dev::Order),
    /// Whoever waits for a daemon to serve waits no more.
    StarterGone,
    /// Old workers had long enough to say that they do not accept any more.
    PromotionOverdue(ServiceKey, Generation),
    Tick,
}

/// Whose process the master's is.
enum Host {
    /// Its own.
    Launcher {
        /// What is kept for it.
        inheritance: Option<Inheritance>,
        /// The log of a daemon.
        log: Option<PathBuf>,
    },
    /// Another program's.
    Program(Origin),
}

/// Where the configuration in force comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From the file at its path.
    File,
    /// A program has put it together; there is nothing to read again.
    Program,
}

/// A file that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Watched {
    /// The configuration.
    Config,
    /// A service's plugin.
    Plugin(ServiceKey),
}

/// What a new configuration is asked to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    /// What differs in the configuration.
    Configuration,
    /// That, and every plugin's file.
    Everything,
    /// That, and the file of this service's plugin.
    Service(Name),
}

impl Scope {
    /// The plugin's file of that service is looked at.
    fn includes(&self, service: &Name) -> bool {
        match self {
            Scope::Configuration => false,
            Scope::Everything => true,
            Scope::Service(only) => only == service,
        }
    }
}

/// A worker process and its place.
struct Running {
    service: ServiceKey,
    name: WorkerName,
    child: child::Child,
    spawned: Instant,
    /// It may still accept connections.
    accepts: bool,
    /// It was told to leave.
    leaves: bool,
    /// The sockets that it was given after its assignment: number of the listener, and which of it.
    sockets: BTreeSet<(u64, usize)>,
    /// What it said of its own failure.
    failure: Option<String>,
    /// For how long its loop had stood still when it was given up, until that is told.
    stuck: Option<Duration>,
}

/// Whether the launcher is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// First generations are on their way.
    Starting,
    /// Every first generation has served or failed.
    Serving,
    /// Workers leave; then this is the exit code.
    Stopping(u8),
}

struct Master {
    config: Config,
    origin: Origin,
    journal: Journal,
    services: Services,
    workers: BTreeMap<WorkerId, Running>,
    /// Processes that can become one at once.
    spares: Spares,
    /// What their plugins say to each other, as far as it concerns the master.
    post: post::PostOffice,
    /// Workers whose plugins have told the operator something.
    tellers: telling::Tellers,
    /// Those of them that are at work.
    pulses: Pulses,
    listeners: Listeners,
    ids: Ids,
    next_service: u64,
    pinner: generation::Pinner,
    /// Gone if the system took it away.
    watcher: Option<Watcher<Watched>>,
    events: mpsc::Sender<Event>,
    /// Configurations to be read; the first is being read.
    readings: VecDeque<configuring::Reading>,
    /// Events for the pools that performing an action led to.
    follow_ups: VecDeque<(ServiceKey, pool::Event)>,
    phase: Phase,
    /// What a service that cannot be started means.
    strictness: Strictness,
    started: Instant,
    /// Who waits for this daemon to serve.
    starter: Option<starter::Waiting>,
    /// Who manages the launcher, if it wants to be told.
    systemd: Option<Systemd>,
    /// The launcher is `launcher dev`.
    dev: Option<dev::Dev>,
    /// Gone before the lock, so that the socket's path is never another master's.
    control: Option<control::Server>,
    /// Who may not use it.
    roots: Arc<control::Roots>,
    /// The socket of `master.admin`, and its address.
    admin: Option<(Arc<OwnedFd>, String)>,
    /// Who keeps what must outlive this master.
    keeping: Option<Keeping>,
    /// What the keeper has of the launcher's own part.
    remembered: Option<remembering::Summary>,
    /// How workers ended that are not our children.
    fates: Arc<child::Fates>,
    /// Configurations that were in force.
    configurations: u64,
    /// The path by which the launcher was started.
    program: PathBuf,
    /// The log of a daemon.
    log: Option<PathBuf>,
    /// The program that takes over when this master has left.
    upgrade: Option<(PathBuf, Arc<OwnedFd>)>,
    /// The last attempt at it.
    last_upgrade: Option<crate::api::LastUpgrade>,
    lock: lock::Lock,
}

impl Master {
    /// Until the launcher is to end: its exit code. `None`: another program takes over.
    /// `signals`: none are heard where the process is another program's.
    async fn serve(&mut self, mut events: mpsc::Receiver<Event>, mut signals: Option<Signals>) -> Option<u8> {
        loop {
            self.remember();
            let deadline = self.services.values().filter_map(|service| service.pool.next_deadline());
            let deadline = deadline.chain(self.systemd.as_ref().and_then(Systemd::next_deadline));
            let spare = self.next_spare();
            let deadline =
                deadline.chain(self.pulses.next_deadline()).chain(self.tellers.next_deadline()).chain(spare).min();
            let event = tokio::select! {
                // Signals first: whatever floods the queue, the operator is heard.
                biased;
                name = heard(&mut signals) => Event::Signal(name),
                Some(event) = events.recv() => event,
                reports = watched(&mut self.watcher) => Event::Watched(reports),
                news = attend(self.keeping.as_mut()), if self.keeping.is_some() => Event::Keeper(news),
                () = gone(self.starter.as_ref()), if self.starter.is_some() => Event::StarterGone,
                () = until(deadline), if deadline.is_some() => Event::Tick,
            };
            self.handle(event);
            self.follow_up();
            self.tell_rosters();
            self.announce();
            self.inform_systemd();
            self.tend_spares(Instant::now());
            if self.upgrade.is_some() {
                return None;
            }
            if let Phase::Stopping(code) = self.phase
                && self.services.is_empty()
                && self.spares.are_gone()
            {
                self.journal.record(&Fact::Stopped { uptime_s: self.started.elapsed().as_secs() });
                return Some(code);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Signal(name) => {
                self.on_signal(name);
                // What it led to is written down before.
                self.remember();
                self.tell_keeper(ToKeeper::Heard(name.to_owned()));
            }
            Event::Child(worker, event) => self.on_child(worker, event),
            Event::Spare(seat, event) => self.on_spare(&seat, event),
            Event::Prepared { service, settings, seen, result } => {
                self.on_prepared(service, *settings, seen, result);
            }
            Event::ConfigRead(result) => self.on_config(result),
            Event::Request(request) => self.on_request(*request),
            Event::Watched(Ok(reports)) => self.on_watched(reports),
            Event::Watched(Err(error)) => {
                self.watcher = None;
                let reason = format!("{error}; changes are found by SIGHUP only");
                self.journal.record(&Fact::Trouble { reason });
            }
            Event::Admin(question) => self.on_question(question),
            Event::Keeper(news) => self.on_news(news),
            Event::Verified(verified) => self.on_verified(*verified),
            Event::Dev(order) => self.on_dev(order),
            Event::StarterGone => {
                self.starter = None;
                self.stop(1, "`launcher run --daemon` was interrupted", pool::Event::Drain);
            }
            Event::PromotionOverdue(key, generation) => self.tell_promotion(key, Some(generation)),
            Event::Tick => {
                let now = Instant::now();
                let due = self.services.iter().filter(|(_, s)| s.pool.next_deadline().is_some_and(|at| at <= now));
                for key in due.map(|(key, _)| *key).collect::<Vec<_>>() {
                    self.tell_pool(key, pool::Event::Tick);
                }
                self.end_stuck(now);
                self.answer_tellers(now);
            }
        }
    }

    fn on_watched(&mut self, reports: Vec<watch::Report<Watched>>) {
        if matches!(self.phase, Phase::Stopping(_)) {
            return;
        }
        for report in reports {
            match report {
                watch::Report::Changed { key: Watched::Config, .. } => {
                    let trigger = format!("{} changed", self.config.path.display());
                    self.read_config(trigger, Scope::Configuration);
                }
                watch::Report::Changed { key: Watched::Plugin(key), .. } => {
                    let Some(service) = self.services.get(&key) else { continue };
                    let trigger = format!("{} changed", service.config.plugin);
                    self.prepare(key, Trigger::new(trigger), service::Missing::Fail);
                }
                watch::Report::Blind { error, .. } => {
                    self.journal.record(&Fact::Trouble { reason: error.to_string() });
                }
            }
        }
    }

    /// Bring every service down. The exit code is the first one asked for.
    fn stop(&mut self, code: u8, reason: &str, how: pool::Event) {
        if !matches!(self.phase, Phase::Stopping(_)) {
            self.journal.record(&Fact::Stopping { reason: reason.to_owned() });
            self.phase = Phase::Stopping(code);
        }
        for key in self.services.keys().copied().collect::<Vec<_>>() {
            self.end_pool(key, how.clone());
        }
    }

    fn scale_all(&mut self, scale: Scale, why: &str) {
        let running = self.services.iter().filter(|(_, service)| service.runs());
        for key in running.map(|(key, _)| *key).collect::<Vec<_>>() {
            // Refused at the least and the most number of workers: as good as done.
            let _ = self.scale(key, scale, why);
        }
    }

    /// Bring a service down; one that has no workers any more goes at once if it is to go.
    fn end_pool(&mut self, key: ServiceKey, how: pool::Event) {
        if self.services.get(&key).is_some_and(|service| service.pool.status() == pool::Status::Stopped) {
            self.on_stopped(key);
        } else {
            self.tell_pool(key, how);
            self.call_off(key);
        }
    }

    /// For the jitter of a pool: services and launchers must not retry in step.
    fn seed(&self, key: ServiceKey) -> u64 {
        u64::from(std::process::id()) << 32 | key.0
    }

    fn add_service(&mut self, name: Name, config: config::Service) -> ServiceKey {
        self.next_service += 1;
        let key = ServiceKey(self.next_service);
        self.services.insert(key, Service::new(name, config, self.seed(key), Instant::now()));
        key
    }

    fn hold_listeners(&mut self, key: ServiceKey) -> Result<(), crate::sys::listener::ListenError> {
        let Some(service) = self.services.get(&key) else { return Ok(()) };
        let keys = listeners::Key::of(&service.name, &service.config.listen);
        for (listen, key) in service.config.listen.iter().zip(&keys) {
            let (bound, new) = self.listeners.hold(key, &listen.options)?;
            if new {
                self.journal.record(&Fact::Listening {
                    service: service.name.clone(),
                    name: listen.name.clone(),
                    address: bound.address,
                });
            }
        }
        Ok(())
    }

    fn release_listeners(&mut self) {
        let wanted: BTreeSet<_> = self.services.values().flat_map(Service::wanted_listeners).collect();
        self.listeners.retain(&wanted);
    }

    fn watch_files(&mut self) {
        let config = watch::Target { path: self.config.path.clone(), settle: CONFIG_SETTLES };
        let config = (self.origin == Origin::File).then_some((Watched::Config, config));
        let plugins = self.services.iter().filter(|(_, service)| service.config.reload.watch && service.runs());
        let plugins = plugins.map(|(key, service)| {
            let path = service.config.plugin_path.clone();
            (Watched::Plugin(*key), watch::Target { path, settle: service.config.reload.settle })
        });
        let targets = config.into_iter().chain(plugins).collect();
        if let Some(watcher) = &mut self.watcher {
            watcher.set(targets);
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn heard(signals: &mut Option<Signals>) -> &'static str {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

async fn watched(watcher: &mut Option<Watcher<Watched>>) -> Result<Vec<watch::Report<Watched>>, watch::WatchError> {
    match watcher {
        Some(watcher) => watcher.next().await,
        None => std::future::pending().await,
    }
}

async fn gone(starter: Option<&starter::Waiting>) {
    match starter {
        Some(waiting) => waiting.gone().await,
        None => std::future::pending().await,
    }
}

async fn attend(keeping: Option<&mut Keeping>) -> News {
    match keeping {
        Some(keeping) => keeping.attend().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}

//! A master that begins: with nothing but a configuration, or as the frame in which `adoption` puts what another has left.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc};
use wasm_host::Purpose;

use super::journal::{Fact, Journal, Name};
use super::kept::Keeping;
use super::listeners::Listeners;
use super::pool::Ids;
use super::pulses::Pulses;
use super::remembering::Services;
use super::spares::Spares;
use super::trigger::Trigger;
use super::watch::Watcher;
use super::{
    Event, Host, Master, Origin, Phase, StartError, Strictness, cache, control, generation, lock, post, service,
    telling,
};
use crate::config::Config;
use crate::keeping::ToKeeper;

impl Master {
    pub(super) fn start(
        purpose: Purpose,
        config: Config,
        strictness: Strictness,
        journal: Journal,
        events: mpsc::Sender<Event>,
        host: Host,
    ) -> Result<Master, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let (inheritance, log, guest) = match host {
            Host::Launcher { inheritance, log } => (inheritance, log, None),
            Host::Program(origin) => (None, None, Some(origin)),
        };
        let program = inheritance.as_ref().map_or_else(PathBuf::new, |inheritance| inheritance.program.clone());
        let inherited = inheritance.map(Keeping::of).transpose().map_err(system("talk to the keeper"))?;
        let (keeping, inherited) = match inherited {
            Some((keeping, estate, _)) => (Some(keeping), estate.inherited),
            // Nobody keeps for `launcher dev`.
            None => (None, crate::sys::named_descriptors::take()),
        };
        let pid = keeping.as_ref().and_then(Keeping::pid).unwrap_or_else(std::process::id);
        let lock = lock::Lock::take(&config.master.state_dir, &config.path, pid)?;
        let mut master = Master::empty(purpose, config, strictness, journal, events, lock, program)?;
        master.watcher = Some(Watcher::new()?);
        master.roots.add(pid);
        master.keeping = keeping;
        master.listeners.inherit(inherited);
        master.log = log;
        match guest {
            None => master.connect_systemd(),
            // Whether the program is ready is the program's to say.
            Some(origin) => master.origin = origin,
        }
        if let Some(keeping) = &mut master.keeping {
            keeping.tell(ToKeeper::Hears, None);
        }
        master.journal.record(&Fact::Starting {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            config: master.config.path.display().to_string(),
        });
        for (name, service) in master.config.services.clone() {
            let key = master.add_service(Name::from(name.as_str()), service);
            master.hold_listeners(key).map_err(|source| StartError::Listen { service: name, source })?;
        }
        master.serve_admin()?;
        let socket = crate::api::socket(&master.config.master.state_dir);
        let (events, journal) = (master.events.clone(), master.journal.clone());
        let server = control::Server::start(&socket, Arc::clone(&master.roots), events, journal);
        master.control = Some(server.map_err(|source| StartError::Control { source })?);
        master.watch_files();
        if purpose == Purpose::Development {
            master.start_dev().map_err(system("watch sources"))?;
        }
        for key in master.services.keys().copied().collect::<Vec<_>>() {
            match master.awaits_build(key) {
                true => master.await_build(key),
                false => master.prepare(key, Trigger::new("start"), service::Missing::Build),
            }
        }
        Ok(master)
    }

    /// A master without services, which watches nothing.
    pub(super) fn empty(
        purpose: Purpose,
        config: Config,
        strictness: Strictness,
        journal: Journal,
        events: mpsc::Sender<Event>,
        lock: lock::Lock,
        program: PathBuf,
    ) -> Result<Master, StartError> {
        let cache = cache::Cache::open(&config.master.state_dir.join("cache"), config.services.len());
        let cache = cache.inspect_err(|error| journal.record(&Fact::Trouble { reason: error.to_string() })).ok();
        let compiler =
            wasm_host::compatibility_hash(purpose).map_err(|error| StartError::Compiler(error.to_string()))?;
        let parallel = std::thread::available_parallelism().map_or(1, usize::from);
        let pinner = generation::Pinner {
            cache,
            compiler,
            binary: PathBuf::from("/proc/self/exe"),
            permits: Arc::new(Semaphore::new(parallel)),
            numbers: Arc::default(),
            purpose,
        };
        Ok(Master {
            journal,
            services: Services::default(),
            workers: BTreeMap::new(),
            spares: Spares::new(config.master.spare_workers),
            post: post::PostOffice::default(),
            tellers: telling::Tellers::default(),
            pulses: Pulses::default(),
            listeners: Listeners::default(),
            ids: Ids::default(),
            next_service: 0,
            pinner,
            watcher: None,
            events,
            readings: VecDeque::new(),
            control: None,
            follow_ups: VecDeque::new(),
            phase: Phase::Starting,
            strictness,
            started: Instant::now(),
            starter: None,
            systemd: None,
            dev: None,
            roots: Arc::default(),
            admin: None,
            keeping: None,
            remembered: None,
            fates: Arc::default(),
            configurations: 0,
            program,
            log: None,
            upgrade: None,
            last_upgrade: None,
            lock,
            config,
            origin: Origin::File,
        })
    }
}

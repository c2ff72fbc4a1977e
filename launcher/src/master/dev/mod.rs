//! `launcher dev`: builds what the services are made from, again after every save, and tells how that goes.
//!
//! ```text
//! sources ──changes──> Desk ──building──> terminal
//!                       │ ▲
//!      deploy, show ────┘ └──── facts, lines of workers, questions of workers
//!                       ▼
//!                    the master ──> workers ──> browsers
//! ```
//!
//! The desk is a task beside the master. It learns what became of a deployment as everybody does, from the journal, and
//! asks the master for two things: look at a plugin again, and tell a service's workers what to show. The master itself
//! knows no builds; of this mode it knows [`Dev`] alone.
//!
//! - `building`: one run of a build; `sources`, `dep_info`: which files matter to it; `changes`: when they change
//! - `desk`: what follows from what; `cycles`: which line belongs to which save; `words`: what is said about failures
//! - `settings`: what the mode changes in a configuration

mod building;
mod changes;
mod cycles;
mod dep_info;
mod desk;
mod settings;
mod sources;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::journal::{Fact, Name, WorkerName};
use super::listeners::Key;
use super::pool::{self, Generation};
use super::service::{Deployable, Missing, Rollout, ServiceKey};
use super::trigger::Trigger;
use super::{Event, Master};
use crate::channel::{ToWorker, dev as channel};
use crate::config::Config;

pub(super) use settings::adjust;

/// What stands for the generation of a service whose first build has not succeeded.
const AWAITED: Generation = Generation(0);

/// What the master keeps of the mode.
#[derive(Debug)]
pub(super) struct Dev {
    desk: mpsc::UnboundedSender<News>,
    /// What the workers of each service show.
    shown: BTreeMap<Name, channel::Dev>,
}

/// What the desk is told beside what the journal says.
#[derive(Debug)]
enum News {
    /// These services are built.
    Projects(Vec<Project>),
    /// A request was not answered.
    Asked(WorkerName, channel::Asked),
}

/// What the desk wants from the master.
#[derive(Debug)]
pub(super) enum Order {
    /// Look at the plugins of these services; why, and since when.
    Deploy(Vec<Name>, String, Instant),
    /// Have the workers of a service show this.
    Show(Name, channel::Dev),
}

/// A service that is built.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Project {
    service: Name,
    command: String,
    directory: PathBuf,
    artefact: PathBuf,
    /// What the launcher itself reads and writes there.
    excluded: BTreeSet<PathBuf>,
}

impl Dev {
    /// What a new worker of this service shows.
    pub(super) fn shown(&self, service: &Name) -> channel::Dev {
        self.shown.get(service).cloned().unwrap_or_default()
    }
}

impl Master {
    /// Begin to build. The listeners are bound: something answers on them from now on.
    pub(super) fn start_dev(&mut self) -> std::io::Result<()> {
        let (desk, news) = mpsc::unbounded_channel();
        let task = desk::Desk::new(self.journal.clone(), self.events.clone(), news)?;
        self.dev = Some(Dev { desk, shown: BTreeMap::new() });
        tokio::spawn(task.run());
        self.tell_projects();
        Ok(())
    }

    /// Which services are built may have changed.
    pub(super) fn tell_projects(&self) {
        let Some(dev) = &self.dev else { return };
        let directory = self.config.path.parent().unwrap_or(Path::new("/"));
        let excluded = excluded(&self.config);
        let built = self.services.values().filter(|service| service.is_present());
        let projects = built.filter_map(|service| {
            Some(Project {
                service: service.name.clone(),
                command: service.config.build.clone()?,
                directory: directory.to_owned(),
                artefact: service.config.plugin_path.clone(),
                excluded: excluded.clone(),
            })
        });
        // The desk lives as long as the runtime.
        let _ = dev.desk.send(News::Projects(projects.collect()));
    }

    pub(super) fn on_dev(&mut self, order: Order) {
        match order {
            Order::Deploy(services, why, since) => {
                for key in services.iter().filter_map(|name| self.key_of(name)).collect::<Vec<_>>() {
                    self.prepare(key, Trigger::noticed(why.clone(), since), Missing::Fail);
                }
            }
            Order::Show(service, state) => {
                for running in self.workers.values().filter(|running| running.name.service == service) {
                    running.child.send(ToWorker::Dev(Box::new(state.clone())), Vec::new());
                }
                if let Some(dev) = &mut self.dev {
                    dev.shown.insert(service, state);
                }
            }
        }
    }

    pub(super) fn on_request_failed(&self, worker: WorkerName, asked: channel::Asked) {
        if let Some(dev) = &self.dev {
            let _ = dev.desk.send(News::Asked(worker, asked));
        }
    }

    fn key_of(&self, name: &Name) -> Option<ServiceKey> {
        self.services.iter().find(|(_, service)| service.name == *name && service.is_present()).map(|(key, _)| *key)
    }

    /// The service's plugin is still to be built, by the desk: until then its workers say so.
    pub(super) fn awaits_build(&self, key: ServiceKey) -> bool {
        self.dev.is_some()
            && self.services.get(&key).is_some_and(|service| {
                service.config.build.is_some() && service.pool.serving().is_none_or(|serving| serving == AWAITED)
            })
    }

    /// Have workers answer in place of a plugin that is not built.
    pub(super) fn await_build(&mut self, key: ServiceKey) {
        let Some(service) = self.services.get_mut(&key).filter(|service| service.runs()) else { return };
        if service.pool.serving().is_some() || service.pool.incoming().is_some() {
            return;
        }
        let pinned = match self.pinner.awaited() {
            Ok(pinned) => Arc::new(pinned),
            Err(error) => {
                let reason = format!("nothing can answer for {} before it is built: {error}", service.name);
                return self.journal.record(&Fact::Trouble { reason });
            }
        };
        let settings = service.config.clone();
        let listeners = Key::of(&service.name, &settings.listen);
        service.generations.insert(AWAITED, Deployable { settings, pinned, listeners });
        service.rollout = Some(Rollout { generation: AWAITED, trigger: Trigger::new("the first build") });
        self.tell_pool(key, pool::Event::Reload(AWAITED));
    }
}

/// The orders of the desk as an event of the master.
impl From<Order> for Event {
    fn from(order: Order) -> Event {
        Event::Dev(order)
    }
}

fn excluded(config: &Config) -> BTreeSet<PathBuf> {
    let logs = config.services.values().filter_map(|service| service.access_log.as_ref()?.file.clone());
    let master = [config.path.clone(), config.master.state_dir.clone()];
    // What one build makes is no source of another, or two would build each other for ever.
    let plugins = config.services.values().map(|service| service.plugin_path.clone());
    master.into_iter().chain(config.master.log_file.clone()).chain(logs).chain(plugins).collect()
}

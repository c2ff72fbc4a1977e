//! A new configuration is applied as a difference: what it does not touch keeps its workers.
//!
//! Nothing is changed before everything that can be refused was checked: the file, then its new addresses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::control::{Asked, Begun, Reply};
use super::journal::{Fact, Name};
use super::listeners::Key;
use super::orders::settle_as;
use super::pool;
use super::service::{self, Aim, Intent, Missing, ServiceKey};
use super::trigger::Trigger;
use super::{Event, Master, Origin, Phase, Scope, dev};
use crate::api::{Change, ChangeKind, ConfigInForce, Plan, Refusal, RefusalCode};
use crate::config::{self, Config};

/// A configuration that is to be read, and what for.
#[derive(Debug)]
pub(super) struct Reading {
    from: Source,
    purpose: Purpose,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    /// Where the one in force is from when its turn has come.
    InForce,
    /// A program has put it together: it is read already.
    Program(Box<Config>),
}

#[derive(Debug)]
enum Purpose {
    /// To change what differs.
    Apply {
        /// What led to it.
        why: String,
        scope: Scope,
        /// Who waits for the answer.
        asked: Option<Asked>,
    },
    /// To tell what differs.
    Plan(Asked),
}

/// What says that a change of a service is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// Its plugin was looked at, and serves.
    Plugin,
    /// It has as many workers as it should, if nothing else changed.
    Workers,
}

impl Master {
    /// Read the file, then apply what differs.
    pub(super) fn read_config(&mut self, why: String, scope: Scope) {
        self.tell_of_reload();
        self.read(Reading { from: Source::InForce, purpose: Purpose::Apply { why, scope, asked: None } });
    }

    /// The same by somebody's order, and with another file if `path` is given.
    pub(super) fn read_config_for(&mut self, asked: Asked, path: Option<String>, scope: Scope) {
        self.tell_of_reload();
        let from = path.map_or(Source::InForce, |path| Source::File(PathBuf::from(path)));
        let verb = if scope == Scope::Configuration { "apply" } else { "reload" };
        let why = format!("{verb} {}", asked.who);
        self.read(Reading { from, purpose: Purpose::Apply { why, scope, asked: Some(asked) } });
    }

    /// Take over a configuration that the program has put together whose process this is.
    pub(super) fn take_config(&mut self, asked: Asked, config: Box<Config>) {
        let why = format!("apply {}", asked.who);
        let purpose = Purpose::Apply { why, scope: Scope::Configuration, asked: Some(asked) };
        self.read(Reading { from: Source::Program(config), purpose });
    }

    /// Tell somebody what a file would change.
    pub(super) fn plan_config(&mut self, asked: Asked, path: Option<String>) {
        let from = path.map_or(Source::InForce, |path| Source::File(PathBuf::from(path)));
        self.read(Reading { from, purpose: Purpose::Plan(asked) });
    }

    /// Read in a task: names are looked up, and that may take its time. One after the other, so that what was read
    /// later is applied later.
    fn read(&mut self, reading: Reading) {
        self.readings.push_back(reading);
        if self.readings.len() == 1 {
            self.read_next();
        }
    }

    fn read_next(&mut self) {
        let Some(reading) = self.readings.front_mut() else { return };
        if matches!(reading.from, Source::InForce) {
            reading.from = match self.origin {
                Origin::File => Source::File(self.config.path.clone()),
                Origin::Program => Source::Program(Box::new(self.config.clone())),
            };
        }
        let events = self.events.clone();
        let path = match &reading.from {
            Source::File(path) => path.clone(),
            Source::InForce => return,
            Source::Program(config) => {
                let config = config.clone();
                tokio::spawn(async move { drop(events.send(Event::ConfigRead(Ok(config))).await) });
                return;
            }
        };
        tokio::spawn(async move {
            let read = tokio::task::spawn_blocking(move || match path.is_absolute() {
                true => config::load(&path).map_err(|diagnostics| diagnostics.to_string()),
                false => Err(format!("{}: the path is not absolute", path.display())),
            });
            let result = match read.await {
                Ok(result) => result.map(Box::new),
                Err(panic) => Err(format!("it could not be read: {panic}")),
            };
            drop(events.send(Event::ConfigRead(result)).await);
        });
    }

    pub(super) fn on_config(&mut self, result: Result<Box<Config>, String>) {
        let Some(Reading { from, purpose }) = self.readings.pop_front() else { return };
        self.on_reading(from, purpose, result);
        // After it: the next one may be of what is in force.
        self.read_next();
    }

    fn on_reading(&mut self, from: Source, purpose: Purpose, result: Result<Box<Config>, String>) {
        let (path, origin) = match from {
            Source::File(path) => (path, Origin::File),
            Source::Program(config) => (config.path, Origin::Program),
            Source::InForce => (self.config.path.clone(), self.origin),
        };
        let meant = |config: Box<Config>| if self.dev.is_some() { dev::adjust(*config) } else { *config };
        let result = result.map(meant).and_then(|config| self.belongs(&path, config));
        match purpose {
            Purpose::Plan(asked) => {
                let plan = result.map(|config| Reply::Plan(self.plan(&config))).map_err(unusable);
                asked.answer(plan);
            }
            Purpose::Apply { asked, .. } if matches!(self.phase, Phase::Stopping(_)) => {
                if let Some(asked) = asked {
                    let error = "the launcher is stopping".to_owned();
                    asked.answer(Err(Refusal { code: RefusalCode::Stopping, error, suggestion: None }));
                }
            }
            Purpose::Apply { why, scope, asked } => {
                let bound = result.and_then(|config| self.bind_new(&config).map(|facts| (config, facts)));
                match bound {
                    Ok((config, facts)) => {
                        let plan = self.plan(&config);
                        self.origin = origin;
                        facts.iter().for_each(|fact| self.journal.record(fact));
                        let begun = self.apply(config, &why, &scope);
                        if let Some(asked) = asked {
                            asked.answer(Ok(match scope {
                                Scope::Configuration => Reply::Applied(plan, begun),
                                Scope::Everything | Scope::Service(_) => Reply::Begun(begun),
                            }));
                        }
                    }
                    Err(reason) => {
                        self.release_listeners();
                        if let Some(asked) = asked {
                            asked.answer(Err(unusable(reason.clone())));
                        }
                        self.journal.record(&Fact::ConfigRejected { trigger: why, reason });
                    }
                }
            }
        }
    }

    /// Another file is taken only if it is of the same launcher: its state directory says so.
    fn belongs(&self, path: &std::path::Path, config: Config) -> Result<Config, String> {
        let (own, its) = (&self.config.master.state_dir, &config.master.state_dir);
        if *path != self.config.path && own != its {
            let (path, own, its) = (path.display(), own.display(), its.display());
            return Err(format!("{path} is of another launcher: its state directory is {its}, this one's is {own}"));
        }
        Ok(config)
    }

    /// What a configuration would change.
    fn plan(&self, config: &Config) -> Plan {
        let mut changes = Vec::new();
        let mut unchanged = Vec::new();
        let present = self.services.values().filter(|service| service.is_present());
        let present: BTreeMap<&str, &service::Service> = present.map(|service| (&*service.name, service)).collect();
        let mut change = |service: &str, kind, differences| {
            changes.push(Change { service: service.to_owned(), kind, differences });
        };
        for (name, service) in &present {
            match config.services.get(*name) {
                None => change(name, ChangeKind::Removed, Vec::new()),
                Some(wanted) if service.config == *wanted => unchanged.push((*name).to_owned()),
                Some(wanted) => {
                    let same = service::same_generation(&service.config, wanted);
                    let kind = if same { ChangeKind::Adjusted } else { ChangeKind::Replaced };
                    change(name, kind, config::differences(&service.config, wanted));
                }
            }
        }
        for name in config.services.keys().filter(|name| !present.contains_key(name.as_str())) {
            change(name, ChangeKind::Added, Vec::new());
        }
        changes.sort_by(|one, other| one.service.cmp(&other.service));
        let master = config::master_differences(&self.config.master, &config.master);
        Plan { path: config.path.display().to_string(), changes, unchanged, master }
    }

    pub(super) fn config_in_force(&self) -> ConfigInForce {
        ConfigInForce {
            path: self.config.path.display().to_string(),
            services: self.config.services.keys().cloned().collect(),
            text: self.config.warnings.text().to_owned(),
        }
    }

    /// Bind what the new configuration listens on, before anything old is let go. What was bound, to be told.
    fn bind_new(&mut self, config: &Config) -> Result<Vec<Fact>, String> {
        let mut facts = Vec::new();
        for (name, service) in &config.services {
            let keys = Key::of(&Name::from(name.as_str()), &service.listen);
            for (listen, key) in service.listen.iter().zip(&keys) {
                let (bound, new) =
                    self.listeners.adjust(key, &listen.options).map_err(|error| format!("{name}: {error}"))?;
                if new {
                    let (service, name) = (Name::from(name.as_str()), listen.name.clone());
                    facts.push(Fact::Listening { service, name, address: bound.address });
                }
            }
        }
        Ok(facts)
    }

    fn apply(&mut self, config: Config, why: &str, scope: &Scope) -> Vec<Begun> {
        let present: BTreeMap<Name, ServiceKey> = self
            .services
            .iter()
            .filter(|(_, service)| service.is_present())
            .map(|(key, service)| (service.name.clone(), *key))
            .collect();
        let mut changed = Vec::new();
        if config.master != self.config.master {
            changed.push("master (takes effect at the next start)".to_owned());
        }
        let mut prepared = Vec::new();
        for (name, key) in &present {
            match config.services.get(&**name) {
                None => {
                    changed.push(format!("{name} removed"));
                    self.remove_service(*key);
                }
                Some(wanted) => {
                    let size = self.services.get(key).map(|service| service.pool.limits().size);
                    if let Some(how) = self.change_service(*key, wanted) {
                        changed.push(format!("{name} {how}"));
                        let scaled = self.services.get(key).map(|service| service.pool.limits().size) != size;
                        prepared.push((*key, if scaled { Awaited::Workers } else { Awaited::Plugin }));
                    } else if scope.includes(name) {
                        prepared.push((*key, Awaited::Plugin));
                    }
                }
            }
        }
        for (name, service) in &config.services {
            let name: Name = Name::from(name.as_str());
            if !present.contains_key(&name) {
                changed.push(format!("{name} added"));
                self.journal.record(&Fact::ServiceAdded { service: name.clone() });
                prepared.push((self.add_service(name, service.clone()), Awaited::Plugin));
            }
        }
        self.config = config;
        self.configurations += 1;
        self.journal.record(&Fact::ConfigApplied { trigger: why.to_owned(), changed });
        self.watch_files();
        self.tell_projects();
        let mut begun = Vec::new();
        for (key, awaited) in prepared {
            let Some(service) = self.services.get_mut(&key).filter(|service| service.runs()) else { continue };
            let name = service.name.clone();
            let same = service.pool.serving().and_then(|generation| service.generations.get(&generation));
            let same = same.is_some_and(|there| service::same_generation(&there.settings, &service.config));
            let mut trigger = Trigger::new(why);
            if !matches!(scope, Scope::Service(only) if *only != name) {
                begun.push(match awaited {
                    Awaited::Workers if same => settle_as(service, Aim::Scaled, why),
                    _ => Begun { service: name, outcome: trigger.wait() },
                });
            }
            match self.awaits_build(key) {
                true => self.await_build(key),
                false => self.prepare(key, trigger, Missing::Fail),
            }
            self.settle(key);
        }
        self.release_listeners();
        begun
    }

    fn remove_service(&mut self, key: ServiceKey) {
        let Some(service) = self.services.get_mut(&key) else { return };
        service.intent = Intent::Remove;
        self.journal.record(&Fact::ServiceRemoved { service: service.name.clone() });
        self.end_pool(key, pool::Event::Drain);
    }

    /// Take over a service's settings; what changed in them, in words.
    fn change_service(&mut self, key: ServiceKey, wanted: &config::Service) -> Option<String> {
        let service = self.services.get_mut(&key)?;
        if service.config == *wanted {
            // Equal, and perhaps at other lines.
            service.config = wanted.clone();
            return None;
        }
        let was = std::mem::replace(&mut service.config, wanted.clone());
        let limits = service::limits(wanted);
        if limits != service::limits(&was) {
            // A scale by hand or by signal holds until `workers` changes in the file.
            let size = if was.workers == wanted.workers { service.pool.limits().size } else { wanted.workers };
            self.tell_pool(key, pool::Event::Limits(pool::Limits { size, ..limits }));
        }
        let how = match () {
            () if was.workers != wanted.workers && service::same_generation(&was, wanted) => {
                format!("scaled from {} to {}", was.workers, wanted.workers)
            }
            () if was.listen != wanted.listen => "listens elsewhere".to_owned(),
            () if was.plugin_path != wanted.plugin_path => format!("runs {}", wanted.plugin),
            () => "changed".to_owned(),
        };
        Some(how)
    }
}

fn unusable(error: String) -> Refusal {
    Refusal { code: RefusalCode::BadConfiguration, error, suggestion: None }
}

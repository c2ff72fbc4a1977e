//! A new configuration is applied as a difference: what it does not touch keeps its workers.
//!
//! Nothing is changed before everything that can be refused was checked: the file, then its new addresses.

use std::collections::BTreeMap;

use super::journal::{Fact, Name};
use super::listeners::Key;
use super::pool;
use super::service::{self, Missing, ServiceKey};
use super::{Event, Master, Phase, Scope};
use crate::config::{self, Config};

impl Master {
    /// Read the file in a task: names are looked up in it, and that may take its time.
    pub(super) fn read_config(&mut self, trigger: String, scope: Scope) {
        let path = self.config.path.clone();
        let events = self.events.clone();
        tokio::spawn(async move {
            let read = tokio::task::spawn_blocking(move || config::load(&path));
            let result = match read.await {
                Ok(Ok(config)) => Ok(Box::new(config)),
                Ok(Err(diagnostics)) => Err(diagnostics.to_string()),
                Err(panic) => Err(format!("it could not be read: {panic}")),
            };
            drop(events.send(Event::ConfigRead { trigger, scope, result }).await);
        });
    }

    pub(super) fn on_config(&mut self, trigger: String, scope: Scope, result: Result<Config, String>) {
        if matches!(self.phase, Phase::Stopping(_)) {
            return;
        }
        match result.and_then(|config| self.bind_new(&config).map(|facts| (config, facts))) {
            Ok((config, facts)) => {
                facts.iter().for_each(|fact| self.journal.record(fact));
                self.apply(config, trigger, scope);
            }
            Err(reason) => {
                self.release_listeners();
                self.journal.record(&Fact::ConfigRejected { trigger, reason });
            }
        }
    }

    /// Bind what the new configuration listens on, before anything old is let go. What was bound, to be told.
    fn bind_new(&mut self, config: &Config) -> Result<Vec<Fact>, String> {
        let mut facts = Vec::new();
        for (name, service) in &config.services {
            let keys = Key::of(&Name::from(name.as_str()), &service.listen);
            for (listen, key) in service.listen.iter().zip(&keys) {
                let (bound, new) = self.listeners.hold(key).map_err(|error| format!("{name}: {error}"))?;
                if new {
                    let (service, name) = (Name::from(name.as_str()), listen.name.clone());
                    facts.push(Fact::Listening { service, name, address: bound.address });
                }
            }
        }
        Ok(facts)
    }

    fn apply(&mut self, config: Config, trigger: String, scope: Scope) {
        let present: BTreeMap<Name, ServiceKey> = self
            .services
            .iter()
            .filter(|(_, service)| !service.removed)
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
                    if let Some(how) = self.change_service(*key, wanted) {
                        changed.push(format!("{name} {how}"));
                        prepared.push(*key);
                    } else if scope == Scope::Everything {
                        prepared.push(*key);
                    }
                }
            }
        }
        for (name, service) in &config.services {
            let name: Name = Name::from(name.as_str());
            if !present.contains_key(&name) {
                changed.push(format!("{name} added"));
                self.journal.record(&Fact::ServiceAdded { service: name.clone() });
                prepared.push(self.add_service(name, service.clone()));
            }
        }
        self.config = config;
        self.journal.record(&Fact::ConfigApplied { trigger: trigger.clone(), changed });
        self.watch_files();
        for key in prepared {
            self.prepare(key, trigger.clone(), Missing::Fail);
        }
        self.release_listeners();
    }

    fn remove_service(&mut self, key: ServiceKey) {
        let Some(service) = self.services.get_mut(&key) else { return };
        service.removed = true;
        self.journal.record(&Fact::ServiceRemoved { service: service.name.clone() });
        self.tell_pool(key, pool::Event::Drain);
    }

    /// Take over a service's settings; what changed in them, in words.
    fn change_service(&mut self, key: ServiceKey, wanted: &config::Service) -> Option<String> {
        let service = self.services.get_mut(&key)?;
        if service.config == *wanted {
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

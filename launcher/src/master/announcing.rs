//! What is said when the first generations serve, or none does.

use std::sync::Arc;

use super::journal::Fact;
use super::listeners::Listeners;
use super::service::{Outcome, Service};
use super::{Master, Phase, Strictness, listeners, milliseconds, pool};
use crate::keeping::ToKeeper;

impl Master {
    /// Once every first generation has served or failed: say so, or end if nothing serves.
    pub(super) fn announce(&mut self) {
        if self.phase != Phase::Starting || self.services.values().any(|s| s.outcome == Outcome::Open) {
            return;
        }
        let outcomes = self.services.values().map(|service| (service.name.to_string(), &service.outcome));
        let (serving, failed): (Vec<_>, Vec<_>) = outcomes.partition(|(_, outcome)| **outcome == Outcome::Serving);
        if serving.is_empty() || (self.strictness == Strictness::Strict && !failed.is_empty()) {
            // Each reason was told when it came. A plugin that cannot be used is bad configuration.
            let all_unusable = failed.iter().all(|(_, o)| matches!(o, Outcome::Failed { unusable: true, .. }));
            let names: Vec<_> = failed.into_iter().map(|(name, _)| name).collect();
            let reason = format!("{} could not be started", names.join(", "));
            return self.stop(if all_unusable { 2 } else { 1 }, &reason, pool::Event::Drain);
        }
        let names = |list: Vec<(String, &Outcome)>| list.into_iter().map(|(name, _)| name).collect();
        let took_ms = milliseconds(self.started.elapsed());
        let fact = Fact::Serving { services: names(serving), failed: names(failed), took_ms };
        self.phase = Phase::Serving;
        // Before it is told: whoever reads of it may rely on it.
        self.remember();
        self.tell_keeper(ToKeeper::Serves);
        self.journal.record(&fact);
        self.say_what_is_served();
        if let Some(starter) = self.starter.take() {
            if let (Some(keeping), Ok(log)) = (&mut self.keeping, starter.log()) {
                keeping.tell(ToKeeper::Output, Some(Arc::new(log)));
            }
            self.journal.leave_terminal(|| starter.let_go());
        }
    }

    /// The words for a newcomer: what is served where, and a line to try.
    fn say_what_is_served(&mut self) {
        let mut first = None;
        for service in self.services.values().filter(|service| service.outcome == Outcome::Serving) {
            for line in places(service, &self.listeners) {
                self.journal.say(&line);
            }
            let keys = listeners::Key::of(&service.name, &service.config.listen);
            let address = keys.iter().find_map(|key| self.listeners.address(key));
            if let Some(address) = address.filter(|_| speaks_http(service)) {
                first.get_or_insert_with(|| curl(&address));
            }
        }
        if let Some(line) = first {
            self.journal.say(&format!("  try: {line}"));
        }
    }
}

fn speaks_http(service: &Service) -> bool {
    let serving = service.pool.serving().and_then(|generation| service.generations.get(&generation));
    serving.is_some_and(|deployable| !deployable.pinned.plugin.owns_sockets())
}

/// Where a service serves, a line for each place.
pub(super) fn places(service: &Service, listeners: &Listeners) -> Vec<String> {
    let keys = listeners::Key::of(&service.name, &service.config.listen);
    let addresses = keys.iter().filter_map(|key| listeners.address(key));
    let line = |address: String| {
        let workers = match service.config.workers {
            1 => "1 worker".to_owned(),
            several => format!("{several} workers"),
        };
        let place = if speaks_http(service) { place(&address) } else { address };
        format!("  {}  {place}  {workers}  {}", service.name, service.config.plugin)
    };
    addresses.map(line).collect()
}

/// An address as one would type it into a browser.
fn place(address: &str) -> String {
    if address.starts_with("unix:") { address.to_owned() } else { format!("http://{address}/") }
}

fn curl(address: &str) -> String {
    match address.strip_prefix("unix:") {
        Some(path) => match path.strip_prefix('@') {
            Some(name) => format!("curl --abstract-unix-socket {name} http://localhost/"),
            None => format!("curl --unix-socket {path} http://localhost/"),
        },
        None => {
            let address = address.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
            format!("curl http://{address}/")
        }
    }
}

//! What differs between two configurations, in words for people. Values of `env` and `config` are not shown: they may
//! be secrets.

use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::time::Duration;

use super::{Address, Listen, ListenOptions, Master, Service};

/// The keys in which two services differ, as `workers: 2 -> 4`.
pub fn differences(was: &Service, is: &Service) -> Vec<String> {
    let mut found = Found(Vec::new());
    found.shown("plugin", &was.plugin, &is.plugin);
    if was.plugin == is.plugin {
        // The file moved to another directory, and its relative paths with it.
        found.shown("plugin", &was.plugin_path.display().to_string(), &is.plugin_path.display().to_string());
    }
    found.optional("build", was.build.as_ref(), is.build.as_ref());
    found.shown("listen", &places(&was.listen), &places(&is.listen));
    found.shown("workers", &was.workers, &is.workers);
    let names: BTreeSet<_> = was.env.keys().chain(is.env.keys()).collect();
    for name in names {
        found.secret(&format!("env.{name}"), was.env.get(name), is.env.get(name));
    }
    found.secret("config", Some(&was.config), Some(&is.config));
    found.named("balance", &was.balance, &is.balance);
    found.shown("scheduling", &was.scheduling.word(), &is.scheduling.word());
    found.named("forwarded", &was.forwarded, &is.forwarded);
    found.shown("reload.watch", &was.reload.watch, &is.reload.watch);
    found.shown("reload.surge", &was.reload.surge, &is.reload.surge);
    found.time("reload.ready_timeout", was.reload.ready_timeout, is.reload.ready_timeout);
    found.time("reload.probation", was.reload.probation, is.reload.probation);
    found.time("reload.settle", was.reload.settle, is.reload.settle);
    found.time("restart.backoff (shortest)", was.restart.backoff_min, is.restart.backoff_min);
    found.time("restart.backoff (longest)", was.restart.backoff_max, is.restart.backoff_max);
    found.shown("restart.budget", &was.restart.budget, &is.restart.budget);
    found.time("restart.budget (window)", was.restart.budget_window, is.restart.budget_window);
    found.time("restart.reset_after", was.restart.reset_after, is.restart.reset_after);
    found.time("stop.drain_timeout", was.drain_timeout, is.drain_timeout);
    found.optional("limits.memory", was.limits.memory.as_ref(), is.limits.memory.as_ref());
    found.time("limits.request_timeout", was.limits.request_timeout, is.limits.request_timeout);
    found.time("limits.idle_timeout", was.limits.idle_timeout, is.limits.idle_timeout);
    found.shown("limits.connections", &was.limits.connections, &is.limits.connections);
    found.shown("limits.max_requests", &was.limits.max_requests, &is.limits.max_requests);
    found.time("limits.max_lifetime", was.limits.max_lifetime, is.limits.max_lifetime);
    found.time("limits.stuck_timeout", was.limits.stuck_timeout, is.limits.stuck_timeout);
    found.shown("wasm.memory", &was.wasm.memory, &is.wasm.memory);
    found.time("wasm.cpu_time", was.wasm.cpu_time, is.wasm.cpu_time);
    found.optional("wasm.reuse", was.wasm.reuse.as_ref(), is.wasm.reuse.as_ref());
    found.secret("wasm.dirs", Some(&was.wasm.dirs), Some(&is.wasm.dirs));
    found.secret("wasm.network", Some(&was.wasm.network), Some(&is.wasm.network));
    found.secret("user", was.user.as_ref(), is.user.as_ref());
    if found.0.is_empty() && was != is {
        found.0.push("settings: changed".to_owned());
    }
    found.0
}

/// The keys in which two `master:` sections differ.
pub fn master_differences(was: &Master, is: &Master) -> Vec<String> {
    let mut found = Found(Vec::new());
    found.shown("master.state_dir", &was.state_dir.display(), &is.state_dir.display());
    found.optional("master.admin", was.admin.as_ref(), is.admin.as_ref());
    found.shown("master.spare_workers", &was.spare_workers, &is.spare_workers);
    let same = Master { state_dir: is.state_dir.clone(), admin: is.admin, ..was.clone() };
    let rest = Master { spare_workers: is.spare_workers, ..same };
    if rest != *is {
        found.0.push("master.log: changed".to_owned());
    }
    found.0
}

struct Found(Vec<String>);

impl Found {
    fn shown(&mut self, key: &str, was: &impl Display, is: &impl Display) {
        let (was, is) = (was.to_string(), is.to_string());
        if was != is {
            self.0.push(format!("{key}: {was} -> {is}"));
        }
    }

    fn optional<T: Display + PartialEq>(&mut self, key: &str, was: Option<&T>, is: Option<&T>) {
        let text = |value: Option<&T>| value.map_or_else(|| "none".to_owned(), T::to_string);
        self.shown(key, &text(was), &text(is));
    }

    /// A word of the configuration, which is the name of the value in lower case.
    fn named(&mut self, key: &str, was: &impl Debug, is: &impl Debug) {
        self.shown(key, &format!("{was:?}").to_lowercase(), &format!("{is:?}").to_lowercase());
    }

    fn time(&mut self, key: &str, was: Duration, is: Duration) {
        self.shown(key, &humantime::format_duration(was), &humantime::format_duration(is));
    }

    fn secret<T: PartialEq>(&mut self, key: &str, was: Option<&T>, is: Option<&T>) {
        match (was, is) {
            (None, Some(_)) => self.0.push(format!("{key}: added")),
            (Some(_), None) => self.0.push(format!("{key}: removed")),
            (was, is) if was != is => self.0.push(format!("{key}: changed")),
            _ => {}
        }
    }
}

fn places(listen: &[Listen]) -> String {
    let place = |listen: &Listen| {
        let place = match &listen.address {
            Address::Tcp(address) => address.to_string(),
            Address::Udp(address) => format!("udp://{address}"),
            Address::Unix { path, .. } => format!("unix:{}", path.display()),
            Address::Abstract(name) => format!("unix:@{name}"),
            Address::Inherited(name) => format!("fd://{name}"),
        };
        let mode = match &listen.address {
            Address::Unix { mode, .. } => mode.map(|mode| format!("mode={mode:04o}")),
            _ => None,
        };
        let ListenOptions { backlog, ipv6_only, nodelay } = listen.options;
        let backlog = backlog.map(|backlog| format!("backlog={backlog}"));
        let ipv6_only = ipv6_only.map(|ipv6_only| format!("ipv6_only={ipv6_only}"));
        let nodelay = nodelay.map(|nodelay| format!("nodelay={nodelay}"));
        let options: Vec<String> = [mode, backlog, ipv6_only, nodelay].into_iter().flatten().collect();
        let place = if options.is_empty() { place } else { format!("{place}?{}", options.join("&")) };
        if listen.proxy_protocol { place + " (PROXY protocol)" } else { place }
    };
    listen.iter().map(place).collect::<Vec<_>>().join(", ")
}

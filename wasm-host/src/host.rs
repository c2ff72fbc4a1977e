//! What one store holds, and how a store is made: the sandbox.
//!
//! A [`Sandbox`] is what the configuration grants; each of its stores starts from nothing but that.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::ResourceTable;
use wasmtime::{Engine, ResourceLimiter, Store};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::epoch::{Meter, Ticker};
use crate::error::PluginError;
use crate::messages::{Outbox, Post};
use crate::network::Network;
use crate::outgoing::Outgoing;
use crate::output::{Lines, Output, Stream};
use crate::ready::Ready;
use crate::sockets::{Given, Observer, Sockets};
use crate::{Dir, Settings, Variables};

/// Elements of all tables of one instance (16 bytes each on the host at most).
const TABLE_ELEMENTS: usize = 4_000_000;

/// The data of a store.
pub(crate) struct Host {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    variables: Arc<WasiConfigVariables>,
    limits: Limits,
    meter: Arc<Meter>,
    sockets: Arc<Sockets>,
    outbox: Option<Arc<Outbox>>,
}

impl Host {
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    pub(crate) fn network(&self) -> &Arc<Network> {
        self.outgoing.network()
    }

    /// What a program's sockets are made of.
    pub(crate) fn own_sockets(&mut self) -> (&Arc<Sockets>, &mut ResourceTable) {
        (&self.sockets, &mut self.table)
    }

    /// The worker's post office.
    pub(crate) fn outbox(&mut self) -> (Option<&Arc<Outbox>>, &mut ResourceTable) {
        (self.outbox.as_ref(), &mut self.table)
    }

    pub(crate) fn variables(&self) -> &WasiConfigVariables {
        &self.variables
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outgoing }
    }
}

/// What a worker has for its guests.
pub struct Surroundings {
    /// Where the lines go that they print.
    pub output: Output,
    /// Where their messages go and come from; without it they can reach nobody.
    pub post: Option<Arc<dyn Post>>,
    /// Runs first in the thread that ends endless loops. That thread uses no descriptor.
    pub on_thread: fn(),
    /// What was made for them before they were known, if anything was. A program has no use for it.
    pub ready: Ready,
}

/// Everything that the guests of a worker are granted.
pub(crate) struct Sandbox {
    env: Vec<(String, String)>,
    variables: Arc<WasiConfigVariables>,
    dirs: Vec<Dir>,
    outgoing: Outgoing,
    output: Output,
    memory: usize,
    cpu_time: Duration,
    sockets: Arc<Sockets>,
    /// What a program finds as its name; a guest that is called has none.
    name: Option<String>,
    outbox: Option<Arc<Outbox>>,
}

impl Sandbox {
    /// Fails if a directory cannot be opened.
    pub(crate) fn new(
        settings: &Settings,
        env: &Variables,
        config: &serde_json::Value,
        output: Output,
    ) -> Result<Sandbox, PluginError> {
        for dir in &settings.dirs {
            std::fs::read_dir(&dir.host).map_err(|source| PluginError::Dir { dir: dir.host.clone(), source })?;
        }
        let network = Arc::new(Network::new(&settings.network));
        Ok(Sandbox {
            sockets: Sockets::none(Arc::clone(&network), Arc::clone(&output)),
            name: None,
            outbox: None,
            env: env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            variables: Arc::new(variables(config)),
            dirs: settings.dirs.clone(),
            outgoing: Outgoing::new(network),
            output,
            memory: usize::try_from(settings.memory).unwrap_or(usize::MAX),
            cpu_time: settings.cpu_time,
        })
    }

    /// A sandbox of a program, which has a name and owns sockets.
    pub(crate) fn of_program(
        mut self,
        name: String,
        given: Vec<Given>,
        connections: usize,
        observer: Box<dyn Observer>,
    ) -> Sandbox {
        let (network, output) = (Arc::clone(self.outgoing.network()), Arc::clone(&self.output));
        self.sockets = Sockets::new(given, connections, network, observer, output);
        self.name = Some(name);
        self
    }

    /// A sandbox whose guests send and receive messages.
    pub(crate) fn with_post(self, post: Option<Arc<dyn Post>>) -> Sandbox {
        Sandbox { outbox: post.map(|post| Arc::new(Outbox::new(post))), ..self }
    }

    pub(crate) fn sockets(&self) -> &Arc<Sockets> {
        &self.sockets
    }

    /// A store that no guest has touched.
    pub(crate) fn store(&self, engine: &Engine, ticker: &Arc<Ticker>) -> wasmtime::Result<Store<Host>> {
        let mut wasi = WasiCtx::builder();
        wasi.envs(&self.env)
            .stdout(Lines::new(Stream::Stdout, &self.output))
            .stderr(Lines::new(Stream::Stderr, &self.output));
        if let Some(name) = &self.name {
            wasi.arg(name);
        }
        for dir in &self.dirs {
            let perms = if dir.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            wasi.preopened_dir(&dir.host, &dir.guest, perms)?;
        }
        let network = Arc::clone(self.outgoing.network());
        if !network.is_empty() {
            // Names are checked by the linker's own look-up functions.
            wasi.allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true);
            wasi.socket_addr_check(move |address, usage| {
                let network = Arc::clone(&network);
                Box::pin(async move { network.permits(address, usage).await })
            });
        }
        let meter = Arc::new(Meter::new(self.cpu_time));
        let host = Host {
            table: ResourceTable::new(),
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            outgoing: self.outgoing.clone(),
            variables: Arc::clone(&self.variables),
            limits: Limits { memory: self.memory, memory_used: 0, elements_used: 0 },
            meter,
            sockets: Arc::clone(&self.sockets),
            outbox: self.outbox.clone(),
        };
        let mut store = Store::new(engine, host);
        store.limiter(|host| &mut host.limits);
        store.set_epoch_deadline(1);
        let ticker = Arc::clone(ticker);
        store.epoch_deadline_callback(move |store| {
            // The guest goes on, with or without yielding: the ticker has to go on as well.
            ticker.touch();
            Ok(store.data().meter.deadline())
        });
        Ok(store)
    }
}

/// `wasi:config/store` of a service's `config:`.
fn variables(config: &serde_json::Value) -> WasiConfigVariables {
    pairs(config).collect()
}

/// The top level of an object; strings as they are, everything else as JSON text. A configuration that is no object
/// has no names to ask for.
fn pairs(config: &serde_json::Value) -> impl Iterator<Item = (String, String)> {
    config.as_object().into_iter().flatten().map(|(name, value)| match value {
        serde_json::Value::String(text) => (name.clone(), text.clone()),
        other => (name.clone(), other.to_string()),
    })
}

/// What an instance may allocate. A refusal makes the guest's `memory.grow` return −1.
struct Limits {
    memory: usize,
    memory_used: usize,
    elements_used: usize,
}

/// Grants growth of something from `current` to `desired` as long as the sum stays within `limit`.
fn grow(used: &mut usize, current: usize, desired: usize, maximum: Option<usize>, limit: usize) -> bool {
    if maximum.is_some_and(|maximum| desired > maximum) {
        return false;
    }
    let wanted = used.saturating_sub(current).saturating_add(desired);
    let granted = wanted <= limit;
    if granted {
        *used = wanted;
    }
    granted
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(grow(&mut self.memory_used, current, desired, maximum, self.memory))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(grow(&mut self.elements_used, current, desired, maximum, TABLE_ELEMENTS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_share_one_limit() {
        let mut limits = Limits { memory: 100, memory_used: 0, elements_used: 0 };
        let mut ask = |current, desired| limits.memory_growing(current, desired, None).expect("no trap");
        assert!(ask(0, 40), "first memory");
        assert!(ask(0, 40), "second memory");
        assert!(!ask(40, 61), "beyond the sum");
        assert!(ask(40, 60), "up to the sum");
        assert!(!ask(0, 1), "nothing left");
    }

    #[test]
    fn configuration_becomes_names_and_texts() {
        let config = serde_json::json!({"a": "text", "b": 3, "c": true, "d": null, "e": {"f": [1]}});
        let found: Vec<_> = pairs(&config).collect();
        let expected = [("a", "text"), ("b", "3"), ("c", "true"), ("d", "null"), ("e", "{\"f\":[1]}")];
        let expected: Vec<_> = expected.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        assert_eq!(found, expected);
        assert_eq!(pairs(&serde_json::json!([1, 2])).count(), 0);
    }
}

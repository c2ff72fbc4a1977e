//! A loaded component that is a program: it exports `wasi:cli/run`, runs for as long as its worker and owns its sockets.
//!
//! One instance, in the caller's task. It is computing or waiting at every moment; when it waits, has been told to drain
//! and no connection is open, its work is done: there is no signal in WASI by which it could be asked to end.

use std::fs::File;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures::task::AtomicWaker;
use wasmtime::component::{Accessor, InstancePre};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{I32Exit, p2, p3};

use crate::engine::Allocation;
use crate::epoch::{Ticker, metered_poll};
use crate::error::{PluginError, chain};
use crate::guest::{deserialize, failure};
use crate::host::{Host, Sandbox, Surroundings};
use crate::linker::linker;
use crate::sockets::{Given, Observer, Sockets};
use crate::{Manifest, Settings, Variables, World};

/// A program that can be run once.
pub struct Program {
    engine: Engine,
    entry: Entry,
    sandbox: Sandbox,
    ticker: Arc<Ticker>,
    control: Control,
}

enum Entry {
    Command02(p2::bindings::CommandPre<Host>),
    Command03(p3::bindings::CommandPre<Host>),
}

/// A hold on a program that runs.
#[derive(Clone)]
pub struct Control {
    sockets: Arc<Sockets>,
    waker: Arc<AtomicWaker>,
}

impl Program {
    /// Loads what [`compile`](crate::compile()) made, as [`HttpGuest::load`](crate::HttpGuest::load) does and with its
    /// requirements. `name` is the program's own (its first argument), `given` the sockets that it may bind,
    /// `connections` how many accepted ones may be open at once. Needs a tokio runtime.
    #[expect(clippy::too_many_arguments, reason = "each is another kind of thing, given once")]
    pub fn load(
        compiled: File,
        manifest: &Manifest,
        settings: &Settings,
        env: &Variables,
        config: &serde_json::Value,
        surroundings: Surroundings,
        name: String,
        given: Vec<Given>,
        connections: usize,
        observer: Box<dyn Observer>,
    ) -> Result<Program, PluginError> {
        let Surroundings { output, post, on_thread, .. } = surroundings;
        let sandbox = Sandbox::new(settings, env, config, output)?.with_post(post);
        let sandbox = sandbox.of_program(name, given, connections, observer);
        // One instance: a pool for it would only take address space.
        let (engine, component) = deserialize(&compiled, manifest, Allocation::OnDemand)?;
        let refused = |error: wasmtime::Error| PluginError::Load { detail: chain(&error) };
        let linker = linker(&engine, manifest.concurrency, manifest.world).map_err(refused)?;
        let pre: InstancePre<Host> = linker.instantiate_pre(&component).map_err(refused)?;
        let entry = match manifest.world {
            World::Command02 => Entry::Command02(p2::bindings::CommandPre::new(pre).map_err(refused)?),
            World::Command03 => Entry::Command03(p3::bindings::CommandPre::new(pre).map_err(refused)?),
            World::Http02 | World::Http03 => return Err(PluginError::NotProgram { world: manifest.world }),
        };
        let ticker = Ticker::new(&engine, on_thread)
            .map_err(|error| PluginError::Engine { detail: format!("cannot start a thread: {error}") })?;
        let control = Control { sockets: Arc::clone(sandbox.sockets()), waker: Arc::default() };
        Ok(Program { engine, entry, sandbox, ticker: Arc::new(ticker), control })
    }

    /// A hold on it while it runs.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Runs it until it has nothing left to do after it was told to [drain](Control::drain). An error is how it ended
    /// otherwise, for a person: a program serves until it is told.
    pub async fn run(self) -> Result<(), String> {
        let mut store = self
            .sandbox
            .store(&self.engine, &self.ticker)
            .map_err(|error| format!("cannot set up the sandbox: {}", chain(&error)))?;
        let meter = Arc::clone(store.data().meter());
        let mut life = pin!(live(&self.entry, &mut store));
        let ended = poll_fn(|cx| {
            self.control.waker.register(cx.waker());
            let (poll, waits) = metered_poll(&meter, &self.ticker, || life.as_mut().poll(cx));
            match poll {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending if waits && self.control.sockets.is_done() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        match ended {
            None => Ok(()),
            Some(_) if self.control.sockets.is_done() => Ok(()),
            Some(Ok(Ok(()))) => Err("the program returned although nobody told it to end".to_owned()),
            Some(Ok(Err(()))) => Err("the program returned an error".to_owned()),
            Some(Err(error)) => Err(match error.downcast_ref::<I32Exit>() {
                Some(exit) => format!("the program called exit({}) although nobody told it to end", exit.0),
                None => failure(&meter, &error).reason,
            }),
        }
    }
}

/// The program's own life, from its instantiation to the end of `run`.
async fn live(entry: &Entry, store: &mut Store<Host>) -> wasmtime::Result<Result<(), ()>> {
    match entry {
        Entry::Command02(pre) => {
            let command = pre.instantiate_async(&mut *store).await?;
            command.wasi_cli_run().call_run(&mut *store).await
        }
        Entry::Command03(pre) => {
            let command = pre.instantiate_async(&mut *store).await?;
            let run = store.run_concurrent(async |store: &Accessor<Host>| command.wasi_cli_run().call_run(store).await);
            run.await?
        }
    }
}

impl Control {
    /// Waits until the program uses every socket that it was given.
    pub async fn serves(&self) {
        self.sockets.all_used().await;
    }

    /// Addresses that the program does not use yet.
    pub fn unused(&self) -> Vec<SocketAddr> {
        self.sockets.unused()
    }

    /// Nothing comes to it any more; what it has, it goes on with.
    pub fn drain(&self) {
        self.sockets.drain();
        self.waker.wake();
    }

    /// Looks at the queues of its listeners once more.
    pub fn nudge(&self) {
        self.sockets.nudge();
    }
}

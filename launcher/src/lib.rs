//! Runs WASM components and native plugins as supervised, hot-restarting worker processes, within a program of your own.
//!
//! [`Launcher`] is what `launcher run` is, without its process: the program owns the sockets, starts a worker process for
//! each slot of a service, watches the plugins, and replaces workers without losing a connection. Workers are processes of
//! *this program*, so [`worker_entry`] is the first call of its `main`:
//!
//! ```no_run
//! use launcher::facts::{Fact, What};
//! use launcher::{Configuration, Launcher, Service};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     launcher::worker_entry();
//!
//!     let hello = Service::new("plugins/hello.wat").listen("127.0.0.1:8080").workers(2);
//!     let launcher = Launcher::start(&Configuration::new().service("hello", hello))?;
//!     let mut events = launcher.events();
//!     launcher.serving().wait()?;
//!
//!     launcher.scale("hello", 4).wait()?;
//!     while let Some(event) = events.wait_next() {
//!         if let What::Fact(Fact::Exited { worker, expected: false, .. }) = &event.what {
//!             println!("lost worker {} of {}", worker.worker.0, worker.service);
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! - [`Configuration`] and [`Service`]: what to run; or a file, with [`Launcher::start_file`]
//! - [`Launcher`]: orders, whose [`Answer`] is a future for any executor, or waited for by a thread
//! - [`Launcher::send`]: messages for plugins, to one worker or all of a service ([`Receiver`])
//! - [`Events`]: what happens, as typed [`facts`], and what workers write
//! - [`api`]: what is said about services and workers; the control socket in the state directory says the same
//! - [`Heap`]: the allocator that serving requests is fastest with, if the program wants it
//!
//! # What becomes of the process
//!
//! The launcher works on threads of its own and leaves the rest to the program: no signal is handled that somebody
//! sends, no child but its own is waited for, no descriptor is changed, nothing is written to standard output or error
//! (but by a `build:` command), systemd is told nothing. wasmtime puts its handlers for faults of the processor before
//! the program's own, and passes on what is not its own.
//!
//! No other process keeps anything: if the program dies, its workers finish what is in flight and leave. A worker leads a
//! process group of its own, which is killed with it; what it starts and what leaves that group is init's, while
//! `launcher run` looks after it. A program that reaps every child (`waitpid(-1)`) takes the workers' exit statuses away
//! from the launcher, which notices the ends all the same.
//!
//! Everything else in this crate serves the program `launcher` and may change at any time.

// Master and worker never call each other: they are different processes. `tests/imports.rs` says who may name whom.

// Every message between master and worker, and the descriptors that travel with it.
#[doc(hidden)]
pub mod channel;
// The file as written becomes the configuration as meant, or diagnostics.
#[doc(hidden)]
pub mod config;
// The first process, which starts the master and holds what must outlive it.
#[doc(hidden)]
pub mod keeper;
// What keeper and master say to each other.
#[doc(hidden)]
pub mod keeping;
// The loop that keeps every service's workers as its pool wants them.
#[doc(hidden)]
pub mod master;
// What a plugin's bytes say that it is, without executing them.
#[doc(hidden)]
pub mod plugin_file;
// One file for each mechanism of the operating system.
#[doc(hidden)]
pub mod sys;
// A worker's life, its HTTP side and the kinds of plugin.
#[doc(hidden)]
pub mod worker;

pub mod api;
mod embedded;

pub use embedded::{Answer, Configuration, ConfigurationError, Events, Launcher, Service, StartError};
pub use master::embedding::{Receiver, Serving};
pub use sys::heap::Heap;

/// What a launcher tells: the vocabulary of its log and of its events.
pub mod facts {
    pub use crate::master::journal::record::{Line, Record, What};
    pub use crate::master::journal::{Body, Fact, Level, Name, Stream, WorkerName};
    pub use crate::master::pool::{Generation, Slot, WorkerId};
}

/// Be a worker, if that is what this process was started for: then this does not return. Otherwise it does nothing.
///
/// The first call of `main`, before a thread is started or a file opened: a worker closes every descriptor that is open
/// then, because what a process inherits by mistake would pin ports and pipes. A process is a worker if its first two
/// arguments are `launcher worker` and its standard input is a channel to a master, so the program's own arguments mean
/// what they meant.
pub fn worker_entry() {
    let mut arguments = std::env::args_os();
    let is_worker = arguments.next().is_some_and(|name| name == "launcher")
        && arguments.next().is_some_and(|verb| verb == "worker")
        && sys::stdio::is_channel();
    if is_worker {
        // Where it is not possible, nothing is known that should be closed.
        let _ = sys::process::close_inherited();
        std::process::exit(worker::main().into());
    }
}

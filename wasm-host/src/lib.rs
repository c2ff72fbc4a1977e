//! The WASM half of a launcher worker: engine, sandbox, linker and `wasi:http` calls.
//!
//! It is a crate of its own because the linker monomorphises for minutes otherwise.
//!
//! Flows:
//! - *Verify* (a child process): [`compile()`] turns a component's bytes into a [`Manifest`] and machine code, or a
//!   [`PluginError`] that says what is wrong. [`describe()`] does the part that needs no compiler.
//! - *Load* (a worker): [`HttpGuest::load`] maps the machine code and [`HttpGuest::warm`] starts a first instance.
//! - *Call*: [`HttpGuest::handle`] runs the guest in the caller's task and returns the response as soon as the guest
//!   sets its head; the [`GuestBody`] runs the guest on while it is read.
//! - *Run*: [`Program::load`] and [`Program::run`] for a component that is a program and owns its sockets.
//!
//! Which file owns what: `engine` the configuration, `linker` the imports, `host` a store's data and the sandbox,
//! `network` and `outgoing` the way out, `output` the guest's stdout and stderr, `epoch` the limit of computing,
//! `gate` the number of instances, `http02` and `http03` the two protocols of a call, `command` and `sockets` programs,
//! `messages` what components say to each other.
//!
//! This crate opens no listening socket, reads no configuration file and writes no log.

mod command;
mod compile;
mod componentise;
mod describe;
mod engine;
mod epoch;
mod error;
mod gate;
mod guest;
mod host;
mod http02;
mod http03;
mod linker;
pub mod messages;
mod network;
mod outgoing;
mod output;
mod ready;
mod settings;
mod sockets;

pub use command::{Control, Program};
pub use compile::compile;
pub use describe::{Description, REUSABLE, describe};
pub use engine::compatibility_hash;
pub use error::{CallFailure, PluginError};
pub use guest::{GuestBody, HttpGuest};
pub use host::Surroundings;
pub use output::{LINE, Output, Stream};
pub use ready::Ready;
pub use settings::{Dir, Endpoint, Manifest, Purpose, Settings, Variables, World};
pub use sockets::{Accept, Given, Inherited, Observer};

//! Runs WASM components and native plugins as supervised, hot-restarting worker processes.
//!
//! `launcher run config.yaml` is one *master*, which owns every listening socket, and its *workers*: processes of
//! the same binary that each load one plugin and serve on the sockets that they were given.
//!
//! - [`config`]: the file as written becomes the configuration as meant, or diagnostics
//! - [`keeper`]: the first process, which starts the master and holds what must outlive it; [`keeping`]: what the two say
//! - [`master`]: the loop that keeps every service's workers as its pool wants them
//! - [`api`]: what the master and whoever steers it say to each other
//! - [`channel`]: every message between master and worker, and the descriptors that travel with it
//! - [`worker`]: a worker's life, its HTTP side and the kinds of plugin
//! - [`plugin_file`]: what a plugin's bytes say that it is, without executing them
//! - [`sys`]: one file for each mechanism of the operating system
//!
//! Listeners and generations belong to the master, every fact of a worker's life to its pool, pids and channels to
//! the master's child, plugin code and connections to the worker. Master and worker never call each other.

pub mod api;
pub mod channel;
pub mod config;
pub mod keeper;
pub mod keeping;
pub mod master;
pub mod plugin_file;
pub mod sys;
pub mod worker;

#[global_allocator]
static HEAP: sys::heap::Heap = sys::heap::Heap;

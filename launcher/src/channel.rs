//! Every message between the master and a worker, its framing, and the descriptors that travel with it.
//!
//! The channel is one `SOCK_SEQPACKET` socketpair a worker: one packet is one JSON object
//! `{"v":1,"type":…}`, and descriptors ride on the packet that they belong to (`SCM_RIGHTS`, unix(7)).
//! A payload that does not fit a packet travels in a sealed memfd that is the first descriptor of its packet.
//!
//! This module does not decide anything: [`crate::master`] and [`crate::worker`] do.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Version of the message set. Master and worker are one binary except across an upgrade of the master.
pub const VERSION: u32 = 1;

/// What the master tells a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// Become a worker of a service. Descriptors: [`Assign::plugin`]'s, then one for each of [`Assign::listeners`].
    Assign(Box<Assign>),
    /// Check a plugin without executing it and, for WASM, compile it.
    /// Descriptors: the source, then a writable memfd for the compiled form.
    Verify {
        /// The path as the operator wrote it, for messages.
        path: String,
    },
    /// Stop accepting, finish what is in flight, exit 0. The deadline is the master's.
    Drain,
    /// Look at the listeners once more: a worker that died may have swallowed a wake-up.
    Nudge,
}

/// What a worker tells the master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToMaster {
    /// The process runs and reads its channel.
    Hello,
    /// The plugin is loaded and the listeners are armed: the last thing that a starting worker says.
    Ready,
    /// The worker cannot serve and is about to exit; `reason` is for a person.
    Failed {
        /// What happened, to what, and what to do.
        reason: String,
    },
    /// Answer to [`ToWorker::Verify`]: the plugin is good. For WASM the memfd holds the compiled form.
    Verified {
        /// What the plugin is.
        plugin: Plugin,
    },
}

/// What a plugin is, as read from its bytes without executing them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plugin {
    /// A WASM component. Descriptors of an [`Assign`]: the compiled form.
    Wasm(wasm_host::Manifest),
    /// A native shared library. Descriptors of an [`Assign`]: the library.
    Native,
}

/// Everything that a worker needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assign {
    /// Name of the service.
    pub service: String,
    /// Id of the worker, never reused by its master.
    pub worker: u64,
    /// Place among the service's workers, `0..workers`; a replacement inherits it.
    pub slot: u32,
    /// Generation of the service that this worker runs.
    pub generation: u64,
    /// What the plugin is.
    pub plugin: Plugin,
    /// The plugin's path as the operator wrote it, for messages.
    pub plugin_path: String,
    /// The listening sockets, in the order of their descriptors.
    pub listeners: Vec<Listener>,
    /// Environment for the plugin: exactly this.
    pub env: BTreeMap<String, String>,
    /// The service's `config:`.
    pub config: serde_json::Value,
    /// HTTP limits.
    pub limits: Limits,
    /// What a WASM guest may use.
    pub wasm: wasm_host::Settings,
    /// How long a drain may take before the master kills the worker.
    pub drain_timeout: Duration,
    /// User to become before the plugin is loaded: uid, gid and supplementary groups.
    pub identity: Option<Identity>,
}

/// Who a worker becomes before it loads the plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// One listening socket, as told to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    /// Name from the configuration, or its address.
    pub name: String,
    /// `127.0.0.1:8080`, `[::1]:8080` or `unix:/path`.
    pub address: String,
}

/// Limits of a worker's HTTP side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// From the end of the request's head to the response's head: 504 after it.
    pub request_timeout: Duration,
    /// Without progress in either direction, a transfer or an idle kept-alive connection ends after it.
    pub idle_timeout: Duration,
    /// Open connections of one worker; above it the worker stops accepting and the queue stays in the kernel.
    pub connections: u32,
    /// Requests after which a worker is replaced gracefully; 0: never.
    pub max_requests: u64,
    /// Age at which a worker is replaced gracefully; zero: never.
    pub max_lifetime: Duration,
}

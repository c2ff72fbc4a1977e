//! The message set: everything that a master and a worker tell each other.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasm_host::World;

use super::{balance, dev, post, statistics};
pub use crate::sys::socket_kind::Kind as SocketKind;

/// What the master tells a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// Become a worker of a service. Descriptors: [`Assign::plugin`]'s, the page of [`Assign::statistics`], one for each of
    /// [`Assign::listeners`], the access log's if that goes to a file, then, with [`Assign::takes_over`], the receiving
    /// end of the service's hand-over, then, with [`Assign::balance`], its page.
    Assign(Box<Assign>),
    /// Make ready what a worker needs whatever it will serve, and wait for [`ToWorker::Assign`].
    StandBy {
        /// Flavours of the WASM engine that may be needed ([`wasm_host::Manifest::concurrency`]).
        flavours: Vec<bool>,
    },
    /// Check a plugin without executing it and, for WASM, compile it.
    /// Descriptors: the source, then a writable memfd for the compiled form.
    Verify {
        /// The path as the operator wrote it, for messages.
        path: String,
        /// Compile for [`wasm_host::Purpose::Development`].
        #[serde(default)]
        purpose: wasm_host::Purpose,
    },
    /// Stop accepting, finish what is in flight, exit 0. The deadline is the master's. A second one replaces the first, and
    /// is answered by [`ToMaster::NotAccepting`] as the first was.
    Drain {
        /// Other workers of the service that serve on. With any, connections are handed over to them instead of being
        /// closed. Descriptor: the sending end of the service's hand-over.
        #[serde(default)]
        successors: u32,
    },
    /// Write the access log to this descriptor from now on: the file was moved away. Descriptor: the new file.
    ReopenAccessLog,
    /// Say again what you have said of yourself: the master that heard it is gone.
    Repeat,
    /// Look at the listeners once more: a worker that died may have swallowed a wake-up.
    Nudge,
    /// Who serves a service that the worker follows. `None`: there is no such service.
    Roster {
        /// Its name.
        service: String,
        /// A worker for each slot that is served.
        members: Option<Vec<post::Member>>,
    },
    /// A link to another worker. Descriptor: this worker's end.
    Link(post::Peer),
    /// There is no link to that worker: it is gone, or one of the two does not read its channel.
    NoLink {
        /// Its id.
        worker: u64,
    },
    /// An operator's message for the plugin, to be answered by [`ToMaster::Posted`].
    Post {
        /// Its number.
        post: u64,
        /// JSON.
        message: String,
    },
    /// The plugin's messages for the operator ([`ToMaster::Message`]) up to this number are among the events.
    Heard {
        /// The number after the last of them.
        until: u64,
    },
    /// Accept on this one, too. Descriptor: the socket.
    Listen {
        /// How it is known: as one of [`Assign::listeners`].
        listener: Listener,
    },
    /// Take the connections that the master offers, too ([`super::offers`]). Descriptor: the worker's end of the pair.
    Offers,
    /// In `launcher dev`: what to show to a browser from now on.
    Dev(Box<dev::Dev>),
}

/// What a worker tells the master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToMaster {
    /// The plugin is loaded and the listeners are armed: the last thing that a starting worker says.
    Ready,
    /// The worker cannot serve and is about to exit; `reason` is for a person.
    Failed {
        /// What happened, to what, and what to do.
        reason: String,
    },
    /// The worker does not accept connections any more, as it was told.
    NotAccepting,
    /// The worker wants to be replaced: it serves on until its replacement is ready.
    Recycle {
        /// Which limit it reached, in words.
        reason: String,
    },
    /// Its loop turns again after a second's rest. From now on it is expected to say so once a second.
    Busy,
    /// Its loop still turns.
    Beat,
    /// Its loop has rested for a second.
    Idle,
    /// It was asked where it is, and ends: the frames of its main thread, the innermost first.
    Stuck {
        /// `#0 function+0x10 (file+0x1234)`.
        frames: Vec<String>,
    },
    /// It dies of a signal, and serves nobody any more: its connections are gone. Telling where takes it a while.
    Dying {
        /// The signal's number.
        signal: i32,
    },
    /// It wants to know who serves a service, now and from now on.
    Follow {
        /// Its name.
        service: String,
    },
    /// It wants a link to another worker.
    Introduce {
        /// Its id.
        worker: u64,
    },
    /// What became of [`ToWorker::Post`].
    Posted {
        /// Its number.
        post: u64,
        /// What became of it.
        fate: post::Fate,
    },
    /// A message of the plugin's for the operator, to be answered by [`ToWorker::Heard`]: at most
    /// [`post::OPERATOR_WINDOW`] without an answer.
    Message {
        /// Its number among this worker's, from 0.
        number: u64,
        /// JSON ([`post::read_for_operator`]).
        message: String,
    },
    /// In `launcher dev`: a request was not answered by the plugin.
    RequestFailed(dev::Asked),
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
    /// One that owns its sockets; likewise.
    NativeSocket,
    /// In `launcher dev`: none yet, the first build has not succeeded. Descriptors of an [`Assign`]: something empty.
    Awaited,
}

impl Plugin {
    /// It is given the listening sockets; otherwise the worker speaks HTTP for it.
    pub fn owns_sockets(&self) -> bool {
        match self {
            Plugin::Wasm(manifest) => matches!(manifest.world, World::Command02 | World::Command03),
            Plugin::NativeSocket => true,
            Plugin::Native | Plugin::Awaited => false,
        }
    }

    /// Its worker sees connections begin and end.
    pub fn connections_are_counted(&self) -> bool {
        *self != Plugin::NativeSocket
    }

    /// Its worker sees requests.
    pub fn requests_are_counted(&self) -> bool {
        !self.owns_sockets()
    }
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
    /// Where it counts in the page of its slot.
    pub statistics: statistics::Place,
    /// The listening sockets, in the order of their descriptors.
    pub listeners: Vec<Listener>,
    /// The service's `env:` and who the worker is. A WASM guest sees exactly this; a native plugin sees it in the
    /// environment of its process, on top of what the launcher was started with.
    pub env: BTreeMap<String, String>,
    /// The service's `config:`.
    pub config: serde_json::Value,
    /// Whether the plugin is told the client's address in headers.
    pub forwarded: Forwarded,
    /// Whether and where requests are told.
    #[serde(default)]
    pub access_log: Option<AccessLog>,
    /// Limits of the process and of its HTTP side.
    pub limits: Limits,
    /// What a WASM guest may use.
    pub wasm: wasm_host::Settings,
    /// How long a drain may take before the master kills the worker.
    pub drain_timeout: Duration,
    /// User to become before the plugin is loaded: uid, gid and supplementary groups.
    pub identity: Option<Identity>,
    /// The worker takes over connections of workers that leave.
    #[serde(default)]
    pub takes_over: bool,
    /// Connections go to the worker that has the fewest: its seat among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<balance::Place>,
    /// The listeners are names alone: what to accept on comes by [`ToWorker::Listen`] or [`ToWorker::Offers`] once the worker
    /// is ready.
    #[serde(default)]
    pub sockets_later: bool,
    /// The launcher is `launcher dev`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Box<dev::Dev>>,
}

/// What happens to the headers that name a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forwarded {
    /// They pass as they come.
    Off,
    /// They are set; what the client sent is dropped.
    Set,
    /// The client's address is appended to what came.
    Append,
}

/// The access log of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLog {
    /// How a line looks.
    pub format: AccessFormat,
    /// Where it goes.
    pub to: AccessTo,
}

/// How a line of the access log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessFormat {
    /// An object.
    Json,
    /// As Apache's and nginx's `combined`.
    Combined,
}

/// Where an access log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessTo {
    /// The worker's standard output.
    Output,
    /// A file, whose descriptor comes with the assignment.
    File,
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
    /// `127.0.0.1:8080`, `[::1]:8080`, `udp://127.0.0.1:53`, `unix:/path` or `unix:@name`.
    pub address: String,
    /// Whoever connects is a proxy, which says first whose the connection is.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// What it is.
    #[serde(default)]
    pub kind: SocketKind,
    /// `TCP_NODELAY` of accepted connections, if the configuration says so.
    #[serde(default)]
    pub nodelay: Option<bool>,
}

/// Limits of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Resident bytes of the process at which it asks to be replaced; `None`: unlimited.
    pub memory: Option<u64>,
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

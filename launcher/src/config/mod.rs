//! The configuration: `config.yaml` as written becomes the configuration as meant, or diagnostics.
//!
//! What later code receives needs no further checks. The types of this file are "as meant"; the file as
//! written and its positions live in the submodules. Nothing of the crate is imported here.
//!
//! Flow: [`load`] reads the file, `written` parses it to a tree that knows its positions, `variables` expands
//! `${…}`, `service` and `document` read the tree through `reader`, which holds every mapping against `grammar`;
//! what is wrong is collected as [`Diagnostics`]. Reading changes nothing on the system.

mod access_log;
mod built;
mod diagnostics;
mod difference;
mod document;
mod grammar;
mod identity;
mod kind;
mod listen;
mod places;
mod reader;
mod reference;
mod schema;
mod service;
mod taken;
#[cfg(test)]
mod tests;
mod units;
mod variables;
mod written;

pub use built::built;
pub use diagnostics::{Diagnostic, Diagnostics, Severity, meant};
pub use difference::{differences, master_differences};
pub use document::{load, load_master, load_text};
pub use kind::{At, HttpKeys, PluginKind};
pub use reference::reference;
pub use schema::schema;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Most workers of a service.
pub const MAX_WORKERS: u32 = 1024;

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The file, absolute.
    pub path: PathBuf,
    /// At least one, by name, in the order of the names.
    pub services: BTreeMap<String, Service>,
    /// What concerns the master alone.
    pub master: Master,
    /// What is probably not meant as it is written; nothing of it stands in the way. It holds the file's text: to see
    /// whether a change of the file means anything, compare `services` and `master`.
    pub warnings: Diagnostics,
}

/// One entry under `services:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// The plugin as written, for messages.
    pub plugin: String,
    /// The plugin, absolute (relative paths are relative to the file); symlinks are not resolved.
    pub plugin_path: PathBuf,
    /// Shell command that makes the plugin, run in the directory of the file.
    pub build: Option<String>,
    /// Where to listen, in the order written; at least one.
    pub listen: Vec<Listen>,
    /// Number of workers, at least 1.
    pub workers: u32,
    /// Environment of the plugin.
    pub env: BTreeMap<String, String>,
    /// Handed to the plugin.
    pub config: serde_json::Value,
    /// How connections spread over workers.
    pub balance: Balance,
    /// Who accepts connections.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// Whether the plugin is told the client's address in headers.
    pub forwarded: Forwarded,
    /// Whether and where requests are told.
    pub access_log: Option<AccessLog>,
    /// How a change is rolled out.
    pub reload: Reload,
    /// How crashes are answered.
    pub restart: Restart,
    /// `stop.drain_timeout`.
    pub drain_timeout: Duration,
    /// HTTP limits and recycling.
    pub limits: Limits,
    /// The sandbox of a WASM plugin.
    pub wasm: Wasm,
    /// User and group that workers become.
    pub user: Option<Identity>,
    /// The keys that were given and mean something for plugins that answer HTTP only.
    #[serde(default)]
    pub http_keys: HttpKeys,
}

/// A place to listen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// The name under which a plugin finds it; the address as written unless given.
    pub name: String,
    /// Where.
    pub address: Address,
    /// Whoever connects is a proxy, which says first whose the connection is.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// What stands behind the `?` of the address.
    #[serde(default)]
    pub options: ListenOptions,
    /// Where the address is written.
    #[serde(default)]
    pub at: At,
}

/// A listening address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Address {
    /// `HOST:PORT` or `tcp://HOST:PORT`, resolved when the file was read. `[::]` stands for all interfaces of
    /// IPv6 *and* IPv4 (`IPV6_V6ONLY` off, ipv6(7)) unless [`ListenOptions::ipv6_only`] says otherwise.
    Tcp(SocketAddr),
    /// `udp://HOST:PORT`, likewise.
    Udp(SocketAddr),
    /// `unix:/path?mode=0660`.
    Unix {
        /// Absolute path of the socket.
        path: PathBuf,
        /// Permission bits of the socket; `None`: as the umask leaves them.
        mode: Option<u32>,
    },
    /// `unix:@name`: a name in the abstract namespace (unix(7)), without the `@`.
    Abstract(String),
    /// `fd://NAME`: a socket that the launcher is started with (sd_listen_fds(3)).
    Inherited(String),
}

/// How a place is listened on; what is `None` is left as the launcher does it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenOptions {
    /// `backlog`: connections that may wait in the kernel, which clamps it to `net.core.somaxconn`; that unless given.
    pub backlog: Option<u32>,
    /// `ipv6_only`: whether `[::]` leaves IPv4 to others (`IPV6_V6ONLY`, ipv6(7)); `false` unless given.
    pub ipv6_only: Option<bool>,
    /// `nodelay`: `TCP_NODELAY` of accepted connections; on for HTTP and as the system has it for others unless given.
    pub nodelay: Option<bool>,
}

/// `balance:`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Balance {
    /// Rotating exclusive accept.
    #[default]
    Requests,
    /// The same, and who has too many more than the least loaded stands aside.
    Connections,
}

/// `scheduling:`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Scheduling {
    /// Every worker, from one queue.
    #[default]
    Shared,
    /// Every worker, each from a queue of its own among which the kernel chooses (`SO_REUSEPORT`, socket(7)).
    Reuseport,
    /// The master, which passes each to the next worker.
    RoundRobin,
}

impl Scheduling {
    /// As written.
    pub fn word(self) -> &'static str {
        match self {
            Scheduling::Shared => "shared",
            Scheduling::Reuseport => "reuseport",
            Scheduling::RoundRobin => "round_robin",
        }
    }
}

/// `forwarded:`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Forwarded {
    /// Headers pass as they come.
    #[default]
    Off,
    /// Set; what the client sent is dropped.
    Set,
    /// Appended to what came: whoever connects is a proxy that is trusted.
    Append,
}

/// `access_log:`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLog {
    /// How a line looks.
    pub format: AccessFormat,
    /// Absolute; `None`: the worker's standard output.
    pub file: Option<PathBuf>,
}

/// `access_log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessFormat {
    /// One object a line.
    Json,
    /// As Apache and nginx write it.
    Combined,
}

/// `reload:`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reload {
    /// Watch the plugin's file.
    pub watch: bool,
    /// Workers beyond `workers` while generations change, at least 1.
    pub surge: u32,
    /// From exec to ready.
    pub ready_timeout: Duration,
    /// After a promotion: how long crashes roll back.
    pub probation: Duration,
    /// Stillness that a file in change must show.
    pub settle: Duration,
}

/// `restart:`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// First delay (the very first retry is immediate).
    pub backoff_min: Duration,
    /// Longest delay.
    pub backoff_max: Duration,
    /// Crashes allowed …
    pub budget: u32,
    /// … within this sliding window.
    pub budget_window: Duration,
    /// A worker that was ready this long clears the count.
    pub reset_after: Duration,
}

/// `limits:`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of one worker process; `None`: unlimited.
    pub memory: Option<u64>,
    /// To the response's head.
    pub request_timeout: Duration,
    /// Without progress.
    pub idle_timeout: Duration,
    /// Open connections of one worker.
    pub connections: u32,
    /// 0: never.
    pub max_requests: u64,
    /// Zero: never.
    pub max_lifetime: Duration,
    /// Of a loop that stands still; zero: never.
    pub stuck_timeout: Duration,
}

/// `wasm:`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wasm {
    /// Bytes of one instance's linear memory.
    pub memory: u64,
    /// Computing without yielding.
    pub cpu_time: Duration,
    /// Requests an instance serves; `None`: auto.
    pub reuse: Option<u32>,
    /// Preopened directories: (host, absolute; guest; writable).
    pub dirs: Vec<(PathBuf, String, bool)>,
    /// Allowed peers: (host, port).
    pub network: Vec<(String, u16)>,
}

/// `user:` and `group:`, looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// `master:`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Master {
    /// Where the cache, the lock and the control socket live.
    pub state_dir: PathBuf,
    /// `admin`: where metrics, health and the status page are served; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// Processes that wait to become workers, at most. None if a program that knew of none wrote it down.
    #[serde(default)]
    pub spare_workers: u32,
    /// `log.format`
    pub log_format: LogFormat,
    /// `log.level`: a `tracing` level name.
    pub log_level: String,
    /// `log.file`, absolute.
    pub log_file: Option<PathBuf>,
    /// `log.max_size`, bytes.
    pub log_max_size: u64,
    /// `log.keep`, at least 1.
    pub log_keep: u32,
}

impl Master {
    /// A log at this path that is rotated as `log` says.
    pub fn rotated(&self, path: PathBuf) -> LogFile {
        LogFile { path, max_size: self.log_max_size, keep: self.log_keep }
    }
}

/// A log that is rotated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    /// Absolute.
    pub path: PathBuf,
    /// Bytes at which it is renamed.
    pub max_size: u64,
    /// Renamed files that are kept, at least 1.
    pub keep: u32,
}

/// `master.log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One object a line.
    Json,
}

//! The control API: what the master and whoever steers it say to each other, as JSON over HTTP/1.1 on a Unix socket
//! in the state directory.
//!
//! The types here are the contract: the master writes them, the command line reads them, and the description that
//! the master serves (`/openapi.json`) is made from them. Fields are only ever added.
//!
//! It moves no bytes: the server is in the master, the client in the command line.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The control socket of the master that owns `state_dir`. The path may be longer than the 107 bytes that an
/// address of unix(7) holds.
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Everything about a running launcher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version of the master.
    pub version: String,
    /// Process id of the master.
    pub pid: u32,
    /// Process id of the keeper, which starts another master when this one dies, and is the process to be signalled; `null`:
    /// systemd or nobody keeps.
    #[serde(default)]
    pub keeper: Option<u32>,
    /// Seconds since the master started.
    pub uptime_s: f64,
    /// The configuration file, absolute.
    pub config: String,
    /// The last attempt to let another program take over; `null`: there was none since this master started.
    #[serde(default)]
    pub upgrade: Option<LastUpgrade>,
    /// Every service, by name.
    pub services: Vec<Service>,
}

/// An attempt to let another program take over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LastUpgrade {
    /// Its path.
    pub program: String,
    /// How it ended, or that it goes on.
    pub result: UpgradeResult,
    /// Why it failed, in words.
    pub reason: Option<String>,
}

/// What became of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeResult {
    /// The program has taken over; workers of the one before are being replaced.
    Replacing,
    /// So are its workers.
    Done,
    /// It has not; everything is as it was.
    Failed,
}

/// `POST /v1/upgrade`: which program. None: the one at the path by which the launcher was started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upgrade {
    /// Absolute path.
    pub path: Option<String>,
}

/// A program that is taking over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Upgrading {
    /// Its path.
    pub program: String,
    /// Its version.
    pub version: String,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Service {
    /// Its name in the configuration.
    pub name: String,
    /// What its plugin does.
    pub kind: Kind,
    /// The plugin's path as written in the configuration.
    pub plugin: String,
    /// The generation that serves; `null` before the first one did.
    pub generation: Option<u64>,
    /// The generation that a rollback returns to, if there is one.
    pub previous: Option<u64>,
    /// The service in one word.
    pub state: State,
    /// Why it is degraded or failed, in words.
    pub reason: Option<String>,
    /// Where it listens: `127.0.0.1:8080`, `[::1]:8080`, `unix:/path`.
    pub listeners: Vec<String>,
    /// Workers that should serve.
    pub wanted: u32,
    /// Workers that have not been reaped, by slot.
    pub workers: Vec<Worker>,
    /// The last attempt to change what the service runs; `null`: it runs what it was started with.
    pub last_reload: Option<LastReload>,
}

/// What a plugin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Answers requests.
    Http,
    /// Owns the listening socket.
    Socket,
    /// Any program.
    Command,
}

/// A service in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its first generation is on its way.
    Starting,
    /// Every worker is ready.
    Serving,
    /// Every worker is ready and a new generation is on its way.
    Reloading,
    /// Some workers are missing.
    Degraded,
    /// No worker is ready, and they keep crashing.
    Failed,
    /// It was stopped by an operator, or leaves the configuration.
    Stopped,
}

/// One worker process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Worker {
    /// Never reused by its master.
    pub id: u64,
    /// Place among the workers, from 0; a replacement inherits it.
    pub slot: u32,
    /// Process id.
    pub pid: u32,
    /// What it runs.
    pub generation: u64,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Seconds since it was spawned.
    pub uptime_s: f64,
    /// Workers of its slot that crashed or never became ready, since the master started.
    pub restarts: u32,
    /// Proportional set size, bytes; `null` if the system does not tell.
    pub pss_bytes: Option<u64>,
    /// Processor time used, seconds; `null` if the system does not tell.
    pub cpu_s: Option<f64>,
    /// Connections open now; `null`: a native plugin owns the sockets, and nobody counts.
    pub connections: Option<u64>,
    /// Connections accepted in its slot since the service started; a crash does not reset it. `null`: likewise.
    pub accepted: Option<u64>,
    /// Requests begun in its slot since the service started; a crash does not reset it. `null`: the plugin owns the
    /// sockets, and what comes over them need not be requests.
    pub requests: Option<u64>,
    /// How the worker before it in its slot ended.
    pub last_exit: Option<Exit>,
}

/// Where a worker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Not serving yet.
    Starting,
    /// Serving.
    Ready,
    /// Finishing what is in flight, or killed and not reaped yet.
    Draining,
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Exit {
    /// In words.
    pub reason: String,
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// Signal, if one ended it.
    pub signal: Option<i32>,
    /// Seconds since then.
    pub ago_s: f64,
}

/// An attempt to change what a service runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LastReload {
    /// The generation that it was about; `null` if the plugin or the settings were refused before there was one.
    pub generation: Option<u64>,
    /// How it ended.
    pub result: ReloadResult,
    /// Why it was rolled back, in words.
    pub reason: Option<String>,
    /// Milliseconds from the trigger to the end.
    pub took_ms: u64,
    /// What asked for it: a file, a signal, somebody.
    pub trigger: String,
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReloadResult {
    /// The new generation serves.
    Promoted,
    /// It does not; what served before serves on.
    RolledBack,
}

/// A worker with the name of its service, as `GET /v1/workers` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceWorker {
    /// The service.
    pub service: String,
    /// The worker.
    #[serde(flatten)]
    pub worker: Worker,
}

/// What became of an order, for each service that it was about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Outcomes {
    /// One for each service, by name.
    pub outcomes: Vec<Outcome>,
}

/// What became of an order for one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// The service.
    pub service: String,
    /// How it ended, or that it was begun if nobody waited.
    pub result: OutcomeResult,
    /// The generation concerned.
    pub generation: Option<u64>,
    /// Why it did not end as it was meant to, in words.
    pub reason: Option<String>,
    /// Milliseconds that it took.
    pub took_ms: u64,
}

/// How an order ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeResult {
    /// Begun; nobody waited for the end.
    Accepted,
    /// A new generation serves.
    Promoted,
    /// The new generation does not serve; what served before serves on.
    RolledBack,
    /// File and settings are what serves already.
    Unchanged,
    /// Every worker was replaced.
    Restarted,
    /// The number of workers is as asked.
    Scaled,
    /// Every worker is gone.
    Stopped,
    /// It serves again.
    Started,
    /// It could not be done.
    Failed,
}

/// `POST /v1/services/{name}/scale`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// `"4"`, `"+1"` or `"-1"`.
    pub workers: String,
}

/// `POST /v1/messages`: a message for plugins. Without slot and worker: for every worker that serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Send {
    /// The service.
    pub service: String,
    /// Only for the worker in this slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Only for the worker of this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u64>,
    /// The message: any JSON.
    pub message: serde_json::Value,
}

/// A message was taken by every plugin for which it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Delivered {
    /// Ids of the workers.
    pub workers: Vec<u64>,
}

/// `POST /v1/config/plan` and `/v1/config/apply`: which file. None: the one that is in force.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Absolute path. An applied file is the launcher's configuration from then on.
    pub path: Option<String>,
}

/// `GET /v1/config`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigInForce {
    /// The file, absolute.
    pub path: String,
    /// The services that it describes, by name.
    pub services: Vec<String>,
    /// Its text as it was applied; variables are not expanded.
    pub text: String,
}

/// What a configuration would change or has changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// The file.
    pub path: String,
    /// One for each service that differs, by name. Empty: nothing would change.
    pub changes: Vec<Change>,
    /// Services that stay as they are.
    pub unchanged: Vec<String>,
    /// Settings of the master that differ and take effect at the next start.
    pub master: Vec<String>,
}

/// `POST /v1/config/apply`: what changes, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Applied {
    /// The differences.
    pub plan: Plan,
    /// One for each service that was looked at because of them.
    pub outcomes: Vec<Outcome>,
}

/// What happens to one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// The service.
    pub service: String,
    /// What happens.
    pub kind: ChangeKind,
    /// Each difference, as `workers: 2 -> 4`.
    pub differences: Vec<String>,
}

/// What happens to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// Its workers stay; their number or the rules for them change.
    Adjusted,
    /// A new generation takes the place of its workers.
    Replaced,
}

/// Why a request was not granted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// What kind of refusal, for programs.
    pub code: RefusalCode,
    /// What is wrong and what to do, for people.
    pub error: String,
    /// A name that was probably meant.
    pub suggestion: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error)
    }
}

impl std::error::Error for Refusal {}

/// Kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// No such service (404).
    UnknownService,
    /// No such path (404).
    NotFound,
    /// The path does not know this method (405).
    MethodNotAllowed,
    /// The request cannot be understood (400).
    BadRequest,
    /// The configuration is not usable; nothing was changed (422).
    BadConfiguration,
    /// The program cannot take over; nothing was changed (422).
    BadProgram,
    /// It cannot be done in the present state (409).
    Conflict,
    /// Who asks may not steer this launcher (403).
    Forbidden,
    /// The master is stopping (503).
    Stopping,
}

/// One line of `GET /v1/events` and `GET /v1/logs`: a fact of the launcher or a line of a worker.
///
/// Facts carry `event` and the fields of that event; lines of workers carry `stream` and `line`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Place in the launcher's history; it only grows.
    pub seq: u64,
    /// Wall time, RFC 3339, UTC, milliseconds.
    pub time: String,
    /// Milliseconds since the master started, by a clock that only goes forward.
    pub monotonic_ms: u64,
    /// `error`, `warn`, `info` or `debug`; facts only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// Which fact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The fact as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The service that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The worker's slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// `stdout` or `stderr`; lines of workers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// What the worker wrote; lines of workers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// Everything else that the event carries.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

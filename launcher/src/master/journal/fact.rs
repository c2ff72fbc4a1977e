//! The vocabulary: everything that the launcher has to tell, with the fields that programs read.
//!
//! The names of the variants and fields are the contract of the JSON format. `words` turns a fact into a sentence.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::pool::{Generation, Slot, WorkerId};

/// How much a fact matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something is lost or refused.
    Error,
    /// Something went wrong and was answered.
    Warn,
    /// What an operator wants to see.
    Info,
    /// What somebody who looks for a fault wants to see.
    Debug,
}

impl Level {
    /// The level of a name of `master.log.level`.
    pub fn named(name: &str) -> Level {
        match name {
            "error" => Level::Error,
            "warn" => Level::Warn,
            "debug" | "trace" => Level::Debug,
            _ => Level::Info,
        }
    }
}

/// The name of a service; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl From<&str> for Name {
    fn from(name: &str) -> Name {
        Name(Arc::from(name))
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self)
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        Ok(Name::from(String::deserialize(deserializer)?.as_str()))
    }
}

/// A worker, as facts name it.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerName {
    /// The service.
    pub service: Name,
    /// Its id.
    #[serde(serialize_with = "number::worker")]
    pub worker: WorkerId,
    /// Its place.
    #[serde(serialize_with = "number::slot")]
    pub slot: Slot,
    /// What it runs.
    #[serde(serialize_with = "number::generation")]
    pub generation: Generation,
    /// Its process.
    pub pid: u32,
}

/// What a plugin tells the operator: JSON, which is one value in the JSON format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body(Box<str>);

impl From<&serde_json::Value> for Body {
    fn from(value: &serde_json::Value) -> Body {
        Body(value.to_string().into())
    }
}

impl Body {
    /// Its text, without line breaks.
    pub fn json(&self) -> &str {
        &self.0
    }
}

impl Serialize for Body {
    /// Read again rather than kept as a value: a value takes many times the memory of its text.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_str::<serde_json::Value>(&self.0) {
            Ok(value) => value.serialize(serializer),
            Err(_) => serializer.serialize_str(&self.0),
        }
    }
}

/// The pool knows nothing of formats, so its numbers are written from here.
mod number {
    use super::{Generation, Slot, WorkerId};
    use serde::Serializer;

    pub(super) fn worker<S: Serializer>(id: &WorkerId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(id.0)
    }

    pub(super) fn slot<S: Serializer>(slot: &Slot, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(slot.0)
    }

    pub(super) fn perhaps_generation<S: Serializer>(
        generation: &Option<Generation>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match generation {
            Some(generation) => serializer.serialize_some(&generation.0),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn generation<S: Serializer>(generation: &Generation, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(generation.0)
    }
}

/// Something that happened. The names and fields are the contract of the JSON format.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "each variant and field says itself in `sentence`")]
pub enum Fact {
    Starting {
        version: &'static str,
        pid: u32,
        config: String,
    },
    Adopted {
        version: &'static str,
        pid: u32,
        config: String,
        workers: u64,
        services: u64,
        before: u32,
        how: String,
        after_ms: u64,
    },
    KeeperReplaced {
        keeper: u32,
    },
    UpgradeStarted {
        program: String,
        version: String,
        trigger: String,
    },
    UpgradeFailed {
        program: String,
        reason: String,
    },
    Upgraded {
        version: &'static str,
    },
    Building {
        service: Name,
        command: String,
    },
    Built {
        service: Name,
        took_ms: u64,
    },
    Swapped {
        service: Name,
        changed: Vec<String>,
        build_ms: u64,
        swap_ms: u64,
        #[serde(serialize_with = "number::generation")]
        generation: Generation,
    },
    Rebuilt {
        service: Name,
        changed: Vec<String>,
        build_ms: u64,
    },
    BuildFailed {
        service: Name,
        changed: Vec<String>,
        build_ms: u64,
        reason: String,
        #[serde(serialize_with = "number::perhaps_generation")]
        generation: Option<Generation>,
        output: String,
    },
    Listening {
        service: Name,
        name: String,
        address: String,
    },
    Spawned(WorkerName),
    Ready {
        #[serde(flatten)]
        worker: WorkerName,
        took_ms: u64,
        took_us: u64,
    },
    Recycling {
        #[serde(flatten)]
        worker: WorkerName,
        reason: String,
    },
    Draining(WorkerName),
    Stuck {
        #[serde(flatten)]
        worker: WorkerName,
        silent_ms: u64,
        backtrace: Vec<String>,
    },
    Message {
        #[serde(flatten)]
        worker: WorkerName,
        number: u64,
        body: Body,
    },
    MessageRefused {
        service: Name,
        worker: u64,
        who: String,
        reason: String,
    },
    Exited {
        #[serde(flatten)]
        worker: WorkerName,
        code: Option<i32>,
        signal: Option<i32>,
        reason: String,
        expected: bool,
    },
    SpawnFailed {
        service: Name,
        #[serde(serialize_with = "number::slot")]
        slot: Slot,
        #[serde(serialize_with = "number::generation")]
        generation: Generation,
        reason: String,
    },
    ReloadStarted {
        service: Name,
        #[serde(serialize_with = "number::generation")]
        generation: Generation,
        trigger: String,
    },
    Unchanged {
        service: Name,
        trigger: String,
    },
    Promoted {
        service: Name,
        #[serde(serialize_with = "number::generation")]
        generation: Generation,
        took_ms: u64,
        trigger: String,
        workers: u32,
    },
    Superseded {
        service: Name,
        #[serde(serialize_with = "number::generation")]
        generation: Generation,
    },
    RolledBack {
        service: Name,
        #[serde(serialize_with = "number::generation")]
        generation: Generation,
        reason: String,
    },
    ReloadFailed {
        service: Name,
        trigger: String,
        reason: String,
    },
    ServiceFailed {
        service: Name,
        reason: String,
    },
    ServiceRecovered {
        service: Name,
    },
    ServiceAdded {
        service: Name,
    },
    ServiceStopped {
        service: Name,
        trigger: String,
    },
    ServiceStarted {
        service: Name,
        trigger: String,
    },
    Scaled {
        service: Name,
        from: u32,
        to: u32,
        trigger: String,
    },
    Restarted {
        service: Name,
        took_ms: u64,
        trigger: String,
    },
    ServiceRemoved {
        service: Name,
    },
    ConfigApplied {
        trigger: String,
        changed: Vec<String>,
    },
    ConfigRejected {
        trigger: String,
        reason: String,
    },
    Serving {
        services: Vec<String>,
        failed: Vec<String>,
        took_ms: u64,
    },
    Signal {
        name: &'static str,
        effect: &'static str,
    },
    Stopping {
        reason: String,
    },
    Stopped {
        uptime_s: u64,
    },
    Trouble {
        reason: String,
    },
    LinesDropped {
        service: Name,
        #[serde(serialize_with = "number::slot")]
        slot: Slot,
        lines: u64,
        bytes: u64,
        destination: &'static str,
    },
    FactsDropped {
        facts: u64,
        destination: &'static str,
    },
    LogFailed {
        path: String,
        reason: String,
    },
    LogReopened {
        path: String,
    },
}

impl Fact {
    /// How much it matters.
    pub fn level(&self) -> Level {
        match self {
            Fact::ReloadFailed { .. }
            | Fact::ServiceFailed { .. }
            | Fact::ConfigRejected { .. }
            | Fact::RolledBack { .. }
            | Fact::UpgradeFailed { .. }
            | Fact::BuildFailed { .. }
            | Fact::SpawnFailed { .. } => Level::Error,
            Fact::Exited { expected: false, .. }
            | Fact::Stuck { .. }
            | Fact::MessageRefused { .. }
            | Fact::Trouble { .. }
            | Fact::Adopted { .. }
            | Fact::KeeperReplaced { .. }
            | Fact::LinesDropped { .. }
            | Fact::FactsDropped { .. }
            | Fact::LogFailed { .. } => Level::Warn,
            Fact::Superseded { .. }
            | Fact::Spawned(_)
            | Fact::Draining(_)
            | Fact::Exited { .. }
            | Fact::Unchanged { .. } => Level::Debug,
            _ => Level::Info,
        }
    }

    /// Whether somebody who writes a plugin wants to see it: what goes wrong, and what became of a save.
    pub fn is_for_authors(&self) -> bool {
        let told = matches!(
            self,
            Fact::Swapped { .. }
                | Fact::Rebuilt { .. }
                | Fact::ConfigApplied { .. }
                | Fact::Signal { .. }
                | Fact::Message { .. }
        );
        told || self.level() <= Level::Warn
    }

    /// The service that it is about, if it is about one.
    pub fn service(&self) -> Option<&Name> {
        match self {
            Fact::Building { service, .. }
            | Fact::Built { service, .. }
            | Fact::Swapped { service, .. }
            | Fact::Rebuilt { service, .. }
            | Fact::BuildFailed { service, .. }
            | Fact::Listening { service, .. }
            | Fact::SpawnFailed { service, .. }
            | Fact::ReloadStarted { service, .. }
            | Fact::Unchanged { service, .. }
            | Fact::Promoted { service, .. }
            | Fact::Superseded { service, .. }
            | Fact::RolledBack { service, .. }
            | Fact::ReloadFailed { service, .. }
            | Fact::ServiceFailed { service, .. }
            | Fact::ServiceRecovered { service }
            | Fact::ServiceAdded { service }
            | Fact::ServiceStopped { service, .. }
            | Fact::ServiceStarted { service, .. }
            | Fact::Scaled { service, .. }
            | Fact::Restarted { service, .. }
            | Fact::MessageRefused { service, .. }
            | Fact::LinesDropped { service, .. }
            | Fact::ServiceRemoved { service } => Some(service),
            Fact::Spawned(worker)
            | Fact::Draining(worker)
            | Fact::Recycling { worker, .. }
            | Fact::Stuck { worker, .. }
            | Fact::Message { worker, .. }
            | Fact::Ready { worker, .. }
            | Fact::Exited { worker, .. } => Some(&worker.service),
            _ => None,
        }
    }
}

/// Which of its two outputs a worker used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

//! What crosses the border of this crate as data: what a component is, and what its guest may use.
//!
//! The master reads a [`Manifest`] from a component once; it travels to every worker with the [`Settings`].
//! Nothing here touches an engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a component is, as read from its bytes without executing them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The world that it serves.
    pub world: World,
    /// It needs the component model's asynchronous features (0.3): selects the engine.
    pub concurrency: bool,
    /// It declared itself reusable for many requests an instance (custom section `launcher:reusable`).
    pub reusable: bool,
    /// What it was compiled for: selects the engine.
    #[serde(default)]
    pub purpose: Purpose,
}

/// What a component is compiled for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Fast code.
    #[default]
    Production,
    /// Fast compilation, and backtraces that name source lines.
    Development,
}

/// The export by which the launcher serves a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum World {
    /// `wasi:http/incoming-handler@0.2.x`.
    Http02,
    /// `wasi:http/handler@0.3.x`.
    Http03,
    /// `wasi:cli/run@0.2.x`.
    Command02,
    /// `wasi:cli/run@0.3.x`.
    Command03,
}

impl World {
    /// Whether it is a program, which runs by itself and owns its sockets, instead of being called for each request.
    pub fn is_program(self) -> bool {
        match self {
            World::Http02 | World::Http03 => false,
            World::Command02 | World::Command03 => true,
        }
    }
}

/// What a guest may use and how much. Everything else is denied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Linear memory of one instance, bytes; the sum if it has several memories.
    pub memory: u64,
    /// Computing without yielding before the call is ended.
    pub cpu_time: Duration,
    /// Requests an instance may serve one after the other; `None`: 1 for 0.2 unless declared reusable, else 128.
    pub reuse: Option<u32>,
    /// Preopened directories.
    pub dirs: Vec<Dir>,
    /// `host:port` pairs that the guest may connect to.
    pub network: Vec<Endpoint>,
}

impl Settings {
    /// Requests that one instance of a component serves before it is replaced; at least 1.
    pub(crate) fn reuse_of(&self, manifest: &Manifest) -> u32 {
        match (self.reuse, manifest.world) {
            (Some(reuse), _) => reuse.max(1),
            (None, World::Http03 | World::Command03) => REUSE,
            (None, _) if manifest.reusable => REUSE,
            (None, _) => 1,
        }
    }
}

/// Requests an instance serves where reuse is on and not configured.
const REUSE: u32 = 128;

/// A directory of the host that a guest sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dir {
    /// On the host; absolute.
    pub host: PathBuf,
    /// In the guest.
    pub guest: String,
    /// Whether the guest may write.
    pub writable: bool,
}

/// A peer that a guest may connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// A host name or a literal address (IPv6 without brackets).
    pub host: String,
    /// TCP or UDP port.
    pub port: u16,
}

/// The guest's environment and `wasi:config/store`.
pub type Variables = BTreeMap<String, String>;

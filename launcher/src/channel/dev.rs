//! What is said on the channel in `launcher dev` alone: how the build goes, and what became of a request.

use serde::{Deserialize, Serialize};

/// What a worker shows to a browser.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dev {
    /// How the last build went.
    pub build: Build,
    /// What failed last while it ran.
    pub failure: Option<Failure>,
}

/// How the build of a service goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Build {
    /// What serves is what the sources say, as far as is known.
    #[default]
    Good,
    /// It runs.
    Running,
    /// It failed, or what it made cannot be served.
    Failed {
        /// What happened, in a line.
        title: String,
        /// What the compiler said, with its escape sequences.
        text: String,
    },
}

/// A request that a plugin did not answer, or a worker that died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Grows from failure to failure of a launcher.
    pub number: u64,
    /// The worker.
    pub worker: u64,
    /// What it said of itself: [`Asked::request`]; 0: it died.
    pub request: u64,
    /// What happened, in a line.
    pub title: String,
    /// The backtrace and whatever else the worker wrote about it.
    pub text: String,
}

/// A worker's question: what was written about this request, which has just failed?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Number of the failure in this worker, from 1.
    pub request: u64,
    /// What happened, in a line.
    pub title: String,
    /// Why, as far as the worker knows.
    pub reason: String,
}

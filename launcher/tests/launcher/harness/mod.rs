//! The means of the integration tests: a directory with a configuration, the running launcher, its events, an HTTP
//! client, load, fixtures, and what /proc says of a process.
//!
//! A test waits for a fact: an event, a line, an answer, an exit. Every wait is bounded by [`PATIENCE`] and a wait in
//! vain fails with the whole story. Nothing here retries.

pub(crate) mod browser;
pub(crate) mod control;
pub(crate) mod fake_master;
pub(crate) mod guests;
pub(crate) mod http;
pub(crate) mod launcher;
pub(crate) mod load;
pub(crate) mod peer;
pub(crate) mod process;
pub(crate) mod projects;
pub(crate) mod schema;
pub(crate) mod site;
pub(crate) mod terminal;

use std::time::Duration;

pub(crate) use launcher::{Event, Launcher};
pub(crate) use load::Load;
pub(crate) use site::Site;

/// How long a test waits for a fact before it calls it missing. Generous: it only decides how soon a failure shows.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

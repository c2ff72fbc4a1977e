//! What clients went through, as they noted it: answers by number, everything else by word.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::http::Trouble;

/// Something that a client complains about.
#[derive(Debug, Clone)]
pub struct Incident {
    /// The service that it spoke to.
    pub service: &'static str,
    /// What kind of client it is.
    pub client: &'static str,
    /// Its port; 0: it never had a connection.
    pub port: u16,
    /// When its connection was open.
    pub opened: Instant,
    /// When it began to wait for what it did not get.
    pub asked: Instant,
    /// When it complained.
    pub at: Instant,
    /// What went wrong.
    pub trouble: Trouble,
}

/// Shared by all clients of a run.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Right answers.
    pub answered: AtomicU64,
    /// Connections opened by clients that keep theirs.
    pub opened: AtomicU64,
    /// Clients that keep a connection: one each for ever, if nothing goes wrong.
    pub keepers: AtomicU64,
    /// The longest wait for a right answer, microseconds.
    worst: AtomicU64,
    incidents: Mutex<Vec<Incident>>,
    /// For each service the version that every request from now on must get, at least.
    floors: Mutex<BTreeMap<&'static str, u32>>,
    versions: Mutex<BTreeMap<(&'static str, u32), u64>>,
}

impl Ledger {
    /// A right answer, and how long it took; zero if its client took its time.
    pub fn answer(&self, took: Duration) {
        self.answered.fetch_add(1, Relaxed);
        self.worst.fetch_max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The longest wait since this was asked the last time.
    pub fn worst(&self) -> Duration {
        Duration::from_micros(self.worst.swap(0, Relaxed))
    }

    /// A complaint.
    pub fn complain(&self, incident: Incident) {
        self.incidents.lock().unwrap_or_else(PoisonError::into_inner).push(incident);
    }

    /// All complaints so far.
    pub fn incidents(&self) -> Vec<Incident> {
        self.incidents.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often a connection was opened in place of one that was lost.
    pub fn reconnects(&self) -> u64 {
        self.opened.load(Relaxed).saturating_sub(self.keepers.load(Relaxed))
    }

    /// From now on a request to `service` must not be answered by an older version.
    pub fn raise(&self, service: &'static str, version: u32) {
        self.floors.lock().unwrap_or_else(PoisonError::into_inner).insert(service, version);
    }

    /// The version that a request that is sent now must get, at least.
    pub fn floor(&self, service: &'static str) -> u32 {
        self.floors.lock().unwrap_or_else(PoisonError::into_inner).get(service).copied().unwrap_or_default()
    }

    /// Which version answered.
    pub fn saw(&self, service: &'static str, version: u32) {
        *self.versions.lock().unwrap_or_else(PoisonError::into_inner).entry((service, version)).or_default() += 1;
    }

    /// How many versions of a service have answered.
    pub fn versions(&self, service: &str) -> usize {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.keys().filter(|(name, _)| *name == service).count()
    }
}

//! Bounds how many instances a worker has, and how many requests wait for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::CallFailure;

/// Requests that may wait for an instance; one more is refused with 503.
pub(crate) const QUEUE: usize = 1_000;

/// Admits as many calls at once as there is room for instances.
pub(crate) struct Gate {
    instances: Arc<Semaphore>,
    size: u32,
    waiting: AtomicUsize,
}

impl Gate {
    pub(crate) fn new(instances: u32) -> Gate {
        Gate { instances: Arc::new(Semaphore::new(instances as usize)), size: instances, waiting: AtomicUsize::new(0) }
    }

    /// A permit if there is room now.
    pub(crate) fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.instances).try_acquire_owned().ok()
    }

    /// Waits until nobody is inside.
    pub(crate) async fn empty(&self) {
        // It fails only when the semaphore is closed, which it never is.
        drop(self.instances.acquire_many(self.size).await);
    }

    /// Waits for room, first come first served.
    pub(crate) async fn enter(&self) -> Result<OwnedSemaphorePermit, CallFailure> {
        if let Some(permit) = self.try_enter() {
            return Ok(permit);
        }
        let _waiting = Waiting::new(&self.waiting)?;
        Arc::clone(&self.instances).acquire_owned().await.map_err(|_| CallFailure::new(503, "the worker is ending"))
    }
}

/// Counts a waiting request for as long as its future lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn new(count: &AtomicUsize) -> Result<Waiting<'_>, CallFailure> {
        if count.fetch_add(1, Relaxed) >= QUEUE {
            count.fetch_sub(1, Relaxed);
            return Err(queue_full());
        }
        Ok(Waiting(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

pub(crate) fn queue_full() -> CallFailure {
    CallFailure::new(503, format!("all instances of the plugin are busy and {QUEUE} requests wait already"))
}

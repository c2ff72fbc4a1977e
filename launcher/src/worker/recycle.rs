//! When a worker asks to be replaced: it answered enough requests, lives for long enough, or has grown.
//!
//! The numbers get up to 10 % of jitter, or the workers of a service would all be replaced at the same moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::http::{Request, Response};
use tokio::sync::Notify;

use super::http::RequestBody;
use super::plugin::{Failure, HttpPlugin};
use crate::channel::Limits;

/// How often the size of the process is looked at, at most; only while requests come.
const LOOK: Duration = Duration::from_secs(1);

/// A plugin whose requests are counted.
pub(super) struct Recycling<P> {
    plugin: P,
    shared: Arc<Shared>,
}

/// Tells when the worker should be replaced.
pub(super) struct Wish {
    shared: Arc<Shared>,
    lifetime: Option<Duration>,
}

struct Shared {
    requests: AtomicU64,
    max_requests: u64,
    memory: Option<Memory>,
    reached: Notify,
}

struct Memory {
    /// Resident bytes at which the worker asks: 90 % of the limit.
    ask_at: u64,
    started: Instant,
    /// Milliseconds after `started` at which to look again.
    next_look: AtomicU64,
    /// What was found: 0 while it is below.
    found: AtomicU64,
}

impl<P: HttpPlugin> Recycling<P> {
    /// Count the requests of `plugin`; `seed` spreads the jitter.
    pub(super) fn new(plugin: P, limits: &Limits, seed: u64) -> (Recycling<P>, Wish) {
        let memory = limits.memory.map(|limit| Memory {
            ask_at: limit / 10 * 9,
            started: Instant::now(),
            next_look: AtomicU64::new(0),
            found: AtomicU64::new(0),
        });
        let max_requests = match limits.max_requests {
            0 => u64::MAX,
            most => jitter(most, seed),
        };
        let lifetime = (!limits.max_lifetime.is_zero()).then(|| {
            let milliseconds = u64::try_from(limits.max_lifetime.as_millis()).unwrap_or(u64::MAX);
            Duration::from_millis(jitter(milliseconds, seed))
        });
        let shared = Shared { requests: AtomicU64::new(0), max_requests, memory, reached: Notify::new() };
        let shared = Arc::new(shared);
        (Recycling { plugin, shared: Arc::clone(&shared) }, Wish { shared, lifetime })
    }
}

impl<P: HttpPlugin> HttpPlugin for Recycling<P> {
    type Body = P::Body;

    const ABSOLUTE_URI: bool = P::ABSOLUTE_URI;

    fn handle(
        &self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Self::Body>, Failure>> + Send + use<P> {
        self.shared.count();
        self.plugin.handle(request)
    }
}

impl Shared {
    fn count(&self) {
        // Equal, not greater: the wish is told once.
        if self.requests.fetch_add(1, Ordering::Relaxed) + 1 == self.max_requests {
            self.reached.notify_one();
        }
        if let Some(memory) = &self.memory
            && memory.has_grown()
        {
            self.reached.notify_one();
        }
    }
}

impl Memory {
    /// Look, if it is time to; `true` once, when the limit is reached.
    fn has_grown(&self) -> bool {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now < self.next_look.load(Ordering::Relaxed) || self.found.load(Ordering::Relaxed) > 0 {
            return false;
        }
        self.next_look.store(now.saturating_add(LOOK.as_millis() as u64), Ordering::Relaxed);
        match crate::sys::process::resident() {
            Ok(resident) if resident >= self.ask_at => {
                self.found.store(resident, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }
}

impl Wish {
    /// Why the worker should be replaced; never, if it need not be.
    pub(super) async fn reached(self) -> String {
        let aged = async {
            match self.lifetime {
                Some(lifetime) => tokio::time::sleep(lifetime).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shared.reached.notified() => {}
            () = aged => return "limits.max_lifetime".to_owned(),
        }
        let found = self.shared.memory.as_ref().map_or(0, |memory| memory.found.load(Ordering::Relaxed));
        if found > 0 {
            return format!("limits.memory: it has {} MiB, 90 % of what it may have", found >> 20);
        }
        "limits.max_requests".to_owned()
    }
}

/// `number` less up to a tenth of it.
fn jitter(number: u64, seed: u64) -> u64 {
    // Fibonacci hashing: neighbouring ids end up far apart.
    let spread = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    number - (u128::from(number / 10) * u128::from(spread) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_takes_at_most_a_tenth_and_spreads() {
        let numbers: Vec<_> = (0..100).map(|seed| jitter(1000, seed)).collect();
        assert!(numbers.iter().all(|number| (900..=1000).contains(number)), "{numbers:?}");
        let distinct: std::collections::BTreeSet<_> = numbers.iter().collect();
        assert!(distinct.len() > 50, "{numbers:?}");
        assert_eq!(jitter(1, 7), 1);
    }
}

//! When a worker asks to be replaced: it answered enough requests, lives for long enough, or has grown.
//!
//! The numbers get up to 10 % of jitter, or the workers of a service would all be replaced at the same moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ::http::{HeaderMap, Request, Response};
use tokio::sync::Notify;

use super::http::{Peer, RequestBody};
use super::plugin::{Failure, HttpPlugin};
use crate::channel::Limits;

/// How often the size of the process is looked at, at most; only while requests come.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// The wish to be replaced, told once; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Wish {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    reason: OnceLock<String>,
    told: Notify,
}

impl Wish {
    /// Ask to be replaced. Only the first reason counts.
    pub(super) fn tell(&self, reason: String) {
        if self.shared.reason.set(reason).is_ok() {
            self.shared.told.notify_one();
        }
    }

    /// Why the worker should be replaced: waits until something tells it, or until `lifetime` is over.
    pub(super) async fn reached(&self, lifetime: Option<Duration>) -> String {
        let aged = async {
            match lifetime {
                Some(lifetime) => crate::sys::turned::sleep(lifetime).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shared.told.notified() => self.shared.reason.get().cloned().unwrap_or_default(),
            () = aged => "limits.max_lifetime".to_owned(),
        }
    }
}

/// `limits.max_requests` of one worker, 0 for never; `seed` spreads the jitter.
pub(super) fn max_requests(limits: &Limits, seed: u64) -> u64 {
    jitter(limits.max_requests, seed)
}

/// `limits.max_lifetime` of one worker; `seed` spreads the jitter.
pub(super) fn max_lifetime(limits: &Limits, seed: u64) -> Option<Duration> {
    let milliseconds = u64::try_from(limits.max_lifetime.as_millis()).unwrap_or(u64::MAX);
    (milliseconds > 0).then(|| Duration::from_millis(jitter(milliseconds, seed)))
}

/// A plugin in a process whose size is looked at.
pub(super) struct Recycling<P> {
    plugin: P,
    memory: Option<Memory>,
}

/// The size of the process, and what it may be.
pub(super) struct Memory {
    /// Resident bytes at which the worker asks: 90 % of the limit.
    ask_at: u64,
    started: Instant,
    /// Milliseconds after `started` at which to look again.
    next_look: AtomicU64,
    wish: Wish,
}

impl<P: HttpPlugin> Recycling<P> {
    pub(super) fn new(plugin: P, limits: &Limits, wish: &Wish) -> Recycling<P> {
        Recycling { plugin, memory: Memory::of(limits, wish) }
    }
}

impl<P: HttpPlugin> HttpPlugin for Recycling<P> {
    type Body = P::Body;

    const ABSOLUTE_URI: bool = P::ABSOLUTE_URI;

    #[inline]
    fn prepare(&self, headers: &mut HeaderMap, peer: &Peer) {
        if let Some(memory) = &self.memory {
            memory.look();
        }
        self.plugin.prepare(headers, peer);
    }

    // Inlined, or the request is copied once more on its way.
    #[inline(always)]
    fn handle(
        &self,
        request: Request<RequestBody>,
        peer: &Peer,
    ) -> impl Future<Output = Result<Response<Self::Body>, Failure>> + Send + use<P> {
        self.plugin.handle(request, peer)
    }
}

impl Memory {
    /// `None`: it may be of any size.
    pub(super) fn of(limits: &Limits, wish: &Wish) -> Option<Memory> {
        limits.memory.map(|limit| Memory {
            ask_at: limit / 10 * 9,
            started: Instant::now(),
            next_look: AtomicU64::new(0),
            wish: wish.clone(),
        })
    }

    /// Asks for a replacement if the process has grown.
    pub(super) fn look(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now < self.next_look.load(Ordering::Relaxed) {
            return;
        }
        self.next_look.store(now.saturating_add(LOOK.as_millis() as u64), Ordering::Relaxed);
        if let Ok(resident) = crate::sys::process::resident()
            && resident >= self.ask_at
        {
            self.wish.tell(format!("limits.memory: it has {} MiB, 90 % of what it may have", resident >> 20));
        }
    }
}

/// `number` less up to a tenth of it.
fn jitter(number: u64, seed: u64) -> u64 {
    // Fibonacci hashing: neighbouring ids end up far apart.
    let spread = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    number - ((u128::from(number / 10) * u128::from(spread)) >> 32) as u64
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
        assert_eq!((jitter(0, 7), jitter(1, 7)), (0, 1));
    }
}

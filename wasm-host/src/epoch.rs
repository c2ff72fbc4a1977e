//! Ends a guest that computes too long, and lets everything else of the thread proceed meanwhile.
//!
//! Flow: compiled code compares the engine's epoch with the store's deadline at every loop and call. The [`Ticker`]
//! raises the epoch every [`TICK`] while guests compute; at its deadline a guest enters the store's callback, which
//! asks its [`Meter`]: yield to the executor, or end the call. [`metered`] tells the meter when a guest is polled
//! and whether it gave up the thread because it waits or because it was made to yield.
//!
//! The ticker's thread sleeps on a condition variable while no guest computes: an idle worker makes no system call.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use wasmtime::{Engine, EngineWeak, UpdateDeadline};

/// How long a guest may hold the thread.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Raises the epoch of one engine while its guests compute.
pub(crate) struct Ticker(Arc<Shared>);

struct Shared {
    engine: EngineWeak,
    /// A guest was polled since the last tick.
    active: AtomicBool,
    /// The thread ticks; otherwise it sleeps or is about to.
    ticking: AtomicBool,
    ended: Mutex<bool>,
    wake: Condvar,
}

impl Ticker {
    /// Starts the thread, which runs `first` and falls asleep.
    pub(crate) fn new(engine: &Engine, first: fn()) -> io::Result<Ticker> {
        let shared = Arc::new(Shared {
            engine: engine.weak(),
            active: AtomicBool::new(false),
            ticking: AtomicBool::new(true),
            ended: Mutex::new(false),
            wake: Condvar::new(),
        });
        let thread = Arc::clone(&shared);
        std::thread::Builder::new().name("wasm-epoch".into()).spawn(move || {
            first();
            thread.run();
        })?;
        Ok(Ticker(shared))
    }

    /// A guest computes now.
    #[inline]
    pub(crate) fn touch(&self) {
        // Sequentially consistent with `Shared::sleep`: either this sees that the thread stopped ticking, or the
        // thread sees the activity before it sleeps. Otherwise a looping guest would hold the thread for ever.
        self.0.active.store(true, SeqCst);
        if !self.0.ticking.load(SeqCst) {
            let _ended = self.0.ended.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.wake.notify_one();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.wake.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        loop {
            if !self.active.swap(false, SeqCst) && !self.sleep() {
                return;
            }
            std::thread::sleep(TICK);
            let Some(engine) = self.engine.upgrade() else {
                return;
            };
            engine.increment_epoch();
        }
    }

    /// Until a guest computes; false if the ticker was dropped.
    fn sleep(&self) -> bool {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        self.ticking.store(false, SeqCst);
        while !*ended && !self.active.load(SeqCst) {
            ended = self.wake.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
        self.ticking.store(true, SeqCst);
        !*ended
    }
}

/// How long one store computed without waiting for anything.
pub(crate) struct Meter {
    limit: Duration,
    base: Instant,
    /// When the poll in progress began: nanoseconds after `base`.
    began: AtomicU64,
    /// Nanoseconds of the polls before it, since the guest last waited.
    spent: AtomicU64,
    /// The guest was made to yield in the poll in progress.
    yielded: AtomicBool,
    exceeded: AtomicBool,
}

impl Meter {
    pub(crate) fn new(limit: Duration) -> Meter {
        Meter {
            limit,
            base: Instant::now(),
            began: AtomicU64::new(0),
            spent: AtomicU64::new(0),
            yielded: AtomicBool::new(false),
            exceeded: AtomicBool::new(false),
        }
    }

    /// What the guest did wrong, if its limit ended it.
    pub(crate) fn exceeded(&self) -> Option<Duration> {
        self.exceeded.load(Relaxed).then_some(self.limit)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn enter(&self) {
        self.began.store(self.now(), Relaxed);
    }

    /// After a poll that was not the last. True if the guest waits; false if it has more to compute.
    pub(crate) fn leave(&self) -> bool {
        if self.yielded.swap(false, Relaxed) {
            let elapsed = self.now() - self.began.load(Relaxed);
            self.spent.fetch_add(elapsed, Relaxed);
            false
        } else {
            self.spent.store(0, Relaxed);
            true
        }
    }

    /// A new call: what the call before spent does not count.
    pub(crate) fn reset(&self) {
        self.spent.store(0, Relaxed);
    }

    /// The store's deadline passed.
    pub(crate) fn deadline(&self) -> UpdateDeadline {
        let elapsed = self.now().saturating_sub(self.began.load(Relaxed));
        let total = Duration::from_nanos(self.spent.load(Relaxed).saturating_add(elapsed));
        if total > self.limit {
            self.exceeded.store(true, Relaxed);
            return UpdateDeadline::Interrupt;
        }
        // The deadline of a guest that waited lies in the past, so it comes here although it has only begun.
        if Duration::from_nanos(elapsed) < TICK / 2 {
            return UpdateDeadline::Continue(1);
        }
        self.yielded.store(true, Relaxed);
        // tokio's own: the guest goes on only after the runtime has looked at sockets and timers, which a plain
        // yield lets wait behind a guest that computes for long.
        UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))
    }
}

/// Runs a guest's call under its meter.
pub(crate) async fn metered<F: Future>(meter: &Meter, ticker: &Ticker, call: F) -> F::Output {
    let mut call = pin!(call);
    poll_fn(|cx| {
        meter.enter();
        ticker.touch();
        let poll = call.as_mut().poll(cx);
        if poll.is_pending() {
            meter.leave();
        }
        poll
    })
    .await
}

/// One poll of a guest by hand, for callers that do more at each poll than [`metered`].
pub(crate) fn metered_poll<T>(meter: &Meter, ticker: &Ticker, poll: impl FnOnce() -> Poll<T>) -> (Poll<T>, bool) {
    meter.enter();
    ticker.touch();
    let poll = poll();
    let waits = poll.is_pending() && meter.leave();
    (poll, waits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_waits_starts_anew() {
        let meter = Meter::new(Duration::from_millis(1));
        meter.spent.store(5_000_000, Relaxed);
        meter.enter();
        assert!(meter.leave(), "nothing made it yield");
        meter.enter();
        assert!(matches!(meter.deadline(), UpdateDeadline::Continue(1)));
        assert_eq!(meter.exceeded(), None);
    }

    #[test]
    fn a_guest_over_its_limit_is_ended() {
        let meter = Meter::new(Duration::from_millis(1));
        meter.enter();
        meter.spent.store(5_000_000, Relaxed);
        assert!(matches!(meter.deadline(), UpdateDeadline::Interrupt));
        assert_eq!(meter.exceeded(), Some(Duration::from_millis(1)));
    }
}

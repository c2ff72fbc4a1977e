//! Waiting, the same way in both builds.

use std::time::Duration;

/// Waits without holding anybody up.
///
/// Natively with the feature `tokio` it is that crate's timer, without it a thread of this crate's that sleeps until
/// the next deadline; in a component it is `wasi:clocks/monotonic-clock`.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// # worker_sdk::native::block_on(async {
/// let start = Instant::now();
/// worker_sdk::sleep(Duration::from_millis(20)).await;
/// assert!(start.elapsed() >= Duration::from_millis(20));
/// # });
/// ```
pub async fn sleep(duration: Duration) {
    #[cfg(target_family = "wasm")]
    crate::component::sleep(duration).await;
    #[cfg(all(not(target_family = "wasm"), feature = "tokio"))]
    {
        // A body or a future may be polled outside of the border (tests); the timer needs the reactor.
        let timer = {
            // A plugin that owns its sockets runs on a runtime of its own.
            let elsewhere = tokio::runtime::Handle::try_current().is_err();
            let _visit = elsewhere.then(crate::native::runtime::visit);
            tokio::time::sleep(duration)
        };
        timer.await;
    }
    #[cfg(all(not(target_family = "wasm"), not(feature = "tokio")))]
    timer::Timer::new(duration).await;
}

/// One thread that sleeps until the next deadline, started at the first use.
#[cfg(all(not(target_family = "wasm"), not(feature = "tokio")))]
mod timer {
    use std::collections::BTreeMap;
    use std::pin::Pin;
    use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
    use std::task::{Context, Poll, Waker};
    use std::time::{Duration, Instant};

    /// Waiters by deadline and number: the number makes equal deadlines distinct.
    type Waiters = BTreeMap<(Instant, u64), Waker>;

    static WAITERS: Mutex<(Waiters, u64)> = Mutex::new((BTreeMap::new(), 0));
    static CHANGED: Condvar = Condvar::new();
    static STARTED: Once = Once::new();

    fn lock() -> MutexGuard<'static, (Waiters, u64)> {
        WAITERS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) struct Timer {
        deadline: Instant,
        /// Our entry in the map.
        number: Option<u64>,
    }

    impl Timer {
        pub(super) fn new(duration: Duration) -> Self {
            let now = Instant::now();
            // A duration beyond the clock's range: a century is for ever.
            let deadline = now.checked_add(duration).unwrap_or(now + Duration::from_secs(3_000_000_000));
            Timer { deadline, number: None }
        }
    }

    impl Future for Timer {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            if Instant::now() >= self.deadline {
                return Poll::Ready(());
            }
            STARTED.call_once(|| {
                let thread = std::thread::Builder::new().name("worker-sdk-timer".into());
                if let Err(error) = thread.spawn(run) {
                    crate::log::error!("no timer: cannot start a thread: {error}");
                }
            });
            let mut waiters = lock();
            let number = match self.number {
                Some(number) => number,
                None => {
                    waiters.1 += 1;
                    waiters.1
                }
            };
            self.number = Some(number);
            waiters.0.insert((self.deadline, number), context.waker().clone());
            if waiters.0.first_key_value().is_some_and(|(first, _)| *first == (self.deadline, number)) {
                CHANGED.notify_one();
            }
            Poll::Pending
        }
    }

    impl Drop for Timer {
        fn drop(&mut self) {
            if let Some(number) = self.number {
                let waker = lock().0.remove(&(self.deadline, number));
                // Outside of the lock: a waker's drop is somebody else's code.
                drop(waker);
            }
        }
    }

    fn run() {
        let mut waiters = lock();
        loop {
            let now = Instant::now();
            waiters = match waiters.0.first_key_value() {
                None => CHANGED.wait(waiters).unwrap_or_else(PoisonError::into_inner),
                Some(((deadline, _), _)) if *deadline > now => {
                    let timeout = *deadline - now;
                    CHANGED.wait_timeout(waiters, timeout).unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    let due = waiters.0.pop_first();
                    drop(waiters);
                    if let Some((_, waker)) = due {
                        waker.wake();
                    }
                    lock()
                }
            };
        }
    }
}

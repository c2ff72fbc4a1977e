//! The plugin's own tokio.
//!
//! A library has its own copy of tokio's statics, so the worker's runtime does not exist for it. One background
//! thread drives a reactor and runs spawned tasks; the author's futures are polled by the worker after
//! [`enter`], so that their timers and sockets register here and wake the worker's task across the border.

use std::cell::Cell;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, EnterGuard, Handle};
use tokio::sync::oneshot;

/// How long tasks that block may hold up the exit.
pub(super) const SHUTDOWN: Duration = Duration::from_millis(200);

struct Reactor {
    handle: Handle,
    /// Ends the thread; taken by [`stop`].
    thread: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

static REACTOR: OnceLock<Reactor> = OnceLock::new();

thread_local! {
    static ENTERED: Cell<bool> = const { Cell::new(false) };
}

/// Makes this thread one of the reactor's, for good: the worker's threads run nothing else of this library's tokio, and
/// coming and going for every request would cost it a twentieth more. Starts the reactor when it is the first.
#[inline]
pub(super) fn enter() {
    if !ENTERED.get() {
        stay();
    }
}

#[cold]
fn stay() {
    // The guard is not dropped; the thread's end takes back what it holds.
    std::mem::forget(visit());
    ENTERED.set(true);
}

/// This thread has a runtime of its own, and is none of the reactor's.
pub(super) fn stay_away() {
    ENTERED.set(true);
}

/// Makes this thread, which may be one of the author's, one of the reactor's until the guard is dropped.
pub(crate) fn visit() -> EnterGuard<'static> {
    REACTOR.get_or_init(start).handle.enter()
}

/// # Panics
/// Where the process may not have another thread or epoll. The border's guard makes it a 500, or an error of `init`.
#[cold]
fn start() -> Reactor {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("cannot start the plugin's tokio: {error}"),
    };
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new().name("plugin-tokio".into()).spawn(move || {
        // An error is the sender's drop: the same wish.
        let _ = runtime.block_on(stopped);
        runtime.shutdown_timeout(SHUTDOWN);
    });
    match thread {
        Ok(thread) => Reactor { handle, thread: Mutex::new(Some((stop, thread))) },
        Err(error) => panic!("cannot start the plugin's tokio: no thread: {error}"),
    }
}

/// Drops the spawned tasks and ends the thread.
pub(super) fn stop() {
    let Some(reactor) = REACTOR.get() else {
        return;
    };
    let thread = reactor.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((stop, thread)) = thread {
        let _ = stop.send(());
        let _ = thread.join();
    }
}

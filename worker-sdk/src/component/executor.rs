//! Runs one future; waits with `wasi:io/poll`.
//!
//! What waits is a [`Wait`]: a pollable that lives here, so that it is certain to be dropped before the stream
//! that it came from (a host traps when a resource is dropped before its children).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use wasip2::io::poll::{Pollable, poll};

#[derive(Default)]
struct Reactor {
    waiting: BTreeMap<u64, (Pollable, Option<Waker>)>,
    last: u64,
}

thread_local! {
    static REACTOR: RefCell<Reactor> = RefCell::new(Reactor::default());
}

/// Something that a future waits for.
#[derive(Debug)]
pub(super) struct Wait(u64);

impl Wait {
    /// Waits for this pollable. Nothing happens before it is armed or awaited.
    pub(super) fn new(pollable: Pollable) -> Wait {
        REACTOR.with_borrow_mut(|reactor| {
            reactor.last += 1;
            reactor.waiting.insert(reactor.last, (pollable, None));
            Wait(reactor.last)
        })
    }

    /// Wakes the task once the pollable is ready.
    pub(super) fn arm(&self, context: &Context<'_>) {
        REACTOR.with_borrow_mut(|reactor| {
            if let Some((_, waker)) = reactor.waiting.get_mut(&self.0) {
                *waker = Some(context.waker().clone());
            }
        });
    }
}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let ready =
            REACTOR.with_borrow(|reactor| reactor.waiting.get(&self.0).is_none_or(|(pollable, _)| pollable.ready()));
        if ready {
            return Poll::Ready(());
        }
        self.arm(context);
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let removed = REACTOR.with_borrow_mut(|reactor| reactor.waiting.remove(&self.0));
        // Outside of the borrow: a waker's drop may be the author's code.
        drop(removed);
    }
}

/// Blocks until something that is armed is ready, and wakes its task.
fn wait() {
    let wakers: Vec<Waker> = REACTOR.with_borrow_mut(|reactor| {
        let armed: Vec<u64> =
            reactor.waiting.iter().filter(|(_, (_, waker))| waker.is_some()).map(|(id, _)| *id).collect();
        if armed.is_empty() {
            // Traps, so that the request ends with 500 instead of waiting for its deadline.
            panic!("the handler waits for something that nothing in this component can bring about");
        }
        let pollables: Vec<&Pollable> = armed.iter().map(|id| &reactor.waiting[id].0).collect();
        let ready = poll(&pollables);
        ready
            .into_iter()
            .filter_map(|index| {
                let id = armed.get(index as usize)?;
                reactor.waiting.get_mut(id)?.1.take()
            })
            .collect()
    });
    for waker in wakers {
        waker.wake();
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a future to its end.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&flag));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        while !flag.0.swap(false, Ordering::Relaxed) {
            wait();
        }
    }
}

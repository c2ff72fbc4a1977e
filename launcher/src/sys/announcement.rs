//! Something that is said once, to whoever listens and however: a flag for loops that look, a descriptor (eventfd(2)) for
//! those that poll, wakers for futures. What was said stays said.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use rustix::event::{EventfdFlags, eventfd};

/// See the module.
#[derive(Debug)]
pub struct Announcement {
    flag: AtomicU32,
    descriptor: OwnedFd,
    waiting: Mutex<Vec<Waker>>,
}

impl Announcement {
    /// One that was not said yet.
    ///
    /// # Errors
    /// As eventfd(2).
    pub fn new() -> io::Result<Announcement> {
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Announcement { flag: AtomicU32::new(0), descriptor, waiting: Mutex::default() })
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Say it. Saying it again changes nothing.
    pub fn say(&self) {
        if self.flag.swap(1, Ordering::AcqRel) != 0 {
            return;
        }
        // A counter that goes from 0 to 1 cannot be full; nobody reads it, so that it stays readable.
        let _ = rustix::io::write(&self.descriptor, &1_u64.to_ne_bytes());
        let waiting = std::mem::take(&mut *self.waiting());
        // Outside of the lock: a waker is somebody else's code.
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether it was said.
    pub fn was_said(&self) -> bool {
        self.flag.load(Ordering::Acquire) != 0
    }

    /// Ready if it was said; otherwise the waker is kept and woken then, each that comes.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.was_said() {
            return Poll::Ready(());
        }
        self.waiting().push(context.waker().clone());
        // It may have been said since the look, when this waker was not there yet.
        if self.was_said() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The flag: not 0 when it was said. Valid as long as this lives.
    pub fn flag(&self) -> *const u32 {
        self.flag.as_ptr().cast_const()
    }

    /// The descriptor: readable when it was said. Valid as long as this lives.
    pub fn descriptor(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn every_kind_of_listener_hears_it_once_and_for_ever() {
        #[derive(Default)]
        struct Count(AtomicU32);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let said = Announcement::new().expect("eventfd");
        let readable = || {
            let mut polled = [PollFd::new(&said.descriptor, PollFlags::IN)];
            poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("polls") == 1
        };
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        assert!(said.poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(!readable() && !said.was_said());
        for _ in 0..3 {
            said.say();
            assert!(readable() && said.was_said());
            assert!(said.poll(&mut Context::from_waker(&waker)).is_ready());
            assert_eq!(count.0.load(Ordering::Relaxed), 1);
        }
    }
}

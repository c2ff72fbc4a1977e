//! A timer that wakes its loop once and for nothing else: timerfd_create(2) in tokio's event loop.
//!
//! tokio's own timers turn the loop several times on the way: when one is set, and as the time comes nearer.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer.
#[derive(Debug)]
pub struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// One that is not set. Must be called within a runtime.
    ///
    /// # Errors
    /// As timerfd_create(2).
    pub fn new() -> io::Result<Alarm> {
        // SAFETY: timerfd_create(2) has no requirement.
        #[expect(unsafe_code, reason = "neither nix nor rustix wraps it with the features that are built")]
        let made = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        #[expect(unsafe_code, reason = "as above")]
        let timer = unsafe { OwnedFd::from_raw_fd(made) };
        Ok(Alarm(super::readiness::register(timer, Interest::READABLE)?))
    }

    /// Waits for so long.
    ///
    /// # Errors
    /// As timerfd_settime(2) and read(2).
    pub async fn wait(&self, duration: Duration) -> io::Result<()> {
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(duration.subsec_nanos()),
        };
        let time = libc::itimerspec { it_interval: never, it_value: value };
        // SAFETY: the descriptor is a timer of ours, `time` lives for the call, and nothing is asked to be written.
        #[expect(unsafe_code, reason = "as above")]
        let set =
            unsafe { libc::timerfd_settime(self.0.get_ref().as_raw_fd(), 0, &raw const time, std::ptr::null_mut()) };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut expirations = [0; 8];
        self.0.async_io(Interest::READABLE, |timer| Ok(rustix::io::read(timer, &mut expirations[..])?)).await?;
        Ok(())
    }
}

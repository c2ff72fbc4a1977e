//! Readiness of a descriptor in tokio's event loop: epoll(7) through `AsyncFd`.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Register a descriptor with the current runtime.
pub fn register(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is an open descriptor that nobody else closes; `AsyncFd` owns it from here on and its
    // `as_raw_fd` always answers the same number, which is what `register_with_interest` requires.
    #[expect(unsafe_code, reason = "tokio leaves the descriptor's validity to the caller")]
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
    registered.map_err(Into::into)
}

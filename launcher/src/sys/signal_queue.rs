//! Signals that are read one after the other instead of interrupting: signalfd(2); and passed on: pidfd_send_signal(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::SigSet;
pub use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that a launcher obeys.
pub const ORDERS: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// A child ended; several may have.
    Child,
    /// One of [`ORDERS`].
    Order(Signal),
}

/// The signals that wait.
#[derive(Debug)]
pub struct SignalQueue {
    queue: SignalFd,
}

impl SignalQueue {
    /// Block the orders and SIGCHLD in this thread, which must be the only one, and queue them instead.
    pub fn new() -> io::Result<SignalQueue> {
        let mut mask: SigSet = ORDERS.into_iter().collect();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        Ok(SignalQueue { queue: SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// The next one, if one waits.
    pub fn next(&self) -> io::Result<Option<Came>> {
        let Some(read) = self.queue.read_signal()? else { return Ok(None) };
        let signal = i32::try_from(read.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        Ok(signal.map(|signal| if signal == Signal::SIGCHLD { Came::Child } else { Came::Order(signal) }))
    }
}

impl AsFd for SignalQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// Whether a signal asks for the end.
pub fn asks_for_the_end(signal: Signal) -> bool {
    matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT)
}

//! The standard descriptors of a worker.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

/// Take the descriptor that a parent passed as standard input, close-on-exec from now on, and put /dev/null in its
/// place: a plugin may read its standard input, and a program that it starts must not inherit the channel.
pub fn take_stdin() -> io::Result<OwnedFd> {
    const ABOVE_STANDARD: i32 = 3;
    let taken = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), ABOVE_STANDARD)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(taken)
}

//! The standard descriptors of a process.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};

/// Take the descriptor that a parent passed as standard input, close-on-exec from now on, and put /dev/null in its
/// place: a plugin may read its standard input, and a program that it starts must not inherit the channel.
pub fn take_stdin() -> io::Result<OwnedFd> {
    const ABOVE_STANDARD: i32 = 3;
    let taken = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), ABOVE_STANDARD)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(taken)
}

/// Whether standard input is an end of a channel, as a master gives one to each of its processes: of a local socket whose
/// messages have bounds. No shell and no service manager passes one.
pub fn is_channel() -> bool {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    let stdin = rustix::stdio::stdin();
    sockopt::socket_type(stdin) == Ok(SocketType::SEQPACKET) && sockopt::socket_domain(stdin) == Ok(AddressFamily::UNIX)
}

/// Wait until nobody reads standard output any more: the other end of a pipe or of a terminal was closed. Of a file
/// that never comes true.
pub fn reader_left() -> io::Result<()> {
    loop {
        let stdout = rustix::stdio::stdout();
        // POLLERR and POLLHUP are always told (poll(2)); that it can be written is not asked for.
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut polled, None) {
            Ok(_) if polled[0].revents().is_empty() => {}
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Put `file` in the place of standard output and standard error.
pub fn redirect_output(file: &File) -> io::Result<()> {
    rustix::stdio::dup2_stdout(file)?;
    rustix::stdio::dup2_stderr(file)?;
    Ok(())
}

//! A terminal for a child's output, so that it writes as it would for a person: pty(7), ioctl_tty(2). Where this process
//! has none itself, a pipe.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::readiness;

/// The reading end of a child's output.
#[derive(Debug)]
pub struct Output {
    file: AsyncFd<OwnedFd>,
}

impl Output {
    /// Both ends for a child whose output is shown on standard error: a terminal if that is one. Within a runtime.
    pub fn pair() -> io::Result<(Output, OwnedFd)> {
        let (ours, theirs) = if io::stderr().is_terminal() { terminal()? } else { pipe()? };
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((Output { file: readiness::register(ours, Interest::READABLE)? }, theirs))
    }

    /// The next bytes; 0: nobody has the other end any more. Nothing is lost when the future is dropped.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.async_io(Interest::READABLE, |file| Ok(rustix::io::read(file, &mut *buffer)?)).await;
        ended(read)
    }

    /// What is here already; 0: nothing.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match rustix::io::read(self.file.get_ref(), buffer) {
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            other => ended(other.map_err(io::Error::from)),
        }
    }
}

/// A terminal whose other side is gone says EIO and not end of file.
fn ended(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
        other => other,
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = io::pipe()?;
    Ok((ours.into(), theirs.into()))
}

/// A new terminal, as wide as that of standard error. Close-on-exec from the start, and nobody's controlling terminal.
fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let ours = File::options().read(true).write(true).open("/dev/ptmx")?;
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which lives through the call.
    #[expect(unsafe_code, reason = "the features of nix and rustix that are built have no terminals")]
    let done = unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes flags of open(2) by value and touches no memory of ours.
    #[expect(unsafe_code, reason = "the features of nix and rustix that are built have no terminals")]
    let theirs = unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if theirs < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, and nobody else has it.
    #[expect(unsafe_code, reason = "the features of nix and rustix that are built have no terminals")]
    let theirs = unsafe { OwnedFd::from_raw_fd(theirs) };
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ fills the structure, which is ours for the call.
    #[expect(unsafe_code, reason = "the features of nix and rustix that are built have no terminals")]
    let known = unsafe { libc::ioctl(io::stderr().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    if known == 0 {
        // SAFETY: TIOCSWINSZ reads the structure, which lives through the call. Without a size compilers take 80 columns.
        #[expect(unsafe_code, reason = "the features of nix and rustix that are built have no terminals")]
        let _ = unsafe { libc::ioctl(theirs.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }
    Ok((ours.into(), theirs))
}

//! `launcher run --daemon` seen from the daemon that it started: it waits at the other end of a socket, which is the
//! daemon's standard input, until the daemon serves or has failed.
//!
//! What the daemon prints until then goes where the starter's output goes as well as into its log, and only into the log
//! afterwards. Whoever interrupts the starter wants no daemon: its end of the socket closes, and the daemon stops. Working directory, umask and limits stay those of the
//! starter, so that a plugin sees the same as in the foreground; what the launcher itself makes has its modes anyway.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// What the daemon writes when it serves.
pub const SERVES: &[u8] = b"serves\n";

/// The process that waits.
#[derive(Debug)]
pub struct Starter {
    socket: UnixStream,
}

impl Starter {
    /// In the daemon, before anything else: take the socket, and leave the starter's terminal; `kept`: its keeper did.
    ///
    /// # Errors
    /// Standard input is no such socket: this process was not made by `launcher run --daemon`.
    pub fn meet(kept: bool) -> io::Result<Starter> {
        let socket = UnixStream::from(sys::stdio::take_stdin()?);
        socket.peer_addr()?;
        if !kept {
            // Otherwise its keeper has. No second fork: a leader of a session gets a terminal only if it opens one, and
            // the launcher opens none.
            sys::process::lead_session()?;
        }
        Ok(Starter { socket })
    }

    /// Keep it waiting; `log` is where the daemon writes afterwards. Must be called within a runtime.
    pub(super) fn wait(self, log: &Path) -> io::Result<Waiting> {
        let log = sys::file::append_own(log)?;
        let watched = OwnedFd::from(self.socket.try_clone()?);
        let watched = sys::readiness::register(watched, Interest::READABLE)?;
        Ok(Waiting { socket: self.socket, watched, log })
    }
}

/// A starter that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    socket: UnixStream,
    watched: AsyncFd<OwnedFd>,
    log: File,
}

impl Waiting {
    /// Resolves when the starter is gone; it never says anything.
    pub(super) async fn gone(&self) {
        let _ = self.watched.readable().await;
    }

    /// Where the daemon's other processes are to write afterwards.
    pub(super) fn log(&self) -> io::Result<OwnedFd> {
        Ok(self.log.try_clone()?.into())
    }

    /// Say that the daemon serves, and print nothing any more where the starter does.
    pub(super) fn let_go(mut self) {
        // Nothing can be done about an error, and nobody is left to be told.
        let _ = sys::stdio::redirect_output(&self.log);
        let _ = self.socket.write_all(SERVES);
    }
}

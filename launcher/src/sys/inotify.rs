//! Changes of names and files: inotify(7), awaited in tokio's event loop.
//!
//! A queue of events and the watches that fill it. Which paths matter and what an event means is for the caller.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::readiness;

pub use nix::sys::inotify::{AddWatchFlags as Mask, InotifyEvent as Event, WatchDescriptor as Watch};

/// Why a path is not watched.
#[derive(Debug)]
pub enum Refusal {
    /// Nothing is there, or not what the mask demands.
    Absent,
    /// Watching takes the permission to read, also of a directory.
    Forbidden,
    /// `fs.inotify.max_user_watches` is used up.
    Exhausted,
    /// Anything else.
    Other(io::Error),
}

/// An inotify instance.
#[derive(Debug)]
pub struct Queue {
    inotify: Inotify,
    /// A duplicate of the instance's descriptor.
    readiness: AsyncFd<OwnedFd>,
}

impl Queue {
    /// An empty queue in the current runtime. EMFILE: `fs.inotify.max_user_instances` is used up.
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let readiness = readiness::register(inotify.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        Ok(Self { inotify, readiness })
    }

    /// Watches what is at `path`. One inode has one watch: its mask is *replaced*.
    pub fn add(&self, path: &Path, mask: Mask) -> Result<Watch, Refusal> {
        self.inotify.add_watch(path, mask).map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => Refusal::Absent,
            Errno::EACCES => Refusal::Forbidden,
            Errno::ENOSPC => Refusal::Exhausted,
            other => Refusal::Other(other.into()),
        })
    }

    /// Ends a watch, unless the kernel has ended it before because its inode is gone.
    pub fn remove(&self, watch: Watch) {
        // EINVAL is the only failure of an instance that exists: there is no such watch any more.
        let _gone = self.inotify.rm_watch(watch);
    }

    /// Waits for events. Nothing is lost when the future is dropped.
    pub async fn events(&self) -> io::Result<Vec<Event>> {
        loop {
            let mut ready = self.readiness.readable().await?;
            match self.inotify.read_events() {
                Ok(events) => return Ok(events),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The events that wait to be read, without waiting for any.
    #[cfg(test)]
    pub(crate) fn pending(&self) -> io::Result<Vec<Event>> {
        match self.inotify.read_events() {
            Ok(events) => Ok(events),
            Err(Errno::EAGAIN) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The descriptor's number, for /proc.
    #[cfg(test)]
    pub(crate) fn number(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.inotify.as_fd())
    }
}

/// Exchanges two paths in one step (renameat2(2), `RENAME_EXCHANGE`).
#[cfg(test)]
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).map_err(Into::into)
}

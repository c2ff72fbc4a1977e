//! Changes of names and files: inotify(7), awaited in tokio's event loop.
//!
//! A queue of events and the watches that fill it. Which paths matter and what an event means is for the caller.
//!
//! Whoever closes an instance as the last, or dies as the last who has it, waits in the kernel until nobody is within a
//! notification of any instance: ten milliseconds, or seconds if a process of low priority is, and gets no processor. A
//! process whose death must be noticed at once therefore has another one hold its instance, too: [`Queue::descriptor`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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

    /// The instance of a process that is gone, in the current runtime: without its watches, and without what they have told.
    ///
    /// # Errors
    /// It is no such instance, or cannot be registered.
    pub fn adopt(instance: OwnedFd) -> io::Result<Self> {
        let number = instance.as_raw_fd();
        if std::fs::read_link(format!("/proc/self/fd/{number}"))?.as_os_str() != "anon_inode:inotify" {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // proc_pid_fdinfo(5).
        let watches = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
        let watches = watches.lines().filter_map(|line| line.strip_prefix("inotify wd:")?.split(' ').next());
        for watch in watches.filter_map(|watch| libc::c_int::from_str_radix(watch, 16).ok()) {
            // SAFETY: inotify_rm_watch(2) touches no memory. If the watch has ended meanwhile, it says so.
            #[expect(unsafe_code, reason = "nix makes no watch of a number")]
            unsafe {
                libc::inotify_rm_watch(number, watch)
            };
        }
        // SAFETY: it is an inotify instance, as was just read.
        #[expect(unsafe_code, reason = "nothing safe makes one of a descriptor")]
        let inotify = unsafe { Inotify::from_owned_fd(instance) };
        loop {
            match inotify.read_events() {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let readiness = readiness::register(inotify.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        Ok(Self { inotify, readiness })
    }

    /// Another descriptor of the instance.
    ///
    /// # Errors
    /// As fcntl(2).
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.inotify.as_fd().try_clone_to_owned()
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

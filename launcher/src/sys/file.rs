//! Files whose place somebody else may have prepared: opened without following a link and without waiting, and
//! looked at before they are trusted. open(2), flock(2).

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// What tells one state of a file from another without reading it: stat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Of the file system.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Likewise. A writer can set the modification time back (`cp -p`, `rsync -t`), but not this.
    pub changed: (i64, i64),
}

impl Stamp {
    /// Of a file that was looked at.
    pub fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Of what is at `path`, through links; `None`: there is nothing, or it cannot be seen.
    pub fn at(path: &Path) -> Option<Stamp> {
        std::fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))
    }
}

/// The user that this process acts as.
pub fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Open a regular file for reading. A pipe or a device is refused instead of waited for.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// Open a regular file that is ours and that no other user can write; not through a link.
pub fn open_own(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.uid() == user() && metadata.mode() & 0o022 == 0 {
        return Ok(file);
    }
    Err(io::ErrorKind::PermissionDenied.into())
}

/// Create a file of ours, 0600, or empty it; not through a link.
pub fn create_own(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Open a file of ours, 0600, for reading and writing, made if need be; not through a link.
pub fn open_or_create_own(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Open a file of ours, 0600, to add to its end, made if need be; not through a link.
pub fn append_own(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Open a log for appending, made 0640 if need be; not through a link in its place. It must be a regular file or a
/// device: a pipe that nobody reads would stop its writer.
pub fn open_log(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // NONBLOCK: opening a pipe would wait for its reader. It changes nothing for a file.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file =
        options.append(true).create(true).mode(0o640).custom_flags(flags).open(path).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::ELOOP) => io::Error::new(error.kind(), "it is a symbolic link"),
                _ => error,
            }
        })?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_char_device() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a regular file nor a device"))
}

/// Whether the lock on a file was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// By us now, until the file is closed.
    Ours,
    /// By another process before.
    Others,
}

/// Try to lock a file for this process alone.
pub fn lock(file: &File) -> io::Result<Locked> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Locked::Ours),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Locked::Others),
        Err(error) => Err(error.into()),
    }
}

//! Unix sockets whose path is longer than an address holds: 107 bytes and a zero (unix(7)).
//!
//! The directory is opened with `O_PATH`, and the address names the socket through it:
//! `/proc/self/fd/N/control.sock`. That serves bind(2) and connect(2) alike. A name that is too long by itself is an
//! error.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// `sun_path` without the zero at its end.
const LONGEST: usize = 107;

/// A path that fits into an address, while this lives.
#[derive(Debug)]
pub struct ShortPath {
    path: PathBuf,
    /// The directory that the path leads through.
    _directory: Option<OwnedFd>,
}

impl ShortPath {
    /// A path for the socket at `path`, which need not exist; its directory must.
    pub fn to(path: &Path) -> io::Result<ShortPath> {
        if path.as_os_str().len() <= LONGEST {
            return Ok(ShortPath { path: path.to_owned(), _directory: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        let directory = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        if short.as_os_str().len() > LONGEST {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        Ok(ShortPath { path: short, _directory: Some(directory) })
    }

    /// What bind(2) and connect(2) take.
    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

/// Connect to the socket at `path`, however long that is. A listener whose queue is full is waited for so long
/// (`SO_SNDTIMEO` bounds connect(2) of a Unix socket); then the error is [`io::ErrorKind::WouldBlock`].
pub fn connect_within(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let short = ShortPath::to(path)?;
    let address = SocketAddrUnix::new(short.as_path())?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    connect(&socket, &address)?;
    Ok(UnixStream::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_socket_far_down_is_bound_and_reached() {
        let place = tempfile::tempdir().expect("directory");
        let mut deep = place.path().to_owned();
        for _ in 0..5 {
            deep.push("d".repeat(200));
        }
        std::fs::create_dir_all(&deep).expect("directories");
        let path = deep.join("control.sock");
        let short = ShortPath::to(&path).expect("short");
        let listener = UnixListener::bind(short.as_path()).expect("binds");
        drop(short);
        assert!(path.exists(), "the socket is where it was asked for");
        let client = connect_within(&path, Duration::from_secs(5)).expect("connects");
        let (server, _) = listener.accept().expect("accepts");
        drop((client, server));
    }

    #[test]
    fn a_short_path_stays_as_it_is_and_a_long_name_is_refused() {
        assert_eq!(ShortPath::to(Path::new("/a/s")).expect("short").as_path(), Path::new("/a/s"));
        let place = tempfile::tempdir().expect("directory");
        let error = ShortPath::to(&place.path().join("n".repeat(108))).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidFilename);
        let nowhere = Path::new("/nowhere").join("d".repeat(200)).join("s");
        assert_eq!(ShortPath::to(&nowhere).expect_err("no directory").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_listener_that_takes_nobody_is_not_waited_for_for_ever() {
        let place = tempfile::tempdir().expect("directory");
        let path = place.path().join("s");
        let listener = UnixListener::bind(&path).expect("binds");
        rustix::net::listen(&listener, 0).expect("a queue of one");
        let _waiting = connect_within(&path, Duration::from_secs(5)).expect("is queued");
        let error = connect_within(&path, Duration::from_millis(20)).expect_err("the queue is full");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}

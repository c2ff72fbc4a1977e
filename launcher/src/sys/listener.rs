//! Listening sockets: bound once, held by the master from start to stop, close-on-exec, non-blocking.
//!
//! A worker's death or a swap never closes one, because a queued connection dies with the last holder of its
//! socket. Nothing here ever calls shutdown(2): on a shared listener it stops every holder.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::unix_path::ShortPath;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt,
};

/// Connections that may wait in the kernel: `listen(2)` clamps it to `net.core.somaxconn`.
const BACKLOG: i32 = i32::MAX;

/// Why a socket cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// TCP.
    #[error("cannot listen on {address}: {source}{hint}")]
    Tcp {
        /// The address as asked for.
        address: SocketAddr,
        /// What to do.
        hint: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Unix.
    #[error("cannot listen on unix:{}: {source}{hint}", path.display())]
    Unix {
        /// The path as asked for.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Listen on a TCP address. Port 0 takes a free port: the second value says which.
pub fn tcp(address: SocketAddr) -> Result<(OwnedFd, SocketAddr), ListenError> {
    let open = || -> io::Result<(OwnedFd, SocketAddr)> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        // Without it a restart within a minute fails: the last connections are in TIME_WAIT.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        let bound = SocketAddr::try_from(getsockname(&socket)?)?;
        Ok((socket, bound))
    };
    open().map_err(|source| {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => "; another program listens there: stop it or change `listen`",
            io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 need CAP_NET_BIND_SERVICE (or lower net.ipv4.ip_unprivileged_port_start)"
            }
            _ => "",
        };
        ListenError::Tcp { address, hint, source }
    })
}

/// A Unix socket's place in the file system; unlinked when dropped, if it is still ours.
#[derive(Debug)]
pub struct UnixPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl UnixPath {
    /// Of a socket that listens there already.
    pub fn of(path: &Path) -> io::Result<UnixPath> {
        let metadata = fs::symlink_metadata(path)?;
        if !metadata.file_type().is_socket() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(UnixPath { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == (self.device, self.inode)) {
            // Nobody is left to tell if this fails; the next start finds it stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listen on a Unix socket. A stale socket file is replaced, a live one never.
pub fn unix(path: &Path, mode: Option<u32>) -> Result<(OwnedFd, UnixPath), ListenError> {
    let fail = |hint: &'static str| move |source: io::Error| ListenError::Unix { path: path.to_owned(), hint, source };
    let short = ShortPath::to(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => fail("; its directory does not exist")(source),
        io::ErrorKind::InvalidFilename => fail("; the socket's name is too long")(source),
        _ => fail("")(source),
    })?;
    let address = SocketAddrUnix::new(short.as_path()).map_err(|error| fail("")(error.into()))?;
    remove_stale(path).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => fail("; another program listens there: stop it or change `listen`")(source),
        io::ErrorKind::AlreadyExists => fail("; the path is not a socket, so it was left alone")(source),
        _ => fail("")(source),
    })?;
    let open = || -> io::Result<(OwnedFd, UnixPath)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        bind(&socket, &address)?;
        if let Some(mode) = mode {
            // Before listen(2): until then a connection is refused whatever the mode.
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        let metadata = fs::symlink_metadata(path)?;
        listen(&socket, BACKLOG)?;
        Ok((socket, UnixPath { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() }))
    };
    open().map_err(|source| {
        let hint = match source.kind() {
            io::ErrorKind::NotFound => "; its directory does not exist",
            io::ErrorKind::PermissionDenied => "; its directory is not writable",
            _ => "",
        };
        fail(hint)(source)
    })
}

/// Unlink the socket of a program that is gone. Connecting is the only proof of life.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    match UnixStream::connect(ShortPath::to(path)?.as_path()) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // Connected, or its queue is full: alive.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn port_zero_takes_a_free_port_and_says_which() {
        let (_socket, address) = tcp("127.0.0.1:0".parse().expect("address")).expect("listens");
        assert_ne!(address.port(), 0);
        TcpStream::connect(address).expect("connects");
    }

    #[test]
    fn an_address_in_use_is_an_error_with_advice() {
        let (_socket, address) = tcp("127.0.0.1:0".parse().expect("address")).expect("listens");
        let message = tcp(address).expect_err("in use").to_string();
        assert!(message.contains(&address.to_string()) && message.contains("another program"), "{message}");
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_a_live_one_and_a_file_never() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let (socket, place) = unix(&path, Some(0o600)).expect("listens");
        assert_eq!(fs::metadata(&path).expect("exists").mode() & 0o777, 0o600);
        let message = unix(&path, None).expect_err("is live").to_string();
        assert!(message.contains("another program"), "{message}");
        drop(socket);
        std::mem::forget(place); // as a killed master leaves it
        let (_socket, place) = unix(&path, None).expect("the stale one is replaced");
        drop(place);
        assert!(!path.exists(), "the path goes with its owner");
        fs::write(&path, "precious").expect("writes");
        assert!(unix(&path, None).is_err());
        assert_eq!(fs::read(&path).expect("untouched"), b"precious");
    }
}

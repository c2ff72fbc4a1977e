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

pub use super::socket_kind::Kind;
use super::unix_path::ShortPath;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt,
};

/// Connections that may wait in the kernel: `listen(2)` clamps it to `net.core.somaxconn`.
const BACKLOG: i32 = i32::MAX;

/// Why a socket cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The system refused.
    #[error("cannot listen on {place}: {source}{hint}")]
    Refused {
        /// The place as asked for.
        place: String,
        /// What to do.
        hint: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// `fd://NAME`, and the launcher was not started with it.
    #[error("cannot listen on fd://{name}: {}", not_passed(given))]
    NotPassed {
        /// The name as asked for.
        name: String,
        /// The names that there are.
        given: Vec<String>,
    },
    /// What the launcher was started with is nothing to serve on.
    #[error(
        "cannot listen on {place}: the descriptor is {what}; pass a listening socket, or a UDP socket that is bound"
    )]
    Unsuitable {
        /// The place as asked for.
        place: String,
        /// What it is.
        what: &'static str,
    },
    /// A socket that is listened on already cannot become what is asked for.
    #[error(
        "`ipv6_only` of {place} cannot be changed while it is listened on: restart the launcher, or take another port"
    )]
    Held {
        /// The place.
        place: String,
    },
}

fn not_passed(given: &[String]) -> String {
    match given {
        [] => {
            "the launcher was started without sockets (LISTEN_FDS is not set for it); systemd passes them by a socket \
               unit with FileDescriptorName="
                .to_owned()
        }
        given => format!("it was not passed to the launcher, which has `fd://{}`", given.join("`, `fd://")),
    }
}

/// How a socket listens; what is `None` is left as it is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Connections that may wait in the kernel.
    pub backlog: Option<u32>,
    /// `IPV6_V6ONLY`, off unless given.
    pub ipv6_only: Option<bool>,
    /// `TCP_NODELAY`, which accepted sockets inherit.
    pub nodelay: Option<bool>,
}

impl Options {
    fn backlog(&self) -> i32 {
        self.backlog.map_or(BACKLOG, |backlog| i32::try_from(backlog).unwrap_or(BACKLOG))
    }
}

/// Listen on a TCP address. Port 0 takes a free port: the second value says which.
pub fn tcp(address: SocketAddr, options: &Options) -> Result<(OwnedFd, SocketAddr), ListenError> {
    let open = || -> io::Result<(OwnedFd, SocketAddr)> {
        let socket = inet(address, SocketType::STREAM, options)?;
        // Without it a restart within a minute fails: the last connections are in TIME_WAIT.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if let Some(nodelay) = options.nodelay {
            sockopt::set_tcp_nodelay(&socket, nodelay)?;
        }
        bind(&socket, &address)?;
        listen(&socket, options.backlog())?;
        let bound = SocketAddr::try_from(getsockname(&socket)?)?;
        Ok((socket, bound))
    };
    open().map_err(|source| refused(address.to_string(), source))
}

/// Receive datagrams at a UDP address; likewise. Without `SO_REUSEADDR`, with which two programs could have one address and
/// the first would get nothing.
pub fn udp(address: SocketAddr, options: &Options) -> Result<(OwnedFd, SocketAddr), ListenError> {
    let open = || -> io::Result<(OwnedFd, SocketAddr)> {
        let socket = inet(address, SocketType::DGRAM, options)?;
        bind(&socket, &address)?;
        let bound = SocketAddr::try_from(getsockname(&socket)?)?;
        Ok((socket, bound))
    };
    open().map_err(|source| refused(format!("udp://{address}"), source))
}

fn inet(address: SocketAddr, kind: SocketType, options: &Options) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if address.is_ipv6() {
        // Always: the machine's default (`net.ipv6.bindv6only`) is another matter than the configuration.
        sockopt::set_ipv6_v6only(&socket, options.ipv6_only == Some(true))?;
    }
    Ok(socket)
}

fn refused(place: String, source: io::Error) -> ListenError {
    let hint = match source.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there: stop it or change `listen`",
        io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE (or lower net.ipv4.ip_unprivileged_port_start)"
        }
        _ => "",
    };
    ListenError::Refused { place, hint, source }
}

/// Listen on a name of the abstract namespace (unix(7)), which goes with its last holder.
pub fn abstract_unix(name: &str, options: &Options) -> Result<OwnedFd, ListenError> {
    let open = || -> io::Result<OwnedFd> {
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        bind(&socket, &address)?;
        listen(&socket, options.backlog())?;
        Ok(socket)
    };
    open().map_err(|source| refused(format!("unix:@{name}"), source))
}

/// Make a socket ready that this process was started with, and tell what and where it is.
pub fn inherited(name: &str, socket: &OwnedFd, options: &Options) -> Result<(Kind, String), ListenError> {
    let place = format!("fd://{name}");
    let unsuitable = |what| ListenError::Unsuitable { place: place.clone(), what };
    let kind = Kind::of(socket)
        .map_err(|_| unsuitable("no socket"))?
        .ok_or_else(|| unsuitable("not a kind of socket that is known"))?;
    let listening =
        matches!(kind, Kind::Udp | Kind::UnixDatagram) || sockopt::socket_acceptconn(socket).is_ok_and(|it| it);
    if !listening {
        return Err(unsuitable("a socket that does not listen (systemd: Accept=yes passes connections)"));
    }
    let prepare = || -> io::Result<String> {
        // A worker that is woken for a connection which another one has taken must not wait for the next.
        rustix::io::ioctl_fionbio(socket, true)?;
        adjust(socket, kind, options)?;
        address(socket, kind)
    };
    let address = prepare().map_err(|source| refused(place.clone(), source))?;
    Ok((kind, address))
}

/// Where a socket is bound, as it is told to people and plugins.
fn address(socket: &OwnedFd, kind: Kind) -> io::Result<String> {
    let name = getsockname(socket)?;
    Ok(match kind {
        Kind::Tcp => SocketAddr::try_from(name)?.to_string(),
        Kind::Udp => format!("udp://{}", SocketAddr::try_from(name)?),
        Kind::Unix | Kind::UnixDatagram | Kind::UnixPacket => {
            let name = SocketAddrUnix::try_from(name)?;
            match (name.abstract_name(), name.path()) {
                (Some(name), _) => format!("unix:@{}", String::from_utf8_lossy(name)),
                (None, Some(path)) => format!("unix:{}", path.to_string_lossy()),
                (None, None) => "unix:".to_owned(),
            }
        }
    })
}

/// Have a socket that listens already listen as is asked for now.
///
/// # Errors
/// As setsockopt(2) and listen(2).
pub fn adjust(socket: &OwnedFd, kind: Kind, options: &Options) -> io::Result<()> {
    if let (Some(_), Kind::Tcp | Kind::Unix | Kind::UnixPacket) = (options.backlog, kind) {
        // Those that wait already stay, whatever the number.
        listen(socket, options.backlog())?;
    }
    if let (Some(nodelay), Kind::Tcp) = (options.nodelay, kind) {
        sockopt::set_tcp_nodelay(socket, nodelay)?;
    }
    Ok(())
}

/// Whether a socket that is bound takes what is asked for in this respect, which cannot be changed any more.
pub fn agrees(socket: &OwnedFd, options: &Options) -> bool {
    // Of `[::]` alone: the kernel turns it on for every other address, and IPv4 has no such option.
    let any = getsockname(socket).ok().and_then(|name| SocketAddr::try_from(name).ok());
    let any = any.is_some_and(|address| address.is_ipv6() && address.ip().is_unspecified());
    !any || sockopt::ipv6_v6only(socket).map_or(true, |only| only == (options.ipv6_only == Some(true)))
}

/// Another socket that listens where a TCP socket listens already, with a queue of its own: the kernel chooses between them
/// by the addresses of a connection (`SO_REUSEPORT`, socket(7)). From then on any process of this user may listen there too.
pub fn beside(first: &OwnedFd, options: &Options) -> io::Result<OwnedFd> {
    let address = SocketAddr::try_from(getsockname(first)?)?;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, sockopt::ipv6_v6only(first)?)?;
    }
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Whoever is there must allow it as well. When the second one listens the first becomes a member of their group.
    for socket in [first, &socket] {
        sockopt::set_socket_reuseport(socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, options.backlog())?;
    Ok(socket)
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
pub fn unix(path: &Path, mode: Option<u32>, options: &Options) -> Result<(OwnedFd, UnixPath), ListenError> {
    let place = format!("unix:{}", path.display());
    let fail = |hint: &'static str| {
        let place = place.clone();
        move |source: io::Error| ListenError::Refused { place, hint, source }
    };
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
        listen(&socket, options.backlog())?;
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

    const DEFAULT: Options = Options { backlog: None, ipv6_only: None, nodelay: None };

    #[test]
    fn port_zero_takes_a_free_port_and_says_which() {
        let (_socket, address) = tcp("127.0.0.1:0".parse().expect("address"), &DEFAULT).expect("listens");
        assert_ne!(address.port(), 0);
        TcpStream::connect(address).expect("connects");
    }

    #[test]
    fn sockets_beside_each_other_share_the_connections() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok((first, address)) = tcp(host.parse().expect("address"), &DEFAULT) else { continue };
            let second = beside(&first, &DEFAULT).expect("listens");
            let third = beside(&first, &DEFAULT).expect("listens");
            let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(address).expect("connects")).collect();
            let queued = [first, second, third].map(|socket| {
                let listener = std::net::TcpListener::from(socket);
                listener.incoming().take_while(Result::is_ok).count()
            });
            assert_eq!(queued.iter().sum::<usize>(), clients.len(), "{queued:?}");
            assert!(queued.iter().all(|queued| *queued > 0), "{queued:?}");
        }
    }

    #[test]
    fn an_address_in_use_is_an_error_with_advice() {
        let (_socket, address) = tcp("127.0.0.1:0".parse().expect("address"), &DEFAULT).expect("listens");
        let message = tcp(address, &DEFAULT).expect_err("in use").to_string();
        assert!(message.contains(&address.to_string()) && message.contains("another program"), "{message}");
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_a_live_one_and_a_file_never() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let (socket, place) = unix(&path, Some(0o600), &DEFAULT).expect("listens");
        assert_eq!(fs::metadata(&path).expect("exists").mode() & 0o777, 0o600);
        let message = unix(&path, None, &DEFAULT).expect_err("is live").to_string();
        assert!(message.contains("another program"), "{message}");
        drop(socket);
        std::mem::forget(place); // as a killed master leaves it
        let (_socket, place) = unix(&path, None, &DEFAULT).expect("the stale one is replaced");
        drop(place);
        assert!(!path.exists(), "the path goes with its owner");
        fs::write(&path, "precious").expect("writes");
        assert!(unix(&path, None, &DEFAULT).is_err());
        assert_eq!(fs::read(&path).expect("untouched"), b"precious");
    }

    #[test]
    fn ipv6_alone_leaves_ipv4_to_others() {
        let alone = Options { ipv6_only: Some(true), ..DEFAULT };
        let Ok((socket, address)) = tcp("[::]:0".parse().expect("address"), &alone) else { return }; // no IPv6 here
        assert!(agrees(&socket, &alone) && !agrees(&socket, &DEFAULT));
        let v4 = SocketAddr::from(([0, 0, 0, 0], address.port()));
        let (v4, _) = tcp(v4, &DEFAULT).expect("is free");
        assert!(agrees(&v4, &DEFAULT) && agrees(&v4, &alone), "it has no such option");
        let (both, address) = tcp("[::]:0".parse().expect("address"), &DEFAULT).expect("listens");
        assert!(agrees(&both, &DEFAULT) && !agrees(&both, &alone));
        tcp(SocketAddr::from(([0, 0, 0, 0], address.port())), &DEFAULT).expect_err("is taken");
        let (one, _) = tcp("[::1]:0".parse().expect("address"), &DEFAULT).expect("listens");
        assert!(agrees(&one, &DEFAULT) && agrees(&one, &alone), "it takes no IPv4 anyway");
    }

    #[test]
    fn a_socket_of_somebody_else_is_told_for_what_it_is() {
        let tell = |socket: &OwnedFd| inherited("x", socket, &DEFAULT);
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let stream = OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").expect("binds"));
        let (kind, address) = tell(&stream).expect("is good");
        assert!(kind == Kind::Tcp && address.starts_with("127.0.0.1:"), "{address}");
        let (datagrams, _) = udp("127.0.0.1:0".parse().expect("address"), &DEFAULT).expect("binds");
        let (kind, address) = tell(&datagrams).expect("is good");
        assert!(kind == Kind::Udp && address.starts_with("udp://127.0.0.1:"), "{address}");
        let (unix, _place) = unix(&path, None, &DEFAULT).expect("listens");
        assert_eq!(tell(&unix).expect("is good"), (Kind::Unix, format!("unix:{}", path.display())));
        let name = format!("launcher-test-{}", std::process::id());
        let hidden = abstract_unix(&name, &DEFAULT).expect("listens");
        assert_eq!(tell(&hidden).expect("is good"), (Kind::Unix, format!("unix:@{name}")));
        let connected = OwnedFd::from(UnixStream::pair().expect("a pair").0);
        let message = tell(&connected).expect_err("listens to nobody").to_string();
        assert!(message.contains("fd://x") && message.contains("does not listen"), "{message}");
        let file = OwnedFd::from(fs::File::open("/dev/null").expect("opens"));
        let message = tell(&file).expect_err("no socket").to_string();
        assert!(message.contains("no socket"), "{message}");
    }
}

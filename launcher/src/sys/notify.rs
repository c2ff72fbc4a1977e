//! Telling systemd about this process: a datagram to the socket that `NOTIFY_SOCKET` names. sd_notify(3).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::passing;

/// What systemd says to the process that it started and to no other: a child that answered in its name would be
/// believed.
pub const VARIABLES: [&str; 7] =
    ["NOTIFY_SOCKET", "FDSTORE", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// How many descriptors whoever manages this process keeps for the next one: `FDSTORE` (systemd 254 and later).
pub fn keeps() -> usize {
    let asked = std::env::var_os("NOTIFY_SOCKET").is_some_and(|name| !name.is_empty());
    std::env::var("FDSTORE").ok().filter(|_| asked).and_then(|most| most.parse().ok()).unwrap_or(0)
}

/// A socket that is connected to whoever wants to be told; `None`: nobody does. It does not block.
pub fn connect() -> io::Result<Option<UnixDatagram>> {
    std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()).map(|name| to(&name)).transpose()
}

fn to(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// Say all this, and wait until it was heard and acted upon: `BARRIER=1` (sd_notify_barrier(3)).
///
/// # Errors
/// `TimedOut`: not within `patience`. Otherwise those of sendmsg(2) and pipe(2).
pub fn tell_and_wait(socket: impl AsFd, messages: &[String], patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let barrier = ("BARRIER=1".to_owned(), Some(writer));
    for (message, descriptor) in messages.iter().map(|message| (message.clone(), None)).chain([barrier]) {
        let descriptors: Vec<_> = descriptor.iter().map(OwnedFd::as_fd).collect();
        while let Err(error) = passing::send(&socket, message.as_bytes(), &descriptors) {
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(error);
            }
            wait(&socket, PollFlags::OUT, deadline)?;
        }
    }
    // It closes the other end when it has come so far.
    wait(reader, PollFlags::HUP, deadline)
}

fn wait(descriptor: impl AsFd, event: PollFlags, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        match poll(&mut [PollFd::new(&descriptor, event)], Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Within which time it must hear of the process `pid`, always: `WATCHDOG_USEC`, unless `WATCHDOG_PID` is another's.
pub fn watchdog(pid: u32) -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    if std::env::var_os("WATCHDOG_PID").is_some() && number("WATCHDOG_PID") != Some(pid.into()) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|microseconds| *microseconds > 0).map(Duration::from_micros)
}

/// The zero of CLOCK_MONOTONIC, which every process of this machine agrees on to the microsecond.
pub fn clock_start() -> Instant {
    let now = Instant::now();
    now.checked_sub(Duration::from_micros(monotonic_usec())).unwrap_or(now)
}

/// Microseconds of CLOCK_MONOTONIC, by which systemd tells one reload from the next.
pub fn monotonic_usec() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime(2) writes a timespec to where it is told, which is ours. This clock always exists.
    #[expect(unsafe_code, reason = "std's Instant does not tell its number")]
    unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time);
    }
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1000
}

//! What a process lets go of before it dies slowly: its connections, in the handler of a signal.
//!
//! Writing a backtrace takes a fifth of a second, or many where the machine is busy. For as long the peers of a process
//! that is dying would wait for answers that never come, and listeners would wake it for connections that it never
//! accepts. Nothing here allocates or takes a lock.
//!
//! Connections are not closed: another thread runs on, may open a file in the meantime, which would get the number of a
//! connection, and would write a response into it. They are replaced by a socket without a peer. Neither are they shut
//! down, because one that was handed over is another process's by now. Listeners and datagram sockets are everybody's and
//! stay open; only this process is not woken for them any more, and whoever was woken before asks [`has_begun`].

#![expect(unsafe_code, reason = "system calls in the handler of a signal")]

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Bytes of the list of descriptors that are read at once, on the stack of the handler.
const LISTED: usize = 4096;

/// Descriptors that are looked at where they cannot be listed.
const MOST: u64 = 1 << 16;

/// Where the name begins in a `struct linux_dirent64` (getdents(2)), and where its length is.
const NAME: usize = 19;
const LENGTH: usize = 16;

static BEGUN: AtomicBool = AtomicBool::new(false);

/// Whether this process lets go of what it has: what it accepts from then on is lost with it.
pub fn has_begun() -> bool {
    BEGUN.load(Relaxed)
}

/// Drops every connection of this process but the one that `kept` is, whatever its numbers.
///
/// Async-signal-safe.
pub fn connections(kept: c_int) {
    BEGUN.store(true, Relaxed);
    let kept = inode(kept);
    let gone = without_peer();
    each_descriptor(|descriptor| {
        if descriptor > libc::STDERR_FILENO && descriptor != gone && is_socket(descriptor) {
            let shared = option(descriptor, libc::SO_ACCEPTCONN) == Some(1)
                || option(descriptor, libc::SO_TYPE) == Some(libc::SOCK_DGRAM);
            if shared {
                each_descriptor(|other| forget(other, descriptor));
            } else if kept.is_none() || inode(descriptor) != kept {
                // SAFETY: async-signal-safe; both are open, and whoever owns the number still owns it.
                unsafe { libc::dup3(gone, descriptor, libc::O_CLOEXEC) };
            }
        }
    });
}

/// A socket whose peer has gone; standard input, which is /dev/null in a worker, where no more can be opened.
fn without_peer() -> c_int {
    let mut pair = [-1; 2];
    // SAFETY: a system call that fills two numbers of ours.
    if unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr()) } != 0 {
        return libc::STDIN_FILENO;
    }
    // SAFETY: async-signal-safe; it was opened just now and nobody else knows it.
    unsafe { libc::close(pair[1]) };
    pair[0]
}

/// Whatever `descriptor` is: if it is an epoll instance, it reports `socket` no more.
fn forget(descriptor: c_int, socket: c_int) {
    if descriptor > libc::STDERR_FILENO {
        // SAFETY: async-signal-safe, and without memory for this operation (epoll_ctl(2)); it is refused for what is none.
        unsafe { libc::epoll_ctl(descriptor, libc::EPOLL_CTL_DEL, socket, std::ptr::null_mut()) };
    }
}

fn status(descriptor: c_int) -> Option<libc::stat> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: async-signal-safe; it fills a structure of ours.
    if unsafe { libc::fstat(descriptor, status.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: fstat has succeeded.
    Some(unsafe { status.assume_init() })
}

fn is_socket(descriptor: c_int) -> bool {
    status(descriptor).is_some_and(|status| status.st_mode & libc::S_IFMT == libc::S_IFSOCK)
}

/// By which a socket is known under any number.
fn inode(descriptor: c_int) -> Option<u64> {
    status(descriptor).map(|status| status.st_ino)
}

fn option(socket: c_int, option: c_int) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    let to = (&raw mut value).cast();
    // SAFETY: a system call that fills an integer of ours, whose size it is told.
    let done = unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, option, to, &raw mut len) };
    (done == 0).then_some(value)
}

/// Calls `visit` for each open descriptor.
fn each_descriptor(mut visit: impl FnMut(c_int)) {
    // SAFETY: async-signal-safe; a constant path.
    let list = unsafe { libc::open(c"/proc/self/fd".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) };
    if list < 0 {
        // Mostly because there are as many as there may be: then they are dense.
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a system call that fills a structure of ours.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
        (0..limit.rlim_cur.min(MOST) as c_int).for_each(visit);
        return;
    }
    let mut bytes = [0_u8; LISTED];
    loop {
        // SAFETY: a system call that fills at most as many bytes of ours as it is told.
        let read = unsafe { libc::syscall(libc::SYS_getdents64, list, bytes.as_mut_ptr(), LISTED) };
        let Some(mut rest) = usize::try_from(read).ok().filter(|read| *read > 0).and_then(|read| bytes.get(..read))
        else {
            break;
        };
        while let Some((entry, more)) = next(rest) {
            rest = more;
            if let Some(descriptor) = number(entry.get(NAME..).unwrap_or_default()).filter(|number| *number != list) {
                visit(descriptor);
            }
        }
    }
    // SAFETY: async-signal-safe; it was opened above and nobody else knows it.
    unsafe { libc::close(list) };
}

/// The first entry of a list, and what follows it.
fn next(list: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u16::from_ne_bytes([*list.get(LENGTH)?, *list.get(LENGTH + 1)?]);
    list.split_at_checked(usize::from(length)).filter(|(entry, _)| !entry.is_empty())
}

/// What a name says that ends with a null byte; `None`: no number, as `.` and `..`.
fn number(name: &[u8]) -> Option<c_int> {
    let digits = name.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsRawFd as _, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    /// What [`the_victim`] is to do; without it, it does nothing.
    const ACT: &str = "LAUNCHER_TEST_LET_GO";

    /// In a process of its own: everything that it has is let go.
    #[test]
    fn the_victim() {
        let Ok(act) = std::env::var(ACT) else { return };
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (mut accepted, _) = listener.accept().expect("accepted");
        let _waiting = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (mut kept, mut other) = UnixStream::pair().expect("a pair");
        let also_kept = kept.try_clone().expect("duplicated");
        // The other end of what is kept, and of what is let go, must be another process's for this.
        let full: Vec<_> = match act.as_str() {
            "full" => std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect(),
            _ => Vec::new(),
        };
        // SAFETY: fork of a process whose other threads wait for this test; the child only reads and writes sockets.
        if unsafe { libc::fork() } == 0 {
            drop((accepted, kept, also_kept));
            let mut rest = Vec::new();
            let ended = client.read_to_end(&mut rest).is_ok() && rest == b"before";
            let _ = other.write_all(if ended { b"ended" } else { b"wrong" });
            std::process::exit(0);
        }
        drop((client, other));
        accepted.write_all(b"before").expect("written");
        super::connections(kept.as_raw_fd());
        drop(full);
        let mut told = [0; 5];
        kept.read_exact(&mut told).expect("what is kept goes on");
        assert_eq!(&told, b"ended", "the client of a connection that was let go");
        assert!(also_kept.peer_addr().is_ok(), "it is kept by whatever number");
        assert!(accepted.write_all(b"after").is_err(), "its number is nobody else's");
        let listener = OwnedFd::from(listener);
        let taken = crate::sys::accept::accept_now(&listener).expect("no failure");
        assert!(taken.is_none(), "whoever waits is not for a process that dies");
        assert!(TcpListener::from(listener).accept().is_ok(), "a listener is everybody's");
    }

    fn victim(act: &str) {
        let output = Command::new(std::env::current_exe().expect("our own path"))
            .args(["sys::let_go::tests::the_victim", "--exact", "--nocapture", "--test-threads=1"])
            .env(ACT, act)
            .output()
            .expect("start the victim");
        assert!(output.status.success(), "{act}: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn clients_see_the_end_and_what_is_kept_goes_on() {
        victim("plain");
    }

    #[test]
    fn a_process_that_can_open_nothing_more_lets_go_as_well() {
        victim("full");
    }
}

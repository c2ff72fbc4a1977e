//! Descriptors that a program is started with, each under a name: sd_listen_fds(3), sd_pid_notify_with_fds(3).
//!
//! They are numbered from 3 on; `LISTEN_FDS` counts them, `LISTEN_FDNAMES` names them and `LISTEN_PID` says for whom
//! they are. [`take`] is the side of the program, [`Program`] that of whoever starts it.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Pid, execve, fork, setpgid};

/// The first of them.
const FIRST: RawFd = 3;
/// What a started program that could not become the wanted one exits with, as a shell says it.
const NOT_EXECUTED: i32 = 127;

/// The process that this one stands in for, or 0; see [`take_for`].
static PREDECESSOR: AtomicU32 = AtomicU32::new(0);

/// What was given to the process `pid` is this one's: [`take`] gets it. That process has started this one in its place
/// and called [`pass_on`], and could not know the pid that `LISTEN_PID` would have to tell.
pub fn take_for(pid: u32) {
    PREDECESSOR.store(pid, Ordering::Relaxed);
}

/// Numbers of the descriptors that are meant for this process.
fn given() -> impl Iterator<Item = RawFd> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok().filter(|number| *number > 0);
    let own = [std::process::id(), PREDECESSOR.load(Ordering::Relaxed)];
    let ours = number("LISTEN_PID").is_some_and(|pid| own.contains(&pid));
    let count = number("LISTEN_FDS").filter(|_| ours).and_then(|count| usize::try_from(count).ok());
    (FIRST..).take(count.unwrap_or(0))
}

/// Leave the descriptors that are meant for this process to the programs that it starts; one of them says by
/// [`take_for`] that it takes them.
///
/// # Errors
/// As fcntl(2), but for numbers that are not open.
pub fn pass_on() -> io::Result<()> {
    for number in given() {
        // SAFETY: fcntl(2) with F_SETFD touches no memory, whatever the number is.
        #[expect(unsafe_code, reason = "a descriptor that is known by its number only")]
        let done = unsafe { libc::fcntl(number, libc::F_SETFD, 0) };
        if done != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EBADF) {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// The descriptors that this process was started with, close-on-exec; none, if none are for it. Only the first call
/// gets them.
pub fn take() -> Vec<(String, OwnedFd)> {
    static TAKEN: std::sync::Once = std::sync::Once::new();
    let mut taken = Vec::new();
    TAKEN.call_once(|| {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        for number in given() {
            let name = names.next().unwrap_or("unknown").to_owned();
            // A number that is not open is a lie of who started this process; what is not there is not taken.
            // SAFETY: fcntl(2) with F_SETFD touches no memory, whatever the number is.
            #[expect(unsafe_code, reason = "a descriptor that is known by its number only")]
            let open = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
            if open {
                // SAFETY: it is open, was given to this process by its number (sd_listen_fds(3)), and nothing else in
                // it knows it: this runs once, and what the process opens itself gets other numbers.
                #[expect(unsafe_code, reason = "a descriptor that is known by its number only")]
                let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
                taken.push((name, descriptor));
            }
        }
    });
    taken
}

/// A program that is to be started with descriptors.
#[derive(Debug)]
pub struct Program<'a> {
    /// What is executed: a descriptor, so that it is the file that was looked at whatever became of its path. `None`: the
    /// program that this process runs.
    pub file: Option<BorrowedFd<'a>>,
    /// Its arguments, its own name first.
    pub arguments: Vec<OsString>,
    /// The descriptors, in the order of their numbers.
    pub descriptors: Vec<(String, BorrowedFd<'a>)>,
}

impl Program<'_> {
    /// Start it as a child that leads a process group and has no signal blocked; its pid.
    ///
    /// # Errors
    /// This process has other threads, or as fork(2). A file that cannot be executed is told on standard error, and the
    /// child exits with code 127.
    pub fn start(&self) -> io::Result<u32> {
        if std::fs::read_dir("/proc/self/task")?.count() != 1 {
            // Another thread may hold the lock of the heap or of the environment at this moment, for ever in the child.
            return Err(io::Error::other("a process with threads cannot be forked"));
        }
        // SAFETY: this process has one thread, this one, so that in the child nothing is in a state that only another
        // thread could lead out of. The child ends by exec or by _exit.
        #[expect(unsafe_code, reason = "its descriptors and its pid must be known before exec")]
        match unsafe { fork()? } {
            ForkResult::Parent { child } => Ok(child.as_raw().unsigned_abs()),
            ForkResult::Child => {
                let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
                let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
                let error = self.become_it();
                eprintln!("launcher: the master cannot be executed: {error}");
                super::process::exit_at_once(NOT_EXECUTED);
            }
        }
    }

    /// Become it. Signals that are blocked stay blocked, and those that wait go on waiting. The numbers of this
    /// process's descriptors are not what they were when it returns.
    pub fn become_it(&self) -> io::Error {
        match self.execute() {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    fn execute(&self) -> io::Result<std::convert::Infallible> {
        let last = FIRST + RawFd::try_from(self.descriptors.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // Out of the way of the numbers that are given out now.
        let file = self.file.map(|file| rustix::io::fcntl_dupfd_cloexec(file, last)).transpose()?;
        arrange(&self.descriptors)?;
        let text = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::from);
        let names: Vec<&str> = self.descriptors.iter().map(|(name, _)| name.as_str()).collect();
        let own = [
            ("LISTEN_FDS", self.descriptors.len().to_string()),
            ("LISTEN_FDNAMES", names.join(":")),
            ("LISTEN_PID", std::process::id().to_string()),
        ];
        let others = std::env::vars_os().filter(|(name, _)| own.iter().all(|(own, _)| OsStr::new(own) != name));
        let others = others.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let own = own.iter().map(|(name, value)| format!("{name}={value}").into_bytes());
        let environment: Vec<CString> = others.chain(own).map(text).collect::<Result<_, _>>()?;
        let arguments = self.arguments.iter().map(|argument| text(argument.clone().into_vec()));
        let arguments: Vec<CString> = arguments.collect::<Result<_, _>>()?;
        let path = file.as_ref().map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()));
        let path = text(path.unwrap_or_else(|| "/proc/self/exe".to_owned()).into_bytes())?;
        Ok(execve(&path, &arguments, &environment)?)
    }
}

/// Give the descriptors their numbers, open across exec. What had a number before loses it.
fn arrange(descriptors: &[(String, BorrowedFd<'_>)]) -> io::Result<()> {
    let mut now: Vec<RawFd> = descriptors.iter().map(|(_, descriptor)| descriptor.as_raw_fd()).collect();
    // Who has a number that may be given to another one.
    let mut holder: BTreeMap<RawFd, usize> = now.iter().enumerate().map(|(index, number)| (*number, index)).collect();
    for (index, target) in (0..now.len()).zip(FIRST..) {
        let from = now[index];
        if from == target {
            // SAFETY: fcntl(2) with F_SETFD touches no memory.
            #[expect(unsafe_code, reason = "numbers are what this is about")]
            let done = unsafe { libc::fcntl(target, libc::F_SETFD, 0) };
            if done != 0 {
                return Err(io::Error::last_os_error());
            }
            continue;
        }
        if let Some(other) = holder.remove(&target).filter(|other| *other > index) {
            // SAFETY: fcntl(2) with F_DUPFD_CLOEXEC touches no memory; the new number is nobody's.
            #[expect(unsafe_code, reason = "numbers are what this is about")]
            let moved = unsafe { libc::fcntl(target, libc::F_DUPFD_CLOEXEC, FIRST) };
            if moved < 0 {
                return Err(io::Error::last_os_error());
            }
            now[other] = moved;
            holder.insert(moved, other);
        }
        // SAFETY: dup2(2) touches no memory. It closes what has the number `target`: one of these descriptors, which was
        // duplicated just now, or one of this process, which is about to become another program and uses none of its
        // own from here on but for the file to be executed, which has a higher number.
        #[expect(unsafe_code, reason = "numbers are what this is about")]
        let done = unsafe { libc::dup2(from, target) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

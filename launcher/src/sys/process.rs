//! Processes: spawned by exec of this binary, known by a pidfd, killed as a group.
//!
//! pidfd_open(2), kill(2), close_range(2). A child is made by `std::process::Command` without `pre_exec`, so
//! that it is a vfork: 0.25 ms whatever the size of the master (75–200 ms at 1.2 GB otherwise).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;

/// SIGTTIN, by which servers are asked for one worker more.
pub const TTIN: i32 = libc::SIGTTIN;
/// SIGTTOU, by which servers are asked for one worker fewer.
pub const TTOU: i32 = libc::SIGTTOU;

/// End this process now. Destructors and atexit(3) functions do not run: threads that a plugin has started may still
/// use what those would destroy, and a crash at the end of a clean drain would look like one before it.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: fflush(3) of all streams has no requirement; what a C plugin has printed is not lost with the process.
    #[expect(unsafe_code, reason = "std has no exit without atexit functions")]
    unsafe {
        libc::fflush(std::ptr::null_mut());
    }
    // SAFETY: _exit(2) has no requirement.
    #[expect(unsafe_code, reason = "std has no exit without atexit functions")]
    unsafe {
        libc::_exit(code)
    }
}

/// A child process of our own, in a process group of its own.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pidfd: Arc<OwnedFd>,
    life: Life,
}

/// Whether the pid, and so the group's number, is still the child's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Unreaped,
    Reaped,
}

impl Process {
    /// Start `command` as the leader of a new process group.
    pub fn spawn(command: &mut Command) -> io::Result<Process> {
        let mut child = super::reaper::spawn(command.process_group(0))?;
        // The child is ours and not reaped, so its pid cannot have been reused.
        match pid(&child).map(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK)) {
            Some(Ok(pidfd)) => Ok(Process { child, pidfd: Arc::new(pidfd), life: Life::Unreaped }),
            failed => {
                let _ = child.kill();
                let _ = child.wait();
                super::reaper::give_up(&child);
                Err(failed.and_then(Result::err).map_or_else(|| io::ErrorKind::InvalidData.into(), Into::into))
            }
        }
    }

    /// For messages and for `status`; nothing is signalled by it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// By which it is known.
    pub fn pidfd(&self) -> &Arc<OwnedFd> {
        &self.pidfd
    }

    /// The output pipes, once, if they were asked for.
    pub fn take_output(&mut self) -> (Option<std::process::ChildStdout>, Option<std::process::ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Kill the process and all of its descendants that stayed in its group.
    pub fn kill(&self) -> io::Result<()> {
        if self.life == Life::Reaped {
            return Ok(());
        }
        match pid(&self.child).map(|pid| kill_process_group(pid, Signal::KILL)) {
            Some(Ok(()) | Err(rustix::io::Errno::SRCH)) | None => Ok(()),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Wait for the process to end and reap it. Must be called within a runtime.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let exit = super::readiness::register(self.pidfd.try_clone()?, Interest::READABLE)?;
        loop {
            let mut ready = exit.readable().await?;
            if let Some(status) = self.reap()? {
                return Ok(status);
            }
            ready.clear_ready();
        }
    }

    /// Reap the process after its pidfd became readable. First what is left of its group is killed:
    /// grandchildren hold the listeners too. `None`: it has not ended.
    pub fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        let ended = rustix::process::waitid(
            rustix::process::WaitId::PidFd(self.pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED
                | rustix::process::WaitIdOptions::NOHANG
                | rustix::process::WaitIdOptions::NOWAIT,
        )?;
        if ended.is_none() {
            return Ok(None);
        }
        self.kill()?;
        let status = super::reaper::reap(&mut self.child)?;
        if status.is_some() {
            self.life = Life::Reaped;
        }
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.life == Life::Unreaped {
            super::reaper::give_up(&self.child);
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// A process that is not our child.
#[derive(Debug)]
pub struct Stranger {
    pidfd: Arc<OwnedFd>,
}

impl Stranger {
    /// The process that has this pid now; `None`: there is none, or it cannot be seen from here.
    pub fn find(pid: u32) -> io::Result<Option<Stranger>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Some(Stranger::known_by(pidfd))),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The process of a pidfd.
    pub fn known_by(pidfd: impl Into<Arc<OwnedFd>>) -> Stranger {
        Stranger { pidfd: pidfd.into() }
    }

    /// It has ended.
    pub fn ended(&self) -> bool {
        self.ends_within(Duration::ZERO).unwrap_or(true)
    }

    /// Send it a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal as i32).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(pidfd_send_signal(self, signal)?)
    }

    /// Kill it.
    pub fn kill(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(self, Signal::KILL)?)
    }

    /// Wait for its end, so long at most. Its files are closed and its locks are free then.
    pub fn ends_within(&self, patience: Duration) -> io::Result<bool> {
        let patience = Timespec::try_from(patience).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        match poll(&mut [PollFd::new(self, PollFlags::IN)], Some(&patience)) {
            Ok(ended) => Ok(ended > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Stranger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Ask a process where it is, which ends it: see [`super::fatal_signal::answer_quit`].
pub fn ask_where(process: impl AsFd) -> io::Result<()> {
    Ok(pidfd_send_signal(process, Signal::QUIT)?)
}

/// A debugger holds the process, which may stand still for as long as somebody looks at it (proc_pid_status(5)).
pub fn is_traced(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|tracer| tracer.trim() != "0")
}

/// Kill every process of the group that `leader` leads. Its number must still be its own: it was not reaped, or the group
/// has members.
pub fn kill_group(leader: u32) {
    if let Some(leader) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        // There may be no such group any more.
        let _ = kill_process_group(leader, Signal::KILL);
    }
}

/// The parent of this process.
pub fn parent() -> u32 {
    std::os::unix::process::parent_id()
}

/// How a process ended, in words: `exited with code 3`, `was killed by SIGSEGV (core dumped)`.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => {
            let name = nix::sys::signal::Signal::try_from(signal)
                .map_or_else(|_| format!("signal {signal}"), |signal| signal.as_str().to_owned());
            let core = if status.core_dumped() { " (core dumped)" } else { "" };
            format!("was killed by {name}{core}")
        }
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

/// Resident bytes of this process: the second field of /proc/self/statm (proc_pid_statm(5)), in pages.
pub fn resident() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Mark every descriptor above standard error close-on-exec: what the shell or systemd left open must not
/// reach a worker, where it would pin a port or a pipe for ever.
pub fn close_on_exec_everything() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC closes nothing and touches no memory: it only sets a flag
    // on descriptors, so no owner of one can notice.
    #[expect(unsafe_code, reason = "neither nix nor rustix wraps close_range")]
    let done = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Close every descriptor above standard error. For the beginning of a process, before anything that owns one is made:
/// what is open then was left open by whoever started the process.
pub fn close_inherited() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: close_range(2) touches no memory; the caller promises that no descriptor has an owner in this process.
    #[expect(unsafe_code, reason = "neither nix nor rustix wraps close_range")]
    let done = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Give the calling thread a table of descriptors of its own that holds standard input and output, and `kept`, under the
/// same numbers; the other threads keep theirs as it is. For a thread that opens and closes nothing and uses no other.
///
/// While two threads share their descriptors, the kernel counts a reference at every system call on one, and waits for
/// every processor (8 to 80 ms seen) when the table grows, as it does when connections are handed over.
pub fn leave_shared_descriptors(kept: Option<BorrowedFd<'_>>) -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    let close = |first: libc::c_uint, last: libc::c_uint| {
        if first > last {
            return Ok(());
        }
        // SAFETY: close_range(2) touches no memory. It gives this thread its own table before it closes anything, so the
        // owners of the descriptors, which live in other threads, keep theirs; the caller promises to use no other.
        #[expect(unsafe_code, reason = "neither nix nor rustix wraps close_range")]
        let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_UNSHARE) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    match kept.and_then(|kept| libc::c_uint::try_from(kept.as_raw_fd()).ok()) {
        Some(kept) => {
            close(FIRST.max(kept + 1), libc::c_uint::MAX)?;
            close(FIRST, kept.saturating_sub(1))
        }
        None => close(FIRST, libc::c_uint::MAX),
    }
}

/// Leave the session of whoever started this process, and with it the terminal and its signals. setsid(2).
///
/// # Errors
/// This process leads a group already.
pub fn lead_session() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_that_leaves_shared_descriptors_takes_one_along_and_nobody_loses_any() {
        use std::io::{Read, Write};
        let (mut kept, mut other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let (mut mine, mut peer) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let number = mine.as_raw_fd();
        let thread = std::thread::spawn(move || {
            leave_shared_descriptors(Some(kept.as_fd())).expect("it leaves");
            kept.write_all(b"x").expect("the kept one works");
            let gone = std::fs::read_link(format!("/proc/thread-self/fd/{number}")).is_err();
            // Dropped, it would close the number in this thread's table only; `other` sees no end by it.
            std::mem::forget(kept);
            gone
        });
        assert!(thread.join().expect("no panic"), "the others' descriptors are not in its table");
        let mut byte = [0];
        other.read_exact(&mut byte).expect("it was written");
        mine.write_all(b"y").expect("still open here");
        peer.read_exact(&mut byte).expect("it was written");
        assert_eq!(byte, *b"y");
    }

    use super::*;
    use std::process::Stdio;

    fn wait(process: &mut Process) -> ExitStatus {
        let mut polled = [rustix::event::PollFd::new(&*process.pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, None).expect("poll");
        process.reap().expect("reaps").expect("has ended")
    }

    #[test]
    fn an_end_is_told_in_words() {
        for (script, words) in [("exit 3", "exited with code 3"), ("kill -SEGV $$", "was killed by SIGSEGV")] {
            let mut process = Process::spawn(Command::new("sh").args(["-c", script])).expect("spawns");
            assert!(describe(wait(&mut process)).starts_with(words));
        }
    }

    #[test]
    fn the_end_of_a_stranger_is_seen() {
        let mut process = Process::spawn(Command::new("cat").stdin(Stdio::piped())).expect("spawns");
        let stranger = Stranger::find(process.id()).expect("looks").expect("is there");
        assert!(!stranger.ends_within(Duration::ZERO).expect("polls"));
        process.kill().expect("kills");
        assert!(stranger.ends_within(Duration::from_secs(60)).expect("polls"));
        wait(&mut process);
        assert!(Stranger::find(process.id()).expect("looks").is_none(), "its pid is free");
    }

    #[test]
    fn grandchildren_go_with_the_group() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!"]).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command).expect("spawns");
        let (stdout, _) = process.take_output();
        wait(&mut process);
        // The pipe's other end is held by the grandchild: end of file says that it is gone.
        let text = io::read_to_string(stdout.expect("a pipe")).expect("end of file");
        assert!(text.trim().parse::<u32>().is_ok(), "{text:?}");
    }
}

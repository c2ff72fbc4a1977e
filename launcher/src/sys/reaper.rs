//! Orphans: processes whose parent died become children of this one, and somebody must reap them.
//!
//! They come because this process asked for them ([`adopt`]) or because it is PID 1. Our own children are not touched:
//! each has an owner ([`super::process::Process`]) who wants its status. waitid(2) with `P_ALL` shows one ended child
//! at a time, and while that is one of our own it hides the others; so the reaper stops there and looks again when the
//! owner has reaped it. It neither steals a status nor spins.
//!
//! prctl(2) `PR_SET_CHILD_SUBREAPER`, waitid(2), proc_tid_children(5).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// Orphans that are reaped before other work is looked at: a plugin may make them as fast as they are reaped.
const AT_ONCE: usize = 64;

/// Children that have an owner, by pid, from their spawn until they are reaped.
static OWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
/// An owner has reaped one, or given it up: there may be orphans behind it.
static LOOK_AGAIN: Notify = Notify::const_new();

fn own() -> MutexGuard<'static, BTreeSet<u32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Start a child whose status its owner reaps.
pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
    // Held meanwhile: one that dies at once must not be taken for an orphan.
    let mut own = own();
    let child = command.spawn()?;
    own.insert(child.id());
    Ok(child)
}

/// Reap a child of ours, if it has ended.
pub(super) fn reap(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    // Held meanwhile: from here on the pid may belong to an orphan.
    let mut own = own();
    let status = child.try_wait()?;
    if status.is_some() {
        own.remove(&child.id());
        LOOK_AGAIN.notify_one();
    }
    Ok(status)
}

/// Nobody wants the status of this child any more.
pub(super) fn give_up(child: &Child) {
    if own().remove(&child.id()) {
        LOOK_AGAIN.notify_one();
    }
}

/// Children that this process had before it started any: it was made by exec of a program that had started them.
#[derive(Debug)]
pub struct Inherited {
    pids: BTreeSet<u32>,
}

/// Have every descendant of this process become its child when its parent dies, instead of a child of init. Call it
/// before a child is started.
pub fn adopt() -> io::Result<Inherited> {
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(Inherited { pids: children().into_iter().collect() })
}

/// For a process that is given all of its children anew, so that none is anybody else's.
pub fn none_inherited() -> Inherited {
    Inherited { pids: BTreeSet::new() }
}

/// A child that has ended and was not reaped, whoever started it. For a process that is the owner of all its children.
pub fn ended_child() -> Option<u32> {
    ended().map(|pid| pid.as_raw_nonzero().get().cast_unsigned())
}

/// Reap that child.
pub fn reap_child(pid: u32) -> Option<ExitStatus> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    let reaped = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG).ok()??;
    Some(ExitStatus::from_raw(reaped.1.as_raw()))
}

/// Reap orphans as they end, until the future is dropped. Must be called within a runtime.
pub fn reap_orphans() -> io::Result<impl Future<Output = ()> + Send> {
    let mut ended = signal(SignalKind::child())?;
    Ok(async move {
        loop {
            reap_ended();
            tokio::select! {
                _ = ended.recv() => {}
                () = LOOK_AGAIN.notified() => {}
            }
        }
    })
}

fn reap_ended() {
    let own = own();
    for _ in 0..AT_ONCE {
        let Some(pid) = ended() else { return };
        if own.contains(&pid.as_raw_nonzero().get().cast_unsigned()) {
            return;
        }
        let options = rustix::process::WaitOptions::NOHANG;
        if !matches!(rustix::process::waitpid(Some(pid), options), Ok(Some(_))) {
            return; // it cannot be, and must not become an endless loop
        }
    }
    LOOK_AGAIN.notify_one();
}

/// A child that has ended and was not reaped.
fn ended() -> Option<Pid> {
    // SAFETY: siginfo_t is plain data, for which zeros are a value.
    #[expect(unsafe_code, reason = "rustix does not tell the pid, nix fails for a child that a real-time signal ended")]
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid(2) writes a siginfo_t to where it is told, which is ours. With WNOWAIT no child is reaped, so no
    // owner of a pid can notice.
    #[expect(unsafe_code, reason = "rustix does not tell the pid, nix fails for a child that a real-time signal ended")]
    let done = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) };
    if done != 0 {
        return None; // no children at all
    }
    // SAFETY: waitid(2) that succeeds fills in si_pid, or leaves the zero there if no child has ended.
    #[expect(unsafe_code, reason = "siginfo_t is a union")]
    Pid::from_raw(unsafe { info.si_pid() })
}

/// The children of this process, those that ended included.
fn children() -> Vec<u32> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().filter_map(Result::ok);
    // A child is listed with the thread that started it.
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Kill every descendant that is left except for those that were `inherited`, within `patience`. The last thing that a
/// process does: the statuses of its own children are lost.
pub fn end_descendants(inherited: &Inherited, patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        let left: Vec<_> = children().into_iter().filter(|pid| !inherited.pids.contains(pid)).collect();
        if left.is_empty() || Instant::now() >= deadline {
            return;
        }
        // Children of these become ours when they are dead, and are dealt with in the next round.
        for pid in left {
            end(pid, deadline);
        }
    }
}

fn end(pid: u32, deadline: Instant) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    // It is our child and nobody else reaps any more, so the pid is its own.
    if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left));
    }
    let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
}

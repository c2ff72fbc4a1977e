//! What /proc says of a process (proc(5)).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, getrlimit, pidfd_open, prlimit};

/// Waits for the end of a process, which may be anybody's child; false when it goes on.
pub(crate) fn ends(pid: u32, patience: Duration) -> bool {
    let Some(pid) = Pid::from_raw(pid as i32) else { return true };
    // No such process: it ended, and was reaped.
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
}

/// Whether it runs: neither gone nor a zombie.
pub(crate) fn runs(pid: u32) -> bool {
    status(pid, "State:").is_some_and(|state| !state.starts_with('Z') && !state.starts_with('X'))
}

/// Whether it is a process of a launcher.
pub(crate) fn is_a_launcher(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"launcher\0"))
}

/// Its parent (proc_pid_status(5)).
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Its children and theirs.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut unseen = vec![pid];
    while let Some(parent) = unseen.pop() {
        let children = children(parent);
        found.extend(&children);
        unseen.extend(children);
    }
    found
}

/// Its children, zombies included.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for task in tasks(pid) {
        let list = fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).unwrap_or_default();
        children.extend(list.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    children
}

/// Those of a master's children that wait to become workers.
pub(crate) fn spares(master: u32) -> Vec<u32> {
    let is_one = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"launcher\0worker\0spare ")
    };
    children(master).into_iter().filter(is_one).collect()
}

/// Proportional set size, KiB: shared pages count by the number of those who share them.
pub(crate) fn pss(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("read smaps_rollup");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("smaps_rollup has a line Pss");
    first_number(line)
}

/// Resident memory, KiB.
pub(crate) fn resident(pid: u32) -> u64 {
    first_number(&status(pid, "VmRSS:").expect("the process runs"))
}

/// The most resident memory that it ever had, KiB.
pub(crate) fn peak_resident(pid: u32) -> u64 {
    first_number(&status(pid, "VmHWM:").expect("the process runs"))
}

/// How often each of its threads went to sleep by itself, which an idle process must not do.
pub(crate) fn sleeps(pid: u32) -> BTreeMap<String, u64> {
    let count = |task: &String| {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{task}/status")).unwrap_or_default();
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).map_or(0, first_number)
    };
    tasks(pid).into_iter().map(|task| (task.clone(), count(&task))).collect()
}

/// How often its threads woke since `before`. A thread that ended meanwhile woke once for that.
pub(crate) fn woke_since(pid: u32, before: &BTreeMap<String, u64>) -> u64 {
    let now = sleeps(pid);
    let ended = before.keys().filter(|task| !now.contains_key(*task)).count() as u64;
    ended + now.iter().map(|(task, count)| count - before.get(task).unwrap_or(&0)).sum::<u64>()
}

/// Processor time that it has used (proc_pid_stat(5), in hundredths of a second).
pub(crate) fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Number of its open descriptors.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("read the descriptors of the process").count()
}

/// How many watches each inotify instance has that a process has open (proc_pid_fdinfo(5)).
pub(crate) fn watches(pid: u32) -> Vec<usize> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").flatten();
    let instances =
        entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:inotify"));
    let watches = |number: std::ffi::OsString| {
        let info = format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy());
        let info = fs::read_to_string(info).unwrap_or_default();
        info.lines().filter(|line| line.starts_with("inotify wd:")).count()
    };
    instances.map(|entry| watches(entry.file_name())).collect()
}

/// Lets a process open no more descriptors than it has: the lowest free number is its limit.
pub(crate) fn forbid_descriptors(pid: u32) {
    let free = (0..).find(|number| fs::symlink_metadata(format!("/proc/{pid}/fd/{number}")).is_err());
    let limit = Rlimit { current: free, maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Pid::from_raw(pid as i32), Resource::Nofile, limit).expect("limit the descriptors of the process");
}

/// The process of an unprivileged user may have so many descriptors. As that user: limits of another's process need a
/// capability that root has not everywhere.
pub(crate) fn limit_descriptors(pid: u32, limit: u64) {
    let owner = |field: &str| first_number(&status(pid, field).expect("the process runs")) as u32;
    let mut prlimit = Command::new("prlimit");
    prlimit.args([format!("--pid={pid}"), format!("--nofile={limit}:")]);
    if nix::unistd::geteuid().is_root() {
        prlimit.uid(owner("Uid:")).gid(owner("Gid:"));
    }
    assert!(prlimit.status().expect("prlimit of util-linux").success(), "limit the descriptors of the process");
}

/// Descriptors that were sent to the process and that it has not received, proc_pid_fdinfo(5).
pub(crate) fn descriptors_on_their_way_to(pid: u32) -> u64 {
    let sockets = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("read the descriptors of the process");
    let texts = sockets.filter_map(Result::ok).filter_map(|socket| fs::read_to_string(socket.path()).ok());
    texts.filter_map(|text| text.lines().find_map(|line| line.strip_prefix("scm_fds:")).map(first_number)).sum()
}

/// Lets it open as many again as this process may.
pub(crate) fn allow_descriptors(pid: u32) {
    prlimit(Pid::from_raw(pid as i32), Resource::Nofile, getrlimit(Resource::Nofile)).expect("lift the limit");
}

/// Open sockets of a process.
pub(crate) fn sockets(pid: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("read the descriptors of the process");
    let socket = |path: &Path| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
    descriptors.filter_map(Result::ok).filter(|descriptor| socket(&descriptor.path())).count()
}

/// Its state as ps(1) shows it, such as `T (stopped)`.
pub(crate) fn state(pid: u32) -> Option<String> {
    status(pid, "State:")
}

pub(crate) fn tasks(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn status(pid: u32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned())
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

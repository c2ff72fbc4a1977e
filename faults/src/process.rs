//! What /proc says of a process (proc(5)), and signals and limits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

/// Sends a signal; false if there is no such process any more.
pub fn signal(pid: u32, signal: Signal) -> bool {
    pid_of(pid).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Sets the soft limit of a running process and gives the one before.
///
/// # Errors
/// It is gone, or the system refuses.
pub fn limit(pid: u32, resource: Resource, soft: Option<u64>) -> Result<Option<u64>, String> {
    // The hard limit stays: not everybody may raise it, and what is lowered must be raised again.
    let limit = Rlimit { current: soft, maximum: hard_limit(pid, resource) };
    let old = prlimit(pid_of(pid), resource, limit).map_err(|error| format!("prlimit of process {pid}: {error}"))?;
    Ok(old.current)
}

fn hard_limit(pid: u32, resource: Resource) -> Option<u64> {
    let name = match resource {
        Resource::Nofile => "Max open files",
        Resource::As => "Max address space",
        _ => return None,
    };
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The letter of its state: `T` is stopped, `Z` a zombie; `None`: gone.
pub fn state(pid: u32) -> Option<char> {
    letter(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name of a process may contain anything, so the state is what follows the last bracket.
fn letter(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Whether all its threads stand still.
pub fn stands(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let mut states = tasks.filter_map(|task| letter(&fs::read_to_string(task.ok()?.path().join("stat")).ok()?));
    state(pid) == Some('T') && states.all(|state| matches!(state, 'T' | 't' | 'Z' | 'X'))
}

/// Waits until a process that was sent a SIGSTOP stands; false if it is gone or does not stop.
pub fn wait_stopped(pid: u32) -> bool {
    until(Duration::from_secs(5), || stands(pid) || !runs(pid)) && stands(pid)
}

/// Whether it runs: neither gone nor a zombie.
pub fn runs(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Asks again and again; whether it came true in time.
pub fn until(patience: Duration, mut fact: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !fact() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    true
}

/// The highest number among its open descriptors. A limit below it would take numbers away that the process has already,
/// which no process that runs into its limit ever sees.
pub fn highest_descriptor(pid: u32) -> Option<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).max()
}

/// What its descriptors are, without the numbers in their names, and how many of each.
pub fn descriptor_kinds(pid: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return kinds };
    for entry in entries.filter_map(Result::ok) {
        let link = fs::read_link(entry.path()).unwrap_or_default();
        let name = link.to_string_lossy();
        let kind: String = name.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        *kinds.entry(kind.replace(":[]", "").replace(" (deleted)", "")).or_default() += 1;
    }
    kinds
}

/// Resident memory, KiB.
pub fn resident(pid: u32) -> Option<u64> {
    field(pid, "VmRSS:")
}

/// Size of its address space, KiB.
pub fn address_space(pid: u32) -> Option<u64> {
    field(pid, "VmSize:")
}

/// What each thread of a process does, as far as the system tells: its state, and in which function of the kernel it waits.
pub fn doing(pid: u32) -> String {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return format!("{pid} is gone") };
    let threads = tasks.filter_map(|task| task.ok()?.file_name().into_string().ok()).map(|task| {
        let at = format!("/proc/{pid}/task/{task}");
        let state = letter(&read(format!("{at}/stat"))).unwrap_or('?');
        // The stack is for root only.
        let stack = read(format!("{at}/stack"));
        let stack: Vec<&str> = stack.lines().filter_map(|line| line.split_whitespace().nth(1)).take(6).collect();
        format!("{task} {state} {} {}", read(format!("{at}/wchan")), stack.join(" "))
    });
    format!("{pid} {}: {}", read(format!("/proc/{pid}/comm")).trim(), threads.collect::<Vec<_>>().join("; "))
}

/// Its parent.
pub fn parent(pid: u32) -> Option<u32> {
    field(pid, "PPid:").and_then(|pid| u32::try_from(pid).ok())
}

fn field(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Ports of the clients whose connections to `servers` this process holds. Only of a process that stands still is it
/// the whole truth.
pub fn clients_of(pid: u32, servers: &[u16]) -> BTreeSet<u16> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    let inodes: BTreeSet<String> = descriptors
        .filter_map(|descriptor| {
            let link = fs::read_link(descriptor.ok()?.path()).ok()?;
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let mut clients = BTreeSet::new();
    // Twice: a table that changes while it is read may hide a line, and the process itself does not change.
    for _ in 0..2 {
        let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
        clients.extend(table.lines().filter_map(|line| client(line, servers, &inodes)));
    }
    clients
}

/// The client's port, if the line is a connection to one of `servers` that has one of these inodes.
fn client(line: &str, servers: &[u16], inodes: &BTreeSet<String>) -> Option<u16> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let port = |word: &str| u16::from_str_radix(word.split_once(':')?.1, 16).ok();
    let (local, remote, inode) = (port(words.get(1)?)?, port(words.get(2)?)?, *words.get(9)?);
    (remote != 0 && servers.contains(&local) && inodes.contains(inode)).then_some(remote)
}

/// Every process whose environment has this variable with this value.
pub fn marked(name: &str, value: &str) -> Vec<u32> {
    let marker = format!("{name}={value}");
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())
    };
    pids.filter(|pid| *pid != std::process::id() && has(pid)).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_holder_of_a_connection_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let kept = TcpStream::connect(address).expect("connects");
        let (server, _) = listener.accept().expect("a connection");
        let port = kept.local_addr().expect("connected").port();
        assert!(clients_of(std::process::id(), &[address.port()]).contains(&port));
        assert!(clients_of(std::process::id(), &[address.port() ^ 1]).is_empty());
        drop(server);
        assert!(!clients_of(std::process::id(), &[address.port()]).contains(&port), "it is closed");
    }

    #[test]
    fn a_stopped_process_stands_and_a_killed_one_is_gone() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .env("FAULTS_TEST_MARK", "7")
            .spawn()
            .expect("cat");
        let pid = child.id();
        // It answers once it runs: only then is its environment the one that it was given.
        child.stdin.as_mut().expect("piped").write_all(b"x").expect("write");
        child.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("read");
        assert_eq!(marked("FAULTS_TEST_MARK", "7"), [pid]);
        assert!(!stands(pid));
        assert!(signal(pid, Signal::STOP) && wait_stopped(pid));
        assert_eq!(
            limit(pid, Resource::Nofile, Some(20)).and_then(|old| limit(pid, Resource::Nofile, old)),
            Ok(Some(20))
        );
        assert!(signal(pid, Signal::KILL));
        child.wait().expect("it ends");
        assert!(!runs(pid) && !signal(pid, Signal::KILL));
    }

    #[test]
    fn the_name_of_a_process_does_not_hide_its_state() {
        assert_eq!(letter("12 (odd) name) T 1 1"), Some('T'));
        assert_eq!(letter("12"), None);
    }
}

//! Who is at the other end of a Unix socket, and whether a process descends from another one.
//!
//! `SO_PEERCRED` (unix(7)) names who connected, as of that moment; /proc/PID/stat (proc_pid_stat(5)) names a
//! process's parent.

use std::io;
use std::os::fd::AsFd;

/// Who connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its process; `None`: one that this process's pid namespace does not contain.
    pub pid: Option<u32>,
    /// Its effective user.
    pub uid: u32,
}

/// Who connected to `socket`.
pub fn of(socket: impl AsFd) -> io::Result<Peer> {
    let credentials = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)?;
    let pid = u32::try_from(credentials.pid()).ok().filter(|pid| *pid != 0);
    Ok(Peer { pid, uid: credentials.uid() })
}

/// The effective user of this process.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether `process` is one of the ancestors or descends from one. An error if the process is gone.
pub fn descends_from(process: u32, is_ancestor: impl Fn(u32) -> bool) -> io::Result<bool> {
    let mut current = process;
    // A chain that changes while it is walked could be walked for ever.
    for _ in 0..1024 {
        match current {
            _ if is_ancestor(current) => return Ok(true),
            0 | 1 => return Ok(false),
            _ => current = parent(current)?,
        }
    }
    Ok(true)
}

/// The parent of a process.
pub fn parent(pid: u32) -> io::Result<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; after it come the state and the parent.
    let after = stat.rsplit_once(')').map(|(_, after)| after);
    let parent = after.and_then(|after| after.split_ascii_whitespace().nth(1)).and_then(|text| text.parse().ok());
    parent.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_peer_is_known_by_its_process_and_user() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let peer = of(&one).expect("known");
        assert_eq!((peer.pid, peer.uid), (Some(std::process::id()), own_uid()));
    }

    #[test]
    fn a_child_descends_from_its_parent_and_not_the_other_way_round() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("spawns");
        let own = std::process::id();
        let (pid, is_own) = (child.id(), |ancestor| ancestor == own);
        assert!(descends_from(child.id(), is_own).expect("both are alive"));
        assert!(descends_from(own, is_own).expect("alive"));
        assert!(!descends_from(own, |ancestor| ancestor == pid).expect("alive"));
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(descends_from(child.id(), is_own).is_err(), "a process that is gone has no ancestors");
    }
}

//! Users: their names, and becoming another one: setgroups(2), setresgid(2), setresuid(2), in the one order that works.

use std::io;

use nix::unistd::{Gid, Uid, User, setgroups, setresgid, setresuid};

/// Become the user for good. Must be called while the process has one thread.
pub fn assume(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if Uid::effective() == uid && Gid::effective() == gid {
        return Ok(());
    }
    // Groups first: afterwards the right to change them is gone.
    setgroups(&groups.iter().copied().map(Gid::from_raw).collect::<Vec<_>>())?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// The name of a user, if it has one here.
pub fn name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

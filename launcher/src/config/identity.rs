//! `user:` and `group:` become numbers.
//!
//! The names are looked up when the file is read, so that a worker needs no access to the user database and a
//! misspelt name is an error of the file. Nothing is changed here.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist};

use super::Identity;
use super::diagnostics::{Complaint, quoted};

/// A user or group as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Account<'a> {
    /// By name.
    Name(&'a str),
    /// By number.
    Number(u32),
}

/// Which of the two keys a complaint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Culprit {
    /// `user:`
    User,
    /// `group:`
    Group,
}

/// Looks both up. `None`: workers stay who they are.
pub(super) fn identity(
    user: Option<Account<'_>>,
    group: Option<Account<'_>>,
) -> Result<Option<Identity>, (Culprit, Complaint)> {
    if user.is_none() && group.is_none() {
        return Ok(None);
    }
    let found = user.map(find_user).transpose().map_err(|error| (Culprit::User, error))?;
    let gid = group.map(find_group).transpose().map_err(|error| (Culprit::Group, error))?;
    let uid = match (&found, user) {
        (Some(Some(user)), _) => user.uid,
        (_, Some(Account::Number(uid))) => Uid::from_raw(uid),
        _ => geteuid(),
    };
    let entry = found.flatten();
    let gid = match (gid, &entry, user) {
        (Some(gid), _, _) => gid,
        (None, Some(entry), _) => entry.gid,
        (None, None, _) => {
            return Err((
                Culprit::User,
                Complaint::new(format!("the user {uid} is not in the user database, so it has no group of its own"))
                    .help("give `group` as well"),
            ));
        }
    };
    let groups = match &entry {
        Some(entry) => supplementary(&entry.name, gid).map_err(|error| (Culprit::User, error))?,
        None => Vec::new(),
    };
    if !geteuid().is_root() {
        if uid == geteuid() && gid == getegid() {
            return Ok(None);
        }
        let culprit = if user.is_some() { Culprit::User } else { Culprit::Group };
        return Err((
            culprit,
            Complaint::new("only root can run workers as another user or group")
                .help("start the launcher as root, or remove the key"),
        ));
    }
    Ok(Some(Identity { uid: uid.as_raw(), gid: gid.as_raw(), groups }))
}

fn find_user(account: Account<'_>) -> Result<Option<User>, Complaint> {
    match account {
        Account::Number(uid) => User::from_uid(Uid::from_raw(uid)).map_err(|error| database(&error)),
        Account::Name(name) => match User::from_name(name) {
            Ok(Some(user)) => Ok(Some(user)),
            Ok(None) => Err(Complaint::new(format!("there is no user {}", quoted(name)))),
            Err(error) => Err(database(&error)),
        },
    }
}

fn find_group(account: Account<'_>) -> Result<Gid, Complaint> {
    match account {
        Account::Number(gid) => Ok(Gid::from_raw(gid)),
        Account::Name(name) => match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid),
            Ok(None) => Err(Complaint::new(format!("there is no group {}", quoted(name)))),
            Err(error) => Err(database(&error)),
        },
    }
}

fn supplementary(name: &str, gid: Gid) -> Result<Vec<u32>, Complaint> {
    let name = CString::new(name).map_err(|_| Complaint::new("the user's name contains a NUL character"))?;
    let groups = getgrouplist(&name, gid).map_err(|error| database(&error))?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

fn database(error: &nix::Error) -> Complaint {
    Complaint::new(format!("the user database cannot be read: {}", error.desc()))
}

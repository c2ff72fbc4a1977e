//! What a process that was started as `launcher run` is: the keeper, or a master, or the keeper that a master has made;
//! and whether a master begins or goes on.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use launcher::keeper::{self, Plan, Start};
use launcher::master::{self, Inheritance, StartError};
use launcher::sys::{named_descriptors, notify, process};

use crate::{BAD_INPUT, FAILED};

/// What this process is for a launcher that runs already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// A keeper has started it.
    Master,
    /// A master has started it.
    KeeperOfAMaster,
    /// It was the keeper of this master before it became this program.
    KeeperAgain(u32),
}

impl std::str::FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Role, Self::Err> {
        match text {
            "master" => Ok(Role::Master),
            "keeper-of-a-master" => Ok(Role::KeeperOfAMaster),
            _ => {
                let pid = text.strip_prefix("keeper-again-of-").and_then(|pid| pid.parse().ok());
                pid.map(Role::KeeperAgain).ok_or("not a role that the launcher gives")
            }
        }
    }
}

/// Be the keeper, if that is what this process is: `Err` is the end of it. Otherwise what this master starts with;
/// `None`: nobody keeps for it.
pub(crate) fn of(
    role: Option<Role>,
    program: Option<PathBuf>,
    daemonised: bool,
) -> Result<Option<Inheritance>, ExitCode> {
    let program = program.unwrap_or_else(own_path);
    if daemonised && role.is_none() {
        // The starter waits until this process serves, so it is the parent still.
        named_descriptors::take_for(process::parent());
    }
    let start = match role {
        Some(Role::Master) => None,
        Some(Role::KeeperOfAMaster) => Some(Start::ForMaster),
        Some(Role::KeeperAgain(master)) => Some(Start::Again { master }),
        // systemd keeps by itself.
        None if notify::keeps() > 0 => None,
        None => Some(Start::First { daemonised }),
    };
    if let Some(start) = start {
        return Err(keeper::run(plan(&program), start));
    }
    let Some(inheritance) = Inheritance::take(program).map_err(|error| {
        eprintln!("launcher: NOTIFY_SOCKET cannot be used: {error}");
        ExitCode::from(FAILED)
    })?
    else {
        eprintln!("launcher: --role is for the launcher itself only");
        return Err(ExitCode::from(BAD_INPUT));
    };
    Ok(Some(inheritance))
}

/// Where a master went.
pub(crate) enum Went {
    /// It went on where another one had ended, until this.
    On(ExitCode),
    /// There is nothing to go on with.
    Nowhere(Inheritance),
}

/// Go on where another master ended, if one did.
pub(crate) fn go_on(mut inheritance: Inheritance) -> Result<Went, StartError> {
    match inheritance.legacy()? {
        Some(legacy) => master::go_on(legacy, inheritance).map(Went::On),
        None => Ok(Went::Nowhere(inheritance)),
    }
}

fn plan(program: &Path) -> Plan {
    let original: Vec<OsString> = std::env::args_os().skip(1).filter(|argument| !is_ours(argument)).collect();
    let mut named = OsString::from("--program=");
    named.push(program);
    let mut original = original;
    original.insert(1.min(original.len()), named);
    Plan { master: with_role(&original, "--role=master"), again, original }
}

/// Arguments of a keeper that goes on for this master.
fn again(original: &[OsString], master: u32) -> Vec<OsString> {
    with_role(original, &format!("--role=keeper-again-of-{master}"))
}

/// With an option after `run`.
fn with_role(original: &[OsString], role: &str) -> Vec<OsString> {
    let mut arguments = original.to_vec();
    arguments.insert(1.min(arguments.len()), role.into());
    arguments
}

fn is_ours(argument: &OsStr) -> bool {
    argument.to_str().is_some_and(|text| text.starts_with("--role="))
        || argument.as_encoded_bytes().starts_with(b"--program=")
}

/// The path by which this program was started: what is there later is its next version.
fn own_path() -> PathBuf {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let found = if called.components().count() > 1 {
        std::path::absolute(&called).ok()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|directory| directory.join(&called)).find(|path| path.is_file())
    };
    let is_it = |path: &PathBuf| std::fs::canonicalize(path).ok() == std::env::current_exe().ok();
    // A name that somebody has made up leads nowhere, or to another program.
    found.filter(is_it).or_else(|| std::env::current_exe().ok()).unwrap_or(called)
}

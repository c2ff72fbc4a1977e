//! What a master and its keeper say to each other: systemd's protocol (sd_notify(3), sd_pid_notify_with_fds(3),
//! "File Descriptor Store"), so that systemd can be the keeper, and a few words more for a keeper of our own.
//!
//! A message is lines of `NAME=VALUE`; descriptors travel with it. What a master stores comes back to the next one as
//! [`crate::sys::named_descriptors`]. This module moves no bytes and decides nothing.

/// Bytes of the longest message that a keeper takes.
pub const LONGEST: usize = 8192;

/// The name under which a master gets its end of the socket to a keeper of our own.
pub const KEEPER: &str = "keeper";

/// The name of a descriptor by which a process is known: a pidfd. The keeper is told of its end in the same words.
pub fn of_process(name: &str, pid: u32) -> String {
    format!("{name}.pid{pid}")
}

/// The process that a descriptor of this name stands for, if it stands for one.
pub fn process_of(name: &str) -> Option<u32> {
    // What others have named may look like anything.
    let own = inherited(name).is_none().then_some(name)?;
    own.rsplit_once(".pid").and_then(|(_, pid)| pid.parse().ok())
}

/// What the names of the sockets begin with that a launcher was started with: they are kept from its first process to
/// its last, because nobody passes them again.
const INHERITED: &str = "inherited-";

/// The name under which a socket is kept that the launcher was started with.
pub fn of_inherited(name: &str) -> String {
    format!("{INHERITED}{name}")
}

/// The name under which the launcher was started with a socket that is kept under this one, if it was.
pub fn inherited(name: &str) -> Option<&str> {
    name.strip_prefix(INHERITED)
}

/// Names that are told apart: systemd gives one to all sockets of a unit. The second `web` becomes `web+2`.
pub fn told_apart<T>(named: Vec<(String, T)>) -> Vec<(String, T)> {
    let mut seen = std::collections::BTreeMap::new();
    let apart = |(name, thing): (String, T)| {
        let count = seen.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1);
        (if *count == 1 { name } else { format!("{name}+{count}") }, thing)
    };
    named.into_iter().map(apart).collect()
}

/// What a master says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToKeeper {
    /// Keep the descriptor that comes with this under a name.
    Store(String),
    /// Keep it no longer.
    Remove(String),
    /// Signals may be passed on: they do not kill this master any more.
    Hears,
    /// It has heard this signal: it need not be passed on to the next master.
    Heard(String),
    /// Workers serve, so that from now on its death is survived.
    Serves,
    /// It is about to end by itself with this exit code: do not start another.
    Leaves(u8),
    /// It is about to end: start the program whose descriptor comes with this in its place.
    Upgrade,
    /// Write to this descriptor from now on, and not where the starter of a daemon does.
    Output,
    /// To a keeper that it has started itself: which process it is. Its pidfd comes with this.
    Master(u32),
    /// For systemd.
    Notify(String),
}

impl ToKeeper {
    /// As it is sent.
    pub fn text(&self) -> String {
        match self {
            // Without FDPOLL=0 systemd lets go of a descriptor whose other end is closed: the master decides that.
            ToKeeper::Store(name) => format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"),
            ToKeeper::Remove(name) => format!("FDSTOREREMOVE=1\nFDNAME={name}"),
            ToKeeper::Hears => "X_LAUNCHER_HEARS=1".to_owned(),
            ToKeeper::Heard(signal) => format!("X_LAUNCHER_HEARD={signal}"),
            ToKeeper::Serves => "X_LAUNCHER_SERVES=1".to_owned(),
            ToKeeper::Leaves(code) => format!("X_LAUNCHER_LEAVES={code}"),
            ToKeeper::Upgrade => "X_LAUNCHER_UPGRADE=1".to_owned(),
            ToKeeper::Output => "X_LAUNCHER_OUTPUT=1".to_owned(),
            ToKeeper::Master(pid) => format!("X_LAUNCHER_MASTER={pid}"),
            ToKeeper::Notify(text) => text.clone(),
        }
    }

    /// Read what was sent. What is no word of ours is for systemd.
    pub fn read(text: &str) -> ToKeeper {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let named = |word: fn(String) -> ToKeeper| value("FDNAME").map(|name| word(name.to_owned()));
        let number = |name| value(name).and_then(|value| value.parse::<u32>().ok());
        let set = |name| value(name) == Some("1");
        let word = match () {
            () if set("FDSTORE") => named(ToKeeper::Store),
            () if set("FDSTOREREMOVE") => named(ToKeeper::Remove),
            () if set("X_LAUNCHER_HEARS") => Some(ToKeeper::Hears),
            () if set("X_LAUNCHER_SERVES") => Some(ToKeeper::Serves),
            () if set("X_LAUNCHER_UPGRADE") => Some(ToKeeper::Upgrade),
            () if set("X_LAUNCHER_OUTPUT") => Some(ToKeeper::Output),
            () => {
                let code = number("X_LAUNCHER_LEAVES").and_then(|code| u8::try_from(code).ok()).map(ToKeeper::Leaves);
                let heard = || value("X_LAUNCHER_HEARD").map(|signal| ToKeeper::Heard(signal.to_owned()));
                code.or_else(|| number("X_LAUNCHER_MASTER").map(ToKeeper::Master)).or_else(heard)
            }
        };
        word.unwrap_or_else(|| ToKeeper::Notify(text.to_owned()))
    }
}

/// What a keeper of ours says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToMaster {
    /// The master before this one is gone.
    Died {
        /// Its pid.
        pid: u32,
        /// When, by CLOCK_MONOTONIC, microseconds.
        at: u64,
        /// How, in words.
        how: String,
    },
    /// A process that is kept ended.
    Exited {
        /// Its pid.
        pid: u32,
        /// As wait(2) gives it.
        status: i32,
    },
    /// The program that was to take over did not; this one is the one before.
    NotUpgraded(String),
}

impl ToMaster {
    /// As it is sent.
    pub fn text(&self) -> String {
        match self {
            ToMaster::Died { pid, at, how } => format!("DIED={pid} {at} {how}"),
            ToMaster::Exited { pid, status } => format!("EXITED={pid} {status}"),
            ToMaster::NotUpgraded(reason) => format!("NOT_UPGRADED={reason}"),
        }
    }

    /// Read what was sent; `None`: it is not understood here.
    pub fn read(text: &str) -> Option<ToMaster> {
        let (name, value) = text.split_once('=')?;
        match name {
            "DIED" => {
                let mut words = value.splitn(3, ' ');
                let (pid, at) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                Some(ToMaster::Died { pid, at, how: words.next()?.to_owned() })
            }
            "EXITED" => {
                let (pid, status) = value.split_once(' ')?;
                Some(ToMaster::Exited { pid: pid.parse().ok()?, status: status.parse().ok()? })
            }
            "NOT_UPGRADED" => Some(ToMaster::NotUpgraded(value.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_one_name_are_told_apart() {
        let named = ["web", "dns", "web", "web"].map(|name| (name.to_owned(), ()));
        let names: Vec<_> = told_apart(named.to_vec()).into_iter().map(|(name, ())| name).collect();
        assert_eq!(names, ["web", "dns", "web+2", "web+3"]);
    }

    #[test]
    fn what_is_said_is_understood() {
        let name = of_process("worker7", 4711);
        assert_eq!(process_of(&name), Some(4711));
        assert_eq!(process_of("listener7"), None);
        let foreign = of_inherited("x.pid4711");
        assert_eq!((process_of(&foreign), inherited(&foreign)), (None, Some("x.pid4711")));
        for word in [
            ToKeeper::Store(name.clone()),
            ToKeeper::Remove(name),
            ToKeeper::Hears,
            ToKeeper::Heard("SIGTERM".to_owned()),
            ToKeeper::Serves,
            ToKeeper::Leaves(2),
            ToKeeper::Upgrade,
            ToKeeper::Output,
            ToKeeper::Master(1),
            ToKeeper::Notify("READY=1\nMAINPID=7".to_owned()),
        ] {
            assert_eq!(ToKeeper::read(&word.text()), word);
        }
        for word in [
            ToMaster::Died { pid: 3, at: 17, how: "was killed by SIGKILL".to_owned() },
            ToMaster::Exited { pid: 3, status: 9 },
            ToMaster::NotUpgraded("it is no program".to_owned()),
        ] {
            assert_eq!(ToMaster::read(&word.text()), Some(word));
        }
        assert_eq!(ToMaster::read("SOMETHING=else"), None);
        assert_eq!(
            ToKeeper::read("FDSTORE=1"),
            ToKeeper::Notify("FDSTORE=1".to_owned()),
            "a descriptor without a name"
        );
    }
}

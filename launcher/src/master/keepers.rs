//! The keeper seen from the master: what it tells, and another one in its place when it is gone.

use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::{ffi::OsString, io};

use super::journal::Fact;
use super::kept::News;
use super::systemd::Systemd;
use super::{Master, Phase};
use crate::keeping::{ToKeeper, ToMaster};
use crate::sys::{self, passing};

/// What tells the program that it is a keeper which its master has started: an option of `run`.
const FOR_MASTER: &str = "--role=keeper-of-a-master";

impl Master {
    pub(super) fn tell_keeper(&mut self, word: ToKeeper) {
        if let Some(keeping) = &mut self.keeping {
            keeping.tell(word, None);
        }
    }

    /// Whoever manages the launcher is told by this process, or by its keeper.
    pub(super) fn connect_systemd(&mut self) {
        let keeper = self.keeping.as_ref().and_then(|keeping| keeping.pid());
        self.systemd = Systemd::connect(keeper).unwrap_or_else(|error| {
            let reason = format!("NOTIFY_SOCKET cannot be used: {error}; systemd is told nothing");
            self.journal.record(&Fact::Trouble { reason });
            None
        });
    }

    pub(super) fn on_news(&mut self, news: News) {
        match news {
            News::Said(ToMaster::Exited { pid, status }) => self.fates.tell(pid, ExitStatus::from_raw(status)),
            News::Said(ToMaster::Died { .. } | ToMaster::NotUpgraded(_)) => {}
            News::Gone => match self.replace_keeper() {
                Ok(pid) => {
                    self.remember_everything();
                    // In the order of the socket: from here on it has what another master needs. One that does not
                    // serve yet says it when it does.
                    if self.phase != Phase::Starting {
                        self.tell_keeper(ToKeeper::Serves);
                    }
                    self.journal.record(&Fact::KeeperReplaced { keeper: pid });
                }
                Err(error) => {
                    self.keeping = None;
                    let reason = format!(
                        "the keeper is gone and another one cannot be started: {error}; the workers will end with this master"
                    );
                    self.journal.record(&Fact::Trouble { reason });
                }
            },
        }
    }

    fn replace_keeper(&mut self) -> io::Result<u32> {
        let (ours, theirs) = passing::pair()?;
        let mut command = Command::new("/proc/self/exe");
        let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        arguments.retain(|argument| !argument.to_str().is_some_and(|text| text.starts_with("--role=")));
        arguments.insert(1.min(arguments.len()), FOR_MASTER.into());
        command.arg0("launcher").args(arguments).stdin(Stdio::from(theirs));
        let process = sys::process::Process::spawn(&mut command)?;
        let pid = process.id();
        let own = sys::process::Stranger::find(std::process::id())?.ok_or(io::ErrorKind::NotFound)?;
        passing::send(&ours, ToKeeper::Master(std::process::id()).text().as_bytes(), &[own.as_fd()])?;
        let Some(keeping) = &mut self.keeping else { return Err(io::ErrorKind::NotConnected.into()) };
        keeping.change(pid, ours)?;
        self.roots.add(pid);
        // It is to be signalled from now on. A full disk must not cost the workers their keeper.
        if let Err(error) = self.lock.names(pid, &self.config.path) {
            self.journal.record(&Fact::Trouble { reason: format!("the pid file cannot be written: {error}") });
        }
        drop(process);
        Ok(pid)
    }
}

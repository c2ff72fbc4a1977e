//! Signals to the master: which there are, and what each does.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::journal::Fact;
use super::orders::Scale;
use super::{Master, Phase, Scope, pool};

/// The signals to a master. Conventions: TERM, INT, HUP (everybody), QUIT quick (gunicorn; nginx means graceful
/// by it), USR1 (nginx, gunicorn: logs), TTIN and TTOU (unicorn, gunicorn, Puma).
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    more: Signal,
    fewer: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Signals> {
        let raw = |number: i32| signal(SignalKind::from_raw(number));
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            more: raw(crate::sys::process::TTIN)?,
            fewer: raw(crate::sys::process::TTOU)?,
            // Their default action would end the master; both have a meaning in the field that may be tried.
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.quit.recv() => "SIGQUIT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
            _ = self.more.recv() => "SIGTTIN",
            _ = self.fewer.recv() => "SIGTTOU",
            _ = self.user1.recv() => "SIGUSR1",
            _ = self.user2.recv() => "SIGUSR2",
        }
    }
}

impl Master {
    pub(super) fn on_signal(&mut self, name: &'static str) {
        let effect = match (name, self.phase) {
            ("SIGTERM" | "SIGINT", Phase::Stopping(_)) | ("SIGQUIT", _) => "stopping now",
            ("SIGTERM" | "SIGINT", _) => "draining; once more stops now",
            ("SIGHUP", Phase::Stopping(_)) => "ignored: stopping",
            ("SIGHUP", _) => "reading the configuration and the plugins again",
            ("SIGTTIN", _) => "one worker more for each service",
            ("SIGTTOU", _) => "one worker fewer for each service",
            ("SIGUSR1", _) => "opening the log files anew",
            ("SIGUSR2", Phase::Serving) => "upgrading to what is at the launcher's path now",
            _ => "ignored",
        };
        self.journal.record(&Fact::Signal { name, effect });
        match (name, self.phase) {
            ("SIGTERM" | "SIGINT", Phase::Stopping(_)) | ("SIGQUIT", _) => self.stop(0, name, pool::Event::Kill),
            ("SIGTERM" | "SIGINT", _) => self.stop(0, name, pool::Event::Drain),
            ("SIGHUP", Phase::Starting | Phase::Serving) => self.read_config(name.to_owned(), Scope::Everything),
            ("SIGUSR1", _) => {
                self.journal.reopen();
                self.reopen_access_logs();
            }
            ("SIGUSR2", Phase::Serving) => self.upgrade(None, name.to_owned(), None),
            ("SIGTTIN", Phase::Serving) => self.scale_all(Scale::By(1), name),
            ("SIGTTOU", Phase::Serving) => self.scale_all(Scale::By(-1), name),
            _ => {}
        }
    }
}

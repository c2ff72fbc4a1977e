//! The keeper: the first process of a launcher, which does nothing but hold descriptors for the master and start
//! another one when it dies.
//!
//! ```text
//! keeper ──exec, with everything that is kept──> master ──> workers
//!    ^  <──FDSTORE=1 FDNAME=…, descriptors───────  │
//!    └── signals of the operator are passed on ───>┘
//! ```
//!
//! While it holds the master's ends of the channels and pipes a worker notices nothing of the master's death. Workers
//! of a master that is gone become its children (it is a subreaper): it reaps them and tells the next master how they
//! ended. It has one thread, waits in poll(2) without a deadline, knows neither services nor configurations, and reads
//! nothing of what it keeps. The protocol is [`crate::keeping`].

mod pace;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use crate::keeping::{self, ToKeeper, ToMaster};
use crate::sys::named_descriptors::{self, Program};
use crate::sys::process::{self, Stranger};
use crate::sys::reaper::{self, Inherited};
use crate::sys::signal_queue::{Came, Signal, SignalQueue, asks_for_the_end};
use crate::sys::{self, notify, passing, poll};
use pace::Pace;

/// How long the program of an upgrade may take until it serves in the place of the master before it.
const TAKES_OVER: Duration = Duration::from_secs(10);
/// How long workers may take to leave when there is no master that could be told to stop. Each has its own, mostly
/// shorter, deadline.
const LEAVING: Duration = Duration::from_secs(600);
/// How long processes that workers left behind may take to die in the end.
const LEFT_BEHIND: Duration = Duration::from_secs(1);
/// What a program is called in the list of processes.
const NAME: &str = "launcher";
/// The name of the socket to a master that goes on while the keeper becomes another program.
const SOCKET: &str = "socket-of-the-keeper";

/// How this process became a keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Somebody started the launcher. `daemonised`: with the starter's socket as standard input.
    First {
        /// See above.
        daemonised: bool,
    },
    /// A master whose keeper is gone made it: its end of the socket is the standard input.
    ForMaster,
    /// A keeper became this program; the master, its child, goes on.
    Again {
        /// The master.
        master: u32,
    },
}

/// What masters are started with.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Arguments of a master.
    pub master: Vec<OsString>,
    /// Arguments of a keeper that goes on for the master of this pid.
    pub again: fn(&[OsString], u32) -> Vec<OsString>,
    /// What `again` is made from.
    pub original: Vec<OsString>,
}

/// A master that runs.
#[derive(Debug)]
struct Master {
    pid: u32,
    process: Stranger,
    socket: Option<OwnedFd>,
    /// It is not our child: how it ends cannot be known.
    foreign: bool,
    hears: bool,
    serves: bool,
    leaves: Option<u8>,
    /// It runs the program of an upgrade, and must serve by then.
    on_trial: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
struct Keeper {
    plan: Plan,
    inherited: Inherited,
    signals: SignalQueue,
    systemd: Option<UnixDatagram>,
    kept: BTreeMap<String, OwnedFd>,
    master: Option<Master>,
    /// When the next master is started, if it has to wait.
    due: Option<Instant>,
    /// Some master has served, and what it has is kept: there is something to survive for.
    served: bool,
    /// Orders that no master has heard.
    orders: Vec<Signal>,
    /// Orders that were passed on to the master, which has not said that it heard them.
    passed: Vec<Signal>,
    /// What the next master is told.
    news: Vec<ToMaster>,
    /// The program that takes over when the master has left.
    upgrade: Option<OwnedFd>,
    pace: Pace,
}

/// Keep descriptors for masters until one ends by itself. What is said here is on standard error.
pub fn run(plan: Plan, start: Start) -> ExitCode {
    match Keeper::start(plan, start).and_then(|mut keeper| keeper.keep()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("the keeper cannot go on: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    // Nobody is left to tell if it fails.
    let _ = io::Write::write_all(&mut io::stderr(), format!("launcher: {text}\n").as_bytes());
}

impl Keeper {
    fn start(plan: Plan, start: Start) -> io::Result<Keeper> {
        // Before anything else is opened.
        let given = named_descriptors::take();
        process::close_on_exec_everything()?;
        let mut keeper = Keeper {
            plan,
            inherited: reaper::adopt()?,
            signals: SignalQueue::new()?,
            systemd: notify::connect().ok().flatten(),
            kept: BTreeMap::new(),
            master: None,
            due: None,
            // One that a master has made has nothing yet: it is told when it has everything. Another master could not go
            // on with a part of it.
            served: matches!(start, Start::Again { .. }),
            orders: Vec::new(),
            passed: Vec::new(),
            news: Vec::new(),
            upgrade: None,
            pace: Pace::default(),
        };
        match start {
            Start::First { daemonised } => {
                let given = keeping::told_apart(given).into_iter();
                keeper.kept = given.map(|(name, socket)| (keeping::of_inherited(&name), socket)).collect();
                if daemonised {
                    // No second fork: a leader of a session gets a terminal only if it opens one.
                    process::lead_session()?;
                }
                keeper.start_master(None)?;
                // A starter that waits at its other end must see that the daemon let go of it.
                drop(sys::stdio::take_stdin()?);
            }
            Start::ForMaster => {
                let socket = sys::stdio::take_stdin()?;
                keeper.meet(socket)?;
            }
            Start::Again { master } => {
                keeper.inherited = reaper::none_inherited();
                keeper.kept = given.into_iter().collect();
                let socket = keeper.kept.remove(SOCKET);
                let process = Stranger::find(master)?.ok_or(io::ErrorKind::NotFound)?;
                keeper.master = Some(Master {
                    pid: master,
                    process,
                    socket,
                    foreign: false,
                    hears: true,
                    serves: true,
                    leaves: None,
                    on_trial: None,
                });
            }
        }
        Ok(keeper)
    }

    /// A master that has made this process says who it is, first of all.
    fn meet(&mut self, socket: OwnedFd) -> io::Result<()> {
        loop {
            match passing::receive(&socket, keeping::LONGEST) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => poll::readable(&[socket.as_fd()], None)?,
                Err(error) => return Err(error),
                Ok(received) => {
                    let word = ToKeeper::read(&String::from_utf8_lossy(&received.bytes));
                    let (ToKeeper::Master(pid), Some(pidfd)) = (word, received.descriptors.into_iter().next()) else {
                        return Err(io::Error::other("no master has started it"));
                    };
                    let process = Stranger::known_by(pidfd);
                    self.master = Some(Master {
                        pid,
                        process,
                        socket: Some(socket),
                        foreign: true,
                        hears: true,
                        serves: true,
                        leaves: None,
                        on_trial: None,
                    });
                    return Ok(());
                }
            };
        }
    }

    /// Until a master ends by itself: its exit code.
    fn keep(&mut self) -> io::Result<u8> {
        // Children may have ended before their signals were queued.
        let mut ended = self.reap()?;
        loop {
            if let Some(code) = ended {
                return Ok(code);
            }
            let deadline = self.due.into_iter().chain(self.master.as_ref().and_then(|master| master.on_trial)).min();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let mut waited: Vec<BorrowedFd<'_>> = vec![self.signals.as_fd()];
            if let Some(master) = &self.master {
                waited.extend(master.socket.as_ref().map(AsFd::as_fd));
                waited.extend(master.foreign.then(|| master.process.as_fd()));
            }
            poll::readable(&waited, left)?;
            drop(waited);
            self.listen()?;
            ended = self.obey()?;
            if ended.is_none() && self.master.as_ref().is_some_and(|master| master.foreign && master.process.ended()) {
                // What it said before it died counts.
                self.listen()?;
                ended = self.on_death(None)?;
            }
            let now = Instant::now();
            if self.due.is_some_and(|due| due <= now) {
                self.due = None;
                self.start_master(None)?;
            }
            if let Some(master) = &self.master
                && master.on_trial.is_some_and(|deadline| deadline <= now)
            {
                // Its death is told by the system.
                let _ = master.process.kill();
            }
        }
    }

    /// Start a master; `file` is another program than this one.
    fn start_master(&mut self, file: Option<OwnedFd>) -> io::Result<()> {
        let (ours, theirs) = passing::pair()?;
        for word in self.news.drain(..) {
            // What does not fit any more is told as "how is not known".
            let _ = passing::send(&ours, word.text().as_bytes(), &[]);
        }
        let mut descriptors: Vec<(String, BorrowedFd<'_>)> = vec![(keeping::KEEPER.to_owned(), theirs.as_fd())];
        descriptors.extend(self.kept.iter().map(|(name, descriptor)| (name.clone(), descriptor.as_fd())));
        let arguments = std::iter::once(NAME.into()).chain(self.plan.master.iter().cloned()).collect();
        let program = Program { file: file.as_ref().map(AsFd::as_fd), arguments, descriptors };
        let pid = program.start()?;
        let process = Stranger::find(pid)?.ok_or(io::ErrorKind::NotFound)?;
        let on_trial = file.is_some().then(|| Instant::now() + TAKES_OVER);
        self.upgrade = file;
        self.master = Some(Master {
            pid,
            process,
            socket: Some(ours),
            foreign: false,
            hears: false,
            serves: false,
            leaves: None,
            on_trial,
        });
        Ok(())
    }

    /// Take what the master says.
    fn listen(&mut self) -> io::Result<()> {
        while let Some(master) = &mut self.master
            && let Some(socket) = &master.socket
        {
            let received = match passing::receive(socket, keeping::LONGEST) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    master.socket = None;
                    return Ok(());
                }
                received => received?,
            };
            if received.bytes.is_empty() {
                // It ends, which the system tells.
                master.socket = None;
                return Ok(());
            }
            let text = String::from_utf8_lossy(&received.bytes);
            let descriptor = received.descriptors.into_iter().next();
            match (ToKeeper::read(&text), descriptor) {
                (ToKeeper::Store(name), Some(descriptor)) => drop(self.kept.insert(name, descriptor)),
                (ToKeeper::Remove(name), _) => drop(self.kept.remove(&name)),
                (ToKeeper::Hears, _) => {
                    master.hears = true;
                    for signal in self.orders.drain(..) {
                        let _ = master.process.signal(signal);
                        self.passed.push(signal);
                    }
                }
                (ToKeeper::Heard(name), _) => self.passed.retain(|signal| signal.as_str() != name),
                (ToKeeper::Serves, _) => {
                    master.serves = true;
                    self.served = true;
                    if master.on_trial.take().is_some() {
                        self.become_the_upgrade();
                    }
                }
                (ToKeeper::Leaves(code), _) => master.leaves = Some(code),
                (ToKeeper::Upgrade, Some(program)) => self.upgrade = Some(program),
                (ToKeeper::Output, Some(log)) => {
                    // Nothing can be done about an error.
                    let _ = sys::stdio::redirect_output(&File::from(log));
                }
                (ToKeeper::Notify(text), _) => {
                    if let Some(systemd) = &self.systemd {
                        // If it is gone, nobody is there to be told.
                        let _ = systemd.send(text.as_bytes());
                    }
                }
                (ToKeeper::Store(_) | ToKeeper::Upgrade | ToKeeper::Output | ToKeeper::Master(_), _) => {}
            }
        }
        Ok(())
    }

    /// Deal with the signals that came. The exit code, if the launcher has ended.
    fn obey(&mut self) -> io::Result<Option<u8>> {
        let mut orders = Vec::new();
        let mut children = false;
        while let Some(came) = self.signals.next()? {
            match came {
                Came::Child => children = true,
                Came::Order(signal) => orders.push(signal),
            }
        }
        // First: a master that is dead hears nothing.
        let mut ended = if children { self.reap()? } else { None };
        for signal in orders {
            ended = ended.or_else(|| self.pass_on(signal));
        }
        Ok(ended)
    }

    fn pass_on(&mut self, signal: Signal) -> Option<u8> {
        match &self.master {
            // One that has nothing to lose yet may die of it, as it would without a keeper.
            Some(master) if master.hears || self.kept.is_empty() => {
                let _ = master.process.signal(signal);
                self.passed.push(signal);
                None
            }
            None if asks_for_the_end(signal) => Some(self.end_without_a_master()),
            _ => {
                self.orders.push(signal);
                None
            }
        }
    }

    /// Reap every child that has ended. The exit code, if the launcher has ended with the master.
    fn reap(&mut self) -> io::Result<Option<u8>> {
        while let Some(pid) = reaper::ended_child() {
            let kept = self.kept.keys().any(|name| keeping::process_of(name) == Some(pid));
            if kept {
                // What is left of its group: grandchildren hold the listeners too.
                process::kill_group(pid);
            }
            let Some(status) = reaper::reap_child(pid) else { break };
            if self.master.as_ref().is_some_and(|master| master.pid == pid && !master.foreign) {
                // What it said before it died counts.
                self.listen()?;
                if let Some(code) = self.on_death(Some(status))? {
                    return Ok(Some(code));
                }
            } else if kept {
                let word = ToMaster::Exited { pid, status: status.into_raw() };
                let socket = self.master.as_ref().and_then(|master| master.socket.as_ref());
                let told = socket.is_some_and(|socket| passing::send(socket, word.text().as_bytes(), &[]).is_ok());
                if !told {
                    self.news.push(word);
                }
            }
        }
        Ok(None)
    }

    /// The master is gone. The exit code, if that is the end.
    fn on_death(&mut self, status: Option<ExitStatus>) -> io::Result<Option<u8>> {
        let Some(master) = self.master.take() else { return Ok(None) };
        // It may have been sent to a process that was dying.
        self.orders.append(&mut self.passed);
        let how = status.map_or_else(|| "ended".to_owned(), process::describe);
        if let Some(code) = master.leaves {
            let Some(program) = self.upgrade.take() else { return Ok(Some(self.end(code))) };
            self.start_master(Some(program))?;
            return Ok(None);
        }
        if self.upgrade.take().is_some() && master.on_trial.is_some() {
            let late = master.on_trial.is_some_and(|deadline| deadline <= Instant::now());
            let reason = match late {
                true => format!("it did not serve within {} s", TAKES_OVER.as_secs()),
                false => format!("it {how} before it served"),
            };
            self.news.push(ToMaster::NotUpgraded(reason));
            self.start_master(None)?;
            return Ok(None);
        }
        if !self.served {
            // Nothing was lost that anybody had: the failure is the launcher's.
            let code = status.map_or(1, |status| match (status.code(), status.signal()) {
                (Some(code), _) => u8::try_from(code).unwrap_or(1),
                (None, Some(signal)) => u8::try_from(128 + signal).unwrap_or(1),
                (None, None) => 1,
            });
            if status.is_some_and(|status| status.code().is_none()) {
                say(&format!("the master {how} before it served"));
            }
            return Ok(Some(code));
        }
        self.news.push(ToMaster::Died { pid: master.pid, at: notify::monotonic_usec(), how: how.clone() });
        let wait = self.pace.died(Instant::now(), master.serves);
        if wait.is_zero() {
            self.start_master(None)?;
            return Ok(None);
        }
        say(&format!(
            "the master (pid {}) {how}, the last of {} deaths within a minute; the workers serve on without a master, and \
             the next one is started in {} s",
            master.pid,
            self.pace.deaths(),
            wait.as_secs()
        ));
        if self.orders.iter().any(|signal| asks_for_the_end(*signal)) {
            return Ok(Some(self.end_without_a_master()));
        }
        self.due = Some(Instant::now() + wait);
        Ok(None)
    }

    /// Let everything go; what workers left behind goes too.
    fn end(&mut self, code: u8) -> u8 {
        reaper::end_descendants(&self.inherited, LEFT_BEHIND);
        self.kept.clear();
        code
    }

    /// The end is asked for and no master is there to bring it about: workers whose channel ends leave by themselves.
    fn end_without_a_master(&mut self) -> u8 {
        say("stopping without a master: the workers finish what they have begun");
        let names: Vec<String> = self.kept.keys().filter(|name| keeping::process_of(name).is_some()).cloned().collect();
        let workers: Vec<OwnedFd> = names.iter().filter_map(|name| self.kept.remove(name)).collect();
        self.kept.clear();
        let deadline = Instant::now() + LEAVING;
        let workers: Vec<Stranger> = workers.into_iter().map(Stranger::known_by).collect();
        while let Some(worker) = workers.iter().find(|worker| !worker.ended()) {
            let left = deadline.saturating_duration_since(Instant::now());
            let polled = poll::readable(&[self.signals.as_fd(), worker.as_fd()], Some(left));
            let again = std::iter::from_fn(|| self.signals.next().ok().flatten());
            if polled.is_err() || left.is_zero() || again.into_iter().any(|came| came != Came::Child) {
                break; // a second signal means now
            }
        }
        for worker in workers.iter().filter(|worker| !worker.ended()) {
            let _ = worker.kill();
        }
        self.end(0)
    }

    /// The program of an upgrade serves: become it as well. A failure ends this process; the master makes another one.
    fn become_the_upgrade(&mut self) {
        let (Some(program), Some(master)) = (self.upgrade.take(), &self.master) else { return };
        let Some(socket) = &master.socket else { return };
        let mut descriptors: Vec<(String, BorrowedFd<'_>)> = vec![(SOCKET.to_owned(), socket.as_fd())];
        descriptors.extend(self.kept.iter().map(|(name, descriptor)| (name.clone(), descriptor.as_fd())));
        let arguments = (self.plan.again)(&self.plan.original, master.pid);
        let arguments = std::iter::once(NAME.into()).chain(arguments).collect();
        let error = Program { file: Some(program.as_fd()), arguments, descriptors }.become_it();
        say(&format!("the keeper cannot become the new program: {error}; the master makes another one"));
        process::exit_at_once(1);
    }
}

//! What is kept for the next master, seen from this one: the link to the keeper, and the ledger in which the master
//! writes down what it knows.
//!
//! The keeper is a process of ours or systemd; both speak [`crate::keeping`]. What does not fit into the socket waits
//! here, in order, and nobody waits for it. Nothing is decided here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::StartError;
use super::adoption::Legacy;
use super::remembering::{ADMIN, CONTROL, LISTENER, LOCK, WATCHES};
use crate::keeping::{self, ToKeeper, ToMaster};
use crate::sys::ledger::Ledger;
use crate::sys::{self, notify, passing};

/// The name of the ledger.
pub(super) const LEDGER: &str = "ledger";

/// How long systemd may take to let go of what it has kept.
const FORGETS: Duration = Duration::from_secs(5);

/// A descriptor that somebody else may hold too.
pub(super) type Kept = Arc<dyn AsFd + Send + Sync>;

/// Who keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeper {
    /// A process of ours.
    Own {
        /// Its pid.
        pid: u32,
    },
    /// systemd, or who passes for it.
    Systemd {
        /// Descriptors that it keeps at most.
        most: usize,
    },
}

/// What a master starts with, if somebody keeps for it.
#[derive(Debug)]
pub struct Inheritance {
    keeper: Keeper,
    socket: OwnedFd,
    /// What an earlier master has stored, by name.
    pub(super) kept: Vec<(String, OwnedFd)>,
    /// The sockets that the launcher was started with, by name.
    pub(super) inherited: Vec<(String, OwnedFd)>,
    pub(super) ledger: Option<Ledger>,
    /// What the keeper has said before this master was started.
    pub(super) news: Vec<ToMaster>,
    /// The path by which the launcher was started.
    pub(super) program: std::path::PathBuf,
}

impl Inheritance {
    /// Of the process that has this one started: a keeper of ours, or systemd. `None`: nobody keeps. Before anything is
    /// opened.
    ///
    /// # Errors
    /// The socket to systemd cannot be made.
    pub fn take(program: std::path::PathBuf) -> io::Result<Option<Inheritance>> {
        let mut kept = sys::named_descriptors::take();
        let own = kept.iter().position(|(name, _)| name == keeping::KEEPER);
        let (keeper, socket) = match own {
            Some(place) => (Keeper::Own { pid: sys::process::parent() }, kept.remove(place).1),
            None => match (notify::keeps(), notify::connect()?) {
                (most @ 1.., Some(socket)) => (Keeper::Systemd { most }, socket.into()),
                _ => return Ok(None),
            },
        };
        let (inherited, mut kept): (Vec<_>, Vec<_>) = kept.into_iter().partition(|(name, _)| match keeper {
            Keeper::Own { .. } => keeping::inherited(name).is_some(),
            // It gives its own sockets again at each start, beside what it keeps for us.
            Keeper::Systemd { .. } => !is_ours(name),
        });
        let inherited = match keeper {
            Keeper::Own { .. } => {
                let own =
                    |(name, socket): (String, OwnedFd)| (keeping::inherited(&name).unwrap_or(&name).to_owned(), socket);
                inherited.into_iter().map(own).collect()
            }
            Keeper::Systemd { .. } => keeping::told_apart(inherited),
        };
        let ledger = kept.iter().position(|(name, _)| name == LEDGER).map(|place| Ledger::of(kept.remove(place).1));
        let mut news = Vec::new();
        while let Ok(received) = passing::receive(&socket, keeping::LONGEST) {
            if received.bytes.is_empty() {
                break;
            }
            news.extend(ToMaster::read(&String::from_utf8_lossy(&received.bytes)));
        }
        Ok(Some(Inheritance { keeper, socket, kept, inherited, ledger, news, program }))
    }

    /// What an earlier master has left to go on with, if there was one.
    ///
    /// # Errors
    /// It cannot be gone on with.
    pub fn legacy(&mut self) -> Result<Option<Legacy>, StartError> {
        let legacy = self.ledger.as_ref().map(Legacy::read).transpose()?;
        // systemd starts nobody who should stop: this is `systemctl restart`, or a start after a stop that failed, and there
        // it keeps what it has. Without a ledger nobody knows what the rest is.
        if matches!(self.keeper, Keeper::Systemd { .. }) && legacy.as_ref().is_none_or(Legacy::was_stopping) {
            self.forget();
            return Ok(None);
        }
        Ok(legacy)
    }

    /// Let go of all that systemd has kept, and wait until it has let go, too: it holds the lock of the state directory and
    /// listens on our addresses. What was left of the launcher before has nobody who speaks to it any more, and drains.
    fn forget(&mut self) {
        let ledger = self.ledger.take().map(|_| LEDGER.to_owned());
        let names = self.kept.drain(..).map(|(name, _)| name).chain(ledger);
        let words: Vec<String> = names.map(|name| ToKeeper::Remove(name).text()).collect();
        if !words.is_empty()
            && let Err(error) = notify::tell_and_wait(&self.socket, &words, FORGETS)
        {
            // What is in the way is told by whoever meets it.
            eprintln!("launcher: systemd does not say that it keeps nothing of the launcher before: {error}");
        }
    }
}

/// Whether a master of ours stores descriptors under such a name.
fn is_ours(name: &str) -> bool {
    let numbered = |rest: Option<&str>| rest.is_some_and(|rest| rest.parse::<u64>().is_ok());
    [LEDGER, LOCK, CONTROL, ADMIN, WATCHES].contains(&name)
        || numbered(name.strip_prefix(LISTENER))
        || numbered(name.split_once('.').map(|(service, _)| service))
}

/// What was kept, taken from it piece by piece.
#[derive(Debug)]
pub(super) struct Estate {
    kept: BTreeMap<String, OwnedFd>,
    /// The sockets that the launcher was started with.
    pub(super) inherited: Vec<(String, OwnedFd)>,
}

impl Estate {
    pub(super) fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.kept.remove(name)
    }
}

/// Something that the keeper did.
#[derive(Debug)]
pub(super) enum News {
    /// It said something.
    Said(ToMaster),
    /// It is gone.
    Gone,
}

/// The link.
pub(super) struct Keeping {
    pub(super) keeper: Keeper,
    pub(super) ledger: Ledger,
    /// `None`: it is gone.
    socket: Option<AsyncFd<OwnedFd>>,
    backlog: VecDeque<(ToKeeper, Option<Kept>)>,
    /// The names of what is kept.
    stored: BTreeSet<String>,
    /// More is to be kept than fits, and that was said.
    too_many: bool,
}

impl Keeping {
    /// Must be called within a runtime. What the keeper has already is in `stored`.
    pub(super) fn start(
        keeper: Keeper,
        socket: OwnedFd,
        ledger: Ledger,
        stored: BTreeSet<String>,
    ) -> io::Result<Keeping> {
        let socket = sys::readiness::register(socket, Interest::READABLE | Interest::WRITABLE)?;
        let mut keeping =
            Keeping { keeper, ledger, socket: Some(socket), backlog: VecDeque::new(), stored, too_many: false };
        let ledger = Arc::clone(keeping.ledger.descriptor());
        keeping.store(LEDGER, || ledger);
        Ok(keeping)
    }

    /// The parts of an inheritance that the link is made of.
    pub(super) fn of(inheritance: Inheritance) -> io::Result<(Keeping, Estate, Vec<ToMaster>)> {
        let Inheritance { keeper, socket, kept, inherited, ledger, news, .. } = inheritance;
        let mut stored: BTreeSet<String> = kept.iter().map(|(name, _)| name.clone()).collect();
        stored.extend(inherited.iter().map(|(name, _)| keeping::of_inherited(name)));
        let ledger = match ledger {
            Some(ledger) => {
                stored.insert(LEDGER.to_owned());
                ledger
            }
            None => Ledger::new("launcher-ledger")?,
        };
        let estate = Estate { kept: kept.into_iter().collect(), inherited };
        Ok((Keeping::start(keeper, socket, ledger, stored)?, estate, news))
    }

    /// One that has nothing and keeps nothing, but remembers what it was given.
    pub(super) fn collecting(keeper: Keeper, ledger: Ledger) -> Keeping {
        let kept = Arc::clone(ledger.descriptor());
        let (backlog, stored) = (VecDeque::new(), BTreeSet::new());
        let mut keeping = Keeping { keeper, ledger, socket: None, backlog, stored, too_many: true };
        keeping.store(LEDGER, || kept);
        keeping
    }

    /// What it was given.
    pub(super) fn collected(self) -> Vec<(String, Kept)> {
        let named = |(word, kept)| match (word, kept) {
            (ToKeeper::Store(name), Some(kept)) => Some((name, kept)),
            _ => None,
        };
        self.backlog.into_iter().filter_map(named).collect()
    }

    /// The process of ours that keeps.
    pub(super) fn pid(&self) -> Option<u32> {
        match self.keeper {
            Keeper::Own { pid } => Some(pid),
            Keeper::Systemd { .. } => None,
        }
    }

    /// Whether a descriptor of this name is kept.
    pub(super) fn keeps(&self, name: &str) -> bool {
        self.stored.contains(name)
    }

    /// Have a descriptor kept, unless one of this name is.
    pub(super) fn store<D: AsFd + Send + Sync + 'static>(&mut self, name: &str, descriptor: impl FnOnce() -> Arc<D>) {
        if !self.keeps(name) {
            self.stored.insert(name.to_owned());
            self.say(ToKeeper::Store(name.to_owned()), Some(descriptor()));
        }
    }

    /// Have everything let go whose name begins like this and is not wanted.
    pub(super) fn retain(&mut self, prefix: &str, wanted: &BTreeSet<String>) {
        let from = self.stored.range(prefix.to_owned()..).take_while(|name| name.starts_with(prefix));
        let unwanted: Vec<String> = from.filter(|name| !wanted.contains(*name)).cloned().collect();
        self.remove(unwanted);
    }

    /// Have everything let go that belongs to a service which is not among these.
    pub(super) fn retain_services(&mut self, known: &BTreeSet<String>) {
        let unwanted = |name: &&String| {
            let of_none = name.split_once('.').is_some_and(|(service, _)| !known.contains(service));
            of_none && keeping::inherited(name).is_none()
        };
        let unwanted = self.stored.iter().filter(unwanted).cloned().collect();
        self.remove(unwanted);
    }

    fn remove(&mut self, names: Vec<String>) {
        for name in names {
            self.stored.remove(&name);
            self.say(ToKeeper::Remove(name), None);
        }
    }

    /// This master has stopped: systemd is to keep nothing for the next one, which begins anew. Waits so long at most until
    /// it has been told.
    pub(super) async fn let_go(&mut self, patience: Duration) {
        if let Keeper::Systemd { .. } = self.keeper {
            self.remove(self.stored.iter().cloned().collect());
            let told = async {
                while !self.send_backlog()
                    && let Some(socket) = &self.socket
                    && let Ok(mut ready) = socket.writable().await
                {
                    ready.clear_ready();
                }
            };
            let _ = tokio::time::timeout(patience, told).await;
        }
    }

    /// Whether the keeper may have less than it was given; said once.
    pub(super) fn overflows(&mut self) -> Option<usize> {
        match self.keeper {
            Keeper::Systemd { most } if self.stored.len() > most && !self.too_many => {
                self.too_many = true;
                Some(most)
            }
            _ => None,
        }
    }

    /// It only collects what the next program in this process is to get, from a master that systemd keeps for.
    pub(super) fn collects(&self) -> bool {
        self.socket.is_none() && self.pid().is_none()
    }

    /// Descriptors that are kept.
    pub(super) fn count(&self) -> usize {
        self.stored.len()
    }

    /// A keeper of ours only: systemd is told by others.
    pub(super) fn tell(&mut self, word: ToKeeper, descriptor: Option<Kept>) {
        if let Keeper::Own { .. } = self.keeper {
            self.say(word, descriptor);
        }
    }

    fn say(&mut self, word: ToKeeper, descriptor: Option<Kept>) {
        self.backlog.push_back((word, descriptor));
        self.send_backlog();
    }

    /// `false`: something is left.
    fn send_backlog(&mut self) -> bool {
        let Some(socket) = &self.socket else { return false };
        while let Some((word, descriptor)) = self.backlog.front() {
            let descriptors: Vec<_> = descriptor.iter().map(|descriptor| descriptor.as_fd()).collect();
            match passing::send(socket.get_ref(), word.text().as_bytes(), &descriptors) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // It is gone, or takes nothing: then the next keeper is given everything.
                _ => drop(self.backlog.pop_front()),
            }
        }
        true
    }

    /// Send what waits, and the next news. Can be dropped at any time.
    pub(super) async fn attend(&mut self) -> News {
        loop {
            let waits = !self.send_backlog() && !self.backlog.is_empty();
            let Some(socket) = &self.socket else { return std::future::pending().await };
            tokio::select! {
                ready = socket.readable() => {
                    let Ok(mut ready) = ready else { return self.lose() };
                    match passing::receive(ready.get_inner(), keeping::LONGEST) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                        Ok(received) if !received.bytes.is_empty() => {
                            if let Some(word) = ToMaster::read(&String::from_utf8_lossy(&received.bytes)) {
                                return News::Said(word);
                            }
                        }
                        Ok(_) | Err(_) => {
                            drop(ready);
                            return self.lose();
                        }
                    }
                }
                ready = socket.writable(), if waits => {
                    let Ok(mut ready) = ready else { return self.lose() };
                    // Tried again at the head of the loop; if it is still full, its next change is waited for.
                    ready.clear_ready();
                }
            }
        }
    }

    fn lose(&mut self) -> News {
        self.socket = None;
        self.backlog.clear();
        self.stored.clear();
        News::Gone
    }

    /// Another keeper of ours takes the place of one that is gone. It has nothing yet.
    pub(super) fn change(&mut self, pid: u32, socket: OwnedFd) -> io::Result<()> {
        self.socket = Some(sys::readiness::register(socket, Interest::READABLE | Interest::WRITABLE)?);
        self.keeper = Keeper::Own { pid };
        let ledger = Arc::clone(self.ledger.descriptor());
        self.store(LEDGER, || ledger);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn what_systemd_gives_of_its_own_is_told_from_what_it_keeps_for_us() {
        for ours in ["ledger", "lock", "control", "admin", "listener12", "2.page0", "2.worker7.channel"] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in ["web", "web.socket", "listener", "listeners", "listener1.socket", "unknown", "a2.socket"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}

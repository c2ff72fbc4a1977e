//! Watches files (plugins, `config.yaml`) and says when one has changed, by whatever way its name leads to another
//! content: replaced, rewritten, unlinked and linked anew, through a symlink or a directory that was swapped.
//!
//! ```text
//! inotify ──event──▶ which targets does it concern, and how? ──▶ follow the way anew, re-arm, look at the file
//!                                                                        │
//!                            the master ◀──changed── Settling ◀──what was seen, and why──┘
//! ```
//!
//! Events only wake: what counts is how the file looks afterwards, so that nothing depends on an event that the
//! kernel dropped. The content is not read here. The master pins it and compares hashes: a report may turn out to
//! be none. Call [`Watcher::set`] *before* the files are read for the first time, or a change in between is missed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::sys::file::Stamp;
use crate::sys::inotify::{Event, Mask, Queue, Refusal, Watch};

mod settle;
mod trail;

#[cfg(test)]
mod tests;

use settle::{Cause, Settling, Verdict};
use trail::{Entry, Trail};

/// While a file is written to, events are read in steps of this length: the kernel merges equal events that wait,
/// and a large file written in small pieces does not wake the master for each.
const BREATH: Duration = Duration::from_millis(10);
/// How often the way is followed anew if it changes while it is armed. After that it is looked at again later.
const ATTEMPTS: usize = 16;

/// A longer `settle` means the same, and instants cannot overflow.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A file to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Absolute. It need not exist.
    pub path: PathBuf,
    /// How long the file must not change before a change that was not made in one step is reported.
    pub settle: Duration,
}

/// What the watcher has to say.
#[derive(Debug)]
pub enum Report<K> {
    /// The file has changed, or has come back, and is complete as far as can be told from outside.
    Changed {
        /// Which target.
        key: K,
        /// The file, with every symlink resolved.
        path: PathBuf,
    },
    /// Changes may go unnoticed. Said once for each path.
    Blind {
        /// Which target.
        key: K,
        /// Why.
        error: WatchError,
    },
}

/// Why something cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// There is no inotify instance.
    #[error(
        "cannot watch files: {source}; if fs.inotify.max_user_instances is used up, raise it with sysctl or set `reload.watch: false`"
    )]
    Start {
        /// As the system says it.
        source: io::Error,
    },
    /// The limit of watches is reached.
    #[error("cannot watch `{}`: fs.inotify.max_user_watches is used up; raise it with sysctl", path.display())]
    Exhausted {
        /// What would be watched.
        path: PathBuf,
    },
    /// A path may not be read.
    #[error("cannot watch `{}`: permission denied; a change there goes unnoticed until the next reload", path.display())]
    Forbidden {
        /// What would be watched.
        path: PathBuf,
    },
    /// A path cannot be watched.
    #[error("cannot watch `{}`: {source}; a change there goes unnoticed until the next reload", path.display())]
    Refused {
        /// What would be watched.
        path: PathBuf,
        /// As the system says it.
        source: io::Error,
    },
    /// Events cannot be read any more.
    #[error("cannot read file events: {source}")]
    Read {
        /// As the system says it.
        source: io::Error,
    },
}

/// Watches the targets of a master; `K` names them.
#[derive(Debug)]
pub struct Watcher<K> {
    queue: Queue,
    targets: BTreeMap<K, Watched>,
    settling: Settling<K>,
    /// The mask with which each watch is armed.
    armed: BTreeMap<Watch, Mask>,
    /// Not handed out yet.
    reports: Vec<Report<K>>,
    /// Paths of which was said that they cannot be watched.
    refused: BTreeSet<PathBuf>,
    /// Events are not read before it.
    breath: Option<Instant>,
}

#[derive(Debug)]
struct Watched {
    target: Target,
    trail: Trail,
    /// The watch of each place of the trail; `None`: it could not be armed.
    watches: Vec<Option<Watch>>,
    /// The way changed all the time while it was armed: it is followed again then.
    unsteady: Option<Instant>,
}

/// What an event says about one target.
#[derive(Debug, Clone, Copy)]
enum Effect {
    /// The way changed at this place of the trail.
    Way(usize, Hint),
    /// The content was written to.
    Written,
    /// The metadata changed.
    Touched,
}

/// What a batch of events says about one target.
#[derive(Debug, Default)]
struct Concern {
    /// The last thing that happened to the way, and where.
    way: Option<(usize, Hint)>,
    /// The content that was written to.
    written: Option<Watch>,
}

/// How the way changed, as far as an event can tell.
#[derive(Debug, Clone, Copy)]
enum Hint {
    /// Something was moved to a name on the way: complete.
    MovedIn,
    /// A name was created on the way, in this directory. A symlink or a further name of a file is complete, a file
    /// or directory is about to be filled.
    Created(Watch),
    /// A directory on the way is another one now.
    Swapped,
    /// Anything else.
    Unclear,
}

impl<K: Ord + Clone> Watcher<K> {
    /// A watcher in the current runtime, without targets.
    pub fn new() -> Result<Self, WatchError> {
        Queue::new().map(Self::on).map_err(|source| WatchError::Start { source })
    }

    /// One that goes on with the queue of a process that is gone.
    pub fn adopt(queue: OwnedFd) -> Result<Self, WatchError> {
        Queue::adopt(queue).map(Self::on).map_err(|source| WatchError::Start { source })
    }

    /// The queue, to be held by another process as well: see [`crate::sys::inotify`].
    pub fn queue(&self) -> io::Result<OwnedFd> {
        self.queue.descriptor()
    }

    fn on(queue: Queue) -> Self {
        Self {
            queue,
            targets: BTreeMap::new(),
            settling: Settling::new(),
            armed: BTreeMap::new(),
            reports: Vec::new(),
            refused: BTreeSet::new(),
            breath: None,
        }
    }

    /// Watches exactly these. A target whose path stays is not looked at anew: a change in progress goes on.
    pub fn set(&mut self, targets: BTreeMap<K, Target>) {
        let gone: Vec<K> = self.targets.keys().filter(|key| !targets.contains_key(key)).cloned().collect();
        for key in gone {
            self.targets.remove(&key);
            self.settling.remove(&key);
        }
        for (key, mut target) in targets {
            target.settle = target.settle.min(LONGEST);
            if let Some(watched) = self.targets.get_mut(&key).filter(|watched| watched.target.path == target.path) {
                self.settling.set_settle(&key, target.settle);
                watched.target = target;
                continue;
            }
            let settle = target.settle;
            let trail = Trail { places: Vec::new(), resolved: None };
            self.targets.insert(key.clone(), Watched { target, trail, watches: Vec::new(), unsteady: None });
            self.arm(&key, Instant::now());
            let sight = self.sight(&key);
            self.settling.insert(key, settle, sight);
        }
        self.prune();
    }

    /// Waits until there is something to report. Nothing is lost when the future is dropped; an error says that
    /// this watcher is of no use any more.
    pub async fn next(&mut self) -> Result<Vec<Report<K>>, WatchError> {
        loop {
            self.look_again(Instant::now());
            if !self.reports.is_empty() {
                return Ok(std::mem::take(&mut self.reports));
            }
            let deadline = self.next_deadline();
            let alarm = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            if self.breath.is_some() {
                alarm.await;
                continue;
            }
            tokio::select! {
                events = self.queue.events() => {
                    let events = events.map_err(|source| WatchError::Read { source })?;
                    self.take(&events, Instant::now());
                }
                () = alarm => {}
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let unsteady = self.targets.values().filter_map(|watched| watched.unsteady);
        unsteady.chain(self.settling.next_deadline()).chain(self.breath).min()
    }

    /// Deals with every deadline that has come.
    fn look_again(&mut self, now: Instant) {
        self.breath = self.breath.filter(|at| *at > now);
        let unsteady = |watched: &Watched| watched.unsteady.is_some_and(|at| at <= now);
        let again: Vec<K> = self.targets.iter().filter(|(_, w)| unsteady(w)).map(|(key, _)| key.clone()).collect();
        for key in again {
            self.follow(&key, Hint::Unclear, None, now);
        }
        for key in self.settling.due(now) {
            let sight = self.sight(&key);
            let verdict = self.settling.settled(&key, sight, now);
            self.report(&key, verdict);
        }
    }

    /// Sorts a batch of events by target and looks at each that is concerned.
    fn take(&mut self, events: &[Event], now: Instant) {
        let mut concerns: BTreeMap<K, Concern> = BTreeMap::new();
        for event in events {
            if event.mask.contains(Mask::IN_IGNORED) {
                self.armed.remove(&event.wd);
            }
            for (key, watched) in &self.targets {
                if event.mask.contains(Mask::IN_Q_OVERFLOW) {
                    concerns.entry(key.clone()).or_default().way = Some((0, Hint::Unclear));
                }
                for effect in watched.effects(event) {
                    let concern = concerns.entry(key.clone()).or_default();
                    match effect {
                        // Behind a place that has changed, the file does not lie any more: what is deleted there
                        // now (the old directory, the old inode) would make an atomic swap look like a mess.
                        Effect::Way(at, _) if concern.way.is_some_and(|(changed, _)| changed < at) => {}
                        Effect::Way(at, hint) => concern.way = Some((at, hint)),
                        Effect::Written => concern.written = Some(event.wd),
                        Effect::Touched => {}
                    }
                }
            }
        }
        if concerns.values().all(|concern| concern.way.is_none()) && !concerns.is_empty() {
            self.breath = Some(now + BREATH);
        }
        for (key, concern) in concerns {
            match concern.way {
                Some((_, hint)) => self.follow(&key, hint, concern.written, now),
                None => {
                    let cause = if concern.written.is_some() { Cause::Written } else { Cause::Looked };
                    let sight = self.sight(&key);
                    let verdict = self.settling.saw(&key, sight, cause, now);
                    self.report(&key, verdict);
                }
            }
        }
    }

    /// The way may have changed: follows it anew and looks at what it leads to.
    fn follow(&mut self, key: &K, hint: Hint, written: Option<Watch>, now: Instant) {
        self.arm(key, now);
        self.prune();
        let Some(watched) = self.targets.get(key) else { return };
        let being_written = written.is_some() && watched.watches.last().copied().flatten() == written;
        let cause = match hint {
            // The very file that the way leads to is written to.
            _ if being_written => Cause::Written,
            Hint::MovedIn => Cause::Replaced,
            Hint::Created(watch) if watched.leads_on_from(watch) => Cause::Replaced,
            Hint::Created(_) => Cause::Written,
            Hint::Swapped if watched.has_been_still() => Cause::Replaced,
            Hint::Swapped | Hint::Unclear => Cause::Looked,
        };
        let sight = self.sight(key);
        let verdict = self.settling.saw(key, sight, cause, now);
        self.report(key, verdict);
    }

    fn sight(&self, key: &K) -> Option<Stamp> {
        let metadata = self.targets.get(key)?.metadata()?;
        Some(Stamp::of(&metadata))
    }

    fn report(&mut self, key: &K, verdict: Verdict) {
        let path = self.targets.get(key).and_then(|watched| watched.trail.resolved.clone());
        if let (Verdict::Changed, Some(path)) = (verdict, path) {
            self.reports.push(Report::Changed { key: key.clone(), path });
        }
    }

    fn arm(&mut self, key: &K, now: Instant) {
        self.arm_while(key, now, || {});
    }

    /// Follows the way and watches it, until it is the same before and after. `meanwhile` happens in between: a
    /// test's worst moment.
    fn arm_while(&mut self, key: &K, now: Instant, mut meanwhile: impl FnMut()) {
        let Some(Target { path, settle }) = self.targets.get(key).map(|watched| watched.target.clone()) else { return };
        let mut trail = Trail::follow(&path);
        for _ in 0..ATTEMPTS {
            meanwhile();
            let watches = trail.places.iter().map(|place| self.watch(key, &trail, place)).collect();
            let again = Trail::follow(&path);
            let steady = again == trail;
            if let Some(watched) = self.targets.get_mut(key) {
                watched.unsteady = (!steady).then_some(now + settle.max(BREATH));
                watched.trail = trail;
                watched.watches = watches;
            }
            if steady {
                return;
            }
            trail = again;
        }
    }

    /// Watches one place for this target and for every other that needs it.
    fn watch(&mut self, key: &K, trail: &Trail, place: &trail::Place) -> Option<Watch> {
        let others = self.targets.iter().filter(|(other, _)| *other != key).flat_map(|(_, w)| &w.trail.places);
        let same = others.chain(&trail.places).filter(|other| other.inode == place.inode);
        let mask = same.fold(place.mask, |mask, other| mask | other.mask);
        match self.queue.add(&place.path, mask) {
            Ok(watch) => {
                self.armed.insert(watch, mask);
                Some(watch)
            }
            Err(refusal) => {
                let path = place.path.clone();
                let error = match refusal {
                    // It changed since it was looked at; the next look will see that.
                    Refusal::Absent => return None,
                    // A directory may be passed without permission to read it. That it is moved goes unnoticed then.
                    Refusal::Forbidden if place.is_passed() => return None,
                    Refusal::Forbidden => WatchError::Forbidden { path },
                    Refusal::Exhausted => WatchError::Exhausted { path },
                    Refusal::Other(source) => WatchError::Refused { path, source },
                };
                if self.refused.insert(place.path.clone()) {
                    self.reports.push(Report::Blind { key: key.clone(), error });
                }
                None
            }
        }
    }

    /// Ends the watches that no target needs any more, and narrows those of which it needs less.
    fn prune(&mut self) {
        let mut needed: BTreeMap<Watch, (Mask, &Path)> = BTreeMap::new();
        for watched in self.targets.values() {
            for (place, watch) in watched.trail.places.iter().zip(&watched.watches) {
                if let Some(watch) = watch {
                    let (mask, _) = needed.entry(*watch).or_insert((Mask::empty(), &place.path));
                    *mask |= place.mask;
                }
            }
        }
        let armed: Vec<(Watch, Mask)> = self.armed.iter().map(|(watch, mask)| (*watch, *mask)).collect();
        for (watch, mask) in armed {
            match needed.get(&watch) {
                None => {
                    self.queue.remove(watch);
                    self.armed.remove(&watch);
                }
                Some((less, path)) if *less != mask => match self.queue.add(path, *less) {
                    Ok(same) if same == watch => drop(self.armed.insert(watch, *less)),
                    // Something else is there now, and an event that says so is on its way.
                    Ok(other) => match needed.get(&other) {
                        Some((mask, path)) => drop(self.queue.add(path, *mask)),
                        None => self.queue.remove(other),
                    },
                    Err(_) => {}
                },
                Some(_) => {}
            }
        }
    }
}

impl Watched {
    /// What `event` says about this target.
    fn effects(&self, event: &Event) -> impl Iterator<Item = Effect> {
        let selves = Mask::IN_DELETE_SELF | Mask::IN_MOVE_SELF | Mask::IN_IGNORED | Mask::IN_UNMOUNT;
        let places = self.trail.places.iter().zip(&self.watches).enumerate();
        places.filter(|(_, (_, watch))| **watch == Some(event.wd)).filter_map(move |(at, (place, _))| {
            match &place.next {
                None if event.mask.intersects(Mask::IN_MODIFY | Mask::IN_CLOSE_WRITE) => Some(Effect::Written),
                None if event.mask.contains(Mask::IN_ATTRIB) => Some(Effect::Touched),
                None if event.mask.intersects(selves) => Some(Effect::Way(at, Hint::Unclear)),
                Some(_) if event.mask.intersects(selves) => Some(Effect::Way(at, Hint::Swapped)),
                Some((name, _)) if event.name.as_ref() == Some(name) => Some(Effect::Way(
                    at,
                    match event.mask {
                        mask if mask.contains(Mask::IN_MOVED_TO) => Hint::MovedIn,
                        mask if mask.contains(Mask::IN_CREATE) => Hint::Created(event.wd),
                        _ => Hint::Unclear,
                    },
                )),
                None | Some(_) => None,
            }
        })
    }

    fn metadata(&self) -> Option<std::fs::Metadata> {
        let metadata = std::fs::symlink_metadata(self.trail.resolved.as_ref()?).ok()?;
        metadata.is_file().then_some(metadata)
    }

    /// What this directory's name on the way stands for came into being complete.
    fn leads_on_from(&self, directory: Watch) -> bool {
        let places = self.trail.places.iter().zip(&self.watches).filter(|(_, watch)| **watch == Some(directory));
        let mut entries = places.filter_map(|(place, _)| place.next.as_ref().map(|(_, entry)| *entry));
        entries.any(|entry| matches!(entry, Entry::Symlink | Entry::Linked))
    }

    /// The file has not changed for as long as a file in change would have to wait. A clock that was set back in
    /// between only makes it wait.
    fn has_been_still(&self) -> bool {
        let Some(metadata) = self.metadata() else { return false };
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(metadata.ctime()), u32::try_from(metadata.ctime_nsec())) else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos));
        changed.and_then(|at| at.elapsed().ok()).is_some_and(|age| age >= self.target.settle)
    }
}

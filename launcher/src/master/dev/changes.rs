//! Changes of sources, gathered: inotify(7) wakes, [`Sources`] says what matters, and a save that comes in several steps
//! is one change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::sources::{Meaning, Sources};
use crate::sys::inotify::{Mask, Queue, Refusal, Watch};

/// Stillness after the last step of a save. Editors write a file, rename it and set its mode within a millisecond.
const SETTLE: Duration = Duration::from_millis(6);
/// A stream of changes (a checkout of another branch) is one change for no longer than this.
const LONGEST: Duration = Duration::from_millis(60);

/// Number of a build.
pub(super) type Unit = usize;

/// See the module.
#[derive(Debug)]
pub(super) struct Changes {
    queue: Queue,
    /// The directory of each watch, and the builds that it concerns.
    watches: HashMap<Watch, (PathBuf, BTreeSet<Unit>)>,
    gathered: BTreeMap<Unit, BTreeSet<PathBuf>>,
    /// Files that turned out to be written by a build, and are not told yet.
    outputs: Vec<(Unit, PathBuf)>,
    /// When the first and the last gathered change came.
    since: Option<(Instant, Instant)>,
}

/// What happened to the sources.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// The files that make a build stale.
    pub(super) files: BTreeMap<Unit, BTreeSet<PathBuf>>,
    /// Files that a build writes itself, and that are therefore not watched any more.
    pub(super) outputs: Vec<(Unit, PathBuf)>,
}

impl Changes {
    /// Nothing is watched yet. Within a runtime.
    pub(super) fn new() -> io::Result<Changes> {
        Ok(Changes {
            queue: Queue::new()?,
            watches: HashMap::new(),
            gathered: BTreeMap::new(),
            outputs: Vec::new(),
            since: None,
        })
    }

    /// Watch exactly these directories for this build. Directories that could not be watched, and why.
    pub(super) fn watch(&mut self, unit: Unit, directories: &BTreeSet<PathBuf>) -> Option<String> {
        let mut trouble = None;
        let mut kept = BTreeSet::new();
        for directory in directories {
            if let Err(reason) = self.add(unit, directory, &mut kept) {
                trouble.get_or_insert(reason);
            }
        }
        let queue = &self.queue;
        self.watches.retain(|watch, (_, units)| {
            if !kept.contains(watch) {
                units.remove(&unit);
            }
            let wanted = !units.is_empty();
            if !wanted {
                queue.remove(*watch);
            }
            wanted
        });
        trouble
    }

    fn add(&mut self, unit: Unit, directory: &Path, kept: &mut BTreeSet<Watch>) -> Result<(), String> {
        let mask = Mask::IN_CLOSE_WRITE
            | Mask::IN_MOVED_TO
            | Mask::IN_MOVED_FROM
            | Mask::IN_CREATE
            | Mask::IN_DELETE
            | Mask::IN_ONLYDIR;
        match self.queue.add(directory, mask) {
            Ok(watch) => {
                self.watches.entry(watch).or_insert_with(|| (directory.to_owned(), BTreeSet::new())).1.insert(unit);
                kept.insert(watch);
                Ok(())
            }
            // It was there a moment ago; its parent says if it comes back.
            Err(Refusal::Absent) => Ok(()),
            Err(Refusal::Exhausted) => Err("fs.inotify.max_user_watches is used up; raise it with sysctl".to_owned()),
            Err(Refusal::Forbidden) => Err(format!("{}: permission denied", directory.display())),
            Err(Refusal::Other(error)) => Err(format!("{}: {error}", directory.display())),
        }
    }

    /// Waits for a change that matters. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self, sources: &mut [(Sources, bool)]) -> io::Result<Changed> {
        loop {
            let due = self.since.map(|(first, last)| (last + SETTLE).min(first + LONGEST));
            let settled = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let events = tokio::select! {
                biased;
                events = self.queue.events() => events?,
                () = settled => {
                    self.since = None;
                    return Ok(self.take());
                }
            };
            for event in events {
                if event.mask.contains(Mask::IN_Q_OVERFLOW) {
                    // Whatever it was: everything is looked at.
                    for (unit, _) in sources.iter().enumerate() {
                        self.gather(unit, PathBuf::from("(many files)"));
                    }
                }
                if event.mask.contains(Mask::IN_IGNORED) {
                    self.watches.remove(&event.wd);
                }
                let Some((directory, units)) = self.watches.get(&event.wd) else { continue };
                let Some(name) = &event.name else { continue };
                let (path, units) = (directory.join(name), units.clone());
                for unit in units {
                    let Some((sources, building)) = sources.get_mut(unit) else { continue };
                    if event.mask.contains(Mask::IN_ISDIR) {
                        self.enter(unit, sources, &path, *building);
                        continue;
                    }
                    match sources.judge(&path, *building) {
                        Meaning::None => {}
                        Meaning::Source => self.gather(unit, path.clone()),
                        Meaning::Output => self.outputs.push((unit, path.clone())),
                    }
                }
            }
            if !self.outputs.is_empty() && self.since.is_none() {
                return Ok(self.take());
            }
        }
    }

    fn take(&mut self) -> Changed {
        Changed { files: std::mem::take(&mut self.gathered), outputs: std::mem::take(&mut self.outputs) }
    }

    /// A directory appeared or went: what it holds may be sources, and was there before the watch.
    fn enter(&mut self, unit: Unit, sources: &mut Sources, directory: &Path, building: bool) {
        if !sources.enters(directory) || self.add(unit, directory, &mut BTreeSet::new()).is_err() {
            return;
        }
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.enter(unit, sources, &entry.path(), building),
                _ if sources.judge(&entry.path(), building) == Meaning::Source => self.gather(unit, entry.path()),
                _ => {}
            }
        }
    }

    /// Count a file as changed.
    pub(super) fn gather(&mut self, unit: Unit, path: PathBuf) {
        let now = Instant::now();
        self.gathered.entry(unit).or_default().insert(path);
        self.since = Some((self.since.map_or(now, |(first, _)| first), now));
    }
}

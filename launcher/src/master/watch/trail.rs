//! The way from `/` to a file, symlink by symlink, and what has to be watched on it.
//!
//! - A directory in which a symlink or the file itself lies: names that come and go. Only there can the way be
//!   changed without any directory being moved.
//! - Every other directory on the way: that it is moved or deleted itself. Files that come and go in it concern
//!   nobody, and must not wake the master.
//! - The file: that it is written to. A watch on its directory would tell of writes to its neighbours as well.
//! - Where the way ends early: the name that is missing, and that a directory on the way is deleted. (A directory
//!   that somebody uses as working directory reports its own deletion only when it is left; but it cannot be
//!   deleted before the file in it, so only then is that needed.)
//!
//! This module looks at the file system and decides; it arms nothing.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::sys::inotify::Mask;

/// As the kernel (path_resolution(7)).
const MOST_SYMLINKS: usize = 40;

/// Device and inode: one watch of inotify.
pub(super) type Inode = (u64, u64);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Missing,
    Directory,
    Symlink,
    /// A regular file with more than one name.
    Linked,
    /// A regular file with this name only.
    File,
    /// A device, a socket, a FIFO.
    Special,
}

impl Entry {
    fn of(metadata: &Metadata) -> Self {
        let kind = metadata.file_type();
        if kind.is_dir() {
            Entry::Directory
        } else if kind.is_symlink() {
            Entry::Symlink
        } else if !kind.is_file() {
            Entry::Special
        } else if metadata.nlink() > 1 {
            Entry::Linked
        } else {
            Entry::File
        }
    }
}

/// One inode on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) inode: Inode,
    pub(super) mask: Mask,
    /// In a directory: the next name on the way, and what it stands for.
    pub(super) next: Option<(OsString, Entry)>,
}

impl Place {
    /// A directory in which nothing but the name of a further directory is looked up.
    pub(super) fn is_passed(&self) -> bool {
        !self.mask.contains(Mask::IN_CREATE) && self.next.is_some()
    }
}

/// The way, as far as it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trail {
    pub(super) places: Vec<Place>,
    /// The file, with every symlink resolved.
    pub(super) resolved: Option<PathBuf>,
}

fn itself() -> Mask {
    Mask::IN_DELETE_SELF | Mask::IN_MOVE_SELF
}

fn directory() -> Mask {
    // Without following: a directory that was replaced by a symlink since must not be mistaken for its target.
    Mask::IN_ONLYDIR | Mask::IN_DONT_FOLLOW | itself()
}

fn names() -> Mask {
    directory() | Mask::IN_CREATE | Mask::IN_MOVED_TO | Mask::IN_MOVED_FROM | Mask::IN_DELETE
}

fn content() -> Mask {
    Mask::IN_DONT_FOLLOW | Mask::IN_MODIFY | Mask::IN_CLOSE_WRITE | Mask::IN_ATTRIB
}

impl Trail {
    /// Follows `path`, which is absolute.
    pub(super) fn follow(path: &Path) -> Self {
        let mut trail = Trail { places: Vec::new(), resolved: None };
        let mut pending: VecDeque<OsString> = path.components().map(|c| c.as_os_str().to_owned()).collect();
        let mut here = PathBuf::from("/");
        let mut symlinks = 0;
        while let Some(name) = pending.pop_front() {
            match Path::new(&name).components().next() {
                Some(Component::RootDir) => here = PathBuf::from("/"),
                Some(Component::ParentDir) => drop(here.pop()),
                Some(Component::Normal(_)) => {
                    let Some(entry) = trail.step(&here, &name, pending.is_empty()) else { return trail };
                    here.push(&name);
                    if entry == Entry::Symlink {
                        symlinks += 1;
                        let target = std::fs::read_link(&here);
                        here.pop();
                        let Ok(target) = target else { return trail };
                        if symlinks > MOST_SYMLINKS {
                            return trail;
                        }
                        for component in target.components().rev() {
                            pending.push_front(component.as_os_str().to_owned());
                        }
                    }
                }
                Some(Component::CurDir | Component::Prefix(_)) | None => {}
            }
        }
        trail.arrive(here);
        trail
    }

    /// Notes the place from which `name` is looked up; `None`: the way ends here.
    fn step(&mut self, here: &Path, name: &OsStr, last: bool) -> Option<Entry> {
        let inode = std::fs::symlink_metadata(here).map(|m| (m.dev(), m.ino())).ok()?;
        let entry = std::fs::symlink_metadata(here.join(name)).map_or(Entry::Missing, |m| Entry::of(&m));
        let goes_on = match entry {
            Entry::Symlink => true,
            Entry::Directory => !last,
            Entry::File | Entry::Linked => last,
            Entry::Special | Entry::Missing => false,
        };
        let through = entry == Entry::Directory && goes_on;
        let mask = if through { directory() } else { names() };
        self.places.push(Place { path: here.to_owned(), inode, mask, next: Some((name.to_owned(), entry)) });
        if !goes_on {
            for place in &mut self.places {
                place.mask |= Mask::IN_DELETE;
            }
        }
        goes_on.then_some(entry)
    }

    fn arrive(&mut self, file: PathBuf) {
        if let Ok(metadata) = std::fs::symlink_metadata(&file)
            && metadata.is_file()
        {
            let inode = (metadata.dev(), metadata.ino());
            self.places.push(Place { path: file.clone(), inode, mask: content(), next: None });
            self.resolved = Some(file);
        }
    }
}

//! Compiled WASM on disk: found again by the hash of the source and of the compiler.
//!
//! A compiled component is machine code, so what lies here is run as it is. The directory is ours, 0700, and
//! reached by no symbolic link; a directory that is not so is refused and the launcher compiles every time.
//! An entry is written beside its place, synced and renamed, so that a reader sees all of it or nothing.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::channel::Plugin;
use crate::sys::file;

/// Entries kept beside those of the services; beyond it the ones unused for longest go.
const SPARE: usize = 8;
/// Entries kept for a service: what it runs, what it may return to, and the two before.
const OF_A_SERVICE: usize = 4;
/// An unfinished entry older than this belongs to a process that is gone.
const UNFINISHED: Duration = Duration::from_secs(3600);
/// How far a time may be ahead of the clock, which may have been set right a little.
const AHEAD: Duration = Duration::from_secs(60);

/// The compiled forms of plugins.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
    entries: usize,
}

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another user could put machine code there.
    #[error("{} {problem}; compiled plugins are not kept there", path.display())]
    Unsafe {
        /// The directory or a part of its path.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The system refused.
    #[error("{}: {source}; compiled plugins are not kept", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Cache {
    /// Open or make the directory, for the plugins of so many services.
    pub fn open(directory: &Path, services: usize) -> Result<Cache, CacheError> {
        let fail = |source| CacheError::Io { path: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail)?;
        let real = fs::canonicalize(directory).map_err(fail)?;
        let us = file::user();
        let metadata = fs::symlink_metadata(directory).map_err(fail)?;
        let problem = |problem| CacheError::Unsafe { path: directory.to_owned(), problem };
        if !metadata.is_dir() {
            return Err(problem("is a symbolic link"));
        }
        if metadata.uid() != us {
            return Err(problem("belongs to another user"));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(problem("is open to other users (chmod 700 it)"));
        }
        for ancestor in real.ancestors().skip(1) {
            let metadata = fs::symlink_metadata(ancestor).map_err(fail)?;
            let owned = metadata.uid() == us || metadata.uid() == 0;
            // In a sticky directory such as /tmp only the owner renames an entry.
            let writable = metadata.mode() & 0o022 != 0 && metadata.mode() & 0o1000 == 0;
            if !owned || writable {
                return Err(CacheError::Unsafe {
                    path: ancestor.to_owned(),
                    problem: "can be changed by another user",
                });
            }
        }
        Ok(Cache { directory: real, entries: SPARE + OF_A_SERVICE * services })
    }

    /// The compiled form of a source with this hash, if it was kept: what it is, and its file.
    pub fn find(&self, hash: &str) -> Option<(Plugin, File)> {
        let path = self.path(hash, "json");
        let mut description = String::new();
        file::open_own(&path).ok()?.take(64 * 1024).read_to_string(&mut description).ok()?;
        let plugin = serde_json::from_str(&description).ok()?;
        let compiled = file::open_own(&self.path(hash, "cwasm")).ok()?;
        // For `prune`: used now. Failing to say so only makes it go earlier.
        let _ = compiled.set_modified(SystemTime::now());
        Some((plugin, compiled))
    }

    /// Keep a compiled form.
    pub fn keep(&self, hash: &str, plugin: &Plugin, compiled: &mut dyn Read) -> io::Result<()> {
        self.write(&self.path(hash, "json"), &mut serde_json::to_vec(plugin)?.as_slice())?;
        // Last: an entry is there when its compiled form is.
        self.write(&self.path(hash, "cwasm"), compiled)?;
        self.prune();
        Ok(())
    }

    fn path(&self, hash: &str, extension: &str) -> PathBuf {
        self.directory.join(format!("{hash}.{extension}"))
    }

    fn write(&self, path: &Path, contents: &mut dyn Read) -> io::Result<()> {
        // A name of its own for each: services with the same plugin keep the same entry at the same time. With one name
        // for both, one's description ended up in the other's code, and nothing that found it could start.
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let (process, number) = (std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed));
        let unfinished = path.with_extension(format!("{process}-{number}.unfinished"));
        let written = file::create_own(&unfinished).and_then(|mut file| {
            io::copy(contents, &mut file)?;
            file.flush()?;
            file.sync_data()?;
            fs::rename(&unfinished, path)
        });
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// Let the entries go that nobody used for longest, and what an ended process left unfinished.
    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let now = SystemTime::now();
        let mut compiled = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            let Some(modified) = entry.metadata().ok().and_then(|metadata| metadata.modified().ok()) else { continue };
            match path.extension().and_then(|extension| extension.to_str()) {
                // A time that is still to come was written by a clock that was wrong. Such entries would stay for ever, and
                // fill the cache: whatever is kept now would be the oldest and go at once.
                Some("cwasm") if modified > now + AHEAD => compiled.push((SystemTime::UNIX_EPOCH, path)),
                Some("cwasm") => compiled.push((modified, path)),
                Some("unfinished")
                    if modified > now + AHEAD || now.duration_since(modified).is_ok_and(|age| age > UNFINISHED) =>
                {
                    let _ = fs::remove_file(path);
                }
                _ => {}
            }
        }
        compiled.sort();
        for (_, path) in compiled.iter().rev().skip(self.entries) {
            let _ = fs::remove_file(path);
            let _ = fs::remove_file(path.with_extension("json"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    #[test]
    fn what_was_kept_is_found_and_nothing_else() {
        let place = directory();
        let cache = Cache::open(&place.path().join("cache"), 1).expect("opens");
        assert!(cache.find("aa").is_none());
        cache.keep("aa", &Plugin::Native, &mut &b"code"[..]).expect("kept");
        let (plugin, file) = cache.find("aa").expect("found");
        assert_eq!((plugin, io::read_to_string(file).expect("read")), (Plugin::Native, "code".to_owned()));
        assert!(cache.find("ab").is_none());
    }

    #[test]
    fn an_entry_that_is_kept_by_several_at_once_is_never_a_mixture() {
        let place = directory();
        let cache = Cache::open(&place.path().join("cache"), 1).expect("opens");
        let code = vec![b'x'; 256 << 10];
        let keep = || cache.keep("aa", &Plugin::Native, &mut code.as_slice()).expect("kept");
        keep();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10).for_each(|_| keep()));
            }
            for _ in 0..40 {
                let (plugin, file) = cache.find("aa").expect("found");
                let mut found = Vec::new();
                (&file).read_to_end(&mut found).expect("read");
                assert!(plugin == Plugin::Native && found == code, "{} bytes", found.len());
            }
        });
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let place = directory();
        let path = place.path().join("cache");
        fs::create_dir(&path).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("opened up");
        assert!(matches!(Cache::open(&path, 1), Err(CacheError::Unsafe { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("closed");
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).expect("opened up");
        assert!(matches!(Cache::open(&path, 1), Err(CacheError::Unsafe { .. })));
    }

    #[test]
    fn a_link_in_place_of_the_directory_or_an_entry_is_refused() {
        let place = directory();
        let (real, link) = (place.path().join("real"), place.path().join("link"));
        let cache = Cache::open(&real, 1).expect("opens");
        symlink(&real, &link).expect("linked");
        assert!(matches!(Cache::open(&link, 1), Err(CacheError::Unsafe { .. })));
        cache.keep("aa", &Plugin::Native, &mut &b"code"[..]).expect("kept");
        fs::rename(real.join("aa.cwasm"), real.join("elsewhere")).expect("moved");
        symlink(real.join("elsewhere"), real.join("aa.cwasm")).expect("linked");
        assert!(cache.find("aa").is_none());
    }

    #[test]
    fn what_a_clock_in_the_future_has_left_makes_room() {
        let place = directory();
        let cache = Cache::open(&place.path().join("cache"), 1).expect("opens");
        let future = SystemTime::now() + Duration::from_secs(86_400);
        for number in 0..SPARE + OF_A_SERVICE {
            let name = format!("{number:04}");
            cache.keep(&name, &Plugin::Native, &mut &b"code"[..]).expect("kept");
            let file = fs::File::open(cache.path(&name, "cwasm")).expect("there");
            file.set_modified(future).expect("utimes");
        }
        cache.keep("now", &Plugin::Native, &mut &b"code"[..]).expect("kept");
        assert!(cache.find("now").is_some());
    }

    #[test]
    fn it_stays_small() {
        let place = directory();
        let cache = Cache::open(&place.path().join("cache"), 1).expect("opens");
        for number in 0..100 {
            cache.keep(&format!("{number:04}"), &Plugin::Native, &mut &b"code"[..]).expect("kept");
        }
        let entries = fs::read_dir(place.path().join("cache")).expect("listed").count();
        assert_eq!(entries, 2 * (SPARE + OF_A_SERVICE));
    }
}

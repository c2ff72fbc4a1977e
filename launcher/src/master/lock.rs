//! One master for a state directory: flock(2) on a file in it, which also names the master; and its pid in a file of
//! its own, for whoever wants to signal it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sys::file::{self, Locked};

/// Held by a master from start to end. The kernel lets go of it however the master ends.
#[derive(Debug)]
pub struct Lock {
    file: Arc<OwnedFd>,
    pid_file: PathBuf,
    pid: u32,
}

/// Why the state directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another master has it.
    #[error("{} belongs to a running launcher ({owner}): stop it, or set `master.state_dir`", directory.display())]
    Taken {
        /// The state directory.
        directory: PathBuf,
        /// What the other one wrote about itself.
        owner: String,
    },
    /// The system refused.
    #[error("the state directory {} cannot be used: {source}; set `master.state_dir`", directory.display())]
    Io {
        /// The state directory.
        directory: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Lock {
    /// Make the directory if need be and take it; `pid` is the process to be signalled.
    pub fn take(directory: &Path, config: &Path, pid: u32) -> Result<Lock, LockError> {
        let fail = |source| LockError::Io { directory: directory.to_owned(), source };
        make_directory(directory)?;
        let file = file::open_or_create_own(&directory.join("lock")).map_err(fail)?;
        if file::lock(&file).map_err(fail)? == Locked::Others {
            let mut owner = String::new();
            let _ = file.take(4096).read_to_string(&mut owner);
            let owner = owner.trim().to_owned();
            return Err(LockError::Taken { directory: directory.to_owned(), owner });
        }
        let mut lock = Lock { file: Arc::new(file.into()), pid_file: directory.join("launcher.pid"), pid };
        lock.names(pid, config).map_err(fail)?;
        Ok(lock)
    }

    /// Go on with one that an earlier master has taken, and that was never let go.
    pub fn adopt(file: OwnedFd, directory: &Path, pid: u32) -> Lock {
        Lock { file: Arc::new(file), pid_file: directory.join("launcher.pid"), pid }
    }

    /// The file, to be kept by somebody.
    pub fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.file
    }

    /// Name the process that is to be signalled from now on. After an error no file names any: the one before is gone.
    pub fn names(&mut self, pid: u32, config: &Path) -> io::Result<()> {
        self.pid = pid;
        let mut file = File::from(self.file.try_clone()?);
        let owner = format!("pid {pid}, {}\n", config.display());
        let owned = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(owner.as_bytes()));
        let named = write_whole(&self.pid_file, &format!("{pid}\n"));
        if named.is_err() {
            let _ = fs::remove_file(&self.pid_file);
        }
        owned.and(named)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // If another master was given the place, the file tells its pid.
        if fs::read_to_string(&self.pid_file).is_ok_and(|pid| pid.trim() == self.pid.to_string()) {
            let _ = fs::remove_file(&self.pid_file);
        }
    }
}

/// Whoever reads the file finds all of the text or what was there before.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("pid.new");
    let written = file::create_own(&beside)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&beside, path));
    // Of a full disk.
    written.inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// Make a state directory, for its user alone, if it is not there.
pub fn make_directory(directory: &Path) -> Result<(), LockError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| LockError::Io { directory: directory.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_of_another_is_left_alone() {
        let place = tempfile::tempdir().expect("directory");
        let lock = Lock::take(place.path(), Path::new("/a/config.yaml"), std::process::id()).expect("free");
        let pid_file = place.path().join("launcher.pid");
        write_whole(&pid_file, "1\n").expect("written");
        drop(lock);
        assert_eq!(fs::read_to_string(pid_file).expect("still there"), "1\n");
    }

    #[test]
    fn a_pid_that_cannot_be_written_leaves_no_file_that_names_another() {
        let place = tempfile::tempdir().expect("directory");
        let config = Path::new("/a/config.yaml");
        let mut lock = Lock::take(place.path(), config, 4711).expect("free");
        let pid_file = place.path().join("launcher.pid");
        assert_eq!(fs::read_to_string(&pid_file).expect("a pid file"), "4711\n");
        // Nobody can write through a directory, not even root.
        let beside = pid_file.with_extension("pid.new");
        fs::create_dir(&beside).expect("made");
        lock.names(4712, config).expect_err("it cannot be written");
        assert!(!pid_file.exists(), "it names a process that is gone");
        fs::remove_dir(&beside).expect("removed");
        lock.names(4713, config).expect("written");
        assert_eq!(fs::read_to_string(&pid_file).expect("a pid file"), "4713\n");
        drop(lock);
        assert!(!pid_file.exists());
    }

    #[test]
    fn the_second_is_refused_and_told_who_the_first_is() {
        let place = tempfile::tempdir().expect("directory");
        let first = Lock::take(place.path(), Path::new("/a/config.yaml"), std::process::id()).expect("free");
        let message = Lock::take(place.path(), Path::new("/b.yaml"), 1).expect_err("taken").to_string();
        assert!(message.contains(&format!("pid {}, /a/config.yaml", std::process::id())), "{message}");
        let pid = fs::read_to_string(place.path().join("launcher.pid")).expect("a pid file");
        assert_eq!(pid, format!("{}\n", std::process::id()));
        drop(first);
        assert!(!place.path().join("launcher.pid").exists());
        Lock::take(place.path(), Path::new("/b.yaml"), 1).expect("free again");
    }
}

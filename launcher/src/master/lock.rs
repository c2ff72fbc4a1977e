//! One master for a state directory: flock(2) on a file in it, which also names the master.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::sys::file::{self, Locked};

/// Held by a master from start to end. The kernel lets go of it however the master ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
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
    /// Make the directory if need be and take it.
    pub fn take(directory: &Path, config: &Path) -> Result<Lock, LockError> {
        let fail = |source| LockError::Io { directory: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail)?;
        let mut file = file::open_or_create_own(&directory.join("lock")).map_err(fail)?;
        if file::lock(&file).map_err(fail)? == Locked::Others {
            let mut owner = String::new();
            let _ = file.take(4096).read_to_string(&mut owner);
            let owner = owner.trim().to_owned();
            return Err(LockError::Taken { directory: directory.to_owned(), owner });
        }
        let owner = format!("pid {}, {}\n", std::process::id(), config.display());
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(owner.as_bytes())).map_err(fail)?;
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_the_first_is() {
        let place = tempfile::tempdir().expect("directory");
        let first = Lock::take(place.path(), Path::new("/a/config.yaml")).expect("free");
        let message = Lock::take(place.path(), Path::new("/b.yaml")).expect_err("taken").to_string();
        assert!(message.contains(&format!("pid {}, /a/config.yaml", std::process::id())), "{message}");
        drop(first);
        Lock::take(place.path(), Path::new("/b.yaml")).expect("free again");
    }
}

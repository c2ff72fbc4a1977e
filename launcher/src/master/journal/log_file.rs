//! The file of `master.log.file`: appended to, renamed when it is full, opened anew when it was moved away.
//!
//! Only what is said here is done: whoever writes decides what a failure means and when to try again.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use crate::{config, sys};

/// See the module.
#[derive(Debug)]
pub(super) struct LogFile {
    settings: config::LogFile,
    file: Option<File>,
    /// Bytes in the file.
    size: u64,
    /// Bytes at which it is renamed.
    limit: u64,
}

impl LogFile {
    /// Nothing is opened yet.
    pub(super) fn new(settings: config::LogFile) -> LogFile {
        LogFile { limit: settings.max_size, settings, file: None, size: 0 }
    }

    /// For people.
    pub(super) fn path(&self) -> String {
        self.settings.path.display().to_string()
    }

    /// Open it unless it is open.
    pub(super) fn open(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let file = sys::file::open_log(&self.settings.path)?;
            let metadata = file.metadata()?;
            self.size = metadata.len();
            // A device has no size and no other name.
            self.limit = if metadata.is_file() { self.settings.max_size } else { u64::MAX };
            self.file = Some(file);
        }
        Ok(())
    }

    /// Open what has the name now. The file that was moved away stays in use if that fails.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let moved = self.file.take();
        let opened = self.open();
        if opened.is_err() {
            self.file = moved;
        }
        opened
    }

    /// Whether `more` bytes fit behind `before`. Nothing is too large for an empty file: lines are not cut.
    pub(super) fn has_room(&self, before: usize, more: usize) -> bool {
        let begun = self.size.saturating_add(before as u64);
        begun == 0 || begun.saturating_add(more as u64) <= self.limit
    }

    /// Append; what is answered is how much of it.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open()?;
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let written = match file.write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => written,
        };
        self.size += written as u64;
        Ok(written)
    }

    /// Rename FILE to FILE.1, FILE.1 to FILE.2 and so on, and begin a new FILE. If that fails the file goes on, and
    /// it is tried again when as much more was written.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        // What has the name may be somebody else's by now; it is not a part of the log if it is gone.
        let renamed = match fs::symlink_metadata(&self.settings.path) {
            Ok(_) => self.rename_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        match renamed.and_then(|()| self.reopen()) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.limit = self.size.saturating_add(self.settings.max_size);
                Err(io::Error::new(error.kind(), format!("it cannot be rotated: {error}")))
            }
        }
    }

    fn rename_all(&self) -> io::Result<()> {
        // Only those that are there: `keep` may be large.
        let there = (1..self.settings.keep).take_while(|number| self.numbered(*number).symlink_metadata().is_ok());
        for number in (1..=there.count() as u32).rev() {
            fs::rename(self.numbered(number), self.numbered(number + 1))?;
        }
        fs::rename(&self.settings.path, self.numbered(1))
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.settings.path);
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

//! What the processes of a run are made to believe: see `plugins/tamper.c`, which is loaded into them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::plugins;

/// Bytes of the page: a mapping of less would be cut off by the end of the file.
const PAGE: usize = 4096;
/// Where the page says by how many seconds the clock is wrong.
const OFFSET: u64 = 0;
/// Where it says which process stops before it aborts.
const STOPS: u64 = 8;

/// A library and its page.
#[derive(Debug)]
pub struct Tamper {
    library: PathBuf,
    page: PathBuf,
    file: File,
}

impl Tamper {
    /// Builds it into `directory`. Nothing is wrong at first.
    ///
    /// # Errors
    /// There is no C compiler, or the system refuses.
    pub fn build(directory: &Path) -> Result<Self, String> {
        let library = plugins::library("tamper", directory)?;
        let page = directory.join("tamper.page");
        let fail = |error| format!("cannot make {}: {error}", page.display());
        fs::write(&page, [0; PAGE]).map_err(fail)?;
        let file = File::options().write(true).open(&page).map_err(fail)?;
        Ok(Self { library, page, file })
    }

    /// What makes a program that is started with it, and whatever it starts, believe it.
    pub fn variables(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("FAULTS_TAMPER", &self.page)]
    }

    /// From now on their wall clock is wrong by so many seconds.
    ///
    /// # Errors
    /// The system refuses.
    pub fn set_clock(&self, offset: i64) -> Result<(), String> {
        self.write(OFFSET, offset)
    }

    /// From now on this process, and no other, stops before it aborts.
    ///
    /// # Errors
    /// The system refuses.
    pub fn stop_before_abort(&self, pid: Option<u32>) -> Result<(), String> {
        self.write(STOPS, i64::from(pid.unwrap_or_default()))
    }

    /// Eight bytes that are written at once: a process that reads them sees the old number or the new one.
    fn write(&self, at: u64, number: i64) -> Result<(), String> {
        let written = self.file.write_all_at(&number.to_ne_bytes(), at);
        written.map_err(|error| format!("cannot write {}: {error}", self.page.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_believes_what_it_is_told() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tamper = Tamper::build(directory.path()).expect("it builds");
        tamper.set_clock(-i64::from(u32::MAX)).expect("it is written");
        let told = Command::new("date").arg("+%s").envs(tamper.variables()).output().expect("date starts");
        let told: i64 = String::from_utf8_lossy(&told.stdout).trim().parse().expect("a number");
        let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
        let wrong = i64::try_from(now).expect("a time") - told;
        assert!((0..=5).contains(&(i64::from(u32::MAX) - wrong)), "{told} at {now}");
    }
}

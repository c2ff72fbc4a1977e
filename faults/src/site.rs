//! A directory with a configuration, plugins and a state directory, for one launcher.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::launcher::Launcher;
use crate::tamper::Tamper;

/// It is removed when it is dropped.
#[derive(Debug)]
pub struct Site {
    directory: TempDir,
    mark: String,
}

impl Site {
    /// # Errors
    /// The system refuses.
    pub fn new(name: &str) -> Result<Self, String> {
        let directory = tempfile::Builder::new().prefix("faults-").tempdir();
        let directory = directory.map_err(|error| format!("no temporary directory: {error}"))?;
        let mark = format!("{name}-{}", directory.path().file_name().unwrap_or_default().to_string_lossy());
        Ok(Self { directory, mark })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Writes a file as it is, in place.
    ///
    /// # Errors
    /// The system refuses.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<(), String> {
        fs::write(self.path(name), bytes).map_err(|error| format!("cannot write {name}: {error}"))
    }

    /// Starts a launcher with this configuration; `master:` comes from here.
    ///
    /// # Errors
    /// It cannot be written or started.
    pub fn run(&self, binary: &Path, services: &str) -> Result<Launcher, String> {
        self.start(binary, services, None)
    }

    fn start(&self, binary: &Path, services: &str, tamper: Option<&Tamper>) -> Result<Launcher, String> {
        self.write("config.yaml", self.config(services))?;
        Launcher::start(binary, &self.path("config.yaml"), &self.state(), &self.mark, tamper)
    }

    /// The same; its processes believe what they are told.
    ///
    /// # Errors
    /// As [`Site::run`].
    pub fn run_tampered(&self, binary: &Path, services: &str, tamper: &Tamper) -> Result<Launcher, String> {
        self.start(binary, services, Some(tamper))
    }

    /// A whole configuration.
    pub fn config(&self, services: &str) -> String {
        let state = self.state();
        // The disk of the state directory is small, and it shall be full only when it is filled on purpose.
        format!(
            "master: {{ state_dir: {state:?}, log: {{ format: json, level: debug, file: {:?}, max_size: 1MiB, keep: 2 }} \
             }}\n{services}",
            state.join("log.json")
        )
    }
}

//! A directory with plugins and a configuration, and the right to use the machine.
//!
//! Tests run beside each other; those that measure time or memory ask for the machine alone ([`Site::alone`]).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::guests;
use super::launcher::{BINARY, Launcher};

static MACHINE: RwLock<()> = RwLock::new(());

/// Held while the site lives. A test makes one site: a second one could wait for a test that waits for the first.
enum Share {
    Shared(#[expect(dead_code, reason = "held, not read")] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "held, not read")] RwLockWriteGuard<'static, ()>),
}

/// The directory of one test.
pub(crate) struct Site {
    directory: tempfile::TempDir,
    _machine: Share,
}

impl Site {
    /// An empty directory; other tests run at the same time.
    pub(crate) fn new() -> Self {
        Self::with(Share::Shared(MACHINE.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// An empty directory; no other test runs before it is dropped.
    pub(crate) fn alone() -> Self {
        Self::with(Share::Alone(MACHINE.write().unwrap_or_else(PoisonError::into_inner)))
    }

    fn with(machine: Share) -> Self {
        let directory = tempfile::Builder::new().prefix("launcher-test-").tempdir().expect("make a directory");
        Self { directory, _machine: machine }
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.directory.path().join(Path::new(name.as_ref()))
    }

    /// Writes a file in the directory, and the directories that lead to it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        let parent = path.parent().expect("a path in the directory has a parent");
        fs::create_dir_all(parent).expect("make a directory");
        fs::write(&path, content).expect("write a file of the site");
        path
    }

    /// Replaces a file as careful programs do: a temporary one, renamed over it.
    pub(crate) fn replace(&self, name: &str, content: impl AsRef<[u8]>) {
        let beside = self.write(&format!("{name}.new"), content);
        fs::rename(beside, self.path(name)).expect("rename over a file of the site");
    }

    /// Makes a symbolic link in the directory.
    pub(crate) fn link(&self, name: &str, target: &str) {
        symlink(target, self.path(name)).expect("make a symbolic link");
    }

    /// Puts the kitchen guest into the directory, as `kitchen.wasm`.
    pub(crate) fn kitchen(&self) {
        fs::copy(guests::kitchen(), self.path("kitchen.wasm")).expect("copy the kitchen guest");
    }

    /// Writes `config.yaml`. The log's format is added, and its level, because events are read from it; and an admin
    /// address on a free port.
    pub(crate) fn configure(&self, yaml: &str) -> PathBuf {
        let master = "master: { admin: 127.0.0.1:0, log: { format: json, level: debug } }";
        self.write("config.yaml", format!("{}\n{master}\n", yaml.trim_end()))
    }

    /// Starts `launcher run` on this configuration and waits until every service is settled.
    pub(crate) fn run(&self, yaml: &str) -> Launcher {
        let launcher = self.start(yaml);
        launcher.wait("serving", |event| event.is("serving"));
        launcher
    }

    /// Starts `launcher run` on this configuration.
    pub(crate) fn start(&self, yaml: &str) -> Launcher {
        let config = self.configure(yaml);
        let mut command = self.command(["run"]);
        command.arg(config);
        Launcher::start(command, yaml)
    }

    /// Starts `launcher dev` on this configuration.
    pub(crate) fn develop(&self, yaml: &str) -> Launcher {
        let config = self.configure(yaml);
        let mut command = self.command(["dev"]);
        command.arg(config);
        Launcher::start(command, yaml)
    }

    /// The launcher's binary with these arguments, in the directory.
    pub(crate) fn command<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments).current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    /// Runs the launcher to its end.
    pub(crate) fn output<const N: usize>(&self, arguments: [&str; N]) -> Output {
        self.command(arguments).output().expect("start the launcher")
    }
}

//! `build:`: the command that makes a plugin that is missing. Its output is shown as it comes.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;

use crate::sys::process::Process;

/// Why there is no plugin.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The shell could not be started.
    #[error("`{command}` could not be started: {source}")]
    Start {
        /// The command.
        command: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The command failed.
    #[error("`{command}` {ended}; its output is above")]
    Failed {
        /// The command.
        command: String,
        /// How it ended.
        ended: String,
    },
}

/// Run a shell command in `directory` until it ends. Its output goes to standard error, where a person looks.
pub async fn run(command: &str, directory: &Path) -> Result<(), BuildError> {
    let start = |source| BuildError::Start { command: command.to_owned(), source };
    let output = || io::Result::Ok(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
    let mut shell = std::process::Command::new("/bin/sh");
    shell.arg("-c").arg(command).current_dir(directory).stdin(Stdio::null());
    for variable in crate::sys::notify::VARIABLES {
        shell.env_remove(variable);
    }
    shell.stdout(output().map_err(start)?).stderr(output().map_err(start)?);
    let process = KillOnDrop(Process::spawn(&mut shell).map_err(start)?);
    let status = process.ended().await.map_err(start)?;
    if status.success() {
        return Ok(());
    }
    Err(BuildError::Failed { command: command.to_owned(), ended: crate::sys::process::describe(status) })
}

/// A build that nobody waits for any more must not go on.
struct KillOnDrop(Process);

impl KillOnDrop {
    async fn ended(mut self) -> io::Result<std::process::ExitStatus> {
        self.0.ended().await
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

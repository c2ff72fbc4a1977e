//! `launcher run --daemon`: start the launcher again as a daemon, and wait until it serves or has failed.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use launcher::master::{SERVES, Strictness};

use crate::FAILED;

/// Start a daemon. The exit code is that of a run in the foreground, if the daemon ends before it serves.
pub(crate) fn start(config: &Path, strictness: Strictness) -> ExitCode {
    match attempt(config, strictness) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("launcher: the daemon could not be started: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn attempt(config: &Path, strictness: Strictness) -> io::Result<ExitCode> {
    let (mut ours, theirs) = UnixStream::pair()?;
    // What the shell left open is this process's own: a pipe that the daemon held would never end.
    launcher::sys::process::close_on_exec_everything()?;
    // But for the sockets that the launcher was started with.
    launcher::sys::named_descriptors::pass_on()?;
    let mut option = OsString::from("--config=");
    option.push(config);
    let mut command = Command::new("/proc/self/exe");
    command.arg0("launcher").args(["run", "--daemonised"]).arg(option);
    if strictness == Strictness::Strict {
        command.arg("--strict");
    }
    if std::env::var("WATCHDOG_PID").is_ok_and(|pid| pid == std::process::id().to_string()) {
        // What was meant for this process is the daemon's from now on.
        command.env_remove("WATCHDOG_PID");
    }
    let mut daemon = command.stdin(OwnedFd::from(theirs)).spawn()?;
    // It keeps the daemon's end open: without this the daemon's death would not be seen.
    drop(command);
    let mut words = Vec::new();
    ours.read_to_end(&mut words)?;
    if words == SERVES {
        // Whether somebody reads it or not: it serves.
        let _ = writeln!(io::stdout(), "launcher: serving in the background, pid {}", daemon.id());
        return Ok(ExitCode::SUCCESS);
    }
    Ok(code(daemon.wait()?))
}

/// It ended before it served, so this is no success whatever it thinks of itself.
fn code(status: ExitStatus) -> ExitCode {
    match (status.code().map(u8::try_from), status.signal()) {
        (Some(Ok(code @ 1..)), _) => ExitCode::from(code),
        (_, Some(signal)) => {
            eprintln!("launcher: the daemon was killed by signal {signal} before it served");
            ExitCode::from(FAILED)
        }
        _ => {
            eprintln!("launcher: the daemon was stopped before it served");
            ExitCode::from(FAILED)
        }
    }
}

//! One run of a build: its output as it comes, and what is left of it at the end.

use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::sys::process::{Process, describe};
use crate::sys::terminal::Output;

/// Bytes of the output that are kept for a browser: the end, where compilers sum up; the first error is seldom farther.
const KEPT: usize = 128 * 1024;

/// How a build ended.
#[derive(Debug)]
pub(super) struct Built {
    /// Why it made nothing, in words; `None`: it succeeded.
    pub(super) failure: Option<String>,
    /// What it wrote, with its escape sequences.
    pub(super) text: String,
}

/// Run a shell command in `directory`; every line is given to `show` as it comes. Dropping the future kills the command
/// and whatever it has started in its process group.
pub(super) async fn run(command: &str, directory: &Path, show: impl Fn(&str)) -> Built {
    let mut lines = Lines { rest: Vec::new(), kept: String::new(), show };
    let failure = match attempt(command, directory, &mut lines).await {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("`{command}` {}", describe(status))),
        Err(error) => Some(format!("`{command}` could not be run: {error}")),
    };
    lines.end();
    Built { failure, text: lines.kept }
}

async fn attempt<S: Fn(&str)>(command: &str, directory: &Path, lines: &mut Lines<S>) -> io::Result<ExitStatus> {
    let (output, theirs) = Output::pair()?;
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).current_dir(directory).stdin(Stdio::null());
    for variable in crate::sys::notify::VARIABLES {
        shell.env_remove(variable);
    }
    // A progress bar would draw over the lines of others.
    shell.env("CARGO_TERM_PROGRESS_WHEN", "never").env("LAUNCHER_DEV", "1");
    shell.stdout(theirs.try_clone()?).stderr(theirs);
    let mut process = KillOnDrop(Process::spawn(&mut shell)?);
    // It holds the other end of the output: without this the end would never be read.
    drop(shell);
    let mut buffer = vec![0; 16 * 1024];
    let mut open = true;
    let status = loop {
        tokio::select! {
            read = output.read(&mut buffer), if open => match read {
                Ok(0) | Err(_) => open = false,
                Ok(read) => lines.take(&buffer[..read]),
            },
            ended = process.0.ended() => break ended?,
        }
    };
    // What the command left behind may keep its end open for ever: only what is here already.
    while open && let Ok(read @ 1..) = output.read_now(&mut buffer) {
        lines.take(&buffer[..read]);
    }
    Ok(status)
}

/// A build that nobody waits for any more must not go on.
struct KillOnDrop(Process);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// Output, cut into lines.
struct Lines<S> {
    rest: Vec<u8>,
    kept: String,
    show: S,
}

impl<S: Fn(&str)> Lines<S> {
    /// Several lines that come together are shown together.
    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        if let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') {
            let rest = self.rest.split_off(end + 1);
            let whole = std::mem::replace(&mut self.rest, rest);
            self.put(&whole[..end]);
        }
    }

    fn end(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.put(&rest);
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<&str> = text.split('\n').map(last_state).collect();
        let text = lines.join("\n");
        (self.show)(&text);
        self.kept.push_str(&text);
        self.kept.push('\n');
        if self.kept.len() > 2 * KEPT {
            let from = self.kept.ceil_char_boundary(self.kept.len() - KEPT);
            self.kept.drain(..from);
        }
    }
}

/// A line as it was left: a carriage return begins it anew.
fn last_state(line: &str) -> &str {
    line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn built(command: &str) -> (Built, String) {
        let shown = Mutex::new(String::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let built = runtime.block_on(run(command, Path::new("/"), |text| {
            shown.lock().expect("whole").push_str(&format!("{text}\n"));
        }));
        (built, shown.into_inner().expect("whole"))
    }

    #[test]
    fn everything_that_a_build_writes_is_shown_and_kept() {
        let (built, shown) = built("echo one; echo two >&2; printf 'a\\rthree'; exit 3");
        assert_eq!(built.text, "one\ntwo\nthree\n");
        assert_eq!(shown, built.text);
        assert!(built.failure.is_some_and(|failure| failure.ends_with("exited with code 3")));
    }

    #[test]
    fn a_build_ends_although_something_that_it_started_goes_on() {
        // Of another process group, so that it outlives the build with the output in its hands.
        let (built, _) = built("setsid sleep 5 & echo done");
        assert_eq!((built.text.as_str(), built.failure.is_none()), ("done\n", true));
    }
}

//! What a process is called and what its environment is, as if it had been started so: for one that was started before
//! anybody knew.
//!
//! proc_pid_cmdline(5), proc_pid_stat(5), environ(7). What the dynamic loader and the C library read at the start of a
//! process cannot be given to it afterwards: see [`is_read_at_start`].

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of the longest name that [`rename`] can give.
const LONGEST: usize = 80;

/// The argument with which a process has to be started that is renamed later: what it is called until then, and room.
pub fn renamable(name: &str) -> String {
    format!("{name:<LONGEST$}")
}

/// Call this process `name` in the list of processes where it is called `before` now, which it was started with. Longer
/// names are cut.
///
/// # Errors
/// It was not started so, or /proc is not what it should be. Then it is called as before.
pub fn rename(before: &str, name: &str) -> io::Result<()> {
    let line = fs::read("/proc/self/cmdline")?;
    let sought = renamable(before);
    let place = line.windows(LONGEST).position(|window| window == sought.as_bytes()).ok_or(io::ErrorKind::NotFound)?;
    // The zero behind it stays: the kernel takes anything else for a sign that the name goes on in the environment.
    let mut bytes = [0; LONGEST];
    let length = name.len().min(LONGEST);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    let memory: File = OpenOptions::new().write(true).open("/proc/self/mem")?;
    memory.write_all_at(&bytes, first_argument()? + place as u64)
}

/// Where the arguments of this process begin.
fn first_argument() -> io::Result<u64> {
    /// `arg_start`, counted from the state, which is the first that follows the name in brackets.
    const FIELD: usize = 48 - 3;
    let stat = fs::read_to_string("/proc/self/stat")?;
    let rest = stat.rsplit_once(") ").ok_or(io::ErrorKind::InvalidData)?.1;
    let field = rest.split_ascii_whitespace().nth(FIELD).and_then(|field| field.parse().ok());
    field.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether something has looked at this variable before `main`, so that it has no effect later.
pub fn is_read_at_start(variable: &str) -> bool {
    // The loader, the C library's allocator and its tunables; the sanitizers' runtimes read /proc/self/environ.
    ["LD_", "GLIBC_", "MALLOC_"].iter().any(|prefix| variable.starts_with(prefix)) || variable.ends_with("SAN_OPTIONS")
}

/// Add to the environment of this process, which must have no other thread.
///
/// # Errors
/// It has one, or a variable cannot be one.
pub fn add_to_environment(variables: &BTreeMap<String, String>) -> io::Result<()> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("the process has several threads"));
    }
    for (name, value) in variables {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} cannot be a variable")));
        }
        // SAFETY: set_var requires that no other thread uses the environment meanwhile: there is none, as /proc said, and
        // only this one could start one. It panics for what was refused above.
        #[expect(unsafe_code, reason = "other threads could read the environment")]
        unsafe {
            std::env::set_var(name, value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_be_there_at_the_start_is_known() {
        for variable in ["LD_PRELOAD", "LD_LIBRARY_PATH", "GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "ASAN_OPTIONS"] {
            assert!(is_read_at_start(variable), "{variable}");
        }
        for variable in ["RUST_BACKTRACE", "TZ", "LANG", "OLD_PWD"] {
            assert!(!is_read_at_start(variable), "{variable}");
        }
    }

    #[test]
    fn a_process_that_was_not_started_for_it_keeps_its_name() {
        assert_eq!(rename("spare", "web/0").expect_err("no such argument").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn with_several_threads_the_environment_is_left_alone() {
        // The test runs in a thread beside the main one.
        assert!(add_to_environment(&BTreeMap::from([("A".to_owned(), "b".to_owned())])).is_err());
    }
}

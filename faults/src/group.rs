//! A group of processes that may have so much memory together (cgroups(7)): the kernel kills one of them when they take
//! more. Version 1 and version 2; both want root.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A group, until it is dropped. What is in it then goes back to where it may have all.
#[derive(Debug)]
pub struct Group {
    at: PathBuf,
    root: PathBuf,
}

/// Where the hierarchy is, and the name of the file that bounds the memory of a group.
fn hierarchy() -> Result<(PathBuf, &'static str), String> {
    let first = Path::new("/sys/fs/cgroup/memory");
    if first.join("cgroup.procs").exists() {
        return Ok((first.to_owned(), "memory.limit_in_bytes"));
    }
    let second = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_to_string(second.join("cgroup.controllers")).unwrap_or_default();
    if !controllers.split_whitespace().any(|name| name == "memory") {
        return Err("there is no memory controller of cgroups".to_owned());
    }
    // It may be switched on already; if not, making a group fails later.
    let _ = fs::write(second.join("cgroup.subtree_control"), "+memory");
    Ok((second.to_owned(), "memory.max"))
}

impl Group {
    /// Whether there can be one here.
    ///
    /// # Errors
    /// Why not.
    pub fn possible() -> Result<(), String> {
        let group = Self::new("faults-possible", 64 << 20)?;
        let fail = |error| format!("sleep does not start: {error}");
        let mut member = Command::new("sleep").arg("60").spawn().map_err(fail)?;
        let taken = group.take(member.id());
        let _ = member.kill();
        let _ = member.wait();
        taken
    }

    /// Makes one that may have so many bytes.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new(name: &str, bytes: u64) -> Result<Self, String> {
        let (root, bound) = hierarchy()?;
        let at = root.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&at).map_err(|error| format!("no group {}: {error}", at.display()))?;
        let group = Self { at, root };
        let path = group.at.join(bound);
        fs::write(&path, bytes.to_string()).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        // Or it would only be slow. Which of these there is depends on the version and the machine.
        for (file, text) in [("memory.swap.max", "0"), ("memory.swappiness", "0")] {
            let _ = File::options()
                .write(true)
                .open(group.at.join(file))
                .and_then(|mut file| file.write_all(text.as_bytes()));
        }
        Ok(group)
    }

    /// Puts a process into it. What it has already is not counted; what it takes from now on is.
    ///
    /// # Errors
    /// The system refuses, or it is gone.
    pub fn take(&self, pid: u32) -> Result<(), String> {
        let put = fs::write(self.at.join("cgroup.procs"), pid.to_string());
        put.map_err(|error| format!("process {pid} cannot be put into {}: {error}", self.at.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let gone = crate::process::until(std::time::Duration::from_secs(5), || {
            let left = fs::read_to_string(self.at.join("cgroup.procs")).unwrap_or_default();
            for pid in left.lines() {
                // It may have ended meanwhile.
                let _ = fs::write(self.root.join("cgroup.procs"), pid);
            }
            fs::remove_dir(&self.at).is_ok()
        });
        if !gone {
            eprintln!("faults: the group {} is left behind", self.at.display());
        }
    }
}

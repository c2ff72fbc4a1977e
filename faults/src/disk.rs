//! A file system of a few megabytes that can be filled: a tmpfs, which only root may mount.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Mounted until it is dropped.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Mounts one of `mebibytes` at a directory, which is made.
    ///
    /// # Errors
    /// That is not permitted here.
    pub fn mount(at: &Path, mebibytes: u32) -> Result<Self, String> {
        fs::create_dir(at).map_err(|error| format!("cannot make {}: {error}", at.display()))?;
        let options = format!("size={mebibytes}m,mode=0700,nosuid,nodev");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "faults"]).arg(at).stdout(Stdio::null()).stderr(Stdio::null());
        match mount.status() {
            Ok(status) if status.success() => Ok(Self { at: at.to_owned() }),
            Ok(_) => Err("no tmpfs may be mounted here".to_owned()),
            Err(error) => Err(format!("mount does not start: {error}")),
        }
    }

    /// Fills it to the last byte; gives what must be dropped to make room again.
    ///
    /// # Errors
    /// It cannot be written, or does not fill.
    pub fn fill(&self) -> Result<Filling, String> {
        let path = self.at.join("filling");
        let mut file = fs::File::create(&path).map_err(|error| format!("cannot fill the disk: {error}"))?;
        let filling = Filling(path);
        for block in [&vec![0; 64 << 10][..], &[0]] {
            // A disk of a few megabytes; more blocks than it has would mean that it is another one.
            let full = (0..10_000).find_map(|_| file.write_all(block).err());
            match full.map(|error| error.kind()) {
                Some(std::io::ErrorKind::StorageFull) => {}
                other => return Err(format!("the disk is not full but {other:?}")),
            }
        }
        Ok(filling)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file there keeps it, and the directory is free to be removed.
        let _ = Command::new("umount").arg("-l").arg(&self.at).stderr(Stdio::null()).status();
    }
}

/// What fills a disk, until it is dropped.
#[derive(Debug)]
pub struct Filling(PathBuf);

impl Drop for Filling {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

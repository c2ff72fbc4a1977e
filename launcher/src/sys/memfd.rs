//! Anonymous files that nobody can change any more: memfd_create(2), fcntl(2) `F_ADD_SEALS`.
//!
//! A plugin is pinned in one, so that no write to its file reaches a running worker: overwriting a mapped
//! library in place is a SIGSEGV, truncating it a SIGBUS.

use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// An empty, growing memfd, close-on-exec.
pub fn create(name: &str) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Libraries are mapped executable. Linux 6.3 wants that said, older ones do not know the flag.
    let file = match memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    Ok(File::from(file))
}

/// Forbid every further change, of the contents and of the seals.
pub fn seal(file: &File) -> io::Result<()> {
    fcntl_add_seals(file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_sealed_file_keeps_its_bytes() {
        let file = super::create("test").expect("memfd");
        file.write_all_at(b"pinned", 0).expect("writable");
        super::seal(&file).expect("sealed");
        assert!(file.write_all_at(b"x", 0).is_err());
        assert!(file.set_len(0).is_err());
        let mut bytes = [0; 6];
        file.read_exact_at(&mut bytes, 0).expect("readable");
        assert_eq!(&bytes, b"pinned");
    }
}

//! A page of numbers that two processes share: one maps it and counts, the other reads the file when somebody asks.
//! memfd_create(2), mmap(2).
//!
//! The page outlives whoever counts in it, and nobody is woken by it. Its size is sealed: if it could be truncated,
//! every process that maps it would die of SIGBUS at its next count.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::{pread, pwrite};
use rustix::mm::{MapFlags, ProtFlags, mmap};

/// Numbers in a page: 4096 bytes of them.
pub const WORDS: usize = 512;
/// Bytes of a page. The system's own may be larger; what is beyond is never touched.
const BYTES: usize = WORDS * size_of::<u64>();

/// The size can not change, and neither can that.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// The side that does not map the page; cheap to clone.
#[derive(Debug, Clone)]
pub struct Page {
    memfd: Arc<OwnedFd>,
    /// Opened anew, for whoever counts: it shares the page and not the file's flags, with which a write here could be
    /// made to fail (`O_APPEND`, fcntl(2)).
    given: Arc<OwnedFd>,
}

impl Page {
    /// A page of zeros of a size that nobody can change, close-on-exec.
    pub fn new(name: &str) -> io::Result<Page> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Linux before 6.3 does not know the flag.
        let memfd = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            Err(rustix::io::Errno::INVAL) => memfd_create(name, flags)?,
            other => other?,
        };
        ftruncate(&memfd, BYTES as u64)?;
        fcntl_add_seals(&memfd, SEALS)?;
        let given = reopen(&memfd)?;
        Ok(Page { memfd: Arc::new(memfd), given: Arc::new(given) })
    }

    /// A page that another process has made with [`Page::new`]; its own end of it.
    ///
    /// # Errors
    /// It is no such page.
    pub fn of(memfd: OwnedFd) -> io::Result<Page> {
        if !fcntl_get_seals(&memfd)?.contains(SEALS) || fstat(&memfd)?.st_size != BYTES as i64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no sealed page"));
        }
        let given = reopen(&memfd)?;
        Ok(Page { memfd: Arc::new(memfd), given: Arc::new(given) })
    }

    /// The file, for whoever keeps it. Who counts gets [`Page::descriptor`].
    pub fn own(&self) -> &Arc<OwnedFd> {
        &self.memfd
    }

    /// The descriptor, for whoever counts.
    pub fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.given
    }

    /// The numbers as they are now. One system call that waits for nobody.
    pub fn read(&self) -> io::Result<[u64; WORDS]> {
        let mut bytes = [0; BYTES];
        whole(pread(&self.memfd, &mut bytes[..], 0)?, BYTES)?;
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(words)
    }

    /// Zero some of the numbers, from the one at `first`.
    pub fn clear<const N: usize>(&self, first: usize) -> io::Result<()> {
        let zeros = [0_u64; N].map(u64::to_ne_bytes);
        let zeros = zeros.as_flattened();
        whole(pwrite(&self.memfd, zeros, (first * size_of::<u64>()) as u64)?, zeros.len())
    }
}

fn reopen(memfd: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
    Ok(File::options().read(true).write(true).open(path)?.into())
}

fn whole(moved: usize, wanted: usize) -> io::Result<()> {
    if moved == wanted { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Map a page for the rest of the process's life.
///
/// # Errors
/// It is no page that [`Page::new`] made, or the system refuses.
pub fn map(page: &OwnedFd) -> io::Result<&'static [AtomicU64; WORDS]> {
    let sealed = fcntl_get_seals(page)?.contains(SealFlags::SHRINK);
    if !sealed || fstat(page)?.st_size != BYTES as i64 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no sealed page"));
    }
    // SAFETY: the address is the kernel's choice, so no memory that somebody uses is replaced.
    #[expect(unsafe_code, reason = "shared memory cannot be had without mmap")]
    let start =
        unsafe { mmap(std::ptr::null_mut(), BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, page, 0)? };
    // SAFETY: the mapping is BYTES long, zeroed or written by others, and any bits are a u64; it is aligned to a page
    // and never unmapped. The file behind it cannot shrink (checked above), so no access faults. Other processes
    // change it at any time, which is what atomics permit.
    #[expect(unsafe_code, reason = "shared memory cannot be had without mmap")]
    let words = unsafe { &*start.cast::<[AtomicU64; WORDS]>() };
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn what_one_side_counts_the_other_reads() {
        let page = Page::new("test").expect("a page");
        let words = map(page.descriptor()).expect("maps");
        let again = map(page.descriptor()).expect("maps");
        for word in words {
            word.fetch_add(3, Relaxed);
        }
        again[511].fetch_add(4, Relaxed);
        page.clear::<2>(1).expect("clears");
        let read = page.read().expect("reads");
        assert_eq!((&read[..4], read[511]), (&[3, 0, 0, 3][..], 7));
    }

    #[test]
    fn nobody_can_change_the_size_of_a_page_or_forbid_to_count_in_it() {
        let page = Page::new("test").expect("a page");
        let hostile = File::from(page.descriptor().try_clone().expect("a descriptor"));
        for length in [0, 1, 4095, 4097, 1 << 30] {
            assert!(hostile.set_len(length).is_err(), "{length}");
        }
        assert!(fcntl_add_seals(&hostile, SealFlags::WRITE).is_err());
        assert!(fcntl_add_seals(&hostile, SealFlags::FUTURE_WRITE).is_err());
        // Flags of the file are those of one end.
        rustix::fs::fcntl_setfl(&hostile, rustix::fs::OFlags::APPEND | rustix::fs::OFlags::NONBLOCK).expect("sets");
        page.clear::<1>(0).expect("clears");
        // Punching a hole is possible and makes zeros.
        let words = map(page.descriptor()).expect("maps");
        words[0].store(1, Relaxed);
        let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&hostile, hole, 0, 4096).expect("punches");
        assert_eq!(words[0].fetch_add(1, Relaxed), 0);
        assert_eq!(page.read().expect("reads")[0], 1);
    }

    #[test]
    fn what_is_no_page_is_not_mapped() {
        let growing = super::super::memfd::create("test").expect("memfd");
        growing.set_len(4096).expect("grows");
        let small = super::super::memfd::create("test").expect("memfd");
        super::super::memfd::seal(&small).expect("sealed");
        let device = File::open("/dev/zero").expect("opens");
        for file in [growing, small, device] {
            assert!(map(&file.into()).is_err());
        }
    }
}

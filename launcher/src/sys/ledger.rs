//! Records in a memfd that outlive a writer killed at any instant: memfd_create(2), pwrite(2).
//!
//! Each record has a region of its own with two slots. A new version goes into the slot that does not hold the newest,
//! its head last: sequence number, length and checksum. A writer that dies between two bytes leaves a slot whose checksum
//! is wrong, and the version before it in the other one. The file is sparse: a region costs what is written in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};

/// Bytes of a slot, and so of the longest record.
const SLOT: u64 = 1 << 28;
/// Bytes of a region.
const REGION: u64 = 2 * SLOT;
/// Magic, sequence number, length, checksum; 64 bits each.
const HEAD: usize = 32;
const MAGIC: u64 = u64::from_le_bytes(*b"launcher");

/// The file.
#[derive(Debug, Clone)]
pub struct Ledger {
    file: Arc<OwnedFd>,
}

/// What a slot holds.
struct Version {
    sequence: u64,
    body: Vec<u8>,
}

impl Ledger {
    /// An empty one, close-on-exec.
    pub fn new(name: &str) -> io::Result<Ledger> {
        Ok(Ledger { file: Arc::new(super::memfd::create(name)?.into()) })
    }

    /// One that another process has written.
    pub fn of(file: OwnedFd) -> Ledger {
        Ledger { file: Arc::new(file) }
    }

    /// The file, to be kept by somebody.
    pub fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.file
    }

    /// The newest whole version of a record. `None`: there is none.
    pub fn read(&self, region: u64) -> io::Result<Option<Vec<u8>>> {
        Ok(self.newest(region)?.map(|(_, version)| version.body))
    }

    /// Write a new version of a record.
    pub fn write(&self, region: u64, body: &[u8]) -> io::Result<()> {
        // Not by the heads alone: one of a version that never became whole may be there.
        let (slot, sequence) = match self.newest(region)? {
            Some((slot, newest)) => (1 - slot, newest.sequence + 1),
            None => (0, 1),
        };
        if body.len() as u64 > SLOT - HEAD as u64 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let file = self.file()?;
        let start = place(region, slot)?;
        // What it held is not whole any more, and must not look so.
        file.write_all_at(&[0; HEAD], start)?;
        file.write_all_at(body, start + HEAD as u64)?;
        let fields = [MAGIC, sequence, body.len() as u64, checksum(sequence, body)];
        file.write_all_at(fields.map(u64::to_le_bytes).as_flattened(), start)
    }

    /// Remove a record and give its memory back.
    pub fn erase(&self, region: u64) -> io::Result<()> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(self.file.as_fd(), punch, place(region, 0)?, REGION)?;
        Ok(())
    }

    fn file(&self) -> io::Result<File> {
        Ok(File::from(self.file.try_clone()?))
    }

    /// The newest whole version, and its slot.
    fn newest(&self, region: u64) -> io::Result<Option<(u64, Version)>> {
        let file = self.file()?;
        let mut newest: Option<(u64, Version)> = None;
        for slot in 0..2 {
            let start = place(region, slot)?;
            let Some([sequence, length, wanted]) = head(&file, start)? else { continue };
            let mut body = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::InvalidData)?];
            if file.read_exact_at(&mut body, start + HEAD as u64).is_ok()
                && checksum(sequence, &body) == wanted
                && newest.as_ref().is_none_or(|(_, newest)| newest.sequence < sequence)
            {
                newest = Some((slot, Version { sequence, body }));
            }
        }
        Ok(newest)
    }
}

fn place(region: u64, slot: u64) -> io::Result<u64> {
    let start = region.checked_mul(REGION).map(|start| start + slot * SLOT);
    start.filter(|start| i64::try_from(start + SLOT).is_ok()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Sequence number, length and checksum of a head that looks like one.
fn head(file: &File, start: u64) -> io::Result<Option<[u64; 3]>> {
    let mut bytes = [0; HEAD];
    match file.read_exact_at(&mut bytes, start) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        done => done?,
    }
    let mut fields = bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
    match [(); 4].map(|()| fields.next().unwrap_or(0)) {
        [MAGIC, sequence, length, wanted] if length <= SLOT - HEAD as u64 => Ok(Some([sequence, length, wanted])),
        _ => Ok(None),
    }
}

/// FNV-1a (Fowler, Noll, Vo), 64 bits, over the sequence number and eight bytes at a time: against a writer that was
/// killed, not against one that lies.
fn checksum(sequence: u64, body: &[u8]) -> u64 {
    const PRIME: u64 = 0x0100_0000_01b3;
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(PRIME).rotate_left(29);
    let (words, rest) = body.as_chunks();
    let hash =
        words.iter().fold(mix(0xcbf2_9ce4_8422_2325, sequence), |hash, word| mix(hash, u64::from_le_bytes(*word)));
    rest.iter().fold(mix(hash, body.len() as u64), |hash, byte| mix(hash, u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_read_by_who_gets_the_file() {
        let ledger = Ledger::new("test").expect("a memfd");
        for version in 0..5_u8 {
            ledger.write(3, &vec![version; 1000 * usize::from(version)]).expect("written");
            ledger.write(0, b"another").expect("written");
            let other = Ledger::of(ledger.descriptor().try_clone().expect("a descriptor"));
            assert_eq!(other.read(3).expect("read"), Some(vec![version; 1000 * usize::from(version)]));
        }
        assert_eq!(ledger.read(2).expect("read"), None);
        ledger.erase(3).expect("erased");
        assert_eq!(ledger.read(3).expect("read"), None);
        assert_eq!(ledger.read(0).expect("read").as_deref(), Some(&b"another"[..]));
    }

    #[test]
    fn a_writer_that_dies_between_any_two_bytes_leaves_the_version_before() {
        let (old, new) = (b"the old version, whole".as_slice(), b"another one, of another length, as long".as_slice());
        for earlier in [0, 1, 2] {
            let ledger = Ledger::new("test").expect("a memfd");
            for version in 0..earlier {
                ledger.write(1, format!("version {version}").as_bytes()).expect("written");
            }
            ledger.write(1, old).expect("written");
            let file = ledger.file().expect("a file");
            let slot = u64::from(matches!(ledger.newest(1), Ok(Some((0, _)))));
            let start = place(1, slot).expect("a place");
            // What the writer does, cut short after each of its bytes.
            let sequence = ledger.newest(1).expect("read").expect("whole").1.sequence + 1;
            let head = [MAGIC, sequence, new.len() as u64, checksum(sequence, new)].map(u64::to_le_bytes);
            for cut in 0..new.len() + HEAD {
                file.write_all_at(&[0; HEAD], start).expect("written");
                file.write_all_at(&new[..cut.min(new.len())], start + HEAD as u64).expect("written");
                file.write_all_at(&head.as_flattened()[..cut.saturating_sub(new.len())], start).expect("written");
                assert_eq!(ledger.read(1).expect("read").as_deref(), Some(old), "cut after {cut} bytes");
            }
            ledger.write(1, new).expect("written");
            assert_eq!(ledger.read(1).expect("read").as_deref(), Some(new));
        }
    }
}

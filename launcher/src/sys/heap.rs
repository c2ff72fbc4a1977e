//! The heap: the system's, with the serving thread's free blocks kept at hand.
//!
//! A request to a WASM guest allocates about fifty small blocks and frees them. The system's `free` has to find a
//! block's size first and guards against misuse in C; Rust says the size, so a list for each size will do. Only a
//! thread that asks for it ([`keep_blocks`]) keeps blocks, and few of each: everything else goes to the system. Blocks
//! are the system's at any time, so that any thread may free what another has allocated.

#![expect(unsafe_code, reason = "an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

/// The allocator of the process.
pub struct Heap;

/// Up to here sizes are rounded to [`FINE`], as the system does itself, and above to [`COARSE`]; bytes.
const SMALL: usize = 512;
const FINE: usize = 16;
const COARSE: usize = 128;

/// Bytes of the largest block that is kept.
const LARGEST: usize = 4096;

const CLASSES: usize = SMALL / FINE + (LARGEST - SMALL) / COARSE + 1;

/// Bytes that a class keeps, at most (and always [`FEWEST`] blocks): 0.5 MiB for all, if ever all are full.
const KEPT: usize = 8192;
const FEWEST: usize = 4;

/// Alignment that the system gives every block; blocks that need more are not kept.
const ALIGNED: usize = 16;

/// A kept block. The system makes none that is smaller.
struct Free {
    next: *mut Free,
}

struct Class {
    first: Cell<*mut Free>,
    /// Blocks that may still be kept.
    room: Cell<usize>,
}

// No destructor: it would have to be registered, which allocates. The thread that keeps blocks is the main one.
thread_local! {
    static KEEPING: [Class; CLASSES] =
        const { [const { Class { first: Cell::new(ptr::null_mut()), room: Cell::new(0) } }; CLASSES] };
}

/// Let this thread keep blocks. For a thread that lives as long as the process: what it keeps is never given back.
pub fn keep_blocks() {
    KEEPING.with(|classes| {
        for (class, kept) in classes.iter().enumerate().skip(1) {
            kept.room.set((KEPT / size(class)).max(FEWEST));
        }
    });
}

/// The class of a block, if it has one.
#[inline]
fn class(layout: Layout) -> Option<usize> {
    if layout.align() > ALIGNED {
        return None;
    }
    match layout.size() {
        bytes @ 0..=SMALL => Some(bytes.div_ceil(FINE)),
        bytes @ ..=LARGEST => Some(SMALL / FINE + (bytes - SMALL).div_ceil(COARSE)),
        _ => None,
    }
}

/// Bytes of every block of a class.
#[inline]
const fn size(class: usize) -> usize {
    match class.checked_sub(SMALL / FINE) {
        Some(coarse) => SMALL + coarse * COARSE,
        None => class * FINE,
    }
}

/// What the system is asked for.
#[inline]
fn rounded(class: usize, layout: Layout) -> Layout {
    // Both are within bounds, so the layout asked for is never taken.
    Layout::from_size_align(size(class), ALIGNED).unwrap_or(layout)
}

// SAFETY: blocks come from `System` with the size of their class, which is at least the layout's, and the alignment of
// the class, likewise; a block of a class goes back to `System` with that very layout, others with their own, which is
// unchanged. A kept block is on one list and in nobody's hands. Nothing here unwinds.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class(layout) else {
            // SAFETY: this function's requirement.
            return unsafe { System.alloc(layout) };
        };
        KEEPING.with(|classes| {
            let kept = &classes[class];
            let first = kept.first.get();
            if first.is_null() {
                // SAFETY: not of size zero, as the layout is not.
                return unsafe { System.alloc(rounded(class, layout)) };
            }
            // SAFETY: on the list, so it is a block of ours whose first bytes `dealloc` wrote.
            kept.first.set(unsafe { (*first).next });
            kept.room.set(kept.room.get() + 1);
            first.cast()
        })
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(class) = class(layout) else {
            // SAFETY: this function's requirement; the block was allocated with this layout.
            return unsafe { System.dealloc(block, layout) };
        };
        KEEPING.with(|classes| {
            let kept = &classes[class];
            let Some(room) = kept.room.get().checked_sub(1) else {
                // SAFETY: allocated with the layout of its class.
                return unsafe { System.dealloc(block, rounded(class, layout)) };
            };
            let free = block.cast::<Free>();
            // SAFETY: a block is aligned and large enough for a pointer, and nobody else's from here on.
            unsafe { free.write(Free { next: kept.first.get() }) };
            kept.first.set(free);
            kept.room.set(room);
        });
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class(layout).is_none() {
            // SAFETY: this function's requirement. The system knows which of its pages are zero already.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: this function's requirement.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: just allocated, with at least that size.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: this function requires that `bytes`, rounded up to the alignment, does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        match (class(layout), class(new)) {
            // SAFETY: this function's requirement; the block was allocated with this layout.
            (None, None) => unsafe { System.realloc(block, layout, bytes) },
            (old, class) if old == class => block,
            _ => {
                // SAFETY: `bytes` is not zero, which this function requires.
                let moved = unsafe { self.alloc(new) };
                if !moved.is_null() {
                    // SAFETY: both are at least that large and not the same; the old one is given back once.
                    unsafe {
                        moved.copy_from_nonoverlapping(block, layout.size().min(bytes));
                        self.dealloc(block, layout);
                    }
                }
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The allocator is the binary's to choose, and this is the tests' binary.
    #[global_allocator]
    static HEAP: Heap = Heap;

    #[test]
    fn every_size_fits_its_class_and_the_next_smaller_would_not_do() {
        for bytes in 1..=LARGEST {
            let layout = Layout::from_size_align(bytes, 8).expect("a layout");
            let class = class(layout).expect("a class");
            assert!(class < CLASSES && size(class) >= bytes && size(class - 1) < bytes, "{bytes}");
        }
        assert_eq!(class(Layout::from_size_align(LARGEST + 1, 8).expect("a layout")), None);
        assert_eq!(class(Layout::from_size_align(64, 2 * ALIGNED).expect("a layout")), None);
    }

    #[test]
    fn blocks_hold_what_was_written_whoever_frees_them() {
        // On a thread of its own: what it keeps is lost with it.
        std::thread::spawn(|| {
            keep_blocks();
            let (give, take) = std::sync::mpsc::channel::<Vec<Vec<u8>>>();
            let other = std::thread::spawn(move || take.into_iter().for_each(drop));
            for round in 0..200_usize {
                let mut blocks: Vec<Vec<u8>> = (1..90).map(|n| vec![(n ^ round) as u8; n * 53 % 5000 + 1]).collect();
                for (n, block) in blocks.iter_mut().enumerate().filter(|(n, _)| n % 3 == 0) {
                    block.extend(std::iter::repeat_n((n + 1) as u8 ^ round as u8, n * 7));
                    block.shrink_to_fit();
                }
                for (n, block) in blocks.iter().enumerate() {
                    assert!(block.iter().all(|byte| *byte == (n + 1) as u8 ^ round as u8), "round {round}, {n}");
                }
                if round % 2 == 0 {
                    give.send(blocks).expect("the other thread takes them");
                }
                assert!(vec![0_u8; 100 + round].iter().all(|byte| *byte == 0));
            }
            drop(give);
            other.join().expect("no panic");
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        std::thread::spawn(|| {
            keep_blocks();
            drop((0..10_000).map(|_| Box::new([0_u8; 100])).collect::<Vec<_>>());
            let class = class(Layout::new::<[u8; 100]>()).expect("a class");
            let mut kept = 0;
            KEEPING.with(|classes| {
                let mut next = classes[class].first.get();
                while !next.is_null() {
                    kept += 1;
                    // SAFETY: on the list.
                    next = unsafe { (*next).next };
                }
            });
            assert!((1..=KEPT / size(class)).contains(&kept), "{kept}");
        })
        .join()
        .expect("no panic");
    }
}

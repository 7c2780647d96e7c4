//! Chunks between fences.

use memory_shuffler::ArenaSource;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use std::alloc::Layout;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Address space of a source. None is used twice.
const RANGE: usize = 1 << 40;

/// A source whose chunks lie between pages that nobody may touch. Who reaches out of a chunk, or into one that was given back,
/// even long ago, is killed by the system on the spot.
#[derive(Debug)]
pub struct Fenced {
    range: NonNull<c_void>,
    /// Bytes of the range that were handed out.
    used: AtomicUsize,
}

impl Fenced {
    /// One without chunks.
    ///
    /// # Panics
    ///
    /// If there is no address space.
    pub fn new() -> Self {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the system chooses touches no other memory.
        let range = unsafe { mmap_anonymous(ptr::null_mut(), RANGE, ProtFlags::empty(), flags) };
        let range = NonNull::new(range.expect("address space")).expect("a mapping is not at zero");
        range.as_ptr().expose_provenance();
        Self { range, used: AtomicUsize::new(0) }
    }

    fn bytes(&self, layout: Layout) -> usize {
        layout.size().next_multiple_of(self.page_bytes())
    }
}

impl Default for Fenced {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and who drops the source has done with its chunks.
        unsafe { munmap(self.range.as_ptr(), RANGE) }.expect("it is mapped");
    }
}

// SAFETY: all that is shared is a number.
unsafe impl Send for Fenced {}
// SAFETY: as above.
unsafe impl Sync for Fenced {}

// SAFETY: a chunk is a part of a private mapping below 2^47, made writable, whose provenance is exposed; no part is handed out
// twice, so that it reads as zero.
unsafe impl ArenaSource for Fenced {
    fn acquire(&self, layout: Layout) -> Option<NonNull<u8>> {
        let (page, base) = (self.page_bytes(), self.range.addr().get());
        let start = |used: usize| Some((base + used + page).checked_next_multiple_of(layout.align().max(page))? - base);
        let end = |used| start(used)?.checked_add(self.bytes(layout)).filter(|&end| end <= RANGE - page);
        let used = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end).ok()?;
        // SAFETY: within the range.
        let chunk = unsafe { self.range.cast::<u8>().add(start(used)?) };
        let rights = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: a part of the range that nobody else has.
        unsafe { mprotect(chunk.as_ptr().cast(), self.bytes(layout), rights) }.ok()?;
        Some(chunk)
    }

    fn acquire_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.acquire(layout)
    }

    fn acquire_sparse(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.acquire(layout)
    }

    unsafe fn release(&self, chunk: NonNull<u8>, layout: Layout) {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the chunk is a part of the range, and the caller is done with it.
        let fence = unsafe { mmap_anonymous(chunk.as_ptr().cast(), self.bytes(layout), ProtFlags::empty(), flags) };
        fence.expect("what was mapped can be mapped again");
    }

    unsafe fn discard(&self, start: NonNull<u8>, bytes: usize) -> bool {
        let is_whole = [start.addr().get(), bytes].iter().all(|edge| edge.is_multiple_of(self.page_bytes()));
        // SAFETY: pages of a chunk whose contents nobody needs: the caller promises it.
        is_whole && unsafe { madvise(start.as_ptr().cast(), bytes, Advice::LinuxDontNeed) }.is_ok()
    }

    fn page_bytes(&self) -> usize {
        rustix::param::page_size()
    }
}

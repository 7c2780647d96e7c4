//! Wiping memory, for shufflers that scrub.

use super::descriptor::{ArenaRef, Use};
use super::pool::Pool;
use super::supply::Supply;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::slice;

/// Overwrites memory with zeros.
///
/// The writes are volatile: nobody may ever read the zeros, so the compiler could leave plain ones out, as it does with those
/// before a `dealloc` that it sees. In words, since volatile writes are not joined to longer ones.
///
/// # Safety
///
/// So many bytes from `start` are the caller's to write, and nobody else looks at them meanwhile.
pub(crate) unsafe fn wipe(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise; what is there need not be initialised.
    let all = unsafe { slice::from_raw_parts_mut(start.cast::<MaybeUninit<u8>>().as_ptr(), bytes) };
    // SAFETY: any bytes are an uninitialised word.
    let (head, words, tail) = unsafe { all.align_to_mut::<MaybeUninit<u64>>() };
    for byte in head.iter_mut().chain(tail) {
        // SAFETY: it is borrowed exclusively.
        unsafe { ptr::write_volatile(byte, MaybeUninit::new(0)) };
    }
    for word in words {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(word, MaybeUninit::new(0)) };
    }
}

impl Pool {
    /// Wipes the memory of a large block, of which `used` bytes were written to, or of an arena. Where the source takes pages
    /// back, they read as zero, and those that were never touched need not be.
    ///
    /// # Safety
    ///
    /// Nobody else uses the chunk.
    pub(crate) unsafe fn wipe_chunk(&self, supply: &Supply, arena: ArenaRef, used: usize) {
        let ((chunk, layout), page) = (arena.chunk(), supply.page_bytes());
        let is_pages = (chunk.addr().get() | layout.size()).is_multiple_of(page);
        // SAFETY: the chunk is the descriptor's, from this supply, and by the caller's promise nobody needs it. It counts as
        // held until it is released.
        if !(is_pages && unsafe { supply.discard_charged(chunk, layout.size(), 0) }) {
            // SAFETY: the caller's promise; the chunk is no shorter.
            unsafe { wipe(chunk, used) };
        }
    }

    /// Wipes an arena that was emptied before it is used again, or given back, if anything can be left in it: of `Versioned`
    /// blocks that were moved away, which readers still saw. All others were wiped one by one.
    ///
    /// # Safety
    ///
    /// The caller emptied the arena, and no reader looks into it.
    pub(super) unsafe fn wipe_emptied(&self, arena: ArenaRef) {
        if !self.scrub || !arena.ground().versioned {
            return;
        }
        let bytes = match arena.usage() {
            Use::Bumped => arena.sealed_bytes(),
            // What a helper left in an extent can be moved away as well, when somebody asks for an order.
            Use::Reserve => arena.base() + self.arena_bytes() - arena.start(),
            Use::Empty | Use::Large => return,
        };
        let first = ptr::with_exposed_provenance_mut(arena.start());
        let first = NonNull::new(first).expect("an arena is not at zero");
        // SAFETY: within the chunk; the rest is the caller's promise.
        unsafe { wipe(first, bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Ground;

    /// A block that a helper put into a reserve arena can be moved out of it again, as soon as somebody asks for an order.
    #[test]
    fn a_reserve_arena_of_versions_is_wiped_when_it_is_emptied() {
        let supply = Supply::new(Box::new(crate::OsSource::new()), usize::MAX);
        let mut pool = Pool::new(1 << 16, 0, true);
        for ground in Ground::ALL.into_iter().filter(|ground| ground.versioned) {
            let extent = pool.take_extent(&supply, ground, 0).unwrap();
            let bytes = pool.extent_bytes() - 16;
            let payload = ptr::with_exposed_provenance_mut::<u8>(extent.base + 16);
            // SAFETY: within the extent, which is this test's alone.
            unsafe { payload.write_bytes(0xA5, bytes) };
            // SAFETY: this test alone has the arena.
            unsafe { pool.wipe_emptied(extent.arena) };
            // SAFETY: as above.
            let left = unsafe { slice::from_raw_parts(payload, bytes) };
            assert!(left.iter().all(|&byte| byte == 0), "{ground:?}");
        }
        pool.dissolve(&supply);
    }

    #[test]
    fn exactly_what_is_asked_for_is_wiped() {
        for (from, to) in [(0, 64), (0, 0), (8, 16), (3, 5), (1, 63), (7, 8), (5, 40)] {
            let mut bytes = [0xA5_u8; 64];
            let start = NonNull::from(&mut bytes[from..]).cast();
            // SAFETY: within the array, which nobody else uses.
            unsafe { wipe(start, to - from) };
            let expected = std::array::from_fn(|index| if (from..to).contains(&index) { 0 } else { 0xA5 });
            assert_eq!(bytes, expected, "{from}..{to}");
        }
    }
}

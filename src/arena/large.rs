//! Blocks that are too large for an arena, or aligned too widely: each has a chunk of its own.
//!
//! Chunks are aligned like arenas, so what is left of the last arena's range behind a block is of use to nobody else. It
//! belongs to the chunk: address space that the block may grow into. Only the pages of the payload are *charged*, counted
//! as held from the source; the account of the chunk counts the same bytes.

use super::Pool;
use super::descriptor::{ArenaRef, Use};
use super::ground::Ground;
use super::header::Header;
use super::supply::Supply;
use super::wipe::wipe;
use crate::error::AllocError;
use std::alloc::Layout;

/// A block that gets memory of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LargeBlock {
    pub(crate) payload: usize,
    pub(crate) align: usize,
    pub(crate) zeroed: bool,
    pub(crate) ground: Ground,
    /// Goes into the descriptor.
    pub(crate) header: Header,
    pub(crate) owner: u32,
}

/// The pages of a payload, bytes. `None`: more than an address space has.
fn pages(supply: &Supply, payload: usize) -> Option<usize> {
    payload.max(1).checked_next_multiple_of(supply.page_bytes().max(4096))
}

impl Pool {
    /// Whether a large block of so many bytes would fit below the limit if nothing else were there.
    pub(crate) fn can_ever_hold(&self, supply: &Supply, payload: usize) -> bool {
        pages(supply, payload).is_some_and(|pages| pages <= supply.most(self.survivor_reserve))
    }

    /// Memory for one large block, sealed from the first.
    pub(crate) fn take_large(&self, supply: &Supply, block: &LargeBlock, now: u64) -> Result<ArenaRef, AllocError> {
        let align = block.align.max(self.arena_bytes());
        let pages = pages(supply, block.payload).ok_or(AllocError::LayoutOverflow)?;
        let exact = Layout::from_size_align(pages, align).map_err(|_| AllocError::LayoutOverflow)?;
        let whole = pages.checked_next_multiple_of(self.arena_bytes());
        let roomy = whole.and_then(|bytes| Layout::from_size_align(bytes, align).ok());
        let roomy = roomy.filter(|_| !supply.keeps_pages()).unwrap_or(exact);
        // A source may have to write its zeros: not over much more than was asked for.
        let sourced = block.zeroed && roomy.size() - pages <= roomy.size() / 16;
        let (chunk, layout) = supply.acquire_roomy([roomy, exact], pages, self.survivor_reserve, sourced)?;
        // SAFETY: the chunk is new, and nobody has written to it.
        let clean = sourced || (block.zeroed && unsafe { supply.discard_charged(chunk, layout.size(), 0) });
        if block.zeroed && !clean {
            // SAFETY: the chunk is new, and longer than that.
            unsafe { chunk.write_bytes(0, block.payload) };
        }
        let arena = self.describe(supply, (chunk, layout), pages, block.ground, Use::Large, block.owner)?;
        arena.set_large(block.header, block.payload, if clean { block.payload } else { layout.size() });
        arena.open_sealed(pages, pages, now);
        Ok(arena)
    }

    /// Makes a large block longer with zeros, inside its chunk. On an error nothing has changed.
    ///
    /// # Safety
    ///
    /// The caller holds the block exclusively, and its chunk has that many bytes.
    pub(crate) unsafe fn grow_large(&self, supply: &Supply, arena: ArenaRef, to: usize) -> Result<(), AllocError> {
        let ((chunk, layout), charged) = (arena.chunk(), arena.charged());
        let from = arena.large_payload().expect("a large block has a size");
        debug_assert!(from <= to && to <= layout.size());
        let pages = pages(supply, to).map_or(layout.size(), |pages| pages.min(layout.size()));
        if pages > charged {
            supply.charge(pages - charged, self.survivor_reserve)?;
            arena.account.add(pages - charged);
            arena.set_charged(pages);
        }
        let dirty = to.min(arena.clean_from());
        if dirty > from {
            // SAFETY: within the chunk, behind the old payload: nobody's bytes but the caller's.
            unsafe { chunk.add(from).write_bytes(0, dirty - from) };
        }
        arena.set_clean_from(arena.clean_from().max(to));
        arena.set_large_payload(to);
        Ok(())
    }

    /// Makes a large block shorter, and gives its last pages back if the source takes pages.
    ///
    /// # Safety
    ///
    /// The caller holds the block exclusively, and nobody needs what lies behind its new end.
    pub(crate) unsafe fn shrink_large(&self, supply: &Supply, arena: ArenaRef, to: usize) {
        let ((chunk, layout), charged) = (arena.chunk(), arena.charged());
        let from = arena.large_payload().expect("a large block has a size");
        debug_assert!(to <= from);
        let pages = pages(supply, to).map_or(charged, |pages| pages.min(charged));
        let wipe_between = |start: usize, end: usize| {
            if self.scrub && start < end {
                // SAFETY: within the chunk, behind the block's new end.
                unsafe { wipe(chunk.add(start), end - start) };
            }
        };
        // The page that the block goes on to end in stays.
        wipe_between(to, from.min(pages));
        arena.set_large_payload(to);
        if pages == charged {
            return;
        }
        // SAFETY: within the chunk, behind the block. What was never used goes too, so that all of it is known to be zero.
        if unsafe { supply.discard_charged(chunk.add(pages), layout.size() - pages, charged - pages) } {
            // The block itself has a share left, of a page at least.
            let _ = arena.account.subtract(charged - pages);
            arena.set_charged(pages);
            arena.set_clean_from(pages);
        } else {
            wipe_between(pages, from);
        }
    }
}

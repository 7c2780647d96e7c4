//! Memory Shuffler, blocks named by handle.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::slice;

use memory_shuffler::{AccessError, BumpSource, ConfigError, RawHandle, Shuffler, Trigger};

use super::Backend;
use crate::args::Source;
use crate::figures::ShufflerFigures;

/// One shuffler with its compactor in the background, as programs have it.
#[derive(Debug)]
pub struct Handles {
    shuffler: Shuffler,
}

/// A block that belongs to whoever has this: nobody else knows the handle.
#[derive(Debug)]
pub struct HandleBlock {
    handle: RawHandle,
    layout: Layout,
}

impl Handles {
    /// A shuffler that has not mapped anything yet.
    pub fn new(source: Source) -> Result<Self, ConfigError> {
        let builder = Shuffler::builder().trigger(Trigger::Background);
        let shuffler = match source {
            Source::Os => builder.build()?,
            Source::Bump => builder.source(BumpSource::new()).build()?,
        };
        Ok(Self { shuffler })
    }

    /// What the blocks live in.
    pub fn shuffler(&self) -> &Shuffler {
        &self.shuffler
    }

    /// Rents the block for as long as `look` runs.
    ///
    /// # Safety
    /// `handle` names a live block of `size` bytes, all of them written, and nobody frees it meanwhile.
    pub unsafe fn read_at<R>(
        &self,
        handle: RawHandle,
        size: usize,
        look: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, String> {
        // The type need only fit, and nothing fits an empty block but `()`.
        let start = self.shuffler.rent_pointer::<()>(handle).map_err(|error| told("rent", error))?;
        // SAFETY: while rented, the block neither moves nor goes, and nobody can rent it to write; its size and that it
        // was written is the caller's word.
        let result = look(unsafe { slice::from_raw_parts(start.cast().as_ptr(), size) });
        self.give_back(handle)?;
        Ok(result)
    }

    /// Rents the block to write, for as long as `change` runs.
    ///
    /// # Safety
    /// `handle` names a live block of `size` bytes, and nobody frees it meanwhile.
    pub unsafe fn write_at<R>(
        &self,
        handle: RawHandle,
        size: usize,
        change: impl FnOnce(&mut [MaybeUninit<u8>]) -> R,
    ) -> Result<R, String> {
        let start = self.shuffler.rent_pointer_mut::<()>(handle).map_err(|error| told("rent to write", error))?;
        // SAFETY: the library gives this hold to nobody else at the same time, and the block does not move under it;
        // its size is the caller's word; the element type claims nothing about what the bytes hold.
        let result = change(unsafe { slice::from_raw_parts_mut(start.cast().as_ptr(), size) });
        self.give_back(handle)?;
        Ok(result)
    }

    fn give_back(&self, handle: RawHandle) -> Result<(), String> {
        // SAFETY: the caller rented it just before, and no reference made from that rent is left.
        unsafe { self.shuffler.return_pointer(handle) }.map_err(|error| told("return", error))
    }
}

/// An access that the library refused.
pub fn told(what: &str, error: AccessError) -> String {
    format!("{what}: {error}")
}

impl Backend for Handles {
    type Block = HandleBlock;

    fn allocate(&self, layout: Layout) -> Result<HandleBlock, String> {
        let handle = self.shuffler.alloc_layout(layout).map_err(|error| format!("allocate: {error}"))?;
        Ok(HandleBlock { handle, layout })
    }

    fn layout(block: &HandleBlock) -> Layout {
        block.layout
    }

    unsafe fn read<R>(&self, block: &HandleBlock, look: impl FnOnce(&[u8]) -> R) -> Result<R, String> {
        // SAFETY: `block` is alive, was made with this size, and only `free` frees it; the caller says it was written.
        unsafe { self.read_at(block.handle, block.layout.size(), look) }
    }

    fn write<R>(&self, block: &mut HandleBlock, change: impl FnOnce(&mut [MaybeUninit<u8>]) -> R) -> Result<R, String> {
        // SAFETY: `block` is alive, was made with this size, and only `free` frees it.
        unsafe { self.write_at(block.handle, block.layout.size(), change) }
    }

    fn free(&self, block: HandleBlock) -> Result<(), String> {
        self.shuffler.free(block.handle).map(drop).map_err(|error| told("free", error))
    }

    fn source_bytes(&self) -> Option<u64> {
        Some(self.shuffler.stats().resident_bytes)
    }

    fn shuffler(&self) -> Option<&Shuffler> {
        Some(&self.shuffler)
    }

    fn handle(&self, block: &HandleBlock) -> Option<RawHandle> {
        Some(block.handle)
    }

    fn finish(&mut self) -> ShufflerFigures {
        self.shuffler.shuffle();
        self.shuffler.trim();
        let stats = self.shuffler.stats();
        ShufflerFigures {
            moves: Some(stats.moves),
            moved_bytes: Some(stats.moved_bytes),
            helped: Some(stats.helped),
            arenas_returned: Some(stats.arenas_returned),
            returned_bytes: Some(stats.returned_bytes),
            longest_step_ns: Some(u64::try_from(stats.max_step.as_nanos()).unwrap_or(u64::MAX)),
            final_live_blocks: Some(stats.live_blocks),
            start_source_bytes: None,
            final_source_bytes: Some(stats.resident_bytes),
        }
    }
}

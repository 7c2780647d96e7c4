//! Allocators that implement `GlobalAlloc`, called directly: the harness's own memory stays with the system's.

use std::alloc::{GlobalAlloc, Layout};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::slice;

use super::Backend;

/// An allocator of the usual kind: it hands out addresses, and nothing ever moves.
#[derive(Debug)]
pub struct Global<A>(pub A);

/// A block that belongs to whoever has this.
#[derive(Debug)]
pub struct GlobalBlock {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the block is plain memory that this value alone names; allocators take it back on any thread.
unsafe impl Send for GlobalBlock {}

/// What is asked of the allocator: `GlobalAlloc` has no blocks of no bytes.
fn at_least_a_byte(layout: Layout) -> Layout {
    if layout.size() > 0 {
        return layout;
    }
    Layout::from_size_align(1, layout.align()).expect("one byte at an alignment that was valid already")
}

impl<A: GlobalAlloc + Sync> Backend for Global<A> {
    type Block = GlobalBlock;

    fn allocate(&self, layout: Layout) -> Result<GlobalBlock, String> {
        // SAFETY: `at_least_a_byte` made the size positive.
        let start = unsafe { self.0.alloc(at_least_a_byte(layout)) };
        let start = NonNull::new(start).ok_or_else(|| format!("no memory for {} bytes", layout.size()))?;
        Ok(GlobalBlock { start, layout })
    }

    fn layout(block: &GlobalBlock) -> Layout {
        block.layout
    }

    unsafe fn read<R>(&self, block: &GlobalBlock, look: impl FnOnce(&[u8]) -> R) -> Result<R, String> {
        // SAFETY: the allocation has this size and lives as long as `block`; the caller says that it was written, and
        // writing needs the `&mut` that nobody can have now.
        Ok(look(unsafe { slice::from_raw_parts(block.start.as_ptr(), block.layout.size()) }))
    }

    fn write<R>(&self, block: &mut GlobalBlock, change: impl FnOnce(&mut [MaybeUninit<u8>]) -> R) -> Result<R, String> {
        // SAFETY: the allocation has this size and lives as long as `block`, which is ours alone; the element type
        // claims nothing about what the bytes hold.
        Ok(change(unsafe { slice::from_raw_parts_mut(block.start.as_ptr().cast(), block.layout.size()) }))
    }

    fn free(&self, block: GlobalBlock) -> Result<(), String> {
        // SAFETY: `allocate` got the address with this layout, and taking `block` ends its only use.
        unsafe { self.0.dealloc(block.start.as_ptr(), at_least_a_byte(block.layout)) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

    #[test]
    fn a_block_keeps_what_is_written() {
        let backend = Global(System);
        for (size, align) in [(0, 1), (1, 1), (100, 64), (5000, 4096)] {
            let layout = Layout::from_size_align(size, align).unwrap();
            let mut block = backend.allocate(layout).unwrap();
            assert_eq!(Global::<System>::layout(&block), layout);
            backend.write(&mut block, |bytes| bytes.fill(MaybeUninit::new(7))).unwrap();
            // SAFETY: the line above wrote all of it.
            let (address, good) = unsafe {
                backend
                    .read(&block, |bytes| (bytes.as_ptr().addr(), bytes.len() == size && bytes.iter().all(|&b| b == 7)))
            }
            .unwrap();
            assert!(good && address % align == 0);
            backend.free(block).unwrap();
        }
    }

    #[test]
    fn too_much_is_an_error() {
        let layout = Layout::from_size_align(1 << 62, 8).unwrap();
        assert!(Global(System).allocate(layout).unwrap_err().contains("no memory for"));
    }
}

//! The allocators that a replay can run over, behind one trait.

mod directory;
mod global;
mod shuffler;

pub use directory::Named;
pub use global::Global;
pub use shuffler::Handles;

use std::alloc::Layout;
use std::mem::MaybeUninit;

use crate::figures::ShufflerFigures;

/// An allocator under test. Threads share it.
///
/// A block is owned: it cannot be copied, and only [`free`](Self::free) takes it. So only [`read`](Self::read), which
/// relies on what was written before, is unsafe to call.
pub trait Backend: Sync {
    /// What names a block.
    type Block: Send;

    /// A new block, its bytes not necessarily initialised.
    fn allocate(&self, layout: Layout) -> Result<Self::Block, String>;

    /// What the block was allocated with.
    fn layout(block: &Self::Block) -> Layout;

    /// Shows the block's bytes.
    ///
    /// # Safety
    /// Every byte of the block has been written through [`write`](Self::write).
    unsafe fn read<R>(&self, block: &Self::Block, look: impl FnOnce(&[u8]) -> R) -> Result<R, String>;

    /// Gives the block's bytes to be written.
    fn write<R>(&self, block: &mut Self::Block, change: impl FnOnce(&mut [MaybeUninit<u8>]) -> R) -> Result<R, String>;

    /// The end of a block.
    fn free(&self, block: Self::Block) -> Result<(), String>;

    /// Bytes held from the arenas' source, for allocators that have one.
    fn source_bytes(&self) -> Option<u64> {
        None
    }

    /// Gives back what can be given back after every block was freed, and says what the allocator counted.
    fn finish(&mut self) -> ShufflerFigures {
        ShufflerFigures::default()
    }
}

//! The allocators that a load can run over, behind one trait.

mod directory;
#[cfg(test)]
pub mod faulty;
pub mod global;
mod shuffler;

pub use shuffler::told;

use std::alloc::Layout;
use std::mem::MaybeUninit;

use memory_shuffler::{RawHandle, Shuffler};

use directory::Named;
use global::Global;
use shuffler::Handles;

use crate::args::{Allocator, Source};
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

    /// The shuffler that it runs over, to ask and to steer, for those that do.
    fn shuffler(&self) -> Option<&Shuffler> {
        None
    }

    /// The block's handle in that shuffler.
    fn handle(&self, _block: &Self::Block) -> Option<RawHandle> {
        None
    }

    /// Gives back what can be given back after every block was freed, and says what the allocator counted.
    fn finish(&mut self) -> ShufflerFigures {
        ShufflerFigures::default()
    }
}

/// What is done over a backend, whichever it is.
pub trait Visit {
    /// What comes out.
    type Output;

    /// Does it.
    fn visit<B: Backend>(self, backend: B) -> Self::Output;
}

/// Makes an allocator's backend and does `visit` over it.
pub fn over<V: Visit>(allocator: Allocator, source: Source, visit: V) -> V::Output {
    match allocator {
        Allocator::Shuffler => visit.visit(Handles::new(source).expect("a default configuration")),
        Allocator::ShufflerDirectory => visit.visit(Named::new(source).expect("a default configuration")),
        Allocator::System => visit.visit(Global(std::alloc::System)),
        #[cfg(feature = "mimalloc")]
        Allocator::Mimalloc => visit.visit(Global(mimalloc::MiMalloc)),
        #[cfg(feature = "jemalloc")]
        Allocator::Jemalloc => visit.visit(Global(tikv_jemallocator::Jemalloc)),
        #[cfg(not(all(feature = "mimalloc", feature = "jemalloc")))]
        other => unreachable!("the parent refuses {other}, which is not in this build"),
    }
}

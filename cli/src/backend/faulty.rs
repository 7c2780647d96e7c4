//! For tests: an allocator with a fault that the harness must find.

use std::alloc::{Layout, System};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Backend;
use super::global::Global;
use crate::figures::ShufflerFigures;

/// The system allocator with one fault, at the use of number `fault_at` of the kind that the fault is about.
#[derive(Debug)]
pub struct Faulty {
    inner: Global<System>,
    uses: AtomicU64,
    fault_at: u64,
    fault: Fault,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// A write whose last byte does not arrive.
    Spoil,
    /// A read that is refused.
    Refuse,
    /// A read that finds the block a byte further on.
    Shift,
    /// A live block too many at the end.
    LeaveAlive,
}

impl Faulty {
    /// With a fault at use number `fault_at`, from 0.
    pub fn new(fault: Fault, fault_at: u64) -> Self {
        Self { inner: Global(System), uses: AtomicU64::new(0), fault_at, fault }
    }

    /// Whether this use is the one.
    fn is_due(&self) -> bool {
        self.uses.fetch_add(1, Ordering::Relaxed) == self.fault_at
    }
}

impl Backend for Faulty {
    type Block = <Global<System> as Backend>::Block;

    fn allocate(&self, layout: Layout) -> Result<Self::Block, String> {
        self.inner.allocate(layout)
    }

    fn layout(block: &Self::Block) -> Layout {
        Global::<System>::layout(block)
    }

    unsafe fn read<R>(&self, block: &Self::Block, look: impl FnOnce(&[u8]) -> R) -> Result<R, String> {
        let refuse = self.fault == Fault::Refuse && self.is_due();
        let start = usize::from(self.fault == Fault::Shift && self.is_due());
        if refuse {
            return Err("refused by the test".into());
        }
        // SAFETY: passed on from the caller.
        unsafe { self.inner.read(block, |bytes| look(&bytes[start..])) }
    }

    fn write<R>(&self, block: &mut Self::Block, change: impl FnOnce(&mut [MaybeUninit<u8>]) -> R) -> Result<R, String> {
        let spoil = self.fault == Fault::Spoil && self.is_due();
        self.inner.write(block, |bytes| {
            let result = change(bytes);
            if let Some(last) = bytes.last_mut().filter(|_| spoil) {
                // SAFETY: `change` is told to write the whole block, and the tests' changes do.
                last.write(unsafe { last.assume_init() } ^ 1);
            }
            result
        })
    }

    fn free(&self, block: Self::Block) -> Result<(), String> {
        self.inner.free(block)
    }

    fn finish(&mut self) -> ShufflerFigures {
        let blocks = u64::from(self.fault == Fault::LeaveAlive);
        ShufflerFigures { final_live_blocks: Some(blocks), ..ShufflerFigures::default() }
    }
}

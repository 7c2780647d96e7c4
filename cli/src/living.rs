//! Blocks that are filled with a pattern of their own, and what is done to one.

use std::alloc::Layout;

use crate::backend::Backend;
use crate::failure::{Failure, Trouble};
use crate::pattern::{Mismatch, Pattern};

/// A block of which nothing was written yet.
#[derive(Debug)]
pub struct Made<K>(Living<K>);

/// A block that was filled with its pattern.
#[derive(Debug)]
pub struct Living<K> {
    block: K,
    thread: u32,
    birth: u32,
}

impl<K> Made<K> {
    /// A new block: allocation number `birth` of `thread`.
    pub fn new<B: Backend<Block = K>>(backend: &B, layout: Layout, thread: u32, birth: u32) -> Result<Self, Failure> {
        let refused = |reason| Failure::Block { thread, birth, trouble: Trouble::Refused { reason } };
        let block = backend.allocate(layout).map_err(refused)?;
        Ok(Self(Living { block, thread, birth }))
    }

    /// Writes the pattern.
    pub fn fill<B: Backend<Block = K>>(self, backend: &B) -> Result<Living<K>, Failure> {
        let Self(mut made) = self;
        let (pattern, align) = (made.pattern(), made.layout::<B>().align());
        let filled = backend.write(&mut made.block, |bytes| {
            pattern.fill(bytes, 0);
            check_alignment(bytes, align)
        });
        made.passed(filled)?;
        Ok(made)
    }
}

impl<K> Living<K> {
    /// Its number among its thread's allocations.
    pub fn birth(&self) -> u32 {
        self.birth
    }

    /// What it was allocated with.
    pub fn layout<B: Backend<Block = K>>(&self) -> Layout {
        B::layout(&self.block)
    }

    /// What the allocator knows it by.
    pub fn block(&self) -> &K {
        &self.block
    }

    /// Checks this block and writes what fits of it into `made`, which continues the pattern.
    pub fn copy_into<B: Backend<Block = K>>(&self, backend: &B, made: Made<K>) -> Result<Living<K>, Failure> {
        let Made(mut made) = made;
        let (pattern, align) = (self.pattern(), self.layout::<B>().align());
        let move_over = |from: &[u8]| {
            check_bytes(from, align, pattern)?;
            backend.write(&mut made.block, |to| {
                let kept = from.len().min(to.len());
                to[..kept].write_copy_of_slice(&from[..kept]);
                pattern.fill(to, kept);
                check_alignment(to, align)
            })?
        };
        // SAFETY: a `Living` comes from `fill` or from here, and both write the whole block.
        let copied = unsafe { backend.read(&self.block, move_over) };
        self.passed(copied)?;
        Ok(made)
    }

    /// Compares it with its pattern.
    pub fn verify<B: Backend<Block = K>>(&self, backend: &B) -> Result<(), Failure> {
        let (pattern, align) = (self.pattern(), self.layout::<B>().align());
        // SAFETY: a `Living` comes from `fill` or from `copy_into`, and both write the whole block.
        let checked = unsafe { backend.read(&self.block, |bytes| check_bytes(bytes, align, pattern)) };
        self.passed(checked)
    }

    /// Its end.
    pub fn free<B: Backend<Block = K>>(self, backend: &B) -> Result<(), Failure> {
        let Self { block, thread, birth } = self;
        backend.free(block).map_err(|reason| Failure::Block { thread, birth, trouble: reason.into() })
    }

    /// Unwraps what the backend and the check inside it say.
    fn passed(&self, outcome: Result<Result<(), Trouble>, String>) -> Result<(), Failure> {
        let failure = |trouble| Failure::Block { thread: self.thread, birth: self.birth, trouble };
        outcome.map_err(Trouble::from).flatten().map_err(failure)
    }

    fn pattern(&self) -> Pattern {
        Pattern::new(self.thread, self.birth)
    }
}

fn check_bytes(bytes: &[u8], align: usize, pattern: Pattern) -> Result<(), Trouble> {
    check_alignment(bytes, align)?;
    pattern.check(bytes).map_err(|Mismatch { offset, expected, found }| Trouble::Content {
        offset: offset as u64,
        size: bytes.len() as u64,
        expected,
        found,
    })
}

fn check_alignment<T>(bytes: &[T], align: usize) -> Result<(), Trouble> {
    let address = bytes.as_ptr().addr();
    if address.is_multiple_of(align) {
        Ok(())
    } else {
        Err(Trouble::Misaligned { address: address as u64, alignment: align as u64 })
    }
}

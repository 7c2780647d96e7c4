//! Chunks from the global allocator.

use super::*;

/// Chunks from the global allocator, each a [`bumpalo::Bump`] of its own that holds one aligned chunk: for places
/// without `mmap`.
///
/// How much memory goes back to the system is up to the global allocator. Each chunk costs up to a page more than was
/// asked for, and its size is rounded up to its alignment.
#[derive(Debug, Default)]
pub struct BumpSource {
    held: Mutex<HashMap<usize, Held>>,
}

/// One live chunk of a [`BumpSource`]; dropping it gives the memory back.
#[derive(Debug)]
enum Held {
    Bump(Bump),
    Zeroed(Zeroed),
}

/// Memory that the global allocator zeroed.
#[derive(Debug)]
struct Zeroed {
    memory: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its memory, and the global allocator takes memory back on any thread.
unsafe impl Send for Zeroed {}

impl Zeroed {
    fn new(layout: Layout) -> Option<Self> {
        debug_assert!(layout.size() > 0);
        // SAFETY: the layout has bytes: all callers have checked that.
        let memory = NonNull::new(unsafe { alloc::alloc_zeroed(layout) })?;
        Some(Self { memory, layout })
    }
}

impl Drop for Zeroed {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout, and only this value owns it.
        unsafe { alloc::dealloc(self.memory.as_ptr(), self.layout) };
    }
}

impl BumpSource {
    /// A source that holds nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes held from the global allocator for live chunks, with what they cost beyond the bytes asked for.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let bytes = |held: &Held| match held {
            Held::Bump(bump) => bump.allocated_bytes_including_metadata(),
            Held::Zeroed(zeroed) => zeroed.layout.size(),
        };
        lock(&self.held).values().map(bytes).sum()
    }

    /// Keeps the owner of a chunk until the chunk is released; refused if there is no memory to note it down.
    fn keep(&self, chunk: NonNull<u8>, bytes: usize, owner: Held) -> Option<NonNull<u8>> {
        let address = chunk.expose_provenance().get();
        if !is_addressable(address, bytes) {
            return None;
        }
        let mut held = lock(&self.held);
        if held.try_reserve(1).is_err() {
            // The owner goes back to the global allocator without the lock.
            drop(held);
            return None;
        }
        held.insert(address, owner);
        Some(chunk)
    }
}

// SAFETY: a chunk is memory of its own from the global allocator, of the layout asked for, kept until it is released or
// the source is dropped; `keep` checks its address. `acquire_zeroed` takes zeroed memory.
unsafe impl ArenaSource for BumpSource {
    fn acquire(&self, layout: Layout) -> Option<NonNull<u8>> {
        (layout.size() > 0).then_some(())?;
        // An empty Bump allocates nothing; the first allocation makes a chunk of the size and alignment it needs.
        let bump = Bump::new();
        let chunk = bump.try_alloc_layout(layout).ok()?;
        self.keep(chunk, layout.size(), Held::Bump(bump))
    }

    fn acquire_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        (layout.size() > 0).then_some(())?;
        // The global allocator has fresh zero pages for large requests of common alignment only; for others it touches
        // every byte. So a little more is taken, and the chunk aligned inside.
        let (common, spare) = (align_of::<u128>(), layout.align());
        let lazy = layout.align() > common && spare <= layout.size() / 16;
        let roomy = Layout::from_size_align(layout.size().checked_add(spare)?, common).ok();
        let owner = Zeroed::new(roomy.filter(|_| lazy).unwrap_or(layout))?;
        let gap = owner.memory.addr().get().next_multiple_of(layout.align()) - owner.memory.addr().get();
        // SAFETY: without spare bytes the memory is aligned and the gap is 0; else the gap is less than they are.
        let chunk = unsafe { owner.memory.add(gap) };
        self.keep(chunk, layout.size(), Held::Zeroed(owner))
    }

    unsafe fn release(&self, chunk: NonNull<u8>, _: Layout) {
        let owner = lock(&self.held).remove(&chunk.addr().get());
        debug_assert!(owner.is_some(), "a chunk was released that this source does not hold");
        // Only here, after the lock, does the memory go.
        drop(owner);
    }

    unsafe fn discard(&self, _: NonNull<u8>, _: usize) -> bool {
        false
    }

    fn page_bytes(&self) -> usize {
        NOMINAL_PAGE
    }
}

//! Chunks from a region that the program owns.

use super::*;

/// Chunks from a region of memory that the program owns: a static, a mapping of its own, memory of a device.
///
/// What is released is used again for chunks of any size; nothing goes back to the system. Chunk sizes are rounded up
/// to whole cache lines.
#[derive(Debug)]
pub struct RegionSource {
    state: Mutex<RegionState>,
}

#[derive(Debug)]
struct RegionState {
    free: RangeMap,
    /// The region, until the first chunk is asked for: making a source allocates nothing.
    unused: Option<Range<usize>>,
}

/// Chunks of a [`RegionSource`] start at, and extend over, multiples of this: a cache line, in bytes.
pub(super) const REGION_GRAIN: usize = 64;

impl RegionSource {
    /// A source over `bytes` bytes from `start`.
    ///
    /// # Safety
    ///
    /// The bytes are readable and writable from every thread, and nobody else uses them, as long as the source exists:
    /// that is, until it and all shufflers that it was given to are dropped.
    #[must_use]
    pub unsafe fn new(start: NonNull<u8>, bytes: usize) -> Self {
        let start = start.expose_provenance().get();
        let end = start.saturating_add(bytes).min(usize::try_from(ADDRESS_END).unwrap_or(usize::MAX));
        let first = start.checked_next_multiple_of(REGION_GRAIN).unwrap_or(end);
        let unused = Some(first..end - end % REGION_GRAIN).filter(|range| !range.is_empty());
        Self { state: Mutex::new(RegionState { free: RangeMap::new(), unused }) }
    }

    /// A source over memory that is borrowed for ever.
    #[must_use]
    pub fn from_slice(region: &'static mut [MaybeUninit<u8>]) -> Self {
        let bytes = region.len();
        // SAFETY: the exclusive borrow never ends, so nobody else uses these bytes.
        unsafe { Self::new(NonNull::from(region).cast(), bytes) }
    }

    /// Bytes of the region that are in no chunk.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        let state = lock(&self.state);
        state.free.free_bytes() + state.unused.as_ref().map_or(0, Range::len)
    }

    /// The bytes and the alignment of the range that holds a chunk of this layout.
    fn extent(layout: Layout) -> Option<(usize, usize)> {
        (layout.size() > 0).then_some(())?;
        Some((layout.size().checked_next_multiple_of(REGION_GRAIN)?, layout.align().max(REGION_GRAIN)))
    }
}

// SAFETY: chunks are parts of the region, which whoever made the source promised to be exclusive, readable and writable
// while it exists; `new` exposed its provenance and cut it off at 2^48, and the range map hands each address out once
// until it is given back, at the alignment asked for.
unsafe impl ArenaSource for RegionSource {
    fn acquire(&self, layout: Layout) -> Option<NonNull<u8>> {
        let (bytes, align) = Self::extent(layout)?;
        let mut state = lock(&self.state);
        if let Some(region) = state.unused.take()
            && !state.free.add(region.clone())
        {
            state.unused = Some(region);
        }
        chunk_at(state.free.take(bytes, align)?)
    }

    unsafe fn release(&self, chunk: NonNull<u8>, layout: Layout) {
        if let Some((bytes, _)) = Self::extent(layout) {
            lock(&self.state).free.give(chunk.addr().get(), bytes);
        }
    }

    unsafe fn discard(&self, _: NonNull<u8>, _: usize) -> bool {
        false
    }

    fn page_bytes(&self) -> usize {
        NOMINAL_PAGE
    }
}

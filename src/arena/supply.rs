//! The parent allocator with a count of what is held from it, and the limit on that.

use super::source::ArenaSource;
use crate::error::AllocError;
use crate::primitive::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::alloc::Layout;
use std::fmt;
use std::ptr::NonNull;

/// All memory of a shuffler, its tables' too, comes through here.
pub(crate) struct Supply {
    source: Box<dyn ArenaSource>,
    held: AtomicUsize,
    limit: AtomicUsize,
    /// The source was asked for pages of a chunk once, and could not take them.
    keeps_pages: AtomicBool,
}

impl Supply {
    /// A supply that refuses to hold more than `limit` bytes.
    pub(crate) fn new(source: Box<dyn ArenaSource>, limit: usize) -> Self {
        Self { source, held: AtomicUsize::new(0), limit: AtomicUsize::new(limit), keeps_pages: AtomicBool::new(false) }
    }

    /// Bytes held from the source.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that are left below the limit.
    pub(crate) fn room(&self) -> usize {
        self.limit.load(Ordering::Relaxed).saturating_sub(self.held())
    }

    /// The most bytes that are ever held, if `keep` below the limit are left to others.
    pub(crate) fn most(&self, keep: usize) -> usize {
        self.limit.load(Ordering::Relaxed).saturating_sub(keep)
    }

    /// Changes the limit.
    pub(crate) fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// A chunk with unspecified contents. `keep` bytes below the limit are left to others.
    pub(crate) fn acquire(&self, layout: Layout, keep: usize) -> Result<NonNull<u8>, AllocError> {
        self.charged(layout.size(), keep, || self.source.acquire(layout))
    }

    /// A chunk of zeros. `keep` bytes below the limit are left to others.
    pub(crate) fn acquire_zeroed(&self, layout: Layout, keep: usize) -> Result<NonNull<u8>, AllocError> {
        self.charged(layout.size(), keep, || self.source.acquire_zeroed(layout))
    }

    /// A chunk of zeros none of which counts as held: whoever uses a part of it [charges](Self::charge) that. `None`: the source
    /// has no address space to spare for it.
    pub(crate) fn acquire_sparse(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.source.acquire_sparse(layout)
    }

    /// A chunk of the first of these layouts that the source has one for. Only `requested` of its bytes count as held: the
    /// rest is room to grow into. `keep` bytes below the limit are left to others.
    pub(crate) fn acquire_roomy(
        &self,
        layouts: [Layout; 2],
        requested: usize,
        keep: usize,
        zeroed: bool,
    ) -> Result<(NonNull<u8>, Layout), AllocError> {
        let acquire = |layout: Layout| {
            let chunk = if zeroed { self.source.acquire_zeroed(layout) } else { self.source.acquire(layout) };
            chunk.map(|chunk| (chunk, layout))
        };
        self.charged(requested, keep, || layouts.into_iter().find_map(acquire))
    }

    fn charged<C>(&self, requested: usize, keep: usize, acquire: impl FnOnce() -> Option<C>) -> Result<C, AllocError> {
        self.charge(requested, keep)?;
        let chunk = acquire();
        chunk.ok_or_else(|| {
            self.held.fetch_sub(requested, Ordering::Relaxed);
            AllocError::OutOfMemory { requested }
        })
    }

    /// Counts bytes as held: of a chunk that is about to be had, or of a part that was reserved
    /// or discarded and is about to be used.
    pub(crate) fn charge(&self, requested: usize, keep: usize) -> Result<(), AllocError> {
        let limit = self.limit.load(Ordering::Relaxed);
        let charge = |held: usize| held.checked_add(requested).filter(|&sum| sum <= limit.saturating_sub(keep));
        // Relaxed: the count orders nothing.
        match self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge) {
            Ok(_) => Ok(()),
            // What is left to movers is not there for others.
            Err(held) => Err(AllocError::MemoryLimit { limit, used: held + keep, requested, pinned: 0 }),
        }
    }

    /// Gives pages of a chunk back, which stays the caller's; they read as zero afterwards and are not counted as held.
    /// `false`: the source cannot.
    ///
    /// # Safety
    ///
    /// The range consists of [pages](Self::page_bytes) of one chunk of this supply, and nobody needs its contents.
    pub(crate) unsafe fn discard(&self, start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.discard_charged(start, bytes, bytes) }
    }

    /// As [`discard`](Self::discard), for a part of a chunk, of whose bytes `charged` count as held.
    ///
    /// # Safety
    ///
    /// The range lies in a chunk of this supply, and nobody needs its contents.
    pub(crate) unsafe fn discard_charged(&self, start: NonNull<u8>, bytes: usize, charged: usize) -> bool {
        // SAFETY: the caller's promise is the source's condition.
        let discarded = unsafe { self.source.discard(start, bytes) };
        if discarded {
            self.held.fetch_sub(charged, Ordering::Relaxed);
        } else {
            self.keeps_pages.store(true, Ordering::Relaxed);
        }
        discarded
    }

    /// Whether the source is known to take no pages of a chunk back: then room to grow into is not free.
    pub(crate) fn keeps_pages(&self) -> bool {
        self.keeps_pages.load(Ordering::Relaxed)
    }

    /// Bytes of the pages that the source gives back.
    pub(crate) fn page_bytes(&self) -> usize {
        self.source.page_bytes()
    }

    /// Counts what was discarded as held again, whatever the limit: it is about to be released.
    pub(crate) fn recharge(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives a chunk back to the source.
    ///
    /// # Safety
    ///
    /// The chunk came from this supply with this layout, and nobody uses it.
    pub(crate) unsafe fn release(&self, chunk: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.release_charged(chunk, layout, layout.size()) }
    }

    /// As [`release`](Self::release), for a chunk of whose bytes `charged` count as held.
    ///
    /// # Safety
    ///
    /// As for [`release`](Self::release).
    pub(crate) unsafe fn release_charged(&self, chunk: NonNull<u8>, layout: Layout, charged: usize) {
        // SAFETY: the caller's promise is the source's condition.
        unsafe { self.source.release(chunk, layout) };
        self.held.fetch_sub(charged, Ordering::Relaxed);
    }
}

impl fmt::Debug for Supply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Supply({} of at most {} bytes)", self.held(), self.limit.load(Ordering::Relaxed))
    }
}

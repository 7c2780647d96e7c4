//! Reading without a shared write: epoch guards over `Versioned` blocks.

use crate::engine::Core;
use crate::engine::lease::with_shard;
use crate::error::AccessError;
use crate::frozen::Frozen;
use crate::handle::Versioned;
use crate::primitive::sync::atomic::Ordering;
use crate::types::Stored;
use crossbeam_epoch::Guard;
use std::fmt;
use std::mem::ManuallyDrop;

/// A look at the `Versioned` blocks of a shuffler. Made by [`Shuffler::reader`](crate::Shuffler::reader).
///
/// While it lives, what its `get` returned stays readable and unchanged, and memory that such blocks leave is kept. So it
/// should not be kept long; [`repin`](Self::repin) lets go of what was kept so far.
#[must_use = "a reader that is dropped at once sees nothing"]
pub struct Reader<'a> {
    core: &'a Core,
    guard: ManuallyDrop<Guard>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(core: &'a Core) -> Self {
        Self { core, guard: ManuallyDrop::new(with_shard(core, |shard, _, _| shard.epoch(&core.collector).pin())) }
    }

    /// The value of a block, readable until this reader is dropped.
    ///
    /// # Errors
    ///
    /// `Stale` after a free, `Invalid` for a handle that this shuffler never gave out.
    #[inline]
    pub fn get<T>(&self, handle: Versioned<T>) -> Result<&T, AccessError>
    where
        T: ?Sized + Stored + Frozen + Send + Sync,
    {
        let raw = handle.raw();
        let entry = self.core.entry(raw)?;
        // Version, word, version: the word was the life's own if the life had begun before and had not ended after. Acquire,
        // both loads of the version: they pair with the release in `begin_life`.
        if entry.version() != raw.version() {
            return Err(Core::outdated(raw, entry));
        }
        let word = entry.word();
        if !word.is_open() || entry.version() != raw.version() {
            return Err(AccessError::Stale);
        }
        // SAFETY: the block was linked while this reader's epoch was pinned, so neither it nor its arena goes before the
        // reader does; a `Versioned<T>` is only made for a block of `T`, which is frozen, so copying it is no race.
        Ok(unsafe { self.core.value_at::<T>(word.address()).as_ref() })
    }

    /// Lets go of everything that was kept for this reader so far, and starts anew.
    pub fn repin(&mut self) {
        // The epoch advances once past a reader that is pinned, and garbage waits for two advances.
        for _ in 0..3 {
            self.guard.repin();
            self.guard.flush();
        }
        self.tell();
    }

    /// Tells the compactor that something which waits may be ready. (If this look comes too early to see what waits, the
    /// compactor's own looks, a few after each ring, find the reader gone.)
    fn tell(&self) {
        if self.core.deferred.waiting.load(Ordering::Relaxed) > 0 {
            self.core.notify();
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        // SAFETY: not used after this, and dropped nowhere else.
        unsafe { ManuallyDrop::drop(&mut self.guard) };
        self.tell();
    }
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

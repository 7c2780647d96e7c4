//! Reading without a shared write: epoch guards over `Versioned` blocks.

use crate::engine::Core;
use crate::engine::lease::with_shard;
use crate::error::AccessError;
use crate::frozen::Frozen;
use crate::handle::{RawHandle, Versioned};
use crate::seats::Seat;
use crate::table::{Location, PageDirectory};
use crate::types::Stored;
use crossbeam_epoch::Guard;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;

/// A look at the `Versioned` blocks of a shuffler. Made by [`Shuffler::reader`](crate::Shuffler::reader).
///
/// While it lives, what its `get` returned stays readable and unchanged, and memory that such blocks leave is kept. So it
/// should not be kept long; [`repin`](Self::repin) lets go of what was kept so far.
#[must_use = "a reader that is dropped at once sees nothing"]
pub struct Reader<'a> {
    core: &'a Core,
    /// As it was when the reader was made: so that one `get` after another finds it in registers.
    directory: PageDirectory<'a>,
    guard: ManuallyDrop<Guard>,
    seat: &'a Seat,
}

impl<'a> Reader<'a> {
    // Inline, so that a reader whose address nobody is given lies in registers.
    #[inline]
    pub(crate) fn new(core: &'a Core) -> Self {
        let (guard, seat) = Self::enter(core);
        Self { core, directory: core.table.directory(), guard: ManuallyDrop::new(guard), seat }
    }

    fn enter(core: &'a Core) -> (Guard, &'a Seat) {
        with_shard(core, |shard, _, _| {
            let (guard, seat) = shard.epoch(&core.collector, &core.seats).enter();
            // SAFETY: the core keeps every seat for as long as it is there.
            (guard, unsafe { &*Arc::as_ptr(seat) })
        })
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
        let entry = self.directory.entry(raw.slot());
        let location = match entry.and_then(|entry| entry.read(raw.version())) {
            Some(location) => location,
            None => Self::find_anew(self.core, raw)?,
        };
        // SAFETY: the block was linked while this reader's epoch was pinned, so neither it nor its arena goes before the
        // reader does; a `Versioned<T>` is only made for a block of `T`, which is frozen, so copying it is no race.
        Ok(unsafe { self.core.value_at::<T>(location.address()).as_ref() })
    }

    /// Looks again, since the table may have grown since the reader was made, or says why there is nothing to see.
    #[cold]
    #[inline(never)]
    fn find_anew(core: &Core, raw: RawHandle) -> Result<Location, AccessError> {
        let entry = core.entry(raw)?;
        entry.read(raw.version()).ok_or_else(|| Core::outdated(raw, entry))
    }

    /// Lets go of everything that was kept for this reader so far, and starts anew.
    pub fn repin(&mut self) {
        // The epoch advances once past a reader that is pinned, and garbage waits for two advances.
        for _ in 0..3 {
            self.guard.repin();
            self.guard.flush();
        }
        self.seat.renew();
        self.directory = self.core.table.directory();
        self.tell();
    }

    /// Tells the compactor that something which waits may be ready. (If this look comes too early to see what waits, the
    /// compactor's own looks, a few after each ring, find the reader gone.)
    #[inline]
    fn tell(&self) {
        if self.core.deferred.waiting() > 0 {
            self.core.notify();
        }
    }
}

impl Drop for Reader<'_> {
    // Inline, so that a reader whose address nobody else is given need not lie in memory.
    #[inline]
    fn drop(&mut self) {
        // SAFETY: not used after this, and dropped nowhere else.
        unsafe { ManuallyDrop::drop(&mut self.guard) };
        if self.seat.leave() {
            self.core.seats.give_back(self.seat);
        }
        self.tell();
    }
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

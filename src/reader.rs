//! Reading without a shared write: epoch guards over `Versioned` blocks.

use crate::engine::Core;
use crate::engine::lease::with_shard;
use crate::error::AccessError;
use crate::frozen::Frozen;
use crate::handle::{RawHandle, Versioned};
use crate::seats::Seat;
use crate::table::{Entry, PageDirectory};
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
    pub(crate) fn new(core: &'a Core) -> Self {
        with_shard(core, |shard, _, _| {
            let (guard, seat) = shard.epoch(&core.collector, &core.seats).enter();
            // SAFETY: the core keeps every seat for as long as it is there.
            let seat = unsafe { &*Arc::as_ptr(seat) };
            Self { core, directory: core.table.directory(), guard: ManuallyDrop::new(guard), seat }
        })
    }

    /// The entry that a handle names.
    #[inline]
    fn entry(&self, raw: RawHandle) -> Result<&'a Entry, AccessError> {
        if !raw.version().is_multiple_of(2)
            && let Some(entry) = self.directory.entry(raw.slot())
        {
            return Ok(entry);
        }
        Self::entry_anew(self.core, raw)
    }

    /// As [`entry`](Self::entry): the table may have grown since the reader was made.
    #[cold]
    #[inline(never)]
    fn entry_anew(core: &'a Core, raw: RawHandle) -> Result<&'a Entry, AccessError> {
        core.entry(raw)
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
        let entry = self.entry(raw)?;
        let Some(address) = entry.read(raw.version()) else {
            return Err(Core::outdated(raw, entry));
        };
        // SAFETY: the block was linked while this reader's epoch was pinned, so neither it nor its arena goes before the
        // reader does; a `Versioned<T>` is only made for a block of `T`, which is frozen, so copying it is no race.
        Ok(unsafe { self.core.value_at::<T>(address).as_ref() })
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
        if self.core.is_waiting() {
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

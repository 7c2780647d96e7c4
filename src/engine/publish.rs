//! Putting a new block in the place of an old one, under the same handle: `Versioned` blocks only.
//!
//! The new block is made first. The old one is then held exclusively, which keeps movers, other publishers and `take` away
//! but not readers; one exchange of the word makes the new block the current one. The old block's value waits for the
//! readers that can still see it.
//!
//! A value has the length of the one before it, so the exchange gives the hold back as well. A slice may have another: then
//! the hold stays until the entry's extent is the new block's, or the next to replace it could be done before, and this
//! one's extent would stand beside that one's word. Readers go by neither: a block's own header or descriptor tells its
//! length.

use super::Core;
use super::allocate::{Building, Life};
use super::settle::{End, Record};
use crate::error::{AccessError, AllocError, Rejected};
use crate::handle::RawHandle;
use crate::table::{Entry, Hold};
use crate::types::{StoredLayout, TypeInfo};
use std::ptr::{self, NonNull};

/// The exclusive hold of who puts a new block in the place of an old one, given back when dropped.
pub(super) struct Held<'a> {
    pub(super) core: &'a Core,
    pub(super) entry: &'a Entry,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.core.give_back(self.entry, Hold::Exclusive);
    }
}

impl Core {
    /// Room for the block that is to be in the place of a handle's, as a rule in the arena that this thread fills.
    #[inline]
    fn successor(
        &self,
        raw: RawHandle,
        info: &'static TypeInfo,
        payload: usize,
        align: usize,
    ) -> Result<Building<'_>, AccessError> {
        // Asked first, so that a stale handle costs no memory.
        let entry = self.entry(raw)?;
        if entry.version() != raw.version() {
            return Err(Self::outdated(raw, entry));
        }
        let life = Life::Of(raw.slot());
        let is_common = self.pool.is_movable(info.ground().headers, payload, align) && !self.is_behind();
        if is_common && let Ok(Some(building)) = self.reserve_own(life, info, payload, align) {
            return Ok(building);
        }
        self.reserve_for(life, info, payload, align, false).map_err(|cause| match cause {
            AllocError::ReadersBehind { waiting, limit, thread } => {
                AccessError::ReadersBehind { waiting, limit, thread }
            }
            _ => AccessError::OutOfMemory,
        })
    }

    /// Swaps the finished block in. `Err`: the old one was freed meanwhile; the new one is the caller's to end.
    fn swap_in(&self, held: Held<'_>, old: usize, new: usize) -> Result<(), ()> {
        let entry = held.entry;
        // The exchange gives the hold back, whether it swaps or not.
        std::mem::forget(held);
        match entry.replace(new) {
            Ok(wake) => {
                if wake {
                    self.wake(entry);
                }
                self.put_off(old);
                Ok(())
            }
            Err(left) => {
                self.leave(entry, left);
                Err(())
            }
        }
    }

    /// Leaves a block that was replaced to the readers who can still see it.
    fn put_off(&self, replaced: usize) {
        self.defer(Record::Settle { address: replaced, after_claims: false, end: End::Replaced });
        self.keep_up();
    }

    /// Replaces the value of a `Versioned` block.
    pub(crate) fn publish<T: Sized + StoredLayout>(
        &self,
        raw: RawHandle,
        value: T,
    ) -> Result<(), Rejected<T, AccessError>> {
        let building = match self.successor(raw, T::VERSIONED, size_of::<T>(), align_of::<T>()) {
            Ok(building) => building,
            Err(cause) => return Err(Rejected::new(value, cause)),
        };
        let (entry, old) = match self.hold(raw, Hold::Exclusive) {
            Ok(held) => held,
            Err(cause) => return Err(Rejected::new(value, cause)),
        };
        let held = Held { core: self, entry };
        // SAFETY: the room was made for a `T`, and is the building block's own.
        unsafe { building.payload().cast::<T>().write(value) };
        let new = building.finish();
        self.swap_in(held, old, new).map_err(|()| {
            // SAFETY: the block was not swapped in, so nobody else knows it; the value is moved out and not dropped there.
            let value = unsafe { ptr::with_exposed_provenance::<T>(new).read() };
            self.settle(new, End::Unused);
            Rejected::new(value, AccessError::Stale)
        })
    }

    /// Replaces the value of a `Versioned` block by what `make` makes of it.
    pub(crate) fn update<T: Sized + StoredLayout>(
        &self,
        raw: RawHandle,
        make: impl FnOnce(&T) -> T,
    ) -> Result<(), AccessError> {
        let building = self.successor(raw, T::VERSIONED, size_of::<T>(), align_of::<T>())?;
        let (entry, old) = self.hold(raw, Hold::Exclusive)?;
        let held = Held { core: self, entry };
        // SAFETY: the hold keeps the block, which is a `T`: the handle is a `Versioned<T>`.
        let value = make(unsafe { &*ptr::with_exposed_provenance::<T>(old) });
        // SAFETY: the room was made for a `T`, and is the building block's own.
        unsafe { building.payload().cast::<T>().write(value) };
        let new = building.finish();
        self.swap_in(held, old, new).map_err(|()| {
            // Nobody else knows the block, so its value is dropped here.
            self.settle(new, End::Replaced);
            AccessError::Stale
        })
    }

    /// Replaces the values of a `Versioned` slice, whose type `info` tells, by copies of as many others as there are.
    pub(crate) fn publish_copy<T: Copy>(
        &self,
        raw: RawHandle,
        info: &'static TypeInfo,
        values: &[T],
    ) -> Result<(), AccessError> {
        let payload = size_of_val(values);
        let building = self.successor(raw, info, payload, align_of::<T>())?;
        // Before the hold, so that it is short however much there is to copy.
        // SAFETY: the room was made for that many values, and is the building block's own.
        unsafe { building.payload().cast::<T>().copy_from_nonoverlapping(NonNull::from(values).cast(), values.len()) };
        let (entry, old) = self.hold(raw, Hold::Exclusive)?;
        let held = Held { core: self, entry };
        // SAFETY: the hold keeps the block, and so its arena.
        let before = unsafe { self.arena_of(old).payload_bytes(old) };
        let extent = building.extent();
        let new = building.finish();
        if !entry.relink(new, extent) {
            self.settle(new, End::Unused);
            return Err(AccessError::Stale);
        }
        self.count_another_length(before, payload);
        // If the block was freed meanwhile, this leaves the new one to the readers as well.
        drop(held);
        self.put_off(old);
        Ok(())
    }
}

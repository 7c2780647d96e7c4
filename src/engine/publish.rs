//! Putting a new block in the place of an old one, under the same handle: `Versioned` blocks only.
//!
//! The new block is made first. The old one is then held exclusively, which keeps movers, other publishers and `take` away
//! but not readers; one exchange of the word makes the new block the current one. The old block's value waits for the
//! readers that can still see it.

use super::Core;
use super::allocate::{Building, Life};
use super::settle::{End, Record};
use crate::error::{AccessError, AllocError, Rejected};
use crate::handle::RawHandle;
use crate::table::{Entry, Hold};
use crate::types::StoredLayout;
use std::ptr;

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
    fn successor<T: StoredLayout>(&self, raw: RawHandle) -> Result<Building<'_>, AccessError> {
        // Asked first, so that a stale handle costs no memory.
        let entry = self.entry(raw)?;
        if entry.version() != raw.version() {
            return Err(Self::outdated(raw, entry));
        }
        let (life, info) = (Life::Of(raw.slot()), T::VERSIONED);
        let is_common =
            self.pool.is_movable(info.ground().headers, size_of::<T>(), align_of::<T>()) && !self.is_behind();
        if is_common && let Ok(Some(building)) = self.reserve_own(life, info, size_of::<T>(), align_of::<T>()) {
            return Ok(building);
        }
        self.reserve_for(life, info, size_of::<T>(), align_of::<T>(), false).map_err(|cause| match cause {
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
                self.defer(Record::Settle { address: old, after_claims: false, end: End::Replaced });
                self.keep_up();
                Ok(())
            }
            Err(left) => {
                self.leave(entry, left);
                Err(())
            }
        }
    }

    /// Replaces the value of a `Versioned` block.
    pub(crate) fn publish<T: Sized + StoredLayout>(
        &self,
        raw: RawHandle,
        value: T,
    ) -> Result<(), Rejected<T, AccessError>> {
        let building = match self.successor::<T>(raw) {
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
        let building = self.successor::<T>(raw)?;
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
}

//! Making a slice longer or shorter under its handle.
//!
//! Everything that changes a length happens under the exclusive hold, which is kept to the end: nobody else looks at the
//! bytes, no mover begins, and a free that comes meanwhile leaves the block to the give-back, which drops what is left of
//! it. What others may read at that time is three atomics, each whole at any moment:
//!
//! * the *header*, by walkers and by movers that have not begun: it becomes shorter only, and a filler stands behind the
//!   new end before the header says so (see [`AtomicHeader::resize`]);
//! * the *extent* and the *word*, by queries: see [`Entry::relink`] for the order in which they change;
//! * a large block's size, in its descriptor.
//!
//! A block in an arena never outgrows the units of its first allocation in place: a mover makes room for its copy by the
//! header that it read before `MOVING`.

use super::Core;
use super::allocate::{Building, Life, Refusals, payload_at};
use super::lease::with_shard;
use super::publish::Held;
use super::settle::End;
use crate::arena::shard::add;
use crate::arena::wipe::wipe;
use crate::arena::{ArenaRef, Headers, Use};
use crate::error::{AccessError, AllocError, ResizeError};
use crate::handle::RawHandle;
use crate::panics::{Panic, keep_first};
use crate::table::{Entry, Hold, LARGE_EXTENT};
use crate::types::TypeInfo;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::{mem, ptr, thread};

/// A block that the caller holds exclusively, and what became of its destructors.
struct Subject<'a> {
    held: Held<'a>,
    info: &'static TypeInfo,
    arena: ArenaRef,
    address: usize,
    payload: usize,
    first_panic: Option<Panic>,
}

impl Core {
    /// Gives the slice of a handle `payload` bytes.
    pub(crate) fn resize(&self, raw: RawHandle, info: &'static TypeInfo, payload: usize) -> Result<(), ResizeError> {
        // No address space holds more, and sums with a header do not wrap below.
        if payload > isize::MAX as usize {
            return Err(AllocError::LayoutOverflow.into());
        }
        if info.is_empty() {
            let entry = self.entry(raw)?;
            return if entry.version() == raw.version() { Ok(()) } else { Err(Self::outdated(raw, entry).into()) };
        }
        // Memory is looked for without the hold: that may take a while. So the block may be another when it is held again, and
        // is looked at afresh.
        let is_large = !self.pool.is_movable(Headers::of(info.align), payload, info.align);
        let mut refusals = Refusals::new(is_large.then_some(payload));
        let (mut successor, mut no_memory) = (None, false);
        loop {
            let mut subject = self.subject(raw, info)?;
            let wants_arena = subject.is_large() && !is_large;
            if payload <= subject.room() && (no_memory || !wants_arena) {
                match subject.resize_in_place(payload) {
                    Err(cause) => {
                        drop(subject);
                        // At the limit a bounded step is worth a try, and so is to ask for room.
                        if !self.make_room(cause, &mut refusals) {
                            return Err(self.with_pins(cause).into());
                        }
                        continue;
                    }
                    Ok(()) => {
                        subject.conclude(None);
                        return Ok(());
                    }
                }
            }
            if let Some(building) = successor.take() {
                return subject.replace_by(building, payload);
            }
            let room = subject.room();
            drop(subject);
            // An arena's block is zeroed behind the old contents only; a chunk of its own may be zero already.
            match self.reserve_for(Life::Of(raw.slot()), info, payload, info.align, is_large) {
                Ok(building) => successor = Some(building),
                // To be short in a chunk of its own is better than to be as long as before.
                Err(_) if payload <= room => no_memory = true,
                Err(cause) => return Err(cause.into()),
            }
        }
    }

    /// Counts that a live block of `from` payload bytes has `to` now.
    pub(super) fn count_another_length(&self, from: usize, to: usize) {
        with_shard(self, |_, counts, _| {
            if to > from {
                add(&counts.allocated_bytes, (to - from) as u64);
            } else {
                add(&counts.freed_bytes, (from - to) as u64);
            }
        });
    }

    fn subject(&self, raw: RawHandle, info: &'static TypeInfo) -> Result<Subject<'_>, AccessError> {
        let (entry, address) = self.hold(raw, Hold::Exclusive)?;
        let held = Held { core: self, entry };
        let arena = self.arena_of(address);
        // SAFETY: the hold keeps the block, and so its arena.
        let payload = unsafe { arena.payload_bytes(address) };
        Ok(Subject { held, info, arena, address, payload, first_panic: None })
    }
}

impl<'a> Subject<'a> {
    fn core(&self) -> &'a Core {
        self.held.core
    }

    fn entry(&self) -> &'a Entry {
        self.held.entry
    }

    fn is_large(&self) -> bool {
        self.arena.usage() == Use::Large
    }

    /// The most payload bytes that the block can have where it is.
    fn room(&self) -> usize {
        if self.is_large() {
            return self.arena.chunk().1.size();
        }
        let headers = self.arena.ground().headers;
        // A header tells of units of 8 bytes; in a column a block may have a few more.
        headers.room(self.payload) - headers.lead()
    }

    /// Gives the block another length where it is. On an error nothing has changed.
    fn resize_in_place(&mut self, payload: usize) -> Result<(), AllocError> {
        let Self { arena, address, .. } = *self;
        let core = self.core();
        if payload < self.payload {
            self.drop_from(payload);
        }
        if !self.is_large() {
            if payload > self.payload {
                // SAFETY: within the units of the block, behind its contents.
                unsafe { payload_at(address).add(self.payload).write_bytes(0, payload - self.payload) };
            }
            // SAFETY: the hold keeps the block, whose header it is.
            let header = unsafe { arena.header_of(address) };
            if core.config.scrub && payload < self.payload {
                // SAFETY: behind the block's new end, where nothing is any more, and no filler yet.
                unsafe { wipe(payload_at(address).add(payload), self.payload - payload) };
            }
            let headers = arena.ground().headers;
            let (before, after) = (headers.room(self.payload), headers.room(payload));
            let rest = before - after;
            // SAFETY: inside the block and behind its new end, where nothing is any more.
            let tail = || unsafe { arena.header_of(address + after) };
            header.resize(payload, rest, tail);
            if rest > 0 && !with_shard(core, |shard, _, _| shard.ground(arena.ground()).bury(arena, rest)) {
                core.subtract(arena, rest);
            }
            self.entry().set_extent(header.load().extent());
        } else if payload >= self.payload {
            // SAFETY: the hold is exclusive, and the caller looked at the room.
            unsafe { core.pool.grow_large(&core.supply, arena, payload) }?;
        } else {
            // SAFETY: the hold is exclusive, and the elements behind the new end are dropped.
            unsafe { core.pool.shrink_large(&core.supply, arena, payload) };
        }
        self.count(payload);
        self.payload = payload;
        Ok(())
    }

    /// Drops the elements from `payload` bytes on, all of them, whatever their destructors do.
    fn drop_from(&mut self, payload: usize) {
        let first = ptr::with_exposed_provenance_mut::<u8>(self.address + payload);
        let bytes = self.payload - payload;
        // SAFETY: so many bytes of live elements, held exclusively; the length that is set next leaves them out for good.
        let dropped = catch_unwind(AssertUnwindSafe(|| unsafe { self.info.drop_payload(first, bytes) }));
        keep_first(&mut self.first_panic, dropped);
    }

    fn count(&self, payload: usize) {
        self.core().count_another_length(self.payload, payload);
    }

    /// Puts a new block of `payload` bytes in the place of the old one, with as much of the contents as fits.
    fn replace_by(mut self, building: Building<'_>, payload: usize) -> Result<(), ResizeError> {
        if payload < self.payload {
            // In its own chunk first: a free that comes now finds the length that is left.
            self.resize_in_place(payload)?;
        }
        let (core, entry, kept) = (self.core(), self.entry(), self.payload);
        let (to, extent) = (building.payload(), building.extent());
        let becomes_large = extent & LARGE_EXTENT != 0;
        // SAFETY: the old block is held exclusively and has so many bytes; the new one is the caller's own and no shorter.
        unsafe { to.copy_from_nonoverlapping(payload_at(self.address), kept) };
        if !becomes_large {
            // SAFETY: within the new block.
            unsafe { to.add(kept).write_bytes(0, payload - kept) };
        }
        let new = building.finish();
        if !entry.relink(new, extent) {
            core.settle(new, End::Unused);
            // Made shorter, and then freed; or freed before it was longer.
            let outcome = if payload > kept { Err(AccessError::Stale.into()) } else { Ok(()) };
            self.conclude(None);
            return outcome;
        }
        self.count(payload);
        let old = self.address;
        self.conclude(Some(old));
        Ok(())
    }

    /// Gives the hold back, ends the block that was replaced, and lets the first panic of a destructor go on.
    fn conclude(self, replaced: Option<usize>) {
        let Self { held, mut first_panic, .. } = self;
        let core = held.core;
        // If the block was freed meanwhile, this settles it.
        keep_first(&mut first_panic, catch_unwind(AssertUnwindSafe(|| drop(held))));
        if let Some(address) = replaced {
            core.settle(address, End::Unused);
        }
        match first_panic {
            Some(panic) if !thread::panicking() => resume_unwind(panic),
            // What is not told must not be dropped either, where it could panic again.
            panic => mem::forget(panic),
        }
    }
}

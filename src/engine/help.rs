//! Finishing a move that a holder-to-be meets, so that nobody ever waits for a mover.

use super::Core;
use super::allocate::payload_at;
use super::lease::with_shard;
use super::settle::End;
use crate::arena::shard::add;
use crate::arena::wipe::wipe;
use crate::arena::{ArenaRef, AtomicHeader, Extent, Ground, HEADER_BYTES, Header, Outcome, State, Use};
use crate::table::{Entry, Left, Memory};
use crate::types::registry;
use std::ptr;

/// A counted claim on an arena, given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    core: &'a Core,
    pub(crate) arena: ArenaRef,
}

impl<'a> Claim<'a> {
    /// Claims an arena, while there is something to claim.
    pub(crate) fn new(core: &'a Core, arena: ArenaRef) -> Option<Self> {
        // Only then: a `Claim` that was not taken would be given back when dropped.
        arena.account.claim().then(|| Self { core, arena })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.arena.account.unclaim() == Outcome::Emptied {
            self.core.retire(self.arena);
        } else if self.core.deferred.waits_for_movers() {
            // It may have waited for this claim.
            self.core.notify();
        }
    }
}

/// A block's copy that nobody else knows yet.
#[derive(Debug)]
pub(crate) struct Copied {
    address: usize,
    header: Header,
    /// Where it lies if the thread's own arena had no room.
    extent: Option<Extent>,
}

/// Room for a copy: of its payload, and of its header.
struct Room {
    address: usize,
    at: *const AtomicHeader,
    extent: Option<Extent>,
}

/// Copies a block and gives the copy a header, at `at`.
///
/// # Safety
///
/// The source is a movable block with this header under a claim of the caller; nobody writes it: `MOVING` is set, or the
/// copy will come to nothing. The destination has room for it, and is the caller's own.
pub(crate) unsafe fn copy_block(source: usize, destination: usize, at: *const AtomicHeader, header: Header) {
    let from = ptr::with_exposed_provenance::<u8>(source);
    let to = ptr::with_exposed_provenance_mut::<u8>(destination);
    // SAFETY: the caller's promise.
    unsafe { ptr::copy_nonoverlapping(from, to, header.payload()) };
    #[cfg(feature = "test-hooks")]
    // SAFETY: the destination is the caller's own.
    unsafe {
        crate::hooks::copied(to, header.payload());
    }
    // SAFETY: as above; the header's place belongs to the destination.
    unsafe { &*at }.store(header.with_state(State::Live));
}

impl Memory for Core {
    type Claim<'a> = Claim<'a>;
    type Copy = Copied;

    fn claim(&self, address: usize) -> Option<Claim<'_>> {
        let claim = Claim::new(self, self.pool.map.find(address)?)?;
        // The descriptor may have gone on to other memory before it was claimed; now it stays.
        claim.arena.covers(address).then_some(claim)
    }

    #[cold]
    fn copy(&self, claim: &Claim<'_>, address: usize) -> Option<Copied> {
        // SAFETY: under the claim, the word named the block, so a header lies there and stays.
        let header = unsafe { claim.arena.header_of(address) }.load();
        let (payload, align) = (header.payload(), registry().info(header.tag()).align);
        let ground = claim.arena.ground();
        let Room { address: destination, at, extent } = self.room_for_help(ground, payload, align)?;
        // SAFETY: the word showed MOVING under the claim: until a commit or a free nobody writes the block, and after one
        // this copy's commit fails. The room was made for this length, which a block never outgrows.
        unsafe { copy_block(address, destination, at, header) };
        #[cfg(feature = "test-hooks")]
        crate::hooks::HELPER.pass();
        Some(Copied { address: destination, header, extent })
    }

    fn address(&self, copy: &Copied) -> usize {
        copy.address
    }

    fn won(&self, claim: Claim<'_>, source: usize, copy: Copied) {
        self.retire_source(&claim, source, copy.header);
        with_shard(self, |_, counts, _| {
            add(&counts.helped, 1);
            add(&counts.moves, 1);
            add(&counts.moved_bytes, copy.header.payload() as u64);
        });
        if let Some(extent) = copy.extent {
            // What of the extent is not the block is dead from the first.
            let rest = self.pool.extent_bytes() - extent.arena.footprint(copy.header);
            if rest > 0 {
                self.subtract(extent.arena, rest);
            }
            let ground = extent.arena.ground();
            if let Ok(next) = self.pool.take_extent(&self.supply, ground, self.now()) {
                self.keep_extent(ground, next);
            }
        }
    }

    fn lost(&self, claim: Claim<'_>, copy: Copied) {
        drop(claim);
        // SAFETY: the copy is this thread's own, and nobody else knows it.
        unsafe { self.scrub(self.arena_of(copy.address), copy.address, copy.header.payload()) };
        if let Some(extent) = copy.extent {
            self.pool.reset_extent(extent);
            self.keep_extent(extent.arena.ground(), extent);
            return;
        }
        self.bury_copy(copy.address, copy.header);
    }

    fn strayed(&self, entry: &Entry, left: Left) {
        self.leave_later(entry, left);
    }
}

impl Core {
    /// After a commit: the source is nobody's, or its last readers'.
    pub(crate) fn retire_source(&self, claim: &Claim<'_>, source: usize, header: Header) {
        let versioned = claim.arena.ground().versioned;
        // SAFETY: the commit took the block away from here and made this thread the one that retires its source.
        let at = unsafe { claim.arena.header_of(source) };
        // (A `Versioned` arena is wiped when it is empty and the readers have gone on.)
        if self.config.scrub && !versioned {
            if !claim.arena.account.is_sole_claim() {
                // Others may be copying it still.
                at.store(header.with_state(State::Dying));
                self.settle_after_claims(source, End::Moved);
                return;
            }
            // SAFETY: the word named the block no more when nobody else had a claim, and who claims later sees that: so nobody
            // copies it. Its bytes are counted.
            unsafe { self.wipe_block(claim.arena, source, header.payload()) };
        }
        at.store(header.with_state(if versioned { State::Dying } else { State::Dead }));
        // The claim keeps the account from being emptied here. A `Versioned` arena waits for the readers when it is empty.
        let footprint = claim.arena.footprint(header);
        let (outcome, _) = claim.arena.account.subtract(footprint);
        debug_assert_eq!(outcome, Outcome::Remains);
        // What is dead among extents is counted nowhere: see `subtract`.
        if claim.arena.usage() == Use::Bumped {
            self.ring(footprint);
        }
    }

    /// Wipes a block whose bytes nobody needs any more, and which are not given back yet, if the shuffler scrubs.
    ///
    /// # Safety
    ///
    /// The arena holds a block of so many payload bytes at this address, and nobody else looks at its payload.
    #[inline]
    pub(crate) unsafe fn scrub(&self, arena: ArenaRef, address: usize, payload: usize) {
        if self.config.scrub {
            // SAFETY: the caller's promise.
            unsafe { self.wipe_block(arena, address, payload) };
        }
    }

    /// # Safety
    ///
    /// As for [`scrub`](Self::scrub).
    #[cold]
    #[inline(never)]
    unsafe fn wipe_block(&self, arena: ArenaRef, address: usize, payload: usize) {
        if arena.usage() == Use::Large {
            // SAFETY: the block is alone in its chunk.
            unsafe { self.pool.wipe_chunk(&self.supply, arena, payload) };
        } else {
            // SAFETY: the caller's promise.
            unsafe { wipe(payload_at(address), payload) };
        }
    }

    fn bury_copy(&self, address: usize, header: Header) {
        let arena = self.arena_of(address);
        let footprint = arena.footprint(header);
        // SAFETY: the copy is this thread's own, and nobody else knows it.
        unsafe { arena.header_of(address) }.store(header.with_state(State::Dead));
        let own = with_shard(self, |shard, _, _| shard.ground(arena.ground()).bury(arena, footprint));
        if !own {
            self.subtract(arena, footprint);
        }
    }

    /// Room in the thread's own arena, in a new one, or in the extent that the shard keeps for this.
    fn room_for_help(&self, ground: Ground, payload: usize, align: usize) -> Option<Room> {
        loop {
            let own = with_shard(self, |shard, _, _| {
                let bump = shard.ground(ground);
                let address = bump.bump(ground.headers, payload, align)?;
                let at = bump.header_at(ground.headers, address);
                // Until the commit it is a block that is being made: if the arena is sealed meanwhile, its walkers skip it.
                let header = Header::filler(ground.headers.room(payload), State::Building);
                // SAFETY: the header's place was bumped just now for this shard.
                unsafe { &*at }.store(header);
                Some(Room { address, at, extent: None })
            });
            if own.is_some() {
                return own;
            }
            if self.refill(ground).is_err() {
                break;
            }
        }
        let kept = with_shard(self, |shard, _, _| shard.extents[ground.index()].take());
        let extent = match kept {
            Some(extent) => extent,
            None => self.pool.take_extent(&self.supply, ground, self.now()).ok()?,
        };
        Some(self.divide(extent, payload, align))
    }

    /// Room for a payload in an extent, with fillers before and after it.
    fn divide(&self, extent: Extent, payload: usize, align: usize) -> Room {
        let arena = extent.arena;
        let headers = arena.ground().headers;
        let address = (extent.base + headers.lead()).next_multiple_of(align.max(HEADER_BYTES));
        let block = address - headers.lead();
        let gaps = [(extent.base, block), (block + headers.room(payload), extent.base + self.pool.extent_bytes())];
        for (start, stop) in gaps.into_iter().filter(|(start, stop)| stop > start) {
            // SAFETY: within the extent, which is this thread's own, and outside the block.
            let filler = unsafe { arena.header_of(arena.payload_from(start)) };
            filler.store(Header::filler(stop - start, State::Dead));
        }
        Room { address, at: headers.at(arena.base(), address), extent: Some(extent) }
    }

    fn keep_extent(&self, ground: Ground, extent: Extent) {
        let surplus = with_shard(self, |shard, _, _| shard.extents[ground.index()].replace(extent));
        if let Some(surplus) = surplus {
            self.pool.put_extent(surplus);
        }
    }
}

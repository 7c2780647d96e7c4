//! How blocks are made: room in the thread's own arena, a slot from its own cache, and no shared write on the common path.

use super::Core;
use super::lease::{with_last_shard, with_shard};
use super::settle::End;
use crate::arena::large::LargeBlock;
use crate::arena::pool::Purpose;
use crate::arena::shard::{Counts, Filled, Private, add};
use crate::arena::{AtomicHeader, Ground, HEADER_BYTES, Header, Headers, Outcome, State};
use crate::builder::{Budget, Trigger};
use crate::compact::{Duty, policy};
use crate::error::AllocError;
use crate::handle::RawHandle;
use crate::primitive::sync::atomic::Ordering;
use crate::table::LARGE_EXTENT;
use crate::types::{MAX_ALIGN, TypeInfo};
use std::alloc::Layout;
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::time::Duration;

/// Room and a slot in the thread's own arena. Its header tells the slot and the extent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) payload: NonNull<u8>,
    header: Header,
}

/// A block that has room and a slot but no contents yet. Dropped, it never was.
#[derive(Debug)]
pub(crate) struct Building<'a> {
    core: &'a Core,
    at: *const AtomicHeader,
    header: Header,
    address: usize,
    extent: u32,
    life: Life,
}

/// Whether a block begins a life or goes on with one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// In a slot of its own.
    New,
    /// In the place of the block that is in this slot now.
    Of(u32),
}

/// What was tried against the refusals of one allocation.
#[derive(Debug)]
pub(super) struct Refusals {
    /// Payload bytes of a block that needs memory of its own.
    large: Option<usize>,
    steps: u32,
    calls: u32,
}

impl Refusals {
    pub(super) fn new(large: Option<usize>) -> Self {
        Self { large, steps: 0, calls: 0 }
    }
}

impl Building<'_> {
    /// Where the contents go.
    #[inline]
    pub(crate) fn payload(&self) -> NonNull<u8> {
        payload_at(self.address)
    }

    /// What the entry's extent is to be.
    pub(super) fn extent(&self) -> u32 {
        self.extent
    }

    /// Makes the block known. The contents are whole.
    #[inline]
    pub(crate) fn publish(self) -> RawHandle {
        let (core, slot, extent) = (self.core, self.header.slot(), self.extent);
        let address = self.finish();
        RawHandle::new(slot, core.table.known(slot).begin_life(address, extent))
    }

    /// As [`publish`](Self::publish), after user code that may have run for long: a walk that met the block in the making is
    /// told that it can be moved now.
    pub(crate) fn publish_late(self) -> RawHandle {
        let (core, arena) = (self.core, self.core.arena_of(self.address));
        let handle = self.publish();
        if arena.walk.unwatch() {
            core.notify();
        }
        handle
    }

    /// Makes the block whole, to be linked by the caller, and returns its address.
    #[inline]
    pub(super) fn finish(self) -> usize {
        let this = ManuallyDrop::new(self);
        // SAFETY: the header lies in the block's arena, or in its descriptor, and the block's bytes are counted.
        unsafe { &*this.at }.store(this.header.with_state(State::Live));
        this.address
    }
}

impl Drop for Building<'_> {
    fn drop(&mut self) {
        let end = if self.life == Life::New { End::Emptied } else { End::Unused };
        self.core.settle(self.address, end);
    }
}

impl TypeInfo {
    #[inline]
    pub(crate) fn ground(&self) -> Ground {
        Ground::of(self.is_versioned(), self.align)
    }
}

impl Core {
    /// Room and a slot in the arena that this thread fills, if that is all there ready. The header is LIVE already: the arena
    /// is not sealed, so nobody walks it before the caller has written the contents and links the block.
    #[inline(always)]
    pub(crate) fn place(&self, info: &'static TypeInfo, payload: usize, align: usize) -> Option<Placed> {
        // The caller knows the alignment as a constant.
        match Headers::of(align) {
            Headers::Inline => self.place_by::<false>(info, payload, align),
            Headers::Column => self.place_by::<true>(info, payload, align),
        }
    }

    #[inline]
    fn place_by<const COLUMN: bool>(&self, info: &'static TypeInfo, payload: usize, align: usize) -> Option<Placed> {
        let headers = Headers::select(COLUMN);
        if !self.pool.is_movable(headers, payload, align) {
            return None;
        }
        let ground = Ground { versioned: info.is_versioned(), headers };
        with_last_shard(self, |shard, counts| {
            let tag = shard.tags.cached(info)?;
            if !shard.ground(ground).has_room(headers, payload, align) {
                return None;
            }
            let slot = shard.slots.take_ready()?;
            let bump = shard.ground(ground);
            let address = bump.bump(headers, payload, align)?;
            let header = Header::new(slot, payload, tag, State::Live);
            // SAFETY: the header's place was bumped with the payload, and only this shard knows it so far.
            unsafe { &*bump.header_at(headers, address) }.store(header);
            add(&counts.allocated_blocks, 1);
            add(&counts.allocated_bytes, payload as u64);
            Some(Placed { payload: payload_at(address), header })
        })
    }

    /// Makes a placed block known. Its contents are whole.
    #[inline]
    pub(crate) fn link(&self, placed: Placed) -> RawHandle {
        let Placed { payload, header } = placed;
        let slot = header.slot();
        let version = self.table.known(slot).begin_life(payload.as_ptr().addr(), header.extent());
        RawHandle::new(slot, version)
    }

    /// Room and a slot for a block of `payload` bytes of a type, its header BUILDING. `zeroed`: the bytes read as zero.
    pub(crate) fn reserve(
        &self,
        info: &'static TypeInfo,
        payload: usize,
        align: usize,
        zeroed: bool,
    ) -> Result<Building<'_>, AllocError> {
        self.reserve_for(Life::New, info, payload, align, zeroed)
    }

    /// As [`reserve`](Self::reserve), also for a block that goes on with a life.
    pub(super) fn reserve_for(
        &self,
        life: Life,
        info: &'static TypeInfo,
        payload: usize,
        align: usize,
        zeroed: bool,
    ) -> Result<Building<'_>, AllocError> {
        if align > MAX_ALIGN {
            return Err(AllocError::UnsupportedAlignment { max: MAX_ALIGN });
        }
        // What no address space holds needs no asking: the sum of size, header and alignment must not wrap either.
        let wraps = payload.checked_add(align.max(HEADER_BYTES) + HEADER_BYTES);
        if wraps.is_none_or(|sum| Layout::from_size_align(sum, align).is_err()) {
            return Err(AllocError::LayoutOverflow);
        }
        if info.is_versioned() && self.is_behind() {
            self.catch_up()?;
        }
        let is_large = !self.pool.is_movable(info.ground().headers, payload, align);
        let mut refusals = Refusals::new(is_large.then_some(payload));
        loop {
            match self.try_reserve(life, info, payload, align, zeroed) {
                Err(cause) if self.make_room(cause, &mut refusals) => {}
                outcome => return outcome.map_err(|cause| self.with_pins(cause)),
            }
        }
    }

    /// Does what may help against a refusal: at the memory limit a bounded step, and again while that leads to anything (what
    /// is gained, others may take); then the program is asked to free something. `false`: that is all there is.
    #[cold]
    pub(super) fn make_room(&self, refused: AllocError, refusals: &mut Refusals) -> bool {
        const STEPS: u32 = 4;
        let AllocError::MemoryLimit { requested, .. } = refused else { return false };
        // What is too large for the limit itself fits no better when others have gone.
        if refusals.large.is_some_and(|payload| !self.pool.can_ever_hold(&self.supply, payload)) {
            return false;
        }
        refusals.steps += 1;
        if refusals.steps <= STEPS && self.relieve(requested) {
            return true;
        }
        // What it frees may not make a whole arena yet: it is asked again as long as it frees anything.
        const CALLS: u32 = 16;
        let freed_bytes = || self.shards.sum(|counts| &counts.freed_bytes);
        let freed = freed_bytes();
        refusals.calls += 1;
        if refusals.calls > CALLS || !self.tell_pressure(requested) || freed_bytes() == freed {
            return false;
        }
        self.relieve(requested);
        true
    }

    /// Asks the program to free something; `false`: there is nobody to ask, or this thread is asking already.
    #[cold]
    fn tell_pressure(&self, requested: usize) -> bool {
        thread_local! {
            static ASKING: Cell<bool> = const { Cell::new(false) };
        }
        struct Asking;
        impl Drop for Asking {
            fn drop(&mut self) {
                ASKING.set(false);
            }
        }
        let Some(on_pressure) = &self.config.on_pressure else { return false };
        if ASKING.replace(true) {
            return false;
        }
        let _asking = Asking;
        (on_pressure.0)(requested);
        true
    }

    fn try_reserve(
        &self,
        life: Life,
        info: &'static TypeInfo,
        payload: usize,
        align: usize,
        zeroed: bool,
    ) -> Result<Building<'_>, AllocError> {
        if !self.pool.is_movable(info.ground().headers, payload, align) {
            return self.reserve_large(life, info, payload, align, zeroed);
        }
        loop {
            if let Some(building) = self.reserve_own(life, info, payload, align)? {
                if zeroed {
                    // SAFETY: the payload is the building block's own.
                    unsafe { building.payload().write_bytes(0, payload) };
                }
                return Ok(building);
            }
            let share = self.refill(info.ground())?;
            self.assist(share);
        }
    }

    /// Does a share of the compactor's work, of so many bytes and what was left of earlier shares. What takes longer than a
    /// pause may be is left to the next.
    fn assist(&self, bytes: usize) {
        const PATIENCE: Duration = Duration::from_micros(50);
        if bytes == 0 {
            return;
        }
        let bytes = with_shard(self, |shard, _, _| bytes + std::mem::take(&mut shard.owed));
        let progress = self.step(Budget { bytes, time: PATIENCE }, Duty::Assistance);
        if progress.more {
            let left = bytes.saturating_sub(progress.moved_bytes).min(self.pool.arena_bytes());
            with_shard(self, |shard, _, _| shard.owed = left);
        }
    }

    /// Bytes to move for each KiB of a new arena: when garbage outruns the background thread, those who allocate help.
    fn fee(&self) -> usize {
        if self.config.trigger != Trigger::Background {
            return 0;
        }
        let survey = &self.compactor.survey;
        let (used, dead) = (survey.used(), survey.dead());
        (policy::assistance(used.saturating_sub(dead), used, self.config.target_utilization) * 1024.0) as usize
    }

    /// Room in the arena that this thread fills. `None`: it is full, or there is none. The block is movable.
    #[inline]
    pub(super) fn reserve_own(
        &self,
        life: Life,
        info: &'static TypeInfo,
        payload: usize,
        align: usize,
    ) -> Result<Option<Building<'_>>, AllocError> {
        let ground = info.ground();
        with_shard(self, |shard, counts, _| {
            let tag = shard.tags.tag_of(info)?;
            if !shard.ground(ground).has_room(ground.headers, payload, align) {
                return Ok(None);
            }
            let slot = self.slot_for(life, shard)?;
            let bump = shard.ground(ground);
            let Some(address) = bump.bump(ground.headers, payload, align) else {
                unreachable!("there was room");
            };
            let header = Header::new(slot, payload, tag, State::Building);
            let at = bump.header_at(ground.headers, address);
            // SAFETY: the header's place was bumped with the payload, and only this shard knows it so far.
            unsafe { &*at }.store(header);
            Self::count(life, counts, payload);
            Ok(Some(Building { core: self, at, header, address, extent: header.extent(), life }))
        })
    }

    fn slot_for(&self, life: Life, shard: &mut Private) -> Result<u32, AllocError> {
        match life {
            Life::New => shard.slots.take(&self.table, &self.supply),
            Life::Of(slot) => Ok(slot),
        }
    }

    fn count(life: Life, counts: &Counts, payload: usize) {
        if life == Life::New {
            add(&counts.allocated_blocks, 1);
            add(&counts.allocated_bytes, payload as u64);
        }
    }

    /// Gives the thread's shard more room: the next part of its arena, or a new one to fill, and an extent if it has none;
    /// seals the old arena. Returns how many bytes the caller should move for it.
    #[cold]
    pub(crate) fn refill(&self, ground: Ground) -> Result<usize, AllocError> {
        if let Some(share) = with_shard(self, |shard, _, _| shard.ground(ground).advance()) {
            return Ok(share);
        }
        let (owner, has_extent) = with_shard(self, |shard, _, id| (id, shard.extents[ground.index()].is_some()));
        let arena = self.pool.take(&self.supply, ground, Purpose::Allocations, owner)?;
        // Without one, the thread can still help as long as memory can be had.
        let extent = if has_extent { None } else { self.pool.take_extent(&self.supply, ground, self.now()).ok() };
        let fee = self.fee();
        let filled = with_shard(self, |shard, _, _| {
            if extent.is_some() {
                shard.extents[ground.index()] = extent;
            }
            shard.ground(ground).install(Some(arena), self.pool.arena_bytes(), fee)
        });
        self.seal(filled);
        if self.makes_passes() {
            // What is new is to be moved, whether anything dies or not.
            self.notify();
        }
        Ok(0)
    }

    /// Seals arenas that their shard has let go of.
    pub(crate) fn seal(&self, filled: impl IntoIterator<Item = Filled>) {
        for filled in filled {
            let arena = filled.arena;
            let (outcome, balance) = arena.seal(&filled, self.now());
            self.compactor.survey.add_used(filled.used);
            self.ring(filled.used - balance.live);
            if outcome == Outcome::Emptied {
                self.retire(arena);
            }
        }
    }

    fn reserve_large(
        &self,
        life: Life,
        info: &'static TypeInfo,
        payload: usize,
        align: usize,
        zeroed: bool,
    ) -> Result<Building<'_>, AllocError> {
        let (tag, slot, owner) = with_shard(self, |shard, _, id| {
            let tag = shard.tags.tag_of(info)?;
            self.slot_for(life, shard).map(|slot| (tag, slot, id))
        })?;
        // A large block's size is in its descriptor; the header has the slot, the type and the state.
        let header = Header::new(slot, 0, tag, State::Building);
        let block = LargeBlock { payload, align, zeroed, ground: info.ground(), header, owner };
        let taken = self.pool.take_large(&self.supply, &block, self.now());
        with_shard(self, |shard, counts, _| match taken {
            Ok(arena) => {
                Self::count(life, counts, payload);
                let extent = header.extent() | LARGE_EXTENT;
                let at = ptr::from_ref(&arena.header);
                Ok(Building { core: self, at, header, address: arena.base(), extent, life })
            }
            Err(cause) => {
                if life == Life::New {
                    shard.slots.put(&self.table, slot, self.table.known(slot).version());
                }
                Err(cause)
            }
        })
    }

    /// At the memory limit: one bounded step, no destructors, and every empty arena back. `false`: there was nothing to gain.
    #[cold]
    fn relieve(&self, requested: usize) -> bool {
        /// Enough to gain an arena where 98 % are live: fifty are emptied into forty-nine. The time is there for a machine
        /// that has none for this thread.
        const ARENAS: usize = 128;
        const PATIENCE: Duration = Duration::from_secs(1);
        let bytes = self.pool.arena_bytes() * ARENAS;
        let progress = self.step(Budget { bytes, time: PATIENCE }, Duty::Relief(requested));
        let returned = self.pool.release_excess(&self.supply, 0, usize::MAX);
        progress.moves + progress.carried_out + returned > 0
    }

    pub(super) fn with_pins(&self, cause: AllocError) -> AllocError {
        match cause {
            AllocError::MemoryLimit { limit, used, requested, .. } => {
                AllocError::MemoryLimit { limit, used, requested, pinned: self.pinned_bytes() }
            }
            other => other,
        }
    }

    /// Bytes of blocks that movers found held when they last came by.
    pub(crate) fn pinned_bytes(&self) -> usize {
        self.pool.list.iter().map(|arena| arena.walk.pinned.load(Ordering::Relaxed)).sum()
    }
}

/// The payload of a block.
#[inline]
pub(crate) fn payload_at(address: usize) -> NonNull<u8> {
    NonNull::new(ptr::with_exposed_provenance_mut(address)).expect("a block is not at zero")
}
